/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What crosses from the kernel to user space: the layout of every ring record, and every number that C and
 * Rust share. Rust has no copy of these numbers: build.rs makes Rust enums of those in ring records
 * (src/event/numbers.rs), and src/probe takes the others from the skeleton, as it does those of maps.bpf.h.
 * src/probe/layout.rs has the compiler compare the records of src/event/record.rs with the types here.
 *
 * Each enum has the size of the field that holds it. No two bits of an enum whose name ends in _flag may be
 * the same: build.rs refuses that.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC. All integers are in the machine's byte order.
 */
#ifndef TLS2PCAP_H
#define TLS2PCAP_H

enum t2p_limit {
	/* The most payload that one record carries: with the headers it is one IPv4 packet. */
	T2P_CHUNK_MAX = 64512,
	/* The most chunks of one call without bpf_loop: 1 MiB and a bit, as many as the verifier of 5.10 accepts. */
	T2P_CHUNKS_UNROLLED = 17,
	/* The longest call, with bpf_loop. */
	T2P_CALL_MAX = 64 << 20,
	/* Users whose processes are captured, if not those of all. */
	T2P_UIDS_MAX = 16,
};

/* The length of these fields. Rust sees it in their types. */
#define T2P_COMM_LEN 16
#define T2P_NAME_LEN 256 /* of one part of a path, NAME_MAX and NUL */
#define T2P_PATH_LEN 512 /* of a path; the part that crosses it is still complete */
#define T2P_PATH_PARTS 32 /* names and mounts of a path */
#define T2P_ARGS_LEN 1024
#define T2P_TEXT_LEN 256

enum t2p_type : unsigned short {
	T2P_DATA = 1,
	T2P_BIND = 2,
	T2P_HANDLE = 3,
	T2P_SOCKET = 4,
	T2P_PROCESS = 5,
	T2P_EXIT = 6,
	T2P_FILE = 7,
	T2P_NO_SOCKET = 8,
	/* User space makes these (src/event/record.rs). */
	T2P_START = 64,
	T2P_CLOCK = 65,
	T2P_PROCESS_FACTS = 66,
	T2P_LIBRARY = 67,
	T2P_COUNTERS = 68,
	T2P_FINAL = 69,
	T2P_STOP = 70,
	T2P_LOSSES = 71,
	T2P_VERDICT = 72,
};

/* Which TLS call moved the bytes. */
enum t2p_function : unsigned char {
	T2P_FN_READ = 1,
	T2P_FN_READ_EX = 2,
	T2P_FN_READ_EARLY = 3,
	T2P_FN_READ_INTERNAL = 4, /* the internal function of SSL_read and SSL_read_ex; BIO_f_ssl calls it */
	T2P_FN_WRITE = 5,
	T2P_FN_WRITE_EX = 6,
	T2P_FN_WRITE_EARLY = 7,
	T2P_FN_WRITE_INTERNAL = 8,
	T2P_FN_SENDFILE = 9,
	T2P_FN_HANDSHAKE = 10, /* moves no data; binds the socket */
	T2P_FN_PEEK = 11, /* consumes nothing; binds the socket */
	T2P_FN_SHUTDOWN = 12, /* moves no data; binds the socket */
	/* GnuTLS and NSS. Reads: */
	T2P_FN_RECV = 13,
	T2P_FN_RECV_PACKET = 14, /* into a buffer of the library's own */
	T2P_FN_NSS_READ = 15,
	/* Writes: */
	T2P_FN_SEND = 16, /* takes the bytes even if it has to be called again */
	T2P_FN_SEND_RANGE = 17,
	T2P_FN_UNCORK = 18, /* sends what was taken before */
	T2P_FN_SEND_PARTS = 19, /* through the functions above, or past them */
	T2P_FN_NSS_WRITE = 20,
};

