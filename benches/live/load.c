/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * A TLS load whose every byte is known beforehand.
 *
 *   load mem|stream|pingpong|steps [-s SIZE] [-n MESSAGES] [-w MESSAGES] [-c CONNECTIONS] [-k ROUNDS] [-r MB/S] [-a]
 *
 * mem       client to server over a BIO pair, in one thread, without sockets
 * stream    client to server over loopback, a thread each; paced if -r is given
 * pingpong  over loopback, each message answered by one of the same size; with -a each end stays on a processor
 *           of its own: whether two threads meet on one is chance, and changes the cost five times
 * steps     no TLS: CPU time of calls of two functions that differ in their first instruction
 *
 * It says "ready" and begins when a line comes on standard input. The messages of -w come first, 2.5 ms
 * apart, and are neither timed nor counted: what a tool does once is over then. Connections of a round are
 * open at once. Message i of a stream is "<i>", a body, "[i]", with i as 14 hexadecimal digits; the body is
 * made from the number of connection and direction. The receiver compares every byte with that. What
 * is timed are the messages: neither the handshake nor the hashes, which are made afterwards.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP 16
#define READ_SIZE 65536
#define WARM_UP_INTERVAL 2500. /* µs between two messages */

struct stream {
	unsigned char *out, *in; /* the message that is sent, the one that is expected */
	uint64_t received;
};

struct connection {
	SSL *ssl[2]; /* client, server */
	int fd[2], port[2];
	struct stream stream[2]; /* by who sends */
};

struct end {
	struct connection *connection;
	int server;
	pthread_t thread;
	uint64_t writes, reads;
};

static size_t size = 1400;
static uint64_t messages = 1000, warm_up;
static double rate;
static int pingpong, apart;
static SSL_CTX *contexts[2];
static pthread_barrier_t barrier;

static void die(const char *what)
{
	fprintf(stderr, "load: %s failed\n", what);
	exit(1);
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void stamp(unsigned char *message, uint64_t number)
{
	unsigned char *head = message, *tail = message + size - STAMP;

	head[0] = '<', head[15] = '>', tail[0] = '[', tail[15] = ']';
	for (int i = 14; i > 0; i--, number >>= 4)
		head[i] = tail[i] = "0123456789abcdef"[number & 15];
}

static unsigned char *body(uint64_t seed)
{
	unsigned char *message = malloc(size);

	if (!message)
		die("malloc");
	seed *= 0x9e3779b97f4a7c15;
	for (size_t i = 0; i < size; i++) {
		seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
		message[i] = "abcdefghijklmnopqrstuvwxyz012345"[(seed * 0x2545f4914f6cdd1d) >> 59];
	}
	return message;
}

static void send_message(struct end *end, uint64_t number)
{
	unsigned char *message = end->connection->stream[end->server].out;

	stamp(message, number);
	if (SSL_write(end->connection->ssl[end->server], message, size) != (int)size)
		die("SSL_write");
	end->writes++;
}

static void receive(struct end *end, uint64_t until)
{
	static __thread unsigned char buffer[READ_SIZE];
	struct stream *stream = &end->connection->stream[!end->server];

	while (stream->received < until) {
		int n = SSL_read(end->connection->ssl[end->server], buffer, sizeof(buffer));

		if (n <= 0)
			die("SSL_read");
		end->reads++;
		for (int done = 0, part; done < n; done += part) {
			size_t at = stream->received % size;

			if (!at)
				stamp(stream->in, stream->received / size);
			part = n - done < (int)(size - at) ? n - done : (int)(size - at);
			if (memcmp(stream->in + at, buffer + done, part))
				die("comparing what was received");
			stream->received += part;
		}
	}
}

static void sleep_until(uint64_t due)
{
	struct timespec t = { due / 1000000000, due % 1000000000 };

	if (now(CLOCK_MONOTONIC) + 500000 < due)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* What this end does for messages from `first` to `last`. */
static void exchange(struct end *end, uint64_t first, uint64_t last, double megabytes_a_second)
{
	uint64_t began = now(CLOCK_MONOTONIC);

	for (uint64_t i = first; i < last; i++) {
		if (end->server)
			receive(end, (i + 1) * size);
		if (!end->server || pingpong)
			send_message(end, i);
		if (!end->server && pingpong)
			receive(end, (i + 1) * size);
		if (!end->server && megabytes_a_second > 0)
			sleep_until(began + (i + 1 - first) * size * 1000 / megabytes_a_second);
	}
}

/* Until the timed part may begin. */
static void get_ready(struct end *end)
{
	pthread_barrier_wait(&barrier);
	end->writes = end->reads = 0;
	pthread_barrier_wait(&barrier);
}

/* One end stays on the first processor that this process may use, the other on the last. */
static void stay(int server)
{
	cpu_set_t all, one;
	int cpu = server ? CPU_SETSIZE - 1 : 0;

	if (sched_getaffinity(0, sizeof(all), &all))
		die("sched_getaffinity");
	while (!CPU_ISSET(cpu, &all))
		cpu += server ? -1 : 1;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (pthread_setaffinity_np(pthread_self(), sizeof(one), &one))
		die("pthread_setaffinity_np");
}

static void *run_end(void *arg)
{
	struct end *end = arg;

	if (apart)
		stay(end->server);

	if (SSL_do_handshake(end->connection->ssl[end->server]) != 1)
		die("SSL_do_handshake");
	exchange(end, 0, warm_up, size / WARM_UP_INTERVAL);
	get_ready(end);
	exchange(end, warm_up, warm_up + messages, rate);
	return NULL;
}

static void make_contexts(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = X509_new();
	X509_NAME *name = X509_get_subject_name(certificate);

	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (void *)"load", -1, -1, 0);
	X509_set_issuer_name(certificate, name);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
	X509_set_pubkey(certificate, key);
	if (!X509_sign(certificate, key, EVP_sha256()))
		die("X509_sign");
	for (int server = 0; server < 2; server++) {
		contexts[server] = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
		SSL_CTX_set_min_proto_version(contexts[server], TLS1_3_VERSION);
		SSL_CTX_set_ciphersuites(contexts[server], "TLS_AES_128_GCM_SHA256");
		SSL_CTX_set_num_tickets(contexts[server], 0);
	}
	if (SSL_CTX_use_certificate(contexts[1], certificate) != 1 || SSL_CTX_use_PrivateKey(contexts[1], key) != 1)
		die("SSL_CTX_use_PrivateKey");
}

static void open_sockets(struct connection *connection)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), *fd = connection->fd;

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (void *)&address, length) || listen(listener, 1)
	    || getsockname(listener, (void *)&address, &length) || connect(fd[0], (void *)&address, length))
		die("connect");
	connection->port[1] = ntohs(address.sin_port);
	fd[1] = accept(listener, NULL, NULL);
	if (fd[1] < 0 || getsockname(fd[0], (void *)&address, &length))
		die("accept");
	close(listener);
	connection->port[0] = ntohs(address.sin_port);
	for (int server = 0; server < 2; server++) {
		setsockopt(fd[server], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
		SSL_set_fd(connection->ssl[server], fd[server]);
	}
}

