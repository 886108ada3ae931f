/*
 * user.h - one user as this worker owns them: the lease's epoch, the log's queue, recent events, runs, attachments.
 *
 *            ACQUIRING ──granted──> OWNED ──idle or draining──> RELEASING
 *                 │                   │                               │
 *                 ╰──moved, refused── ┴──fenced─────> LOST <──given back
 *
 * (RELEASING goes back to OWNED where the store can't be asked. Who asks for the user meanwhile gets a new object.)
 * A lost user is out of the table at once (a new object may take its place) and freed when no store operation names it.
 * Every append goes through the user's one queue: at most one STORE_APPEND is in flight; what comes meanwhile is merged into the
 * next. Numbers are given when an append is submitted; events are published after the commit, then callers are told.
 * Owner: the core. Thread: the loop's.
 */
#ifndef PINION_WORKER_USER_H
#define PINION_WORKER_USER_H

#include "worker/append.h"
#include "worker/call.h"
#include "worker/core_private.h"
#include "worker/ring.h"

enum user_state { USER_ACQUIRING, USER_OWNED, USER_RELEASING, USER_LOST };

enum {
	USER_MAX_ACTIVE = 8, /* until a gateway says otherwise */
	USER_CALLS_MAX = 1024,
};

struct user {
	UT_hash_handle hh;
	struct core *core;
	struct user_id id;
	enum user_state state;
	uint64_t epoch;
	uint64_t last_seq; /* committed */
	uint64_t earliest_seq;
	uint32_t max_active;

	struct ring ring;
	struct append_queue log;
	struct attachment *attachments;
	struct run *runs;   /* open ones, in the order of acceptance */
	struct call *calls; /* commands under way */
	size_t n_calls;
	struct call *attaching; /* ATTACH requests that wait for the store (by user_next) */
	bool verifying;
	bool verify_again; /* the store could not be asked: at the core's next tick */

	struct timer idle;
	bool idle_over;
	unsigned pins; /* store operations that name us */
	bool is_waiting, is_touched;
	struct user *wait_prev, *wait_next;
	struct user *touch_next;
	struct user *lost_prev, *lost_next;
};

struct user *user_find(struct core *core, struct str user_id);
/* Acquires where needed; answers the call when the user is owned here, or why not. */
void user_attach(struct core *core, struct call *call);
void user_detach(struct call *call);

/* Overtaken, or given up: kills its runs, publishes ITEM_LOST, answers what waits with ERR_FENCED. */
void user_lose(struct user *user, const char *why);
/* Looks at the end of the turn whether the user has become idle, can be released, or has runs to start. */
void user_touch(struct user *user);
void user_settle_touched(struct core *core);
/* Asks the store for each user whether it is still ours: after a time in which our lease may have lapsed. */
void user_verify_all(struct core *core);

void user_free_lost(struct core *core); /* those that nothing pins */
void user_free(struct user *user);      /* at the end of the core */
const char *user_state_name(enum user_state state);

#endif
