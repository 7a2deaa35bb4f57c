/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * TLS calls of any library: from entry to return, and what is done with them. Calls nest (TLS inside TLS,
 * exports that call each other), so each thread has a small stack of them; entry and return are matched by the
 * stack pointer.
 */
#ifndef TLS2PCAP_CALLS_H
#define TLS2PCAP_CALLS_H

#include "binding.bpf.h"

static __noinline int enter(struct pt_regs *ctx, struct arguments *args)
{
	u64 place, sp = PT_REGS_SP(ctx), address;
	u32 reason = T2P_COUNT_UNFINISHED;
	struct process *process;
	struct thread *thread;
	struct handle *handle;
	struct call *call;

	if (ready != T2P_GATE_OPEN)
		return 0;
	process = current_process();
	if (!process)
		return 0;
	address = args->handle;
	args->library = library_of(attach_cookie(ctx));
	thread = calls_for(process, sp, args->other_stack);
	if (!thread) {
		/* Otherwise an export has counted it, mostly. */
		if (!is_internal(args->function) || verdict_of(args->library, args->site) == VERDICT_TAKEN)
			call_lost(process->generation, address, args->function, T2P_COUNT_THREADS_FULL);
		return 0;
	}
	place = place_of(thread, sp, PT_REGS_IP(ctx), args);
	if (place > PLACE_NONE) {
		forget_dead(process, thread);
		place = place_of(thread, sp, PT_REGS_IP(ctx), args);
	}
	if (is_internal(args->function)) {
		/* Where its return is not seen the export, if it is probed, is what counts. */
		if (place == PLACE_NONE && (by_returns || !args->other_stack))
			place = inner_entered(thread, args, sp, address);
		else if (place != PLACE_NONE && verdict_of(args->library, args->site) != VERDICT_TAKEN &&
			 !internal_counts(args->library, args->site, find_handle(process->generation, address) != NULL))
			return 0;
	}
	place = unknown(place);
	if (place == PLACE_NONE)
		return 0;
	if (place > PLACE_NONE) {
		/* Deeper than is followed: the new call takes the place of the one that it was made in. */
		place = CALL_DEPTH - 1;
		reason = T2P_COUNT_DEPTH;
	}
	drop_calls(process, thread, place, reason);
	/* Or the compiler, which knows more of it than the verifier, takes the bound away. */
	asm volatile("" : "+r"(place));
	call = &thread->calls[place & (CALL_DEPTH - 1)];
	call->sp = sp;
	call->ip = PT_REGS_IP(ctx);
	call->handle = address;
	call->buf = args->buf;
	call->num = args->num;
	call->count_at = args->count_at;
	call->entered = bpf_ktime_get_ns();
	call->sock = 0;
	call->below = 0;
	call->fd_hint = -1;
	call->library = args->library;
	call->function = args->function;
	call->site = args->site;
	call->flags = args->other_stack && !by_returns ? CALL_ASIDE : 0;
	call->record = 0;
	call->go = 0;
	call->returns_to = 0;
	thread->depth = place + 1;
	if (args->other_stack || by_returns)
		bpf_probe_read_user(&call->returns_to, sizeof(u64), (void *)sp);
	if (args->other_stack)
		tell_other_stack(process);
	if (is_write(args->function)) {
		handle = the_handle(process->generation, address, args->function);
		if (handle && !(handle->flags & (HANDLE_PLAIN | HANDLE_NOT_TCP)))
			handle->inflight = handle->write_seq + 1;
		if (handle && args->function == T2P_FN_SEND_PARTS)
			call->count_at = handle->write_end;
	}
	return 0;
}

/* How many bytes the call moved; -1: it moved some, but how many cannot be read. */
static __always_inline s64 moved(struct handle *handle, struct call *call, u64 returned)
{
	s32 result = returned;
	u64 n = 0;

	if (call->go) {
		if ((s64)returned <= 0)
			return 0;
		return returned <= call->num ? returned : -1;
	}
	switch (call->function) {
	case T2P_FN_READ:
	case T2P_FN_WRITE:
		return result > 0 ? result : 0;
	case T2P_FN_SENDFILE:
	case T2P_FN_RECV:
	case T2P_FN_SEND_RANGE:
		return (s64)returned > 0 ? (s64)returned : 0;
	case T2P_FN_NSS_READ:
	case T2P_FN_NSS_WRITE:
		return result > 0 ? result : 0;
	case T2P_FN_RECV_PACKET:
	case T2P_FN_SEND:
	case T2P_FN_SEND_PARTS:
		return gnutls_moved(handle, call, returned);
	case T2P_FN_READ_EX:
	case T2P_FN_READ_EARLY:
	case T2P_FN_WRITE_EX:
	case T2P_FN_WRITE_EARLY:
		if (result != 1)
			return 0;
		if (bpf_probe_read_user(&n, sizeof(n), (void *)call->count_at) || n > call->num)
			return -1;
		return n;
	case T2P_FN_READ_INTERNAL:
	case T2P_FN_WRITE_INTERNAL:
		return internal_moved(call, call->count_at, returned);
	}
	return 0;
}

