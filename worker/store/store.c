/*
 * store.c - operations wait in two queues and are executed in batches by a thread of the store's own.
 *
 * Urgent ones go first: leases, which must not stand behind thousands of appends, and acquisitions of users for whom nothing
 * else waits. The rest keeps its order. A batch is all that waits, at most BATCH_MAX operations that write at most BATCH_BYTES (or
 * one that writes more), sorted by user: writers that lock rows in the same order can't deadlock, and a user's operations stay as
 * they came. Bytes are bounded since a renewal waits for the batch under way, here and at every worker that shares the store;
 * for the same reason leases are a batch of their own. Results come back as one letter a batch.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include "common/loop_uv.h"
#include "worker/store/store.h"

enum {
	BATCH_MAX = 512,
	BATCH_BYTES = 4 << 20,
	QUEUE_MAX = 100000,
	BUCKETS = 4096,
};

struct queue {
	struct store_op *first, **last;
};

struct store {
	struct store_backend *backend;
	pthread_mutex_t backend_lock; /* held while it executes */

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake;
	struct queue urgent, normal;
	size_t queued;
	uint32_t waiting[BUCKETS]; /* in normal, by a hash of the user */
	bool closing;

	bool threaded;
	pthread_t thread;
	struct mailbox mailbox;
	struct queue refused; /* of a store without a thread: for the next pump */
	uv_idle_t grave;      /* see bury */
};

/* What one batch brings back to the loop's thread. */
struct delivery {
	struct letter letter;
	struct store_op *ops;
};

/* ---- queues ---- */

static void queue_init(struct queue *queue)
{
	queue->first = NULL;
	queue->last = &queue->first;
}

static void queue_push(struct queue *queue, struct store_op *op)
{
	op->next = NULL;
	*queue->last = op;
	queue->last = &op->next;
}

static struct store_op *queue_pop(struct queue *queue)
{
	struct store_op *op = queue->first;

	if (!op)
		return NULL;
	queue->first = op->next;
	if (!queue->first)
		queue->last = &queue->first;
	op->next = NULL;
	return op;
}

