/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The knobs and every map. A full map refuses and counts; none evicts silently, because an
 * evicted stream would start at offset 0 again. No map holds payload, and no per-CPU map holds
 * state across a helper call: on preemptible kernels another process would write into it.
 */
#ifndef TLS2PCAP_MAPS_H
#define TLS2PCAP_MAPS_H

#include "kernel.bpf.h"
#include "tls2pcap.h"

#define CALL_DEPTH 4
#define NOTICES_BYTES (64 << 10)
/* The smallest that kernels with pages of 64 KiB take. Room for far more threads than wait at a time. */
#define HOLDS_BYTES (64 << 10)

/* Set before loading. */
const volatile u32 targets_only; /* 1: only processes that are in the map already; 0: all */
const volatile u32 uid_count; /* 0: any user */
const volatile u32 uids[T2P_UIDS_MAX];
const volatile u32 own_tgid; /* this process is never captured */
const volatile u32 own_pidns; /* inode of our pid namespace; 0: the initial one */
const volatile u64 call_limit = 1 << 20; /* bytes of one call that are captured */
const volatile u64 snaplen = ~0ULL; /* bytes of one record that are captured; not 0 */

/* Set once the socket of some process must be found by ciphertext: see ciphertext.bpf.h. */
volatile u32 ciphertext_wanted;

/* Set while functions that were found in code have to prove themselves: see probation.bpf.h. */
volatile u32 probation_wanted;

/* Set once a Go program is probed: see go.bpf.h. */
volatile u32 go_wanted;

/* Set once a call was seen on a stack that is not its thread's own: see stack.bpf.h. */
volatile u32 stacks_wanted;

/* Set where no function of a TLS library has a return probe, but probes on its return instructions. */
volatile u32 by_returns;

/* How threads of the command are made to wait. */
volatile enum t2p_hold_way hold_way;

/* Set where programs run in new processes before these run themselves. */
volatile u32 births_seen;

/* Opened once all probes are attached. */
volatile enum t2p_gate ready;

/* A probe of user space's own was hit. */
volatile u32 self_seen;

/* Tables that no process and no user may fill alone: see room.bpf.h. */
enum room {
	ROOM_HANDLES,
	ROOM_THREADS,
	ROOM_GOROUTINES,
	ROOM_RUSTLS,
	ROOM_SOCKETS,
};
#define ROOMS 8 /* a power of two, so that the verifier sees that a number is below it */

/* Users share a row if their numbers end in the same bits. */
#define ROOM_USERS 256

/* Entries of each table: the maximum, in total, and of each row of users. */
const volatile u32 room_size[ROOMS];
u32 room_taken[ROOMS];
u32 room_of_users[ROOM_USERS][ROOMS];

const volatile u32 never; /* 0 */

/* Holds no program: see PLAIN_STACK. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} nowhere SEC(".maps");

/* The same, for programs that are always attached one by one: one map takes one kind of program only. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} nowhere_single SEC(".maps");

/* The same, for programs that see entry and return. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} nowhere_session SEC(".maps");

/*
 * Stands at the beginning of every program of a uprobe. From Linux 6.13 on the verifier gives programs
 * of this type a stack per CPU, although those of uprobes are preempted: two tasks on one CPU would
 * write over each other's variables, pointers included, and the kernel would fall. A program with a
 * tail call in it keeps the kernel stack. The call is never made; the verifier takes it out.
 */
#define PLAIN_STACK_BY(ctx, map)                                                               \
	do {                                                                                   \
		if (never)                                                                     \
			bpf_tail_call(ctx, &map, 0);                                           \
	} while (0)
#define PLAIN_STACK_SESSION(ctx) PLAIN_STACK_BY(ctx, nowhere_session)
#define PLAIN_STACK(ctx) PLAIN_STACK_BY(ctx, nowhere)
#define PLAIN_STACK_SINGLE(ctx) PLAIN_STACK_BY(ctx, nowhere_single)

/* How many pid namespaces deep a process may lie. */
#define PIDNS_DEPTH 8

