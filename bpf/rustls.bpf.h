/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * rustls. The functions to which a program passes its plaintext are inlined, in connections that move in
 * memory. What stays in place is the key of one direction, on the heap, with the functions that encrypt and
 * decrypt one record with it: they are called through a table, so they always exist.
 *
 * Each such key is a handle. Its ciphertext reveals its socket (ciphertext.bpf.h), and user space joins the
 * handles of one socket: the two directions, and successive keys.
 *
 * It is not specified where the compiler puts the parts of arguments and results. Everything that is used is
 * proven for each record by the lengths of TLS: the overhead of encryption is known, and decrypted data is in
 * the place of the record. The number of the record, another argument, shows whether a call was missed.
 */
#ifndef TLS2PCAP_RUSTLS_H
#define TLS2PCAP_RUSTLS_H

#include "ciphertext.bpf.h"

/* Content types as rustls's enum numbers them. */
#define RUSTLS_ALERT 1
#define RUSTLS_HANDSHAKE 2
#define RUSTLS_DATA 3
#define RUSTLS_TYPES 6
#define RUSTLS_TYPE_UNKNOWN 255
/* Likewise TLS 1.2 and 1.3; both appear in messages of TLS 1.3. */
#define RUSTLS_TLS12 4
#define RUSTLS_TLS13 5

#define RECORD_ALERT 21
#define RECORD_PLAIN_MAX 16384
#define RECORD_TAG 16
#define RECORD_NONCE 8 /* explicit, of AES-GCM in TLS 1.2 */
#define ADDRESS_MIN 65536 /* no length of a record is as large as the least address */

#define RUSTLS_RESULT_WORDS 8
/* Slices of one record that are read. */
#define RUSTLS_PARTS 64

/* The result is stored where the caller says; then the arguments follow. */
#if defined(__TARGET_ARCH_x86)
#define RUSTLS_RESULT(ctx) PT_REGS_PARM1(ctx)
#define RUSTLS_SELF(ctx) PT_REGS_PARM2(ctx)
#define RUSTLS_MESSAGE(ctx) PT_REGS_PARM3(ctx)
#define RUSTLS_SEQ(ctx) PT_REGS_PARM4(ctx)
#else
#define RUSTLS_RESULT(ctx) __PT_REGS_CAST(ctx)->regs[8]
#define RUSTLS_SELF(ctx) PT_REGS_PARM1(ctx)
#define RUSTLS_MESSAGE(ctx) PT_REGS_PARM2(ctx)
#define RUSTLS_SEQ(ctx) PT_REGS_PARM3(ctx)
#endif

/* Bytes that encrypting adds to a record. */
static __always_inline u64 rustls_adds(u32 kind)
{
	if (kind & T2P_RUSTLS_GCM)
		return RECORD_NONCE + RECORD_TAG;
	return kind & T2P_RUSTLS_CHACHA ? RECORD_TAG : 1 + RECORD_TAG;
}

/* The content type of a message whose version and type are these eight bytes; RUSTLS_TYPE_UNKNOWN: they are not. */
static __always_inline u8 rustls_type(u64 word)
{
	u16 version = word;
	u8 type = word >> 32;

	if (version != RUSTLS_TLS12 && version != RUSTLS_TLS13) {
		version = word >> 16;
		type = word;
		if (version != RUSTLS_TLS12 && version != RUSTLS_TLS13)
			return RUSTLS_TYPE_UNKNOWN;
	}
	return type < RUSTLS_TYPES ? type : RUSTLS_TYPE_UNKNOWN;
}

/* The data to encrypt. */
static __noinline int rustls_outgoing(struct rustls_call *call, u64 message)
{
	u64 words[5];

	call->type = RUSTLS_TYPE_UNKNOWN;
	if (call->kind & T2P_RUSTLS_OWNED) {
		/* A slice, version and type. */
		if (bpf_probe_read_user(words, 3 * sizeof(u64), (void *)message))
			return 0;
		call->buf = words[0];
		call->len = words[1];
		call->type = rustls_type(words[2]);
	} else {
		/* Slices and which of their bytes, or nothing and a slice; version and type. */
		if (bpf_probe_read_user(words, sizeof(words), (void *)message))
			return 0;
		call->parts = words[0];
		call->count = words[1];
		call->start = words[2];
		call->len = words[3] - words[2];
		if (!call->parts) {
			call->buf = words[1];
			call->len = words[2];
		}
		call->type = rustls_type(words[4]);
	}
	call->understood = call->type != RUSTLS_TYPE_UNKNOWN && call->len <= RECORD_PLAIN_MAX;
	return 0;
}

