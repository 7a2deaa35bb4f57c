/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What each probed function of a library means: how its arguments are read and what is done. */
#ifndef TLS2PCAP_SITES_H
#define TLS2PCAP_SITES_H

#include "ciphertext.bpf.h"

#define SSL_CTRL_SET_TLSEXT_HOSTNAME 55

static __noinline int role_told(u64 address, u32 server)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? the_handle(process->generation, address, T2P_FN_HANDSHAKE) : NULL;

	return handle ? tell_role(handle, address, server) : 0;
}

/* The program names its server: text of this length, or (0) up to the NUL. */
static __noinline int name_told(u64 address, u64 text, u32 len)
{
	struct process *process = ready && text ? current_process() : NULL;
	struct handle *handle = process ? the_handle(process->generation, address, T2P_FN_HANDSHAKE) : NULL;

	if (!handle)
		return 0;
	tell_name(handle, address, text, len);
	if (!(handle->flags & HANDLE_NAME)) {
		handle->name_at = text;
		handle->name_len = len;
	}
	return 0;
}

static __noinline int ctrl_called(struct pt_regs *ctx)
{
	if ((u32)PT_REGS_PARM2(ctx) != SSL_CTRL_SET_TLSEXT_HOSTNAME)
		return 0;
	return name_told(PT_REGS_PARM1(ctx), PT_REGS_PARM4(ctx), 0);
}

static __noinline int reference_taken(struct pt_regs *ctx)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process->generation, PT_REGS_PARM1(ctx)) : NULL;

	if (handle && handle->refs)
		__sync_fetch_and_add(&handle->refs, 1);
	return 0;
}

static __noinline int handle_made(u64 address)
{
	struct process *process = ready ? current_process() : NULL;

	if (process && address)
		new_handle(process->generation, address, HANDLE_FRESH, 1);
	return 0;
}

static __noinline int handle_corked(u64 address)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process->generation, address) : NULL;

	if (handle)
		handle->flags |= HANDLE_CORKED;
	return 0;
}

/* A probed function of GnuTLS or NSS begins. 1: it is a call, as `args` describes. */
static __noinline int other_site_entered(u32 site, struct arguments *args)
{
	switch (site) {
	case T2P_SITE_GNUTLS_SEND:
		args->function = T2P_FN_SEND;
		return 1;
	case T2P_SITE_GNUTLS_SEND_RANGE:
		args->function = T2P_FN_SEND_RANGE;
		return 1;
	case T2P_SITE_GNUTLS_SEND_FILE:
	case T2P_SITE_NSS_WRITEV:
		args->function = T2P_FN_SEND_PARTS;
		break;
	case T2P_SITE_GNUTLS_CORK:
		handle_corked(args->handle);
		return 0;
	case T2P_SITE_GNUTLS_UNCORK:
		args->function = T2P_FN_UNCORK;
		return 1;
	case T2P_SITE_GNUTLS_RECV:
	case T2P_SITE_GNUTLS_RECV_EARLY:
		args->function = T2P_FN_RECV;
		return 1;
	case T2P_SITE_GNUTLS_RECV_PACKET:
		args->function = T2P_FN_RECV_PACKET;
		return 1;
	case T2P_SITE_GNUTLS_HANDSHAKE:
	case T2P_SITE_NSS_FORCE:
		args->function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_GNUTLS_INIT: /* where the handle is put; flags */
		args->function = FN_GNUTLS_INIT;
		return 1;
	case T2P_SITE_GNUTLS_NAME_SET: /* type, name, length */
		if ((u32)args->count_at)
			name_told(args->handle, args->num, args->count_at);
		return 0;
	case T2P_SITE_GNUTLS_NAME_GET: /* buffer, address of its length */
		args->function = FN_GNUTLS_NAME;
		return 1;
	case T2P_SITE_GNUTLS_ALPN: /* a gnutls_datum_t */
		args->function = FN_GNUTLS_ALPN;
		return 1;
	case T2P_SITE_GNUTLS_SET_SOCKET:
		socket_given(args->handle);
		return 0;
	case T2P_SITE_NSS_RECV: /* buffer, length, flags */
		args->function = args->count_at & PR_MSG_PEEK ? T2P_FN_PEEK : T2P_FN_NSS_READ;
		break;
	case T2P_SITE_NSS_READ:
		args->function = T2P_FN_NSS_READ;
		break;
	case T2P_SITE_NSS_WRITE:
	case T2P_SITE_NSS_SEND:
		args->function = T2P_FN_NSS_WRITE;
		break;
	case T2P_SITE_NSS_CLOSE:
		return handle_freed(args->handle);
	case T2P_SITE_NSS_SHUTDOWN: /* which side */
		args->function = T2P_FN_SHUTDOWN;
		args->num = (u32)args->buf != PR_SHUTDOWN_RCV;
		break;
	case T2P_SITE_NSS_OPTION: /* which, value */
		if (args->handle)
			nss_option_set(args->handle, args->buf, args->num);
		return 0;
	case T2P_SITE_NSS_RESET: /* as server? */
		if (args->handle)
			role_told(args->handle, (u32)args->buf != 0);
		return 0;
	case T2P_SITE_NSS_URL:
		if (args->handle)
			name_told(args->handle, args->buf, 0);
		return 0;
	case T2P_SITE_NSS_PROTO: /* state, buffer, address of its length */
		args->function = FN_NSS_PROTO;
		args->buf = args->num;
		args->num = args->count_at;
		break;
	default:
		return 0;
	}
	return args->handle != 0;
}

