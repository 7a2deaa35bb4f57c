/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Go's crypto/tls, from Go 1.17 on: arguments are in registers, the goroutine is in R14.
 *
 * A goroutine may continue in another thread, so its calls are its own and not the thread's. Its stack may move
 * while a call is in progress, but everything on it keeps its distance from the stack's upper end: entry and
 * return are matched by that, and a buffer on the stack is found again (Read does not let its buffer escape to
 * the heap).
 */
#ifndef TLS2PCAP_GO_H
#define TLS2PCAP_GO_H

#include "calls.bpf.h"

#if defined(__TARGET_ARCH_x86)

#define RECORD_APPLICATION_DATA 23

/*
 * A call on the handle has ended, of the process of this generation. Nothing shows when a Conn is collected: it
 * is removed with the last call after its Close, or immediately if nothing is known of it.
 */
__noinline int go_call_over(u64 generation, u64 address)
{
	struct handle *handle = find_handle(generation, address);
	struct fact fact = { .address = address, .fact = T2P_FACT_FREE };

	if (!handle || !handle->refs)
		return 0;
	__sync_fetch_and_add(&handle->refs, -1);
	if (handle->refs)
		return 0;
	if (handle->flags & HANDLE_CLOSED)
		emit_fact(handle, &fact);
	else if (handle->sock || handle->read_end || handle->write_end || (handle->flags & ~HANDLE_FRESH))
		return 0;
	return forget_handle(address, current_id() >> 32);
}

/* Calls from index `depth` on will not be seen to return. */
static __noinline int go_drop_calls(struct process *process, struct thread *thread, u64 depth)
{
	for (u64 i = 0; i < CALL_DEPTH; i++) {
		if (i >= depth && i < thread->depth) {
			struct call *call = &thread->calls[i & (CALL_DEPTH - 1)];

			call_lost(process->generation, call->handle, call->function, T2P_COUNT_UNFINISHED);
			go_call_over(process->generation, call->handle);
		}
	}
	thread->depth = depth;
	return 0;
}

/* The first of the stored calls that a panic has left; `depth`: none. Its return address has been overwritten. */
static __noinline u64 first_left(struct thread *thread, struct go_stack *stack)
{
	u64 place = 0, word;

	for (u64 i = 0; i < CALL_DEPTH; i++) {
		if (i >= thread->depth)
			break;
		place = stack->high - (GO_STACK_TOP - thread->calls[i].sp);
		if (bpf_probe_read_user(&word, sizeof(word), (void *)place) || word != GO_RETURNS_TO(&thread->calls[i]))
			return i;
	}
	return thread->depth;
}

/*
 * Whether it is the same call again: the stack was too small, and the function restarted; or its code is probed
 * twice.
 */
static __always_inline int is_again(struct call *call, struct arguments *args, u64 sp, u64 address)
{
	return call->sp == sp && call->handle == address && call->site == args->site;
}

/* Where a call that begins at `sp` belongs; PLACE_NONE and PLACE_DEEP as in place_of. */
static __noinline u64 go_place_of(struct thread *thread, struct arguments *args, u64 sp, u64 address)
{
	for (u64 i = 0; i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];

		if (i >= thread->depth || call->sp <= sp)
			return i;
		if (call->handle == address && is_part_of(args->function, call->function))
			return PLACE_NONE;
	}
	return PLACE_DEEP;
}

/* The handshake of a Conn begins, which a Conn has one of. `outer`: the call that it is made in, or NULL. */
static __noinline int go_handshake(struct process *process, u64 address, struct call *outer, u32 server)
{
	struct handle *handle = the_handle(process->generation, address, T2P_FN_HANDSHAKE);
	struct fact fact = { .address = address, .fact = T2P_FACT_FREE };
	struct socket_state *state = NULL;

	if (!handle)
		return 0;
	if (handle->sock)
		state = bpf_map_lookup_elem(&sockets, &handle->sock);
	/*
	 * A Conn that was collected without a Close was at the address of this one. Inside a Read it may be
	 * another handshake on the same connection (renegotiation), whose socket is live.
	 */
	if (outer ? handle->sock && (!state || state->generation != handle->sock_generation) :
		    handle->sock || handle->read_end || handle->write_end) {
		emit_fact(handle, &fact);
		handle = new_handle(process->generation, address, HANDLE_FRESH, outer ? handle->refs : 0);
		if (!handle)
			return 0;
	} else if (!handle->sock && !handle->read_end && !handle->write_end && (!outer || !outer->sock)) {
		handle->flags |= HANDLE_FRESH;
	}
	return tell_role(handle, address, server);
}

