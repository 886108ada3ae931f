/*
 * session.c - a connection's life: the door, authentication, limits, the outbox, the close. The state machine's diagram is
 * in session_private.h; commands are in session_command.c, events in session_stream.c.
 */
#include "gateway/session.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/json.h"
#include "common/log.h"
#include "common/state.h"
#include "gateway/answer.h"
#include "gateway/feed.h"

enum {
	ATTACH_WAIT_MS = 5000,
	EXPIRY_CHECK_MS = 3600 * 1000, /* the wall clock may be set: look again at least this often */
	ABUSE_PAUSE_MS = 10000,
	RETRY_SOON_MS = 1000,
	RETRY_LATER_S = 5,
};

#define TO(state) (1u << (state))

static const unsigned successors[SESSION_STATES] = {
	[SESSION_WAIT_AUTH] = TO(SESSION_ATTACHING) | TO(SESSION_CLOSING) | TO(SESSION_CLOSED),
	[SESSION_ATTACHING] = TO(SESSION_LAGGING) | TO(SESSION_CLOSING) | TO(SESSION_CLOSED),
	[SESSION_LAGGING] = TO(SESSION_LIVE) | TO(SESSION_CLOSING) | TO(SESSION_CLOSED),
	[SESSION_LIVE] = TO(SESSION_LAGGING) | TO(SESSION_CLOSING) | TO(SESSION_CLOSED),
	[SESSION_CLOSING] = TO(SESSION_CLOSED),
	[SESSION_CLOSED] = 0,
};

const char *session_state_name(enum session_state state)
{
	static const char *const names[SESSION_STATES] = {"wait_auth", "attaching", "lagging", "live", "closing", "closed"};

	return names[state];
}

static void session_list(struct session *session, enum session_state state)
{
	session->state = state;
	DL_APPEND(session->core->sessions[state], session);
	session->core->n_sessions[state]++;
}

static void session_unlist(struct session *session)
{
	DL_DELETE(session->core->sessions[session->state], session);
	session->core->n_sessions[session->state]--;
}

void session_move(struct session *session, enum session_state to)
{
	(void)state_may_follow(successors, session->state, to, "session");
	if (to == SESSION_LAGGING)
		metric_add(&metrics.lagging, 1);
	session_unlist(session);
	session_list(session, to);
}

/* ---- the outbox ---- */

bool session_has_room(const struct session *session, size_t n)
{
	return outbox_has_room(&session->outbox, n, session->core->config->outbox_bytes);
}

void session_wake(struct session *session)
{
	if (session->write_wanted || session->state == SESSION_ATTACHING || session->state == SESSION_CLOSED)
		return;
	session->write_wanted = true;
	session->ops->want_write(session->conn);
}

static void session_set_reading(struct session *session, bool on)
{
	if (session->reading_stopped != on)
		return;
	session->reading_stopped = !on;
	session->ops->set_reading(session->conn, on);
}

void session_queue(struct session *session, struct bytes *frame)
{
	outbox_push(&session->outbox, frame);
	bytes_unref(frame);
	if (session->outbox.bytes >= session->core->config->outbox_bytes)
		session_set_reading(session, false); /* more answers than it reads: it may ask no more for now */
	session_wake(session);
}

bool session_fill(struct session *session, struct buf *out, size_t max)
{
	session->write_wanted = false;
	if (session->state == SESSION_ATTACHING || session->state == SESSION_CLOSED)
		return false;
	outbox_take(&session->outbox, out, max);
	if (session->outbox.bytes <= session->core->config->outbox_bytes / 4) {
		session_set_reading(session, true);
		stream_pump(session);
		command_next(session);
	}
	return session->outbox.count > 0;
}

/* Progress and signs of life are the edge's heartbeat's: a session has no timeouts of its own for them. */
void session_on_sent(struct session *session, size_t n)
{
}

bool session_is_flushed(const struct session *session)
{
	return session->outbox.count == 0 || session->state == SESSION_ATTACHING;
}

void session_answer_error(struct session *session, struct str id, enum err code, const char *text, uint32_t retry_after_ms)
{
	session_queue(session, answer_error(core_text(session->core), id, code, str_c(text), retry_after_ms));
}

/* ---- closing ---- */

static struct address *address_find(struct core *core, const char *peer, bool make)
{
	char key[ADDRESS_MAX] = "";
	struct address *address = NULL;