/* A probed function begins. `other_stack`: not on its thread's own. */
static __always_inline int site_entered(struct pt_regs *ctx, u32 site, u32 other_stack)
{
	struct arguments args = {};
	u64 second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx);
	u64 fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);

	args.handle = PT_REGS_PARM1(ctx);
	if (site >= T2P_SITE_NSS_READ && site <= T2P_SITE_NSS_PROTO)
		args.handle = site <= T2P_SITE_NSS_SHUTDOWN ? nss_socket(args.handle) : nss_find(args.handle);
	args.buf = second;
	args.num = third;
	args.count_at = fourth;
	args.site = site;
	args.other_stack = other_stack;
	switch (site) {
	case T2P_SITE_READ:
		args.function = T2P_FN_READ;
		args.num = (u32)third;
		break;
	case T2P_SITE_WRITE:
		args.function = T2P_FN_WRITE;
		args.num = (u32)third;
		break;
	case T2P_SITE_READ_EX:
		args.function = T2P_FN_READ_EX;
		break;
	case T2P_SITE_READ_EARLY:
		args.function = T2P_FN_READ_EARLY;
		break;
	case T2P_SITE_READ_INTERNAL:
		args.function = T2P_FN_READ_INTERNAL;
		break;
	case T2P_SITE_WRITE_EX:
		args.function = T2P_FN_WRITE_EX;
		break;
	case T2P_SITE_WRITE_EX2:
		args.function = T2P_FN_WRITE_EX;
		args.count_at = fifth;
		break;
	case T2P_SITE_WRITE_EARLY:
		args.function = T2P_FN_WRITE_EARLY;
		break;
	case T2P_SITE_WRITE_INTERNAL:
		args.function = T2P_FN_WRITE_INTERNAL;
		/* From OpenSSL 3.3 on, flags (0 or 1) precede the address of the count. */
		if (fourth < 4096)
			args.count_at = fifth;
		break;
	case T2P_SITE_SENDFILE:
		args.function = T2P_FN_SENDFILE;
		args.num = fourth;
		break;
	case T2P_SITE_PEEK:
		args.function = T2P_FN_PEEK;
		break;
	case T2P_SITE_CONNECT:
		role_told(args.handle, 0);
		args.function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_ACCEPT:
		role_told(args.handle, 1);
		args.function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_HANDSHAKE:
		args.function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_SHUTDOWN:
	case T2P_SITE_GNUTLS_BYE:
		args.function = T2P_FN_SHUTDOWN;
		args.num = 1; /* the side that writes */
		break;
	case T2P_SITE_SERVER_NAME:
		args.function = FN_SERVER_NAME;
		break;
	case T2P_SITE_ALPN:
		args.function = FN_ALPN;
		break;
	case T2P_SITE_FREE:
		return handle_freed(args.handle);
	case T2P_SITE_UP_REF:
		return reference_taken(ctx);
	case T2P_SITE_CLEAR:
		return handle_cleared(args.handle, PT_REGS_SP(ctx));
	case T2P_SITE_CTRL:
		return ctrl_called(ctx);
	case T2P_SITE_SET_SOCKET:
		return socket_given(args.handle);
	case T2P_SITE_CONNECT_STATE:
		return role_told(args.handle, 0);
	case T2P_SITE_ACCEPT_STATE:
		return role_told(args.handle, 1);
	default:
		if (!other_site_entered(site, &args))
			return 0;
	}
	args.function = unknown(args.function);
	return enter(ctx, &args);
}

