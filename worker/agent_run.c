/* agent_run.c - see agent_run.h. */
#include "worker/agent_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/bytes.h"
#include "proto/codec.h"

#define READ_BYTES (64 << 10)         /* at most so much of one run in a turn of the loop */
#define RUN_SOCKET_BYTES (128 << 10)  /* what a run can write ahead of us: then it blocks */
#define OUT_MAX (2 * RUN_MESSAGE_MAX) /* what may wait for a run that does not read */

enum process_state { PROCESS_ASKED, PROCESS_ALIVE, PROCESS_GONE };
enum socket_state { SOCKET_OPEN, SOCKET_DRAINED };

/* What the run's messages are worth to its owner. */
enum attention {
	ATTENTION_FULL,
	ATTENTION_BROKEN,    /* it broke the protocol: the rest is thrown away, `ended` still comes */
	ATTENTION_FORGOTTEN, /* no callbacks any more */
	ATTENTION_ENDED,     /* `ended` was called */
};

struct agent_run {
	struct agent_run_owner *owner;
	struct agent_run_events events;
	void *ctx;
	uint64_t slot;
	enum process_state process;
	enum socket_state socket;
	enum attention attention;
	bool paused;
	int fd; /* -1: never had one */
	uv_poll_t poll;
	struct task work; /* for what must not happen inside a call of the owner's */
	struct buf in, out;
	struct run_exit exit;
};

/* A paused run keeps its messages; one whose messages nobody wants is read on, to find its end. */
static bool is_held(const struct agent_run *run)
{
	return run->paused && run->attention == ATTENTION_FULL;
}

/* ---- the end ---- */

static void on_closed(uv_handle_t *handle)
{
	struct agent_run *run = handle->data;

	close(run->fd);
	free(run);
}

void agent_run_destroy(struct agent_run *run)
{
	task_cancel(&run->owner->loop->loop, &run->work);
	buf_finish(&run->in);
	buf_finish(&run->out);
	run->owner->gone(run->owner, run);
	if (run->fd >= 0) {
		(void)uv_poll_stop(&run->poll);
		uv_close((uv_handle_t *)&run->poll, on_closed);
	} else {
		free(run);
	}
}

static bool is_over(const struct agent_run *run)
{
	return run->process == PROCESS_GONE && run->socket == SOCKET_DRAINED;
}

static void break_off(struct agent_run *run, const char *why)
{
	run->attention = ATTENTION_BROKEN;
	run->exit.protocol_error = true;
	snprintf(run->exit.why, sizeof(run->exit.why), "%.*s", (int)sizeof(run->exit.why) - 1, why);
	buf_clear(&run->in);
	run->owner->kill(run->owner, run->slot);
}

/* ---- in ---- */

static void deliver_one(struct agent_run *run, struct str frame)
{
	struct err_info info = {0};
	struct run_up up;

	arena_reset(run->owner->arena);
	if (run_up_decode(run->owner->arena, &up, frame, &info) == ERR_OK)
		run->events.message(run->ctx, &up);
	else
		break_off(run, info.text);
}

/* A callback may pause, kill or forget the run. */
static void deliver(struct agent_run *run)
{
	struct str rest = buf_str(&run->in), frame;
	size_t used;
	enum err err;

	while (run->attention == ATTENTION_FULL && !run->paused) {
		err = frame_next(rest, RUN_MESSAGE_MAX, &frame, &used);
		if (err == ERR_AGAIN)
			break;
		if (err != ERR_OK) {
			break_off(run, "a message's length is out of bounds");
			return;
		}
		rest = str_of(rest.p + used, rest.n - used);
		deliver_one(run, frame);
	}
	if (rest.n < run->in.n) /* else nothing was taken, or it broke off and nothing is left */
		buf_consume(&run->in, run->in.n - rest.n);
}

static void read_some(struct agent_run *run)
{
	ssize_t n = recv(run->fd, buf_reserve(&run->in, READ_BYTES), READ_BYTES, MSG_DONTWAIT);

	if (n > 0)
		run->exit.spawned = true; /* who writes, runs, also where the host died before it said so */
	if (n > 0 && run->attention == ATTENTION_FULL)
		run->in.n += (size_t)n;
	else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		run->socket = SOCKET_DRAINED; /* ECONNRESET: it left bytes of ours unread; its own were read before */
}

/* ---- out ---- */

static void flush(struct agent_run *run)
{
	size_t sent = 0;

	while (run->socket == SOCKET_OPEN && sent < run->out.n) {
		ssize_t n = send(run->fd, run->out.p + sent, run->out.n - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0) { /* nobody reads it any more; the end of file is found by reading */
			sent = run->out.n;
			break;
		}
		sent += (size_t)n;
	}
	buf_consume(&run->out, sent);
}

/* ---- the loop ---- */

static void advance(struct agent_run *run);

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct agent_run *run = poll->data;

	/* libuv's word for a hang-up with an error: nobody will read what is still to be sent. */
	if (status < 0)
		buf_clear(&run->out);
	else if (events & UV_WRITABLE)
		flush(run);
	advance(run);
}

