/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The socket of handles that encrypt into memory (Python's asyncio, Node): a TLS record is seen
 * between the library and its BIO, and again between the program and a socket. What counts are the
 * first bytes of the record's body, which no other record has.
 * Only for processes that were seen to make TLS calls without a socket, and only then are the BIO
 * functions probed.
 */
#ifndef TLS2PCAP_CIPHERTEXT_H
#define TLS2PCAP_CIPHERTEXT_H

#include "calls.bpf.h"

/* A body that is shorter may be that of another record too. */
#define RECORD_BODY_MIN 16
#define RECORD_HANDSHAKE 22

/*
 * A record's header: type << 16 | length of its body. 0: none that proves anything. Unencrypted handshake
 * messages are the same in many connections, except for the two with a random.
 */
static __always_inline u32 parse_header(const u8 *header)
{
	u32 len = header[3] << 8 | header[4];

	if (header[1] != 3 || (header[0] != RECORD_HANDSHAKE && header[0] != RECORD_APPLICATION))
		return 0;
	return header[0] << 16 | len;
}

/* Makes the key of a record whose body begins at `body` in the program, of which `len` bytes are there. */
static __noinline int record_key(struct record_key *key, u32 header, u64 body, u64 len)
{
	u32 whole = header & 0xffff;

	__builtin_memset(key, 0, sizeof(*key));
	if (len > whole)
		len = whole;
	if (len > RECORD_BODY)
		len = RECORD_BODY;
	if (len < RECORD_BODY_MIN || (len < RECORD_BODY && len < whole))
		return 0;
	asm volatile("" : "+r"(len));
	if (len > RECORD_BODY || bpf_probe_read_user(key->body, len, (void *)body))
		return 0;
	/* ClientHello, ServerHello */
	if (header >> 16 == RECORD_HANDSHAKE && key->body[0] != 1 && key->body[0] != 2)
		return 0;
	key->tgid = current_id() >> 32;
	key->len = len;
	return 1;
}

/* The same of a whole record at `from`. */
static __noinline int record_key_at(struct record_key *key, u64 from, u64 len)
{
	u8 bytes[RECORD_HEADER];
	u32 header;

	if (len < RECORD_HEADER + RECORD_BODY_MIN || bpf_probe_read_user(bytes, sizeof(bytes), (void *)from))
		return 0;
	header = parse_header(bytes);
	return header ? record_key(key, header, from + RECORD_HEADER, len - RECORD_HEADER) : 0;
}

/* The current process, if some of its handles encrypt into memory, or may. */
static __always_inline struct process *process_without_socket(void)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	return process && (process->flags & (PROCESS_NO_SOCKET | PROCESS_WATCHED | PROCESS_RUSTLS)) ?
		       process :
		       NULL;
}

/* ---- At the socket ---- */

static const struct socket_sides no_sides;

/* From now on the socket is that of a side of rustls, in the place of the one with the key before. */
static __noinline int note_side(u64 address, u64 sock, u64 generation)
{
	struct socket_sides *sides = bpf_map_lookup_elem(&socket_sides, &sock);
	u32 direction = address & T2P_HANDLE_WRITES ? T2P_WRITE : T2P_READ;

	if (!sides || sides->generation != generation) {
		bpf_map_update_elem(&socket_sides, &sock, &no_sides, BPF_ANY);
		sides = bpf_map_lookup_elem(&socket_sides, &sock);
		if (!sides)
			return 0;
		sides->generation = generation;
		sides->tgid = current_id() >> 32;
	}
	if (sides->now[direction] == address)
		return 0;
	if (sides->before[direction])
		bury(sides->before[direction], generation, sides->tgid);
	sides->before[direction] = sides->now[direction];
	sides->now[direction] = address;
	return 0;
}