/* What a call that has returned leaves to be emitted. */
enum emit_flag {
	EMIT_BYTES = 1 << 0, /* what is described */
	EMIT_LOST = 1 << 1, /* first, that an earlier call was lost */
	EMIT_UNKNOWN = 1 << 2, /* that the call moved an unknown number of bytes */
	EMIT_SENT = 1 << 3, /* what is described, which the kernel sent from a file */
	EMIT_RESULT = 1 << 4, /* what the call's arguments say */
	EMIT_NO_SOCKET = 1 << 5, /* that the process encrypts into memory, if check_socket finds so */
	EMIT_NAME = 1 << 6, /* first, the server's name */
	EMIT_OVER = 1 << 7, /* last: remove the entry of the thread or stack */
};

/* Describes the bytes that a call moved, and advances the handle's stream. Returns what must be emitted. */
static __noinline int describe_bytes(struct handle *handle, struct call *call, u64 len, struct t2p_data *data)
{
	u32 inflight;

	head(&data->head, T2P_DATA, handle->process, call->library);
	data->handle = call->handle;
	data->generation = handle->generation;
	data->entered = call->entered;
	data->returned = bpf_ktime_get_ns();
	data->call_len = len;
	data->function = call->function;
	data->tuple_source = tuple_source(handle, call);
	if (is_write(call->function)) {
		data->direction = T2P_WRITE;
		data->call_offset = handle->write_end;
		data->call_seq = handle->write_seq;
		handle->write_end += len;
		handle->write_seq++;
	} else {
		data->direction = T2P_READ;
		data->call_offset = handle->read_end;
		data->call_seq = handle->read_seq;
		inflight = *(volatile u32 *)&handle->inflight;
		if (inflight) {
			handle->awaited = inflight;
			/* A write that ends now sees `awaited`, or is seen to have ended, even if the next has begun. */
			__sync_fetch_and_add(&handle->barrier, 1);
			if (*(volatile u32 *)&handle->inflight == inflight)
				data->awaits_write = inflight;
		}
		handle->read_end += len;
		handle->read_seq++;
	}
	count(T2P_COUNT_CALLS, 1);
	count(T2P_COUNT_BYTES, len);
	return call->function == T2P_FN_SENDFILE || call->function == T2P_FN_SEND_PARTS ? EMIT_SENT : EMIT_BYTES;
}

/* Records what a call did to its handle, and in any case whose call it was. Returns what must be emitted. */
static __noinline int finish(struct process *process, struct call *call, u64 returned, struct t2p_data *data)
{
	struct handle *handle = the_handle(process->generation, call->handle, call->function);
	int emit = 0;
	u32 fd;
	s64 len;

	call->len = 0;
	data->head.process = process->generation;
	if (handle)
		handle = bind_socket(process, handle, call, returned);
	if (!handle) {
		len = call->len = moved(NULL, call, returned);
		if (len)
			lost(process->generation, T2P_COUNT_HANDLES_FULL, len > 0 ? len : 0);
		return 0;
	}
	if (may_ask(handle, call)) {
		fd = fd_of_ssl(call->handle);
		if (take_socket(call->handle, fd))
			emit_bind(handle, call->handle, fd - 1, T2P_TUPLE_DESCRIPTOR);
	}
	if (call->below && !call->sock && !handle->sock) {
		struct fact fact = {
			.address = call->handle,
			.other = call->below,
			.other_generation = call->below_generation,
			.fact = T2P_FACT_LAYER,
		};
		tell_once(handle, HANDLE_LAYER, &fact);
	}
	check_unseen_read(handle, call);
	/* Not earlier: the verifier would walk everything that follows once for each case. */
	len = call->len = moved(handle, call, returned);
	/* The evidence on all that read is one, and on all that write: they are proven to wrap the same function. */
	if (is_read(call->function) || is_write(call->function))
		len = call->len = on_probation(process->generation, call->handle,
					       cookie_of(call->library, is_write(call->function) ? T2P_SITE_WRITE :
												   T2P_SITE_READ),
					       call->num, len);
	if (call->site > T2P_SITE_BIO_READ && is_quiet(handle, call, returned))
		call->flags |= CALL_QUIET;
	if (handle->flags & HANDLE_PLAIN)
		len = call->len = 0;
	if (handle->flags & HANDLE_NOT_TCP) {
		if (len)
			count(T2P_COUNT_NOT_TCP, 1);
	} else if (len > 0) {
		emit = describe_bytes(handle, call, len, data);
		if (handle->lost[data->direction ? T2P_WRITE : T2P_READ])
			emit |= EMIT_LOST;
	} else if (len < 0) {
		emit = EMIT_UNKNOWN;
	}
	if (call->function == T2P_FN_SHUTDOWN && call->num && (s32)returned >= 0) {
		struct fact fact = { .address = call->handle, .fact = T2P_FACT_SHUTDOWN };

		tell_once(handle, HANDLE_SHUTDOWN, &fact);
	}
	if (handle->name_at)
		emit |= EMIT_NAME;
	if (call->sock)
		mark(handle, call->sock);
	else if (may_have_no_socket(handle))
		emit |= EMIT_NO_SOCKET;
	return emit;
}

