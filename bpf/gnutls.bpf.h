/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Special cases of GnuTLS and NSS: when they take bytes, and where they keep their facts. */
#ifndef TLS2PCAP_GNUTLS_H
#define TLS2PCAP_GNUTLS_H

#include "stack.bpf.h"

#define GNUTLS_E_AGAIN (-28)
#define GNUTLS_E_INTERRUPTED (-52)
#define GNUTLS_SERVER 1 /* flags of gnutls_init */
#define GNUTLS_DATAGRAM 4
#define GNUTLS_RECORD_MAX 16384

static __always_inline int is_interrupted(u64 returned)
{
	return (s64)returned == GNUTLS_E_AGAIN || (s64)returned == GNUTLS_E_INTERRUPTED;
}

/*
 * gnutls_record_send. If the socket is full, the function has encrypted the bytes anyway, returns AGAIN, and
 * must be called again, with the same bytes or with none, until it returns their count. So they are reported
 * when they are taken: later they may no longer be in any buffer of the program. AGAIN does not say how many
 * were taken: one record at most, whose size is learned if a peer wants records shorter than usual. 0-RTT data
 * is kept until the handshake, which calls this function if it is sent at all.
 */
static __noinline s64 gnutls_sent(struct handle *handle, struct call *call, u64 returned)
{
	u64 len, skip;

	if (is_interrupted(returned)) {
		if (handle->pending || !call->num || !call->buf)
			return 0;
		len = handle->record_max ?: GNUTLS_RECORD_MAX;
		if (len > call->num)
			len = call->num;
		handle->pending = len;
	} else if ((s64)returned <= 0) {
		handle->pending = 0;
		return 0;
	} else {
		len = returned;
		skip = handle->pending;
		handle->pending = 0;
		if (skip > len) {
			handle->record_max = len;
			handle->ahead += skip - len;
			return 0;
		}
		/* A buffer that is not given again cannot be read. */
		call->buf = call->num >= len ? call->buf + skip : 0;
		len -= skip;
	}
	skip = handle->ahead;
	if (skip > len)
		skip = len;
	handle->ahead -= skip;
	call->buf += call->buf ? skip : 0;
	return len - skip;
}

/* The head of GnuTLS's mbuffer_st, which is what a gnutls_packet_t points to. */
struct gnutls_packet {
	u64 previous, next;
	u64 mark; /* bytes at the beginning that are used up */
	u64 data;
	u32 size;
};

/* gnutls_record_recv_packet: the bytes lie in a packet. If it is not what it was, they count as unreadable. */
static __noinline s64 gnutls_packet_received(struct call *call, u64 returned)
{
	struct gnutls_packet packet = {};
	u64 at = 0;

	if ((s64)returned <= 0)
		return 0;
	if (!bpf_probe_read_user(&at, sizeof(at), (void *)call->buf) &&
	    !bpf_probe_read_user(&packet, sizeof(packet), (void *)at) &&
	    packet.mark + returned == packet.size)
		call->buf = packet.data + packet.mark;
	else
		call->buf = 0;
	return returned;
}

/* As `moved`, of the calls of which the return value alone does not say it. `handle`: NULL if there is none. */
static __noinline s64 gnutls_moved(struct handle *handle, struct call *call, u64 returned)
{
	u64 before;

	switch (call->function) {
	case T2P_FN_RECV_PACKET:
		return gnutls_packet_received(call, returned);
	case T2P_FN_SEND:
		if (handle)
			return gnutls_sent(handle, call, returned);
		return (s64)returned > 0 ? (s64)returned : 0;
	case T2P_FN_SEND_PARTS:
		/* The calls inside it reported most or all; what bypassed them was not seen. */
		before = handle ? handle->write_end - call->count_at : 0;
		if (call->site == T2P_SITE_NSS_WRITEV)
			returned = (s64)(s32)returned;
		return (s64)returned > (s64)before ? (s64)(returned - before) : 0;
	}
	return 0;
}

/*
 * Whether it proves nothing that this call used no socket. Only a call that needed the socket shows that its
 * handle has none: not a send that stays in the library, a read with a time limit, or a completed handshake.
 */
static __noinline int is_quiet(struct handle *handle, struct call *call, u64 returned)
{
	switch (call->function) {
	case T2P_FN_NSS_READ:
	case T2P_FN_NSS_WRITE:
		return (s32)returned <= 0;
	case T2P_FN_HANDSHAKE:
		return call->site != T2P_SITE_GNUTLS_HANDSHAKE || !is_interrupted(returned);
	case T2P_FN_SEND:
		/* Whether an older handle is corked is unknown. */
		if (!(handle->flags & HANDLE_FRESH) || (handle->flags & HANDLE_CORKED))
			return 1;
		break;
	case T2P_FN_UNCORK:
		if ((s32)returned >= 0)
			handle->flags &= ~HANDLE_CORKED;
		return (s32)returned <= 0;
	case T2P_FN_SEND_PARTS:
		return 1;
	case T2P_FN_RECV:
		if (call->site == T2P_SITE_GNUTLS_RECV_EARLY)
			return 1;
		break;
	}
	return (s64)returned <= 0 && !is_interrupted(returned);
}