	if (peer)
		memcpy(key, peer, strnlen(peer, sizeof(key) - 1));
	HASH_FIND(hh, core->addresses, key, sizeof(key), address);
	if (address || !make)
		return address;
	address = calloc(1, sizeof(*address));
	if (!address)
		abort();
	memcpy(address->text, key, sizeof(key));
	HASH_ADD(hh, core->addresses, text, sizeof(address->text), address);
	return address;
}

static void session_leave_address(struct session *session)
{
	struct address *address = session->address;

	session->address = NULL;
	if (!address || --address->unauthenticated)
		return;
	HASH_DELETE(hh, session->core->addresses, address);
	free(address);
}

/* Gives up all that it takes part in; what is in the outbox stays. */
static void session_retire(struct session *session)
{
	struct loop *loop = session->core->loop;

	feed_leave(session);
	command_drop_all(session);
	session_leave_address(session);
	timer_cancel(loop, &session->deadline_timer);
	timer_cancel(loop, &session->expiry_timer);
	timer_cancel(loop, &session->command_timer);
	free(session->seen);
	session->seen = NULL;
	session->n_seen = 0;
	free(session->auth_id);
	session->auth_id = NULL;
}

static void session_log_close(const struct session *session, const char *event, int code, const char *reason)
{
	log_info("session", event, "connection", session->id.s, "user", session->feed ? session->feed->user.s : "", "state",
	         session_state_name(session->state), "code", LOG_I64(code), "why", reason, "age_ms",
	         LOG_U64(loop_now(session->core->loop) - session->opened_ms), NULL);
}

void session_close(struct session *session, enum close_code code, const char *reason)
{
	if (session->state == SESSION_CLOSING || session->state == SESSION_CLOSED)
		return;
	session_log_close(session, "close", (int)code, reason);
	session_retire(session);
	session_move(session, SESSION_CLOSING);
	if (session->outbox.count)
		session_wake(session);
	session->ops->close(session->conn, code, reason);
}

/* One error, and the end. Before the welcome it is the only thing that the client gets. */
static void session_refuse(struct session *session, struct str id, enum err code, const char *text, enum close_code close)
{
	if (session->state == SESSION_ATTACHING)
		outbox_clear(&session->outbox);
	metrics_count_refusal(code);
	session_answer_error(session, id, code, text, close == CLOSE_TRY_LATER ? RETRY_SOON_MS : 0);
	session_close(session, close, err_name(code));
}

void session_closed(struct session *session)
{
	if (session->state == SESSION_CLOSED)
		return;
	if (session->state != SESSION_CLOSING)
		session_log_close(session, "gone", 0, "peer");
	session_retire(session);
	outbox_clear(&session->outbox);
	session_move(session, SESSION_CLOSED);
	metric_add(&metrics.sessions, -1);
	task_defer(session->core->loop, &session->core->sweep);
}

void session_free(struct session *session)
{
	session_retire(session);
	outbox_clear(&session->outbox);
	if (session->state != SESSION_CLOSED)
		metric_add(&metrics.sessions, -1);
	session_unlist(session);
	free(session);
}

void session_on_violation(struct session *session, enum close_code code, const char *reason)
{
	session_close(session, code, reason);
}

void session_on_alive(struct session *session)
{
}

/* ---- the door ---- */

static size_t core_open_sessions(const struct core *core)
{
	size_t n = 0;

	for (size_t i = 0; i < SESSION_CLOSED; i++)
		n += core->n_sessions[i];
	return n;
}

size_t core_sessions(const struct core *core)
{
	return core_open_sessions(core);
}

static bool user_is_full(struct core *core, const struct user_id *user)
{
	const struct feed *feed = feed_find(core, user_id_str(user));

	return feed && feed->n_sessions >= core->config->connections;
}

static bool address_is_full(struct core *core, const char *peer)
{
	const struct address *address = address_find(core, peer, false);

	return address && address->unauthenticated >= core->config->unauthenticated_per_address;
}

enum err session_admit(struct core *core, const struct identity *identity, const char *peer, unsigned *retry_after_s,
                       struct err_info *info)
{
	enum err err = ERR_OK;

	*retry_after_s = 1;
	if (core->draining)
		err = ERR_DRAINING;
	else if (core_open_sessions(core) >= core->config->max_sessions)
		err = ERR_OVERLOADED;
	else if (!router_is_ready(core))
		err = ERR_NO_WORKER;
	else if (identity ? user_is_full(core, &identity->user) : address_is_full(core, peer))
		err = ERR_TOO_MANY_CONNECTIONS;
	if (err == ERR_OK)
		return ERR_OK;
	if (err == ERR_TOO_MANY_CONNECTIONS || err == ERR_OVERLOADED)
		*retry_after_s = RETRY_LATER_S;
	metrics_count_refusal(err);
	return err_set(info, err, NULL);
}