/* The handle's records go through this socket. */
static __noinline int bind_by_record(struct process *process, struct handle *handle, u64 address, struct record_socket *through)
{
	if (!through->generation)
		return 0;
	if (handle->sock && bpf_map_lookup_elem(&sockets, &handle->sock)) {
		if (handle->sock != through->sock)
			count(T2P_COUNT_CONFLICT, 1);
		return 0;
	}
	process->idle = 0;
	handle->sock = through->sock;
	handle->sock_generation = through->generation;
	if (address & T2P_HANDLE_SIDE)
		note_side(address, through->sock, through->generation);
	return emit_bind(handle, address, through->fd, T2P_TUPLE_CIPHERTEXT);
}

static const u64 no_outgoing;

static __noinline int count_outgoing(s64 change)
{
	u32 tgid = current_id() >> 32;
	u64 *count = bpf_map_lookup_elem(&outgoing, &tgid);

	if (!count) {
		bpf_map_update_elem(&outgoing, &tgid, &no_outgoing, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&outgoing, &tgid);
	}
	/* A count that is too high costs only a check. */
	if (count && (change > 0 || *count))
		__sync_fetch_and_add(count, change);
	return 0;
}

static __always_inline int has_outgoing(void)
{
	u32 tgid = current_id() >> 32;
	u64 *count = bpf_map_lookup_elem(&outgoing, &tgid);

	return count && *count;
}

/* An address as a number, which is all that global functions take. */
static __always_inline u64 number(void *address)
{
	u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &address);
	return number;
}

/* The program sends these bytes. Global, like the next: the verifier walks it once. */
__noinline int sent_record(u64 sk, u64 base, u64 len)
{
	struct process *process = process_without_socket();
	struct record_socket through = { .sock = sk };
	struct record_handle *from;
	struct record_key key;
	struct handle *handle;

	if (!process || !record_key_at(&key, base, len))
		return 0;
	from = bpf_map_lookup_elem(&records_out, &key);
	if (!from)
		return 0;
	if (from->address & T2P_HANDLE_SIDE)
		count_outgoing(-1);
	handle = from->address ? find_handle(process->generation, from->address) : NULL;
	if (handle && handle->generation == from->generation) {
		through.generation = socket_generation(sk, process->generation);
		through.fd = syscall_fd();
		bind_by_record(process, handle, from->address, &through);
	}
	bpf_map_delete_elem(&records_out, &key);
	return 0;
}

/* The program has received these bytes. */
__noinline int received_record(u64 sk, u64 base, u64 len)
{
	struct process *process = process_without_socket();
	struct record_socket through = { .sock = sk }, *before;
	struct record_key key;

	if (!process || !record_key_at(&key, base, len))
		return 0;
	through.generation = socket_generation(sk, process->generation);
	through.fd = syscall_fd();
	before = bpf_map_lookup_elem(&records_in, &key);
	if (before && (before->sock != through.sock || before->generation != through.generation))
		through.sock = 0;
	if (through.generation)
		bpf_map_update_elem(&records_in, &key, &through, BPF_ANY);
	return 0;
}

/* This many records of one system call are examined, in programs with rustls. */
#define RECORDS_WALKED 16

/* Goes on to the next record in a buffer. 0: there is none. */
static __noinline int next_record(struct user_vector *at)
{
	u8 bytes[RECORD_HEADER];
	u64 len;

	if (at->len < RECORD_HEADER || bpf_probe_read_user(bytes, sizeof(bytes), (void *)at->base) || bytes[1] != 3)
		return 0;
	len = RECORD_HEADER + (bytes[3] << 8 | bytes[4]);
	if (len >= at->len)
		return 0;
	at->base += len;
	at->len -= len;
	return 1;
}

/* rustls sends each record from a separate buffer; programs may copy them into one. */
static __noinline int sent_more(u64 sk, struct user_buffers *buffers)
{
	struct user_vector at = buffers->first;

	for (u64 i = 1; i < RECORDS_WALKED; i++) {
		if (!buffers->vector || buffers->count == 1) {
			if (!next_record(&at))
				break;
		} else if (i >= buffers->count ||
			   bpf_probe_read_user(&at, sizeof(at), (void *)buffers->vector + i * sizeof(at))) {
			break;
		}
		sent_record(sk, at.base, at.len);
	}
	return 0;
}

