/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The calls that a thread is in, outermost first: where a new one belongs, which can still return,
 * and what becomes of those that cannot.
 */
#ifndef TLS2PCAP_STACK_H
#define TLS2PCAP_STACK_H

#include "handles.bpf.h"

/* A call that stands in the thread's stack will not be seen to return. */
static __always_inline int drop_call(struct process *process, struct call *call, u32 reason)
{
	if (call->flags & CALL_PENDING)
		testify(call->library, call->site, PENDING, -1);
	if (!export_gone(call->library, call->site, call->function, call->flags))
		call_lost(process->generation, call->handle, call->function, reason);
	return 0;
}

/* Calls from index `depth` on will not be seen to return. */
static __noinline int drop_calls(struct process *process, struct thread *thread, u64 depth, u32 reason)
{
	for (u64 i = 0; i < CALL_DEPTH; i++)
		if (i >= depth && i < thread->depth)
			drop_call(process, &thread->calls[i], reason);
	thread->depth = depth;
	return 0;
}

/*
 * Whether the call that began at `sp` can still return. A probed function that is being executed returns
 * through the kernel's own page, and so says its place on the stack. If the function was left by longjmp,
 * its caller's next call writes over that place.
 */
__noinline int can_return(u64 sp)
{
#if defined(__TARGET_ARCH_x86)
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 page = 0, place;

	if (bpf_core_field_exists(struct xol_area, vaddr))
		page = BPF_CORE_READ(task, mm, uprobes_state.xol_area, vaddr);
	if (page && !bpf_probe_read_user(&place, sizeof(place), (void *)sp))
		return place == page;
#endif
	return 1;
}

/* How many of the calls that the kernel awaits are looked at, innermost first. */
#define AWAITED_MAX 8

/* Whether the kernel already awaits the return of a call that began at `sp`. */
__noinline int is_awaited(u64 sp)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct return_instance *at;

	if (!bpf_core_field_exists(struct return_instance, stack))
		return 0;
	at = BPF_CORE_READ(task, utask, return_instances);
	for (u32 i = 0; i < AWAITED_MAX && at; i++) {
		if (BPF_CORE_READ(at, stack) == sp)
			return 1;
		at = BPF_CORE_READ(at, next);
	}
	return 0;
}

/* Takes the calls that can return no more out of the stack, wherever they stand. */
static __noinline int forget_dead(struct process *process, struct thread *thread)
{
	u64 depth = 0;

	for (u64 i = 0; i < CALL_DEPTH; i++) {
		if (i >= thread->depth)
			break;
		if (!can_return(thread->calls[i].sp)) {
			drop_call(process, &thread->calls[i], T2P_COUNT_UNFINISHED);
			continue;
		}
		if (depth != i)
			thread->calls[depth & (CALL_DEPTH - 1)] = thread->calls[i];
		depth++;
	}
	thread->depth = depth;
	return 0;
}

/* What a call of the handle moves is counted by the outer call of the same handle, if both move the same way. */
static __always_inline int is_part_of(u32 function, u32 outer)
{
	if (!uses_socket(function) || !uses_socket(outer))
		return 0;
	if (is_read(function))
		return is_read(outer);
	if (outer == T2P_FN_SEND_PARTS)
		return !is_write(function);
	return !is_write(function) || is_write(outer);
}

/* Instead of a place: */
#define PLACE_NONE CALL_DEPTH /* it is part of a call of the same handle that is being followed already */
#define PLACE_DEAD (CALL_DEPTH + 1) /* the call that it would be part of can return no more */
#define PLACE_DEEP (CALL_DEPTH + 2) /* there is no room */

/* Where a call that begins at `sp` belongs in its thread's stack. */
static __noinline u64 place_of(struct thread *thread, u64 sp, u64 ip, u64 address, u32 function)
{
	u64 depth = thread->depth;

	for (u64 i = 0; i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];

		if (i >= depth)
			return i;
		if (call->sp == sp && call->handle == address) {
			/* The same call once more, unless it is one after another: then the kernel awaits the first. */
			if (call->ip == ip && !is_awaited(sp)) {
				count(T2P_COUNT_TWICE, 1);
				thread->depth = i;
				return i;
			}
			/* An export that jumps to the function behind it leaves no frame of its own. */
			if (call->ip != ip &&
			    (function == T2P_FN_READ_INTERNAL || function == T2P_FN_WRITE_INTERNAL ||
			     function == call->function || call->function == T2P_FN_READ_EARLY ||
			     call->function == T2P_FN_WRITE_EARLY))
				return PLACE_NONE;
		}
		/* The stack was cut back, or is another: in either case the kernel awaits that return no more. */
		if (call->sp <= sp)
			return i;
		if (call->handle == address && is_part_of(function, call->function))
			return can_return(call->sp) ? PLACE_NONE : PLACE_DEAD;
	}
	return PLACE_DEEP;
}

#endif
