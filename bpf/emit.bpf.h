/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The ring, and what is common to its records. Payload is read from the program straight into the
 * reserved record: a scratch buffer in between can be overwritten by another process on
 * preemptible kernels.
 */
#ifndef TLS2PCAP_EMIT_H
#define TLS2PCAP_EMIT_H

#include "maps.bpf.h"

/* User space polls every few milliseconds; it is woken when this much waits. Set before loading. */
const volatile u64 wake_bytes = 256 << 10;

/* The reader stays awake for a while: if it is behind, not every record needs to wake it. */
#define WAKE_INTERVAL 500000 /* ns */
u64 woken_at;

static __always_inline u64 wake(void)
{
	u64 now;

	if (!wake_bytes)
		return BPF_RB_FORCE_WAKEUP;
	if (bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) < wake_bytes)
		return BPF_RB_NO_WAKEUP;
	now = bpf_ktime_get_ns();
	if (now - woken_at < WAKE_INTERVAL)
		return BPF_RB_NO_WAKEUP;
	/* Two processors may do so at the same time; that is one wake-up too many. */
	woken_at = now;
	return BPF_RB_FORCE_WAKEUP;
}

/* Position of the next record in the ring: what is put into `notices` now is placed before it. */
static __always_inline u64 place_in_ring(void)
{
	return bpf_ringbuf_query(&ring, BPF_RB_PROD_POS);
}

static __always_inline void head(struct t2p_head *h, u16 type, u64 process, u32 library)
{
	u64 id = current_id();

	h->type = type;
	h->reserved = 0;
	h->tgid = id >> 32;
	h->tid = (u32)id;
	h->library = library;
	h->process = process;
}

extern int bpf_probe_read_user_dynptr(struct bpf_dynptr *to, u64 offset, u64 size, const void *from) __ksym __weak;

/* Counts bytes as lost under `reason`; the counter of bytes is the next. */
__noinline int lost_bytes(u64 process, u32 reason, u64 bytes)
{
	count(reason + 1, bytes);
	return lost(process, reason, bytes);
}

static __always_inline void unreadable(struct t2p_data *data)
{
	data->captured = 0;
	data->missing = T2P_MISSING_UNREADABLE;
	lost_bytes(data->head.process, T2P_COUNT_UNREADABLE, data->chunk_len);
}

/* Emits a record of exact size (from Linux 6.16 on, 03513f5d0f37). 1: done; 0: the ring is full. */
static __noinline int emit_exact(struct t2p_data *data, u64 from, u64 len)
{
	struct bpf_dynptr record;

	len &= 0xffff; /* at most T2P_CHUNK_MAX */
	if (bpf_ringbuf_reserve_dynptr(&ring, sizeof(*data) + len, 0, &record)) {
		bpf_ringbuf_discard_dynptr(&record, BPF_RB_NO_WAKEUP);
		return 0;
	}
	if (bpf_probe_read_user_dynptr(&record, sizeof(*data), len, (void *)from))
		unreadable(data);
	bpf_dynptr_write(&record, 0, data, sizeof(*data), 0);
	bpf_ringbuf_submit_dynptr(&record, wake());
	return 1;
}

/*
 * Reserves a record for SIZE bytes of payload, copies the header and the payload. 1: done; 0: the ring is full.
 */
#define EMIT_CLASS(NAME, SIZE)                                                                 \
	static __always_inline int emit_##NAME(struct t2p_data *data, u64 from, u64 len)       \
	{                                                                                      \
		struct record {                                                                \
			struct t2p_data data;                                                  \
			u8 payload[SIZE];                                                      \
		} *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);                    \
		if (!record)                                                                   \
			return 0;                                                              \
		/* The verifier must see the bound on the very register that is passed. */    \
		asm volatile("" : "+r"(len));                                                  \
		if (len > SIZE)                                                                \
			len = SIZE;                                                            \
		if (bpf_probe_read_user(record->payload, len, (void *)from))                   \
			unreadable(data);                                                      \
		record->data = *data;                                                          \
		bpf_ringbuf_submit(record, wake());                                            \
		return 1;                                                                      \
	}

EMIT_CLASS(256, 256)
EMIT_CLASS(1536, 1536)
EMIT_CLASS(4352, 4352)
EMIT_CLASS(16640, 16640)
EMIT_CLASS(largest, T2P_CHUNK_MAX)

/* How much of a record of `len` bytes is wanted. For a constant the verifier knows the answer. */
static __always_inline u64 wanted(u64 len)
{
	return len > snaplen ? snaplen : len;
}

