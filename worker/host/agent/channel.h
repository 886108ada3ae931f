/*
 * channel.h - a run's end of its socket: frames in, frames out, and waiting that notices a cancel.
 *
 * Writing gathers small messages and blocks while the worker does not read: that is the backpressure. Whatever is waited
 * for, the socket is read too, so that RUN_CANCEL, or the worker's death, ends the process at once: quietly, with status 0,
 * with nothing more sent. So none of these functions reports it.
 */
#ifndef PINION_HOST_CHANNEL_H
#define PINION_HOST_CHANNEL_H

#include "common/arena.h"
#include "common/bytes.h"
#include "proto/messages.h"

struct channel {
	int fd;
	struct buf in, out;
};

void channel_init(struct channel *channel, int fd);

/* The next message that is no cancel; blocks. It views `arena`. Flushes first. A broken message ends the process. */
void channel_receive(struct channel *channel, struct arena *arena, struct run_down *out);

/* Appends to what goes out; flushes when enough has gathered. ERR_TOO_LARGE: nothing was sent. */
MUST_CHECK enum err channel_send(struct channel *channel, const struct run_up *up);
void channel_flush(struct channel *channel);

/* Takes what has come, without waiting; only to notice a cancel. */
void channel_look(struct channel *channel);

/* Flushes, then waits until CLOCK_MONOTONIC has reached due_ns. */
void channel_wait_until(struct channel *channel, uint64_t due_ns);
uint64_t channel_now_ns(void);

#endif
