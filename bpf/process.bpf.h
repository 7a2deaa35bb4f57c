/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Which processes are captured: the filter that every probe passes first, and its upkeep. */
#ifndef TLS2PCAP_PROCESS_H
#define TLS2PCAP_PROCESS_H

#include "emit.bpf.h"
#include "path.bpf.h"
#include "room.bpf.h"

/*
 * How often to check whether a thread is seized, and for how long at most. That is far longer than it takes,
 * but the processor where user space is to do it may be that of a virtual machine, and be preempted. The second
 * limit is for when user space has not answered other requests either: it may be stopped. The third is for when
 * it can also do it here, once this thread leaves the kernel: on the other processor another thread may be
 * waiting like this one.
 */
#define SEIZED_LOOKS 128 /* for each of three loops, one inside the other */
#define SEIZED_NS 300000000
#define SEIZED_NS_BEHIND 5000000
#define SEIZED_NS_HERE 3000000

/* The current process is stopped by a signal. 1: it will. */
static __always_inline int stop_process(u32 tgid)
{
	u32 one = 1;

	/* Before the signal: a process that sees the stop also sees why. */
	bpf_map_update_elem(&stopped, &tgid, &one, BPF_ANY);
	/* To this thread: if it were sent to the process, another thread might stop first and this one run on. */
	return !bpf_send_signal_thread(SIGSTOP);
}

/* Checks for a while whether a thread has been asked to stop. A global function: the verifier walks it once. */
__noinline int is_seized(u64 address)
{
	struct task_struct *task = (void *)address;
	unsigned long jobctl = 0;

	for (u32 i = 0; i < SEIZED_LOOKS; i++) {
		BPF_CORE_READ_INTO(&jobctl, task, jobctl);
		if (jobctl & JOBCTL_TRAP_STOP)
			return 1;
	}
	return 0;
}

#define SEIZED 1
#define TOO_LATE 2

/* The same for longer: SEIZED, or TOO_LATE if it is later than `until`, or 0. */
__noinline int is_seized_by(u64 address, u64 until)
{
	for (u32 i = 0; i < SEIZED_LOOKS; i++) {
		if (is_seized(address))
			return SEIZED;
		if (bpf_ktime_get_ns() > until)
			return TOO_LATE;
	}
	return 0;
}

/*
 * Has user space seize a thread. `is_own`: it is the current one. Otherwise it is a child that has not run yet:
 * it enters its program where its parent does, but maybe on another stack. 0: the ring is full.
 */
static __always_inline int note_hold(struct task_struct *task, u64 time, int is_own)
{
	struct t2p_hold *hold = bpf_ringbuf_reserve(&holds, sizeof(*hold), 0);
	struct pt_regs *regs = syscall_regs();

	if (!hold)
		return 0;
	hold->tgid = tgid_of(task);
	hold->tid = tid_of(task);
	hold->time = time;
#if defined(__TARGET_ARCH_x86)
	hold->call = BPF_PROBE_READ(regs, orig_ax);
	hold->ip = BPF_PROBE_READ(regs, ip);
	hold->sp = is_own ? BPF_PROBE_READ(regs, sp) : 0;
#else
	hold->call = (s64)BPF_PROBE_READ(regs, syscallno);
	hold->ip = BPF_PROBE_READ(regs, pc);
	hold->sp = is_own ? BPF_PROBE_READ(regs, sp) : 0;
#endif
	bpf_ringbuf_submit(hold, BPF_RB_FORCE_WAKEUP);
	return 1;
}

/*
 * Makes a thread wait until user space releases it, before it runs any more of its program. 1: it will.
 * `address`: of its task, which is the current one, or has not run yet. `time`: of the record that gives the
 * reason.
 *
 * Its parent and debugger would see a signal. So user space becomes its tracer for that time. Until that is
 * done the current thread is kept here. Two threads of user space can do it, which have priority over all
 * others on their processors: the first one does. If there is only this processor, or the other one is busy,
 * that happens when this thread leaves the kernel. User space sees whether it was in time.
 */