/* Whether what went past the calls inside it was in the program's memory. */
static __always_inline int site_writes_parts(u32 site)
{
	return site == T2P_SITE_NSS_WRITEV;
}

/* A probed function that began at `sp` returns. `has_loop`: a constant, see emit_call. */
static __always_inline int site_left(struct pt_regs *ctx, u32 site, u64 sp, int has_loop)
{
	struct emission emission = {};

	if (site == T2P_SITE_NEW)
		return handle_made(result_of(ctx));
	if (site == T2P_SITE_NSS_IMPORT)
		return nss_made(result_of(ctx));
	if (!leave(ctx, site, sp, &emission))
		return 0;
	emission.emit = unknown(emission.emit);
	if (emission.emit & EMIT_RESULT)
		return tell_result(emission.call, result_of(ctx));
	if (internal_of(emission.call->function) || is_internal(emission.call->function))
		compare(emission.call);
	if (emission.emit & (EMIT_LOST | EMIT_UNKNOWN | EMIT_NAME))
		tell_before(emission.call->handle, emission.call->function, emission.emit);
	if (emission.emit & EMIT_SENT)
		emit_missing(&emission.data, emission.data.call_len,
			     site_writes_parts(emission.call->site) ? T2P_MISSING_UNREADABLE : T2P_MISSING_SENDFILE,
			     site_writes_parts(emission.call->site) ? T2P_COUNT_UNREADABLE : T2P_COUNT_SENDFILE);
	if (emission.emit & EMIT_BYTES)
		emit_call(&emission.data, emission.thread, emission.call->buf, has_loop);
	if (is_write(emission.call->function))
		write_over(emission.call, &emission.data);
	if (emission.emit & EMIT_OVER)
		calls_over(emission.call->sp, emission.thread->of_stack);
	return 0;
}

/* Whether a call that is followed began at `sp`. */
static __noinline int is_call_at(u64 sp)
{
	struct thread *thread = calls_at(sp);

	for (u64 i = 0; thread && i < CALL_DEPTH; i++)
		if (i < thread->depth && thread->calls[i].sp == sp)
			return 1;
	return 0;
}

/* Where the function began that returns here. Return probes, and others, are hit after the return. */
static __always_inline u64 began_at(struct pt_regs *ctx)
{
	u64 sp = PT_REGS_SP(ctx), cookie = attach_cookie(ctx);

	if (HAS_HELPER(get_attach_cookie) ? cookie & COOKIE_RETURN : is_call_at(sp))
		return sp + depth_of(cookie);
	return sp - RETURN_POPS;
}

#endif
