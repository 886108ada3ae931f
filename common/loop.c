/* loop.c - the timers' heap and the queue of deferred tasks. */
#include "common/loop.h"

#include <assert.h>
#include <stdlib.h>

void loop_init(struct loop *loop, const struct loop_ops *ops)
{
	*loop = (struct loop){.ops = ops};
	loop->tasks_tail = &loop->tasks;
}

void loop_finish(struct loop *loop)
{
	for (size_t i = 0; i < loop->heap_len; i++)
		loop->heap[i]->slot = 0;
	free(loop->heap);
	loop->heap = NULL;
	loop->heap_len = loop->heap_cap = 0;
	while (loop->tasks)
		task_cancel(loop, loop->tasks);
}

uint64_t loop_now(struct loop *loop)
{
	return loop->ops->now_ms(loop);
}

uint64_t loop_wall(struct loop *loop)
{
	return loop->ops->wall_ms(loop);
}

/* Slots are 1-based: parent of s is s/2, children 2s and 2s+1. */
static void place(struct loop *loop, struct timer *timer, size_t slot)
{
	loop->heap[slot - 1] = timer;
	timer->slot = slot;
}

static void sift_up(struct loop *loop, struct timer *timer, size_t slot)
{
	while (slot > 1 && loop->heap[slot / 2 - 1]->due_ms > timer->due_ms) {
		place(loop, loop->heap[slot / 2 - 1], slot);
		slot /= 2;
	}
	place(loop, timer, slot);
}

static void sift_down(struct loop *loop, struct timer *timer, size_t slot)
{
	for (;;) {
		size_t child = slot * 2;

		if (child > loop->heap_len)
			break;
		if (child < loop->heap_len && loop->heap[child]->due_ms < loop->heap[child - 1]->due_ms)
			child++;
		if (loop->heap[child - 1]->due_ms >= timer->due_ms)
			break;
		place(loop, loop->heap[child - 1], slot);
		slot = child;
	}
	place(loop, timer, slot);
}

static void heap_add(struct loop *loop, struct timer *timer)
{
	if (loop->heap_len == loop->heap_cap) {
		size_t cap = loop->heap_cap ? loop->heap_cap * 2 : 64;
		struct timer **heap = realloc(loop->heap, cap * sizeof(*heap));

		if (!heap)
			abort();
		loop->heap = heap;
		loop->heap_cap = cap;
	}
	loop->heap_len++;
	sift_up(loop, timer, loop->heap_len);
}

static void heap_take(struct loop *loop, struct timer *timer)
{
	size_t slot = timer->slot;
	struct timer *last = loop->heap[--loop->heap_len];

	assert(slot >= 1 && slot <= loop->heap_len + 1);
	timer->slot = 0;
	if (last == timer)
		return;
	if (slot > 1 && loop->heap[slot / 2 - 1]->due_ms > last->due_ms)
		sift_up(loop, last, slot);
	else
		sift_down(loop, last, slot);
}

static uint64_t next_due(const struct loop *loop)
{
	return loop->heap_len ? loop->heap[0]->due_ms : UINT64_MAX;
}

void timer_set(struct loop *loop, struct timer *timer, uint64_t delay_ms)
{
	uint64_t now = loop_now(loop), before = next_due(loop);

	if (timer->slot)
		heap_take(loop, timer);
	timer->due_ms = delay_ms < UINT64_MAX - now ? now + delay_ms : UINT64_MAX - 1;
	heap_add(loop, timer);
	if (next_due(loop) != before)
		loop->ops->arm(loop, next_due(loop));
}

void timer_cancel(struct loop *loop, struct timer *timer)
{
	uint64_t before = next_due(loop);

	if (!timer->slot)
		return;
	heap_take(loop, timer);
	if (next_due(loop) != before)
		loop->ops->arm(loop, next_due(loop));
}

void loop_run_timers(struct loop *loop)
{
	uint64_t now = loop_now(loop);
	size_t most = loop->heap_len; /* a timer that sets itself to "at once" must not hold the loop */

	while (most-- > 0 && loop->heap_len > 0 && loop->heap[0]->due_ms <= now) {
		struct timer *timer = loop->heap[0];

		heap_take(loop, timer);
		timer->fn(timer);
	}
	loop->ops->arm(loop, next_due(loop));
}

void task_defer(struct loop *loop, struct task *task)
{
	if (task->queued)
		return;
	task->queued = true;
	task->next = NULL;
	*loop->tasks_tail = task;
	loop->tasks_tail = &task->next;
	if (loop->tasks == task)
		loop->ops->defer(loop);
}

void task_cancel(struct loop *loop, struct task *task)
{
	struct task **at = &loop->tasks;

	if (!task->queued)
		return;
	while (*at != task)
		at = &(*at)->next;
	*at = task->next;
	if (loop->tasks_tail == &task->next)
		loop->tasks_tail = at;
	task->queued = false;
	task->next = NULL;
}

void loop_turn_end(struct loop *loop)
{
	struct task *task;

	while ((task = loop->tasks)) {
		task_cancel(loop, task);
		task->fn(task);
	}
}
