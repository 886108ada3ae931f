#include "tests/lib/ws_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>
#include "tests/lib/endpoint.h"

#define READ_CHUNK 65536
#define MESSAGE_MAX (4u << 20) /* bytes; the protocol's events are at most 1 MiB */

struct ws_loop {
	int epoll;
	struct ws_client *clients;
	struct ws_client *dead; /* freed at the turn's end */
	bool turning;
};

static void set_state(struct ws_client *c, enum ws_state state)
{
	if (c->state == state)
		return;
	c->state = state;
	if (c->on_state && !c->dead)
		c->on_state(c->ctx);
}

static void drop_socket(struct ws_client *c, bool reset)
{
	if (c->fd < 0)
		return;
	if (reset) {
		struct linger now = {.l_onoff = 1, .l_linger = 0};
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	}
	close(c->fd); /* leaves the epoll set by itself */
	c->fd = -1;
	c->out.n = 0;
}

static void end(struct ws_client *c)
{
	drop_socket(c, false);
	set_state(c, WS_CLOSED);
}

static void violate(struct ws_client *c, const char *what)
{
	if (!c->violation[0])
		snprintf(c->violation, sizeof c->violation, "%s", what);
	end(c);
}

static void set_interest(struct ws_client *c)
{
	uint32_t want = (c->paused ? 0 : EPOLLIN) |
	                ((c->out.n && !c->tls_wants_read) || c->state == WS_CONNECTING ? EPOLLOUT : 0);
	if (c->fd < 0 || want == c->interest)
		return;
	struct epoll_event event = {.events = want, .data.ptr = c};
	epoll_ctl(c->loop->epoll, EPOLL_CTL_MOD, c->fd, &event);
	c->interest = want;
}

/* ---- the stream: the socket, or TLS on it; both say as send and recv do ---- */

static ssize_t tls_result(struct ws_client *c, int n)
{
	if (n > 0)
		return n;
	int error = SSL_get_error(c->tls, n);
	if (error == SSL_ERROR_ZERO_RETURN)
		return 0;
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
		errno = EAGAIN;
		return -1;
	}
	long verdict = SSL_get_verify_result(c->tls);
	unsigned long code = ERR_get_error();
	if (!SSL_is_init_finished(c->tls) && !c->trouble[0])
		snprintf(c->trouble, sizeof c->trouble, "TLS: %s",
		         verdict != X509_V_OK ? X509_verify_cert_error_string(verdict)
		         : code               ? ERR_reason_error_string(code)
		                              : "the connection was cut in the handshake");
	errno = EPROTO;
	return -1;
}

static ssize_t stream_send(struct ws_client *c, const void *p, size_t n)
{
	if (!c->tls)
		return send(c->fd, p, n, MSG_NOSIGNAL);
	ERR_clear_error();
	int done = SSL_write(c->tls, p, (int)(n < READ_CHUNK ? n : READ_CHUNK));
	c->tls_wants_read = done <= 0 && SSL_want_read(c->tls);
	return tls_result(c, done);
}

static ssize_t stream_recv(struct ws_client *c, void *p, size_t n)
{
	if (!c->tls)
		return recv(c->fd, p, n, 0);
	ERR_clear_error();
	return tls_result(c, SSL_read(c->tls, p, (int)n));
}

/* ---- sending ---- */

static void flush(struct ws_client *c)
{
	size_t done = 0;
	while (c->fd >= 0 && done < c->out.n) {
		ssize_t n = stream_send(c, c->out.p + done, c->out.n - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) { /* what the server said before still waits to be read */
			c->out.n = 0;
			return;
		}
		if (n < 0)
			break;
		done += (size_t)n;
	}
	blob_drop(&c->out, done);
}

void ws_send_bytes(struct ws_client *c, const void *p, size_t n)
{
	if (c->fd < 0)
		return;
	blob_add(&c->out, p, n);
	if (c->state != WS_CONNECTING)
		flush(c);
	set_interest(c);
}

void ws_send_frame(struct ws_client *c, unsigned first, bool masked, const void *payload, size_t n, uint64_t announced)
{
	unsigned char head[14], mask[4] = {0x5a, 0xc3, 0x17, 0x88};
	size_t at = 0;
	head[at++] = (unsigned char)first;
	unsigned char flag = masked ? 0x80 : 0;
	if (announced < 126) {
		head[at++] = (unsigned char)(flag | announced);
	} else if (announced < 65536) {
		head[at++] = flag | 126;
		head[at++] = (unsigned char)(announced >> 8);
		head[at++] = (unsigned char)announced;
	} else {
		head[at++] = flag | 127;
		for (int shift = 56; shift >= 0; shift -= 8)
			head[at++] = (unsigned char)(announced >> shift);
	}
	if (masked) {
		memcpy(head + at, mask, 4);
		at += 4;
	}
	struct blob frame = {0};
	blob_add(&frame, head, at);
	blob_add(&frame, payload, n);
	if (masked)
		for (size_t i = 0; i < n; i++)
			frame.p[at + i] ^= (char)mask[i & 3];
	ws_send_bytes(c, frame.p, frame.n);
	blob_free(&frame);
}