__noinline int hold_task(u64 address, u64 time)
{
	struct task_struct *task = (void *)address;
	u64 now = bpf_ktime_get_ns(), until, patience, asked;
	u32 index = 0, cpu = bpf_get_smp_processor_id() + 1, *first, *second;
	int is_here, is_behind, is_own = address == bpf_get_current_task();

	if (hold_way == T2P_HOLD_BY_SIGNAL)
		return is_own && stop_process(tgid_of(task));
	/* Who debugs it has it already. */
	if (BPF_CORE_READ(task, ptrace))
		return 0;
	first = bpf_map_lookup_elem(&holders, &index);
	index = 1;
	second = bpf_map_lookup_elem(&holders, &index);
	if (!first || !second)
		return 0;
	is_here = *first == cpu || *second == cpu;
	is_behind = bpf_ringbuf_query(&holds, BPF_RB_AVAIL_DATA) > 0;
	if (!note_hold(task, time, is_own))
		return 0;
	if (*first == cpu && !*second)
		return 1;
	asked = bpf_ringbuf_query(&holds, BPF_RB_PROD_POS);
	until = now + (is_behind ? SEIZED_NS_BEHIND : SEIZED_NS);
	patience = is_own && is_here ? now + SEIZED_NS_HERE : until;
	for (u32 i = 0; i < SEIZED_LOOKS; i++) {
		int seized = is_seized_by(address, patience);

		if (!seized)
			continue;
		/* Who has taken the request is about to seize it. */
		if (seized == SEIZED || patience == until || bpf_ringbuf_query(&holds, BPF_RB_CONS_POS) < asked)
			break;
		patience = until;
	}
	return 1;
}

/* The same of the current thread. */
static __always_inline int hold_thread(u64 time)
{
	return hold_task(bpf_get_current_task(), time);
}

static __always_inline int uid_wanted(void)
{
	u32 uid = (u32)bpf_get_current_uid_gid();

	if (!uid_count)
		return 1;
	for (u32 i = 0; i < T2P_UIDS_MAX; i++)
		if (i < uid_count && uids[i] == uid)
			return 1;
	return 0;
}

/*
 * Reserves a record that introduces the current process. It is longer than most data records: a full ring
 * sometimes has room for those, but hardly for this. Half of the other ring is reserved for files.
 */
static __always_inline struct t2p_process *room_for_process(void)
{
	struct t2p_process *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	struct t2p_noted_process *note;

	if (record || bpf_ringbuf_query(&notices, BPF_RB_AVAIL_DATA) > NOTICES_BYTES / 2)
		return record;
	note = bpf_ringbuf_reserve(&notices, sizeof(*note), 0);
	if (!note)
		return NULL;
	note->place = place_in_ring();
	return &note->process;
}

/* Introduces the current process to user space. A global function: the verifier walks it once. */
__noinline int emit_process(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct t2p_process *record;
	unsigned long start, end;
	u64 len;

	if (!process)
		return 0;
	process->user = bpf_get_current_uid_gid() & (ROOM_USERS - 1);
	record = room_for_process();
	if (!record) {
		/* The next call introduces it. */
		process->flags |= PROCESS_UNTOLD;
		return lost(process->generation, T2P_COUNT_FACT_LOST, 0);
	}
	head(&record->head, T2P_PROCESS, process->generation, 0);
	record->time = bpf_ktime_get_ns();
	record->start_time = BPF_CORE_READ(task, group_leader, start_boottime);
	record->cgroup = bpf_get_current_cgroup_id();
	record->uid = BPF_CORE_READ(task, cred, euid.val);
	record->gid = BPF_CORE_READ(task, cred, egid.val);
	record->parent = tgid_of(BPF_CORE_READ(task, real_parent));
	record->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	BPF_CORE_READ_INTO(&record->comm, task, group_leader, comm);
	read_exe(BPF_CORE_READ(task, mm, exe_file), record);
	start = BPF_CORE_READ(task, mm, arg_start);
	end = BPF_CORE_READ(task, mm, arg_end);
	len = end - start;
	asm volatile("" : "+r"(len));
	if (len > T2P_ARGS_LEN)
		len = T2P_ARGS_LEN;
	record->args_len = bpf_probe_read_user(record->args, len, (void *)start) ? 0 : len;
	bpf_ringbuf_submit(record, wake());
	process->flags |= PROCESS_TOLD;
	return 0;
}

/* The current process is seen for the first time. Not inlined: old kernels have little stack. */
__noinline int meet_process(u32 tgid)
{
	struct process new = { .generation = bpf_ktime_get_ns() };

	new.flags = uid_wanted() ? PROCESS_TARGET : PROCESS_IGNORED;
	/* Another thread may be first: then its entry is the one. */
	return bpf_map_update_elem(&processes, &tgid, &new, BPF_NOEXIST);
}

/* The current process if it is captured, otherwise NULL. */
static __always_inline struct process *current_process(void)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process) {
		if (targets_only || tgid == own_tgid || !tgid)
			return NULL;
		meet_process(tgid);
		process = bpf_map_lookup_elem(&processes, &tgid);
		if (!process) {
			lost(0, T2P_COUNT_PROCESSES_FULL, 0);
			return NULL;
		}
	}
	if (!(process->flags & PROCESS_TARGET))
		return NULL;
	if (!(process->flags & PROCESS_TOLD))
		emit_process();
	return process;
}