static __noinline int tell_text(struct process *process, struct call *call, u64 returned)
{
	struct fact fact = { .address = call->handle, .fact = T2P_FACT_SERVER_NAME, .text = returned };
	struct handle *handle = the_handle(process->generation, call->handle, call->function);

	if (!handle)
		return 0;
	if (call->function == FN_ALPN) {
		fact.fact = T2P_FACT_ALPN;
		fact.text = 0;
		bpf_probe_read_user(&fact.text, sizeof(fact.text), (void *)call->buf);
		bpf_probe_read_user(&fact.text_len, sizeof(fact.text_len), (void *)call->num);
		if (!fact.text_len)
			return 0;
	}
	if (fact.text)
		tell_once(handle, call->function == FN_ALPN ? HANDLE_ALPN : HANDLE_NAME, &fact);
	return 0;
}

/* The call before this one in its thread goes through this one's handle, if it has no socket. */
static __noinline int note_layer(struct process *process, struct call *outer, struct call *call)
{
	struct handle *handle = find_handle(process->generation, call->handle);

	if (handle && uses_socket(outer->function) && outer->handle != call->handle) {
		outer->below = call->handle;
		outer->below_generation = handle->generation;
	}
	return 0;
}

/* What is left to do when a call has returned. */
struct emission {
	struct thread *thread;
	struct call *call;
	enum emit_flag emit;
	struct t2p_data data;
};

/* Reports what precedes the bytes of the call, or replaces them: the server's name, what is lost. */
__noinline int tell_before(u64 address, u32 function, u32 emit)
{
	struct process *process = current_process();
	struct handle *handle = process ? find_handle(process->generation, address) : NULL;

	if (!handle)
		return 0;
	if (emit & EMIT_NAME) {
		tell_name(handle, address, handle->name_at, handle->name_len);
		handle->name_at = 0;
	}
	if (!(emit & (EMIT_LOST | EMIT_UNKNOWN)))
		return 0;
	if (emit & EMIT_UNKNOWN)
		return call_lost(process->generation, address, function, T2P_COUNT_UNFINISHED);
	return tell_lost(handle, address, is_write(function), T2P_COUNT_UNFINISHED);
}

/*
 * A write has returned, and all its records are in the ring: reads need not wait for it any more. If one had to
 * wait for a write that moved nothing, that is reported as well.
 */
static __noinline int write_over(struct call *call, struct t2p_data *data)
{
	struct handle_key key = { .address = call->handle, .tgid = current_id() >> 32 };
	struct handle *handle = bpf_map_lookup_elem(&handles, &key);
	struct fact fact = { .address = call->handle, .fact = T2P_FACT_WRITE_EMPTY };
	u32 inflight;

	if (!handle || handle->process != data->head.process)
		return 0;
	inflight = handle->inflight;
	handle->inflight = 0;
	__sync_fetch_and_add(&handle->barrier, 1); /* see describe_bytes */
	if (!data->call_len && inflight && handle->awaited == inflight) {
		fact.call_seq = inflight - 1;
		emit_fact(handle, &fact);
	}
	return 0;
}

/* Which call of the thread's stack ends where a function returns that began at `sp`; CALL_DEPTH: none. */
static __noinline u64 place_left(struct thread *thread, u64 sp, u32 site, u64 returned)
{
	int internal = site == T2P_SITE_READ_INTERNAL || site == T2P_SITE_WRITE_INTERNAL;

	/* `site` 0: unknown. An export that jumps to the internal function has its stack pointer. */
	for (u64 i = 0; i < CALL_DEPTH; i++)
		if (i < thread->depth && thread->calls[i].sp == sp &&
		    (!site || internal == is_internal(thread->calls[i].function)))
			return i;
	return internal || !site ? inner_left(thread, sp, returned) : CALL_DEPTH;
}