/*
 * A task's number in our pid namespace; 0: it is not visible there. A global function: the verifier walks it
 * once, not at each call.
 */
__noinline u32 number_of(u64 address)
{
	struct task_struct *task = (void *)address;
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	void *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers);

	for (u32 i = 0; i < PIDNS_DEPTH; i++) {
		if (i > level)
			break;
		if (BPF_CORE_READ((struct upid *)upid, ns, ns.inum) == own_pidns)
			return BPF_CORE_READ((struct upid *)upid, nr);
		upid += bpf_core_type_size(struct upid);
	}
	return 0;
}

/* Thread group and thread of the current task, as our pid namespace numbers them. */
static __always_inline u64 current_id(void)
{
	struct task_struct *task;

	if (!own_pidns)
		return bpf_get_current_pid_tgid();
	task = (void *)bpf_get_current_task();
	return (u64)number_of((u64)BPF_CORE_READ(task, group_leader)) << 32 | number_of((u64)task);
}

static __always_inline u32 tid_of(struct task_struct *task)
{
	return own_pidns ? number_of((u64)task) : BPF_CORE_READ(task, pid);
}

static __always_inline u32 tgid_of(struct task_struct *task)
{
	return own_pidns ? number_of((u64)BPF_CORE_READ(task, group_leader)) : BPF_CORE_READ(task, tgid);
}

enum call_flag : u16 {
	CALL_CONFLICT = 1 << 0, /* more than one TCP socket was used, and nothing shows which is the handle's */
	CALL_UDP = 1 << 1, /* a UDP socket was used */
	CALL_READ_SOCKET = 1 << 2, /* `copied` is set */
	CALL_INNER = 1 << 3, /* the internal function was called inside it */
	CALL_INNER_DONE = 1 << 4, /* and has returned */
	CALL_INNER_WRONG = 1 << 5, /* it is not what it was taken for */
	CALL_PENDING = 1 << 6, /* counted in `pending` of the export's evidence */
	CALL_QUIET = 1 << 7, /* that it used no socket proves nothing */
	CALL_WROTE = 1 << 8, /* `sock` was written to */
	CALL_ASIDE = 1 << 9, /* it began on a stack that is not its thread's own, where no return was probed */
};

enum go_flag : u8 {
	GO_CALL = 1 << 0, /* `sp` is a position on a goroutine's stack, from place_on_stack */
	GO_BUFFER_ON_STACK = 1 << 1, /* `buf` is relative to the upper end of the stack */
	GO_MARKED = 1 << 2, /* GO_MARK is set */
};

/* A TLS call in progress. */
struct call {
	u64 sp; /* at entry; with it entry and return find each other */
	u64 ip;
	u64 handle;
	u64 buf;
	u64 num;
	u64 count_at; /* where the call puts its byte count; 0: the count is the return value */
	u64 entered;
	u64 sock; /* the TCP socket that was used inside this call: of several, the one that is rather its own */
	u64 below; /* another handle that was called inside this call */
	u64 below_generation;
	u64 inner_sp; /* of the call of an internal function inside this one; see proof.bpf.h. Go: GO_RETURNS_TO */
	u64 inner_count_at; /* Go: GO_MARK */
	s64 inner_len; /* bytes that it moved; -1: unknown */
	s64 len; /* bytes that this call moved, once it has returned; -1: unknown */
	u32 copied; /* copied_seq of the socket before its first read inside this call */
	s32 fd_hint; /* first argument of the system call that used the socket */
	u32 library;
	u32 record; /* the first that was written to `sock`: see record_sent */
	enum call_flag flags;
	u8 function;
	u8 site; /* enum t2p_site */
	enum go_flag go; /* 0: the library is none of Go's */
	u8 pad[3];
	u64 returns_to; /* of a call that has no return probe: the address; otherwise 0 */
};

/* What a call in Go needs more. It has no function inside it, and a larger struct would cost stack in every program. */
#define GO_RETURNS_TO(call) ((call)->inner_sp) /* the address that it returns to */
#define GO_MARK(call) ((call)->inner_count_at) /* the handle's `copied` at entry */

