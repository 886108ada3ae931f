/*
 * ws_client.h - a WebSocket client for tests: many at once on one epoll loop, strict about what the server sends, free
 * in what it sends itself.
 *
 * It is written on plain sockets, apart from any WebSocket library, so that an error of ours and one of the library's
 * can't cancel out. A breach of the protocol by the server is kept in `violation` and ends the connection.
 * Everything runs on the caller's thread, inside ws_loop_turn. Callbacks may send, close and free.
 * Source: RFC 6455, sections 4 (handshake), 5 (frames), 7 (closing).
 */
#ifndef PINION_TESTS_LIB_WS_CLIENT_H
#define PINION_TESTS_LIB_WS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tests/lib/http.h"
#include "tests/lib/util.h"

struct ws_loop;
struct endpoint; /* endpoint.h */

struct ws_loop *ws_loop_create(void);
/* Drops every connection that is left. */
void ws_loop_destroy(struct ws_loop *loop);
/* Waits up to timeout_ms for something to happen and handles it. */
void ws_loop_turn(struct ws_loop *loop, int timeout_ms);
/* Turns until cond holds: true; or until the deadline has passed: false. The deadline is stretched by patience(). */
bool ws_loop_until(struct ws_loop *loop, bool (*cond)(void *ctx), void *ctx, unsigned timeout_ms);

enum ws_state {
	WS_CONNECTING,
	WS_UPGRADING,
	WS_OPEN,
	WS_CLOSED, /* refused (status is not 101), closed by either side, or broken */
};

struct ws_request {
	const struct endpoint *endpoint; /* where to; outlives the client; NULL: `port` */
	uint16_t port;                   /* on 127.0.0.1 */
	const char *target;              /* NULL: "/ws" */
	const char *authorization;       /* the header's value; NULL: no header */
	const char *subprotocols;        /* the header's value; NULL: no header */
	const char *origin;              /* NULL: no header */
	const char *headers;             /* further whole lines with CRLF; NULL: none */
	const char *raw;                 /* the whole request instead of all that; NULL: build it */
	int receive_buffer;              /* SO_RCVBUF in bytes; 0: the system's */
};

enum {
	WS_CONTINUATION = 0,
	WS_TEXT = 1,
	WS_BINARY = 2,
	WS_CLOSE = 8,
	WS_PING = 9,
	WS_PONG = 10,
	WS_FIN = 0x80, /* or'ed to the opcode in ws_send_frame */
	WS_RSV1 = 0x40,
	WS_RSV2 = 0x20,
	WS_RSV3 = 0x10,
};

struct ws_client {
	/* for reading */
	enum ws_state state;
	struct http_response response; /* to the upgrade */
	char subprotocol[64];          /* that the server chose; "" for none */
	int close_code;                /* of the server's close frame; 1005: without one; 0: no close frame came */
	char close_reason[128];
	char violation[128]; /* "": the server kept to the protocol */
	char trouble[96];    /* why no connection could be made; "" */
	uint64_t bytes_in, pings_in, pongs_in;
	char pong[126]; /* payload of the last one */

	/* for the owner to set */
	void (*on_text)(void *ctx, const char *text, size_t n); /* a whole message, NUL-terminated, for this call */
	void (*on_state)(void *ctx);                            /* state has changed */
	void *ctx;
	bool mute_pongs; /* don't answer pings */

	/* the rest is ws_client.c's */
	struct ws_loop *loop;
	struct ws_client *prev, *next, *next_dead;
	int fd;
	struct ssl_st *tls;  /* NULL: plain */
	bool tls_wants_read; /* nothing can be written before something was read */
	bool dead, paused, close_sent, in_text;
	uint32_t interest;
	char accept[32];
	struct blob in, out, message;
};

/* Begins to connect. The client is the caller's until ws_free. */
struct ws_client *ws_connect(struct ws_loop *loop, const struct ws_request *request);
/* Drops the connection without a word (an RST) and forgets the client; from inside a callback too. NULL is fine. */
void ws_free(struct ws_client *c);
/* Drops the connection without a word; state becomes WS_CLOSED. */
void ws_abort(struct ws_client *c);

void ws_send_text(struct ws_client *c, const char *text, size_t n);
/* One frame: first is flags and opcode (WS_FIN | WS_TEXT). announced is the length that the header tells. */
void ws_send_frame(struct ws_client *c, unsigned first, bool masked, const void *payload, size_t n, uint64_t announced);
void ws_send_bytes(struct ws_client *c, const void *p, size_t n);
/* Starts the closing handshake; the server's answer shows in close_code. code 0: an empty close frame. */
void ws_close(struct ws_client *c, int code, const char *reason);
/* Stops or goes on reading. */
void ws_pause(struct ws_client *c, bool paused);
/* Bytes that wait to be written. */
size_t ws_unsent(const struct ws_client *c);

#endif