static void open_connection(struct connection *connection, uint64_t number, int mem)
{
	memset(connection, 0, sizeof(*connection));
	for (int server = 0; server < 2; server++) {
		connection->stream[server].out = body(number * 2 + server + 1);
		connection->stream[server].in = body(number * 2 + server + 1);
		connection->ssl[server] = SSL_new(contexts[server]);
	}
	SSL_set_connect_state(connection->ssl[0]);
	SSL_set_accept_state(connection->ssl[1]);
	if (mem) {
		BIO *client, *server;

		if (!BIO_new_bio_pair(&client, 1 << 18, &server, 1 << 18))
			die("BIO_new_bio_pair");
		SSL_set_bio(connection->ssl[0], client, client);
		SSL_set_bio(connection->ssl[1], server, server);
	} else {
		open_sockets(connection);
	}
}

/* Prints what the streams had in them, and closes. */
static void close_connection(struct connection *connection, uint64_t number)
{
	printf("conn=%lu client_port=%d server_port=%d client=%p server=%p", number, connection->port[0],
	       connection->port[1], (void *)connection->ssl[0], (void *)connection->ssl[1]);
	for (int server = 0; server < 2; server++) {
		struct stream *stream = &connection->stream[server];
		unsigned char hash[EVP_MAX_MD_SIZE];
		unsigned int length;
		EVP_MD_CTX *sha = EVP_MD_CTX_new();

		EVP_DigestInit(sha, EVP_sha256());
		for (uint64_t i = 0; i < stream->received / size; i++) {
			stamp(stream->in, i);
			EVP_DigestUpdate(sha, stream->in, size);
		}
		EVP_DigestFinal(sha, hash, &length);
		EVP_MD_CTX_free(sha);
		printf(" %s=%lu:", server ? "s2c" : "c2s", stream->received);
		for (unsigned int i = 0; i < length; i++)
			printf("%02x", hash[i]);
		free(stream->out);
		free(stream->in);
	}
	printf("\n");
	for (int server = 0; server < 2; server++) {
		SSL_shutdown(connection->ssl[server]);
		SSL_free(connection->ssl[server]);
		if (connection->port[0])
			close(connection->fd[server]);
	}
}

