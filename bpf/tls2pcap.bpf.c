/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The programs, one per place that is probed. They only translate what the place gives them;
 * what is done with it stands in the headers:
 *
 *   calls.bpf.h    TLS calls            socket.bpf.h   sockets, whatever the mechanism
 *   process.bpf.h  targets, new files   emit.bpf.h     the ring
 *   maps.bpf.h     knobs and maps       kernel.bpf.h   the kernel's types and differences
 */
#include "calls.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* ---- TLS calls: entries ---- */

#define ENTRY(NAME, FUNCTION, BUF, NUM, COUNT_AT)                                              \
	SEC("uprobe")                                                                          \
	int NAME(struct pt_regs *ctx)                                                          \
	{                                                                                      \
		struct arguments args = {                                                      \
			.function = FUNCTION, .buf = BUF, .num = NUM, .count_at = COUNT_AT     \
		};                                                                             \
		return enter(ctx, &args);                                                      \
	}

#define P2 PT_REGS_PARM2(ctx)
#define P3 PT_REGS_PARM3(ctx)
#define P4 PT_REGS_PARM4(ctx)
#define P5 PT_REGS_PARM5(ctx)

ENTRY(ssl_read, T2P_FN_READ, P2, (u32)P3, 0)
ENTRY(ssl_read_ex, T2P_FN_READ_EX, P2, P3, P4)
ENTRY(ssl_read_early_data, T2P_FN_READ_EARLY, P2, P3, P4)
ENTRY(ssl_read_internal, T2P_FN_READ_INTERNAL, P2, P3, P4)
ENTRY(ssl_write, T2P_FN_WRITE, P2, (u32)P3, 0)
ENTRY(ssl_write_ex, T2P_FN_WRITE_EX, P2, P3, P4)
ENTRY(ssl_write_ex2, T2P_FN_WRITE_EX, P2, P3, P5)
ENTRY(ssl_write_early_data, T2P_FN_WRITE_EARLY, P2, P3, P4)
/* From OpenSSL 3.3 on flags (0 or 1) stand before the address of the count. */
ENTRY(ssl_write_internal, T2P_FN_WRITE_INTERNAL, P2, P3, P4 < 4096 ? P5 : P4)
ENTRY(ssl_sendfile, T2P_FN_SENDFILE, 0, P4, 0)
ENTRY(ssl_peek, T2P_FN_PEEK, 0, 0, 0)
ENTRY(ssl_do_handshake, T2P_FN_HANDSHAKE, 0, 0, 0)
ENTRY(ssl_shutdown, T2P_FN_SHUTDOWN, 0, 0, 0)
ENTRY(ssl_get_servername, FN_SERVER_NAME, 0, 0, 0)
ENTRY(ssl_get0_alpn_selected, FN_ALPN, P2, P3, 0)

/* ---- TLS calls: the return of every function above ---- */

SEC("uretprobe")
int ssl_return(struct pt_regs *ctx)
{
	struct emission emission = {};

	if (leave(ctx, &emission))
		emit_call(&emission.data, emission.thread, emission.from, 1);
	return 0;
}

/* The same for kernels without bpf_loop (before Linux 5.17), which refuse the program above. */
SEC("uretprobe")
int ssl_return_unrolled(struct pt_regs *ctx)
{
	struct emission emission = {};

	if (leave(ctx, &emission))
		emit_call(&emission.data, emission.thread, emission.from, 0);
	return 0;
}

/* ---- The life of a handle ---- */

static __noinline int role_told(struct pt_regs *ctx, u32 server)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? the_handle(process, PT_REGS_PARM1(ctx), T2P_FN_HANDSHAKE) : NULL;

	return handle ? tell_role(handle, PT_REGS_PARM1(ctx), server) : 0;
}

SEC("uprobe")
int ssl_connect(struct pt_regs *ctx)
{
	struct arguments args = { .function = T2P_FN_HANDSHAKE };

	role_told(ctx, 0);
	return enter(ctx, &args);
}

SEC("uprobe")
int ssl_accept(struct pt_regs *ctx)
{
	struct arguments args = { .function = T2P_FN_HANDSHAKE };

	role_told(ctx, 1);
	return enter(ctx, &args);
}

SEC("uprobe")
int ssl_set_connect_state(struct pt_regs *ctx)
{
	return role_told(ctx, 0);
}

SEC("uprobe")
int ssl_set_accept_state(struct pt_regs *ctx)
{
	return role_told(ctx, 1);
}

SEC("uretprobe")
int ssl_new(struct pt_regs *ctx)
{
	struct process *process = ready ? current_process() : NULL;

	if (process && PT_REGS_RC(ctx))
		new_handle(process, PT_REGS_RC(ctx), HANDLE_FRESH, 1);
	return 0;
}

SEC("uprobe")
int ssl_up_ref(struct pt_regs *ctx)
{
	struct process *process = ready ? current_process() : NULL;
	struct handle *handle = process ? find_handle(process, PT_REGS_PARM1(ctx)) : NULL;

	if (handle && handle->refs)
		handle->refs++;
	return 0;
}

SEC("uprobe")
int ssl_free(struct pt_regs *ctx)
{
	handle_freed(ctx);
	return 0;
}

SEC("uprobe")
int ssl_clear(struct pt_regs *ctx)
{
	handle_cleared(ctx);
	return 0;
}

#define SSL_CTRL_SET_TLSEXT_HOSTNAME 55

SEC("uprobe")
int ssl_ctrl(struct pt_regs *ctx)
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

/* ---- Sockets: kprobes ---- */

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

/* ---- Sockets: typed tracepoints, for kernels that have neither ---- */

SEC("tp_btf/sock_send_length")
int BPF_PROG(tracepoint_sock_send_length, struct sock *sk)
{
	socket_used(sk, 0, 0);
	return 0;
}

/* Fires after the read: what it took is taken off again. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(tracepoint_sock_recv_length, struct sock *sk, int length, int flags)
{
	socket_used(sk, 1, copied_seq(sk) - (length > 0 && !(flags & MSG_PEEK) ? length : 0));
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state, struct sock *sk, int before, int after)
{
	socket_state_changed(sk, after);
	return 0;
}

/* ---- Processes ---- */

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	process_forked(parent, child);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int before, struct linux_binprm *program)
{
	process_execed();
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
 * Fires when the kernel looks for a place for a mapping, which it does for the first part of
 * every library. The file is the system call's fifth argument.
 */
SEC("tp_btf/vm_unmapped_area")
int BPF_PROG(mapping, unsigned long address)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
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

/* Which records there are, for the type information that user space is checked against. */
struct t2p_data *type_data;
struct t2p_bind *type_bind;
struct t2p_handle *type_handle;
struct t2p_socket *type_socket;
struct t2p_process *type_process;
struct t2p_exit *type_exit;
struct t2p_file *type_file;
