/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What a call's use of sockets proves. Inside a TLS call a program may use any socket: a callback logs over
 * TCP, resolves a name, reads from another connection. The call's own socket is the one that carried its
 * record: a record was written to it, or more bytes were read from it than the call returned, by the overhead
 * of encryption.
 */
#ifndef TLS2PCAP_EVIDENCE_H
#define TLS2PCAP_EVIDENCE_H

#include "socket.bpf.h"
#include "probation.bpf.h"

/* The longest body of a record. */
#define RECORD_BODY_MAX (16384 + 2048)

struct user_vector {
	u64 base, len;
};

struct user_buffers {
	struct user_vector first;
	u64 vector; /* where all are described; 0: there is one */
	u64 count;
};

/* What the current system call sends or has received. */
static __noinline int syscall_buffer(struct user_buffers *buffers)
{
	struct pt_regs *regs = syscall_regs();
	u64 second, third, vector = 0;
	u32 nr;

#if defined(__TARGET_ARCH_x86)
	nr = BPF_CORE_READ(regs, orig_ax);
	second = BPF_CORE_READ(regs, si);
	third = BPF_CORE_READ(regs, dx);
	switch (nr) {
	case 0: case 1: case 44: case 45: /* read, write, sendto, recvfrom */
		break;
	case 19: case 20: /* readv, writev */
		vector = second;
		break;
	case 46: case 47: /* sendmsg, recvmsg */
		bpf_probe_read_user(&vector, sizeof(vector), (void *)second + 16); /* msg_iov */
		bpf_probe_read_user(&third, sizeof(third), (void *)second + 24); /* msg_iovlen */
		break;
	default:
		return 0;
	}
#else
	nr = BPF_CORE_READ(regs, syscallno);
	second = BPF_CORE_READ(regs, regs[1]);
	third = BPF_CORE_READ(regs, regs[2]);
	switch (nr) {
	case 63: case 64: case 206: case 207:
		break;
	case 65: case 66:
		vector = second;
		break;
	case 211: case 212:
		bpf_probe_read_user(&vector, sizeof(vector), (void *)second + 16);
		bpf_probe_read_user(&third, sizeof(third), (void *)second + 24);
		break;
	default:
		return 0;
	}
#endif
	buffers->first.base = second;
	buffers->first.len = third;
	buffers->vector = vector;
	buffers->count = third;
	return !vector || !bpf_probe_read_user(&buffers->first, sizeof(buffers->first), (void *)vector);
}

static __always_inline s32 syscall_fd(void)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ(syscall_regs(), di);
#else
	return BPF_CORE_READ(syscall_regs(), orig_x0);
#endif
}

/* What is sent is not a record. The kernel makes those of kTLS, out of sight: each of them counts as one that fits. */
#define NO_RECORD 0
#define RECORD_OF_KERNEL 1

/* Length of the record, with its header, that the current system call begins to send on this socket, or one of the above. */
static __noinline u32 record_sent(struct sock *sk)
{
	struct user_buffers buffers = {};
	u8 bytes[RECORD_HEADER];
	u32 body;

	if (bpf_core_field_exists(struct inet_connection_sock, icsk_ulp_ops) &&
	    BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ulp_ops))
		return RECORD_OF_KERNEL;
	if (!syscall_buffer(&buffers) || buffers.first.len < RECORD_HEADER ||
	    bpf_probe_read_user(bytes, sizeof(bytes), (void *)buffers.first.base))
		return NO_RECORD;
	body = bytes[3] << 8 | bytes[4];
	/* change_cipher_spec, alert, handshake, data, heartbeat */
	if (bytes[0] < 20 || bytes[0] > 24 || bytes[1] != 3 || bytes[2] > 4 || !body || body > RECORD_BODY_MAX)
		return NO_RECORD;
	return RECORD_HEADER + body;
}

/* The socket of a call's handle, if it is known and live; otherwise 0. */
static __noinline u64 own_socket(struct call *call)
{
	struct handle_key key = { .address = call->handle, .tgid = current_id() >> 32 };
	struct handle *handle = bpf_map_lookup_elem(&handles, &key);

	return handle && has_live_socket(handle) ? handle->sock : 0;
}

/*
 * The call uses another TCP socket than the noted one. 1: note this one instead. Either may prove to be the
 * call's, by a record or, in a read, by what is received.
 */
static __noinline int is_rather(struct call *call, u64 sk, u32 record, u32 reading)
{
	u32 reads = is_read(call->function) || call->function == T2P_FN_PEEK;
	u32 shows = record || (reads && reading);
	u32 showed = call->record || (reads && (call->flags & CALL_READ_SOCKET));
	u64 own = own_socket(call);

	if (own == call->sock)
		return 0;
	if (own == sk)
		return 1;
	if (shows && !showed)
		return 1;
	/* Both do, or none. */
	if (shows || !showed)
		call->flags |= CALL_CONFLICT;
	return 0;
}