/* The calls of one thread, of one goroutine, or on one stack, outermost first. */
struct thread {
	u64 depth;
	u64 process; /* generation */
	u64 todo, done; /* bytes of the call that just returned: to be emitted, and emitted */
	u64 bio_sp; /* a BIO_read in progress inside a TLS call; 0: none */
	u64 bio_buf;
	u32 bio_header; /* the last one read the first five bytes of a record: its length and type */
	u16 user; /* whose share it counts against: struct process */
	u16 of_stack; /* not of a thread or goroutine */
	u64 own_low, own_high; /* bounds of the thread's own stack, if known */
	struct call calls[CALL_DEPTH];
};

struct handle_key {
	u64 address;
	u32 tgid;
	u32 pad;
};

/*
 * If a thread that reads and one that writes set two flags at the same time, one of them is lost: there is no
 * atomic OR before Linux 5.12. So a flag may only decide whether something is reported once more.
 */
enum handle_flag {
	HANDLE_FRESH = 1 << 0, /* seen since its SSL_new or its handshake */
	HANDLE_CLIENT = 1 << 1, /* the TLS role is reported */
	HANDLE_SERVER = 1 << 2,
	HANDLE_NAME = 1 << 3, /* server name reported */
	HANDLE_ALPN = 1 << 4,
	HANDLE_SHUTDOWN = 1 << 5,
	HANDLE_LAYER = 1 << 6,
	HANDLE_MARKED = 1 << 7, /* copied and written are set */
	HANDLE_READ = 1 << 8, /* a read was seen, so none can have been blocked since before */
	HANDLE_NOT_TCP = 1 << 9, /* QUIC or DTLS: never written as TCP */
	HANDLE_BIND_TOLD = 1 << 10,
	HANDLE_CLOSED = 1 << 11, /* Go: it is removed when the last call on it returns */
	HANDLE_NO_SOCKET = 1 << 12, /* it encrypts into memory: only its records reveal its socket */
	HANDLE_CORKED = 1 << 13, /* what is sent stays in the library until it is uncorked */
	HANDLE_MOVES = 1 << 15, /* the program may have given it another socket */
	HANDLE_ASKED = 1 << 16, /* the library was asked for its socket */
	HANDLE_MULTIPATH = 1 << 17, /* its socket is one of MPTCP */
	HANDLE_PLAIN = 1 << 14, /* NSS: the program has switched TLS off, and passes plain bytes through */
};

/* A TLS handle and the offsets of its two streams. */
struct handle {
	u64 process; /* generation of the process: a recycled pid has another */
	u64 generation;
	u64 read_end;
	u64 write_end;
	u64 sock;
	u64 sock_generation;
	u64 barrier; /* added to where a full memory barrier is needed; its value means nothing */
	u32 read_seq;
	u32 write_seq;
	u32 inflight; /* 1 + number of the write that has begun and not returned */
	u32 awaited; /* the write that a read must wait for, in the same form */
	u32 refs; /* 0: unknown, the handle is older than the capture. Go: calls in progress */
	u32 copied; /* the socket's copied_seq and write_seq when the last call returned */
	u32 written;
	enum handle_flag flags;
	/* GnuTLS, see gnutls.bpf.h: */
	u32 pending; /* bytes already reported of a send that must be repeated */
	u32 ahead; /* reported bytes that the next sends offer again */
	u32 record_max; /* the most that one send takes; 0: unknown */
	/* By direction: a lost call is still to be reported, because the ring was full. Each is written by one
	   thread at a time. */
	u8 lost[2];
	u16 name_len; /* of the text at `name_at`; 0: up to the NUL */
	u32 user; /* whose share it counts against: struct process */
	u64 name_at; /* the server's name, which could not be read when the program set it; 0: none */
	/* rustls, see rustls.bpf.h: */
	u64 next_seq; /* number of the next record */
	u64 print; /* of the key */
};

