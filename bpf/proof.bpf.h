/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Whether the function behind an export may stand for it. While that is not proven both are
 * probed: the export's call is what counts, and notes what the call of the internal function inside
 * it looked like. User space reads the evidence, gives the verdict, and takes the export's probes
 * away. Without attach cookies (before Linux 5.15) all libraries have one evidence and no export
 * is ever taken over.
 */
#ifndef TLS2PCAP_PROOF_H
#define TLS2PCAP_PROOF_H

#include "maps.bpf.h"

static __always_inline int is_read(u32 fn)
{
	return fn >= T2P_FN_READ && fn <= T2P_FN_READ_INTERNAL;
}

static __always_inline int is_write(u32 fn)
{
	return fn >= T2P_FN_WRITE && fn <= T2P_FN_SENDFILE;
}

static __always_inline int is_internal(u32 fn)
{
	return fn == T2P_FN_READ_INTERNAL || fn == T2P_FN_WRITE_INTERNAL;
}

/* The internal function that is called inside a call of this function; 0: none that is probed. */
static __always_inline u32 internal_of(u32 fn)
{
	switch (fn) {
	case T2P_FN_READ:
	case T2P_FN_READ_EX:
		return T2P_FN_READ_INTERNAL;
	case T2P_FN_WRITE:
	case T2P_FN_WRITE_EX:
		return T2P_FN_WRITE_INTERNAL;
	}
	return 0;
}

static __always_inline struct evidence *evidence_of(u32 library, u32 site)
{
	u64 key = (u64)library << 8 | site;

	return bpf_map_lookup_elem(&evidence, &key);
}

static __always_inline u32 verdict_of(u32 library, u32 site)
{
	u64 key = (u64)library << 8 | site;
	u32 *verdict = bpf_map_lookup_elem(&verdicts, &key);

	return verdict ? *verdict : VERDICT_NONE;
}

/* What the internal function does contradicts what it was taken for. */
static __noinline int contradicted(struct call *call)
{
	u32 internal = is_read(call->function) ? T2P_SITE_READ_INTERNAL : T2P_SITE_WRITE_INTERNAL;
	struct evidence *of_export = evidence_of(call->library, call->site);
	struct evidence *of_internal = evidence_of(call->library, internal);

	if (of_export && call->site != internal)
		__sync_fetch_and_add(&of_export->disagreed, 1);
	if (of_internal)
		__sync_fetch_and_add(&of_internal->disagreed, 1);
	return 0;
}

/*
 * How many bytes a call of an internal function moved; -1: that is not known. It returns 1 if it
 * moved any; CALL_INNER_WRONG: it does something else.
 */
static __always_inline s64 internal_moved(struct call *call, u64 count_at, u64 returned)
{
	s32 result = returned;
	u64 n = 0;

	if (result <= 0)
		return 0;
	if (result > 1) {
		call->flags |= CALL_INNER_WRONG;
		return -1;
	}
	if (bpf_probe_read_user(&n, sizeof(n), (void *)count_at))
		return -1;
	if (n > call->num) {
		call->flags |= CALL_INNER_WRONG;
		return -1;
	}
	return n;
}

/*
 * An internal function is called inside a call of the same handle. 1: that is a call of an export
 * which it has taken over, and takes its place; its index is put into `place`.
 */
static __noinline int inner_entered(struct thread *thread, struct call *inner, u64 *place)
{
	u64 i;

	for (i = 0; i < CALL_DEPTH; i++)
		if (i < thread->depth && thread->calls[i].handle == inner->handle)
			break;
	if (i >= CALL_DEPTH)
		return 0;
	struct call *call = &thread->calls[i];
	if (internal_of(call->function) != inner->function)
		return 0;
	if (verdict_of(call->library, call->site) == VERDICT_TAKEN) {
		*place = i;
		return 1;
	}
	if (call->flags & CALL_INNER) {
		/* Code that is probed twice is one call. */
		if (call->inner_sp != inner->sp || (call->flags & CALL_INNER_DONE))
			call->flags |= CALL_INNER_WRONG;
		return 0;
	}
	call->inner_sp = inner->sp;
	call->inner_count_at = inner->count_at;
	call->inner_len = 0;
	call->flags |= CALL_INNER;
	if (call->buf != inner->buf || call->num != inner->num)
		call->flags |= CALL_INNER_WRONG;
	return 0;
}

/* Whether a call of an internal function outside of any export is one: 0: it is not followed. */
static __noinline int internal_counts(struct call *inner, int handle_known)
{
	struct evidence *seen;

	switch (verdict_of(inner->library, inner->site)) {
	case VERDICT_TAKEN:
		return 1;
	case VERDICT_CONDEMNED:
		return 0;
	}
	seen = evidence_of(inner->library, inner->site);
	return handle_known && !(seen && seen->disagreed);
}

/*
 * An internal function returns to an export. 1: it has taken the export over, whose call ends with
 * it: its index is put into `place`.
 */
static __noinline int inner_left(struct thread *thread, u64 sp, u64 returned, u64 *place)
{
	struct evidence *seen;
	struct call *call;
	u64 i;

	for (i = 0; i < CALL_DEPTH; i++)
		if (i < thread->depth && (thread->calls[i].flags & (CALL_INNER | CALL_INNER_DONE)) == CALL_INNER &&
		    thread->calls[i].inner_sp == sp)
			break;
	if (i >= CALL_DEPTH)
		return 0;
	call = &thread->calls[i];
	call->inner_len = internal_moved(call, call->inner_count_at, returned);
	call->flags |= CALL_INNER_DONE;
	seen = evidence_of(call->library, call->site);
	if (!seen)
		return 0;
	/*
	 * Either we see the verdict, or user space, which waits for us after it, sees that a call
	 * still has to return to the export's probe.
	 */
	__sync_fetch_and_add(&seen->pending, 1);
	if (verdict_of(call->library, call->site) != VERDICT_TAKEN || (call->flags & CALL_INNER_WRONG)) {
		call->flags |= CALL_PENDING;
		return 0;
	}
	__sync_fetch_and_add(&seen->pending, -1);
	call->function = internal_of(call->function);
	call->count_at = call->inner_count_at;
	*place = i;
	return 1;
}

/* The call is over for the export's probes. */
static __noinline int not_pending(struct call *call)
{
	struct evidence *seen = evidence_of(call->library, call->site);

	if (seen)
		__sync_fetch_and_add(&seen->pending, -1);
	call->flags &= ~CALL_PENDING;
	return 0;
}

/* A call of an export moved `len` bytes: does the internal function inside it tell the same? */
static __noinline int compare(struct call *call, s64 len)
{
	struct evidence *seen = evidence_of(call->library, call->site);
	u32 flags = call->flags;

	if (!seen)
		return 0;
	if (flags & CALL_PENDING)
		not_pending(call);
	if (len < 0 || ((flags & CALL_INNER_DONE) && !(flags & CALL_INNER_WRONG) && call->inner_len < 0))
		return 0; /* a count could not be read: that tells nothing */
	if (flags & CALL_INNER_WRONG)
		contradicted(call);
	else if (len != ((flags & CALL_INNER_DONE) ? call->inner_len : 0))
		contradicted(call);
	else if (len > 0)
		__sync_fetch_and_add(&seen->agreed, 1);
	return 0;
}

/* The probes of the call's export were taken away inside it, and it did not move anything. */
static __always_inline int export_gone(struct call *call)
{
	return internal_of(call->function) && !(call->flags & CALL_INNER) &&
	       verdict_of(call->library, call->site) == VERDICT_TAKEN;
}

#endif
