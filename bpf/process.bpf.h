/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Which processes are captured: the filter that every probe passes first, and its upkeep. */
#ifndef TLS2PCAP_PROCESS_H
#define TLS2PCAP_PROCESS_H

#include "emit.bpf.h"
#include "path.bpf.h"

/* The current process waits until user space lets it go. 1: it will. */
__noinline int stop_process(void)
{
	u32 tgid = current_id() >> 32, one = 1;

	/* Before the signal: whoever sees the process stopped sees why. */
	bpf_map_update_elem(&stopped, &tgid, &one, BPF_ANY);
	/* To this thread: sent to the process, another thread might stop first and this one go on. */
	return !bpf_send_signal_thread(SIGSTOP);
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
 * Room to introduce the current process. Its record is longer than most of data: while the ring is full there is
 * room for these now and then, but hardly for that. Half of the other ring is for files only.
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

/* The current process if it is captured, else NULL. */
static __always_inline struct process *current_process(void)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process) {
		struct process new = { .generation = bpf_ktime_get_ns() };

		if (targets_only || tgid == own_tgid || !tgid)
			return NULL;
		new.flags = uid_wanted() ? PROCESS_TARGET : PROCESS_IGNORED;
		/* Another thread may be first: then its entry is the one. */
		bpf_map_update_elem(&processes, &tgid, &new, BPF_NOEXIST);
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

static __always_inline void process_forked(struct task_struct *parent, struct task_struct *child)
{
	u32 from = tgid_of(parent), to = tgid_of(child);
	struct process *process, new = { .generation = bpf_ktime_get_ns() };

	if (from == to)
		return;
	process = bpf_map_lookup_elem(&processes, &from);
	if (!process || !(process->flags & PROCESS_FOLLOW))
		return;
	new.flags = process->flags & (PROCESS_TARGET | PROCESS_FOLLOW | PROCESS_STOP);
	if (bpf_map_update_elem(&processes, &to, &new, BPF_ANY))
		count(T2P_COUNT_PROCESSES_FULL, 1);
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
	/* Last: a record with it is whole. */
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
 * After exec it is another program: its handles and calls are gone, its arguments are new. `before`: the
 * thread's number until now, if it was not the first of its process, as the initial pid namespace has it.
 */
static __always_inline void process_execed(u32 before)
{
	u64 id = current_id();
	u32 tgid = id >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return;
	bpf_map_delete_elem(&threads, &id);
	/* In another namespace user space finds it, once the process has ended. */
	id = (u64)tgid << 32 | before;
	bpf_map_delete_elem(&threads, &id);
	emit_exit(process);
	process->generation = bpf_ktime_get_ns();
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
	bpf_map_delete_elem(&processes, &tgid);
}

/*
 * Tells user space of a file that it has not looked at yet; the command's own tree waits until it
 * has. User space marks the file as seen, so that whoever maps it meanwhile waits too.
 */
static __always_inline void file_mapped(struct file *file)
{
	u32 tgid = current_id() >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct file_key key = {};
	struct t2p_noted_file *note;
	u32 stop;

	if (targets_only && !process)
		return;
	key.inode = BPF_CORE_READ(file, f_inode, i_ino);
	key.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	if (!key.inode || bpf_map_lookup_elem(&files, &key))
		return;
	/* Only while somebody is there to let it go on. */
	stop = ready == T2P_GATE_OPEN && process && (process->flags & PROCESS_STOP);
	note = bpf_ringbuf_reserve(&notices, sizeof(*note), 0);
	if (!note) {
		lost(process ? process->generation : 0, T2P_COUNT_NOTICE_LOST, 0);
		return;
	}
	head(&note->file.head, T2P_FILE, process ? process->generation : 0, 0);
	note->file.time = bpf_ktime_get_ns();
	note->file.inode = key.inode;
	note->file.device = key.device;
	note->file.stopped = stop && stop_process();
	note->place = place_in_ring();
	bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
}

#endif