struct socket_state {
	u64 generation;
	u64 process; /* generation of the process that it counts for */
	u32 tgid;
	u32 data_segs; /* received when this side's FIN was sent */
	u8 fin; /* the peer's FIN has arrived, and that it was read is not yet reported */
	u8 user; /* whose share it counts against: struct process */
	u8 multipath; /* MPTCP: the offsets of its streams are unknown */
	u8 pad[5];
};

/* The handles of rustls that have a socket, by direction; 0: none. */
struct socket_sides {
	u64 generation; /* of the socket */
	u64 now[2];
	u64 before[2]; /* the previous ones, whose end is not yet reported */
	u32 tgid; /* whose they are */
	u32 pad;
};

enum process_flag {
	PROCESS_TARGET = 1 << 0,
	PROCESS_FOLLOW = 1 << 1, /* its children are captured too */
	PROCESS_STOP = 1 << 2, /* it waits while a file that it is the first to map is inspected */
	PROCESS_TOLD = 1 << 3, /* user space knows it */
	PROCESS_IGNORED = 1 << 4,
	PROCESS_NO_SOCKET = 1 << 5, /* some of its handles encrypt into memory; user space knows it */
	PROCESS_WATCHED = 1 << 6, /* its BIO functions are probed ahead, in case it has such handles */
	PROCESS_SOCKET = 1 << 7, /* some of its handles use their sockets themselves */
	PROCESS_IDLE = 1 << 8, /* its BIO functions were called many times, and revealed nothing new */
	PROCESS_STACKS = 1 << 9, /* it makes calls on other stacks than its threads' own */
	PROCESS_RUSTLS = 1 << 10, /* it uses rustls, which encrypts into memory */
	PROCESS_UNTOLD = 1 << 11, /* the ring was full when it was to be reported */
	PROCESS_STACKS_TOLD = 1 << 12, /* user space knows that it makes calls on other stacks */
	PROCESS_BORN = 1 << 13, /* it has not run yet, and has to wait before it does */
};

/* A process that is captured, or is known to be none of ours. */
struct process {
	u64 generation;
	enum process_flag flags;
	u32 idle; /* calls of its BIO functions since one revealed a socket */
	u32 user; /* row of its user in room_of_users */
	u32 taken[ROOMS];
};

/* A library that is probed in a process, of several any. */
struct held_library {
	u64 inode;
	u32 device;
	u32 pad;
};

/* The first bytes of the body of a TLS record that no other record begins with. */
#define RECORD_BODY 24
struct record_key {
	u32 tgid;
	u32 len; /* bytes of the body that count */
	u8 body[RECORD_BODY];
};

struct record_handle {
	u64 address; /* 0: two handles made such a record */
	u64 generation;
};

struct record_socket {
	u64 sock; /* 0: it passed through two sockets */
	u64 generation;
	s32 fd;
	u32 pad;
};

/* A call of rustls in progress. */
struct rustls_call {
	u64 process; /* generation */
	u64 sp; /* at entry */
	u64 handle;
	u64 entered;
	u64 seq; /* number of the record among those of its key */
	u64 result; /* where the result is put */
	u64 buf; /* the data to encrypt, or the body of the record to decrypt */
	u64 len;
	u64 parts; /* the plaintext is in slices: their address; 0: at `buf` */
	u64 count; /* number of slices */
	u64 start; /* of their bytes, those from here on */
	u32 library;
	u8 kind; /* enum t2p_rustls_flag */
	u8 type; /* of the record's content, RUSTLS_*; of TLS 1.3 when it is decrypted: still unknown */
	u8 understood; /* the arguments are what they are taken for */
	u8 user; /* whose share it counts against: struct process */
	u64 seen; /* bytes in the slices that were read */
	struct t2p_data data;
};

/* The handles of rustls that had a socket which is closed. */
struct grave {
	u64 address;
	u64 sock_generation;
	u32 tgid;
	u32 pad;
};

/* Evidence for and against the internal function, from one export or in all its calls. */
struct evidence {
	u32 agreed; /* calls that moved data, for which both agreed */
	u32 disagreed;
	s32 pending; /* calls that have left the internal function, and the export not yet */
	u32 pad;
};