/* The calls that the goroutine at `g` is in. Not inlined, like the next ones: old kernels have little stack. */
static __noinline struct thread *calls_of_goroutine(u64 g)
{
	struct goroutine_key key = { .g = g, .tgid = current_id() >> 32 };

	return ready ? bpf_map_lookup_elem(&goroutines, &key) : NULL;
}

static __noinline int forget_goroutine(u64 g)
{
	struct goroutine_key key = { .g = g, .tgid = current_id() >> 32 };

	struct thread *calls = bpf_map_lookup_elem(&goroutines, &key);
	u64 generation;
	u32 user;

	if (!calls)
		return 0;
	generation = calls->process;
	user = calls->user;
	return bpf_map_delete_elem(&goroutines, &key) ?: give_room(generation, key.tgid, user, ROOM_GOROUTINES);
}

/* A new entry for a goroutine; NULL: the table is full. */
static __noinline struct thread *new_goroutine(struct process *process, struct goroutine_key *key)
{
	struct thread *thread;
	u32 user = take_room(key->tgid, ROOM_GOROUTINES);

	if (!user)
		return NULL;
	if (bpf_map_update_elem(&goroutines, key, &no_thread, BPF_NOEXIST)) {
		give_room(process->generation, key->tgid, user - 1, ROOM_GOROUTINES);
		return NULL;
	}
	thread = bpf_map_lookup_elem(&goroutines, key);
	if (thread) {
		thread->process = process->generation;
		thread->user = user - 1;
	}
	return thread;
}

static __noinline int go_enter(struct pt_regs *ctx, struct arguments *args)
{
	struct goroutine_key key = { .g = ctx->r14, .tgid = current_id() >> 32 };
	u64 sp = ctx->sp, address = ctx->ax, place, again;
	struct process *process = ready == T2P_GATE_OPEN ? current_process() : NULL;
	struct go_stack stack = {};
	struct thread *thread;
	struct handle *handle;
	struct call *call;

	if (!process)
		return 0;
	if (!read_go_stack(key.g, sp, &stack))
		return call_lost(process->generation, address, args->function, T2P_COUNT_UNFINISHED);
	thread = calls_of_goroutine(key.g);
	if (thread && thread->process != process->generation) {
		forget_goroutine(key.g);
		thread = NULL;
	}
	if (!thread) {
		thread = new_goroutine(process, &key);
		if (!thread)
			return call_lost(process->generation, address, args->function, T2P_COUNT_THREADS_FULL);
	}
	if (thread->depth)
		go_drop_calls(process, thread, unknown(first_left(thread, &stack)));
	sp = place_on_stack(&stack, sp);
	place = unknown(go_place_of(thread, args, sp, address));
	if (args->function == T2P_FN_HANDSHAKE)
		go_handshake(process, address,
			     place == PLACE_NONE ? &thread->calls[(thread->depth - 1) & (CALL_DEPTH - 1)] : NULL,
			     args->site == T2P_SITE_GO_SERVER);
	if (place == PLACE_NONE)
		return 0;
	if (place > PLACE_NONE)
		return call_lost(process->generation, address, args->function, T2P_COUNT_DEPTH);
	asm volatile("" : "+r"(place)); /* as in enter */
	call = &thread->calls[place & (CALL_DEPTH - 1)];
	again = unknown(place < thread->depth && is_again(call, args, sp, address));
	go_drop_calls(process, thread, place + again);
	handle = the_handle(process->generation, address, args->function);
	call->sp = sp;
	call->ip = ctx->ip;
	call->handle = address;
	call->buf = args->buf;
	call->num = args->num;
	call->count_at = 0;
	call->entered = bpf_ktime_get_ns();
	call->sock = 0;
	call->below = 0;
	call->fd_hint = -1;
	call->library = library_of(attach_cookie(ctx));
	call->function = args->function;
	call->site = args->site;
	call->flags = 0;
	call->record = 0;
	call->go = GO_CALL;
	GO_RETURNS_TO(call) = 0;
	bpf_probe_read_user(&GO_RETURNS_TO(call), sizeof(u64), (void *)ctx->sp);
	if (stack.low <= args->buf && args->buf < stack.high) {
		call->buf -= stack.high;
		call->go |= GO_BUFFER_ON_STACK;
	}
	if (handle) {
		if (handle->flags & HANDLE_MARKED) {
			GO_MARK(call) = handle->copied;
			call->go |= GO_MARKED;
		}
		if (is_write(args->function))
			handle->inflight = handle->write_seq + 1;
		if (!again)
			__sync_fetch_and_add(&handle->refs, 1);
	}
	thread->depth = place + 1;
	return 0;
}