/* An attach cookie: from the lowest bit on an enum t2p_site, from T2P_COOKIE_LIBRARY on the library's number. */
enum t2p_cookie_bit {
	T2P_COOKIE_PROBATION = 7, /* in a key of `evidence`: what was found while the function was on probation */
	T2P_COOKIE_LIBRARY = 8,
	/* Of a return instruction, or a jump before it: */
	T2P_COOKIE_DEPTH = 40, /* this many words are still on the stack above the return address: 10 bits */
	T2P_COOKIE_REGISTER = 50, /* index in struct pt_regs, or the constant: 4 bits */
	T2P_COOKIE_VALUE = 54, /* enum t2p_value: 3 bits */
	T2P_COOKIE_CONDITION = 57, /* number of the condition under which the jump leads to the return: 4 bits */
	T2P_COOKIE_CONDITIONAL = 61, /* there is one */
	T2P_COOKIE_RETURN = 62, /* the function itself is here about to return, and its caller not yet reached */
	T2P_COOKIE_ENTRY_ONLY = 63, /* the return of this function is of no interest */
};

/* What a function is about to return. */
enum t2p_value {
	T2P_VALUE_READY = 0, /* it is in its place */
	T2P_VALUE_WHOLE = 1, /* a register */
	T2P_VALUE_SIGNED = 2, /* its lower half, with its sign */
	T2P_VALUE_UNSIGNED = 3, /* the same without */
	T2P_VALUE_CONSTANT = 4, /* the number in place of the register, with its sign */
	T2P_VALUE_HALF = 5, /* the lower half of that */
};

/* A key of `threads` for a stack that is not a thread's own: a pid from T2P_STACK_PID on; below, its address. */
enum t2p_stack_key {
	T2P_STACK_REACH = 13, /* this many low bits of the address do not count: see stack.bpf.h */
	T2P_STACK_PID = 47 - T2P_STACK_REACH, /* addresses have 47 bits, pids 22 */
	T2P_STACK_KEY = 63, /* set in such a key: all others are the number of a thread */
};

/* Which calls are followed. */
enum t2p_gate {
	T2P_GATE_SHUT = 0, /* none */
	T2P_GATE_OPEN = 1, /* all: a stream begins with a call that begins after this */
	T2P_GATE_ENDING = 2, /* those that have begun, to their return */
};

/* How a thread of the command is made to wait during an inspection. */
enum t2p_hold_way {
	T2P_HOLD_BY_SIGNAL = 0, /* SIGSTOP, which its parent sees */
	T2P_HOLD_BY_TRACER = 1, /* user space seizes it */
};

/* What is probed in a library. */
enum t2p_site {
	T2P_SITE_READ = 1,
	T2P_SITE_READ_EX,
	T2P_SITE_READ_EARLY,
	T2P_SITE_READ_INTERNAL,
	T2P_SITE_WRITE,
	T2P_SITE_WRITE_EX,
	T2P_SITE_WRITE_EX2,
	T2P_SITE_WRITE_EARLY,
	T2P_SITE_WRITE_INTERNAL,
	T2P_SITE_SENDFILE,
	T2P_SITE_PEEK,
	T2P_SITE_HANDSHAKE,
	T2P_SITE_CONNECT,
	T2P_SITE_ACCEPT,
	T2P_SITE_SHUTDOWN,
	T2P_SITE_SERVER_NAME,
	T2P_SITE_ALPN,
	T2P_SITE_NEW,
	T2P_SITE_FREE,
	T2P_SITE_UP_REF,
	T2P_SITE_CLEAR,
	T2P_SITE_CTRL,
	T2P_SITE_CONNECT_STATE,
	T2P_SITE_ACCEPT_STATE,
	T2P_SITE_SET_SOCKET,
	T2P_SITE_BIO_WRITE,
	T2P_SITE_BIO_READ,
	/* From here on, of libraries that have no BIO functions. */
	T2P_SITE_GNUTLS_SEND,
	T2P_SITE_GNUTLS_SEND_RANGE,
	T2P_SITE_GNUTLS_SEND_FILE,
	T2P_SITE_GNUTLS_CORK,
	T2P_SITE_GNUTLS_UNCORK,
	T2P_SITE_GNUTLS_RECV,
	T2P_SITE_GNUTLS_RECV_EARLY,
	T2P_SITE_GNUTLS_RECV_PACKET,
	T2P_SITE_GNUTLS_HANDSHAKE,
	T2P_SITE_GNUTLS_BYE,
	T2P_SITE_GNUTLS_INIT,
	T2P_SITE_GNUTLS_NAME_SET,
	T2P_SITE_GNUTLS_NAME_GET,
	T2P_SITE_GNUTLS_ALPN,
	T2P_SITE_GNUTLS_SET_SOCKET,
	T2P_SITE_NSS_READ,
	T2P_SITE_NSS_RECV,
	T2P_SITE_NSS_WRITE,
	T2P_SITE_NSS_SEND,
	T2P_SITE_NSS_WRITEV,
	T2P_SITE_NSS_CLOSE,
	T2P_SITE_NSS_SHUTDOWN,
	T2P_SITE_NSS_IMPORT,
	T2P_SITE_NSS_OPTION,
	T2P_SITE_NSS_RESET,
	T2P_SITE_NSS_FORCE,
	T2P_SITE_NSS_URL,
	T2P_SITE_NSS_PROTO,
	/* crypto/tls of Go programs. Their returns are probed one by one, with the site of the entry. */
	T2P_SITE_GO_READ,
	T2P_SITE_GO_WRITE,
	T2P_SITE_GO_CLOSE,
	T2P_SITE_GO_CLOSE_NOTIFY,
	T2P_SITE_GO_CLIENT,
	T2P_SITE_GO_SERVER,
	/* rustls: this and up to 15 more, by enum t2p_rustls_flag. */
	T2P_SITE_RUSTLS = 96,
};