void ws_send_text(struct ws_client *c, const char *text, size_t n)
{
	ws_send_frame(c, WS_FIN | WS_TEXT, true, text, n, n);
}

void ws_close(struct ws_client *c, int code, const char *reason)
{
	char payload[125];
	size_t n = 0;
	if (c->state != WS_OPEN || c->close_sent)
		return;
	if (code) {
		payload[0] = (char)(code >> 8);
		payload[1] = (char)code;
		n = 2 + (size_t)snprintf(payload + 2, sizeof payload - 2, "%s", reason ? reason : "");
	}
	c->close_sent = true;
	ws_send_frame(c, WS_FIN | WS_CLOSE, true, payload, n, n);
}

void ws_pause(struct ws_client *c, bool paused)
{
	c->paused = paused;
	set_interest(c);
}

size_t ws_unsent(const struct ws_client *c)
{
	return c->out.n;
}

/* ---- receiving ---- */

static void take_close(struct ws_client *c, const unsigned char *p, size_t n)
{
	if (n == 1)
		return violate(c, "a close frame of one byte");
	c->close_code = n ? p[0] << 8 | p[1] : 1005;
	if (n && (c->close_code < 1000 || c->close_code == 1004 || c->close_code == 1005 || c->close_code == 1006 ||
	          (c->close_code > 1014 && c->close_code < 3000) || c->close_code > 4999))
		return violate(c, "a close code that must not be sent");
	if (n > 2 && !text_is_utf8((const char *)p + 2, n - 2))
		return violate(c, "a close reason that is not UTF-8");
	snprintf(c->close_reason, sizeof c->close_reason, "%.*s", n > 2 ? (int)n - 2 : 0, (const char *)p + 2);
	if (!c->close_sent)
		ws_close(c, n ? c->close_code : 0, NULL);
	c->close_sent = true;
}

static void take_message(struct ws_client *c)
{
	struct blob message = c->message;
	c->message = (struct blob){0};
	c->in_text = false;
	if (!text_is_utf8(message.p ? message.p : "", message.n))
		violate(c, "a text message that is not UTF-8");
	else if (c->on_text && !c->dead)
		c->on_text(c->ctx, message.p ? message.p : "", message.n);
	if (!c->message.p) { /* keep the memory for the next */
		c->message = message;
		c->message.n = 0;
	} else {
		blob_free(&message);
	}
}

static void take_frame(struct ws_client *c, unsigned first, const char *p, size_t n)
{
	unsigned opcode = first & 15;
	bool fin = first & WS_FIN;
	if (c->close_code)
		return violate(c, "a frame after the close frame");
	if (opcode >= 8 && (!fin || n > 125))
		return violate(c, "a control frame that is fragmented or too long");
	switch (opcode) {
	case WS_TEXT:
	case WS_CONTINUATION:
		if ((opcode == WS_TEXT) == c->in_text)
			return violate(c, "fragments out of order");
		c->in_text = true;
		blob_add(&c->message, p, n);
		if (c->message.n > MESSAGE_MAX)
			return violate(c, "a message of more than 4 MiB");
		if (fin)
			take_message(c);
		return;
	case WS_CLOSE:
		return take_close(c, (const unsigned char *)p, n);
	case WS_PING:
		c->pings_in++;
		if (!c->mute_pongs)
			ws_send_frame(c, WS_FIN | WS_PONG, true, p, n, n);
		return;
	case WS_PONG:
		c->pongs_in++;
		memcpy(c->pong, p, n);
		c->pong[n] = 0;
		return;
	default:
		return violate(c, opcode == WS_BINARY ? "a binary message" : "a reserved opcode");
	}
}