/* A function of crypto/tls begins. */
static __always_inline int go_entered(struct pt_regs *ctx, u32 site)
{
	struct arguments args = { .site = site };

	switch (site) {
	case T2P_SITE_GO_READ:
		args.function = T2P_FN_READ;
		args.buf = ctx->bx;
		args.num = ctx->cx;
		break;
	case T2P_SITE_GO_WRITE:
		if ((u8)ctx->bx != RECORD_APPLICATION_DATA)
			return 0;
		args.function = T2P_FN_WRITE;
		args.buf = ctx->cx;
		args.num = ctx->di;
		break;
	case T2P_SITE_GO_CLOSE:
	case T2P_SITE_GO_CLOSE_NOTIFY:
		args.function = T2P_FN_SHUTDOWN;
		break;
	case T2P_SITE_GO_CLIENT:
	case T2P_SITE_GO_SERVER:
		args.function = T2P_FN_HANDSHAKE;
		break;
	default:
		return 0;
	}
	return go_enter(ctx, &args);
}

static __noinline struct process *process_of(struct thread *thread)
{
	struct process *process = current_process();

	return process && process->generation == thread->process ? process : NULL;
}

/* Which call of the goroutine returns here; CALL_DEPTH: none of ours, or part of a followed one. */
static __noinline u64 go_place_left(struct pt_regs *ctx, struct thread *thread, u32 site)
{
	struct go_stack stack = {};
	u64 sp = ctx->sp, to = 0;

	if (!read_go_stack(ctx->r14, sp, &stack))
		return CALL_DEPTH;
	bpf_probe_read_user(&to, sizeof(to), (void *)sp);
	sp = place_on_stack(&stack, sp);
	for (u64 i = 0; i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];

		if (i >= thread->depth || call->sp != sp || GO_RETURNS_TO(call) != to || (site && call->site != site))
			continue;
		if (call->go & GO_BUFFER_ON_STACK)
			call->buf += stack.high;
		return i;
	}
	return CALL_DEPTH;
}

/* As finish. Returns what must be emitted. */
static __noinline int go_finish(struct process *process, struct call *call, u64 returned, struct t2p_data *data)
{
	struct handle *handle;

	if (call->function == T2P_FN_SHUTDOWN) {
		/* After it nothing more is written, whatever it returns; unless a write is still on its way. */
		handle = find_handle(process->generation, call->handle);
		returned = handle && handle->inflight ? -1 : 0;
		if (handle && call->site == T2P_SITE_GO_CLOSE)
			handle->flags |= HANDLE_CLOSED;
	}
	return finish(process, call, returned, data);
}

/* A function of crypto/tls returns. `has_loop`: a constant, see emit_call. */
static __always_inline int go_left(struct pt_regs *ctx, u32 site, int has_loop)
{
	struct thread *thread = calls_of_goroutine(ctx->r14);
	struct t2p_data data = {};
	struct process *process;
	struct call *call;
	u64 place;
	u32 emit;

	if (!thread)
		return 0;
	place = unknown(go_place_left(ctx, thread, site));
	if (place >= CALL_DEPTH)
		return 0;
	process = process_of(thread);
	if (!process)
		return 0;
	go_drop_calls(process, thread, place + 1);
	thread->depth = place;
	call = &thread->calls[place & (CALL_DEPTH - 1)];
	emit = unknown(go_finish(process, call, ctx->ax, &data));
	if (place > 0)
		note_layer(process, &thread->calls[(place - 1) & (CALL_DEPTH - 1)], call);
	if (emit & (EMIT_LOST | EMIT_UNKNOWN | EMIT_NAME))
		tell_before(call->handle, call->function, emit);
	if (emit & EMIT_BYTES)
		emit_call(&data, thread, call->buf, has_loop);
	if (is_write(call->function))
		write_over(call, &data);
	go_call_over(thread->process, call->handle);
	if (!thread->depth)
		forget_goroutine(ctx->r14);
	return 0;
}

#else

static __always_inline int go_entered(struct pt_regs *ctx, u32 site)
{
	return 0;
}

static __always_inline int go_left(struct pt_regs *ctx, u32 site, int has_loop)
{
	return 0;
}

#endif
#endif
