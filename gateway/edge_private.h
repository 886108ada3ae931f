/* edge_private.h - what ws_edge.c, http_edge.c and edge.c share: the edge and its connections. Nobody else includes it. */
#ifndef PINION_GATEWAY_EDGE_PRIVATE_H
#define PINION_GATEWAY_EDGE_PRIVATE_H

#include <libwebsockets.h>
#include <netinet/in.h>
#include "common/bytes.h"
#include "common/metrics.h"
#include "common/token_bucket.h"
#include "gateway/address_rate.h"
#include "gateway/edge.h"
#include "common/listener.h"
#include "gateway/session.h"

/*
 *   OPENING ──upgraded──> OPEN ──ops->close──> CLOSING ──flushed──> CLOSE_SENT ──> (gone)
 *      │                    └──peer's close, peer gone─────────────────────────────^
 *      └──refused, answered, too slow─────────────────────────────────────────────^
 *
 * A connection belongs to lws: it is freed in LWS_CALLBACK_WSI_DESTROY and nowhere else. Its session is told that it is closed
 * exactly once, when it leaves OPEN, CLOSING or CLOSE_SENT for good.
 */
enum conn_state { CONN_OPENING, CONN_OPEN, CONN_CLOSING, CONN_CLOSE_SENT, CONN_GONE };

/* What the upgrade request said; kept from the decision until the session is opened. */
struct upgrade {
	bool has_identity;
	struct identity identity;
	bool has_last_seq;
	uint64_t last_seq;
};

struct conn {
	struct edge *edge;
	struct lws *wsi;
	struct session *session; /* OPEN and later */
	enum conn_state state;
	struct conn *older, *newer; /* in edge->opening */
	struct upgrade *upgrade;
	enum err refusal; /* decided at accept: answered when the request is there */
	unsigned retry_after_s;
	struct timer timer; /* OPENING: its deadline; OPEN: the heartbeat; after: the deadline for closing */
	uint64_t since_ms;  /* accepted */
	uint64_t alive_ms;  /* the last sign of life */
	bool ping_due, reading, violated;
	struct buf message; /* fragments so far */
	uint32_t pieces;    /* callbacks for this message */
	size_t unsent;      /* of the session's bytes, with lws but not all with the kernel */
	enum close_code code;
	char *reason;
	char peer[INET6_ADDRSTRLEN];
};

struct edge {
	struct loop_uv *loop;
	struct edge_config config;
	struct core *core;
	struct auth *auth;
	struct listener *listener;
	struct lws_context *context;
	struct lws_vhost *vhost;
	struct lws_token_limits token_limits;
	struct address_rate *rate;      /* NULL: no limit */
	struct token_bucket log_budget; /* refusals logged; a flood of them must not become a flood of log */
	struct conn *oldest, *newest;   /* OPENING */
	size_t n_opening, n_conns;
	uint16_t port;
	bool wsi_created; /* set by lws while it adopts */
	struct buf out;   /* scratch for one write: LWS_PRE bytes, then frames or a response */
};

#define OPENING_MAX 4096 /* connections that have not said what they want */
#define OPENING_MS 10000 /* how long they may take */
#define CLOSING_MS 5000  /* how long a close may take */
#define HARD_EXTRA 256   /* connections beyond max_connections that still get a 503 */

/* http_edge.c: called with the request's headers at hand. */
bool http_edge_upgrade(struct conn *conn); /* false: refused, and the answer is written */
void http_edge_respond(struct conn *conn); /* any other request: writes a whole response; the connection closes after it */
void http_edge_init(struct edge *edge);    /* metrics */

/* edge.c */
void edge_adopt(void *ctx, int fd, const struct sockaddr_storage *peer); /* a listener_fn */
void conn_leave_opening(struct conn *conn);
void conn_destroy(struct conn *conn); /* its wsi is gone */

/* ws_edge.c */
int ws_edge_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);
void conn_kill(struct conn *conn); /* cuts the socket; lws notices and tears down */
void conn_on_timer(struct timer *timer);

#endif
