/*
 * worker_peer.h - the gateway's end of its link with one worker: greeting, requests and their replies, numbered batches,
 * beats, credit.
 *
 *            up                  hello answered            no beat for 1.5 s
 *     DOWN ───────► GREETING ──────────────────────► READY ─────────────────► SILENT
 *      ▲             │  ▲  ▲                         │   ▲                    │ │
 *      └─────────────┘  │  └─────────────────────────┘   └──── a batch ───────┘ │
 *           down        └── disconnected, or a new incarnation ─────────────────┘
 *
 *     Any state goes to DOWN by `down` and to CLOSED (unlisted and unused, or the core ends).
 *
 * Only a READY peer takes feeds. When it leaves READY, its feeds are told and unbind at once. A call in flight is owned by
 * the peer until the transport completes it; whoever made it holds a pointer to abandon it by, and loses that pointer when
 * the call is done. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_WORKER_PEER_H
#define PINION_GATEWAY_WORKER_PEER_H

#include "gateway/core_private.h"

enum peer_state { PEER_DOWN, PEER_GREETING, PEER_READY, PEER_SILENT, PEER_CLOSED, PEER_STATES };

/* err ERR_OK: the worker answered, with reply->code. Else reply is NULL and the outcome is unknown: ERR_TIMEOUT,
 * ERR_DISCONNECTED, ERR_CANCELLED, or ERR_PROTOCOL where the answer can't be understood. */
typedef void call_fn(void *owner, enum err err, const struct reply *reply);

struct call {
	uint64_t number;
	enum request_kind kind;
	struct worker_peer *peer;
	call_fn *done; /* NULL: abandoned */
	void *owner;
	UT_hash_handle hh;
};

/* A bounded number of requests of a kind in flight; the others wait in line. */
struct lane {
	struct lane_ticket *waiting;
	unsigned in_use, most;
	bool open;
};

struct lane_ticket {
	void (*grant)(struct lane_ticket *ticket);
	struct lane *lane; /* NULL: in none */
	bool granted;
	struct lane_ticket *prev, *next;
};

void lane_enter(struct lane *lane, struct lane_ticket *ticket); /* grants at once where there is a place */
void lane_leave(struct lane_ticket *ticket);                    /* idempotent */

struct worker_peer {
	struct core *core; /* NULL: the core is gone, the last completion frees the peer */
	char *url;
	uint32_t serial; /* names the peer where a pointer could outlive it */
	struct worker_link *link;
	enum peer_state state;
	bool listed;
	bool draining;
	struct bytes *worker_id; /* NULL until the first hello was answered */
	uint64_t incarnation;

	uint64_t received; /* the highest batch number seen of this incarnation */
	uint64_t credited; /* the highest one that the worker knows we have */
	uint64_t credit_sent;
	uint64_t heard_ms;
	uint64_t gaps, repairs;

	struct timer hello_timer, silence_timer, credit_timer;
	struct call *hello, *credit;
	struct call *calls; /* in flight, by number */
	struct lane attaches, replays;
	struct feed *feeds; /* bound to this peer */
	size_t n_feeds;

	UT_hash_handle by_url, by_id;
	struct worker_peer *next; /* among the dead */
};

void peer_create(struct core *core, const char *url);
void peer_list(struct worker_peer *peer, bool listed); /* unlisted: closed once no feed is bound to it */
void peer_close(struct worker_peer *peer);             /* no feed is bound to it; swept once nothing is in flight */
void peer_sweep(struct core *core);                    /* frees the dead that nothing is in flight of */
void peer_orphan(struct core *core);                   /* the core goes: the dead free themselves by their last completion */

static inline bool peer_is_routable(const struct worker_peer *peer)
{
	return peer->state == PEER_READY && peer->listed && !peer->draining;
}

static inline struct str peer_id(const struct worker_peer *peer)
{
	return bytes_str(peer->worker_id);
}

const char *peer_state_name(enum peer_state state);

/*
 * Sends a request; its ids and number are filled in. number 0: a fresh one; else that of an earlier request that is sent
 * again, so that the worker can tell the duplicate. NULL where the request breaks a bound of the codec: nothing is sent.
 */
struct call *peer_call(struct worker_peer *peer, struct request *request, uint64_t number, uint32_t timeout_ms, call_fn *done,
                       void *owner);
void call_abandon(struct call **call); /* NULL inside is fine; sets it to NULL */

void peer_on_batch(struct worker_peer *peer, const struct batch *batch);

void peer_bind(struct worker_peer *peer, struct feed *feed);
void peer_unbind(struct feed *feed);

#endif
