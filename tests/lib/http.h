/*
 * http.h - a blocking HTTP/1.1 client on a plain socket, which sends exactly the bytes it is given.
 * Keeps its connection where the server does and opens a new one where it doesn't. Errors: status 0 and `trouble`.
 */
#ifndef PINION_TESTS_LIB_HTTP_H
#define PINION_TESTS_LIB_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include "tests/lib/util.h"

struct http_response {
	int status;       /* 0: none came, `trouble` says why */
	struct blob head; /* status line and headers */
	struct blob body;
	bool keeps; /* the connection can be used again */
	char trouble[96];
};

/* Finishes a response that was zeroed or filled. */
void http_response_finish(struct http_response *r);
/* The header's value, trimmed, into out; false where it is absent. Name without regard to case. */
bool http_header(const struct http_response *r, const char *name, char *out, size_t n);
/* The member "code" of a problem+json body into out; "" where there is none. */
void http_problem_code(const struct http_response *r, char *out, size_t n);

struct http_conn {
	uint16_t port; /* on 127.0.0.1 */
	int fd;        /* -1: not connected */
	struct blob in;
	unsigned connects;
};

void http_conn_init(struct http_conn *c, uint16_t port);
void http_conn_finish(struct http_conn *c);
/* Writes the raw request (connecting if needed). False where that failed. */
bool http_conn_send(struct http_conn *c, const void *request, size_t n);
/* Reads one response into r (finished first). A HEAD request's has no body: tell by `no_body`. */
void http_conn_read(struct http_conn *c, struct http_response *r, bool no_body, unsigned timeout_ms);

/* One request on a connection of its own. */
void http_get(uint16_t port, const char *path, const char *headers, struct http_response *r, unsigned timeout_ms);
void http_raw(uint16_t port, const void *request, size_t n, struct http_response *r, unsigned timeout_ms);

/* A TCP connection to 127.0.0.1, blocking; -1 with errno. */
int http_dial(uint16_t port);

/* Looks for a whole response at the front of `in`: bytes used and r filled; 0 when more is needed; -1 when it is none. At
 * the end of the stream (eof) a body without a length ends too. */
long http_parse(const struct blob *in, struct http_response *r, bool no_body, bool eof);

#endif
