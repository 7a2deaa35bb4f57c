/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Sockets: which one a TLS call uses, its 5-tuple and its life. Nothing here knows by which
 * mechanism it was called; the programs in tls2pcap.bpf.c do.
 */
#ifndef TLS2PCAP_SOCKET_H
#define TLS2PCAP_SOCKET_H

#include "stack.bpf.h"

/* Does an IPv4 or IPv6 socket have this protocol? */
static __always_inline int is_protocol(struct sock *sk, u32 protocol)
{
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return BPF_CORE_READ(sk, sk_protocol) == protocol && (family == AF_INET || family == AF_INET6);
}

/* Is it TCP, over one path or several? */
static __always_inline int is_stream(struct sock *sk)
{
	return is_protocol(sk, IPPROTO_TCP) || is_protocol(sk, IPPROTO_MPTCP);
}

/* The TCP connection of a socket: of a multipath one the first, NULL if that has ended or is unknown (Linux
   5.10). */
static __noinline struct sock *connection_of(struct sock *sk)
{
	struct mptcp_sock *multipath = (void *)sk;

	if (!is_protocol(sk, IPPROTO_MPTCP))
		return sk;
	return bpf_core_field_exists(multipath->first) ? BPF_CORE_READ(multipath, first) : NULL;
}

/* The innermost TLS call that the current thread is in; NULL: it is in none. */
static __always_inline struct call *call_in_progress(struct thread *thread, u64 sp)
{
	u64 depth = thread ? thread->depth : 0;
	struct call *call;

	if (depth == 0 || depth > CALL_DEPTH)
		return NULL;
	call = &thread->calls[(depth - 1) & (CALL_DEPTH - 1)];
	/* A call whose return was missed does not own what its thread does afterwards. */
	return sp > call->sp ? NULL : call;
}

/* The ends of a goroutine's stack. It may move, and grow downwards. */
struct go_stack {
	u64 low, high;
};

/* The stack of the goroutine at `g`, if `sp` is on it. */
static __always_inline int read_go_stack(u64 g, u64 sp, struct go_stack *stack)
{
	/* The runtime's `g` begins with it. */
	if (!g || bpf_probe_read_user(stack, sizeof(*stack), (void *)g))
		return 0;
	return stack->low < sp && sp < stack->high;
}

/* Where something lies on a stack: the same when the stack has moved, and more further up. */
#define GO_STACK_TOP (1ULL << 48)
static __always_inline u64 place_on_stack(struct go_stack *stack, u64 address)
{
	return GO_STACK_TOP - (stack->high - address);
}

/*
 * The innermost TLS call that a goroutine is in, if it is what made the current system call: Go keeps the
 * goroutine in R14, and the stack pointer must be on the stack of that goroutine. C that is called from
 * Go runs on another.
 */
static __noinline struct call *call_of_goroutine(struct pt_regs *regs, u32 tgid)
{
#if defined(__TARGET_ARCH_x86)
	struct goroutine_key key = { .g = BPF_CORE_READ(regs, r14), .tgid = tgid };
	struct thread *thread = bpf_map_lookup_elem(&goroutines, &key);
	u64 sp = BPF_CORE_READ(regs, sp);
	struct go_stack stack;

	if (!thread || !thread->depth || !read_go_stack(key.g, sp, &stack))
		return NULL;
	return call_in_progress(thread, place_on_stack(&stack, sp));
#else
	return NULL;
#endif
}

/* The calls on the stack that a system call is made on, which is that of `thread` or another. */
static __noinline struct thread *calls_of_syscall(struct thread *thread, u64 sp)
{
	struct thread *calls = calls_on_stack(sp);

	if (calls)
		return calls;
	/* Unknown bounds are those of a thread that has called only on its own stack, or nearly so. */
	return thread && (!thread->own_high || (thread->own_low <= sp && sp < thread->own_high)) ? thread : NULL;
}

