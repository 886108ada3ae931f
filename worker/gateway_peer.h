/*
 * gateway_peer.h - one gateway incarnation as the worker sees it: who is attached, what is published, what it may still take.
 *
 * Items are queued during a loop turn and leave in batches when it ends. Where there are many, text that goes on where the last
 * one ended is joined to it: a run that says a byte at a time costs the gateway no more than another. Batches are numbered 1, 2, 3, … for the incarnation;
 * every 250 ms a beat without items repeats the last number, so that a lost tail shows. Credit: while 2,048 batches or 32 MiB are
 * unacknowledged, items are left out; each user concerned is remembered and gets an ITEM_HEAD once credit has returned, from
 * which the gateway repairs itself by REPLAY. A gateway that has left 30 s of batches unacknowledged and said nothing is taken for
 * dead: its users are detached and its socket closed, but its number is kept, so that on its return it sees a gap.
 * Owner: the core. Thread: the loop's.
 */
#ifndef PINION_WORKER_GATEWAY_PEER_H
#define PINION_WORKER_GATEWAY_PEER_H

#include "common/ids.h"
#include "worker/core_private.h"
#include "worker/ring.h"

enum {
	PEER_BATCHES_MAX = 2048,   /* unacknowledged */
	PEER_BYTES_MAX = 32 << 20, /* unacknowledged or queued */
	PEER_BEAT_MS = 250,
	PEER_SILENT_MS = 3000, /* without credit and silent for this long: runs no longer wait for it */
	PEER_DEAD_MS = 30000,
	PEER_FORGET_MS = 3600000, /* a dead one's number is forgotten */
	PEER_REPLIES_MAX = 1024,
	PEER_REPLIES_MS = 60000,
};

/* One user's events go to one gateway. */
struct attachment {
	struct gateway_peer *peer;
	struct user *user;
	uint64_t number; /* of the request that attached: an older DETACH doesn't count */
	bool dirty;      /* items were left out */
	struct attachment *peer_prev, *peer_next;
	struct attachment *user_prev, *user_next;
	struct attachment *dirty_prev, *dirty_next;
};

struct outgoing {
	struct user_id user;
	uint64_t epoch;
	enum item_kind kind;
	uint64_t seq; /* event, head: its number; delta: after_seq */
	uint64_t offset;
	struct bytes *bytes;     /* body or text */
	struct buf joined;       /* where it has a size: the text, instead of bytes */
	struct id first, second; /* event: closes, voids; delta: run, message */
};

struct answered {
	UT_hash_handle hh;
	uint64_t number;
	struct call *call;   /* under way */
	struct bytes *reply; /* NULL: under way, or not kept (a read: may be executed again) */
	uint64_t at_ms;
	struct answered *prev, *next;
};

struct gateway_peer {
	UT_hash_handle hh;
	struct core *core;
	char *gateway_id, *incarnation, *events_url;
	struct gateway_pub *pub; /* NULL: dead */
	uint64_t number;         /* of the last batch */
	uint64_t acked;
	uint32_t sizes[PEER_BATCHES_MAX * 2]; /* bytes of batch n at n modulo the length */
	uint64_t unacked_bytes;
	uint64_t heard_ms; /* any request, or when it first had something to acknowledge */
	uint64_t dead_ms;
	struct attachment *attachments, *dirty;
	size_t n_attachments;
	struct outgoing *queue;
	size_t n_queue, cap_queue, queue_bytes;
	struct answered *by_number, *oldest;
	size_t n_answered;
	uint64_t stalls;
};

/* The peer with exactly this incarnation that said hello, or NULL. */
struct gateway_peer *peer_find(struct core *core, struct str gateway_id, struct str incarnation);
/* Takes up a gateway, or a new incarnation of it (the old one's attachments go). Errors: of the transport's pub_open. */
MUST_CHECK enum err peer_hello(struct core *core, struct str gateway_id, struct str incarnation, struct str events_url,
                               struct err_info *info);
void peer_credit(struct gateway_peer *peer, uint64_t received);
void peer_destroy(struct gateway_peer *peer);

/* Attaches, or marks again by a later request. */
void peer_attach(struct gateway_peer *peer, struct user *user, uint64_t number);
void peer_detach(struct attachment *attachment);
struct attachment *peer_attachment(const struct gateway_peer *peer, const struct user *user);

/* To every gateway that has the user attached. */
void publish_event(struct user *user, const struct logged *event);
void publish_delta(struct user *user, const struct id *run, const struct id *message, uint64_t after_seq, uint64_t offset,
                   struct str text);
void publish_lost(struct user *user);

/* Whether a gateway that still speaks has had items of this user left out. */
bool peer_user_is_stalled(const struct user *user);

void peer_flush_all(struct core *core); /* at the end of a turn */
void peer_beat_all(struct core *core);  /* every PEER_BEAT_MS */

/* Answers already given: a call is remembered by its number until they are many or old. */
struct answered *peer_answered(struct gateway_peer *peer, uint64_t number);
void peer_remember_call(struct gateway_peer *peer, struct call *call);
void peer_remember_reply(struct gateway_peer *peer, struct call *call, struct str reply, bool keep);

#endif
