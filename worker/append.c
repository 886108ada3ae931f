#include "worker/append.h"

#include "worker/gateway_peer.h"
#include "worker/user.h"

enum { BACKOFF_LEAST_MS = 100, BACKOFF_MOST_MS = 2000, BATCH_BYTES = 4 << 20 };

/* What one STORE_APPEND carries; outlives the user's interest in it. */
struct batch_of_appends {
	struct append *appends;
};

struct append *append_create(void (*done)(struct append *append, enum err err), void *ctx)
{
	struct append *append = must_alloc(sizeof(*append));
	append->done = done;
	append->ctx = ctx;
	return append;
}

static void bodies_drop(struct append *append)
{
	for (size_t i = 0; i < append->n_events; i++) {
		bytes_unref(append->events[i].body);
		append->events[i].body = NULL;
	}
}

void append_free(struct append *append)
{
	bodies_drop(append);
	for (size_t i = 0; i < append->n_events; i++)
		event_finish(&append->events[i].text);
	arena_finish(&append->arena);
	free(append);
}

struct append_event *append_event(struct append *append, const char *type, const struct id *run, const struct id *thread,
                                  uint64_t ts_ms)
{
	if (append->n_events == APPEND_EVENTS_MAX)
		abort();
	struct append_event *event = &append->events[append->n_events++];
	event_begin(&event->text, type, run, thread, ts_ms);
	if (thread)
		event->thread = *thread;
	return event;
}

struct str append_copy(struct append *append, struct str s)
{
	return arena_copy(&append->arena, s);
}

/* ---- merging ---- */

static bool fits(const struct append_effects *a, const struct append *append, size_t n)
{
	const struct append_effects *b = &append->effects;
	if (n == 0)
		return true;
	if (a->thread_deleted.n || b->thread_deleted.n)
		return false;
	return !(a->journal_drop_run.n && b->journal_drop_run.n) && !(a->key.key.n && b->key.key.n) &&
	       !(a->note.op && b->note.op);
}

static void merge_single_valued(struct append_effects *into, const struct append_effects *from)
{
	if (from->thread_deleted.n)
		into->thread_deleted = from->thread_deleted;
	if (from->journal_drop_run.n)
		into->journal_drop_run = from->journal_drop_run;
	if (from->key.key.n)
		into->key = from->key;
	if (from->note.op)
		into->note = from->note;
}

static size_t text_bytes(const struct append *append)
{
	size_t n = 0;
	for (size_t i = 0; i < append->n_events; i++)
		n += append->events[i].text.text.n;
	return n;
}

/* Takes as many from the front as one operation can carry. */
static struct append *take_batch(struct append_queue *queue)
{
	struct append *batch = NULL, *append, *after;
	struct append_effects merged = {0};
	size_t n = 0, bytes = 0;
	DL_FOREACH_SAFE (queue->waiting, append, after) {
		if (n == APPEND_BATCH_MAX || (n > 0 && bytes + text_bytes(append) > BATCH_BYTES) || !fits(&merged, append, n))
			break;
		merge_single_valued(&merged, &append->effects);
		bytes += text_bytes(append);
		DL_DELETE(queue->waiting, append);
		queue->n_waiting--;
		DL_APPEND(batch, append);
		n++;
	}
	return batch;
}

/* ---- an append's numbers ---- */

static void number(struct append *append, uint64_t first_seq)
{
	append->first_seq = first_seq;
	bodies_drop(append);
	for (size_t i = 0; i < append->n_events; i++)
		append->events[i].body = event_render(&append->events[i].text, first_seq + i);
	for (size_t i = 0; i < append->n_messages; i++)
		append->messages[i].seq = first_seq + append->message_events[i];
	if (append->numbers_run) {
		append->runs[0].accepted_seq = first_seq + append->run_event;
		append->effects.key.seq = first_seq + append->run_event;
	}
}

static struct event event_view(const struct append_event *event)
{
	return (struct event){
		.body = bytes_str(event->body),
		.closes_message_id = id_str(&event->closes),
		.voids_run_id = id_str(&event->voids),
	};
}

struct totals {
	size_t events, threads, runs, messages, journal;
};