static __always_inline void describe_end(struct t2p_socket *record, struct sock *sk, u64 generation,
					 u32 before, u32 after, u32 flags)
{
	/* Often not in the context of the process that owns it. */
	__builtin_memset(record, 0, sizeof(*record));
	record->time = bpf_ktime_get_ns();
	record->socket = (u64)sk;
	record->socket_generation = generation;
	record->error = BPF_CORE_READ(sk, sk_err);
	record->before = before;
	record->after = after;
	record->flags = flags;
	/* Last: a record with it is complete. */
	asm volatile("" ::: "memory");
	record->head.type = T2P_SOCKET;
}

/* The ring has no room for the end of a socket, with which its connection ends. */
static __noinline int keep_socket(struct sock *sk, u64 generation, u32 before, u32 after, u32 flags)
{
	struct ended_key key = { .generation = generation, .kind = ENDED_SOCKET };
	struct t2p_socket *record;

	bpf_map_update_elem(&ended, &key, &no_record, BPF_NOEXIST);
	record = bpf_map_lookup_elem(&ended, &key);
	if (!record)
		return 0;
	describe_end(record, sk, generation, before, after, flags);
	return 1;
}

/* 0: the ring is full. */
static __noinline int tell_end(struct sock *sk, u64 generation, u32 before, u32 after, u32 flags)
{
	struct t2p_socket *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);

	if (!record)
		return 0;
	describe_end(record, sk, generation, before, after, flags);
	bpf_ringbuf_submit(record, wake());
	return 1;
}

/*
 * A process sends through a socket that has received the peer's FIN. If it has read up to that, everything that
 * it will ever read is already reported: the FIN precedes what it sends now.
 */
static __always_inline void fin_is_read(struct sock *sk)
{
	struct tcp_sock *tp = (void *)sk;
	u64 key = (u64)sk;
	struct socket_state *known = bpf_map_lookup_elem(&sockets, &key);
	u32 state;

	if (!known || !known->fin || BPF_CORE_READ(tp, copied_seq) != BPF_CORE_READ(tp, rcv_nxt))
		return;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (tell_end(sk, known->generation, state, state, T2P_SOCKET_FIN_RECEIVED | T2P_SOCKET_FIN_READ))
		known->fin = 0;
}

/* How many descriptors are tried where the system call's first argument is not the socket's. */
#define FD_SCAN 64

static __always_inline int is_of(struct file **slot, u64 socket)
{
	struct file *file = NULL;

	bpf_probe_read_kernel(&file, sizeof(file), slot);
	return file && (u64)BPF_CORE_READ(file, private_data) == socket;
}

/*
 * The descriptor of the current process for the `struct socket` at this address; -1: not found. A global
 * function: the verifier walks it once.
 */
__noinline s32 find_fd(u64 socket, s32 hint)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(fdt, fd);
	u32 count = BPF_CORE_READ(fdt, max_fds);

	if (!socket || !slots)
		return -1;
	if ((u32)hint < count && is_of(slots + hint, socket))
		return hint;
	for (u32 fd = 0; fd < FD_SCAN; fd++) {
		if (fd >= count)
			break;
		if (is_of(slots + fd, socket))
			return fd;
	}
	return -1;
}

/*
 * Which side opened the connection. A socket made by accept has its listener's backlog limit; one made by
 * connect has none. A listener with limit 0 cannot be distinguished: then the TLS call decides.
 */
static __always_inline u8 tcp_role(struct sock *sk, int tls_server)
{
	if (BPF_CORE_READ(sk, sk_max_ack_backlog))
		return T2P_ROLE_SERVER;
	return tls_server ? T2P_ROLE_UNKNOWN : T2P_ROLE_CLIENT;
}

static __always_inline int is_v4_mapped(const u8 *a)
{
	u64 high;
	u32 middle;

	__builtin_memcpy(&high, a, 8);
	__builtin_memcpy(&middle, a + 8, 4);
	return high == 0 && middle == 0xffff0000; /* ::ffff:0:0/96, read little-endian */
}

