/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What each probed function of a library means: how its arguments are read and what is done. */
#ifndef TLS2PCAP_SITES_H
#define TLS2PCAP_SITES_H

#include "ciphertext.bpf.h"

#define SSL_CTRL_SET_TLSEXT_HOSTNAME 55

static __noinline int role_told(struct pt_regs *ctx, u32 server)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? the_handle(process, PT_REGS_PARM1(ctx), T2P_FN_HANDSHAKE) : NULL;

	return handle ? tell_role(handle, PT_REGS_PARM1(ctx), server) : 0;
}

static __noinline int ctrl_called(struct pt_regs *ctx)
{
	struct fact fact = {
		.address = PT_REGS_PARM1(ctx), .fact = T2P_FACT_SERVER_NAME, .text = PT_REGS_PARM4(ctx)
	};
	struct process *process;
	struct handle *handle;

	if ((u32)PT_REGS_PARM2(ctx) != SSL_CTRL_SET_TLSEXT_HOSTNAME || !fact.text || !ready)
		return 0;
	process = current_process();
	handle = process ? the_handle(process, fact.address, T2P_FN_HANDSHAKE) : NULL;
	if (handle)
		tell_once(handle, HANDLE_NAME, &fact);
	return 0;
}

static __noinline int reference_taken(struct pt_regs *ctx)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process, PT_REGS_PARM1(ctx)) : NULL;

	if (handle && handle->refs)
		handle->refs++;
	return 0;
}

static __noinline int handle_made(struct pt_regs *ctx)
{
	struct process *process = ready ? current_process() : NULL;

	if (process && PT_REGS_RC(ctx))
		new_handle(process, PT_REGS_RC(ctx), HANDLE_FRESH, 1);
	return 0;
}

/* A probed function begins. */
static __always_inline int site_entered(struct pt_regs *ctx, u32 site)
{
	struct arguments args = {};
	u64 second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx);
	u64 fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);

	args.buf = second;
	args.num = third;
	args.count_at = fourth;
	args.site = site;
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
		/* From OpenSSL 3.3 on flags (0 or 1) stand before the address of the count. */
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
		role_told(ctx, 0);
		args.function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_ACCEPT:
		role_told(ctx, 1);
		args.function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_HANDSHAKE:
		args.function = T2P_FN_HANDSHAKE;
		break;
	case T2P_SITE_SHUTDOWN:
		args.function = T2P_FN_SHUTDOWN;
		break;
	case T2P_SITE_SERVER_NAME:
		args.function = FN_SERVER_NAME;
		break;
	case T2P_SITE_ALPN:
		args.function = FN_ALPN;
		break;
	case T2P_SITE_FREE:
		handle_freed(ctx);
		return 0;
	case T2P_SITE_UP_REF:
		return reference_taken(ctx);
	case T2P_SITE_CLEAR:
		handle_cleared(ctx);
		return 0;
	case T2P_SITE_CTRL:
		return ctrl_called(ctx);
	case T2P_SITE_CONNECT_STATE:
		return role_told(ctx, 0);
	case T2P_SITE_ACCEPT_STATE:
		return role_told(ctx, 1);
	case T2P_SITE_SELF:
		self_seen = 1;
		return 0;
	default:
		return 0;
	}
	return enter(ctx, &args);
}

/* A probed function returns. `has_loop`: a constant, see emit_call. */
static __always_inline int site_left(struct pt_regs *ctx, u32 site, int has_loop)
{
	struct emission emission = {};

	if (site == T2P_SITE_NEW)
		return handle_made(ctx);
	if (!leave(ctx, site, &emission))
		return 0;
	if (internal_of(emission.call->function) || is_internal(emission.call->function))
		compare(emission.call);
	if (emission.emit & (EMIT_LOST | EMIT_UNKNOWN))
		tell_losses(emission.call->handle, emission.call->function, emission.emit);
	if (emission.emit & EMIT_SENT)
		emit_missing(&emission.data, emission.data.call_len, T2P_MISSING_SENDFILE, T2P_COUNT_SENDFILE);
	if (emission.emit & EMIT_BYTES)
		emit_call(&emission.data, emission.thread, emission.call->buf, has_loop);
	if (is_write(emission.call->function))
		write_over(emission.call, !emission.data.call_len);
	return 0;
}

#endif
