/* channel.c - see channel.h. */
#include "worker/host/agent/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>
#include "proto/codec.h"

#define GATHER_BYTES (16 << 10)
#define READ_BYTES (16 << 10)
#define BROKEN_EXIT 124

void channel_init(struct channel *channel, int fd)
{
	*channel = (struct channel){.fd = fd};
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
}

uint64_t channel_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* False: nothing there now. */
static bool read_some(struct channel *channel)
{
	ssize_t n = read(channel->fd, buf_reserve(&channel->in, READ_BYTES), READ_BYTES);

	if (n > 0) {
		channel->in.n += (size_t)n;
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	_exit(0); /* the worker is gone */
}

static bool is_cancel(struct str frame)
{
	struct arena arena = {0};
	struct run_down down;
	bool cancel = run_down_decode(&arena, &down, frame, NULL) == ERR_OK && down.kind == RUN_CANCEL;

	arena_finish(&arena);
	return cancel;
}

/* A cancel may stand behind messages that nobody waits for yet. Those are few: the worker sends one at a time. */
static void obey_cancel(const struct channel *channel)
{
	struct str rest = buf_str(&channel->in), frame;
	size_t used;

	for (; frame_next(rest, RUN_MESSAGE_MAX, &frame, &used) == ERR_OK; rest = str_of(rest.p + used, rest.n - used))
		if (is_cancel(frame))
			_exit(0);
}

void channel_look(struct channel *channel)
{
	if (read_some(channel))
		obey_cancel(channel);
}

/* Waits for room to write (`writing`) or for a moment, and reads meanwhile. */
static void wait_for(struct channel *channel, bool writing, const struct timespec *patience)
{
	struct pollfd ready = {.fd = channel->fd, .events = (short)(POLLIN | (writing ? POLLOUT : 0))};

	if (ppoll(&ready, 1, patience, NULL) > 0 && (ready.revents & ~POLLOUT))
		channel_look(channel);
}

void channel_flush(struct channel *channel)
{
	size_t sent = 0;

	while (sent < channel->out.n) {
		ssize_t n = write(channel->fd, channel->out.p + sent, channel->out.n - sent);

		if (n > 0)
			sent += (size_t)n;
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			_exit(0); /* the worker is gone */
		else
			wait_for(channel, true, NULL);
	}
	buf_clear(&channel->out);
}

enum err channel_send(struct channel *channel, const struct run_up *up)
{
	size_t begin = frame_begin(&channel->out);
	enum err err = run_up_encode(up, &channel->out);

	if (err != ERR_OK) {
		channel->out.n = begin;
		return err;
	}
	frame_end(&channel->out, begin);
	if (channel->out.n >= GATHER_BYTES)
		channel_flush(channel);
	return ERR_OK;
}

void channel_receive(struct channel *channel, struct arena *arena, struct run_down *out)
{
	struct str frame;
	size_t used;
	enum err err;

	channel_flush(channel);
	while ((err = frame_next(buf_str(&channel->in), RUN_MESSAGE_MAX, &frame, &used)) == ERR_AGAIN)
		wait_for(channel, false, NULL);
	if (err != ERR_OK || run_down_decode(arena, out, frame, NULL) != ERR_OK)
		_exit(BROKEN_EXIT);
	buf_consume(&channel->in, used);
	if (out->kind == RUN_CANCEL)
		_exit(0);
}

void channel_wait_until(struct channel *channel, uint64_t due_ns)
{
	uint64_t now;

	channel_flush(channel);
	while ((now = channel_now_ns()) < due_ns) {
		struct timespec left = {(time_t)((due_ns - now) / 1000000000u), (long)((due_ns - now) % 1000000000u)};

		wait_for(channel, false, &left);
	}
}
