/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Shares of the tables. A process may have more as long as more is free: each user at most as many entries as
 * are free, each process half as many. So a single process gets at most a third of a table, and the next one
 * finds free entries. The counts may be slightly off if two ask at the same time; only the shares depend on
 * them.
 */
#ifndef TLS2PCAP_ROOM_H
#define TLS2PCAP_ROOM_H

#include "maps.bpf.h"

/* Threads of a process whose entries stay between their calls. */
#define THREADS_KEPT 1024

/* Or the compiler, which knows the number, takes the bound away that the verifier needs. */
static __always_inline u32 bounded(u32 room)
{
	u64 at = room;

	asm volatile("" : "+r"(at));
	return at & (ROOMS - 1);
}

/* A count below 0 must not cause a refusal. */
static __always_inline u32 counted(u32 n)
{
	return n >> 31 ? 0 : n;
}

/* Takes one entry for the current process, whose number is `tgid`: 1 + its user's row; 0: none is free. */
__noinline u32 take_room(u32 tgid, u32 room)
{
	u32 user, taken, left;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return 0;
	room = bounded(room);
	user = process->user & (ROOM_USERS - 1);
	taken = counted(room_taken[room]);
	left = taken < room_size[room] ? room_size[room] - taken : 0;
	if (counted(process->taken[room]) >= left / 2 || counted(room_of_users[user][room]) >= left)
		return 0;
	__sync_fetch_and_add(&process->taken[room], 1);
	__sync_fetch_and_add(&room_of_users[user][room], 1);
	__sync_fetch_and_add(&room_taken[room], 1);
	return user + 1;
}

/* Returns the share of one entry of the process of this number and generation. */
static __always_inline int give_room(u64 generation, u32 tgid, u32 user, u32 room)
{
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	room = bounded(room);
	/* After exec it starts again. */
	if (process && process->generation == generation)
		__sync_fetch_and_add(&process->taken[room], -1);
	__sync_fetch_and_add(&room_of_users[user & (ROOM_USERS - 1)][room], -1);
	__sync_fetch_and_add(&room_taken[room], -1);
	return 0;
}

/* Removes a handle. */
__noinline int forget_handle(u64 address, u32 tgid)
{
	struct handle_key key = { .address = address, .tgid = tgid };
	struct handle *handle = bpf_map_lookup_elem(&handles, &key);
	u64 generation;
	u32 user;

	if (!handle)
		return 0;
	generation = handle->process;
	user = handle->user;
	/* Another one may have been faster. */
	return bpf_map_delete_elem(&handles, &key) ?: give_room(generation, tgid, user, ROOM_HANDLES);
}

/* Removes a thread or a stack, by its key in `threads`. */
__noinline int forget_calls(u64 key, u32 tgid)
{
	struct thread *calls = bpf_map_lookup_elem(&threads, &key);
	u64 generation;
	u32 user;

	if (!calls)
		return 0;
	generation = calls->process;
	user = calls->user;
	return bpf_map_delete_elem(&threads, &key) ?: give_room(generation, tgid, user, ROOM_THREADS);
}

/* The call of rustls that a thread is in is over. */
__noinline int rustls_call_over(u64 id)
{
	struct rustls_call *call = bpf_map_lookup_elem(&rustls_calls, &id);
	u64 generation;
	u32 user;

	if (!call)
		return 0;
	generation = call->process;
	user = call->user;
	return bpf_map_delete_elem(&rustls_calls, &id) ?: give_room(generation, id >> 32, user, ROOM_RUSTLS);
}

/* A socket that was known is closed. Not global: to the verifier its address is no number. */
static __noinline int forget_socket(u64 sk)
{
	struct socket_state *state = bpf_map_lookup_elem(&sockets, &sk);
	u64 generation;
	u32 tgid, user;

	if (!state)
		return 0;
	generation = state->process;
	tgid = state->tgid;
	user = state->user;
	return bpf_map_delete_elem(&sockets, &sk) ?: give_room(generation, tgid, user, ROOM_SOCKETS);
}

/* Whether the process has so many threads that their entries are removed after each call. */
static __always_inline int has_many_threads(struct process *process)
{
	return process->taken[ROOM_THREADS] > THREADS_KEPT;
}

#endif