/* The record that is decrypted. */
static __noinline int rustls_incoming(struct rustls_call *call, u64 message)
{
	u8 bytes[RECORD_HEADER];
	u64 words[4];

	if (bpf_probe_read_user(words, sizeof(words), (void *)message))
		return 0;
	if (call->kind & T2P_RUSTLS_OWNED) {
		/* A vector: its capacity, address and length, or the first two the other way round. */
		call->buf = words[0] > ADDRESS_MIN ? words[0] : words[1];
		call->len = words[2];
		call->type = rustls_type(words[3]);
		call->understood = call->type != RUSTLS_TYPE_UNKNOWN && call->buf > ADDRESS_MIN &&
				   call->len <= (words[0] > ADDRESS_MIN ? words[1] : words[0]) &&
				   call->len < ADDRESS_MIN;
		return 0;
	}
	/* A slice after the record's header, in the buffer into which it was received. */
	call->buf = words[0];
	call->len = words[1];
	if (bpf_probe_read_user(bytes, sizeof(bytes), (void *)call->buf - RECORD_HEADER))
		return 0;
	call->type = bytes[0] == RECORD_APPLICATION ? RUSTLS_DATA : RUSTLS_HANDSHAKE;
	call->understood = bytes[1] == 3 && (bytes[3] << 8 | bytes[4]) == call->len;
	return 0;
}

static __always_inline u64 rustls_handle(u64 self, u32 kind)
{
	return self | T2P_HANDLE_SIDE | (kind & T2P_RUSTLS_WRITES ? T2P_HANDLE_WRITES : 0);
}

/* No key is shorter; its beginning, or the target of a pointer in it, has unique bytes. */
#define RUSTLS_KEY_WORDS 5

/* Tells keys apart that were at one address. */
static __noinline u64 rustls_print(u64 self)
{
	u64 words[RUSTLS_KEY_WORDS], print = 0;

	if (bpf_probe_read_user(words, sizeof(words), (void *)self))
		return 0;
	for (int i = 0; i < RUSTLS_KEY_WORDS; i++)
		print = (print ^ words[i]) * 0x9e3779b97f4a7c15 + (print >> 29);
	return print;
}

/* The handle of the key with which this call begins. */
static __noinline struct handle *rustls_side(struct process *process, struct rustls_call *call, u64 print)
{
	struct handle *handle = find_handle(process->generation, call->handle);
	struct fact fact = { .address = call->handle, .fact = T2P_FACT_FREE };

	if (handle && handle->print == print && call->seq >= handle->next_seq) {
		if (call->seq > handle->next_seq)
			call_lost(process->generation, call->handle,
				  call->kind & T2P_RUSTLS_WRITES ? T2P_FN_WRITE : T2P_FN_READ, T2P_COUNT_UNFINISHED);
		handle->next_seq = call->seq;
		return handle;
	}
	if (handle)
		emit_fact(handle, &fact);
	handle = new_handle(process->generation, call->handle, call->seq ? 0 : HANDLE_FRESH, 0);
	if (handle) {
		handle->next_seq = call->seq;
		handle->print = print;
	}
	return handle;
}

static __always_inline int rustls_has_socket(struct handle *handle)
{
	return handle->sock && bpf_map_lookup_elem(&sockets, &handle->sock);
}

/* A record that was received through a socket is about to be decrypted. */
static __noinline int rustls_bind_incoming(struct process *process, struct handle *handle, struct rustls_call *call)
{
	struct record_socket through, *found;
	struct socket_state *state;
	struct record_key key;

	if (rustls_has_socket(handle) || !record_key(&key, RECORD_APPLICATION << 16 | (u16)call->len, call->buf, call->len))
		return 0;
	found = bpf_map_lookup_elem(&records_in, &key);
	if (!found)
		return 0;
	through = *found;
	state = through.sock ? bpf_map_lookup_elem(&sockets, &through.sock) : NULL;
	if (state && state->generation == through.generation)
		bind_by_record(process, handle, call->handle, &through);
	bpf_map_delete_elem(&records_in, &key);
	return 0;
}

