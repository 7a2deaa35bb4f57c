/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The path of an open file, up to the root of its mount namespace: what /proc/PID/exe shows. */
#ifndef TLS2PCAP_PATH_H
#define TLS2PCAP_PATH_H

#include "maps.bpf.h"

/*
 * Reads the names of the path of the executable of `record`. The length lies in the record, not in a register: there
 * the verifier knows nothing of it, and takes all steps for one.
 */
static __always_inline void read_exe(struct file *file, struct t2p_process *record)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry), *parent;
	struct mount *mount = (void *)BPF_CORE_READ(file, f_path.mnt) - bpf_core_field_offset(struct mount, mnt), *above;
	const unsigned char *name;
	u32 used;
	long n;

	record->exe_len = 0;
	record->exe_whole = 0;
	for (u32 i = 0; i < T2P_PATH_PARTS; i++) {
		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			above = BPF_CORE_READ(mount, mnt_parent);
			if (above == mount) {
				record->exe_whole = 1;
				break;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		used = *(volatile unsigned short *)&record->exe_len;
		if (used >= T2P_PATH_LEN)
			break;
		name = BPF_CORE_READ(dentry, d_name.name);
		n = bpf_probe_read_kernel_str(record->exe + used, T2P_NAME_LEN, name);
		if (n <= 0)
			break;
		record->exe_len = used + n;
		parent = BPF_CORE_READ(dentry, d_parent);
		/* In no directory: a memfd. */
		if (parent == dentry) {
			record->exe_whole = 1;
			break;
		}
		dentry = parent;
	}
}

#endif
