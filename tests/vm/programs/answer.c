/*
 * The peer of fixtures/programs/duplex.c: answers each line "request N" with "answer N".
 *
 *   answer PORT CERT KEY
 */
#include "peer.h"

int main(int argc, char **argv)
{
	char lines[8192], out[64];
	int used = 0, ret, n;

	if (argc != 4)
		die("usage: answer PORT CERT KEY");
	SSL_CTX *ctx = context(1, argv[2], argv[3]);
	int fd = accept4(tcp_listen("127.0.0.1", atoi(argv[1])), NULL, NULL, SOCK_CLOEXEC);
	SSL *ssl = SSL_new(ctx);

	SSL_set_fd(ssl, fd);
	if (SSL_accept(ssl) != 1)
		die("SSL_accept");
	while ((ret = SSL_read(ssl, lines + used, sizeof(lines) - used)) > 0) {
		char *line = lines, *end;

		for (used += ret; (end = memchr(line, '\n', lines + used - line)); line = end + 1) {
			if (sscanf(line, "request %d", &ret) != 1)
				die("a request is out of place");
			n = snprintf(out, sizeof(out), "answer %d\n", ret);
			if (SSL_write(ssl, out, n) != n)
				die("write");
		}
		used = lines + used - line;
		memmove(lines, line, used);
	}
	if (SSL_shutdown(ssl) == 0)
		SSL_shutdown(ssl);
	SSL_free(ssl);
	return 0;
}
