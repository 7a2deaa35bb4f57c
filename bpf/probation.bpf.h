/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * SSL_read and SSL_write that were found in code without names (src/discover/boring, src/discover/openssl) must prove themselves
 * while the program runs. The traffic through the library's BIOs is independent evidence: no more bytes can be
 * written than the records that leave can carry, and none can be read that no record brought in. Each call is
 * checked against that before anything of it is emitted. If a call makes or takes exactly one record, or
 * several calls take one in pieces, the record must be longer by the overhead of encryption; enough of those
 * end the probation. One contradiction rejects the library: from then on nothing of it is emitted, and user
 * space removes its probes.
 */
#ifndef TLS2PCAP_PROBATION_H
#define TLS2PCAP_PROBATION_H

#include "handles.bpf.h"

#define RECORD_HEADER 5
#define RECORD_APPLICATION 23
#define RECORD_PLAIN_MAX 16384
/* What sealing adds to a record's body: a tag, at least; at most vector, MAC and padding. */
#define SEAL_MIN 16
#define SEAL_MAX 96
/* What a handle older than the capture may hold of a record that was not seen. */
#define PENDING_MAX 18432
/* With a site, the key of the evidence found here; proof.bpf.h has its own. */
#define PROBATION_EVIDENCE (1 << T2P_COOKIE_PROBATION)
/* Records that leave together; those of the handshake leave with the first one of data. */
#define RECORDS_AT_ONCE 8

static const struct record_flow no_flow;

/* The records of a handle. */
static __noinline struct record_flow *flow_of(struct handle *handle, u64 address)
{
	struct handle_key key = { .address = address, .tgid = current_id() >> 32 };
	struct record_flow *flow = bpf_map_lookup_elem(&flows, &key);
	u64 ahead = PENDING_MAX;

	if (flow && flow->generation == handle->generation)
		return flow;
	bpf_map_update_elem(&flows, &key, &no_flow, BPF_ANY);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return NULL;
	if ((handle->flags & HANDLE_FRESH) && !handle->read_seq && !handle->write_seq)
		ahead = 0;
	flow->generation = handle->generation;
	flow->read.end = handle->read_end + ahead;
	flow->write.end = handle->write_end + ahead;
	return flow;
}

/* An application record with a body of this many bytes is sent or received. */
static __always_inline void record_seen(struct record_way *way, u32 body)
{
	if (body > SEAL_MIN)
		way->end += body - SEAL_MIN;
	way->body = body;
	way->records++;
}

/* The library passes records to its BIO. If that does not take all of them, the rest or the same follows again. */
static __noinline int records_sent(struct handle *handle, u64 address, u64 from, u64 len)
{
	struct record_flow *flow = flow_of(handle, address);
	u8 header[8];
	u64 at = 0, sealed = 0;

	if (!flow)
		return 0;
	for (u32 i = 0; i < RECORDS_AT_ONCE; i++) {
		u32 body;

		if (at + RECORD_HEADER > len || bpf_probe_read_user(header, RECORD_HEADER, (void *)from + at) ||
		    header[1] != 3 || header[0] < 20 || header[0] > 24)
			break;
		body = header[3] << 8 | header[4];
		if (header[0] == RECORD_APPLICATION && body > SEAL_MIN) {
			if (!sealed) {
				/* After an explicit nonce in plain; no two records have the same. */
				if (bpf_probe_read_user(&sealed, sizeof(sealed), (void *)from + at + RECORD_HEADER + 8))
					break;
				if (sealed == flow->last)
					break;
				flow->last = sealed;
			}
			record_seen(&flow->write, body);
		}
		at += RECORD_HEADER + body;
	}
	return 0;
}

/* The library has got bytes from its BIO: it asks for a record's header, then for its body. */
static __noinline int records_received(struct handle *handle, u64 address, u64 from, u32 len)
{
	struct record_flow *flow = flow_of(handle, address);
	u32 have, taken, body;

	if (!flow)
		return 0;
	taken = len < flow->left ? len : flow->left;
	flow->left -= taken;
	len -= taken;
	if (!len)
		return 0;
	have = flow->have;
	if (taken || have >= RECORD_HEADER || len > RECORD_HEADER - have) {
		/* It reads in another way: then no more is known than how many bytes there were. */
		flow->have = 0;
		flow->read.end += len;
		return 0;
	}
	len &= 7;
	if (bpf_probe_read_user(flow->header + (have & 7), len, (void *)from))
		return 0;
	flow->have = have + len;
	if (flow->have < RECORD_HEADER)
		return 0;
	flow->have = 0;
	if (flow->header[1] != 3 || flow->header[0] < 20 || flow->header[0] > 24) {
		flow->read.end += RECORD_HEADER;
		return 0;
	}
	body = flow->header[3] << 8 | flow->header[4];
	flow->left = body;
	if (flow->header[0] == RECORD_APPLICATION)
		record_seen(&flow->read, body);
	return 0;
}

/*
 * A call of a function whose cookie is `site`, on the handle at `address`, moved `len` bytes, of `num` at most.
 * Returns how many count; -1: some were moved that do not. A global function: the verifier walks it once, not
 * for each path to it.
 */
__noinline s64 on_probation(u64 generation, u64 address, u64 site, u64 num, s64 len)
{
	struct process *process;
	u32 tgid = current_id() >> 32;
	u64 key = site | PROBATION_EVIDENCE;
	u32 writing = site_of(site) == T2P_SITE_WRITE;
	struct record_flow *flow;
	struct record_way *way;
	struct evidence *seen;
	struct handle *handle;
	u64 before, taken;
	u32 records;

	if (!probation_wanted || len <= 0)
		return len;
	if (verdict_of(library_of(site), site_of(site)) != VERDICT_PROBATION)
		return len;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process || process->generation != generation)
		return -1;
	/*
	 * What BIO_read receives on other stacks is not seen, and a record may arrive there and be read here:
	 * so for such a process reads count neither for nor against it.
	 */
	if (!writing && !by_returns && (process->flags & PROCESS_STACKS))
		return -1;
	seen = bpf_map_lookup_elem(&evidence, &key);
	handle = find_handle(process->generation, address);
	/* Its records are others, and it is never written. */
	if (handle && handle->flags & HANDLE_NOT_TCP)
		return len;
	flow = handle ? flow_of(handle, address) : NULL;
	if (!seen || !flow || seen->disagreed)
		return -1;
	way = writing ? &flow->write : &flow->read;
	records = way->records;
	way->records = 0;
	/* A read ends with its record at the latest, so what it has got is of the last one. */
	before = records || writing ? 0 : way->taken;
	taken = before + len;
	way->taken = (records || before) && taken < way->body ? taken : 0;
	if ((u64)len > num || (writing ? handle->write_end : handle->read_end) + len > way->end) {
		__sync_fetch_and_add(&seen->disagreed, 1);
		return -1;
	}
	/* Each record agrees once: with the call that leaves nothing of it but what sealing adds. */
	if ((records == 1 || (!records && before && before + SEAL_MAX < way->body)) &&
	    way->body >= taken + SEAL_MIN && way->body <= taken + SEAL_MAX)
		__sync_fetch_and_add(&seen->agreed, 1);
	else if (!seen->agreed && !records && (!before || taken + SEAL_MIN > way->body))
		return -1;
	return len;
}

#endif
