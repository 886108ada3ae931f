/*
 * loop.h - what a state machine needs of its event loop: the time, timers, and work at the end of the turn.
 *
 * One thread owns a loop and all that hangs on it. The production loop (loop_uv.h) is libuv's; the simulation has one on
 * a fake clock. Timers are a binary heap of nodes that their owners embed: no allocation, O(log n).
 */
#ifndef PINION_COMMON_LOOP_H
#define PINION_COMMON_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;

struct timer {
	void (*fn)(struct timer *timer);
	uint64_t due_ms;
	size_t slot; /* 1-based place in the heap; 0: not set */
};

/* Work for the end of this loop turn, after all input of the turn was handled: batching, sweeping. */
struct task {
	void (*fn)(struct task *task);
	struct task *next;
	bool queued;
};

struct loop_ops {
	uint64_t (*now_ms)(struct loop *loop);           /* monotonic */
	uint64_t (*wall_ms)(struct loop *loop);          /* Unix time */
	void (*arm)(struct loop *loop, uint64_t due_ms); /* wake at due_ms; UINT64_MAX: nothing due */
	void (*defer)(struct loop *loop);                /* make sure that loop_turn_end runs after this turn */
};

struct loop {
	const struct loop_ops *ops;
	struct timer **heap;
	size_t heap_len, heap_cap;
	struct task *tasks, **tasks_tail;
};

void loop_init(struct loop *loop, const struct loop_ops *ops);
void loop_finish(struct loop *loop); /* timers that are still set are forgotten, not run */

uint64_t loop_now(struct loop *loop);  /* ms, monotonic */
uint64_t loop_wall(struct loop *loop); /* ms since 1970 */

/* A timer fires once, delay_ms from now; setting a set timer moves it. Its memory is the caller's and must be cancelled
 * before it goes. Setting may abort the process when memory is exhausted (as every allocation of a few bytes here). */
void timer_set(struct loop *loop, struct timer *timer, uint64_t delay_ms);
void timer_cancel(struct loop *loop, struct timer *timer);
static inline bool timer_is_set(const struct timer *timer)
{
	return timer->slot != 0;
}

/* Queues the task for the end of the turn; queued twice is once. */
void task_defer(struct loop *loop, struct task *task);
void task_cancel(struct loop *loop, struct task *task);

/* For loop implementations: run what is due; run deferred tasks (those that tasks add run too). */
void loop_run_timers(struct loop *loop);
void loop_turn_end(struct loop *loop);

#endif
