/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * How a handle gets its socket, and keeps it. It is bound to the socket that carried the record of a call
 * (evidence.bpf.h), or that its library holds for it, until that is closed or the program sets another
 * (SSL_set_fd and similar). If one socket to read from and another to write to are used before the handle is
 * bound, it is bound to the latter.
 */
#ifndef TLS2PCAP_BINDING_H
#define TLS2PCAP_BINDING_H

#include "evidence.bpf.h"
#include "gnutls.bpf.h"

/* ---- What the library holds ---- */

#define BIO_TYPE_SOCKET 0x505
#define BIO_TYPE_CONNECT 0x50c

/* `type` is the first field of a BIO_METHOD; these are consecutive fields of a BIO. */
struct bio_state {
	s32 init, shutdown, flags, retry_reason, num;
};

/* Whether the BIO at `bio`, whose method and state lie there, is that of a socket: 1 + its descriptor; 0: it is not. */
static __noinline u32 fd_of_bio_at(u64 bio, u32 method_at, u32 state_at)
{
	struct bio_state state;
	u64 method;
	u32 type;

	if (bpf_probe_read_user(&method, sizeof(method), (void *)bio + method_at) ||
	    bpf_probe_read_user(&type, sizeof(type), (void *)method) ||
	    (type != BIO_TYPE_SOCKET && type != BIO_TYPE_CONNECT))
		return 0;
	if (bpf_probe_read_user(&state, sizeof(state), (void *)bio + state_at))
		return 0;
	if (state.init != 1 || (u32)state.shutdown > 1 || (u32)state.flags > 0xffff ||
	    (u32)state.retry_reason > 0xff || state.num < 0)
		return 0;
	return state.num + 1;
}

/* 1 + the descriptor of a BIO in one of the known layouts; 0: none. Global: the verifier walks it once. */
__noinline u32 fd_of_bio(u64 bio)
{
	u32 fd = 0;

	if (!bio)
		return 0;
	fd = fd_of_bio_at(bio, 8, 40); /* OpenSSL 3 and 4 */
	if (!fd)
		fd = fd_of_bio_at(bio, 0, 32); /* OpenSSL 1.1, LibreSSL */
	if (!fd)
		fd = fd_of_bio_at(bio, 0, 24); /* OpenSSL 1.0 */
	return fd;
}

/*
 * 1 + the descriptor of the socket that an SSL of OpenSSL writes to, or reads from; 0: it has none, or its
 * layout is unknown. The two BIOs are adjacent: after version and method, or since 3.2 in a connection object
 * after the fields that all objects have, which begin with their type (0).
 */
__noinline u32 fd_of_ssl(u64 ssl)
{
	u64 bios[2] = {};
	u32 first = 0, fd;
	u64 at = ssl;

	if (bpf_probe_read_user(&first, sizeof(first), (void *)ssl))
		return 0;
	if (first >> 8 == 3)
		at += 16;
	else if (first == 0)
		at += 80;
	else
		return 0;
	if (bpf_probe_read_user(bios, sizeof(bios), (void *)at))
		return 0;
	fd = fd_of_bio(bios[1]);
	return fd ? fd : fd_of_bio(bios[0]);
}

/* The TCP socket of a descriptor of the current process; 0: none. */
static __noinline u64 tcp_of_fd(u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **slot, *file = NULL;
	struct socket *socket;
	struct sock *sk;

	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return 0;
	slot = BPF_CORE_READ(fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), slot + fd);
	socket = file ? BPF_CORE_READ(file, private_data) : NULL;
	/* Nothing but a socket points back. */
	if (!socket || BPF_CORE_READ(socket, file) != file)
		return 0;
	sk = BPF_CORE_READ(socket, sk);
	return sk && is_stream(sk) ? (u64)sk : 0;
}

/*
 * The handle, met in the middle of its connection, takes the socket that its library holds for it, `fd` - 1: a call
 * that uses it may be long in coming. Once for each handle. 1: it has it.
 */
__noinline int take_socket(u64 address, u32 fd)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct handle *handle = process ? find_handle(process->generation, address) : NULL;
	u64 sk, generation;

	if (!handle)
		return 0;
	handle->flags |= HANDLE_ASKED;
	sk = fd ? tcp_of_fd(fd - 1) : 0;
	generation = sk ? socket_generation(sk, process->generation) : 0;
	if (!generation)
		return 0;
	handle->sock = sk;
	handle->sock_generation = generation;
	process->flags |= PROCESS_SOCKET;
	return 1;
}

/*
 * Whether the library may be asked: it is OpenSSL or its kin, and the handle is older than the capture or its calls
 * use several sockets.
 */
static __always_inline int may_ask(struct handle *handle, struct call *call)
{
	return !handle->sock && !call->go && call->site <= T2P_SITE_BIO_READ &&
	       (!(handle->flags & HANDLE_FRESH) || (call->flags & CALL_CONFLICT)) &&
	       !(handle->flags & (HANDLE_ASKED | HANDLE_LAYER | HANDLE_NOT_TCP));
}

/* ---- What a call shows ---- */

/* The call's socket is not its handle's. Then it proves nothing that it used none of its own. */
static __always_inline void disown(struct call *call)
{
	call->sock = 0;
	call->flags &= ~CALL_READ_SOCKET;
	call->flags |= CALL_QUIET;
}