/*
 * The return of the function that began at `sp`; its entry has noted which one. 1: `emission` says what the
 * program must still do, because kernels differ in how they loop.
 */
static __noinline int leave(struct pt_regs *ctx, u32 site, u64 sp, struct emission *emission)
{
	struct thread *thread = calls_at(sp);
	u64 i, returned;
	struct process *process;
	struct call *call;

	/* Once the capture is over the streams rest: user space reads where they end. */
	if (!thread || !ready)
		return 0;
	returned = result_of(ctx);
	i = unknown(place_left(thread, sp, site, returned));
	if (i >= CALL_DEPTH)
		return 0; /* part of a call that is already followed, or not a call of ours */
	process = current_process();
	if (!process)
		return 0;
	asm volatile("" : "+r"(i)); /* as in enter */
	call = &thread->calls[i & (CALL_DEPTH - 1)];
	/* A call that was left stood at the same place, and this is not its return. */
	if (by_returns && call->returns_to && !can_return(call->sp, call->returns_to))
		return 0;
	drop_calls(process, thread, i + 1, T2P_COUNT_UNFINISHED);
	thread->depth = i;
	emission->thread = thread;
	emission->call = call;
	if (call->function > FN_ALPN) {
		emission->emit = EMIT_RESULT;
		return 1;
	}
	if (!uses_socket(call->function)) {
		tell_text(process, call, returned);
		return 0;
	}
	emission->emit = finish(process, call, returned, &emission->data);
	if (emission->emit & EMIT_NO_SOCKET)
		check_socket(process, call);
	if (!i && (thread->of_stack || has_many_threads(process)))
		emission->emit |= EMIT_OVER;
	if (i > 0)
		note_layer(process, &thread->calls[(i - 1) & (CALL_DEPTH - 1)], call);
	return 1;
}

/* The handle's last reference is freed. */
static __noinline int handle_freed(u64 address)
{
	struct fact fact = { .address = address, .fact = T2P_FACT_FREE };
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process->generation, fact.address) : NULL;

	if (!handle)
		return 0;
	if (handle->refs) {
		/* Two processors may be here at the same time: the last one sees none left. */
		__sync_fetch_and_add(&handle->refs, -1);
		if (*(volatile u32 *)&handle->refs)
			return 0;
	}
	emit_fact(handle, &fact);
	return forget_handle(address, current_id() >> 32);
}

/* SSL_clear: the handle is used again, for another connection; unless the library itself calls it. */
static __noinline int handle_cleared(u64 address, u64 sp)
{
	struct fact fact = { .address = address, .fact = T2P_FACT_FREE };
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process->generation, fact.address) : NULL;
	struct thread *thread = calls_at(sp);

	if (!handle || (!handle->read_end && !handle->write_end))
		return 0;
	if (thread && thread->depth)
		return 0;
	emit_fact(handle, &fact);
	new_handle(process->generation, fact.address, HANDLE_FRESH, handle->refs);
	return 0;
}

/* The thread ends: a call that it was in may have moved bytes, which the socket then shows. */
static __always_inline void thread_exited(void)
{
	u64 id = current_id();
	struct thread *thread = bpf_map_lookup_elem(&threads, &id);
	struct process *process;

	rustls_call_over(id);
	if (!thread)
		return;
	process = ready && thread->depth ? current_process() : NULL;
	for (u64 i = 0; process && i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];
		struct handle *handle;
		struct tcp_sock *tp;
		int writing;

		if (i < thread->depth && (call->flags & CALL_PENDING))
			testify(call->library, call->site, PENDING, -1);
		if (i >= thread->depth || !(is_read(call->function) || is_write(call->function)))
			continue;
		handle = find_handle(process->generation, call->handle);
		writing = is_write(call->function);
		if (handle && writing)
			handle->inflight = 0;
		if (!handle || !handle->sock || !(handle->flags & HANDLE_MARKED))
			continue;
		tp = (void *)handle->sock;
		if (writing ? BPF_CORE_READ(tp, write_seq) != handle->written :
			      BPF_CORE_READ(tp, copied_seq) != handle->copied)
			call_lost(process->generation, call->handle, call->function, T2P_COUNT_UNFINISHED);
	}
	forget_calls(id, id >> 32);
}

#endif