static void watch(struct agent_run *run)
{
	int events = 0;

	if (run->socket == SOCKET_OPEN)
		events = (is_held(run) ? 0 : UV_READABLE) | (run->out.n > 0 ? UV_WRITABLE : 0);
	if (events)
		(void)uv_poll_start(&run->poll, events, on_poll);
	else if (run->fd >= 0)
		(void)uv_poll_stop(&run->poll);
}

static void advance(struct agent_run *run)
{
	deliver(run);
	if (run->socket == SOCKET_OPEN && !is_held(run)) {
		read_some(run);
		deliver(run);
	}
	if (run->attention == ATTENTION_FORGOTTEN) {
		agent_run_destroy(run);
	} else if (is_over(run)) {
		run->attention = ATTENTION_ENDED;
		run->events.ended(run->ctx, &run->exit);
		agent_run_destroy(run);
	} else {
		watch(run);
	}
}

static void on_work(struct task *task)
{
	advance((struct agent_run *)((char *)task - offsetof(struct agent_run, work)));
}

static void schedule(struct agent_run *run)
{
	task_defer(&run->owner->loop->loop, &run->work);
}

/* ---- calls ---- */

static struct agent_run *make(struct agent_run_owner *owner, uint64_t slot, const struct agent_run_events *events, void *ctx)
{
	struct agent_run *run = calloc(1, sizeof(*run));

	if (!run)
		abort();
	*run = (struct agent_run){.owner = owner, .slot = slot, .events = *events, .ctx = ctx, .fd = -1, .work = {.fn = on_work}};
	return run;
}

static enum err open_socket(int pair[2], struct err_info *info)
{
	int bytes = RUN_SOCKET_BYTES;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(info, ERR_IO, errno, "the run's socket");
	(void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return ERR_OK;
}

enum err agent_run_create(struct agent_run_owner *owner, uint64_t slot, const struct agent_run_events *events, void *ctx,
                          struct agent_run **out, int *run_end, struct err_info *info)
{
	struct agent_run *run;
	int pair[2];
	enum err err = open_socket(pair, info);

	if (err != ERR_OK)
		return err;
	run = make(owner, slot, events, ctx);
	run->fd = pair[0];
	if (uv_poll_init(owner->loop->uv, &run->poll, run->fd) != 0) /* makes it non-blocking */
		abort();
	run->poll.data = run;
	watch(run);
	*run_end = pair[1];
	*out = run;
	return ERR_OK;
}

struct agent_run *agent_run_create_failed(struct agent_run_owner *owner, uint64_t slot, const struct agent_run_events *events,
                                          void *ctx, const char *why)
{
	struct agent_run *run = make(owner, slot, events, ctx);

	run->process = PROCESS_GONE;
	run->socket = SOCKET_DRAINED;
	snprintf(run->exit.why, sizeof(run->exit.why), "%.*s", (int)sizeof(run->exit.why) - 1, why);
	schedule(run);
	return run;
}

uint64_t agent_run_slot(const struct agent_run *run)
{
	return run->slot;
}

void agent_run_spawned(struct agent_run *run)
{
	if (run->process == PROCESS_ASKED)
		run->process = PROCESS_ALIVE;
}

void agent_run_exited(struct agent_run *run, const struct host_report *report)
{
	if (run->process == PROCESS_GONE)
		return;
	if (run->process == PROCESS_ALIVE)
		run->exit.spawned = true;
	run->process = PROCESS_GONE;
	run->exit.exit_status = (int)report->exit_status;
	run->exit.signal = (int)report->signal;
	run->exit.cpu_ms = report->cpu_ms;
	run->exit.peak_rss_bytes = report->peak_rss_bytes;
	if (!run->exit.protocol_error)
		snprintf(run->exit.why, sizeof(run->exit.why), STR_FMT, STR_ARG(report->why));
	schedule(run);
}

enum err agent_run_send(struct agent_run *run, const struct run_down *down)
{
	size_t begin;
	enum err err;

	if (run->socket == SOCKET_DRAINED || run->attention != ATTENTION_FULL)
		return ERR_OK; /* nobody is there to read it; `ended` says so */
	if (run->out.n > OUT_MAX)
		return ERR_CAPACITY;
	begin = frame_begin(&run->out);
	err = run_down_encode(down, &run->out);
	if (err != ERR_OK) {
		run->out.n = begin;
		return err;
	}
	frame_end(&run->out, begin);
	flush(run);
	watch(run);
	return ERR_OK;
}

void agent_run_pause(struct agent_run *run, bool paused)
{
	if (run->paused == paused)
		return;
	run->paused = paused;
	if (!paused)
		schedule(run);
	else if (run->attention == ATTENTION_FULL)
		watch(run);
}

void agent_run_kill(struct agent_run *run)
{
	if (run->process != PROCESS_GONE)
		run->owner->kill(run->owner, run->slot);
}

void agent_run_forget(struct agent_run *run)
{
	if (run->attention == ATTENTION_ENDED || run->attention == ATTENTION_FORGOTTEN)
		return;
	run->attention = ATTENTION_FORGOTTEN;
	agent_run_kill(run);
	schedule(run);
}
