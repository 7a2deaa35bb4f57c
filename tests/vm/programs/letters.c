/*
 * A process that has nothing but its own letter to say, in calls of 16 KiB: what else is found in a
 * record of one of its calls belongs to another process.
 *
 *   letters listen PORT LETTER CERT KEY     reads to the end
 *   letters connect PORT LETTER CALLS
 *
 * Both fail at a byte that is not LETTER.
 */
#include "peer.h"

#define CALL 16384

static void expect(const char *bytes, int n, char letter)
{
	for (int i = 0; i < n; i++)
		if (bytes[i] != letter)
			die("a foreign byte came over TLS");
}

int main(int argc, char **argv)
{
	static char buffer[CALL];
	int server = argc == 6 && !strcmp(argv[1], "listen"), fd, ret;

	if (!server && (argc != 5 || strcmp(argv[1], "connect")))
		die("usage: letters listen PORT LETTER CERT KEY | connect PORT LETTER CALLS");
	char letter = *argv[3];
	SSL_CTX *ctx = context(server, server ? argv[4] : NULL, server ? argv[5] : NULL);
	SSL *ssl = SSL_new(ctx);

	if (server)
		fd = accept4(tcp_listen("127.0.0.1", atoi(argv[2])), NULL, NULL, SOCK_CLOEXEC);
	else
		fd = tcp_connect("127.0.0.1", atoi(argv[2]), 0);
	SSL_set_fd(ssl, fd);
	if ((server ? SSL_accept(ssl) : SSL_connect(ssl)) != 1)
		die("handshake");
	say_connection(0, fd);
	if (server) {
		while ((ret = SSL_read(ssl, buffer, CALL)) > 0)
			expect(buffer, ret, letter);
	} else {
		memset(buffer, letter, CALL);
		for (int i = atoi(argv[4]); i > 0; i--)
			if (SSL_write(ssl, buffer, CALL) != CALL)
				die("write");
	}
	if (SSL_shutdown(ssl) == 0)
		SSL_shutdown(ssl);
	SSL_free(ssl);
	return 0;
}
