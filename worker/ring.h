/*
 * ring.h - a user's most recent events in memory, so that catching up rarely reads the store.
 *
 * Holds a run of consecutive sequence numbers; the oldest leave when the bytes exceed the bound. Owner: the user. Bodies are
 * shared with what waits to be published. Thread: the loop's.
 */
#ifndef PINION_WORKER_RING_H
#define PINION_WORKER_RING_H

#include "common/bytes.h"
#include "common/ids.h"
#include "proto/messages.h"

struct logged {
	uint64_t seq;
	struct bytes *body;
	struct id closes, voids; /* as struct event has them; zeroed: none */
	struct id thread;
};

struct ring {
	struct logged *items; /* circular */
	size_t cap, first, n;
	size_t bytes, max_bytes;
};

void ring_init(struct ring *ring, size_t max_bytes);
void ring_finish(struct ring *ring);
/* Takes a reference of its own to the body. A number that is not the next one empties the ring first. */
void ring_push(struct ring *ring, const struct logged *event);
const struct logged *ring_at(const struct ring *ring, uint64_t seq); /* NULL: not held */
/* The events of a deleted thread are replaced by their `deleted` form, but for the one with number `keep`. */
void ring_delete_thread(struct ring *ring, const struct id *thread, uint64_t keep);

/* Views of the event, valid while its body is. */
struct event logged_event(const struct logged *logged);

#endif