/* Binds the handle to the socket that carried the call's record. Returns the handle as it is from then on. */
static __always_inline struct handle *bind_socket(struct process *process, struct handle *handle, struct call *call,
					     u64 returned)
{
	int lives = has_live_socket(handle);
	u64 generation;

	/* A callback of a handle that does use TCP may use UDP as well, to ask for a name or to log. */
	if ((call->flags & CALL_UDP) && !call->sock && !handle->sock)
		handle->flags |= HANDLE_NOT_TCP;
	if (!call->sock)
		return handle;
	if (handle->sock == call->sock && (lives || is_closed(call->sock))) {
		handle->flags &= ~(HANDLE_MOVES | HANDLE_NO_SOCKET);
		if (!(handle->flags & HANDLE_BIND_TOLD))
			emit_bind(handle, call->handle, call->fd_hint, T2P_TUPLE_SAME_CALL);
		return handle;
	}
	if (lives && !(handle->flags & HANDLE_MOVES)) {
		disown(call);
		return handle;
	}
	if (call->flags & CALL_CONFLICT) {
		count(T2P_COUNT_CONFLICT, 1);
		generation = 0;
	} else if (carried(call, returned, handle->flags & HANDLE_NO_SOCKET)) {
		generation = socket_generation(call->sock, process->generation);
	} else {
		generation = 0;
	}
	if (!generation) {
		disown(call);
		return handle;
	}
	if (handle->sock) {
		/* The handle was given another connection: its streams restart. */
		struct fact fact = { .address = call->handle, .fact = T2P_FACT_FREE };

		emit_fact(handle, &fact);
		handle = new_handle(process->generation, call->handle, 0, handle->refs);
		if (!handle)
			return NULL;
	}
	handle->sock = call->sock;
	handle->sock_generation = generation;
	handle->flags &= ~HANDLE_NO_SOCKET;
	process->flags |= PROCESS_SOCKET;
	emit_bind(handle, call->handle, call->fd_hint, T2P_TUPLE_SAME_CALL);
	return handle;
}

/* The program gives the handle a socket, perhaps another: what its next calls show counts. */
static __noinline int socket_given(u64 address)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process->generation, address) : NULL;

	if (!handle)
		return 0;
	handle->flags &= ~(HANDLE_NO_SOCKET | HANDLE_ASKED);
	if (handle->sock)
		handle->flags |= HANDLE_MOVES;
	return 0;
}

/*
 * A read that was already blocked when the probes were attached returns unseen. What it took from the socket
 * shows when the next read does not begin where the last seen call ended.
 */
static __always_inline void check_unseen_read(struct handle *handle, struct call *call)
{
	struct fact fact = { .address = call->handle, .fact = T2P_FACT_READ_UNSEEN };

	if (!(call->flags & CALL_READ_SOCKET) || (handle->flags & HANDLE_READ))
		return;
	/* In Go another goroutine may write, and so mark, while this one reads. */
	if (call->go ? (call->go & GO_MARKED) && GO_MARK(call) != call->copied :
		       (handle->flags & HANDLE_MARKED) && handle->copied != call->copied)
		emit_fact(handle, &fact);
	handle->flags |= HANDLE_READ;
}

static __always_inline void mark(struct handle *handle, u64 sock)
{
	struct tcp_sock *tp = (void *)sock;

	if (handle->flags & HANDLE_MULTIPATH)
		return;
	handle->copied = BPF_CORE_READ(tp, copied_seq);
	handle->written = BPF_CORE_READ(tp, write_seq);
	handle->flags |= HANDLE_MARKED;
}

static __always_inline u8 tuple_source(struct handle *handle, struct call *call)
{
	struct socket_state *state;

	if (handle->flags & HANDLE_LAYER)
		return T2P_TUPLE_LAYER;
	if (!handle->sock)
		return T2P_TUPLE_NONE;
	if (call->sock == handle->sock)
		return T2P_TUPLE_SAME_CALL;
	state = bpf_map_lookup_elem(&sockets, &handle->sock);
	return state && state->generation == handle->sock_generation ? T2P_TUPLE_REMEMBERED : T2P_TUPLE_NONE;
}

/* ---- That it has none ---- */

/* Whether nothing is known yet of how the handle's records travel. */
static __always_inline int may_have_no_socket(struct handle *handle)
{
	return !handle->sock && !(handle->flags & (HANDLE_LAYER | HANDLE_NOT_TCP | HANDLE_NO_SOCKET));
}

/*
 * A call that used no socket where one that has a socket would: its handle encrypts into memory. Says
 * so once for each process; the command's own tree waits until the BIO functions are probed.
 */
static __noinline int check_socket(struct process *process, struct call *call)
{
	struct handle *handle;
	struct t2p_noted_no_socket *note;

	if (call->below || (call->flags & (CALL_UDP | CALL_QUIET)))
		return 0;
	handle = find_handle(process->generation, call->handle);
	if (!handle || !may_have_no_socket(handle))
		return 0;
	if (call->function != T2P_FN_HANDSHAKE && !is_write(call->function) &&
	    (!is_read(call->function) || (call->len && handle->read_end <= RECORD_PLAIN_MAX)))
		return 0;
	handle->flags |= HANDLE_NO_SOCKET;
	if ((process->flags & PROCESS_NO_SOCKET) || call->site > T2P_SITE_BIO_READ)
		return 0;
	note = bpf_ringbuf_reserve(&notices, sizeof(*note), 0);
	if (!note) {
		/* The handle's next call reports it. */
		handle->flags &= ~HANDLE_NO_SOCKET;
		return lost(process->generation, T2P_COUNT_NOTICE_LOST, 0);
	}
	process->flags |= PROCESS_NO_SOCKET;
	head(&note->no_socket.head, T2P_NO_SOCKET, process->generation, call->library);
	note->no_socket.time = bpf_ktime_get_ns();
	note->no_socket.stopped = (process->flags & PROCESS_STOP) && hold_thread(note->no_socket.time);
	note->no_socket.other_stack = 0;
	note->place = place_in_ring();
	bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
	return 0;
}

#endif