static struct totals count(const struct append *batch)
{
	struct totals n = {0};
	const struct append *append;
	DL_FOREACH (batch, append) {
		n.events += append->n_events;
		n.threads += append->thread.thread_id.n > 0;
		n.runs += append->n_runs;
		n.messages += append->n_messages;
		n.journal += append->n_journal;
	}
	return n;
}

static void *arena_array(struct arena *arena, size_t n, size_t size)
{
	void *p = arena_alloc(arena, n ? n * size : 1);
	if (!p)
		abort();
	return p;
}

/* Steps of a run whose journal goes in the same operation are not written at all. */
static size_t put_journal(const struct append *append, struct journal_row *rows, size_t n, struct str dropped)
{
	for (size_t i = 0; i < append->n_journal; i++)
		if (!dropped.n || !str_eq(append->journal[i].run_id, dropped))
			rows[n++] = append->journal[i];
	return n;
}

static void fill(struct store_op *op, struct append *batch, uint64_t first_seq)
{
	struct totals max = count(batch), n = {0};
	struct arena *arena = &op->arena;
	struct event *events = arena_array(arena, max.events, sizeof(*events));
	struct str *threads = arena_array(arena, max.events, sizeof(*threads));
	struct thread_row *thread_rows = arena_array(arena, max.threads, sizeof(*thread_rows));
	struct run_row *runs = arena_array(arena, max.runs, sizeof(*runs));
	struct message_row *messages = arena_array(arena, max.messages, sizeof(*messages));
	struct journal_row *journal = arena_array(arena, max.journal, sizeof(*journal));
	struct append_effects *effects = &op->append.effects;
	struct append *append;

	DL_FOREACH (batch, append) {
		number(append, first_seq + n.events);
		merge_single_valued(effects, &append->effects);
		for (size_t i = 0; i < append->n_events; i++) {
			events[n.events] = event_view(&append->events[i]);
			events[n.events].seq = first_seq + n.events;
			threads[n.events++] = id_str(&append->events[i].thread);
		}
		if (append->thread.thread_id.n)
			thread_rows[n.threads++] = append->thread;
		for (size_t i = 0; i < append->n_runs; i++)
			runs[n.runs++] = append->runs[i];
		for (size_t i = 0; i < append->n_messages; i++)
			messages[n.messages++] = append->messages[i];
	}
	DL_FOREACH (batch, append)
		n.journal = put_journal(append, journal, n.journal, effects->journal_drop_run);
	op->append.first_seq = first_seq;
	op->append.events = events;
	op->append.threads = threads;
	op->append.n = n.events;
	effects->threads_put = thread_rows;
	effects->n_threads_put = n.threads;
	effects->runs_put = runs;
	effects->n_runs_put = n.runs;
	effects->messages = messages;
	effects->n_messages = n.messages;
	effects->journal_put = journal;
	effects->n_journal_put = n.journal;
}

/* ---- the queue ---- */

static void pump(struct user *user);

static void drop_batch(void *ctx)
{
	struct batch_of_appends *batch = ctx;
	struct append *append, *after;
	DL_FOREACH_SAFE (batch->appends, append, after) {
		DL_DELETE(batch->appends, append);
		append_free(append);
	}
	free(batch);
}

static void finish_one(struct append *append, enum err err)
{
	append->done(append, err);
	append_free(append);
}

static void publish(struct user *user, struct append *append)
{
	for (size_t i = 0; i < append->n_events; i++) {
		struct append_event *event = &append->events[i];
		struct logged logged = {
			.seq = append->first_seq + i,
			.body = event->body,
			.closes = event->closes,
			.voids = event->voids,
			.thread = event->thread,
		};
		ring_push(&user->ring, &logged);
		publish_event(user, &logged);
		user->last_seq = logged.seq;
		core_count(METRIC_EVENTS, 1);
	}
	if (!id_is_none(&append->deletes_thread))
		ring_delete_thread(&user->ring, &append->deletes_thread, user->last_seq);
}

static void on_committed(struct user *user, struct append *batch)
{
	struct append *append, *after;
	user->log.backoff_ms = 0;
	core_count(METRIC_APPENDS, 1);
	core_observe(METRIC_COMMIT_SECONDS, (double)(loop_now(user->core->loop) - user->log.submitted_ms) / 1000);
	DL_FOREACH (batch, append)
		publish(user, append);
	DL_FOREACH_SAFE (batch, append, after) {
		DL_DELETE(batch, append);
		finish_one(append, user->state == USER_LOST ? ERR_FENCED : ERR_OK);
	}
}

