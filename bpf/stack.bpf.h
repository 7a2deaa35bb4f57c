/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The calls that a thread is in, outermost first: where a new one belongs, which can still return, and what is
 * done with those that cannot.
 */
#ifndef TLS2PCAP_STACK_H
#define TLS2PCAP_STACK_H

#include "handles.bpf.h"

#define EBUSY 16

static const struct thread no_thread;

/*
 * Coroutines have separate stacks. Linux expects the returns of one thread in the reverse order of the calls,
 * and return probes kill a program in which they are not: so a call on such a stack is followed to its return
 * instruction instead (COOKIE_RETURN), and no return probe is set on it if the kernel lets us choose (Linux
 * 6.13). A thread's own stack is that of the process for its first thread, otherwise the mapping at whose end
 * its thread pointer lies: all threading libraries place them there.
 */
#define MAIN_STACK (64ULL << 20) /* nothing else is mapped so close below the first thread's stack */
#define THREAD_STACK (8ULL << 20) /* where mappings cannot be looked up: the usual size */

struct bounds {
	u64 low, high;
};

static __always_inline int is_within(struct bounds *bounds, u64 sp)
{
	return bounds->low <= sp && sp < bounds->high;
}

/* Whether the current thread is its process's first, and `sp` is on the stack of the process. */
static __always_inline int on_main_stack(u64 sp, struct bounds *own)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (BPF_CORE_READ(task, group_leader) != task)
		return 0;
	own->high = BPF_CORE_READ(task, mm, start_stack);
	own->low = own->high - MAIN_STACK;
	return is_within(own, sp);
}

static __always_inline u64 thread_pointer(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread.fsbase);
}

static __always_inline struct thread *current_thread(void)
{
	u64 id = current_id();

	return bpf_map_lookup_elem(&threads, &id);
}

static long note_bounds(struct task_struct *task, struct vm_area_struct *area, struct bounds *bounds)
{
	bounds->low = area->vm_start;
	bounds->high = area->vm_end;
	return 0;
}

/* Whether the current thread runs on another stack than its own. Needs bpf_find_vma (Linux 5.17). */
__noinline int on_other_stack(u64 sp)
{
#if defined(__TARGET_ARCH_x86)
	struct thread *thread = current_thread();
	struct bounds own = {};
	u64 pointer;
	long error;

	if (thread && thread->own_low <= sp && sp < thread->own_high)
		return 0;
	if (!on_main_stack(sp, &own)) {
		pointer = thread_pointer();
		own.low = own.high = 0;
		error = bpf_find_vma(bpf_get_current_task_btf(), sp, note_bounds, &own, 0);
		/* Another thread is changing the mappings. */
		if (error == -EBUSY)
			return sp >= pointer || pointer - sp >= THREAD_STACK;
		if (!is_within(&own, sp) || !is_within(&own, pointer) || sp >= pointer)
			return 1;
		own.high = pointer;
	}
	if (thread) {
		thread->own_low = own.low;
		thread->own_high = own.high;
	}
#endif
	return 0;
}

/* The same, judged by distance. */
__noinline int seems_on_other_stack(u64 sp)
{
#if defined(__TARGET_ARCH_x86)
	struct bounds own = {};
	u64 pointer;

	if (on_main_stack(sp, &own))
		return 0;
	pointer = thread_pointer();
	return sp >= pointer || pointer - sp >= THREAD_STACK;
#else
	return 0;
#endif
}

/*
 * A stack that is not a thread's own is identified by where its outermost call began. Calls inside that, and
 * its system calls, are at most this far below it; another stack is further away, because OpenSSL alone needs
 * as much. Its key in `threads` encodes that: T2P_STACK_REACH. A call is searched for there and in the next
 * range of that size.
 */
static __always_inline u64 stack_key(u64 sp)
{
	u64 place = sp >> T2P_STACK_REACH & ((1ULL << T2P_STACK_PID) - 1);

	return 1ULL << T2P_STACK_KEY | current_id() >> 32 << T2P_STACK_PID | place;
}

/* The calls in progress on the stack that `sp` is on, if it is no thread's own. */
static __noinline struct thread *calls_on_stack(u64 sp)
{
	u64 key = stack_key(sp);
	struct thread *calls = bpf_map_lookup_elem(&threads, &key);

	if (calls && calls->depth)
		return calls;
	key++;
	calls = bpf_map_lookup_elem(&threads, &key);
	return calls && calls->depth ? calls : NULL;
}

/* The calls that the current thread is in, on the stack that `sp` is on. */
static __noinline struct thread *calls_at(u64 sp)
{
	struct thread *calls = stacks_wanted ? calls_on_stack(sp) : NULL;

	return calls ?: current_thread();
}

/* Where a call that begins at `sp` must be stored. `other`: that is no thread's own stack. */
static __noinline struct thread *calls_for(struct process *process, u64 sp, u32 other)
{
	u64 key = other ? stack_key(sp) : current_id();
	u32 tgid = current_id() >> 32, user;
	struct thread *calls = other ? calls_on_stack(sp) : bpf_map_lookup_elem(&threads, &key);

	if (calls && calls->process == process->generation)
		return calls;
	forget_calls(key, tgid);
	user = take_room(tgid, ROOM_THREADS);
	if (!user)
		return NULL;
	if (bpf_map_update_elem(&threads, &key, &no_thread, BPF_NOEXIST)) {
		give_room(process->generation, tgid, user - 1, ROOM_THREADS);
		return NULL;
	}
	calls = bpf_map_lookup_elem(&threads, &key);
	if (calls) {
		calls->process = process->generation;
		calls->user = user - 1;
		calls->of_stack = other != 0;
	}
	return calls;
}