static void on_deadline(struct timer *timer)
{
	struct session *session = CONTAINER_OF(timer, struct session, deadline_timer);

	if (session->state == SESSION_WAIT_AUTH) {
		session_refuse(session, (struct str){0}, ERR_TOKEN_MISSING, "no auth message came in time",
		               CLOSE_UNAUTHENTICATED);
	} else if (session->state == SESSION_ATTACHING) {
		session_refuse(session, str_c(session->auth_id), ERR_UNAVAILABLE, NULL, CLOSE_TRY_LATER);
	}
}

static void session_watch_expiry(struct session *session)
{
	uint64_t end = (session->expires_s + AUTH_LEEWAY_S) * 1000, now = loop_wall(session->core->loop);
	uint64_t left = end > now ? end - now : 0;

	timer_set(session->core->loop, &session->expiry_timer, left < EXPIRY_CHECK_MS ? left : EXPIRY_CHECK_MS);
}

static void on_expiry(struct timer *timer)
{
	struct session *session = CONTAINER_OF(timer, struct session, expiry_timer);

	if (loop_wall(session->core->loop) < (session->expires_s + AUTH_LEEWAY_S) * 1000)
		session_watch_expiry(session);
	else
		session_close(session, CLOSE_UNAUTHENTICATED, "token_expired");
}

static void session_set_expiry(struct session *session, const struct identity *identity)
{
	const int64_t most = INT64_MAX / 2000; /* far beyond any clock */

	session->expires_s = (uint64_t)(identity->expires_s < 0 ? 0 : identity->expires_s > most ? most : identity->expires_s);
	session_watch_expiry(session);
}

/* The user is known: on to the feed. id: of the auth message, or empty. */
static void session_begin(struct session *session, const struct identity *identity, struct str id)
{
	struct core *core = session->core;

	if (user_is_full(core, &identity->user)) {
		session_refuse(session, id, ERR_TOO_MANY_CONNECTIONS, NULL, CLOSE_TRY_LATER);
		return;
	}
	session_leave_address(session);
	session_move(session, SESSION_ATTACHING);
	if (id.n && !(session->auth_id = strndup(id.p, id.n)))
		abort();
	timer_set(core->loop, &session->deadline_timer, ATTACH_WAIT_MS);
	session_set_expiry(session, identity);
	log_info("session", "open", "connection", session->id.s, "user", identity->user.s, NULL);
	feed_join(feed_obtain(core, &identity->user), session);
}

static void session_wait_for_auth(struct session *session, const char *peer)
{
	if (address_is_full(session->core, peer)) {
		session_refuse(session, (struct str){0}, ERR_TOO_MANY_CONNECTIONS, NULL, CLOSE_TRY_LATER);
		return;
	}
	session->address = address_find(session->core, peer, true);
	session->address->unauthenticated++;
	timer_set(session->core->loop, &session->deadline_timer, session->core->config->auth_wait_s * 1000ull);
}

struct session *session_open(struct core *core, const struct session_args *args)
{
	struct session *session = calloc(1, sizeof(*session));
	bool overloaded = core_open_sessions(core) >= core->config->max_sessions;

	if (!session)
		abort();
	session->core = core;
	session->conn = args->conn;
	session->ops = args->ops;
	id_make(&session->id);
	session->opened_ms = loop_now(core->loop);
	session->has_last_seq = args->has_last_seq;
	session->last_seq = args->last_seq;
	session->deadline_timer.fn = on_deadline;
	session->expiry_timer.fn = on_expiry;
	command_init(session);
	token_bucket_init(&session->bucket, core->config->messages_per_s, core->config->burst, session->opened_ms);
	session_list(session, SESSION_WAIT_AUTH);
	metric_add(&metrics.sessions, 1);
	if (core->draining)
		session_close(session, CLOSE_DRAINING, "draining");
	else if (overloaded)
		session_refuse(session, (struct str){0}, ERR_OVERLOADED, NULL, CLOSE_TRY_LATER);
	else if (args->identity)
		session_begin(session, args->identity, (struct str){0});
	else
		session_wait_for_auth(session, args->peer);
	return session;
}

/* ---- authentication ---- */

static enum err session_verify(struct session *session, struct str token, struct identity *out, struct err_info *info)
{
	const struct verifier *verifier = &session->core->verifier;

	return verifier->verify(verifier->ctx, token, (int64_t)(loop_wall(session->core->loop) / 1000), out, info);
}

