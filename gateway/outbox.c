#include "gateway/outbox.h"

#include <stdlib.h>

enum { OUTBOX_LEAST = 8 };

static void outbox_grow(struct outbox *outbox)
{
	uint32_t size = outbox->size ? outbox->size * 2 : OUTBOX_LEAST;
	struct bytes **ring = malloc(size * sizeof(*ring));

	if (!ring)
		abort();
	for (uint32_t i = 0; i < outbox->count; i++)
		ring[i] = outbox->ring[(outbox->head + i) & (outbox->size - 1)];
	free(outbox->ring);
	outbox->ring = ring;
	outbox->size = size;
	outbox->head = 0;
}

static void outbox_count_in(struct outbox *outbox, struct bytes *frame)
{
	outbox->count++;
	outbox->bytes += bytes_ref(frame)->n;
}

void outbox_push(struct outbox *outbox, struct bytes *frame)
{
	if (outbox->count == outbox->size)
		outbox_grow(outbox);
	outbox->ring[(outbox->head + outbox->count) & (outbox->size - 1)] = frame;
	outbox_count_in(outbox, frame);
}

void outbox_push_front(struct outbox *outbox, struct bytes *frame)
{
	if (outbox->count == outbox->size)
		outbox_grow(outbox);
	outbox->head = (outbox->head - 1) & (outbox->size - 1);
	outbox->ring[outbox->head] = frame;
	outbox_count_in(outbox, frame);
}

void outbox_take(struct outbox *outbox, struct buf *out, size_t max)
{
	size_t taken = 0;

	while (outbox->count) {
		struct bytes *frame = outbox->ring[outbox->head];
		if (taken && taken + frame->n > max)
			return;
		buf_append(out, frame->p, frame->n);
		taken += frame->n;
		outbox->bytes -= frame->n;
		outbox->head = (outbox->head + 1) & (outbox->size - 1);
		outbox->count--;
		bytes_unref(frame);
	}
	outbox_clear(outbox);
}

void outbox_clear(struct outbox *outbox)
{
	for (uint32_t i = 0; i < outbox->count; i++)
		bytes_unref(outbox->ring[(outbox->head + i) & (outbox->size - 1)]);
	free(outbox->ring);
	*outbox = (struct outbox){0};
}
