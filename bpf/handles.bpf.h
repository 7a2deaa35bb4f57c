/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* TLS handles: their state, and facts about them. */
#ifndef TLS2PCAP_HANDLES_H
#define TLS2PCAP_HANDLES_H

#include "process.bpf.h"
#include "room.bpf.h"
#include "proof.bpf.h"
#include "returns.bpf.h"

/* Calls that only report facts; never in a data record, hence not in tls2pcap.h. */
#define FN_SERVER_NAME 32
#define FN_ALPN 33
#define FN_GNUTLS_INIT 34
#define FN_GNUTLS_NAME 35
#define FN_GNUTLS_ALPN 36
#define FN_NSS_PROTO 37

static const struct handle no_handle;

/* A call in which the handle's socket may be used. */
static __always_inline int uses_socket(u32 fn)
{
	return fn < FN_SERVER_NAME;
}

/* The state of a handle; NULL if there is none. */
static __always_inline struct handle *find_handle(u64 generation, u64 address)
{
	struct handle_key key = { .address = address, .tgid = current_id() >> 32 };
	struct handle *handle = bpf_map_lookup_elem(&handles, &key);

	return handle && handle->process == generation ? handle : NULL;
}

/* A new state for a handle, in place of an existing one. */
static __noinline struct handle *new_handle(u64 generation, u64 address, u32 flags, u32 refs)
{
	struct handle_key key = { .address = address, .tgid = current_id() >> 32 };
	struct handle *handle;
	u32 user;

	forget_handle(address, key.tgid);
	user = take_room(key.tgid, ROOM_HANDLES);
	if (!user)
		return NULL;
	/* Not by way of the stack, of which old kernels have too little here. */
	if (bpf_map_update_elem(&handles, &key, &no_handle, BPF_NOEXIST)) {
		give_room(generation, key.tgid, user - 1, ROOM_HANDLES);
		/* Another thread may be first: then its entry is the one. */
		return bpf_map_lookup_elem(&handles, &key);
	}
	handle = bpf_map_lookup_elem(&handles, &key);
	if (!handle)
		return NULL;
	handle->user = user - 1;
	handle->generation = bpf_ktime_get_ns();
	handle->flags = flags;
	handle->refs = refs;
	handle->process = generation;
	return handle;
}

static __always_inline struct handle *the_handle(u64 generation, u64 address, u32 function)
{
	struct handle *handle = find_handle(generation, address);

	return handle ?: new_handle(generation, address, function == T2P_FN_HANDSHAKE ? HANDLE_FRESH : 0, 0);
}

struct fact {
	u64 address;
	u64 other;
	u64 other_generation;
	u64 text; /* address in the program; 0: none */
	u32 text_len; /* 0: up to the NUL */
	u32 call_seq;
	u8 fact;
	u8 direction;
};

/* The fields that every fact of a handle has; the others are empty. */
static __always_inline void describe_handle(struct t2p_handle *record, struct handle *handle, u64 address)
{
	head(&record->head, T2P_HANDLE, handle->process, 0);
	record->handle = address;
	record->generation = handle->generation;
	record->time = bpf_ktime_get_ns();
	record->read_end = handle->read_end;
	record->write_end = handle->write_end;
}

/*
 * The ring has no room for the end of a handle, without which it is unknown what its streams lack there. The
 * fact itself is in the stack of the caller's caller, which the verifier of 7.3 does not accept.
 */
static __noinline int keep_end(struct handle *handle, u64 address)
{
	struct ended_key key = { .generation = handle->generation, .tgid = current_id() >> 32 };
	struct t2p_handle *record;

	bpf_map_update_elem(&ended, &key, &no_record, BPF_NOEXIST);
	record = bpf_map_lookup_elem(&ended, &key);
	if (!record)
		return 0;
	describe_handle(record, handle, address);
	/* Last: a record with it is complete. */
	asm volatile("" ::: "memory");
	record->fact = T2P_FACT_FREE;
	return 1;
}

/* Reports a fact; 1 if the ring accepted it. */
static __noinline int emit_fact(struct handle *handle, struct fact *fact)
{
	struct t2p_handle *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	u64 len = fact->text_len;
	long n;

	if (!record) {
		if (fact->fact != T2P_FACT_FREE || !keep_end(handle, fact->address))
			lost(handle->process, T2P_COUNT_FACT_LOST, 0);
		return 0;
	}
	describe_handle(record, handle, fact->address);
	record->other = fact->other;
	record->other_generation = fact->other_generation;
	record->call_seq = fact->call_seq;
	record->fact = fact->fact;
	record->direction = fact->direction;
	record->text_len = 0;
	n = 1;
	if (fact->text && len) {
		asm volatile("" : "+r"(len));
		if (len > T2P_TEXT_LEN)
			len = T2P_TEXT_LEN;
		n = bpf_probe_read_user(record->text, len, (void *)fact->text) ? -1 : 1;
		record->text_len = len;
	} else if (fact->text) {
		n = bpf_probe_read_user_str(record->text, T2P_TEXT_LEN, (void *)fact->text);
		record->text_len = n > 0 ? n - 1 : 0;
	}
	if (n < 0) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return 0;
	}
	bpf_ringbuf_submit(record, wake());
	return 1;
}

/* Reports a fact that is reported once for each handle. */
static __always_inline void tell_once(struct handle *handle, u32 flag, struct fact *fact)
{
	if (!(handle->flags & flag) && emit_fact(handle, fact))
		handle->flags |= flag;
}

static __noinline int tell_role(struct handle *handle, u64 address, u32 server)
{
	struct fact fact = { .address = address, .fact = server ? T2P_FACT_SERVER : T2P_FACT_CLIENT };

	tell_once(handle, server ? HANDLE_SERVER : HANDLE_CLIENT, &fact);
	return 0;
}

/*
 * Reports the server's name. A constant that was never read may not be in memory, and a probe cannot wait for
 * it: then it is read when the handle's next call has returned.
 */
static __noinline int tell_name(struct handle *handle, u64 address, u64 text, u32 len)
{
	struct fact fact = { .address = address, .fact = T2P_FACT_SERVER_NAME, .text = text, .text_len = len };

	tell_once(handle, HANDLE_NAME, &fact);
	return 0;
}

/* Reports that a call moved bytes of which nothing is known; later, if the ring is full now. */
static __noinline int tell_lost(struct handle *handle, u64 address, u32 writing, u32 reason)
{
	struct fact fact = {
		.address = address,
		.fact = T2P_FACT_CALL_LOST,
		.direction = writing ? T2P_WRITE : T2P_READ,
		.call_seq = reason,
	};

	handle->lost[writing ? T2P_WRITE : T2P_READ] = !emit_fact(handle, &fact);
	return 0;
}

/*
 * A call of the process of this generation, on the handle at `address`, is not followed to its return: if it
 * may have moved bytes, they are lost. A global function, like all here that take only numbers: the verifier
 * walks it once, not at each call.
 */
__noinline int call_lost(u64 generation, u64 address, u32 function, u32 reason)
{
	u32 writing = is_write(function);
	struct handle *handle;

	if (!writing && !is_read(function))
		return 0;
	handle = the_handle(generation, address, function);
	if (handle && (handle->flags & HANDLE_NOT_TCP))
		return 0;
	lost(generation, reason, 0);
	if (!handle)
		return 0;
	tell_lost(handle, address, writing, reason);
	if (writing)
		handle->inflight = 0;
	return 0;
}

#endif