/* One frame from p (n bytes): bytes used, 0 when more are needed. */
static size_t parse_frame(struct ws_client *c, const unsigned char *p, size_t n)
{
	if (n < 2)
		return 0;
	if (p[0] & (WS_RSV1 | WS_RSV2 | WS_RSV3))
		return violate(c, "a reserved bit is set"), 0;
	if (p[1] & 0x80)
		return violate(c, "a masked frame"), 0;
	uint64_t len = p[1];
	size_t head = len == 126 ? 4 : len == 127 ? 10 : 2;
	if (n < head)
		return 0;
	if (head > 2) {
		len = 0;
		for (size_t i = 2; i < head; i++)
			len = len << 8 | p[i];
		if (len < (head == 4 ? 126u : 65536u))
			return violate(c, "a length that is not the shortest form"), 0;
	}
	if (len > MESSAGE_MAX)
		return violate(c, "a frame of more than 4 MiB"), 0;
	if (n - head < len)
		return 0;
	take_frame(c, p[0], (const char *)p + head, len);
	return head + len;
}

static void parse_frames(struct ws_client *c)
{
	size_t at = 0;
	while (c->fd >= 0 && !c->dead) {
		size_t used = parse_frame(c, (const unsigned char *)c->in.p + at, c->in.n - at);
		if (!used)
			break;
		at += used;
	}
	if (c->in.n >= at)
		blob_drop(&c->in, at);
}

static void check_upgrade(struct ws_client *c)
{
	char value[128];
	if (!http_header(&c->response, "upgrade", value, sizeof value) || strcasecmp(value, "websocket") != 0)
		return violate(c, "101 without Upgrade: websocket");
	if (!http_header(&c->response, "connection", value, sizeof value) || !strcasestr(value, "upgrade"))
		return violate(c, "101 without Connection: Upgrade");
	if (c->accept[0] &&
	    (!http_header(&c->response, "sec-websocket-accept", value, sizeof value) || strcmp(value, c->accept) != 0))
		return violate(c, "a wrong Sec-WebSocket-Accept");
	if (http_header(&c->response, "sec-websocket-extensions", value, sizeof value))
		return violate(c, "an extension that was not offered");
	http_header(&c->response, "sec-websocket-protocol", c->subprotocol, sizeof c->subprotocol);
	set_state(c, WS_OPEN);
}

static void parse_upgrade(struct ws_client *c, bool eof)
{
	long used = http_parse(&c->in, &c->response, false, eof);
	if (used < 0)
		return violate(c, "the answer to the upgrade is not HTTP");
	if (used == 0)
		return;
	blob_drop(&c->in, (size_t)used);
	if (c->response.status == 101)
		check_upgrade(c);
	else
		end(c);
}

static void handle_input(struct ws_client *c)
{
	char chunk[READ_CHUNK];
	ssize_t n = stream_recv(c, chunk, sizeof chunk);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		blob_add(&c->in, chunk, (size_t)n);
		c->bytes_in += (uint64_t)n;
	}
	if (c->state == WS_UPGRADING)
		parse_upgrade(c, n <= 0);
	if (c->state == WS_OPEN)
		parse_frames(c);
	if (n <= 0 && c->fd >= 0 && !c->dead)
		end(c);
}

/* ---- connecting ---- */

static void make_key(struct ws_client *c, char *key)
{
	unsigned char nonce[16], digest[EVP_MAX_MD_SIZE];
	unsigned digest_len;
	char text[128];
	if (getrandom(nonce, sizeof nonce, 0) != sizeof nonce)
		abort();
	EVP_EncodeBlock((unsigned char *)key, nonce, sizeof nonce);
	snprintf(text, sizeof text, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
	EVP_Digest(text, strlen(text), digest, &digest_len, EVP_sha1(), NULL);
	EVP_EncodeBlock((unsigned char *)c->accept, digest, (int)digest_len);
}

static void write_request(struct ws_client *c, const struct ws_request *r)
{
	char key[32], local[32];
	const char *host = r->endpoint ? r->endpoint->authority : local;
	snprintf(local, sizeof local, "127.0.0.1:%u", r->port);
	if (r->raw) {
		blob_add_c(&c->out, r->raw);
		return;
	}
	make_key(c, key);
	blob_printf(&c->out,
	            "GET %s%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n",
	            r->endpoint ? r->endpoint->prefix : "", r->target ? r->target : "/ws", host, key);
	if (r->authorization)
		blob_printf(&c->out, "Authorization: %s\r\n", r->authorization);
	if (r->subprotocols)
		blob_printf(&c->out, "Sec-WebSocket-Protocol: %s\r\n", r->subprotocols);
	if (r->origin)
		blob_printf(&c->out, "Origin: %s\r\n", r->origin);
	blob_add_c(&c->out, r->headers ? r->headers : "");
	blob_add_c(&c->out, "\r\n");
}

struct ws_client *ws_connect(struct ws_loop *loop, const struct ws_request *request)
{
	struct ws_client *c = calloc(1, sizeof *c);
	const struct endpoint *to = request->endpoint;
	struct sockaddr_in local = {.sin_family = AF_INET,
	                            .sin_port = htons(request->port),
	                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct sockaddr *address = to ? (const struct sockaddr *)&to->address : (const struct sockaddr *)&local;
	socklen_t address_len = to ? to->address_len : sizeof local;
	int one = 1;
	if (!c)
		abort();
	c->loop = loop;
	DL_APPEND(loop->clients, c);
	write_request(c, request);
	c->fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0) {
		snprintf(c->trouble, sizeof c->trouble, "socket: %s", strerror(errno));
		c->state = WS_CLOSED;
		return c;
	}
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (request->receive_buffer)
		setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &request->receive_buffer, sizeof request->receive_buffer);
	c->interest = EPOLLIN | EPOLLOUT;
	struct epoll_event event = {.events = c->interest, .data.ptr = c};
	if (to && to->tls && !(c->tls = endpoint_tls(to, c->fd)))
		abort();
	if (connect(c->fd, address, address_len) < 0 && errno != EINPROGRESS) {
		snprintf(c->trouble, sizeof c->trouble, "%s", strerror(errno));
		drop_socket(c, false);
		c->state = WS_CLOSED;
	} else if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) {
		abort();
	}
	return c;
}