/* FNV-1a. */
static uint32_t *bucket_of(struct store *store, const struct store_op *op)
{
	uint32_t hash = 2166136261u;

	for (const char *p = op->user.s; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 16777619u;
	return &store->waiting[hash % BUCKETS];
}

static bool is_lease(enum store_op_kind kind)
{
	return kind == STORE_REGISTER || kind == STORE_RENEW || kind == STORE_STOPPED;
}

/* False beyond the cap. Under the lock. */
static bool enqueue(struct store *store, struct store_op *op)
{
	if (is_lease(op->kind) || (op->kind == STORE_ACQUIRE && *bucket_of(store, op) == 0)) {
		queue_push(&store->urgent, op);
	} else {
		if (store->queued >= QUEUE_MAX)
			return false;
		queue_push(&store->normal, op);
		++*bucket_of(store, op);
	}
	store->queued++;
	return true;
}

/* About what it writes, where that is much. */
static size_t written_bytes(const struct store_op *op)
{
	const struct append_effects *effects = &op->append.effects;
	size_t n = 0;

	if (op->kind != STORE_APPEND)
		return 0;
	for (size_t i = 0; i < op->append.n; i++)
		n += op->append.events[i].body.n;
	for (size_t i = 0; i < effects->n_messages; i++)
		n += effects->messages[i].text.n;
	for (size_t i = 0; i < effects->n_journal_put; i++)
		n += effects->journal_put[i].step.result.n;
	return n;
}

/* From the front of the urgent ones; `leases`: whether there was one among them. */
static size_t take_urgent(struct store *store, struct store_op **ops, bool *leases)
{
	struct store_op *op;
	size_t n = 0;

	*leases = false;
	while (n < BATCH_MAX && (op = queue_pop(&store->urgent))) {
		*leases = *leases || is_lease(op->kind);
		ops[n++] = op;
	}
	return n;
}

static size_t take_normal(struct store *store, struct store_op **ops, size_t n)
{
	struct store_op *op;
	size_t bytes = 0;

	while (n < BATCH_MAX && (op = store->normal.first)) {
		bytes += written_bytes(op);
		if (n > 0 && bytes > BATCH_BYTES)
			break;
		(void)queue_pop(&store->normal);
		--*bucket_of(store, op);
		ops[n++] = op;
	}
	return n;
}

/* Under the lock. */
static size_t take_batch(struct store *store, struct store_op **ops)
{
	bool leases;
	size_t n = take_urgent(store, ops, &leases);

	if (!leases)
		n = take_normal(store, ops, n);
	store->queued -= n;
	return n;
}

/* ---- a batch ---- */

struct place {
	struct store_op *op;
	size_t came;
};

static int compare_places(const void *a, const void *b)
{
	const struct place *left = a, *right = b;
	int order = strcmp(left->op->user.s, right->op->user.s);

	if (order)
		return order;
	return left->came < right->came ? -1 : left->came > right->came;
}

/* By user; each user's stay in order. */
static void sort_batch(struct store_op **ops, size_t n)
{
	struct place places[BATCH_MAX];

	for (size_t i = 0; i < n; i++)
		places[i] = (struct place){ops[i], i};
	qsort(places, n, sizeof(places[0]), compare_places);
	for (size_t i = 0; i < n; i++)
		ops[i] = places[i].op;
}

/* Executes the batch and chains it. */
static struct store_op *execute_batch(struct store *store, struct store_op **ops, size_t n)
{
	sort_batch(ops, n);
	pthread_mutex_lock(&store->backend_lock);
	store->backend->ops->execute(store->backend, ops, n);
	pthread_mutex_unlock(&store->backend_lock);
	for (size_t i = 0; i < n; i++)
		ops[i]->next = i + 1 < n ? ops[i + 1] : NULL;
	return ops[0];
}

static void deliver_chain(struct store_op *op)
{
	while (op) {
		struct store_op *next = op->next; /* done may free it */

		op->next = NULL;
		op->done(op);
		op = next;
	}
}

static void deliver_letter(struct letter *letter)
{
	struct delivery *delivery = (struct delivery *)letter; /* its first member */
	struct store_op *ops = delivery->ops;

	free(delivery);
	deliver_chain(ops);
}

static void post(struct store *store, struct store_op *ops)
{
	struct delivery *delivery = calloc(1, sizeof(*delivery));

	if (!delivery)
		abort(); /* as every allocation of a few bytes here */
	delivery->letter.deliver = deliver_letter;
	delivery->ops = ops;
	mailbox_post(&store->mailbox, &delivery->letter);
}

static void *store_thread(void *arg)
{
	struct store *store = arg;
	struct store_op *ops[BATCH_MAX];
	size_t n;

	for (;;) {
		pthread_mutex_lock(&store->lock);
		while (!store->queued && !store->closing)
			pthread_cond_wait(&store->wake, &store->lock);
		n = take_batch(store, ops);
		pthread_mutex_unlock(&store->lock);
		if (n == 0)
			return NULL;
		post(store, execute_batch(store, ops, n));
	}
}

/* ---- operations ---- */

struct store_op *store_op_create(enum store_op_kind kind, const struct user_id *user, void (*done)(struct store_op *), void *ctx)
{
	struct store_op *op = calloc(1, sizeof(*op));

	if (!op)
		abort();
	op->kind = kind;
	if (user)
		op->user = *user;
	op->done = done;
	op->ctx = ctx;
	return op;
}

void store_op_free(struct store_op *op)
{
	if (!op)
		return;
	arena_finish(&op->arena);
	free(op);
}

/* Not at once: `done` never runs inside of submit. */
static void refuse(struct store *store, struct store_op *op, bool closing)
{
	if (closing)
		op->err = err_set(&op->info, ERR_UNAVAILABLE, "the store is being closed");
	else
		op->err = err_set(&op->info, ERR_CAPACITY, "%d operations wait for the store", QUEUE_MAX);
	op->next = NULL;
	if (store->threaded)
		post(store, op);
	else
		queue_push(&store->refused, op);
}

void store_submit(struct store *store, struct store_op *op)
{
	bool closing, taken;

	op->err = ERR_OK;
	pthread_mutex_lock(&store->lock);
	closing = store->closing;
	taken = !closing && enqueue(store, op);
	if (taken && store->threaded)
		pthread_cond_signal(&store->wake);
	pthread_mutex_unlock(&store->lock);
	if (!taken)
		refuse(store, op, closing);
}

enum err store_execute(struct store *store, struct store_op *op)
{
	pthread_mutex_lock(&store->backend_lock);
	store->backend->ops->execute(store->backend, &op, 1);
	pthread_mutex_unlock(&store->backend_lock);
	return op->err;
}

bool store_pump(struct store *store)
{
	struct store_op *ops[BATCH_MAX], *refused = store->refused.first;
	size_t n = take_batch(store, ops);

	queue_init(&store->refused);
	if (n)
		deliver_chain(execute_batch(store, ops, n));
	deliver_chain(refused);
	return n || refused;
}

/* ---- opening and closing ---- */

static struct store *create(struct store_backend *backend)
{
	struct store *store = calloc(1, sizeof(*store));

	if (!store)
		abort();
	store->backend = backend;
	pthread_mutex_init(&store->backend_lock, NULL);
	pthread_mutex_init(&store->lock, NULL);
	pthread_cond_init(&store->wake, NULL);
	queue_init(&store->urgent);
	queue_init(&store->normal);
	queue_init(&store->refused);
	return store;
}

static void destroy(struct store *store)
{
	pthread_cond_destroy(&store->wake);
	pthread_mutex_destroy(&store->lock);
	pthread_mutex_destroy(&store->backend_lock);
	free(store);
}

struct store *store_create_unthreaded(struct store_backend *backend)
{
	return create(backend);
}

/* Signals are the loop's thread's. */
static int start_thread(struct store *store)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&store->thread, NULL, store_thread, store);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