/* Emits data->chunk_len bytes (at most T2P_CHUNK_MAX) at `from`, of which `len` are wanted. */
static __noinline int emit_chunk(struct t2p_data *data, u64 from, u64 len)
{
	int done;

	data->captured = len;
	data->missing = len < data->chunk_len ? T2P_MISSING_SNAPLEN : T2P_MISSING_NONE;
	if (bpf_ksym_exists(bpf_probe_read_user_dynptr))
		done = emit_exact(data, from, len);
	else if (len <= 256)
		done = emit_256(data, from, len);
	else if (len <= 1536)
		done = emit_1536(data, from, len);
	else if (len <= 4352)
		done = emit_4352(data, from, len);
	else if (len <= 16640)
		done = emit_16640(data, from, len);
	else
		done = emit_largest(data, from, len);
	if (!done) {
		lost_bytes(data->head.process, T2P_COUNT_RING_FULL, data->chunk_len);
	} else if (data->missing == T2P_MISSING_SNAPLEN) {
		count(T2P_COUNT_SNAPLEN, 1);
		count(T2P_COUNT_SNAPLEN_BYTES, data->chunk_len - len);
	}
	return 0;
}

/* Emits a record for bytes of which none is captured, for the reason given and counted there. */
static __noinline int emit_missing(struct t2p_data *data, u64 len, u32 reason, u32 counter)
{
	data->chunk_len = len;
	data->captured = 0;
	data->missing = reason;
	if (bpf_ringbuf_output(&ring, data, sizeof(*data), wake()))
		counter = T2P_COUNT_RING_FULL;
	return lost_bytes(data->head.process, counter, len);
}

struct chunks {
	struct t2p_data *data;
	/* Progress is kept in the map: values that the verifier cannot track need not be walked again and
	   again. */
	struct thread *thread;
	u64 from;
};

/* Emits T2P_CHUNK_MAX bytes of a long call. 1: fewer are left. */
static __noinline int next_chunk(struct chunks *chunks)
{
	u64 done = chunks->thread->done;

	if (chunks->thread->todo - done < T2P_CHUNK_MAX)
		return 1;
	chunks->data->chunk_offset = done;
	chunks->data->chunk_len = T2P_CHUNK_MAX;
	emit_chunk(chunks->data, chunks->from + done, wanted(T2P_CHUNK_MAX));
	chunks->thread->done = done + T2P_CHUNK_MAX;
	return 0;
}

static int next_chunk_callback(u32 i, void *context)
{
	return next_chunk(context);
}

/* Enough for T2P_CALL_MAX. */
#define CHUNKS_LOOP 2048
_Static_assert((u64)CHUNKS_LOOP * T2P_CHUNK_MAX >= T2P_CALL_MAX, "bpf_loop ends before the longest call does");

/*
 * Emits the payload of a whole call, up to the limit, and reports what is beyond it. `has_loop`: a constant,
 * whether the kernel has bpf_loop.
 */
static __always_inline void emit_call(struct t2p_data *data, struct thread *thread, u64 from, int has_loop)
{
	struct chunks chunks = { .data = data, .thread = thread, .from = from };
	u64 limit = call_limit, rest;

	if (!has_loop && limit > T2P_CHUNKS_UNROLLED * T2P_CHUNK_MAX)
		limit = T2P_CHUNKS_UNROLLED * T2P_CHUNK_MAX;
	thread->done = 0;
	thread->todo = data->call_len > limit ? limit : data->call_len;
	if (has_loop) {
		if (thread->todo >= T2P_CHUNK_MAX)
			bpf_loop(CHUNKS_LOOP, next_chunk_callback, &chunks, 0);
	} else {
		/* One less: the rest is emitted separately. */
		for (int i = 0; i < T2P_CHUNKS_UNROLLED - 1; i++)
			if (next_chunk(&chunks))
				break;
	}
	rest = thread->todo - thread->done;
	if (rest > T2P_CHUNK_MAX)
		rest = T2P_CHUNK_MAX;
	if (rest) {
		data->chunk_offset = thread->done;
		data->chunk_len = rest;
		emit_chunk(data, from + thread->done, wanted(rest));
		thread->done += rest;
	}
	if (thread->done < data->call_len) {
		u64 beyond = data->call_len - thread->done;

		data->chunk_offset = thread->done;
		emit_missing(data, beyond, T2P_MISSING_LIMIT, T2P_COUNT_LIMIT);
	}
}

#endif