/* Of an export: TAKEN: its internal function has taken it over. Of that: TAKEN: it has done so with some. */
enum verdict {
	VERDICT_NONE = 0,
	VERDICT_TAKEN = 1,
	VERDICT_CONDEMNED = 2,
	VERDICT_PROBATION = 3, /* of a read or write that was found in code: see probation.bpf.h */
};

/* What a process lost for one reason. */
struct loss_key {
	u64 process;
	u32 tgid;
	enum t2p_counter reason;
};

struct loss {
	u64 events;
	u64 bytes;
};

/* Not enough alone: inode numbers are reused, and subvolumes of btrfs share them. */
struct file_key {
	u64 inode;
	u32 device;
	u32 pad;
};

enum file_state {
	FILE_ASKED = 0, /* user space was notified, and has not inspected it yet */
	FILE_PLAIN = 1, /* there is nothing in it to probe */
	FILE_LIBRARY = 2, /* each process of the command that maps it has to get its own probes */
	FILE_RESTS = 3, /* it was inspected too often without result: for a while its mappings are not reported */
};

struct seen_file {
	u64 stamp; /* of the state that the file was in: see stamp_of */
	u64 told; /* when user space was last notified: with this it says which state it has inspected */
	enum file_state state;
	u32 pad;
};

struct probed_key {
	u64 inode;
	u32 device;
	u32 tgid;
};

/* Records on their way to user space. Its size is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} ring SEC(".maps");

/* What user space must act on, on its way there: see struct t2p_noted_file. Room for a thousand files. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, NOTICES_BYTES);
} notices SEC(".maps");

/*
 * tgid << 32 | tid → calls in progress. Entries live as long as their thread: no churn on each call. And stacks
 * that are no thread's own (stack_key) → the same, while there are calls on them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct thread);
} threads SEC(".maps");

struct goroutine_key {
	u64 g; /* address of the runtime's description of it */
	u32 tgid;
	u32 pad;
};

/* Threads that must be seized, on their way to the holder threads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HOLDS_BYTES);
} holds SEC(".maps");

/*
 * The processors of the two threads that read this ring, plus 1, if they go before all others there. 0: it does not, or
 * there is none.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, u32);
} holders SEC(".maps");

/* Processes of the command that wait for SIGCONT: any other stopped process has stopped for its own reasons. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32); /* tgid */
	__type(value, u32);
} stopped SEC(".maps");

/* Goroutines → calls in progress. An entry lives as long as these: the kernel does not see goroutines end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct goroutine_key);
	__type(value, struct thread);
} goroutines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct handle_key);
	__type(value, struct handle);
} handles SEC(".maps");

/* struct sock address → sockets that some handle was bound to, until they close. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/* Records that left a TLS library into memory → their handle. LRU: one that is forgotten binds nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct record_key);
	__type(value, struct record_handle);
} records_out SEC(".maps");

/* Records that passed through a socket → that socket. LRU, likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct record_key);
	__type(value, struct record_socket);
} records_in SEC(".maps");

struct receiving {
	u64 sock;
	u32 copied; /* copied_seq before the read */
	u32 pad;
};

