/* store_fixture.h - for tests: a store without a thread on a fresh file, and its operations as plain calls. Thread: one. */
#ifndef PINION_TESTS_UNIT_STORE_FIXTURE_H
#define PINION_TESTS_UNIT_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "worker/store/store.h"

struct fixture {
	char directory[64], path[128];
	struct store *store;
	struct err_info info; /* of the last operation */
};

static inline struct user_id user_named(const char *name)
{
	struct user_id id;

	memset(&id, 0, sizeof(id));
	snprintf(id.s, sizeof(id.s), "%s", name);
	return id;
}

/* Users in ID order: usr_000000000000, usr_000000000001, … */
static inline struct user_id user_number(unsigned n)
{
	struct user_id id;

	memset(&id, 0, sizeof(id));
	snprintf(id.s, sizeof(id.s), "usr_%012x", n);
	return id;
}

static inline struct store *fixture_open(struct fixture *f)
{
	struct store_backend *backend = NULL;

	if (store_sqlite_open(f->path, &backend, &f->info) != ERR_OK)
		fail_msg("%s", f->info.text);
	return store_create_unthreaded(backend);
}

static inline void fixture_reopen(struct fixture *f)
{
	store_close(f->store);
	f->store = fixture_open(f);
}

static inline void fixture_directory(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	strcpy(f->directory, "/tmp/store-test-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/store.db", f->directory);
}

static inline void fixture_remove(struct fixture *f)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-lock", "-journal"};
	char name[160];

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", f->path, suffixes[i]);
		unlink(name);
	}
	assert_int_equal(rmdir(f->directory), 0); /* nothing else was left there */
}

static inline int fixture_set_up(void **state)
{
	static struct fixture fixture;

	fixture_directory(&fixture);
	fixture.store = fixture_open(&fixture);
	*state = &fixture;
	return 0;
}

static inline int fixture_tear_down(void **state)
{
	struct fixture *f = *state;

	store_close(f->store);
	fixture_remove(f);
	return 0;
}

static inline enum err run_op(struct fixture *f, struct store_op *op)
{
	enum err err = store_execute(f->store, op);

	f->info = op->info;
	assert_int_equal(err, op->err);
	return err;
}

static inline uint64_t register_worker(struct fixture *f, const char *id)
{
	struct store_op *op = store_op_create(STORE_REGISTER, NULL, NULL, NULL);
	uint64_t incarnation;

	op->reg.me = (struct worker_row){.id = str_c(id), .url = str_c("ipc:///run/worker")};
	assert_int_equal(run_op(f, op), ERR_OK);
	incarnation = op->reg.me.incarnation;
	store_op_free(op);
	return incarnation;
}

static inline enum err stop_worker(struct fixture *f, const char *id, uint64_t incarnation)
{
	struct store_op *op = store_op_create(STORE_STOPPED, NULL, NULL, NULL);
	enum err err;

	op->renew.id = str_c(id);
	op->renew.incarnation = incarnation;
	err = run_op(f, op);
	store_op_free(op);
	return err;
}

static inline struct store_op *acquire_op(const struct user_id *user, const char *id, uint64_t incarnation)
{
	struct store_op *op = store_op_create(STORE_ACQUIRE, user, NULL, NULL);

	op->acquire.my_id = str_c(id);
	op->acquire.my_incarnation = incarnation;
	return op;
}

/* The epoch; fails the test where the user is not granted. */
static inline uint64_t acquire(struct fixture *f, const struct user_id *user, const char *id, uint64_t incarnation)
{
	struct store_op *op = acquire_op(user, id, incarnation);
	uint64_t epoch;

	assert_int_equal(run_op(f, op), ERR_OK);
	epoch = op->acquire.epoch;
	store_op_free(op);
	return epoch;
}

/* Without effects yet; the caller's texts must live on. */
static inline struct store_op *append_op(const struct user_id *user, uint64_t epoch, uint64_t first_seq,
                                         const struct event *events, size_t n)
{
	struct store_op *op = store_op_create(STORE_APPEND, user, NULL, NULL);

	op->append.epoch = epoch;
	op->append.first_seq = first_seq;
	op->append.events = events;
	op->append.n = n;
	return op;
}

static inline enum err append_one(struct fixture *f, const struct user_id *user, uint64_t epoch, uint64_t seq, const char *body)
{
	struct event event = {.body = str_c(body)};
	struct store_op *op = append_op(user, epoch, seq, &event, 1);
	enum err err = run_op(f, op);

	store_op_free(op);
	return err;
}

static inline struct store_op *read_op(const struct user_id *user, uint64_t epoch, uint64_t from, uint32_t max_bytes)
{
	struct store_op *op = store_op_create(STORE_READ_EVENTS, user, NULL, NULL);

	op->read.epoch = epoch;
	op->read.from_seq = from;
	op->read.max_bytes = max_bytes;
	return op;
}

static inline uint64_t last_seq_of(struct fixture *f, const struct user_id *user, uint64_t epoch)
{
	struct store_op *op = read_op(user, epoch, 1, 1);
	uint64_t last_seq;

	assert_int_equal(run_op(f, op), ERR_OK);
	last_seq = op->read.last_seq;
	store_op_free(op);
	return last_seq;
}

#define assert_str(value, text)                                                  \
	do {                                                                     \
		struct str assert_str_ = (value);                                \
		assert_int_equal(assert_str_.n, strlen(text));                   \
		if (assert_str_.n)                                               \
			assert_memory_equal(assert_str_.p, text, assert_str_.n); \
	} while (0)

#endif
