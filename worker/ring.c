#include "worker/ring.h"

#include <stdlib.h>
#include "worker/event.h"

enum { LOGGED_OVERHEAD = sizeof(struct logged) + sizeof(struct bytes) };

void ring_init(struct ring *ring, size_t max_bytes)
{
	*ring = (struct ring){.max_bytes = max_bytes};
}

static void drop_oldest(struct ring *ring)
{
	struct logged *oldest = &ring->items[ring->first];
	ring->bytes -= oldest->body->n + LOGGED_OVERHEAD;
	bytes_unref(oldest->body);
	ring->first = (ring->first + 1) % ring->cap;
	ring->n--;
}

void ring_finish(struct ring *ring)
{
	while (ring->n > 0)
		drop_oldest(ring);
	free(ring->items);
	*ring = (struct ring){.max_bytes = ring->max_bytes};
}

static struct logged *slot_at(const struct ring *ring, size_t i)
{
	return &ring->items[(ring->first + i) % ring->cap];
}

static void grow(struct ring *ring)
{
	size_t cap = ring->cap ? ring->cap * 2 : 8;
	struct logged *items = calloc(cap, sizeof(*items));
	if (!items)
		abort();
	for (size_t i = 0; i < ring->n; i++)
		items[i] = *slot_at(ring, i);
	free(ring->items);
	ring->items = items;
	ring->cap = cap;
	ring->first = 0;
}

void ring_push(struct ring *ring, const struct logged *event)
{
	if (ring->n > 0 && slot_at(ring, ring->n - 1)->seq + 1 != event->seq)
		while (ring->n > 0)
			drop_oldest(ring);
	if (ring->n == ring->cap)
		grow(ring);
	struct logged *slot = slot_at(ring, ring->n);
	*slot = *event;
	bytes_ref(slot->body);
	ring->n++;
	ring->bytes += slot->body->n + LOGGED_OVERHEAD;
	while (ring->n > 0 && ring->bytes > ring->max_bytes)
		drop_oldest(ring);
}

const struct logged *ring_at(const struct ring *ring, uint64_t seq)
{
	if (ring->n == 0 || seq < ring->items[ring->first].seq)
		return NULL;
	uint64_t i = seq - ring->items[ring->first].seq;
	return i < ring->n ? slot_at(ring, (size_t)i) : NULL;
}

void ring_delete_thread(struct ring *ring, const struct id *thread, uint64_t keep)
{
	for (size_t i = 0; i < ring->n; i++) {
		struct logged *logged = slot_at(ring, i);
		if (logged->seq == keep || !id_eq(&logged->thread, thread))
			continue;
		ring->bytes -= logged->body->n;
		bytes_unref(logged->body);
		*logged = (struct logged){.seq = logged->seq, .body = event_render_deleted(logged->seq)};
		ring->bytes += logged->body->n;
	}
}

struct event logged_event(const struct logged *logged)
{
	return (struct event){
		.seq = logged->seq,
		.body = bytes_str(logged->body),
		.closes_message_id = id_str(&logged->closes),
		.voids_run_id = id_str(&logged->voids),
	};
}
