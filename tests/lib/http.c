/* Source: RFC 9112 (HTTP/1.1): status line, Content-Length, chunked and close-delimited bodies. */
#include "tests/lib/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

void http_response_finish(struct http_response *r)
{
	blob_free(&r->head);
	blob_free(&r->body);
	*r = (struct http_response){0};
}

bool http_header(const struct http_response *r, const char *name, char *out, size_t n)
{
	const char *line = r->head.p;
	size_t name_len = strlen(name);
	while (line && (line = strstr(line, "\r\n"))) {
		line += 2;
		if (strncasecmp(line, name, name_len) != 0 || line[name_len] != ':')
			continue;
		const char *v = line + name_len + 1;
		v += strspn(v, " \t");
		size_t len = strcspn(v, "\r\n");
		while (len && (v[len - 1] == ' ' || v[len - 1] == '\t'))
			len--;
		snprintf(out, n, "%.*s", (int)len, v);
		return true;
	}
	if (n)
		out[0] = 0;
	return false;
}

void http_problem_code(const struct http_response *r, char *out, size_t n)
{
	const char *at = r->body.p ? strstr(r->body.p, "\"code\"") : NULL;
	out[0] = 0;
	if (!at)
		return;
	at += 6;
	at += strspn(at, " :");
	if (*at == '"')
		snprintf(out, n, "%.*s", (int)strcspn(at + 1, "\""), at + 1);
}

/* Takes chunks from p: bytes used, 0 for more, -1 for nonsense. */
static long parse_chunks(const char *p, size_t n, struct blob *body)
{
	size_t at = 0;
	for (;;) {
		const char *eol = memmem(p + at, n - at, "\r\n", 2);
		if (!eol)
			return 0;
		char *end;
		unsigned long len = strtoul(p + at, &end, 16);
		if (end == p + at || len > (1u << 30))
			return -1;
		size_t data = (size_t)(eol - p) + 2;
		if (data + len + 2 > n)
			return 0;
		blob_add(body, p + data, len);
		at = data + len + 2;
		if (!len)
			return (long)at;
	}
}

static long parse_body(const struct blob *in, size_t head, struct http_response *r, bool no_body, bool eof)
{
	char value[64];
	size_t have = in->n - head;
	bool http11 = strncmp(r->head.p, "HTTP/1.1", 8) == 0;
	r->keeps = http11;
	if (http_header(r, "connection", value, sizeof value))
		r->keeps = http11 ? strcasecmp(value, "close") != 0 : strcasecmp(value, "keep-alive") == 0;
	if (no_body || r->status == 204 || r->status == 304 || r->status / 100 == 1)
		return (long)head;
	if (http_header(r, "transfer-encoding", value, sizeof value)) {
		long used = parse_chunks(in->p + head, have, &r->body);
		return used > 0 ? (long)head + used : used;
	}
	if (http_header(r, "content-length", value, sizeof value)) {
		size_t len = strtoul(value, NULL, 10);
		if (have < len)
			return 0;
		blob_add(&r->body, in->p + head, len);
		return (long)(head + len);
	}
	r->keeps = false;
	if (!eof)
		return 0;
	blob_add(&r->body, in->p + head, have);
	return (long)in->n;
}

long http_parse(const struct blob *in, struct http_response *r, bool no_body, bool eof)
{
	const char *end = in->n ? memmem(in->p, in->n, "\r\n\r\n", 4) : NULL;
	http_response_finish(r);
	if (!end)
		return in->n > 65536 ? -1 : 0;
	size_t head = (size_t)(end - in->p) + 4;
	blob_add(&r->head, in->p, head);
	if (sscanf(in->p, "HTTP/1.%*1d %3d", &r->status) != 1 || r->status < 100)
		return -1;
	long used = parse_body(in, head, r, no_body, eof);
	if (used <= 0)
		r->status = 0;
	return used;
}

int http_dial(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
		return fd;
	int saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

void http_conn_init(struct http_conn *c, uint16_t port)
{
	*c = (struct http_conn){.port = port, .fd = -1};
}

static void conn_close(struct http_conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->in.n = 0;
}

void http_conn_finish(struct http_conn *c)
{
	conn_close(c);
	blob_free(&c->in);
}

static bool write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}

bool http_conn_send(struct http_conn *c, const void *request, size_t n)
{
	if (c->fd >= 0 && c->in.n == 0) { /* has the server closed it meanwhile? */
		struct pollfd pfd = {.fd = c->fd, .events = POLLIN};
		if (poll(&pfd, 1, 0) > 0)
			conn_close(c);
	}
	for (int attempt = 0; attempt < 2; attempt++) {
		if (c->fd < 0) {
			c->fd = http_dial(c->port);
			c->connects++;
		}
		if (c->fd >= 0 && write_all(c->fd, request, n))
			return true;
		conn_close(c);
	}
	return false;
}

/* More bytes into c->in: 1, 0 at the end of the stream, -1 when it takes too long. */
static int conn_receive(struct http_conn *c, uint64_t deadline)
{
	char chunk[16384];
	struct pollfd pfd = {.fd = c->fd, .events = POLLIN};
	uint64_t now = clock_ms();
	if (now >= deadline || poll(&pfd, 1, (int)(deadline - now)) <= 0)
		return -1;
	ssize_t n = recv(c->fd, chunk, sizeof chunk, 0);
	if (n <= 0)
		return 0;
	blob_add(&c->in, chunk, (size_t)n);
	return 1;
}

void http_conn_read(struct http_conn *c, struct http_response *r, bool no_body, unsigned timeout_ms)
{
	uint64_t deadline = clock_ms() + timeout_ms;
	int more = c->fd >= 0 ? 1 : 0;
	http_response_finish(r);
	for (;;) {
		long used = http_parse(&c->in, r, no_body, more == 0);
		if (used > 0) {
			blob_drop(&c->in, (size_t)used);
			if (!r->keeps)
				conn_close(c);
			return;
		}
		if (used < 0 || more <= 0) {
			const char *why = used < 0   ? "not an HTTP response"
			                  : more < 0 ? "no response in time"
			                             : "closed without a response";
			conn_close(c);
			http_response_finish(r);
			snprintf(r->trouble, sizeof r->trouble, "%s", why);
			return;
		}
		more = conn_receive(c, deadline);
	}
}

void http_raw(uint16_t port, const void *request, size_t n, struct http_response *r, unsigned timeout_ms)
{
	struct http_conn c;
	http_conn_init(&c, port);
	http_response_finish(r);
	if (http_conn_send(&c, request, n))
		http_conn_read(&c, r, false, timeout_ms);
	else
		snprintf(r->trouble, sizeof r->trouble, "%s", strerror(errno));
	http_conn_finish(&c);
}

void http_get(uint16_t port, const char *path, const char *headers, struct http_response *r, unsigned timeout_ms)
{
	char *request = text_format("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s\r\n", path, port, headers ? headers : "");
	http_raw(port, request, strlen(request), r, timeout_ms);
	free(request);
}