/* A record that was encrypted will go through a socket. */
static __noinline int rustls_await_socket(struct handle *handle, struct rustls_call *call, u64 body)
{
	struct record_handle is = { .address = call->handle, .generation = handle->generation };
	struct record_key key;
	u32 len = call->len + rustls_adds(call->kind);

	if (rustls_has_socket(handle) || !record_key(&key, RECORD_APPLICATION << 16 | (u16)len, body, len))
		return 0;
	if (!bpf_map_update_elem(&records_out, &key, &is, BPF_ANY))
		count_outgoing(1);
	return 0;
}

static const struct rustls_call no_rustls_call;

/* A new entry for a call of this thread; NULL: the table is full. */
static __noinline struct rustls_call *rustls_call_of(struct process *process, u64 id)
{
	struct rustls_call *call;
	u32 user;

	rustls_call_over(id);
	user = take_room(id >> 32, ROOM_RUSTLS);
	if (!user)
		return NULL;
	if (bpf_map_update_elem(&rustls_calls, &id, &no_rustls_call, BPF_NOEXIST))
		give_room(process->generation, id >> 32, user - 1, ROOM_RUSTLS);
	call = bpf_map_lookup_elem(&rustls_calls, &id);
	if (call) {
		call->process = process->generation;
		call->user = user - 1;
	}
	return call;
}

/* An encrypting (or decrypting) function begins. */
static __noinline int rustls_entered(struct pt_regs *ctx, u32 kind)
{
	struct process *process = ready ? current_process() : NULL;
	u64 id = current_id(), self = RUSTLS_SELF(ctx);
	struct rustls_call *call;
	struct handle *handle;

	if (!process)
		return 0;
	process->flags |= PROCESS_RUSTLS;
	call = rustls_call_of(process, id);
	if (!call)
		return call_lost(process->generation, rustls_handle(self, kind),
				 kind & T2P_RUSTLS_WRITES ? T2P_FN_WRITE : T2P_FN_READ, T2P_COUNT_THREADS_FULL);
	call->sp = PT_REGS_SP(ctx);
	call->handle = rustls_handle(self, kind);
	call->entered = bpf_ktime_get_ns();
	call->seq = RUSTLS_SEQ(ctx);
	call->result = RUSTLS_RESULT(ctx);
	call->library = library_of(attach_cookie(ctx));
	call->kind = kind;
	if (kind & T2P_RUSTLS_WRITES)
		rustls_outgoing(call, RUSTLS_MESSAGE(ctx));
	else
		rustls_incoming(call, RUSTLS_MESSAGE(ctx));
	handle = rustls_side(process, call, rustls_print(self));
	if (handle && call->understood && !(kind & T2P_RUSTLS_WRITES))
		rustls_bind_incoming(process, handle, call);
	return 0;
}

/* Address of the encrypted record that the result owns, a vector of `len` bytes; 0: it is none. */
static __noinline u64 rustls_vector(u64 result, u64 len)
{
	u64 words[RUSTLS_RESULT_WORDS];

	if (bpf_probe_read_user(words, sizeof(words), (void *)result))
		return 0;
	for (int i = 0; i + 2 < RUSTLS_RESULT_WORDS; i++) {
		/* Capacity, address and length, or the first two the other way round. */
		if (words[i + 2] != len)
			continue;
		if (words[i] >= len && words[i] < 2 * ADDRESS_MIN && words[i + 1] > ADDRESS_MIN)
			return words[i + 1];
		if (words[i + 1] >= len && words[i + 1] < 2 * ADDRESS_MIN && words[i] > ADDRESS_MIN)
			return words[i];
	}
	return 0;
}

/* Whether a record of TLS 1.3 at `buf`, decrypted in place, has `len` bytes of content. Tells its type. */
static __noinline int rustls_is_content(struct rustls_call *call, u64 len)
{
	u64 most = call->len - RECORD_TAG - 1;
	u8 type = 0, last = 0;

	/* Content, its type, and padding of zeros. */
	if (call->len <= RECORD_TAG || len > most || bpf_probe_read_user(&type, 1, (void *)call->buf + len) ||
	    bpf_probe_read_user(&last, 1, (void *)call->buf + most) || (len < most && last))
		return 0;
	if (type != RECORD_APPLICATION && type != RECORD_HANDSHAKE && type != RECORD_ALERT)
		return 0;
	call->type = type == RECORD_APPLICATION ? RUSTLS_DATA : RUSTLS_HANDSHAKE;
	return 1;
}