/* What is added to T2P_SITE_RUSTLS: which function it is, and of which rustls. */
enum t2p_rustls_flag {
	T2P_RUSTLS_WRITES = 1, /* it encrypts a record; otherwise it decrypts one */
	T2P_RUSTLS_GCM = 2, /* of TLS 1.2: AES-GCM */
	T2P_RUSTLS_CHACHA = 4, /* of TLS 1.2: ChaCha20-Poly1305; neither: of TLS 1.3 */
	T2P_RUSTLS_OWNED = 8, /* before 0.23: records are separate vectors */
};
#define T2P_RUSTLS_MAX 16

/*
 * Set in a handle's address if it represents only one direction of a connection, for as long as one key is used
 * (rustls). The handles of one connection have the same socket. No address of a program has these bits.
 */
enum t2p_handle_bit {
	T2P_HANDLE_BIT_WRITES = 62, /* which direction that is */
	T2P_HANDLE_BIT_SIDE = 63,
};
#define T2P_HANDLE_SIDE (1ULL << T2P_HANDLE_BIT_SIDE)
#define T2P_HANDLE_WRITES (1ULL << T2P_HANDLE_BIT_WRITES)

enum t2p_direction : unsigned char {
	T2P_READ = 0,
	T2P_WRITE = 1,
};

/* Why a record carries fewer bytes than it represents. */
enum t2p_missing : unsigned char {
	T2P_MISSING_NONE = 0,
	T2P_MISSING_UNREADABLE = 1, /* the program's buffer could not be read */
	T2P_MISSING_LIMIT = 2, /* beyond the longest call that is captured */
	T2P_MISSING_SENDFILE = 3, /* the bytes never were in the program's memory */
	T2P_MISSING_SNAPLEN = 4, /* beyond what the user wants of each record */
	T2P_MISSING_WRITER_BEHIND = 64, /* user space gave the payload up, because the output is too slow */
};

/* How the socket of the handle was known when the call was made. */
enum t2p_tuple_source : unsigned char {
	T2P_TUPLE_NONE = 0,
	T2P_TUPLE_SAME_CALL = 1, /* it was used inside this call, and carried its record */
	T2P_TUPLE_REMEMBERED = 2, /* an earlier call of this handle used it, and it is still open */
	T2P_TUPLE_LAYER = 3, /* the handle's bytes went through another handle (TLS inside TLS) */
	T2P_TUPLE_CIPHERTEXT = 4, /* a record of the handle was seen at the socket */
	T2P_TUPLE_DESCRIPTOR = 5, /* it is what the library holds for the handle */
};

