/*
 * core_private.h - what the parts of the gateway's core share: its tables, its scratch memory, its metrics.
 *
 * Owners: the core owns peers (one per worker URL), feeds (one per user with connections here) and sessions. Nothing is
 * freed while callbacks run: the dead go to the graves and are swept at the turn's end.
 */
#ifndef PINION_GATEWAY_CORE_PRIVATE_H
#define PINION_GATEWAY_CORE_PRIVATE_H

#include <stddef.h>
#include <uthash.h>
#include "common/arena.h"
#include "common/bytes.h"
#include "common/ids.h"
#include "common/list.h"
#include "common/metrics.h"
#include "gateway/core.h"
#include "gateway/session_private.h"
#include "proto/messages.h"

#define CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

struct feed;
struct worker_peer;

#define ADDRESS_MAX 64

/* How many connections of an address have not authenticated yet. */
struct address {
	char text[ADDRESS_MAX]; /* zero-filled: the key */
	unsigned unauthenticated;
	UT_hash_handle hh;
};

struct core {
	struct loop *loop;
	const struct core_config *config;
	struct worker_transport *transport;
	struct verifier verifier;
	struct id incarnation;
	uint64_t last_number; /* of requests */

	struct arena arena; /* what is being decoded */
	struct buf encoded; /* what is being sent */
	struct buf text;    /* what is being printed */

	struct worker_peer *peers;       /* by URL */
	struct worker_peer *peers_by_id; /* by worker id, those that have said it */
	uint32_t last_peer_serial;
	struct feed *feeds;   /* by user */
	struct feed *seekers; /* feeds that wait before they try to attach again */

	struct session *sessions[SESSION_STATES]; /* by state */
	size_t n_sessions[SESSION_STATES];
	struct address *addresses;

	struct feed *dead_feeds;
	struct worker_peer *dead_peers;
	struct task sweep;

	bool draining;
	uint64_t drain_end_ms;
	struct timer drain_timer;
	void (*drained)(void *ctx);
	void *drained_ctx;
};

struct core_metrics {
	struct metric sessions, feeds, events, deltas, repairs, lagging, gaps, attaches, reattaches, commands, bad_messages,
		latency;
};
extern struct core_metrics metrics;

void core_metrics_register(void);
void metrics_count_refusal(enum err code);

/* The scratch buffer, emptied; good until the next call. */
static inline struct buf *core_text(struct core *core)
{
	buf_clear(&core->text);
	return &core->text;
}

#endif