/* How many bytes were decrypted in place, by the result; -1: none, it is an error. Also returns their address. */
static __noinline s64 rustls_decrypted(struct rustls_call *call)
{
	u64 words[RUSTLS_RESULT_WORDS];
	u64 known = call->len - rustls_adds(call->kind), len = ~0ULL;
	/* The nonce stays before them with aws-lc-rs; with ring they take its place. */
	u64 behind = call->buf + (call->kind & T2P_RUSTLS_GCM ? RECORD_NONCE : 0);

	if (bpf_probe_read_user(words, sizeof(words), (void *)call->result))
		return -1;
	/* Behind the address its length, or the capacity, which is no less than the record, and the length. */
	for (int i = 0; i + 2 < RUSTLS_RESULT_WORDS; i++) {
		if (len != ~0ULL || (words[i] != call->buf && words[i] != behind))
			continue;
		len = words[i + 1] < call->len ? words[i + 1] : words[i + 2];
		call->buf = words[i];
	}
	if (len > RECORD_PLAIN_MAX)
		return -1;
	if (call->kind & (T2P_RUSTLS_GCM | T2P_RUSTLS_CHACHA))
		return len == known ? (s64)len : -1;
	return rustls_is_content(call, len) ? (s64)len : -1;
}

/* Moves the stream of one side on. */
static __noinline int rustls_describe(struct handle *handle, struct rustls_call *call, u64 len)
{
	struct t2p_data *data = &call->data;

	head(&data->head, T2P_DATA, handle->process, call->library);
	data->handle = call->handle;
	data->generation = handle->generation;
	data->entered = call->entered;
	data->returned = bpf_ktime_get_ns();
	data->call_len = len;
	data->chunk_len = len;
	data->tuple_source = rustls_has_socket(handle) ? T2P_TUPLE_REMEMBERED : T2P_TUPLE_NONE;
	if (call->kind & T2P_RUSTLS_WRITES) {
		data->function = T2P_FN_WRITE;
		data->direction = T2P_WRITE;
		data->call_offset = handle->write_end;
		data->call_seq = handle->write_seq++;
		handle->write_end += len;
	} else {
		data->function = T2P_FN_READ;
		data->direction = T2P_READ;
		data->call_offset = handle->read_end;
		data->call_seq = handle->read_seq++;
		handle->read_end += len;
	}
	if (handle->lost[data->direction ? T2P_WRITE : T2P_READ])
		tell_lost(handle, call->handle, data->direction, T2P_COUNT_UNFINISHED);
	count(T2P_COUNT_CALLS, 1);
	count(T2P_COUNT_BYTES, len);
	return 0;
}

/* Emits the next slice of the current thread's call. Global: the verifier walks it once. 1: that is all. */
__noinline int rustls_part(u64 index)
{
	u64 id = current_id(), from, to, before, end;
	struct rustls_call *call = bpf_map_lookup_elem(&rustls_calls, &id);
	struct user_vector slice;

	if (!call || index >= call->count ||
	    bpf_probe_read_user(&slice, sizeof(slice), (void *)call->parts + index * sizeof(slice)))
		return 1;
	before = call->seen;
	end = call->start + call->len;
	call->seen = before + slice.len;
	from = call->start > before ? call->start - before : 0;
	to = end - before < slice.len ? end - before : slice.len;
	if (from < to && to - from <= RECORD_PLAIN_MAX) {
		call->data.chunk_len = to - from;
		emit_chunk(&call->data, slice.base + from, wanted(to - from));
		call->data.chunk_offset += to - from;
	}
	return call->seen >= end;
}

static __always_inline int rustls_emit(struct rustls_call *call, u64 len)
{
	struct t2p_data *data = &call->data;

	if (!call->parts || !(call->kind & T2P_RUSTLS_WRITES))
		return emit_chunk(data, call->buf, wanted(len));
	for (u64 i = 0; i < RUSTLS_PARTS; i++) {
		if (rustls_part(i))
			break;
	}
	if (data->chunk_offset < len)
		emit_missing(data, len - data->chunk_offset, T2P_MISSING_LIMIT, T2P_COUNT_LIMIT);
	return 0;
}

