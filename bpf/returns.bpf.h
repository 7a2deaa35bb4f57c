/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What the attach cookie says about an instruction where a function returns: a RET, or a jump that leads to
 * one. src/discover/returns.rs finds them.
 */
#ifndef TLS2PCAP_RETURNS_H
#define TLS2PCAP_RETURNS_H

#include "maps.bpf.h"

#define COOKIE_RETURN (1ULL << T2P_COOKIE_RETURN)
#define COOKIE_ENTRY_ONLY (1ULL << T2P_COOKIE_ENTRY_ONLY)

static __always_inline u64 attach_cookie(void *ctx)
{
	return HAS_HELPER(get_attach_cookie) ? bpf_get_attach_cookie(ctx) : 0;
}

/* The bits from `first` up to `next` of a cookie. */
static __always_inline u64 cookie_bits(u64 cookie, u32 first, u32 next)
{
	return cookie >> first & ((1ULL << (next - first)) - 1);
}

/* Bytes on the stack above the return address. */
static __always_inline u64 depth_of(u64 cookie)
{
	return cookie_bits(cookie, T2P_COOKIE_DEPTH, T2P_COOKIE_REGISTER) * sizeof(u64);
}

/* What the function that returns here is about to return. */
static __noinline u64 result_of(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	u64 cookie = attach_cookie(ctx), value = 0;
	u64 at = cookie_bits(cookie, T2P_COOKIE_REGISTER, T2P_COOKIE_VALUE);
	u64 kind = cookie_bits(cookie, T2P_COOKIE_VALUE, T2P_COOKIE_CONDITION);

	if (kind == T2P_VALUE_READY)
		return PT_REGS_RC(ctx);
	if (kind == T2P_VALUE_CONSTANT || kind == T2P_VALUE_HALF)
		value = (s64)(at << 60) >> 60;
	else
		bpf_probe_read_kernel(&value, sizeof(value), (void *)ctx + at * sizeof(u64));
	if (kind == T2P_VALUE_SIGNED)
		return (s64)(s32)value;
	return kind == T2P_VALUE_UNSIGNED || kind == T2P_VALUE_HALF ? (u32)value : value;
#else
	return PT_REGS_RC(ctx);
#endif
}

#define FLAG_CARRY (1 << 0)
#define FLAG_PARITY (1 << 2)
#define FLAG_ZERO (1 << 6)
#define FLAG_SIGN (1 << 7)
#define FLAG_OVERFLOW (1 << 11)

/* Whether the function really returns: for a conditional jump, whether it is taken that way. */
static __noinline int is_returning(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	u64 cookie = attach_cookie(ctx), flags = ctx->flags;
	u64 condition = cookie_bits(cookie, T2P_COOKIE_CONDITION, T2P_COOKIE_CONDITIONAL);
	int is_less = !(flags & FLAG_SIGN) != !(flags & FLAG_OVERFLOW), holds = 0;

	if (!(cookie >> T2P_COOKIE_CONDITIONAL & 1))
		return 1;
	switch (condition >> 1) {
	case 0:
		holds = !!(flags & FLAG_OVERFLOW);
		break;
	case 1:
		holds = !!(flags & FLAG_CARRY);
		break;
	case 2:
		holds = !!(flags & FLAG_ZERO);
		break;
	case 3:
		holds = !!(flags & (FLAG_CARRY | FLAG_ZERO));
		break;
	case 4:
		holds = !!(flags & FLAG_SIGN);
		break;
	case 5:
		holds = !!(flags & FLAG_PARITY);
		break;
	case 6:
		holds = is_less;
		break;
	case 7:
		holds = is_less || (flags & FLAG_ZERO);
		break;
	}
	/* The lowest bit inverts it. */
	return holds != (int)(condition & 1);
#else
	return 1;
#endif
}

#endif
