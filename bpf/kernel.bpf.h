/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What we need to know of the kernel, and where kernels differ. Types name only the fields that
 * are used; CO-RE finds them wherever the running kernel keeps them.
 */
#ifndef TLS2PCAP_KERNEL_H
#define TLS2PCAP_KERNEL_H

#define __VMLINUX_H__ /* bpf_tracing.h: struct pt_regs has the kernel's field names */

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

enum {
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_CONS_POS = 2,
	BPF_RB_PROD_POS = 3,
};

/* Helpers that not every kernel has; asked for with bpf_core_enum_value_exists. */
enum bpf_func_id___t2p {
	BPF_FUNC_get_attach_cookie___t2p = 1000, /* Linux 5.15, 7adfc6c9b315 */
	BPF_FUNC_task_pt_regs___t2p = 1001, /* Linux 5.15, dd6e10fbd9fb */
};
#define HAS_HELPER(name) bpf_core_enum_value_exists(enum bpf_func_id___t2p, BPF_FUNC_##name##___t2p)

struct bpf_dynptr {
	u64 opaque[2];
} __attribute__((aligned(8)));

/* Not relocated: probes are handed it, and its layout is fixed. */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
struct pt_regs {
	union {
		struct user_pt_regs user_regs;
		struct {
			u64 regs[31];
			u64 sp, pc, pstate;
		};
	};
	u64 orig_x0;
	s32 syscallno;
};
#endif

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;

struct list_head {
	struct list_head *next, *prev;
};

struct qstr {
	const unsigned char *name;
};

struct super_block {
	u32 s_dev;
};

struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	s64 i_size;
	u32 i_generation;
	/* When it was changed last; from Linux 6.11 on. */
	s64 i_ctime_sec;
	u32 i_ctime_nsec;
};

/* From Linux 6.6 on. */
struct inode___before_6_11 {
	struct timespec64 __i_ctime;
};

struct inode___before_6_6 {
	struct timespec64 i_ctime;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	void *private_data;
	struct inode *f_inode;
	struct path f_path;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

/* The page through which probed functions return. */
struct xol_area {
	unsigned long vaddr;
};

struct uprobes_state {
	struct xol_area *xol_area;
};

struct mm_struct {
	unsigned long arg_start, arg_end;
	unsigned long start_stack;
	struct file *exe_file;
	struct uprobes_state uprobes_state;
};

/* A call whose return is probed and still pending, innermost first. */
struct return_instance {
	unsigned long stack; /* stack pointer at entry */
	struct return_instance *next;
};

struct uprobe_task {
	struct return_instance *return_instances;
};

struct signal_struct {
	atomic_t live;
};

struct cred {
	struct {
		u32 val;
	} euid, egid;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct net *net_ns;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct vm_area_struct {
	unsigned long vm_start, vm_end;
};

struct thread_struct {
	unsigned long fsbase;
};

struct task_struct {
	int pid, tgid;
	unsigned int ptrace; /* not 0: it is traced */
	unsigned long jobctl;
	struct thread_struct thread;
	struct pid *thread_pid;
	struct task_struct *group_leader, *real_parent;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct uprobe_task *utask;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	const struct cred *cred;
	u64 start_boottime;
	void *stack;
	char comm[16];
};

struct linux_binprm {
	struct file *file;
};

struct sock;

struct socket {
	struct file *file;
	struct sock *sk;
};

struct in6_addr {
	u8 in6_u[16];
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	u32 skc_daddr, skc_rcv_saddr;
	u16 skc_dport, skc_num, skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	int sk_err;
	u32 sk_max_ack_backlog;
	struct socket *sk_socket;
};

struct minmax_sample {
	u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

/* A TCP socket whose bytes the kernel itself encrypts (kTLS) has such operations. */
struct inet_connection_sock {
	void *icsk_ulp_ops;
};

struct tcp_sock {
	u32 srtt_us; /* eight times as much */
	struct minmax rtt_min;
	u32 copied_seq, write_seq, snd_una, rcv_nxt;
	u32 data_segs_in;
	u64 bytes_acked, bytes_received;
};

/* A multipath TCP socket: its first connection is a separate TCP socket. */
struct mptcp_sock {
	struct sock *first;
};

#pragma clang attribute pop

struct vm_unmapped_area_info;

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define TCP_CLOSE 7
/* Numbers of bits in sk_flags. */
#define SOCK_DEAD 0
#define SOCK_DONE 1
#define MSG_PEEK 2
#define SIGSTOP 19
/* Of task_struct.jobctl: the thread stops for its tracer before it reenters its program. Since Linux 3.1. */
#define JOBCTL_TRAP_STOP (1UL << 19)

/* What the return address takes from the stack between a function's entry and its return. */
#if defined(__TARGET_ARCH_x86)
#define RETURN_POPS 8
#define THREAD_SIZE 16384
#else
#define RETURN_POPS 0
#define THREAD_SIZE 16384
#endif

/* Whether a program of entry and return sees the latter. Linux 7.0 gave it an argument. */
extern _Bool bpf_session_is_return___before(void) __ksym __weak;
extern _Bool bpf_session_is_return___with(void *ctx) __ksym __weak;

static __always_inline int session_is_return(void *ctx)
{
	if (bpf_ksym_exists(bpf_session_is_return___with))
		return bpf_session_is_return___with(ctx);
	return bpf_session_is_return___before();
}

/* The registers that the current task brought into its system call. */
static __always_inline struct pt_regs *syscall_regs(void)
{
	if (HAS_HELPER(task_pt_regs))
		return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct task_struct *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, stack) + THREAD_SIZE - sizeof(struct pt_regs);
}

/*
 * The verifier walks what follows once for each value that it knows. It knows nothing about the result of a
 * global function.
 */
__noinline u64 unknown(u64 value)
{
	asm volatile("" : "+r"(value));
	return value;
}

#endif