/* The outermost call of a thread or stack is over, and began at `sp`. */
static __noinline int calls_over(u64 sp, u32 of_stack)
{
	u64 id = current_id();

	if (!of_stack)
		return forget_calls(id, id >> 32);
	return forget_calls(stack_key(sp), id >> 32);
}

/*
 * The process makes calls on stacks that are no thread's own. Says so once; the command's own tree waits
 * until their returns are probed.
 */
static __noinline int tell_other_stack(struct process *process)
{
	struct t2p_noted_no_socket *note;

	stacks_wanted = 1;
	process->flags |= PROCESS_STACKS;
	/* Return instructions are the same on every stack. */
	if (by_returns || (process->flags & PROCESS_STACKS_TOLD))
		return 0;
	note = bpf_ringbuf_reserve(&notices, sizeof(*note), 0);
	if (!note)
		/* The next call reports it. */
		return lost(process->generation, T2P_COUNT_NOTICE_LOST, 0);
	process->flags |= PROCESS_STACKS_TOLD;
	head(&note->no_socket.head, T2P_NO_SOCKET, process->generation, 0);
	note->no_socket.time = bpf_ktime_get_ns();
	note->no_socket.stopped = (process->flags & PROCESS_STOP) && hold_thread(note->no_socket.time);
	note->no_socket.other_stack = 1;
	note->place = place_in_ring();
	bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
	return 0;
}

/* The return of a call in the thread's stack will not be seen. */
static __always_inline int drop_call(struct process *process, struct call *call, u32 reason)
{
	if ((call->flags & CALL_ASIDE) && reason == T2P_COUNT_UNFINISHED)
		reason = T2P_COUNT_OTHER_STACK;
	if (call->flags & CALL_PENDING)
		testify(call->library, call->site, PENDING, -1);
	/* If no return was probed, the calls inside it have not reported anything either. */
	if ((call->flags & CALL_ASIDE) || !export_gone(call->library, call->site, call->function, call->flags))
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
 * Whether the call that began at `sp` can still return. Its stack slot holds the return address, or that of the
 * kernel's own page if there is a return probe on the function. If longjmp or an exception left the function,
 * its caller's next call overwrites the slot.
 */
__noinline int can_return(u64 sp, u64 returns_to)
{
#if defined(__TARGET_ARCH_x86)
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 page = 0, place;

	if (bpf_probe_read_user(&place, sizeof(place), (void *)sp) || (returns_to && place == returns_to))
		return 1;
	if (bpf_core_field_exists(struct xol_area, vaddr))
		page = BPF_CORE_READ(task, mm, uprobes_state.xol_area, vaddr);
	if (page || returns_to)
		return page && place == page;
#endif
	return 1;
}

/* How many of the calls that the kernel awaits are checked, innermost first. */
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

/* Removes from the stack the calls that can no longer return, wherever they are. */
static __noinline int forget_dead(struct process *process, struct thread *thread)
{
	u64 depth = 0;

	for (u64 i = 0; i < CALL_DEPTH; i++) {
		if (i >= thread->depth)
			break;
		if (!can_return(thread->calls[i].sp, thread->calls[i].returns_to)) {
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
#define PLACE_DEEP (CALL_DEPTH + 2) /* it is full */

/* Two programs on one instruction run one after the other; an abandoned call that is made again comes later. */
#define TWICE_NS 50000

/*
 * Whether a call like one that is noted is the same, met once more: a file that is probed under two names has two
 * numbers. Else the noted one was left, and this is another.
 */
static __always_inline int is_twice(struct call *call, struct arguments *args, u64 sp)
{
	if (!by_returns)
		return !call->returns_to && !is_awaited(sp);
	if (HAS_HELPER(get_attach_cookie))
		return call->library != args->library;
	return bpf_ktime_get_ns() - call->entered < TWICE_NS;
}

/* Where a call that begins at `sp` belongs in its thread's stack. */
static __noinline u64 place_of(struct thread *thread, u64 sp, u64 ip, struct arguments *args)
{
	u64 depth = thread->depth, address = args->handle;
	u32 function = args->function;

	for (u64 i = 0; i < CALL_DEPTH; i++) {
		struct call *call = &thread->calls[i];

		if (i >= depth)
			return i;
		if (call->sp == sp && call->handle == address) {
			if (call->ip == ip && is_twice(call, args, sp)) {
				count(T2P_COUNT_TWICE, 1);
				thread->depth = i;
				return i;
			}
			/* An export that jumps to its internal function leaves no frame. */
			if (call->ip != ip &&
			    (function == T2P_FN_READ_INTERNAL || function == T2P_FN_WRITE_INTERNAL ||
			     function == call->function || call->function == T2P_FN_READ_EARLY ||
			     call->function == T2P_FN_WRITE_EARLY))
				return PLACE_NONE;
		}
		/* The stack was unwound, or is another: in either case the kernel no longer awaits that return. */
		if (call->sp <= sp)
			return i;
		if (call->handle == address && is_part_of(function, call->function))
			return can_return(call->sp, call->returns_to) ? PLACE_NONE : PLACE_DEAD;
	}
	return PLACE_DEEP;
}

#endif