static void on_lost(struct append *batch)
{
	struct append *append, *after;
	DL_FOREACH_SAFE (batch, append, after) {
		DL_DELETE(batch, append);
		finish_one(append, ERR_FENCED);
	}
}

/* Nothing of it happened: what may be repeated goes back to the front, in its order. */
static void on_unavailable(struct user *user, struct append *batch, const struct store_op *op)
{
	struct append_queue *queue = &user->log;
	struct append *append, *after, *again = NULL;
	core_count(METRIC_APPEND_FAILURES, 1);
	log_warn("user", "append_failed", "user", user->id.s, "error", err_name(op->err), "detail", op->info.text, NULL);
	DL_FOREACH_SAFE (batch, append, after) {
		DL_DELETE(batch, append);
		if (append->retry) {
			DL_APPEND(again, append);
			queue->n_waiting++;
		} else {
			finish_one(append, ERR_UNAVAILABLE);
		}
	}
	DL_CONCAT(again, queue->waiting);
	queue->waiting = again;
	queue->backoff_ms = queue->backoff_ms ? queue->backoff_ms * 2 : BACKOFF_LEAST_MS;
	if (queue->backoff_ms > BACKOFF_MOST_MS)
		queue->backoff_ms = BACKOFF_MOST_MS;
	timer_set(user->core->loop, &queue->retry, queue->backoff_ms);
}

static void on_append_done(struct pending_op *pending)
{
	struct user *user = pending->user;
	struct batch_of_appends *holder = pending->ctx;
	struct append *batch = holder->appends;
	struct store_op *op = pending->op;
	free(holder);
	user->log.inflight = NULL;
	if (op->err == ERR_FENCED)
		user_lose(user, op->info.text);
	if (op->err == ERR_OK)
		on_committed(user, batch);
	else if (user->state == USER_LOST)
		on_lost(batch);
	else
		on_unavailable(user, batch, op);
	user->log.busy = false;
	pump(user);
	user_touch(user);
}

static void pump(struct user *user)
{
	struct append_queue *queue = &user->log;
	if (queue->busy || !queue->waiting || user->state == USER_LOST || timer_is_set(&queue->retry))
		return;
	struct batch_of_appends *holder = must_alloc(sizeof(*holder));
	struct pending_op *pending = op_create(user->core, STORE_APPEND, user, on_append_done, holder);
	pending->drop = drop_batch;
	holder->appends = queue->inflight = take_batch(queue);
	pending->op->append.epoch = user->epoch;
	fill(pending->op, holder->appends, user->last_seq + 1);
	queue->busy = true;
	queue->submitted_ms = loop_now(user->core->loop);
	op_submit(pending);
}

static void on_retry(struct timer *timer)
{
	pump((struct user *)((char *)timer - offsetof(struct user, log.retry)));
}

void append_submit(struct user *user, struct append *append)
{
	if (user->state == USER_LOST) {
		finish_one(append, ERR_FENCED);
		return;
	}
	DL_APPEND(user->log.waiting, append);
	user->log.n_waiting++;
	pump(user);
}

bool append_queue_is_empty(const struct append_queue *queue)
{
	return !queue->busy && !queue->waiting;
}

void append_fail_waiting(struct user *user, enum err err)
{
	struct append_queue *queue = &user->log;
	timer_cancel(user->core->loop, &queue->retry);
	while (queue->waiting) {
		struct append *append = queue->waiting;
		DL_DELETE(queue->waiting, append);
		queue->n_waiting--;
		finish_one(append, err);
	}
}

void append_queue_init(struct user *user)
{
	user->log = (struct append_queue){.retry.fn = on_retry};
}

void append_queue_finish(struct user *user)
{
	struct append *append, *after;
	timer_cancel(user->core->loop, &user->log.retry);
	DL_FOREACH_SAFE (user->log.waiting, append, after) {
		DL_DELETE(user->log.waiting, append);
		append_free(append);
	}
}