static void *run_mem(void *arg)
{
	struct end *ends = arg;
	SSL **ssl = ends[0].connection->ssl;

	for (int done = 0; done != 3;)
		done = (SSL_do_handshake(ssl[0]) == 1) | (SSL_do_handshake(ssl[1]) == 1) << 1;
	for (uint64_t i = 0, began = now(CLOCK_MONOTONIC); i < warm_up + messages; i++) {
		if (i < warm_up)
			sleep_until(began + i * WARM_UP_INTERVAL * 1000);
		if (i == warm_up)
			get_ready(&ends[0]), ends[1].reads = 0;
		send_message(&ends[0], i);
		receive(&ends[1], (i + 1) * size);
	}
	return NULL;
}

/* They differ in that the kernel emulates the first instruction of one and single-steps the other's. */
void step_emulated(void);
void step_single(void);
__asm__(".text\n"
	".globl step_emulated\n.type step_emulated, @function\nstep_emulated: push %rbp\npop %rbp\nret\n"
	".size step_emulated, .-step_emulated\n"
	".globl step_single\n.type step_single, @function\nstep_single: sub $8, %rsp\nadd $8, %rsp\nret\n"
	".size step_single, .-step_single\n");

static void steps(void)
{
	void (*const functions[])(void) = { step_emulated, step_single };

	printf("steps=1");
	for (int i = 0; i < 2; i++) {
		uint64_t began = now(CLOCK_THREAD_CPUTIME_ID);

		for (uint64_t n = 0; n < messages; n++)
			functions[i]();
		printf(" %s_ns=%lu", i ? "single" : "emulated", (now(CLOCK_THREAD_CPUTIME_ID) - began) / messages);
	}
	printf("\n");
}

static uint64_t micros(struct timeval t)
{
	return t.tv_sec * 1000000ull + t.tv_usec;
}

int main(int argc, char **argv)
{
	uint64_t user = 0, system = 0, wall = 0, writes = 0, reads = 0;
	unsigned int connections = 1, rounds = 1;
	const char *mode = argc > 1 ? argv[1] : "";
	int is_mem = !strcmp(mode, "mem");

	for (int option; (option = getopt(argc - 1, argv + 1, "s:n:w:c:k:r:a")) != -1;) {
		switch (option) {
		case 's': size = strtoul(optarg, NULL, 10); break;
		case 'n': messages = strtoull(optarg, NULL, 10); break;
		case 'w': warm_up = strtoull(optarg, NULL, 10); break;
		case 'c': connections = strtoul(optarg, NULL, 10); break;
		case 'k': rounds = strtoul(optarg, NULL, 10); break;
		case 'a': apart = 1; break;
		case 'r': rate = strtod(optarg, NULL); break;
		default: return 2;
		}
	}
	pingpong = !strcmp(mode, "pingpong");
	if (size < 2 * STAMP || size > 65536 || !messages || !connections || (is_mem && connections > 1)
	    || (!is_mem && !pingpong && strcmp(mode, "stream") && strcmp(mode, "steps"))) {
		fprintf(stderr, "load: wrong usage, see the head of load.c\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	make_contexts();
	printf("ready\n");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;
	if (!strcmp(mode, "steps")) {
		steps();
		return 0;
	}

	struct connection *all = calloc(connections, sizeof(*all));
	struct end *ends = calloc(connections * 2, sizeof(*ends));

	pthread_barrier_init(&barrier, NULL, (is_mem ? 1 : 2 * connections) + 1);
	for (unsigned int round = 0; round < rounds; round++) {
		struct rusage before, after;
		uint64_t began;

		for (unsigned int i = 0; i < connections; i++)
			open_connection(&all[i], (uint64_t)round * connections + i, is_mem);
		for (unsigned int i = 0; i < 2 * connections; i++)
			ends[i] = (struct end){ .connection = &all[i / 2], .server = i % 2 };
		for (unsigned int i = 0; i < (is_mem ? 1 : 2 * connections); i++) {
			if (pthread_create(&ends[i].thread, NULL, is_mem ? run_mem : run_end, &ends[i]))
				die("pthread_create");
		}
		pthread_barrier_wait(&barrier);
		getrusage(RUSAGE_SELF, &before);
		began = now(CLOCK_MONOTONIC);
		pthread_barrier_wait(&barrier);
		for (unsigned int i = 0; i < (is_mem ? 1 : 2 * connections); i++)
			pthread_join(ends[i].thread, NULL);
		wall += (now(CLOCK_MONOTONIC) - began) / 1000;
		getrusage(RUSAGE_SELF, &after);
		user += micros(after.ru_utime) - micros(before.ru_utime);
		system += micros(after.ru_stime) - micros(before.ru_stime);
		for (unsigned int i = 0; i < 2 * connections; i++) {
			writes += ends[i].writes;
			reads += ends[i].reads;
		}
		for (unsigned int i = 0; i < connections; i++)
			close_connection(&all[i], (uint64_t)round * connections + i);
	}
	printf("user_us=%lu system_us=%lu wall_us=%lu writes=%lu reads=%lu\n", user, system, wall, writes, reads);
	return 0;
}
