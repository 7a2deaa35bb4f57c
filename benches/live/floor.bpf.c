/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Probes that do nothing: what remains is what the kernel itself takes for one. */
#define SEC(name) __attribute__((section(name), used))

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("uprobe")
int single(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("uprobe.multi")
int bulk(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("uprobe.session")
int session(void *ctx)
{
	(void)ctx;
	return 0;
}