/* The content of a T2P_HANDLE record. */
enum t2p_fact : unsigned char {
	T2P_FACT_CLIENT = 1, /* the TLS call shows that this side is the TLS client */
	T2P_FACT_SERVER = 2,
	T2P_FACT_SERVER_NAME = 3, /* text */
	T2P_FACT_ALPN = 4, /* text */
	T2P_FACT_SHUTDOWN = 5, /* this side sent its close_notify: nothing more is written */
	T2P_FACT_FREE = 6, /* the handle's last reference was freed */
	T2P_FACT_LAYER = 7, /* the handle's bytes go through the handle `other` */
	T2P_FACT_READ_UNSEEN = 8, /* a read that began before the probes returned unseen */
	/* A call that was not followed to its return: `direction`, length unknown. Why: `call_seq`, the
	   enum t2p_counter under which it is counted. */
	T2P_FACT_CALL_LOST = 9,
	T2P_FACT_WRITE_EMPTY = 10, /* the write `call_seq`, awaited by a read, moved nothing */
};

/* Who opened the TCP connection. */
enum t2p_role : unsigned char {
	T2P_ROLE_UNKNOWN = 0,
	T2P_ROLE_CLIENT = 1,
	T2P_ROLE_SERVER = 2,
};

/* States of a TCP socket, as the kernel numbers them. */
enum t2p_state : unsigned char {
	T2P_STATE_ESTABLISHED = 1,
	T2P_STATE_SYN_SENT = 2,
	T2P_STATE_SYN_RECV = 3,
	T2P_STATE_FIN_WAIT1 = 4,
	T2P_STATE_FIN_WAIT2 = 5,
	T2P_STATE_TIME_WAIT = 6,
	T2P_STATE_CLOSE = 7,
	T2P_STATE_CLOSE_WAIT = 8,
	T2P_STATE_LAST_ACK = 9,
	T2P_STATE_LISTEN = 10,
	T2P_STATE_CLOSING = 11,
	T2P_STATE_NEW_SYN_RECV = 12,
};

/* What else is known of a socket that ends. */
enum t2p_socket_flag : unsigned char {
	T2P_SOCKET_FIN_RECEIVED = 1 << 0, /* the peer's FIN has arrived */
	T2P_SOCKET_FIN_READ = 1 << 1, /* and the program has read up to it */
	T2P_SOCKET_LET_GO = 1 << 2, /* no process has the socket any more */
	T2P_SOCKET_DATA_AFTER = 1 << 3, /* data arrived after this side's FIN */
};

enum t2p_family : unsigned char {
	T2P_FAMILY_IPV4 = 4, /* IPv4-mapped IPv6 as well */
	T2P_FAMILY_IPV6 = 6,
};

/*
 * Indexes of the per-CPU counters. Each counts events; _BYTES counts the bytes of the one before it. What
 * is lost is counted per process as well, by the index of the events.
 */
