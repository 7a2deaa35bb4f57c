/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Whether the internal function of an export may replace it. Until that is proven both are probed: the export's
 * call counts, and notes what the call of the internal function inside it looked like. User space reads the
 * evidence, gives the verdict, and removes the export's probes. Without attach cookies (before Linux 5.15) all
 * libraries share one evidence and no export is ever replaced.
 */
#ifndef TLS2PCAP_PROOF_H
#define TLS2PCAP_PROOF_H

#include "maps.bpf.h"

/* The functions from `first` to `last`, a bit for each. */
#define FUNCTIONS(first, last) ((2ULL << (last)) - (1ULL << (first)))

static __always_inline int is_read(u32 fn)
{
	return (FUNCTIONS(T2P_FN_READ, T2P_FN_READ_INTERNAL) | FUNCTIONS(T2P_FN_RECV, T2P_FN_NSS_READ)) >> fn & 1;
}

static __always_inline int is_write(u32 fn)
{
	return (FUNCTIONS(T2P_FN_WRITE, T2P_FN_SENDFILE) | FUNCTIONS(T2P_FN_SEND, T2P_FN_NSS_WRITE)) >> fn & 1;
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

/* What user space thinks of the site. */
__noinline u32 verdict_of(u32 library, u32 site)
{
	u64 key = cookie_of(library, site);
	u32 *verdict = bpf_map_lookup_elem(&verdicts, &key);

	return verdict ? *verdict : VERDICT_NONE;
}

#define AGREED 0
#define DISAGREED 1
#define PENDING 2

/* Adds to the evidence on a site. 0: there is none. */
__noinline int testify(u32 library, u32 site, u32 what, s32 by)
{
	u64 key = cookie_of(library, site);
	struct evidence *seen = bpf_map_lookup_elem(&evidence, &key);

	if (!seen)
		return 0;
	if (what == AGREED)
		__sync_fetch_and_add(&seen->agreed, by);
	else if (what == DISAGREED)
		__sync_fetch_and_add(&seen->disagreed, by);
	else
		__sync_fetch_and_add(&seen->pending, by);
	return 1;
}

/* Whether a call of an internal function outside of any export is one that is followed. */
__noinline int internal_counts(u32 library, u32 site, u32 handle_known)
{
	u64 key = cookie_of(library, site);
	struct evidence *seen;

	switch (verdict_of(library, site)) {
	case VERDICT_TAKEN:
		return 1;
	case VERDICT_CONDEMNED:
		return 0;
	}
	seen = bpf_map_lookup_elem(&evidence, &key);
	return handle_known && !(seen && seen->disagreed);
}

/* The probes of a call's export were removed inside it, and it did not move anything. */
__noinline int export_gone(u32 library, u32 site, u32 function, u32 flags)
{
	return internal_of(function) && !(flags & CALL_INNER) && verdict_of(library, site) == VERDICT_TAKEN;
}

/*
 * How many bytes a call of an internal function moved; -1: unknown. It returns 1 if it moved any.
 * CALL_INNER_WRONG: it does something else.
 */
static __always_inline s64 internal_moved(struct call *call, u64 count_at, u64 returned)
{
	s32 result = returned;
	u64 n = 0;

	if (result <= 0)
		return 0;
	if (result == 1 && bpf_probe_read_user(&n, sizeof(n), (void *)count_at))
		return -1;
	if (result == 1 && n <= call->num)
		return n;
	call->flags |= CALL_INNER_WRONG;
	return -1;
}

struct arguments {
	u64 handle;
	u64 buf, num, count_at;
	u32 function;
	u32 site;
	u32 library;
	u32 other_stack; /* it was called on a stack that is not its thread's own */
};

/*
 * An internal function is called inside a call on the same handle. Returns the index of that call, if it is a
 * call of an export that the internal function has replaced; otherwise CALL_DEPTH.
 */
static __noinline u64 inner_entered(struct thread *thread, struct arguments *args, u64 sp, u64 address)
{
	for (u64 i = 0; i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];

		if (i >= thread->depth || call->handle != address || internal_of(call->function) != args->function)
			continue;
		if (verdict_of(call->library, call->site) == VERDICT_TAKEN)
			return i;
		if (call->flags & CALL_INNER) {
			/* Code that is probed twice is one call. */
			if (call->inner_sp != sp || (call->flags & CALL_INNER_DONE))
				call->flags |= CALL_INNER_WRONG;
			break;
		}
		call->inner_sp = sp;
		call->inner_count_at = args->count_at;
		call->inner_len = 0;
		call->flags |= CALL_INNER;
		if (call->buf != args->buf || call->num != args->num)
			call->flags |= CALL_INNER_WRONG;
		break;
	}
	return CALL_DEPTH;
}

/*
 * An internal function returns to an export. Returns the index of the export's call, if that ends with it;
 * otherwise CALL_DEPTH.
 */
static __noinline u64 inner_left(struct thread *thread, u64 sp, u64 returned)
{
	for (u64 i = 0; i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];

		if (i >= thread->depth || (call->flags & (CALL_INNER | CALL_INNER_DONE)) != CALL_INNER ||
		    call->inner_sp != sp)
			continue;
		call->inner_len = internal_moved(call, call->inner_count_at, returned);
		call->flags |= CALL_INNER_DONE;
		/*
		 * Either we see the verdict, or user space, which waits for us after it, sees that a
		 * call still has to return to the export's probe.
		 */
		if (!testify(call->library, call->site, PENDING, 1))
			return CALL_DEPTH;
		if (verdict_of(call->library, call->site) != VERDICT_TAKEN || (call->flags & CALL_INNER_WRONG)) {
			call->flags |= CALL_PENDING;
			return CALL_DEPTH;
		}
		testify(call->library, call->site, PENDING, -1);
		call->function = internal_of(call->function);
		call->count_at = call->inner_count_at;
		return i;
	}
	return CALL_DEPTH;
}

/* A call has returned: does it agree with the internal function inside it? */
static __noinline int compare(struct call *call)
{
	u32 internal = is_read(call->function) ? T2P_SITE_READ_INTERNAL : T2P_SITE_WRITE_INTERNAL;
	u32 library = call->library, site = call->site, flags = call->flags;
	s64 inner = flags & CALL_INNER_DONE ? call->inner_len : 0;

	if (flags & CALL_PENDING)
		testify(library, site, PENDING, -1);
	if (call->flags & CALL_ASIDE)
		return 0; /* see enter */
	if (!(flags & CALL_INNER_WRONG)) {
		if (is_internal(call->function))
			return 0;
		/* A count that could not be read proves nothing. */
		if (call->len < 0 || inner < 0)
			return 0;
		if (call->len == inner) {
			if (inner)
				testify(library, site, AGREED, 1);
			return 0;
		}
	}
	if (site != internal && !testify(library, site, DISAGREED, 1))
		return 0; /* an export whose internal function is not probed */
	testify(library, internal, DISAGREED, 1);
	return 0;
}

#endif