/* Reports to user space a file that a process has mapped. NULL: the ring is full. */
static __always_inline struct t2p_noted_file *note_file(u32 tgid, u32 tid, u64 generation, u64 inode, u32 device)
{
	struct t2p_noted_file *note = bpf_ringbuf_reserve(&notices, sizeof(*note), 0);

	if (!note) {
		lost(generation, T2P_COUNT_NOTICE_LOST, 0);
		return NULL;
	}
	head(&note->file.head, T2P_FILE, generation, 0);
	note->file.head.tgid = tgid;
	note->file.head.tid = tid;
	note->file.time = bpf_ktime_get_ns();
	note->file.inode = inode;
	note->file.device = device;
	note->file.stopped = 0;
	note->place = place_in_ring();
	return note;
}

/*
 * A child has its parent's libraries, and breakpoints in them, but its calls are not followed: each process has
 * its own probes. So it waits before its first instruction until user space has attached those, as if it had
 * mapped the library. This runs in the parent, which may be too late for a child that another processor already
 * runs: where possible, the child waits in process_born.
 */
static __always_inline void process_forked(struct task_struct *parent, struct task_struct *child)
{
	u32 from = tgid_of(parent), to = tgid_of(child);
	struct process *process, new = { .generation = bpf_ktime_get_ns() };
	struct held_library *library;
	struct t2p_noted_file *note;
	u32 follows;

	if (from == to)
		return;
	process = bpf_map_lookup_elem(&processes, &from);
	if (!process)
		return;
	library = ready == T2P_GATE_OPEN ? bpf_map_lookup_elem(&held, &from) : NULL;
	/* One that shares its parent's memory until it calls exec makes no TLS calls. */
	if (library && BPF_CORE_READ(child, mm) == BPF_CORE_READ(parent, mm))
		library = NULL;
	follows = process->flags & PROCESS_FOLLOW;
	if (follows) {
		new.flags = process->flags & (PROCESS_TARGET | PROCESS_FOLLOW | PROCESS_STOP);
		if (library && births_seen && !bpf_map_update_elem(&held, &to, library, BPF_ANY))
			new.flags |= PROCESS_BORN;
		if (bpf_map_update_elem(&processes, &to, &new, BPF_ANY)) {
			count(T2P_COUNT_PROCESSES_FULL, 1);
			return;
		}
	}
	if (!library || new.flags & PROCESS_BORN)
		return;
	/* A child that is no target: user space takes the breakpoints away that it has got. */
	note = follows ? note_file(to, to, new.generation, library->inode, library->device) :
			 note_file(from, from, process->generation, library->inode, library->device);
	if (!note)
		return;
	/* Which is the child: read as a number. */
	note->file.stopped = (new.flags & PROCESS_STOP) &&
			     hold_task((u64)BPF_CORE_READ(child, group_leader), note->file.time);
	bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
}

/* The current thread is new, and has not run any of its program yet. */
static __always_inline void process_born(void)
{
	u64 id = current_id();
	u32 tgid = id >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct held_library *library;
	struct t2p_noted_file *note;

	if (!process || !(process->flags & PROCESS_BORN))
		return;
	process->flags &= ~PROCESS_BORN;
	library = bpf_map_lookup_elem(&held, &tgid);
	if (!library)
		return;
	note = note_file(tgid, (u32)id, process->generation, library->inode, library->device);
	if (!note)
		return;
	note->file.stopped = (process->flags & PROCESS_STOP) && hold_thread(note->file.time);
	bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
}

/* The ring has no room for the end of a process, without which its handles stay in the table. */
static __noinline int keep_exit(struct process *process)
{
	struct ended_key key = { .generation = process->generation, .tgid = current_id() >> 32, .kind = ENDED_PROCESS };
	struct t2p_exit *record;

	bpf_map_update_elem(&ended, &key, &no_record, BPF_NOEXIST);
	record = bpf_map_lookup_elem(&ended, &key);
	if (!record)
		return 0;
	head(&record->head, 0, process->generation, 0);
	record->time = bpf_ktime_get_ns();
	/* Last: a record with it is complete. */
	asm volatile("" ::: "memory");
	record->head.type = T2P_EXIT;
	return 1;
}

/* Tells user space that a process that it knows, or has handles of, is no more. */
static __noinline int emit_exit(struct process *process)
{
	struct t2p_exit *record;

	if (!(process->flags & (PROCESS_TOLD | PROCESS_UNTOLD)))
		return 0;
	record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	if (!record) {
		if (!keep_exit(process))
			lost(process->generation, T2P_COUNT_FACT_LOST, 0);
		return 0;
	}
	head(&record->head, T2P_EXIT, process->generation, 0);
	record->time = bpf_ktime_get_ns();
	bpf_ringbuf_submit(record, wake());
	return 0;
}

/*
 * After exec it is another program: its handles and calls no longer exist, its arguments are new. `before`: the
 * thread's number until now, if it was not the first of its process, in the initial pid namespace.
 */
