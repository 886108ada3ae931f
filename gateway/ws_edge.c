/*
 * A connection's conversation, between libwebsockets' callbacks and its session.
 *
 * What libwebsockets does not do right by itself and is done here (each found by measurement):
 * - frames are written packed, as LWS_WRITE_RAW, never while a partial write is pending;
 * - a close code is sent by lws_close_reason and a synchronous kill from within WRITEABLE; a negative return would not send it;
 * - sizes are bounded from the announced length of a frame, and the number of its pieces is;
 * - pings carry a payload (an empty pong is not told) and come from our own timers;
 * - a socket is cut by shutdown(2): lws then notices by itself, in whatever state it is.
 */
#include "gateway/edge_private.h"

#include <stdlib.h>
#include <sys/socket.h>
#include "common/log.h"

#define PACK_BYTES 65536
#define PIECES_MAX 4096 /* of one message */
#define HEARTBEATS_MISSED 3
#define REASON_BYTES_MAX 123 /* RFC 6455, 5.5: a control frame has at most 125 bytes */

static const char ping_frame[] = {(char)0x89, 4, 'p', 'i', 'n', 'g'};

static struct conn *conn_of(struct lws *wsi)
{
	return lws_get_opaque_user_data(wsi);
}

static uint64_t now_of(const struct conn *conn)
{
	return loop_now(&conn->edge->loop->loop);
}

static void set_timer(struct conn *conn, uint64_t ms)
{
	timer_set(&conn->edge->loop->loop, &conn->timer, ms);
}

/* ---- what the session asks of us ---- */

static void ops_want_write(struct conn *conn)
{
	if (conn->state == CONN_OPEN || conn->state == CONN_CLOSING)
		lws_callback_on_writable(conn->wsi);
}

static void ops_close(struct conn *conn, enum close_code code, const char *reason)
{
	if (conn->state != CONN_OPEN)
		return;
	conn->state = CONN_CLOSING;
	conn->code = code;
	conn->reason = strndup(reason ? reason : "", REASON_BYTES_MAX);
	buf_finish(&conn->message);
	set_timer(conn, CLOSING_MS);
	lws_rx_flow_control(conn->wsi, 1); /* so that the peer's own end shows */
	lws_callback_on_writable(conn->wsi);
}

static void ops_set_reading(struct conn *conn, bool on)
{
	if (conn->state != CONN_OPEN || conn->reading == on)
		return;
	conn->reading = on;
	lws_rx_flow_control(conn->wsi, on);
	if (on)
		lws_cancel_service(conn->edge->context); /* what lws had read already waits for a turn of its own */
}

static const struct conn_ops ops = {
	.want_write = ops_want_write,
	.close = ops_close,
	.set_reading = ops_set_reading,
};

/* ---- life and death ---- */

