/*
 * loop_uv.c - struct loop on libuv.
 *
 * A turn is: timers, poll with its callbacks, then our check callback, which runs the deferred tasks. Work that is deferred
 * outside of poll (by a timer, by a close callback) is served in the same or the next turn; the idle handle, active while
 * tasks are queued, keeps the poll between from blocking. Source: libuv's design overview, "The I/O loop".
 */
#include "common/loop_uv.h"

#include <assert.h>
#include <time.h>

/* Of one mailbox in a turn of the loop; beyond either, everybody else who waits for the loop comes first. */
#define LETTERS_PER_WAKE 1024
#define WAKE_NS 5000000ull

static struct loop_uv *of(struct loop *loop)
{
	return (struct loop_uv *)loop; /* its first member */
}

/* Not uv_now: that one stands still during a turn, and a process that was stopped must see at once that time went by. */
static uint64_t now_ms(struct loop *loop)
{
	return uv_hrtime() / 1000000;
}

static uint64_t wall_ms(struct loop *loop)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void on_timer(uv_timer_t *handle)
{
	struct loop_uv *loop = handle->data;

	loop_run_timers(&loop->loop);
}

static void arm(struct loop *base, uint64_t due_ms)
{
	struct loop_uv *loop = of(base);
	uint64_t now = uv_now(loop->uv);

	if (uv_is_closing((uv_handle_t *)&loop->timer))
		return;
	if (due_ms == UINT64_MAX)
		uv_timer_stop(&loop->timer);
	else
		uv_timer_start(&loop->timer, on_timer, due_ms > now ? due_ms - now : 0, 0);
}

static void on_idle(uv_idle_t *handle)
{
}

static void defer(struct loop *base)
{
	struct loop_uv *loop = of(base);

	if (!uv_is_closing((uv_handle_t *)&loop->pending))
		uv_idle_start(&loop->pending, on_idle);
}

static void on_turn(uv_check_t *handle)
{
	struct loop_uv *loop = handle->data;

	loop_turn_end(&loop->loop);
	if (!uv_is_closing((uv_handle_t *)&loop->pending))
		uv_idle_stop(&loop->pending);
}

static const struct loop_ops uv_ops = {.now_ms = now_ms, .wall_ms = wall_ms, .arm = arm, .defer = defer};

_Static_assert(offsetof(struct loop_uv, loop) == 0, "of() casts");

void loop_uv_init(struct loop_uv *loop, uv_loop_t *uv)
{
	loop_init(&loop->loop, &uv_ops);
	loop->uv = uv;
	uv_timer_init(uv, &loop->timer);
	uv_check_init(uv, &loop->turn);
	uv_idle_init(uv, &loop->pending);
	loop->timer.data = loop->turn.data = loop->pending.data = loop;
	uv_check_start(&loop->turn, on_turn);
	uv_unref((uv_handle_t *)&loop->turn); /* alone it is no reason to go on */
}

void loop_uv_close(struct loop_uv *loop)
{
	if (uv_is_closing((uv_handle_t *)&loop->turn))
		return;
	loop_turn_end(&loop->loop);
	uv_close((uv_handle_t *)&loop->timer, NULL);
	uv_close((uv_handle_t *)&loop->turn, NULL);
	uv_close((uv_handle_t *)&loop->pending, NULL);
	loop_finish(&loop->loop);
}

/* NULL when empty. */
static struct letter *take(struct mailbox *mailbox)
{
	struct letter *letter;

	pthread_mutex_lock(&mailbox->lock);
	letter = mailbox->first;
	if (letter) {
		mailbox->first = letter->next;
		if (!mailbox->first)
			mailbox->last = &mailbox->first;
	}
	pthread_mutex_unlock(&mailbox->lock);
	return letter;
}

/* One by one, so that a letter's delivery may close the mailbox. */
static void on_wake(uv_async_t *handle)
{
	struct mailbox *mailbox = handle->data;
	struct letter *letter;
	uint64_t end_ns = uv_hrtime() + WAKE_NS;

	for (int i = 0; i < LETTERS_PER_WAKE && (i == 0 || uv_hrtime() < end_ns); i++) {
		letter = take(mailbox);
		if (!letter)
			return;
		letter->deliver(letter);
		if (uv_is_closing((uv_handle_t *)handle))
			return;
	}
	uv_async_send(handle);
}

void mailbox_init(struct mailbox *mailbox, uv_loop_t *uv)
{
	pthread_mutex_init(&mailbox->lock, NULL);
	mailbox->first = NULL;
	mailbox->last = &mailbox->first;
	mailbox->closed = false;
	uv_async_init(uv, &mailbox->wake, on_wake);
	mailbox->wake.data = mailbox;
}

void mailbox_post(struct mailbox *mailbox, struct letter *letter)
{
	bool was_empty;

	letter->next = NULL;
	pthread_mutex_lock(&mailbox->lock);
	assert(!mailbox->closed);
	was_empty = !mailbox->first;
	*mailbox->last = letter;
	mailbox->last = &letter->next;
	if (was_empty)
		uv_async_send(&mailbox->wake); /* under the lock: never on a handle that is being closed */
	pthread_mutex_unlock(&mailbox->lock);
}

static void on_closed(uv_handle_t *handle)
{
	struct mailbox *mailbox = handle->data;

	pthread_mutex_destroy(&mailbox->lock);
}

void mailbox_close(struct mailbox *mailbox)
{
	struct letter *letter;

	if (uv_is_closing((uv_handle_t *)&mailbox->wake))
		return;
	while ((letter = take(mailbox)))
		letter->deliver(letter);
	if (uv_is_closing((uv_handle_t *)&mailbox->wake))
		return; /* one of them closed it */
	pthread_mutex_lock(&mailbox->lock);
	mailbox->closed = true;
	pthread_mutex_unlock(&mailbox->lock);
	uv_close((uv_handle_t *)&mailbox->wake, on_closed);
}