enum t2p_counter {
	T2P_COUNT_CALLS = 0,
	T2P_COUNT_BYTES, /* bytes that the captured calls moved */
	T2P_COUNT_RING_FULL, /* data records refused by the ring */
	T2P_COUNT_RING_FULL_BYTES,
	T2P_COUNT_UNREADABLE,
	T2P_COUNT_UNREADABLE_BYTES,
	T2P_COUNT_LIMIT, /* calls beyond the limit */
	T2P_COUNT_LIMIT_BYTES,
	T2P_COUNT_SENDFILE,
	T2P_COUNT_SENDFILE_BYTES,
	T2P_COUNT_THREADS_FULL, /* reads and writes lost because the table of threads was full */
	T2P_COUNT_HANDLES_FULL, /* calls that moved data, lost because the table of handles was full */
	T2P_COUNT_PROCESSES_FULL, /* calls, and children of targets, that did not fit into the table of processes */
	T2P_COUNT_SOCKETS_FULL, /* calls whose handle got no socket because the table of sockets was full */
	T2P_COUNT_DEPTH, /* reads and writes dropped for a call nested deeper than is followed */
	T2P_COUNT_UNFINISHED, /* reads and writes whose return was never seen */
	T2P_COUNT_FACT_LOST, /* records without payload refused by the ring */
	T2P_COUNT_TWICE, /* second entries of a call whose code is probed twice */
	T2P_COUNT_CONFLICT, /* calls that used more than one TCP socket: no tuple taken */
	T2P_COUNT_NOT_TCP, /* calls whose socket was not TCP (QUIC, DTLS) */
	T2P_COUNT_SNAPLEN, /* data records of which only the beginning was wanted */
	T2P_COUNT_SNAPLEN_BYTES,
	/* Filled in by user space: runs of probes that the kernel skipped, of libraries and processes, of sockets. */
	T2P_COUNT_MISSED_RUNS,
	T2P_COUNT_MISSED_SOCKET_RUNS,
	T2P_COUNT_LOSSES_FULL, /* losses that are counted in total, but not for their process */
	T2P_COUNT_OTHER_STACK, /* reads and writes on a stack where their return was not probed yet, or cannot be */
	T2P_COUNT_NOTICE_LOST, /* records refused by the ring of notices: user space does not act on them */
	T2P_COUNT_UNHELD, /* files with which a process ran on before they were inspected; most are added by user space */
	T2P_COUNT_MAX,
};

/* Begins every record. */
struct t2p_head {
	enum t2p_type type;
	unsigned short reserved;
	unsigned int tgid; /* as tls2pcap's own pid namespace numbers it; 0: no process */
	unsigned int tid;
	unsigned int library; /* attach cookie: which library the call was made in; 0: unknown */
	unsigned long long process; /* with tgid, which process: changes with exec; 0: unknown */
};

/* Bytes of a TLS call, or the fact that they are missing. `captured` bytes of payload follow. */
struct t2p_data {
	struct t2p_head head;
	unsigned long long handle; /* address of the SSL, gnutls_session_t or sslSocket; see T2P_HANDLE_SIDE */
	unsigned long long generation; /* distinguishes handles at one address */
	unsigned long long entered;
	unsigned long long returned;
	unsigned long long call_offset; /* offset of the call's first byte in its direction */
	unsigned long long call_len; /* bytes that the call moved */
	unsigned long long chunk_offset; /* offset of this record's first byte in the call */
	unsigned long long chunk_len; /* bytes that this record represents */
	unsigned int captured; /* bytes that follow, at most chunk_len and T2P_CHUNK_MAX */
	unsigned int call_seq; /* number of the call among those of its direction that moved data */
	unsigned int awaits_write; /* 1 + call_seq of the write in flight when this read returned; otherwise 0 */
	enum t2p_direction direction;
	enum t2p_function function;
	enum t2p_missing missing;
	enum t2p_tuple_source tuple_source;
};

/* A handle's socket. Precedes the data that depends on it. */
struct t2p_bind {
	struct t2p_head head;
	unsigned long long handle;
	unsigned long long generation;
	unsigned long long time;
	unsigned long long socket; /* address of the struct sock */
	unsigned long long socket_generation;
	unsigned long long inode; /* of the socket, as in /proc/PID/fd */
	unsigned long long cookie; /* SO_COOKIE; 0: never requested */
	unsigned int netns; /* inode of the network namespace */
	unsigned int local_isn; /* initial sequence numbers, computed; off by one at most */
	unsigned int remote_isn;
	int fd; /* of the socket in the process; -1: not found */
	unsigned char local[16]; /* network byte order; IPv4 in the first four */
	unsigned char remote[16];
	unsigned short local_port; /* host byte order */
	unsigned short remote_port;
	enum t2p_family family;
	enum t2p_role role;
	enum t2p_tuple_source tuple_source;
	unsigned char fresh; /* 1: bound in the handle's handshake, so no byte preceded it */
	/* The round-trip time in microseconds, as the kernel has measured it by then: smoothed, and the least of
	   the last minutes. 0: not measured. In a handshake it is that of the SYN. */
	unsigned int rtt;
	unsigned int rtt_min;
};