static __always_inline void process_execed(u32 before)
{
	u64 id = current_id();
	u32 tgid = id >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return;
	forget_calls(id, tgid);
	/* In another namespace user space finds it, once the process has ended. */
	id = (u64)tgid << 32 | before;
	forget_calls(id, tgid);
	emit_exit(process);
	process->generation = bpf_ktime_get_ns();
	/* Afterwards: what is removed with the old program is not subtracted. */
	for (int i = 0; i < ROOMS; i++)
		process->taken[i] = 0;
	bpf_map_delete_elem(&held, &tgid);
	process->flags &= ~(PROCESS_TOLD | PROCESS_UNTOLD | PROCESS_NO_SOCKET | PROCESS_STACKS | PROCESS_STACKS_TOLD |
			    PROCESS_RUSTLS);
	if (!targets_only) {
		/* It may run as another user now. */
		process->flags &= ~(PROCESS_TARGET | PROCESS_IGNORED);
		process->flags |= uid_wanted() ? PROCESS_TARGET : PROCESS_IGNORED;
	}
}

static __always_inline void process_exited(void)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return;
	emit_exit(process);
	bpf_map_delete_elem(&held, &tgid);
	bpf_map_delete_elem(&processes, &tgid);
}

/*
 * What changes when a file is rewritten, or another file gets its inode. No program can set the time of the
 * last change. User space computes it too, in stamp_of in probe/files.rs.
 */
static __noinline u64 stamp_of(u64 address)
{
	struct inode *inode = (void *)address;
	struct inode___before_6_11 *former = (void *)address;
	struct inode___before_6_6 *old = (void *)address;
	u64 seconds = 0, nanoseconds = 0;

	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		seconds = BPF_CORE_READ(inode, i_ctime_sec);
		/* The highest bit shows whether it was ever requested: from Linux 6.13 on. */
		nanoseconds = BPF_CORE_READ(inode, i_ctime_nsec) & ~(1U << 31);
	} else if (bpf_core_field_exists(former->__i_ctime)) {
		seconds = BPF_CORE_READ(former, __i_ctime.tv_sec);
		nanoseconds = BPF_CORE_READ(former, __i_ctime.tv_nsec);
	} else if (bpf_core_field_exists(old->i_ctime)) {
		seconds = BPF_CORE_READ(old, i_ctime.tv_sec);
		nanoseconds = BPF_CORE_READ(old, i_ctime.tv_nsec);
	}
	/* Odd constants: what differs in one of them does not vanish among the others. */
	return (seconds << 30 ^ nanoseconds) + BPF_CORE_READ(inode, i_size) * 0x9e3779b97f4a7c15ULL +
	       BPF_CORE_READ(inode, i_generation) * 0xc2b2ae3d27d4eb4fULL;
}

/* Whether a known library is already probed in this process, or needs no probes there. */
static __noinline int is_probed(struct process *process, struct file_key *file)
{
	struct probed_key key = { .inode = file->inode, .device = file->device, .tgid = current_id() >> 32 };
	u64 *generation;

	if (!process || !targets_only)
		return 1;
	generation = bpf_map_lookup_elem(&probed, &key);
	return generation && *generation == process->generation;
}

/*
 * Reports to user space a file that it has not inspected yet, or must probe in this process; processes of the
 * command wait until it has. User space records its findings, so that a process that maps the file meanwhile
 * waits too.
 */
static __always_inline void file_mapped(struct file *file)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct seen_file *seen, now = {};
	struct file_key key = {};
	struct t2p_noted_file *note;

	if (targets_only && !process)
		return;
	key.inode = BPF_CORE_READ(file, f_inode, i_ino);
	key.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	if (!key.inode)
		return;
	now.stamp = stamp_of((u64)BPF_CORE_READ(file, f_inode));
	seen = bpf_map_lookup_elem(&files, &key);
	if (seen && seen->stamp == now.stamp &&
	    (seen->state == FILE_PLAIN || (seen->state == FILE_LIBRARY && is_probed(process, &key))))
		return;
	if (seen && seen->stamp == now.stamp && seen->state == FILE_RESTS) {
		if (process && process->flags & PROCESS_STOP)
			lost(process->generation, T2P_COUNT_UNHELD, 0);
		return;
	}
	note = note_file(tgid, (u32)current_id(), process ? process->generation : 0, key.inode, key.device);
	if (!note)
		return;
	now.told = note->file.time;
	if (!seen || seen->stamp != now.stamp)
		bpf_map_update_elem(&files, &key, &now, BPF_ANY);
	else if (seen->state == FILE_ASKED)
		seen->told = now.told;
	/* Only while user space is there to release it. */
	note->file.stopped = ready == T2P_GATE_OPEN && process && (process->flags & PROCESS_STOP) &&
			     hold_thread(note->file.time);
	bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
}

#endif