static __noinline int received_more(u64 sk, struct user_vector *at)
{
	for (u64 i = 1; i < RECORDS_WALKED; i++) {
		if (!next_record(at))
			break;
		received_record(sk, at->base, at->len);
	}
	return 0;
}

/* The program sends. */
static __noinline int sent(struct sock *sk)
{
	struct process *process = process_without_socket();
	struct user_buffers buffers;
	u64 socket = number(sk);

	if (!process || !is_stream(sk) || !syscall_buffer(&buffers))
		return 0;
	sent_record(socket, buffers.first.base, buffers.first.len);
	if ((process->flags & PROCESS_RUSTLS) && has_outgoing())
		sent_more(socket, &buffers);
	return 0;
}

/* The program has received `len` bytes. */
static __noinline int received(struct sock *sk, u64 len)
{
	struct process *process = process_without_socket();
	struct user_buffers buffers;
	u64 socket = number(sk);

	if (!process || !is_stream(sk) || !syscall_buffer(&buffers))
		return 0;
	if (len < buffers.first.len)
		buffers.first.len = len;
	received_record(socket, buffers.first.base, buffers.first.len);
	if (process->flags & PROCESS_RUSTLS)
		received_more(socket, &buffers.first);
	return 0;
}

/* The current thread uses a socket: in a TLS call, or perhaps for what a TLS call made. */
static __always_inline void socket_used(struct sock *sk, int reading, u32 copied)
{
	socket_used_in_call(sk, reading, copied);
	if (ciphertext_wanted && !reading)
		sent(sk);
}

/* The current thread has read from a socket. */
static __always_inline void socket_received(struct sock *sk, s64 len)
{
	if (ciphertext_wanted && len >= RECORD_HEADER + RECORD_BODY_MIN)
		received(sk, len);
}

/* For mechanisms that report the beginning and end of a read separately, and its socket only at the beginning. */
static __always_inline void receive_begins(struct sock *sk, u32 copied)
{
	struct receiving receiving = { .sock = (u64)sk, .copied = copied };
	u64 id = current_id();

	if (ciphertext_wanted && process_without_socket())
		bpf_map_update_elem(&receives, &id, &receiving, BPF_ANY);
}

static __always_inline void receive_ended(void)
{
	u64 id = current_id();
	struct receiving *receiving = ciphertext_wanted ? bpf_map_lookup_elem(&receives, &id) : NULL;
	struct tcp_sock *tp;

	if (!receiving)
		return;
	tp = (void *)receiving->sock;
	socket_received((void *)tp, (s32)(BPF_CORE_READ(tp, copied_seq) - receiving->copied));
	bpf_map_delete_elem(&receives, &id);
}

/* ---- Between the library and its BIO ---- */

/* The handle whose call the current thread is in, if its socket is wanted. */
static __noinline struct handle *handle_in_call(struct process *process, struct thread *thread, u64 sp)
{
	struct call *call = call_in_progress(thread, sp);
	struct handle *handle;

	if (!call || !uses_socket(call->function))
		return NULL;
	handle = the_handle(process->generation, call->handle, call->function);
	if (!handle || (handle->sock && bpf_map_lookup_elem(&sockets, &handle->sock)))
		return NULL;
	return handle;
}

static __always_inline struct thread *thread_in_call(u64 sp)
{
	struct thread *thread = ready ? calls_at(sp) : NULL;

	return thread && thread->depth ? thread : NULL;
}

/* After this many calls of BIO functions that revealed nothing new, their probes are removed until a new handle
   appears. */
#define IDLE_CALLS 1024

static __always_inline void bio_called(struct process *process)
{
	if (++process->idle > IDLE_CALLS)
		process->flags |= PROCESS_IDLE;
}