/* An alert that announces that nothing follows. */
static __noinline int rustls_tell_end(struct handle *handle, struct rustls_call *call)
{
	struct fact fact = { .address = call->handle, .fact = T2P_FACT_SHUTDOWN };
	u8 description = 1;

	if (call->len == 2 && !call->parts && !bpf_probe_read_user(&description, 1, (void *)call->buf + 1) && !description)
		tell_once(handle, HANDLE_SHUTDOWN, &fact);
	return 0;
}

/* The same of an encrypting one. */
static __noinline int rustls_encrypted(struct process *process, struct handle *handle, struct rustls_call *call)
{
	u64 prefix = call->kind & T2P_RUSTLS_OWNED ? 0 : RECORD_HEADER, vector = 0;

	if (call->understood)
		vector = rustls_vector(call->result, call->len + rustls_adds(call->kind) + prefix);
	handle->next_seq = call->seq + 1;
	if (!vector) {
		/* Failed, which ends the connection; or nothing is at the expected address. */
		call_lost(process->generation, call->handle, T2P_FN_WRITE, T2P_COUNT_UNFINISHED);
		return 0;
	}
	rustls_await_socket(handle, call, vector + prefix);
	if (call->type == RUSTLS_ALERT)
		rustls_tell_end(handle, call);
	if (call->type != RUSTLS_DATA || !call->len)
		return 0;
	rustls_describe(handle, call, call->len);
	return 1;
}

/* The previous key of its direction is done: its end is reported. */
static __noinline int rustls_settle(struct process *process, struct handle *handle, u64 address)
{
	struct socket_sides *sides = handle->sock ? bpf_map_lookup_elem(&socket_sides, &handle->sock) : NULL;
	u32 direction = address & T2P_HANDLE_WRITES ? T2P_WRITE : T2P_READ;
	struct fact fact = { .fact = T2P_FACT_FREE };
	struct handle *before;

	if (!sides || sides->now[direction] != address || !sides->before[direction])
		return 0;
	fact.address = sides->before[direction];
	sides->before[direction] = 0;
	before = find_handle(process->generation, fact.address);
	if (!before || before->sock != handle->sock || before->sock_generation != handle->sock_generation)
		return 0;
	emit_fact(before, &fact);
	return forget_handle(fact.address, current_id() >> 32);
}

/* A decrypting function returns. 1: what it describes must be emitted. */
static __noinline int rustls_opened(struct handle *handle, struct rustls_call *call)
{
	s64 len = call->understood ? rustls_decrypted(call) : -1;

	/* An error decrypts nothing, and is no record: the next one has its number. */
	if (len < 0)
		return 0;
	handle->next_seq = call->seq + 1;
	if (!len || call->type != RUSTLS_DATA)
		return 0;
	rustls_describe(handle, call, len);
	return 1;
}

/* An encrypting or decrypting function returns. */
static __always_inline int rustls_left(struct pt_regs *ctx)
{
	u64 id = current_id();
	u32 tgid = id >> 32;
	struct rustls_call *call = ready ? bpf_map_lookup_elem(&rustls_calls, &id) : NULL;
	struct process *process = call ? bpf_map_lookup_elem(&processes, &tgid) : NULL;
	struct handle *handle;

	/* At a return instruction, or after it. */
	if (!process || (call->sp != PT_REGS_SP(ctx) + depth_of(attach_cookie(ctx)) &&
			 call->sp != PT_REGS_SP(ctx) - RETURN_POPS))
		return 0;
	handle = find_handle(process->generation, call->handle);
	if (handle) {
		rustls_settle(process, handle, call->handle);
		if (call->kind & T2P_RUSTLS_WRITES ? rustls_encrypted(process, handle, call) : rustls_opened(handle, call))
			rustls_emit(call, call->data.call_len);
	} else if (call->type == RUSTLS_DATA && call->understood) {
		lost(process->generation, T2P_COUNT_HANDLES_FULL, call->len);
	}
	return rustls_call_over(id);
}

#endif