/* The innermost TLS call that the current thread is in, as its system call shows; NULL: none. */
static __always_inline struct call *call_of_syscall(void)
{
	u64 id = current_id();
	struct thread *thread = bpf_map_lookup_elem(&threads, &id);
	struct pt_regs *regs;
	struct call *call = NULL;

	if ((!thread || !thread->depth) && !go_wanted && !stacks_wanted)
		return NULL;
	regs = syscall_regs();
	if (stacks_wanted)
		thread = calls_of_syscall(thread, BPF_CORE_READ(regs, sp));
	if (thread)
		call = call_in_progress(thread, BPF_CORE_READ(regs, sp));
	if (!call && go_wanted)
		call = call_of_goroutine(regs, id >> 32);
	return call;
}

/*
 * The current thread uses a socket. If a TLS call is in progress, it is the innermost one's.
 * `copied` is the socket's copied_seq before the read.
 */
static __always_inline void socket_used_in_call(struct sock *sk, int reading, u32 copied)
{
	struct call *call = call_of_syscall();
	u32 record = 0, multipath = 0;

	if (!call)
		return;
	if (call->sock == (u64)sk &&
	    (reading ? call->flags & CALL_READ_SOCKET : call->record))
		return;
	if (!is_protocol(sk, IPPROTO_TCP)) {
		/* QUIC, DTLS, or a callback that resolves a name. UNIX sockets prove nothing: TLS runs over
		   them as well, and programs log through them. */
		if (is_protocol(sk, IPPROTO_UDP))
			call->flags |= CALL_UDP;
		multipath = is_protocol(sk, IPPROTO_MPTCP);
		if (!multipath)
			return;
	}
	if (!reading) {
		record = record_sent(sk);
		if (!multipath)
			fin_is_read(sk);
	}
	if (call->sock && call->sock != (u64)sk) {
		if (!is_rather(call, (u64)sk, record, reading))
			return;
		call->flags &= ~(CALL_CONFLICT | CALL_READ_SOCKET | CALL_WROTE);
		call->record = 0;
	}
	call->sock = (u64)sk;
	call->fd_hint = syscall_fd();
	if (reading && multipath)
		return; /* received data does not show in it */
	if (reading) {
		call->copied = copied;
		call->flags |= CALL_READ_SOCKET;
	} else {
		call->record = record;
		call->flags |= CALL_WROTE;
	}
}

/* How many bytes a read gave its program, at least. */
static __always_inline u64 bytes_read(struct call *call, u64 returned)
{
	u64 n = 0;

	if ((s32)returned <= 0)
		return 0;
	/* If the function returns its count elsewhere, 1 means that there is one. */
	if (returned == 1 && call->count_at && !bpf_probe_read_user(&n, sizeof(n), (void *)call->count_at) &&
	    n && n <= call->num)
		return n;
	return (u32)returned;
}

/* Whether as much was read from the call's socket as a record of what it returned takes. */
static __noinline int carried_read(struct call *call, u64 returned)
{
	struct tcp_sock *tp = (void *)call->sock;
	u64 len = bytes_read(call, returned);

	/* What is written there is no record: it is some other protocol's. */
	if (!len || !(call->flags & CALL_READ_SOCKET) || ((call->flags & CALL_WROTE) && !call->record))
		return 0;
	return (s64)(s32)(BPF_CORE_READ(tp, copied_seq) - call->copied) >= (s64)(len + SEAL_MIN);
}

/*
 * Whether the call's socket carried its record. `strictly`: not any record, but one that is as long as what
 * the call moved makes it. In programs that encrypt into memory, callbacks send the records of other handles.
 */
static __noinline int carried(struct call *call, u64 returned, u32 strictly)
{
	u64 len = call->num;
	u32 sealed = call->record - RECORD_HEADER;

	if (is_read(call->function) || call->function == T2P_FN_PEEK) {
		if (carried_read(call, returned))
			return 1;
		/* Answers to what it has read: those of the handshake, an alert. */
		return !strictly && call->record;
	}
	if (!strictly)
		return call->record != NO_RECORD;
	if (!is_write(call->function) || call->record <= RECORD_OF_KERNEL)
		return 0;
	if (len > RECORD_PLAIN_MAX)
		len = RECORD_PLAIN_MAX;
	return sealed >= len + SEAL_MIN && sealed <= len + SEAL_MAX;
}

#endif