/* A fact about a handle. */
struct t2p_handle {
	struct t2p_head head;
	unsigned long long handle;
	unsigned long long generation;
	unsigned long long time;
	unsigned long long read_end; /* bytes the handle has read so far, captured or not */
	unsigned long long write_end;
	unsigned long long other; /* T2P_FACT_LAYER: the handle below */
	unsigned long long other_generation;
	unsigned int call_seq;
	enum t2p_fact fact;
	enum t2p_direction direction;
	unsigned short text_len;
	unsigned char text[T2P_TEXT_LEN];
};

/* A step in the end of a socket that some handle was bound to: a FIN, a RST, or the peer's FIN is read. */
struct t2p_socket {
	struct t2p_head head;
	unsigned long long time;
	unsigned long long socket;
	unsigned long long socket_generation;
	unsigned int error; /* sk_err: ECONNRESET and EPIPE mean that a RST was received, or sent in answer to data */
	enum t2p_state before;
	enum t2p_state after; /* the socket's state from now on; closed, or that of a connection that begins: it has ended */
	enum t2p_socket_flag flags;
	unsigned char reserved;
};

/* A process is seen for the first time, or again after exec. */
struct t2p_process {
	struct t2p_head head;
	unsigned long long time;
	unsigned long long start_time; /* of the process; ns of CLOCK_BOOTTIME */
	unsigned long long cgroup; /* id of its cgroup v2 */
	unsigned int uid;
	unsigned int gid;
	unsigned int parent;
	unsigned int netns;
	unsigned short exe_len;
	unsigned short args_len;
	unsigned int exe_whole; /* 1: `exe` reaches the root */
	unsigned char comm[T2P_COMM_LEN];
	/* Names in the path of the executable, the last one first, each with its NUL. */
	unsigned char exe[T2P_PATH_LEN + T2P_NAME_LEN];
	unsigned char args[T2P_ARGS_LEN]; /* NUL between arguments */
};

/* A process that was seen before has ended. */
struct t2p_exit {
	struct t2p_head head;
	unsigned long long time;
};

/*
 * A process makes TLS calls that use no socket: it encrypts into memory and sends later. Its BIO functions must
 * be probed, so that the records reveal which socket they pass through. Or it makes TLS calls on a stack that
 * is not its thread's own, where return probes do not work: its return instructions must be probed.
 */
struct t2p_no_socket {
	struct t2p_head head;
	unsigned long long time;
	unsigned int stopped; /* 1: the thread waits until user space releases it */
	unsigned int other_stack; /* 1: the latter */
};

/* A file that was never seen before is mapped by, or executed as, a process of interest. */
struct t2p_file {
	struct t2p_head head;
	unsigned long long time;
	unsigned long long inode;
	unsigned int device; /* s_dev as the kernel keeps it: major << 20 | minor */
	unsigned int stopped; /* 1: the thread waits until user space releases it */
};

/* A thread must be seized. Sent through a separate ring, to a thread that does nothing else. */
struct t2p_hold {
	unsigned int tgid; /* as in struct t2p_head */
	unsigned int tid;
	unsigned long long time; /* that of the record that gives the reason */
	/* Where it will reenter its program: if it is elsewhere once it is seized, it ran in between. */
	unsigned long long ip; /* 0: unknown */
	unsigned long long sp; /* 0: this part is unknown */
	unsigned long long call; /* number of the system call that it is in, negative if none */
};

/*
 * Records on which user space must act are sent through a separate ring, so that payload cannot crowd them out.
 * There `place` follows the record: the position in the other ring where it would be.
 */
struct t2p_noted_file {
	struct t2p_file file;
	unsigned long long place;
};

struct t2p_noted_no_socket {
	struct t2p_no_socket no_socket;
	unsigned long long place;
};

/* Because the other ring was full. */
struct t2p_noted_process {
	struct t2p_process process;
	unsigned long long place;
};

#endif
