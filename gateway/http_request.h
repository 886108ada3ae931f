/*
 * http_request.h - the rules for what may come in at the public port, free of any library: origins, subprotocols, queries,
 * bearer tokens, and what a refusal looks like. Thread: any.
 *
 * Sources: RFC 6455 section 4.2 (opening handshake), RFC 6454 (origins), RFC 6750 section 2.1 (bearer), RFC 9457 (problems).
 */
#ifndef PINION_GATEWAY_HTTP_REQUEST_H
#define PINION_GATEWAY_HTTP_REQUEST_H

#include <stdbool.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/config.h"
#include "common/err.h"

#define SUBPROTOCOL "pinion.v1"

/* Whether a page of this origin may connect: of the same host and port as the Host header (a gateway without TLS may stand
 * behind a proxy that has it, so there either scheme will do), or in the list ("https://app.example.com", or "*"). */
bool origin_is_allowed(struct str origin, struct str host, bool tls, const struct string_list *allowed);

enum offer {
	OFFER_NONE,      /* no list: the connection has no subprotocol */
	OFFER_OURS,      /* pinion.v1 is in it, where libwebsockets will find it */
	OFFER_OTHERS,    /* only others */
	OFFER_UNREACHED, /* ours may be there, but behind what libwebsockets reads: SUBPROTOCOL_LIST_MAX, SUBPROTOCOL_NAME_MAX */
	OFFER_MALFORMED, /* no list of tokens */
};

/* libwebsockets copies the list into 128 bytes and each name into 64, and drops the socket beyond. */
#define SUBPROTOCOL_LIST_MAX 126
#define SUBPROTOCOL_NAME_MAX 63

/* `list` is the header's value as libwebsockets holds it: cut at SUBPROTOCOL_LIST_MAX bytes by its token limit. */
enum offer subprotocol_offer(struct str list);

struct query {
	bool has_last_seq;
	uint64_t last_seq;
};

/* One argument of the query, percent-decoded: NAME=VALUE. Unknown ones are ignored. ERR_BAD_REQUEST for a last_seq that is no
 * number from 0 to 2^53 or comes twice, and for a token, which never belongs into a URL. */
MUST_CHECK enum err query_take(struct query *query, struct str argument, struct err_info *info);

/* The token of an Authorization header; ERR_BAD_REQUEST for several headers (they come joined by a comma), ERR_TOKEN_INVALID
 * where it is no bearer token. */
MUST_CHECK enum err bearer_token(struct str authorization, struct str *out, struct err_info *info);

/* Connection: has the token `upgrade` among others. */
bool header_has_token(struct str value, const char *token);

/* Sec-WebSocket-Key: base64 of 16 bytes. */
bool websocket_key_is_valid(struct str key);

unsigned http_status_of(enum err code);
const char *http_reason(unsigned status);

struct http_reply {
	unsigned status;
	const char *content_type;
	struct str body;
	bool head;         /* leave the body out, but state its length */
	const char *extra; /* further header lines, each ended by CRLF; NULL: none */
};

/* Appends a whole HTTP/1.1 response that closes the connection. */
void http_reply_write(struct buf *out, const struct http_reply *reply);

/* Appends a whole refusal as application/problem+json; retry_after_s 0: no Retry-After. detail NULL: the default text. */
void http_refusal_write(struct buf *out, enum err code, unsigned status, const char *detail, unsigned retry_after_s,
                        const char *extra, bool head);

#endif
