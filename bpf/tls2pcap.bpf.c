/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The programs, one per probed place. They only translate what the place provides; the headers process it:
 *
 *   sites.bpf.h    the functions of a TLS library that are probed
 *   go.bpf.h       the same for Go's crypto/tls
 *   rustls.bpf.h   the same for rustls
 *   calls.bpf.h    TLS calls, from entry to return
 *   binding.bpf.h  how a handle gets its socket, and keeps it
 *   evidence.bpf.h what a call's use of sockets proves
 *   gnutls.bpf.h   special cases of GnuTLS and NSS
 *   stack.bpf.h    the calls that a thread is in
 *   returns.bpf.h  what is known where a function returns
 *   handles.bpf.h  handles, and facts about them
 *   proof.bpf.h    whether an internal function may replace its exports
 *   probation.bpf.h   whether functions without names are what they were taken for
 *   ciphertext.bpf.h   the sockets of handles that encrypt into memory
 *   socket.bpf.h   sockets, whatever the mechanism
 *   process.bpf.h  targets, new files
 *   emit.bpf.h     the ring
 *   maps.bpf.h     knobs and maps
 *   kernel.bpf.h   the kernel's types and differences
 */
#include "go.bpf.h"
#include "rustls.bpf.h"
#include "sites.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* ---- Sockets: kprobes. First, because a kernel that refuses them does so immediately. ---- */

static __always_inline u32 copied_seq(struct sock *sk)
{
	return BPF_CORE_READ((struct tcp_sock *)sk, copied_seq);
}

