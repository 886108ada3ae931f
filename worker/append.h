/*
 * append.h - one atomic change of a user's log and tables, and the queue in which such changes wait.
 *
 * Made by a command or a run, filled with events and effects, then handed over by append_submit. `done` is called once: with
 * ERR_OK after the commit and the publication (seq numbers are in append_seq), or with ERR_FENCED (the user is lost), or, where
 * append_retry was not asked for, ERR_UNAVAILABLE (nothing of it happened). With append_retry it is submitted again, 100 ms to
 * 2 s apart, until it is in or the user is lost. Memory: the append's own arena; the queue frees it after done.
 */
#ifndef PINION_WORKER_APPEND_H
#define PINION_WORKER_APPEND_H

#include "worker/core_private.h"
#include "worker/event.h"

enum { APPEND_EVENTS_MAX = 4, APPEND_MESSAGES_MAX = 2, APPEND_JOURNAL_MAX = 2, APPEND_BATCH_MAX = 64 };

struct append_event {
	struct event_text text;
	struct id closes, voids, thread;
	struct bytes *body; /* from submission on */
};

struct append {
	struct append *prev, *next;
	struct arena arena;
	struct append_event events[APPEND_EVENTS_MAX];
	size_t n_events;
	struct thread_row thread; /* put where thread_id is set */
	struct run_row *runs;     /* put; the arena's */
	size_t n_runs;
	bool numbers_run; /* runs[0].accepted_seq and the key's seq become the number of event run_event */
	size_t run_event;
	struct message_row messages[APPEND_MESSAGES_MAX];
	size_t message_events[APPEND_MESSAGES_MAX]; /* index of the event that gives each its number */
	size_t n_messages;
	struct journal_row journal[APPEND_JOURNAL_MAX];
	size_t n_journal;
	struct append_effects effects; /* the single-valued ones only */
	struct id deletes_thread;
	bool retry;
	uint64_t first_seq; /* from submission on */
	void (*done)(struct append *append, enum err err);
	void *ctx;
};

struct append_queue {
	struct append *waiting;  /* oldest first */
	struct append *inflight; /* the ones merged into the operation under way */
	size_t n_waiting;
	bool busy;
	uint64_t submitted_ms;
	struct timer retry;
	uint32_t backoff_ms;
};

struct append *append_create(void (*done)(struct append *append, enum err err), void *ctx);
void append_free(struct append *append); /* one that was not submitted */

/* Begins the next event; the caller prints its own fields and ends it. */
struct append_event *append_event(struct append *append, const char *type, const struct id *run, const struct id *thread,
                                  uint64_t ts_ms);
/* The number of event i, once done was called with ERR_OK. */
static inline uint64_t append_seq(const struct append *append, size_t i)
{
	return append->first_seq + i;
}
struct str append_copy(struct append *append, struct str s); /* into its arena */

void append_submit(struct user *user, struct append *append);
bool append_queue_is_empty(const struct append_queue *queue);
/* Everything that waits is done with err. What is in flight follows when the store answers. */
void append_fail_waiting(struct user *user, enum err err);
void append_queue_init(struct user *user);
/* Frees without calling done: at the end of the core. */
void append_queue_finish(struct user *user);

#endif