void conn_kill(struct conn *conn)
{
	struct linger at_once = {1, 0}; /* what the peer does not read is not kept for it */

	if (!conn->wsi)
		return;
	setsockopt(lws_get_socket_fd(conn->wsi), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (conn->state == CONN_OPEN || conn->state == CONN_CLOSING || conn->state == CONN_CLOSE_SENT)
		lws_rx_flow_control(conn->wsi, 1);
	shutdown(lws_get_socket_fd(conn->wsi), SHUT_RDWR);
}

static void handle_established(struct conn *conn)
{
	struct edge *edge = conn->edge;
	struct upgrade *upgrade = conn->upgrade;
	struct session_args args = {.conn = conn, .ops = &ops, .peer = conn->peer};

	conn_leave_opening(conn);
	conn->state = CONN_OPEN;
	conn->alive_ms = now_of(conn);
	/* the first ping somewhere in the second half of a heartbeat: those who came together don't all beat together */
	set_timer(conn, edge->config.heartbeat_s * (500 + (uint64_t)rand() % 500));
	if (upgrade) {
		args.identity = upgrade->has_identity ? &upgrade->identity : NULL;
		args.has_last_seq = upgrade->has_last_seq;
		args.last_seq = upgrade->last_seq;
	}
	conn->session = session_open(edge->core, &args);
	free(conn->upgrade);
	conn->upgrade = NULL;
}

static void handle_closed(struct conn *conn)
{
	struct session *session = conn->session;

	conn_leave_opening(conn);
	conn->state = CONN_GONE;
	conn->session = NULL;
	timer_cancel(&conn->edge->loop->loop, &conn->timer);
	if (session)
		session_closed(session);
}

static void handle_destroyed(struct conn *conn)
{
	handle_closed(conn);
	conn_destroy(conn);
}

/* ---- heartbeat and deadlines ---- */

static void beat(struct conn *conn)
{
	uint64_t now_ms = now_of(conn), heartbeat_ms = conn->edge->config.heartbeat_s * 1000ull, last_ms;

	if (!conn->reading)
		conn->alive_ms = now_ms; /* it may well have answered: we don't look */
	last_ms = conn->alive_ms + HEARTBEATS_MISSED * heartbeat_ms;
	if (now_ms >= last_ms) {
		set_timer(conn, heartbeat_ms);
		session_on_violation(conn->session, CLOSE_NO_SIGN_OF_LIFE, "no sign of life for three heartbeats");
		return;
	}
	conn->ping_due = true;
	lws_callback_on_writable(conn->wsi);
	set_timer(conn, last_ms - now_ms < heartbeat_ms ? last_ms - now_ms : heartbeat_ms);
}

void conn_on_timer(struct timer *timer)
{
	struct conn *conn = (struct conn *)((char *)timer - offsetof(struct conn, timer));

	switch (conn->state) {
	case CONN_OPEN:
		beat(conn);
		break;
	case CONN_OPENING:
	case CONN_CLOSING:
	case CONN_CLOSE_SENT:
		log_debug("edge", "too_slow", "peer", conn->peer, NULL);
		conn_kill(conn);
		break;
	case CONN_GONE:
		break;
	}
}

/* ---- reading ---- */

static void violate(struct conn *conn, enum close_code code, const char *reason)
{
	conn->violated = true;
	buf_finish(&conn->message);
	session_on_violation(conn->session, code, reason);
}

static void deliver(struct conn *conn, struct str message)
{
	session_on_text(conn->session, message);
	buf_finish(&conn->message);
	conn->pieces = 0;
}

static void handle_received(struct conn *conn, const char *in, size_t n)
{
	size_t limit = conn->edge->config.message_bytes;
	bool last = lws_is_final_fragment(conn->wsi);

	conn->alive_ms = now_of(conn);
	if (conn->state != CONN_OPEN || conn->violated)
		return;
	session_on_alive(conn->session);
	if (lws_frame_is_binary(conn->wsi)) {
		violate(conn, CLOSE_BINARY, "binary messages are not taken");
	} else if (conn->message.n + n + lws_remaining_packet_payload(conn->wsi) > limit) {
		violate(conn, CLOSE_TOO_LARGE, "the message is too large");
	} else if (++conn->pieces > PIECES_MAX) {
		violate(conn, CLOSE_TOO_LARGE, "the message is in too many pieces");
	} else if (last && conn->message.n == 0) {
		deliver(conn, str_of(in, n));
	} else {
		buf_append(&conn->message, in, n);
		if (last)
			deliver(conn, buf_str(&conn->message));
	}
}

static void handle_pong(struct conn *conn)
{
	conn->alive_ms = now_of(conn);
	if (conn->state == CONN_OPEN)
		session_on_alive(conn->session);
}

/* ---- writing ---- */

static void note_sent(struct conn *conn, size_t n)
{
	if (n == 0)
		return;
	conn->alive_ms = now_of(conn);
	session_on_sent(conn->session, n);
}

/* Sends what there is, in one write. Returns whether the session has more; -1: the socket is broken. */
static int pump(struct conn *conn)
{
	static const char room[LWS_PRE];
	struct buf *out = &conn->edge->out;
	size_t before;
	bool more;

	buf_clear(out);
	buf_append(out, room, sizeof(room));
	if (conn->ping_due && conn->state == CONN_OPEN)
		buf_append(out, ping_frame, sizeof(ping_frame));
	conn->ping_due = false;
	before = out->n;
	more = session_fill(conn->session, out, PACK_BYTES);
	if (out->n == LWS_PRE)
		return more;
	if (lws_write(conn->wsi, (unsigned char *)out->p + LWS_PRE, out->n - LWS_PRE, LWS_WRITE_RAW) < 0)
		return -1;
	if (lws_partial_buffered(conn->wsi))
		conn->unsent = out->n - before;
	else
		note_sent(conn, out->n - before);
	return more;
}

static void send_close(struct conn *conn)
{
	conn->state = CONN_CLOSE_SENT;
	lws_close_reason(conn->wsi, (enum lws_close_status)conn->code, (unsigned char *)conn->reason, strlen(conn->reason));
	lws_set_timeout(conn->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_SYNC);
}

static int handle_writeable(struct conn *conn)
{
	int more;

	if ((conn->state != CONN_OPEN && conn->state != CONN_CLOSING) || lws_partial_buffered(conn->wsi))
		return 0;
	note_sent(conn, conn->unsent);
	conn->unsent = 0;
	more = pump(conn);
	if (more < 0)
		return -1;
	if (lws_partial_buffered(conn->wsi))
		return 0; /* lws comes back when it has flushed */
	if (conn->state == CONN_CLOSING && !more && session_is_flushed(conn->session))
		send_close(conn);
	else if (more)
		lws_callback_on_writable(conn->wsi);
	return 0;
}

/* ---- libwebsockets ---- */

static int handle_upgrade(struct conn *conn, const char *protocol)
{
	if (strcasecmp(protocol, "websocket") == 0)
		return http_edge_upgrade(conn) ? 0 : 1;
	http_edge_respond(conn); /* h2c: a client that only would have liked it */
	return 1;
}

int ws_edge_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	struct conn *conn = wsi ? conn_of(wsi) : NULL;

	if (reason == LWS_CALLBACK_WSI_CREATE) { /* before the opaque data is there */
		((struct edge *)lws_vhost_user(lws_get_vhost(wsi)))->wsi_created = true;
		return 0;
	}
	if (!conn)
		return 0; /* the context's own */
	conn->wsi = wsi;
	switch (reason) {
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
		return handle_upgrade(conn, in);
	case LWS_CALLBACK_HTTP:
		http_edge_respond(conn);
		return -1; /* close, when it is flushed */
	case LWS_CALLBACK_ESTABLISHED:
		handle_established(conn);
		return 0;
	case LWS_CALLBACK_RECEIVE:
		handle_received(conn, in, len);
		return 0;
	case LWS_CALLBACK_RECEIVE_PONG:
		handle_pong(conn);
		return 0;
	case LWS_CALLBACK_SERVER_WRITEABLE:
		return handle_writeable(conn);
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE: /* lws answers it */
		conn->state = CONN_CLOSE_SENT;
		set_timer(conn, CLOSING_MS);
		return 0;
	case LWS_CALLBACK_CLOSED:
		handle_closed(conn);
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		handle_destroyed(conn);
		return 0;
	default:
		return 0;
	}
}
