/*
 * outbox.h - the frames that wait for one connection's socket, in order. Holds a reference of each; the memory is small
 * while it is empty. The cap is the session's to keep: an outbox takes what it is given. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_OUTBOX_H
#define PINION_GATEWAY_OUTBOX_H

#include "common/bytes.h"

struct outbox {
	struct bytes **ring;
	uint32_t head, count, size; /* size: a power of two, or 0 */
	size_t bytes;               /* of all frames */
};

/* A zeroed outbox is a valid empty one. Both take a reference of their own. */
void outbox_push(struct outbox *outbox, struct bytes *frame);
void outbox_push_front(struct outbox *outbox, struct bytes *frame);

/* Appends whole frames to out: about max bytes at the most, but one frame where there is any. */
void outbox_take(struct outbox *outbox, struct buf *out, size_t max);

/* Whether n more bytes fit below the cap. A frame larger than the cap fits an empty outbox. */
static inline bool outbox_has_room(const struct outbox *outbox, size_t n, size_t cap)
{
	return outbox->bytes == 0 || outbox->bytes + n <= cap;
}

void outbox_clear(struct outbox *outbox); /* drops what waits and frees the memory */

#endif