static void handle_connected(struct ws_client *c)
{
	int error = 0;
	socklen_t n = sizeof error;
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n);
	if (error) {
		snprintf(c->trouble, sizeof c->trouble, "%s", strerror(error));
		return end(c);
	}
	set_state(c, WS_UPGRADING);
}

void ws_abort(struct ws_client *c)
{
	drop_socket(c, true);
	set_state(c, WS_CLOSED);
}

static void destroy(struct ws_client *c)
{
	http_response_finish(&c->response);
	SSL_free(c->tls);
	blob_free(&c->in);
	blob_free(&c->out);
	blob_free(&c->message);
	free(c);
}

void ws_free(struct ws_client *c)
{
	if (!c || c->dead)
		return;
	drop_socket(c, true);
	c->dead = true;
	DL_DELETE(c->loop->clients, c);
	if (c->loop->turning)
		LL_PREPEND2(c->loop->dead, c, next_dead);
	else
		destroy(c);
}

/* ---- the loop ---- */

struct ws_loop *ws_loop_create(void)
{
	struct ws_loop *loop = calloc(1, sizeof *loop);
	if (!loop || (loop->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
		abort();
	return loop;
}

static void sweep(struct ws_loop *loop)
{
	struct ws_client *c;
	while ((c = loop->dead)) {
		LL_DELETE2(loop->dead, c, next_dead);
		destroy(c);
	}
}

void ws_loop_destroy(struct ws_loop *loop)
{
	if (!loop)
		return;
	loop->turning = false; /* a failed check may have left a turn by longjmp */
	while (loop->clients)
		ws_free(loop->clients);
	sweep(loop);
	close(loop->epoll);
	free(loop);
}

static void handle_event(struct ws_client *c, uint32_t events)
{
	if (c->state == WS_CONNECTING && c->fd >= 0 && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
		handle_connected(c);
	c->tls_wants_read = false;
	if (c->fd >= 0 && !c->dead && c->state != WS_CONNECTING && c->out.n)
		flush(c);
	if (c->fd >= 0 && !c->dead && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) && !c->paused)
		handle_input(c);
	else if (c->fd >= 0 && !c->dead && c->paused && (events & EPOLLERR))
		end(c);
	if (!c->dead)
		set_interest(c);
}

void ws_loop_turn(struct ws_loop *loop, int timeout_ms)
{
	struct epoll_event events[256];
	int n = epoll_wait(loop->epoll, events, 256, timeout_ms);
	loop->turning = true;
	for (int i = 0; i < n; i++) {
		struct ws_client *c = events[i].data.ptr;
		if (!c->dead)
			handle_event(c, events[i].events);
	}
	loop->turning = false;
	sweep(loop);
}

bool ws_loop_until(struct ws_loop *loop, bool (*cond)(void *ctx), void *ctx, unsigned timeout_ms)
{
	uint64_t deadline = clock_ms() + (uint64_t)timeout_ms * patience();
	while (!cond(ctx)) {
		uint64_t now = clock_ms();
		if (now >= deadline)
			return false;
		uint64_t left = deadline - now;
		ws_loop_turn(loop, left < 50 ? (int)left : 50);
	}
	return true;
}