static enum err open_backend(const char *url, struct store_backend **out, struct err_info *info)
{
	static const char sqlite[] = "sqlite:";

	if (strncmp(url, "postgresql:", 11) == 0 || strncmp(url, "postgres:", 9) == 0)
		return err_set(info, ERR_CONFIG, "PostgreSQL is not supported by this version; use sqlite:PATH");
	if (strncmp(url, sqlite, sizeof(sqlite) - 1) != 0)
		return err_set(info, ERR_CONFIG, "the store's URL is sqlite:PATH");
	url += sizeof(sqlite) - 1;
	if (!*url || *url == ':' || url[strlen(url) - 1] == '/')
		return err_set(info, ERR_CONFIG, "the store's URL names no file: sqlite:PATH");
	return store_sqlite_open(url, out, info);
}

enum err store_open(struct loop_uv *loop, const char *url, struct store **out, struct err_info *info)
{
	struct store_backend *backend = NULL;
	struct store *store;
	enum err err = open_backend(url, &backend, info);
	int rc;

	*out = NULL;
	if (!backend)
		return err;
	store = create(backend);
	store->threaded = true;
	rc = start_thread(store);
	if (rc) {
		backend->ops->close(backend);
		destroy(store);
		return err_set_errno(info, ERR_IO, rc, "the store's thread");
	}
	mailbox_init(&store->mailbox, loop->uv); /* the thread posts only what was submitted */
	uv_idle_init(loop->uv, &store->grave);
	store->grave.data = store;
	*out = store;
	return ERR_OK;
}

static void on_buried(uv_handle_t *handle)
{
	destroy(handle->data);
}

/* The mailbox's handle was closed along with this one: by the next turn it is done with. */
static void on_grave_closed(uv_handle_t *handle)
{
	struct store *store = handle->data;

	uv_idle_init(handle->loop, &store->grave);
	uv_close((uv_handle_t *)&store->grave, on_buried);
}

/* libuv holds on to the mailbox's memory until the loop has closed it. */
static void bury(struct store *store)
{
	uv_close((uv_handle_t *)&store->grave, on_grave_closed);
}

void store_close(struct store *store)
{
	if (!store)
		return;
	if (store->threaded) {
		pthread_mutex_lock(&store->lock);
		store->closing = true;
		pthread_cond_signal(&store->wake);
		pthread_mutex_unlock(&store->lock);
		pthread_join(store->thread, NULL);
		mailbox_close(&store->mailbox);
		store->backend->ops->close(store->backend);
		bury(store);
		return;
	}
	while (store_pump(store))
		;
	store->backend->ops->close(store->backend);
	destroy(store);
}