static __always_inline void fill_tuple(struct t2p_bind *bind, struct sock *sk)
{
	u16 port = BPF_CORE_READ(sk, __sk_common.skc_dport);

	bind->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	bind->remote_port = (u16)(port << 8 | port >> 8);
	bind->family = 4;
	__builtin_memset(bind->local, 0, 16);
	__builtin_memset(bind->remote, 0, 16);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&bind->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&bind->remote, sk, __sk_common.skc_v6_daddr);
		if (!is_v4_mapped(bind->remote)) {
			bind->family = 6;
			return;
		}
		__builtin_memset(bind->local, 0, 16);
		__builtin_memset(bind->remote, 0, 16);
	}
	*(u32 *)bind->local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
	*(u32 *)bind->remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
}

/* The handle at `address` uses its socket from now on. `source`: enum t2p_tuple_source. */
static __noinline int emit_bind(struct handle *handle, u64 address, s32 fd_hint, u32 source)
{
	struct sock *sk = (void *)handle->sock;
	struct sock *connection = connection_of(sk);
	struct tcp_sock *tp = (void *)connection;
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);
	struct t2p_bind *bind = bpf_ringbuf_reserve(&ring, sizeof(*bind), 0);

	if (!bind) {
		lost(handle->process, T2P_COUNT_FACT_LOST, 0);
		return 0;
	}
	head(&bind->head, T2P_BIND, handle->process, 0);
	bind->handle = address;
	bind->generation = handle->generation;
	bind->time = bpf_ktime_get_ns();
	bind->socket = handle->sock;
	bind->socket_generation = handle->sock_generation;
	bind->inode = socket ? BPF_CORE_READ(socket, file, f_inode, i_ino) : 0;
	bind->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	bind->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	bind->role = tcp_role(connection ?: sk, handle->flags & HANDLE_SERVER);
	/* The SYN counts as acknowledged on the side that sent it, so this may be off by one. */
	bind->local_isn = BPF_CORE_READ(tp, snd_una) - (u32)BPF_CORE_READ(tp, bytes_acked) - 1;
	bind->remote_isn = BPF_CORE_READ(tp, rcv_nxt) - (u32)BPF_CORE_READ(tp, bytes_received) - 1;
	bind->rtt = BPF_CORE_READ(tp, srtt_us) >> 3;
	/* Without a measurement it is the greatest number. */
	bind->rtt_min = bind->rtt ? BPF_CORE_READ(tp, rtt_min.s[0].v) : 0;
	bind->fd = find_fd((u64)socket, fd_hint);
	bind->tuple_source = source;
	/* A record of its own cannot belong to a previous connection of the handle. */
	bind->fresh = (handle->flags & HANDLE_FRESH) &&
		      ((!handle->read_end && !handle->write_end) || (source == T2P_TUPLE_CIPHERTEXT && handle->refs) ||
		       (address & T2P_HANDLE_SIDE));
	fill_tuple(bind, connection ?: sk);
	bpf_ringbuf_submit(bind, wake());
	handle->flags |= HANDLE_BIND_TOLD;
	if (connection != sk)
		handle->flags |= HANDLE_MULTIPATH;
	return 0;
}

static __always_inline int is_closed(u64 sk)
{
	return BPF_CORE_READ((struct sock *)sk, __sk_common.skc_state) == TCP_CLOSE;
}

/* Registers a live socket: returns its generation; 0: the table is full. Not inlined: old kernels have little
   stack. */
static __noinline u64 new_socket(u64 sk, u64 process)
{
	struct socket_state new = { .generation = bpf_ktime_get_ns(), .process = process, .tgid = current_id() >> 32,
				    .multipath = is_protocol((void *)sk, IPPROTO_MPTCP) };
	struct socket_state *state;
	u32 user = take_room(new.tgid, ROOM_SOCKETS);

	if (!user)
		return 0;
	new.user = user - 1;
	if (!bpf_map_update_elem(&sockets, &sk, &new, BPF_NOEXIST))
		return new.generation;
	give_room(process, new.tgid, new.user, ROOM_SOCKETS);
	state = bpf_map_lookup_elem(&sockets, &sk);
	return state ? state->generation : 0;
}