/* tgid << 32 | tid → the call of rustls that the thread is in. Goes with the thread at the latest. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct rustls_call);
} rustls_calls SEC(".maps");

/* tgid → records of rustls in `records_out` that were not seen at a socket. LRU: then the search for them
   fails. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u64);
} outgoing SEC(".maps");

/* struct sock address → handles of rustls. LRU: those of one that is forgotten go with their process. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct socket_sides);
} socket_sides SEC(".maps");

/* Nothing shows when rustls drops a key. A program may still decrypt what it has received: so the last ones
   stay. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1024);
	__type(value, struct grave);
} graves SEC(".maps");

/* tgid << 32 | tid → the read(2) of a socket that the thread is in. LRU: a return may be missed. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct receiving);
} receives SEC(".maps");

/* tgid → process. User space adds targets; fork adds their children; exit removes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct process);
} processes SEC(".maps");

/* Files that were reported to user space, which records its findings here. LRU: forgetting one costs a second
   inspection. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, struct seen_file);
} files SEC(".maps");

/*
 * Libraries that are probed in a process of the command → generation of that process. User space adds and
 * removes the entries. LRU: forgetting one costs a second inspection.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct probed_key);
	__type(value, u64);
} probed SEC(".maps");

/*
 * tgid → what is probed in a process that was given, or in one of a command. User space makes the entries, and fork
 * those of children; they go with the program. LRU: a child of one that is forgotten gets probes with the next library
 * that it maps.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct held_library);
} held SEC(".maps");

static __always_inline u64 cookie_of(u32 library, u32 site)
{
	return (u64)library << T2P_COOKIE_LIBRARY | site;
}

static __always_inline u32 library_of(u64 cookie)
{
	return cookie >> T2P_COOKIE_LIBRARY;
}

static __always_inline u32 site_of(u64 cookie)
{
	return cookie & ((1 << T2P_COOKIE_LIBRARY) - 1);
}

/* Attach cookie → evidence. User space makes the entries, before it attaches. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct evidence);
} evidence SEC(".maps");

/* Attach cookie → verdict, which user space gives. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, enum verdict);
} verdicts SEC(".maps");

/* The application records that a handle passed to its BIO, or took from it. */
struct record_way {
	u64 end; /* the stream has not passed this offset */
	u32 records; /* since the last call that moved bytes */
	u32 body; /* length of the last one's body */
	u32 taken; /* bytes that calls have taken from it or put into it; 0: none that can be followed */
	u32 unused;
};

struct record_flow {
	u64 generation; /* of the handle */
	struct record_way read;
	struct record_way write;
	u64 last; /* some bytes of the last record that left */
	u32 left; /* bytes of the record that is being read */
	u32 have; /* bytes of its header */
	u8 header[16];
};

/* Handles → their records, while a library is on probation. LRU: of one that is forgotten less is known. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct handle_key);
	__type(value, struct record_flow);
} flows SEC(".maps");

enum ended_kind {
	ENDED_HANDLE,
	ENDED_PROCESS,
	ENDED_SOCKET,
};

struct ended_key {
	u64 generation;
	u32 tgid; /* of a socket: 0 */
	enum ended_kind kind; /* of what is kept: a struct t2p_handle, t2p_exit or t2p_socket */
};

static const struct t2p_handle no_record;

/*
 * Ends of handles, processes and sockets whose record did not fit into the ring. User space takes them out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct ended_key);
	__type(value, struct t2p_handle);
} ended SEC(".maps");

/* Losses by process and reason, kept after the process has ended. Touched only where something is lost. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct loss_key);
	__type(value, struct loss);
} losses SEC(".maps");

/* enum t2p_counter → count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, T2P_COUNT_MAX);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

static __always_inline void count(u32 what, u64 n)
{
	u64 *value = bpf_map_lookup_elem(&counters, &what);
	/* An interrupt may count on this CPU in between: add atomically. */
	if (value)
		__sync_fetch_and_add(value, n);
}

/* Not by way of the stack, of which old kernels have too little here. */
static const struct loss no_loss;

/* Counts a loss under `reason`, in total and for the current process, whose generation is `process` (0: none). */
__noinline int lost(u64 process, u32 reason, u64 bytes)
{
	struct loss_key key = { .process = process, .tgid = current_id() >> 32, .reason = reason };
	struct loss *loss = bpf_map_lookup_elem(&losses, &key);

	count(reason, 1);
	if (!loss) {
		bpf_map_update_elem(&losses, &key, &no_loss, BPF_NOEXIST);
		loss = bpf_map_lookup_elem(&losses, &key);
	}
	if (!loss) {
		count(T2P_COUNT_LOSSES_FULL, 1);
		return 0;
	}
	__sync_fetch_and_add(&loss->events, 1);
	__sync_fetch_and_add(&loss->bytes, bytes);
	return 0;
}

#endif