/* gnutls_init has made a handle. */
static __noinline int gnutls_made(struct process *process, u64 at, u64 flags)
{
	struct handle *handle;
	u64 address = 0;

	if (bpf_probe_read_user(&address, sizeof(address), (void *)at) || !address)
		return 0;
	handle = new_handle(process->generation, address, HANDLE_FRESH, 1);
	if (!handle)
		return 0;
	if (flags & GNUTLS_DATAGRAM)
		handle->flags |= HANDLE_NOT_TCP;
	return tell_role(handle, address, flags & GNUTLS_SERVER);
}

/* A call whose arguments are facts, once it has returned. */
static __noinline int tell_result(struct call *call, u64 returned)
{
	struct process *process = current_process();
	struct fact fact = { .address = call->handle, .fact = T2P_FACT_ALPN };
	struct handle *handle;

	if ((s32)returned || !process)
		return 0;
	if (call->function == FN_GNUTLS_INIT)
		return gnutls_made(process, call->handle, call->buf);
	handle = the_handle(process->generation, call->handle, call->function);
	if (!handle)
		return 0;
	if (call->function == FN_GNUTLS_ALPN) { /* a gnutls_datum_t */
		bpf_probe_read_user(&fact.text, sizeof(fact.text), (void *)call->buf);
		bpf_probe_read_user(&fact.text_len, sizeof(fact.text_len), (void *)call->buf + sizeof(fact.text));
	} else {
		fact.text = call->buf;
		bpf_probe_read_user(&fact.text_len, sizeof(fact.text_len), (void *)call->num);
	}
	if (call->function == FN_GNUTLS_NAME)
		fact.fact = T2P_FACT_SERVER_NAME;
	if (fact.text && fact.text_len)
		tell_once(handle, fact.fact == T2P_FACT_ALPN ? HANDLE_ALPN : HANDLE_NAME, &fact);
	return 0;
}

/* ---- NSS ---- */

/* The head of a PRFileDesc. Layers are exchanged when one is pushed: only `secret` stays with its layer. */
struct nss_layer {
	u64 methods, secret, lower;
};

/* The sslSocket of a layer that is known to be SSL's; 0: none. */
static __always_inline u64 nss_socket(u64 layer)
{
	struct nss_layer found = {};

	bpf_probe_read_user(&found, sizeof(found), (void *)layer);
	return found.secret;
}

#define NSS_LAYERS 4
#define PR_MSG_PEEK 2
#define PR_SHUTDOWN_RCV 0
#define SSL_SECURITY 1

/*
 * The same for a PRFileDesc with layers below. SSL's is known by what its sslSocket begins with: the
 * address of the PRFileDesc, or of the top, with which it was exchanged.
 */
static __noinline u64 nss_find(u64 top)
{
	struct nss_layer layer = {};
	u64 at = top, first;

	for (u32 i = 0; i < NSS_LAYERS && at; i++) {
		if (bpf_probe_read_user(&layer, sizeof(layer), (void *)at))
			return 0;
		first = 0;
		bpf_probe_read_user(&first, sizeof(first), (void *)layer.secret);
		if (first && (first == at || first == top))
			return layer.secret;
		at = layer.lower;
	}
	return 0;
}

/* SSL_ImportFD or ssl_Accept returns. The latter may already have reported the role of its new connection. */
static __noinline int nss_made(u64 layer)
{
	struct process *process = ready ? current_process() : NULL;
	u64 address = process && layer ? nss_socket(layer) : 0;
	struct handle *handle = address ? find_handle(process->generation, address) : NULL;

	if (!address)
		return 0;
	if (!handle || handle->read_end || handle->write_end)
		handle = new_handle(process->generation, address, 0, 0);
	if (handle) {
		handle->flags |= HANDLE_FRESH;
		handle->refs = 1;
	}
	return 0;
}

/* SSL_OptionSet: a connection is plain until TLS is turned on, for STARTTLS or after a proxy. */
static __noinline int nss_option_set(u64 address, u32 option, u32 on)
{
	struct process *process = ready && option == SSL_SECURITY ? current_process() : NULL;
	struct handle *handle = process ? the_handle(process->generation, address, T2P_FN_HANDSHAKE) : NULL;

	if (handle && on)
		handle->flags &= ~HANDLE_PLAIN;
	else if (handle)
		handle->flags |= HANDLE_PLAIN;
	return 0;
}

#endif
