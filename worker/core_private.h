/*
 * core_private.h - what the files of the worker's core share: struct core, operations on the store, and small helpers.
 *
 * Who owns what: core owns users, gateway peers, calls (requests under way) and store operations under way; a user owns its
 * runs, its log's queue and its attachments. Nothing is freed inside a callback: what has ended is listed and swept at
 * the end of the loop turn (core_sweep_soon). Across store operations objects are pinned, so that they outlive them.
 */
#ifndef PINION_WORKER_CORE_PRIVATE_H
#define PINION_WORKER_CORE_PRIVATE_H

#include <stdlib.h>
#include <uthash.h>
#include "common/list.h"
#include "common/log.h"
#include "common/metrics.h"
#include "worker/core.h"

struct call;
struct gateway_peer;
struct run;
struct user;
struct pending_op;

enum run_life {
	LIFE_NONE,
	LIFE_ACCEPTING,
	LIFE_QUEUED,
	LIFE_STARTING,
	LIFE_RUNNING,
	LIFE_COMMITTING,
	LIFE_TOOL,
	LIFE_FINISHING,
	LIFE_ENDED,
	LIFE_COUNT_,
};

struct core {
	struct core_parts parts;
	struct loop *loop;
	struct core_config config;
	char *worker_id, *url;
	uint64_t incarnation;

	struct user *users;         /* by user_id: all but the lost ones */
	struct user *lost;          /* out of the table, kept while store operations name them */
	struct user *waiting;       /* with a run that could start, in turn: one run each */
	struct user *touched;       /* to be looked at when the turn ends */
	struct run *ended;          /* to be freed when nothing pins them */
	struct run *dismissed;      /* their processes are to be forgotten at the end of the turn */
	struct gateway_peer *peers; /* by gateway_id */
	struct call *calls;
	struct pending_op *ops;

	size_t processes; /* runs' processes, from spawn until they have ended or are forgotten */
	size_t lives[LIFE_COUNT_];

	struct task flush, sweep;
	struct timer tick, drain;
	uint64_t ticked_ms;
	bool lease_held;   /* at the last look */
	bool verify_again; /* of some user */
	bool draining, cut, destroying;
	void (*drained)(void *ctx);
	void *drained_ctx;
};

static inline void *must_alloc(size_t n)
{
	void *p = calloc(1, n);
	if (!p)
		abort();
	return p;
}

/* NUL-terminated copy, the caller's. */
static inline char *must_copy(struct str s)
{
	char *p = must_alloc(s.n + 1);
	if (s.n)
		memcpy(p, s.p, s.n);
	return p;
}

/* ---- operations on the store ---- */

struct pending_op {
	struct core *core; /* NULL once the core is gone: then only memory is given back */
	struct store_op *op;
	struct user *user; /* pinned; NULL: none */
	void (*done)(struct pending_op *pending);
	void (*drop)(void *ctx); /* gives ctx back where done will not run; NULL: nothing to do */
	void *ctx;
	struct pending_op *prev, *next;
};

/* Makes an operation for this user (pinned until it is done). Inputs go into pending->op. After done both are freed. */
struct pending_op *op_create(struct core *core, enum store_op_kind kind, struct user *user,
                             void (*done)(struct pending_op *pending), void *ctx);
void op_submit(struct pending_op *pending);

/* ---- turns ---- */

void core_sweep_soon(struct core *core);
void core_flush_soon(struct core *core);
/* Starts runs of the users in turn, as far as processes are free. */
void core_schedule(struct core *core);
bool core_may_start(const struct core *core);

/* ---- metrics ---- */

enum core_metric {
	METRIC_USERS,
	METRIC_USERS_FENCED,
	METRIC_APPENDS,
	METRIC_APPEND_FAILURES,
	METRIC_EVENTS,
	METRIC_COMMIT_SECONDS,
	METRIC_BATCHES,
	METRIC_ITEMS,
	METRIC_CREDIT_STALLS,
	METRIC_REPLAYS_RING,
	METRIC_REPLAYS_STORE,
	METRIC_RUNS_STARTED,
	METRIC_RUNS_RECOVERED,
	METRIC_RUNS_COMPLETED,
	METRIC_RUNS_FAILED,
	METRIC_RUNS_CANCELLED,
	METRIC_COUNT_,
};

void core_count(enum core_metric metric, double n);
void core_gauge(enum core_metric metric, double value);
void core_observe(enum core_metric metric, double seconds);
void core_metrics_register(void);
void core_metrics_lives(const struct core *core); /* runs by state, processes */

#endif