static enum close_code close_code_of(enum err err)
{
	switch (err) {
	case ERR_INVALID_USER_ID:
	case ERR_FORBIDDEN:
		return CLOSE_IDENTITY;
	case ERR_UNAVAILABLE:
	case ERR_OVERLOADED:
		return CLOSE_TRY_LATER;
	default:
		return CLOSE_UNAUTHENTICATED;
	}
}

static void session_on_first_message(struct session *session, struct str text)
{
	struct client_message m;
	struct identity identity = {0};
	struct err_info info = {0};
	enum err err = client_message_parse(&m, text, NULL, &info);

	if (m.kind != CLIENT_AUTH)
		err = err_set(&info, ERR_TOKEN_MISSING, "the first message must be auth");
	if (!err)
		err = session_verify(session, m.token, &identity, &info);
	if (!err && m.has_user_id && !str_eq(m.user_id, user_id_str(&identity.user)))
		err = err_set(&info, ERR_FORBIDDEN, "user_id is not the token's");
	if (err)
		session_refuse(session, m.id, err, info.text, close_code_of(err));
	else
		session_begin(session, &identity, m.id);
	client_message_finish(&m);
}

static void session_refresh(struct session *session, const struct client_message *m)
{
	struct identity identity = {0};
	struct err_info info = {0};
	char fields[64], ts[TIMESTAMP_MAX];
	enum err err = session_verify(session, m->token, &identity, &info);

	if (!err && !user_id_eq(&identity.user, &session->feed->user))
		err = err_set(&info, ERR_FORBIDDEN, "the token is another user's");
	if (err == ERR_FORBIDDEN || err == ERR_INVALID_USER_ID) {
		session_refuse(session, m->id, err, info.text, CLOSE_IDENTITY);
	} else if (err) {
		session_answer_error(session, m->id, err, info.text, 0);
	} else {
		session_set_expiry(session, &identity);
		snprintf(fields, sizeof(fields), "{\"expires_at\":\"%s\"}", answer_timestamp(ts, session->expires_s * 1000));
		session_queue(session, answer_ack(core_text(session->core), m->id, str_c(fields)));
	}
}

/* ---- messages ---- */

/* Past its rate. Who goes on like that is sent away. */
static void session_slow_down(struct session *session, struct str id, uint64_t now)
{
	uint64_t wait = token_bucket_wait_ms(&session->bucket, 1, now);

	if (now - session->refused_ms >= ABUSE_PAUSE_MS)
		session->refused = 0;
	session->refused_ms = now;
	metrics_count_refusal(ERR_RATE_LIMITED);
	session_answer_error(session, id, ERR_RATE_LIMITED, NULL, (uint32_t)(wait ? wait : 1));
	if (++session->refused > session->core->config->burst)
		session_close(session, CLOSE_ABUSE, "rate_limited");
}

static void session_handle(struct session *session, struct client_message *m)
{
	switch (m->kind) {
	case CLIENT_PING:
		session_queue(session, answer_pong(core_text(session->core), m->id, loop_wall(session->core->loop)));
		break;
	case CLIENT_AUTH_REFRESH:
		session_refresh(session, m);
		break;
	case CLIENT_COMMAND:
		command_accept(session, m);
		break;
	case CLIENT_AUTH:
	case CLIENT_OTHER:
		session_answer_error(session, m->id, ERR_INVALID_MESSAGE, "already authenticated", 0);
		break;
	}
}

static void session_on_message(struct session *session, struct str text)
{
	uint64_t now = loop_now(session->core->loop);
	bool slow = !token_bucket_take(&session->bucket, 1, now);
	struct client_message m;
	struct err_info info = {0};
	enum err err = client_message_parse(&m, text, &session->feed->user, &info);

	if (slow)
		session_slow_down(session, m.id, now);
	else if (err)
		session_answer_error(session, m.id, err, info.text, 0);
	else
		session_handle(session, &m);
	client_message_finish(&m);
}

void session_on_text(struct session *session, struct str message)
{
	if (session->state == SESSION_CLOSING || session->state == SESSION_CLOSED)
		return;
	if (message.n > session->core->config->message_bytes)
		session_close(session, CLOSE_TOO_LARGE, "message too large");
	else if (!utf8_is_valid(message))
		session_close(session, CLOSE_BAD_UTF8, "bad UTF-8");
	else if (session->state == SESSION_WAIT_AUTH)
		session_on_first_message(session, message);
	else
		session_on_message(session, message);
}