SEC("kprobe/tcp_sendmsg")
int BPF_KPROBE(kprobe_tcp_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(kprobe_tcp_recvmsg, struct sock *sk)
{
	socket_used(sk, 1, copied_seq(sk));
	receive_begins(sk, copied_seq(sk));
	return 0;
}

SEC("kretprobe/tcp_recvmsg")
int BPF_KRETPROBE(kprobe_tcp_recvmsg_return)
{
	receive_ended();
	return 0;
}

/* UDP under a TLS call means QUIC or DTLS. */
SEC("kprobe/udp_sendmsg")
int BPF_KPROBE(kprobe_udp_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("kprobe/udp_recvmsg")
int BPF_KPROBE(kprobe_udp_recvmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("kprobe/udpv6_sendmsg")
int BPF_KPROBE(kprobe_udpv6_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("kprobe/udpv6_recvmsg")
int BPF_KPROBE(kprobe_udpv6_recvmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("kprobe/mptcp_sendmsg")
int BPF_KPROBE(kprobe_mptcp_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("kprobe/mptcp_recvmsg")
int BPF_KPROBE(kprobe_mptcp_recvmsg, struct sock *sk)
{
	socket_used(sk, 1, 0);
	return 0;
}

/* ---- Sockets: fentry ---- */

SEC("fentry/tcp_sendmsg")
int BPF_PROG(fentry_tcp_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("fentry/tcp_recvmsg")
int BPF_PROG(fentry_tcp_recvmsg, struct sock *sk)
{
	socket_used(sk, 1, copied_seq(sk));
	receive_begins(sk, copied_seq(sk));
	return 0;
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fentry_tcp_recvmsg_return)
{
	receive_ended();
	return 0;
}

SEC("fentry/udp_sendmsg")
int BPF_PROG(fentry_udp_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("fentry/udp_recvmsg")
int BPF_PROG(fentry_udp_recvmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("fentry/udpv6_sendmsg")
int BPF_PROG(fentry_udpv6_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("fentry/udpv6_recvmsg")
int BPF_PROG(fentry_udpv6_recvmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("fentry/mptcp_sendmsg")
int BPF_PROG(fentry_mptcp_sendmsg, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

SEC("fentry/mptcp_recvmsg")
int BPF_PROG(fentry_mptcp_recvmsg, struct sock *sk)
{
	socket_used(sk, 1, 0);
	return 0;
}

/* ---- Sockets: typed tracepoints, for kernels that have neither ---- */

SEC("tp_btf/sock_send_length")
int BPF_PROG(tracepoint_sock_send_length, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

/* Fires after the read: what it took is subtracted again. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(tracepoint_sock_recv_length, struct sock *sk, int length, int flags)
{
	socket_used(sk, 1, copied_seq(sk) - (length > 0 && !(flags & MSG_PEEK) ? length : 0));
	socket_received(sk, length);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state, struct sock *sk, int before, int after)
{
	socket_state_changed(sk, before, after);
	return 0;
}

/*
 * ---- TLS libraries ----
 *
 * One program serves all entries and one all returns; the attach cookie says which function it is. Before Linux
 * 5.17, where cookies or loops are missing, each entry has a separate program. The return finds its entry by
 * the stack pointer.
 */

SEC("uprobe")
int ssl_any_entry(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return site_entered(ctx, site_of(attach_cookie(ctx)), on_other_stack(PT_REGS_SP(ctx)));
}

/* tls2pcap's own, on one of its functions: whether the kernel's probes work. */
SEC("uprobe")
int trial(struct pt_regs *ctx)
{
	self_seen = 1;
	return 0;
}

#define ENTRY(NAME, SITE)                                                                      \
	SEC("uprobe")                                                                          \
	int ssl_entry_##NAME(struct pt_regs *ctx)                                              \
	{                                                                                      \
		PLAIN_STACK(ctx);                                                              \
		return site_entered(ctx, SITE, seems_on_other_stack(PT_REGS_SP(ctx)));                                                \
	}

ENTRY(read, T2P_SITE_READ)
ENTRY(read_ex, T2P_SITE_READ_EX)
ENTRY(read_early, T2P_SITE_READ_EARLY)
ENTRY(read_internal, T2P_SITE_READ_INTERNAL)
ENTRY(write, T2P_SITE_WRITE)
ENTRY(write_ex, T2P_SITE_WRITE_EX)
ENTRY(write_ex2, T2P_SITE_WRITE_EX2)
ENTRY(write_early, T2P_SITE_WRITE_EARLY)
ENTRY(write_internal, T2P_SITE_WRITE_INTERNAL)
ENTRY(sendfile, T2P_SITE_SENDFILE)
ENTRY(peek, T2P_SITE_PEEK)
ENTRY(handshake, T2P_SITE_HANDSHAKE)
ENTRY(connect, T2P_SITE_CONNECT)
ENTRY(accept, T2P_SITE_ACCEPT)
ENTRY(shutdown, T2P_SITE_SHUTDOWN)
ENTRY(server_name, T2P_SITE_SERVER_NAME)
ENTRY(alpn, T2P_SITE_ALPN)
ENTRY(free, T2P_SITE_FREE)
ENTRY(up_ref, T2P_SITE_UP_REF)
ENTRY(clear, T2P_SITE_CLEAR)
ENTRY(ctrl, T2P_SITE_CTRL)
ENTRY(connect_state, T2P_SITE_CONNECT_STATE)
ENTRY(accept_state, T2P_SITE_ACCEPT_STATE)
ENTRY(set_socket, T2P_SITE_SET_SOCKET)
ENTRY(gnutls_send, T2P_SITE_GNUTLS_SEND)
ENTRY(gnutls_send_range, T2P_SITE_GNUTLS_SEND_RANGE)
ENTRY(gnutls_send_file, T2P_SITE_GNUTLS_SEND_FILE)
ENTRY(gnutls_cork, T2P_SITE_GNUTLS_CORK)
ENTRY(gnutls_uncork, T2P_SITE_GNUTLS_UNCORK)
ENTRY(gnutls_recv, T2P_SITE_GNUTLS_RECV)
ENTRY(gnutls_recv_early, T2P_SITE_GNUTLS_RECV_EARLY)
ENTRY(gnutls_recv_packet, T2P_SITE_GNUTLS_RECV_PACKET)
ENTRY(gnutls_handshake, T2P_SITE_GNUTLS_HANDSHAKE)
ENTRY(gnutls_bye, T2P_SITE_GNUTLS_BYE)
ENTRY(gnutls_init, T2P_SITE_GNUTLS_INIT)
ENTRY(gnutls_name_set, T2P_SITE_GNUTLS_NAME_SET)
ENTRY(gnutls_name_get, T2P_SITE_GNUTLS_NAME_GET)
ENTRY(gnutls_alpn, T2P_SITE_GNUTLS_ALPN)
ENTRY(gnutls_set_socket, T2P_SITE_GNUTLS_SET_SOCKET)
ENTRY(nss_read, T2P_SITE_NSS_READ)
ENTRY(nss_recv, T2P_SITE_NSS_RECV)
ENTRY(nss_write, T2P_SITE_NSS_WRITE)
ENTRY(nss_send, T2P_SITE_NSS_SEND)
ENTRY(nss_writev, T2P_SITE_NSS_WRITEV)
ENTRY(nss_close, T2P_SITE_NSS_CLOSE)
ENTRY(nss_shutdown, T2P_SITE_NSS_SHUTDOWN)
ENTRY(nss_option, T2P_SITE_NSS_OPTION)
ENTRY(nss_reset, T2P_SITE_NSS_RESET)
ENTRY(nss_force, T2P_SITE_NSS_FORCE)
ENTRY(nss_url, T2P_SITE_NSS_URL)
ENTRY(nss_proto, T2P_SITE_NSS_PROTO)

SEC("uretprobe")
int ssl_return_any(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	if (!is_returning(ctx))
		return 0;
	return site_left(ctx, site_of(attach_cookie(ctx)), began_at(ctx), 1);
}

/* For kernels without bpf_loop (before Linux 5.17), which refuse the one above. */
SEC("uretprobe")
int ssl_return_unrolled(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	if (!is_returning(ctx))
		return 0;
	return site_left(ctx, site_of(attach_cookie(ctx)), began_at(ctx), 0);
}

SEC("uretprobe")
int ssl_return_of_new(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return handle_made(PT_REGS_RC(ctx));
}

SEC("uretprobe")
int ssl_return_of_import(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return nss_made(PT_REGS_RC(ctx));
}

/*
 * From Linux 6.13 on one program serves entry and return, and decides at each entry whether to probe the
 * return.
 */

#define NO_RETURN_PROBE 1

SEC("uprobe.session")
int ssl_session(struct pt_regs *ctx)
{
	u64 cookie = attach_cookie(ctx), sp = PT_REGS_SP(ctx);
	u32 other_stack = 0;
	int leaves = 0;

	PLAIN_STACK_SESSION(ctx);
	if (session_is_return(ctx)) {
		leaves = 1;
		sp -= RETURN_POPS;
	} else {
		other_stack = on_other_stack(sp);
		leaves = !!(cookie & COOKIE_RETURN);
		/* On the thread's own it has a return probe. */
		if (leaves && !other_stack)
			return NO_RETURN_PROBE;
	}
	if (leaves) {
		site_left(ctx, site_of(cookie), sp, 1);
		return NO_RETURN_PROBE;
	}
	site_entered(ctx, site_of(cookie), other_stack);
	return other_stack || (cookie & COOKIE_ENTRY_ONLY) ? NO_RETURN_PROBE : 0;
}

SEC("uprobe.session")
int bio_session_read(struct pt_regs *ctx)
{
	PLAIN_STACK_SESSION(ctx);
	if (session_is_return(ctx)) {
		bio_read_left(ctx);
		return 0;
	}
	if (on_other_stack(PT_REGS_SP(ctx)))
		return NO_RETURN_PROBE;
	bio_read_entered(ctx);
	return 0;
}

/*
 * Go: a return is an instruction like any other, and its probe is one of an entry. Both have the same site;
 * without cookies, the goroutine and its stack show which call returns.
 */

SEC("uprobe")
int go_any_entry(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return go_entered(ctx, site_of(attach_cookie(ctx)));
}

#define GO_ENTRY(NAME, SITE)                                                                   \
	SEC("uprobe")                                                                          \
	int go_entry_##NAME(struct pt_regs *ctx)                                               \
	{                                                                                      \
		PLAIN_STACK(ctx);                                                              \
		return go_entered(ctx, SITE);                                                  \
	}

GO_ENTRY(read, T2P_SITE_GO_READ)
GO_ENTRY(write, T2P_SITE_GO_WRITE)
GO_ENTRY(close, T2P_SITE_GO_CLOSE)
GO_ENTRY(close_notify, T2P_SITE_GO_CLOSE_NOTIFY)
GO_ENTRY(client, T2P_SITE_GO_CLIENT)
GO_ENTRY(server, T2P_SITE_GO_SERVER)

SEC("uprobe")
int go_return(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return go_left(ctx, site_of(attach_cookie(ctx)), 1);
}

/* For kernels without bpf_loop. */
SEC("uprobe")
int go_return_unrolled(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return go_left(ctx, site_of(attach_cookie(ctx)), 0);
}

/* rustls: the entry notes which function it is. */

SEC("uprobe")
int rustls_any_entry(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return rustls_entered(ctx, site_of(attach_cookie(ctx)) - T2P_SITE_RUSTLS);
}

#define RUSTLS_ENTRY(NAME, KIND)                                                               \
	SEC("uprobe")                                                                          \
	int rustls_entry_##NAME(struct pt_regs *ctx)                                           \
	{                                                                                      \
		PLAIN_STACK(ctx);                                                              \
		return rustls_entered(ctx, KIND);                                              \
	}

RUSTLS_ENTRY(read, 0)
RUSTLS_ENTRY(write, T2P_RUSTLS_WRITES)
RUSTLS_ENTRY(read_gcm, T2P_RUSTLS_GCM)
RUSTLS_ENTRY(write_gcm, T2P_RUSTLS_GCM | T2P_RUSTLS_WRITES)
RUSTLS_ENTRY(read_chacha, T2P_RUSTLS_CHACHA)
RUSTLS_ENTRY(write_chacha, T2P_RUSTLS_CHACHA | T2P_RUSTLS_WRITES)
RUSTLS_ENTRY(read_owned, T2P_RUSTLS_OWNED)
RUSTLS_ENTRY(write_owned, T2P_RUSTLS_OWNED | T2P_RUSTLS_WRITES)
RUSTLS_ENTRY(read_owned_gcm, T2P_RUSTLS_OWNED | T2P_RUSTLS_GCM)
RUSTLS_ENTRY(write_owned_gcm, T2P_RUSTLS_OWNED | T2P_RUSTLS_GCM | T2P_RUSTLS_WRITES)
RUSTLS_ENTRY(read_owned_chacha, T2P_RUSTLS_OWNED | T2P_RUSTLS_CHACHA)
RUSTLS_ENTRY(write_owned_chacha, T2P_RUSTLS_OWNED | T2P_RUSTLS_CHACHA | T2P_RUSTLS_WRITES)

SEC("uretprobe")
int rustls_return(struct pt_regs *ctx)
{
	PLAIN_STACK(ctx);
	return is_returning(ctx) ? rustls_left(ctx) : 0;
}

/* Only in processes that encrypt into memory and in libraries on probation: others pay nothing. */

SEC("uprobe")
int bio_entry_write(struct pt_regs *ctx)
{
	PLAIN_STACK_SINGLE(ctx);
	return bio_written(ctx);
}

SEC("uprobe")
int bio_entry_read(struct pt_regs *ctx)
{
	PLAIN_STACK_SINGLE(ctx);
	return bio_read_entered(ctx);
}

SEC("uretprobe")
int bio_return_read(struct pt_regs *ctx)
{
	PLAIN_STACK_SINGLE(ctx);
	return is_returning(ctx) ? bio_read_left(ctx) : 0;
}

/* ---- Processes ---- */

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	process_forked(parent, child);
	return 0;
}

/* What a new thread does last before it leaves the kernel for the first time. */

SEC("fentry/calculate_sigpending")
int BPF_PROG(fentry_calculate_sigpending)
{
	process_born();
	return 0;
}

SEC("kprobe/calculate_sigpending")
int BPF_KPROBE(kprobe_calculate_sigpending)
{
	process_born();
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int before, struct linux_binprm *program)
{
	process_execed(before);
	file_mapped(BPF_CORE_READ(program, file));
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	thread_exited();
	if (BPF_CORE_READ(task, signal, live.counter) == 0)
		process_exited();
	return 0;
}

/*
 * Fires when the kernel searches for an address for a mapping, which it does for the first part of every
 * library. The file is the system call's fifth argument.
 */
SEC("tp_btf/vm_unmapped_area")
int BPF_PROG(mapping, unsigned long address)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 tgid = current_id() >> 32;
	struct fdtable *fdt;
	struct file **slot, *file = NULL;
	struct pt_regs *regs;
	u32 fd;

	if (targets_only && !bpf_map_lookup_elem(&processes, &tgid))
		return 0;
	regs = syscall_regs();
#if defined(__TARGET_ARCH_x86)
	if (BPF_CORE_READ(regs, orig_ax) != 9) /* mmap */
		return 0;
	fd = BPF_CORE_READ(regs, r8);
#else
	if (BPF_CORE_READ(regs, syscallno) != 222)
		return 0;
	fd = BPF_CORE_READ(regs, regs[4]);
#endif
	fdt = BPF_CORE_READ(task, files, fdt);
	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return 0;
	slot = BPF_CORE_READ(fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), slot + fd);
	if (file)
		file_mapped(file);
	return 0;
}

/*
 * Clang describes in the object's type information only what is used as a type, and from there user space takes
 * its numbers and layouts. So here are the records, and each enum that no field has as its type.
 */
struct t2p_data *type_data;
struct t2p_bind *type_bind;
struct t2p_handle *type_handle;
struct t2p_socket *type_socket;
struct t2p_process *type_process;
struct t2p_exit *type_exit;
struct t2p_file *type_file;
struct t2p_no_socket *type_no_socket;
struct t2p_noted_file *type_noted_file;
struct t2p_noted_no_socket *type_noted_no_socket;
struct t2p_noted_process *type_noted_process;
struct t2p_hold *type_hold;
enum t2p_limit type_limit;
enum t2p_cookie_bit type_cookie_bit;
enum t2p_value type_value;
enum t2p_stack_key type_stack_key;
enum room type_room;
enum t2p_handle_bit type_handle_bit;
enum t2p_site type_site;
enum t2p_rustls_flag type_rustls_flag;
