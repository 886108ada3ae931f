/*
 * err.h - the one list of everything that can go wrong, and where its context is written.
 *
 * Each error has a name (the code that clients see, where protocol.md has one for it) and a default text.
 * Functions that can fail return enum err and take an optional struct err_info for the detail. Thread: any.
 */
#ifndef PINION_COMMON_ERR_H
#define PINION_COMMON_ERR_H

#include <stdbool.h>
#include <stddef.h>
#include "common/str.h"

/* X(symbol, name, default text). Names are part of the client protocol and of the link protocol: never reuse one. */
#define ERR_LIST(X)                                                                                          \
	/* answers to a client's message */                                                                  \
	X(ERR_INVALID_MESSAGE, "invalid_message", "the message is not valid")                                \
	X(ERR_UNKNOWN_TYPE, "unknown_type", "this message type is not known")                                \
	X(ERR_FORBIDDEN, "forbidden", "not allowed for this user")                                           \
	X(ERR_NOT_FOUND, "not_found", "there is nothing of yours with this id")                              \
	X(ERR_NOT_ACTIVE, "not_active", "the run has ended")                                                 \
	X(ERR_UNKNOWN_AGENT, "unknown_agent", "no agent of this name is offered")                            \
	X(ERR_BUSY, "busy", "a run is active in this thread")                                                \
	X(ERR_CONFLICT, "conflict", "this idempotency key was used with another input")                      \
	X(ERR_QUEUE_FULL, "queue_full", "too many runs are waiting")                                         \
	X(ERR_RATE_LIMITED, "rate_limited", "too many messages")                                             \
	X(ERR_OVERLOADED, "overloaded", "too much is going on, try again later")                             \
	X(ERR_UNAVAILABLE, "unavailable", "the service can't do this now, try again later")                  \
	X(ERR_TOO_LARGE, "too_large", "a field is too large")                                                \
	X(ERR_INTERNAL, "internal", "an error on our side")                                                  \
	/* refusals at the door */                                                                           \
	X(ERR_UNSUPPORTED_SUBPROTOCOL, "unsupported_subprotocol", "offer the subprotocol pinion.v1 or none") \
	X(ERR_BAD_REQUEST, "bad_request", "the request is not valid")                                        \
	X(ERR_TOKEN_MISSING, "token_missing", "an Authorization: Bearer token is needed")                    \
	X(ERR_TOKEN_INVALID, "token_invalid", "the token does not hold")                                     \
	X(ERR_TOKEN_EXPIRED, "token_expired", "the token has expired")                                       \
	X(ERR_ISSUER_MISMATCH, "issuer_mismatch", "the token is of another issuer")                          \
	X(ERR_AUDIENCE_MISMATCH, "audience_mismatch", "the token is for another audience")                   \
	X(ERR_INVALID_USER_ID, "invalid_user_id", "the token's sub is not a valid user id")                  \
	X(ERR_ORIGIN_NOT_ALLOWED, "origin_not_allowed", "this origin may not connect")                       \
	X(ERR_TOO_MANY_CONNECTIONS, "too_many_connections", "too many connections")                          \
	X(ERR_NO_WORKER, "no_worker", "no worker is ready")                                                  \
	X(ERR_DRAINING, "draining", "going away, reconnect")                                                 \
	/* between our own processes */                                                                      \
	X(ERR_MOVED, "moved", "the user is owned by another worker")                                         \
	X(ERR_FULL, "full", "this worker takes no more users")                                               \
	X(ERR_FENCED, "fenced", "overtaken: a higher epoch owns this")                                       \
	X(ERR_VERSION, "version", "the peer speaks another major version of the link protocol")              \
	X(ERR_PROTOCOL, "protocol", "the peer broke the protocol")                                           \
	X(ERR_DISCONNECTED, "disconnected", "the connection was lost")                                       \
	X(ERR_TIMEOUT, "timeout", "no answer in time")                                                       \
	X(ERR_CANCELLED, "cancelled", "cancelled")                                                           \
	/* inside a process */                                                                               \
	X(ERR_NO_MEMORY, "no_memory", "out of memory")                                                       \
	X(ERR_IO, "io", "input or output failed")                                                            \
	X(ERR_AGAIN, "again", "not now")                                                                     \
	X(ERR_CAPACITY, "capacity", "a queue is at its cap")                                                 \
	X(ERR_CONFIG, "config", "the configuration is not valid")

enum err {
	ERR_OK = 0,
#define X(symbol, name, text) symbol,
	ERR_LIST(X)
#undef X
		ERR_COUNT_
};

#define MUST_CHECK __attribute__((warn_unused_result))

/* Context of an error, "outer: inner". Owned by the caller, who may pass NULL where he doesn't care. */
struct err_info {
	enum err code;
	char text[256];
};

const char *err_name(enum err code); /* "invalid_message"; "ok" for ERR_OK */
const char *err_text(enum err code); /* the default text */

/* The error with this name; ERR_INTERNAL for a name that is not ours (a newer peer). Empty name: ERR_OK. */
enum err err_from_name(struct str name);

/* What a client may be told: link and process errors become ERR_INTERNAL or ERR_UNAVAILABLE. */
enum err err_for_client(enum err code);

/* Sets code and text (default text where fmt is NULL); returns code. info may be NULL. */
enum err err_set(struct err_info *info, enum err code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already there; returns the code already there. */
enum err err_wrap(struct err_info *info, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* err_set with ": " and strerror(errno_value) behind the text. */
enum err err_set_errno(struct err_info *info, enum err code, int errno_value, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