/* For probation.bpf.h: `len` bytes at `from` go through the BIO of the call that the thread is in. */
static __noinline int records_passed(struct thread *thread, u64 sp, u64 from, u32 len, u32 writing)
{
	struct call *call = call_in_progress(thread, sp);
	struct process *process = call && uses_socket(call->function) ? current_process() : NULL;
	struct handle *handle = process ? the_handle(process->generation, call->handle, call->function) : NULL;

	if (!handle)
		return 0;
	return writing ? records_sent(handle, call->handle, from, len) :
			 records_received(handle, call->handle, from, len);
}

/* BIO_write: a record leaves the library. */
static __noinline int bio_written(struct pt_regs *ctx)
{
	struct thread *thread = thread_in_call(PT_REGS_SP(ctx));
	struct process *process = thread ? process_without_socket() : NULL;
	struct record_handle is = {}, *before;
	struct record_key key;
	struct handle *handle;
	struct call *call;

	if (thread && probation_wanted)
		records_passed(thread, PT_REGS_SP(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 1);
	if (!process)
		return 0;
	bio_called(process);
	handle = handle_in_call(process, thread, PT_REGS_SP(ctx));
	if (!handle || !record_key_at(&key, PT_REGS_PARM2(ctx), (u32)PT_REGS_PARM3(ctx)))
		return 0;
	call = &thread->calls[(thread->depth - 1) & (CALL_DEPTH - 1)];
	is.address = call->handle;
	is.generation = handle->generation;
	before = bpf_map_lookup_elem(&records_out, &key);
	/* A buffering BIO passes on what it was given: the same record of the same handle. */
	if (before && (before->address != is.address || before->generation != is.generation))
		is.address = 0;
	bpf_map_update_elem(&records_out, &key, &is, BPF_ANY);
	return 0;
}

/* BIO_read begins. */
static __noinline int bio_read_entered(struct pt_regs *ctx)
{
	struct thread *thread = thread_in_call(PT_REGS_SP(ctx));

	if (thread && (probation_wanted || process_without_socket())) {
		thread->bio_sp = PT_REGS_SP(ctx);
		thread->bio_buf = PT_REGS_PARM2(ctx);
	}
	return 0;
}

/* BIO_read returns: the library has a record, or its header. */
static __noinline int bio_read_left(struct pt_regs *ctx)
{
	u64 sp = PT_REGS_SP(ctx) + depth_of(attach_cookie(ctx));
	struct thread *thread = thread_in_call(sp);
	struct process *process = thread ? process_without_socket() : NULL;
	struct record_socket through;
	struct record_socket *found;
	struct record_key key;
	u8 bytes[RECORD_HEADER];
	s32 len = result_of(ctx);
	struct socket_state *state;
	struct handle *handle;
	struct call *call;
	u32 header;

	/* At a return instruction, or after it. */
	if (thread && thread->bio_sp != sp)
		sp = PT_REGS_SP(ctx) - RETURN_POPS;
	if (!thread || thread->bio_sp != sp)
		return 0;
	/* The same function may be probed twice. */
	thread->bio_sp = 0;
	if (probation_wanted && len > 0)
		records_passed(thread, sp, thread->bio_buf, len, 0);
	if (!process)
		return 0;
	bio_called(process);
	header = thread->bio_header;
	if (len <= 0)
		return 0;
	thread->bio_header = 0;
	handle = handle_in_call(process, thread, sp);
	if (!handle)
		return 0;
	if (len == RECORD_HEADER && !header) {
		if (!bpf_probe_read_user(bytes, sizeof(bytes), (void *)thread->bio_buf))
			thread->bio_header = parse_header(bytes);
		return 0;
	}
	if (!(header ? record_key(&key, header, thread->bio_buf, len) : record_key_at(&key, thread->bio_buf, len)))
		return 0;
	found = bpf_map_lookup_elem(&records_in, &key);
	if (!found)
		return 0;
	through = *found;
	call = &thread->calls[(thread->depth - 1) & (CALL_DEPTH - 1)];
	state = through.sock ? bpf_map_lookup_elem(&sockets, &through.sock) : NULL;
	if (state && state->generation == through.generation)
		bind_by_record(process, handle, call->handle, &through);
	bpf_map_delete_elem(&records_in, &key);
	return 0;
}

#endif