/* The generation under which a live socket is known; 0: it is not followed. `process`: whose loss that is. */
static __always_inline u64 socket_generation(u64 sk, u64 process)
{
	struct socket_state *state = bpf_map_lookup_elem(&sockets, &sk);
	u64 generation;

	if (state)
		return state->generation;
	if (is_closed(sk))
		return 0;
	generation = new_socket(sk, process);
	if (!generation)
		lost(process, T2P_COUNT_SOCKETS_FULL, 0);
	return generation;
}

/* Whether the handle's socket is known and has not been closed. */
static __always_inline int has_live_socket(struct handle *handle)
{
	struct socket_state *state = handle->sock ? bpf_map_lookup_elem(&sockets, &handle->sock) : NULL;

	return state && state->generation == handle->sock_generation;
}

/* Removes the handles of rustls that had this socket, once enough others have lost theirs that they are idle. */
static __noinline int bury(u64 address, u64 generation, u32 tgid)
{
	struct grave grave = { .address = address, .sock_generation = generation, .tgid = tgid };
	struct handle_key key = {};
	struct handle *handle;
	struct grave old;

	if (!address || !bpf_map_push_elem(&graves, &grave, 0) || bpf_map_pop_elem(&graves, &old))
		return 0;
	key.address = old.address;
	key.tgid = old.tgid;
	handle = bpf_map_lookup_elem(&handles, &key);
	if (handle && handle->sock_generation == old.sock_generation)
		forget_handle(old.address, old.tgid);
	return bpf_map_push_elem(&graves, &grave, 0);
}

static __noinline int bury_sides(u64 sock)
{
	struct socket_sides *sides = bpf_map_lookup_elem(&socket_sides, &sock);

	if (!sides)
		return 0;
	for (int i = T2P_READ; i <= T2P_WRITE; i++) {
		bury(sides->now[i], sides->generation, sides->tgid);
		bury(sides->before[i], sides->generation, sides->tgid);
	}
	return bpf_map_delete_elem(&socket_sides, &sock);
}

/* A socket's state changes. It has ended if it is closed, or restarts at an address that was used before. */
static __always_inline void socket_state_changed(struct sock *sk, u32 before, u32 after)
{
	struct tcp_sock *tp = (void *)sk;
	u64 key = (u64)sk, generation, of_socket;
	struct socket_state *known;
	u32 flags = 0;
	int over;

	over = after == T2P_STATE_CLOSE || after == T2P_STATE_SYN_SENT || after == T2P_STATE_SYN_RECV;
	if (!over && after != T2P_STATE_FIN_WAIT1 && after != T2P_STATE_CLOSE_WAIT &&
	    after != T2P_STATE_LAST_ACK && after != T2P_STATE_CLOSING)
		return;
	known = bpf_map_lookup_elem(&sockets, &key);
	if (!known)
		return;
	generation = known->generation;
	if (after == T2P_STATE_CLOSE_WAIT)
		known->fin = !known->multipath;
	if (after == T2P_STATE_FIN_WAIT1 && !known->multipath)
		known->data_segs = BPF_CORE_READ(tp, data_segs_in);
	of_socket = BPF_CORE_READ(sk, __sk_common.skc_flags);
	if (of_socket & 1 << SOCK_DONE)
		flags |= T2P_SOCKET_FIN_RECEIVED;
	if (of_socket & 1 << SOCK_DEAD)
		flags |= T2P_SOCKET_LET_GO;
	if ((before == T2P_STATE_FIN_WAIT1 || before == T2P_STATE_FIN_WAIT2) && !known->multipath &&
	    known->data_segs != (u32)BPF_CORE_READ(tp, data_segs_in))
		flags |= T2P_SOCKET_DATA_AFTER;
	if (!over) {
		/* If the ring is full: the end also shows which FIN came first. */
		tell_end(sk, generation, before, after, flags);
		return;
	}
	bury_sides(key);
	forget_socket(key);
	if (!tell_end(sk, generation, before, after, flags) && !keep_socket(sk, generation, before, after, flags))
		count(T2P_COUNT_FACT_LOST, 1);
}

#endif
