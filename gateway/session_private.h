/*
 * session_private.h - a session's inside, shared by the files that make it up and by the feed that it listens to.
 *
 *     session_open ──► WAIT_AUTH ──auth──► ATTACHING ──welcome──► LAGGING ◄───────► LIVE
 *                          │                   │                     │    caught up  │
 *                          └───────────────────┴──────► CLOSING ◄────┴──────────────┘
 *                                                          │
 *     session_closed, in any state ───────────────────► CLOSED, swept at the turn's end
 *
 * ATTACHING: the outbox is corked, so that the welcome comes first. LIVE: the session has all that its feed has, and what
 * the feed gets is queued as it comes. LAGGING: it is behind (a resume, or a full outbox), and pulls from the log what it
 * lacks, then the text of open messages, whenever the outbox has drained. A resume and a slow reader are the same to it.
 */
#ifndef PINION_GATEWAY_SESSION_PRIVATE_H
#define PINION_GATEWAY_SESSION_PRIVATE_H

#include "common/loop.h"
#include "common/token_bucket.h"
#include "gateway/client_message.h"
#include "gateway/outbox.h"
#include "gateway/session.h"

struct address;
struct call;
struct feed;
struct feed_event;
struct pull;

enum session_state {
	SESSION_WAIT_AUTH,
	SESSION_ATTACHING,
	SESSION_LAGGING,
	SESSION_LIVE,
	SESSION_CLOSING,
	SESSION_CLOSED,
	SESSION_STATES,
};

/* What a lagging session has been sent of an open message. A live one has all that its feed has shown. */
struct seen {
	struct id message_id, run_id;
	size_t offset;
};

/* A command that waits for its turn or its answer. */
struct waiting_command {
	struct client_message message;
	uint64_t arrived_ms;
	uint64_t number; /* of the request, once it was sent: kept where it is sent again with unknown outcome */
	size_t size;
	struct waiting_command *prev, *next;
};

struct session {
	struct core *core;
	struct conn *conn;
	const struct conn_ops *ops;
	enum session_state state;
	struct id id;
	struct address *address; /* counted there while WAIT_AUTH */
	uint64_t opened_ms, expires_s;
	struct session *prev, *next; /* of the same state */

	struct feed *feed; /* NULL before authentication and after the close */
	struct session *feed_prev, *feed_next;
	bool has_last_seq;
	uint64_t last_seq;    /* what the client resumes from */
	uint64_t sync_serial; /* the feed's repair to wait for before the welcome; 0: none asked yet */
	char *auth_id;        /* of the auth message, until the welcome */

	uint64_t cursor; /* the last event queued */
	struct outbox outbox;
	bool write_wanted, reading_stopped;
	struct seen *seen; /* LAGGING */
	size_t n_seen;
	struct pull *pull; /* LAGGING, while it asks the log */

	struct waiting_command *commands; /* the head is the one being executed */
	size_t n_commands, command_bytes;
	struct call *command_call;

	struct token_bucket bucket;
	uint32_t refused;
	uint64_t refused_ms;
	struct timer deadline_timer; /* authentication, attachment */
	struct timer expiry_timer, command_timer;
};

/* ---- session.c ---- */

void session_queue(struct session *session, struct bytes *frame); /* takes the reference */
void session_wake(struct session *session);                       /* wants to write */
void session_answer_error(struct session *session, struct str id, enum err code, const char *text, uint32_t retry_after_ms);
void session_close(struct session *session, enum close_code code, const char *reason); /* idempotent */
void session_move(struct session *session, enum session_state to);
void session_free(struct session *session); /* the core's sweep */
const char *session_state_name(enum session_state state);
/* The outbox has room for n more bytes, or is empty. */
bool session_has_room(const struct session *session, size_t n);
static inline bool session_is_welcomed(const struct session *session)
{
	return session->state == SESSION_LIVE || session->state == SESSION_LAGGING;
}

/* ---- session_command.c ---- */

void command_init(struct session *session);
void command_accept(struct session *session, struct client_message *message); /* takes the message's memory */
void command_next(struct session *session);                                   /* sends the head where it can be sent now */
void command_recall(struct session *session); /* the feed is being attached anew: the head waits */
void command_drop_all(struct session *session);

/* ---- session_stream.c: what a feed tells its sessions ---- */

/* The feed is attached, or has asked the log: welcomes the session where that is all it waited for. */
void stream_welcome(struct session *session);
/* An event that the feed has just got. Called before the feed's own state moves on. */
void stream_event(struct session *session, struct feed_event *event);
/* A piece of an open message's text, [shown, shown + n): queued to live sessions only. */
void stream_piece(struct session *session, struct bytes *frame);
/* A lagging session goes on where it can: pulls from the log, sends open text, becomes live. */
void stream_pump(struct session *session);
/* The feed loses its worker: what was asked is given up. */
void stream_recall(struct session *session);

#endif
