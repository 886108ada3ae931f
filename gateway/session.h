/*
 * session.h - one WebSocket connection's conversation: authenticate, welcome, commands and answers, events in order.
 *
 * The session knows no libwebsockets: it is told what arrives, is asked for bytes when the socket can take some, and asks its
 * connection (struct conn_ops) to wake it or to close. Everything runs on the loop's thread. A session is owned by its
 * gateway core from session_open until session_closed; the connection holds the pointer between the two and no longer.
 */
#ifndef PINION_GATEWAY_SESSION_H
#define PINION_GATEWAY_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/ids.h"
#include "gateway/auth.h"

struct core; /* all sessions, feeds, workers of one gateway: gateway/core.h */
struct session;
struct conn; /* the edge's connection, opaque here */

enum close_code {
	CLOSE_NORMAL = 1000,
	CLOSE_GOING_AWAY = 1001,
	CLOSE_BINARY = 1003,
	CLOSE_BAD_UTF8 = 1007,
	CLOSE_TOO_LARGE = 1009,
	CLOSE_BUG = 1011,
	CLOSE_DRAINING = 1012,
	CLOSE_TRY_LATER = 1013,
	CLOSE_UNAUTHENTICATED = 4401,
	CLOSE_IDENTITY = 4403,
	CLOSE_NO_SIGN_OF_LIFE = 4408,
	CLOSE_ABUSE = 4429,
};

struct conn_ops {
	/* The session has bytes: call session_fill when the socket can take some. Cheap, idempotent. */
	void (*want_write)(struct conn *conn);
	/* Close with this code once what session_fill still yields has been written. Never calls back inside. Idempotent. */
	void (*close)(struct conn *conn, enum close_code code, const char *reason);
	/* Stop or go on reading from the client (backpressure); default: reading. */
	void (*set_reading)(struct conn *conn, bool on);
};

struct session_args {
	struct conn *conn;
	const struct conn_ops *ops;
	const char *peer;                /* address for logs and per-address caps: copied */
	const struct identity *identity; /* NULL: the first message must be `auth` */
	bool has_last_seq;
	uint64_t last_seq;
};

/* Asked before the upgrade is accepted. ERR_OK, or the refusal: ERR_NO_WORKER, ERR_DRAINING, ERR_OVERLOADED,
 * ERR_TOO_MANY_CONNECTIONS (of this user, or unauthenticated ones of this address), ERR_RATE_LIMITED. *retry_after_s is set for
 * 429 and 503. identity NULL: will authenticate in band. */
MUST_CHECK enum err session_admit(struct core *core, const struct identity *identity, const char *peer, unsigned *retry_after_s,
                                  struct err_info *info);

/* The upgrade is done. Never fails: a limit that was reached since session_admit closes the connection by ops->close. */
struct session *session_open(struct core *core, const struct session_args *args);

void session_on_text(struct session *session,
                     struct str message); /* a whole text message, at most limits.message_bytes; UTF-8 not yet checked */
void session_on_violation(struct session *session, enum close_code code, const char *reason); /* binary, too large, … */
void session_on_alive(struct session *session);                                               /* a pong, or any input */

/* Appends whole WebSocket frames (server to client, unmasked, FIN), about max bytes at the most but at least one frame if
 * there is any. Returns whether there is more. Called when the socket can take bytes, whatever was wanted. */
bool session_fill(struct session *session, struct buf *out, size_t max);
/* What session_fill gave has left for the kernel: n bytes (counts as progress for the heartbeat). */
void session_on_sent(struct session *session, size_t n);
/* True when nothing waits: for close-after-flush. */
bool session_is_flushed(const struct session *session);

/* The connection is gone. The session is swept at the turn's end; the pointer is dead for the caller. */
void session_closed(struct session *session);

#endif
