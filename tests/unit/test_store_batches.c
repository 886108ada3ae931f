/* test_store_batches.c - what batches keep and what they don't, the store's thread, and that no query reads a table through. */
#include "tests/unit/store_fixture.h"

#include <sqlite3.h>
#include <uv.h>
#include "common/bytes.h"
#include "common/loop_uv.h"
#include "worker/store/sqlite_internal.h"

#define NAMED(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)

/* ---- batches ---- */

static unsigned done_count;
static struct store_op *done_ops[1024];

static void note_done(struct store_op *op)
{
	done_ops[done_count++ % 1024] = op;
}

static void one_fenced_user_does_not_hold_up_the_others_of_a_batch(void **state)
{
	struct fixture *f = *state;
	uint64_t me = register_worker(f, "a");
	struct event event = {.body = str_c("{}")};
	struct store_op *ops[3];

	done_count = 0;
	for (unsigned i = 0; i < 3; i++) {
		struct user_id user = user_number(i);
		uint64_t epoch = acquire(f, &user, "a", me);

		ops[i] = append_op(&user, i == 1 ? epoch + 7 : epoch, 1, &event, 1);
		ops[i]->done = note_done;
	}
	for (unsigned i = 3; i-- > 0;)
		store_submit(f->store, ops[i]);
	assert_int_equal(done_count, 0); /* never inside of submit */
	assert_true(store_pump(f->store));
	assert_int_equal(done_count, 3);
	assert_int_equal(ops[0]->err, ERR_OK);
	assert_int_equal(ops[1]->err, ERR_FENCED);
	assert_int_equal(ops[2]->err, ERR_OK);
	assert_ptr_equal(done_ops[0], ops[0]); /* users in ID order */
	for (unsigned i = 0; i < 3; i++)
		store_op_free(ops[i]);
	assert_false(store_pump(f->store));
}

static void a_users_reads_and_writes_of_one_batch_keep_their_order(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct event event = {.body = str_c("{}")};
	struct store_op *ops[6];

	done_count = 0;
	for (unsigned i = 0; i < 6; i++) {
		ops[i] = i % 2 ? append_op(&user, epoch, i / 2 + 1, &event, 1) : read_op(&user, epoch, 1, 1000);
		ops[i]->done = note_done;
		store_submit(f->store, ops[i]);
	}
	assert_true(store_pump(f->store));
	assert_int_equal(done_count, 6);
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(ops[i]->err, ERR_OK);
		assert_ptr_equal(done_ops[i], ops[i]);
		if (i % 2 == 0)
			assert_int_equal(ops[i]->read.last_seq, i / 2);
	}
	for (unsigned i = 0; i < 6; i++)
		store_op_free(ops[i]);
}

static void free_done(struct store_op *op)
{
	done_count++;
	store_op_free(op);
}

static void renewals_overtake_what_waits_and_are_never_refused(void **state)
{
	struct fixture *f = *state;
	uint64_t me = register_worker(f, "a");
	struct user_id user = user_number(1);
	struct event event = {.body = str_c("{}")};
	struct store_op *renewal = store_op_create(STORE_RENEW, NULL, note_done, NULL);
	struct store_op *refused = append_op(&user, 1, 1, &event, 1);

	for (unsigned i = 0; i < 100000; i++) {
		struct store_op *op = append_op(&user, 99, 1, &event, 1); /* each is fenced: quick */

		op->done = free_done;
		store_submit(f->store, op);
	}
	refused->done = note_done;
	store_submit(f->store, refused);
	renewal->renew.id = str_c("a");
	renewal->renew.incarnation = me;
	store_submit(f->store, renewal);
	done_count = 0;
	assert_true(store_pump(f->store));
	assert_int_equal(done_count, 2); /* it alone, committed before anything of theirs is begun; and the refusal */
	assert_ptr_equal(done_ops[0], renewal);
	assert_int_equal(renewal->err, ERR_OK);
	assert_int_equal(refused->err, ERR_CAPACITY);
	assert_true(store_pump(f->store));
	assert_int_equal(done_count, 2 + 512); /* a batch */
	while (store_pump(f->store))
		;
	store_op_free(renewal);
	store_op_free(refused);
}

/* A renewal that comes while a batch is executed waits for all of it, at this worker and at every other one. */
static void what_one_batch_writes_is_bounded_in_bytes(void **state)
{
	enum { USERS = 12, MIB = 1 << 20 };
	struct fixture *f = *state;
	uint64_t me = register_worker(f, "a");
	struct buf text = {0};
	struct event events[6];
	struct message_row message;
	unsigned pumps = 0;

	buf_append_c(&text, "{\"text\":\"");
	memset(buf_reserve(&text, MIB), 'x', MIB);
	text.n += MIB;
	buf_append_c(&text, "\"}");
	for (unsigned i = 0; i < 6; i++)
		events[i] = (struct event){.body = buf_str(&text)};
	message = (struct message_row){.message_id = str_c("m"), .role = str_c("assistant"), .text = buf_str(&text)};
	for (unsigned i = 0; i < USERS; i++) {
		struct user_id user = user_number(i);
		struct store_op *op = append_op(&user, acquire(f, &user, "a", me), 1, events, i == 0 ? 6 : 1);

		if (i > 0) { /* its text is written twice */
			op->append.effects.messages = &message;
			op->append.effects.n_messages = 1;
		}
		op->done = free_done;
		store_submit(f->store, op);
	}
	for (unsigned before = done_count = 0; store_pump(f->store); before = done_count, pumps++) {
		assert_in_range(done_count - before, 1, 2);
		if (before == 0)
			assert_int_equal(done_count, 1); /* more than a batch may be: alone */
	}
	assert_int_equal(done_count, USERS);
	for (unsigned i = 0; i < USERS; i++) {
		struct user_id user = user_number(i);

		assert_int_equal(last_seq_of(f, &user, 1), i == 0 ? 6 : 1);
	}
	buf_finish(&text);
}

/* ---- with a thread ---- */

static void delivered(struct store_op *op)
{
	unsigned *left = op->ctx;

	assert_int_equal(op->err, ERR_OK);
	--*left;
	store_op_free(op);
}

static void results_come_back_on_the_loop_and_closing_finishes_what_waits(void **state)
{
	struct fixture f;
	struct loop_uv loop;
	struct store *store;
	uv_loop_t uv;
	unsigned left = 0;
	char url[160];

	fixture_directory(&f);
	snprintf(url, sizeof(url), "sqlite:%s", f.path);
	uv_loop_init(&uv);
	loop_uv_init(&loop, &uv);
	assert_int_equal(store_open(&loop, url, &store, &f.info), ERR_OK);
	f.store = store;
	for (unsigned i = 0; i < 50; i++) {
		struct user_id user = user_number(i % 5);
		struct store_op *op = acquire_op(&user, "a", i == 0 ? register_worker(&f, "a") : 1);

		op->done = delivered;
		op->ctx = &left;
		left++;
		store_submit(store, op);
	}
	while (left)
		uv_run(&uv, UV_RUN_ONCE);
	for (unsigned i = 0; i < 50; i++) {
		struct user_id user = user_number(i % 5);
		struct store_op *op = read_op(&user, 1, 1, 1000);

		op->done = delivered;
		op->ctx = &left;
		left++;
		store_submit(store, op);
	}
	store_close(store);
	assert_int_equal(left, 0);
	loop_uv_close(&loop);
	uv_run(&uv, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&uv), 0);
	fixture_remove(&f);
}

static void urls_that_are_not_a_sqlite_file_are_refused(void **state)
{
	static const char *const bad[] = {"",       "sqlite:",           "sqlite::memory:", "sqlite:/tmp/",
	                                  "/tmp/x", "postgresql://h/db", "mysql:x"};
	struct store *store;
	struct err_info info;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(store_open(NULL, bad[i], &store, &info), ERR_CONFIG);
	assert_int_equal(store_open(NULL, "sqlite:/tmp/no-such-directory/x.db", &store, &info), ERR_IO);
	assert_non_null(strstr(info.text, "create it"));
}

/* ---- plans ---- */

static bool is_about_open_runs(enum sqlite_statement which)
{
	return which == SQL_RUNS_OPEN || which == SQL_RUNS_OPEN_IN_THREAD || which == SQL_THREADS_LIST ||
	       which == SQL_THREAD_FIND;
}

/* No table is read through; and open runs are found by the index that holds nothing else. */
static void check_plan(sqlite3 *handle, enum sqlite_statement which)
{
	char sql[2048];
	sqlite3_stmt *s = NULL;
	bool by_open = false;

	snprintf(sql, sizeof(sql), "EXPLAIN QUERY PLAN %s", sqlite_text_of(which));
	assert_int_equal(sqlite3_prepare_v2(handle, sql, -1, &s, NULL), SQLITE_OK);
	while (sqlite3_step(s) == SQLITE_ROW) {
		const char *detail = (const char *)sqlite3_column_text(s, 3);

		if (strncmp(detail, "SCAN", 4) == 0 && strcmp(detail, "SCAN workers") != 0)
			fail_msg("%s: %s", sqlite_text_of(which), detail);
		by_open = by_open || strstr(detail, "runs_open");
	}
	sqlite3_finalize(s);
	assert_int_equal(by_open, is_about_open_runs(which));
}

static void no_statement_scans_a_table(void **state)
{
	struct fixture *f = *state;
	sqlite3 *handle;

	assert_int_equal(sqlite3_open(f->path, &handle), SQLITE_OK);
	for (unsigned i = SQL_WORKER_REGISTER; i < SQL_COUNT; i++)
		check_plan(handle, i);
	sqlite3_close(handle);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		NAMED(one_fenced_user_does_not_hold_up_the_others_of_a_batch),
		NAMED(a_users_reads_and_writes_of_one_batch_keep_their_order),
		NAMED(renewals_overtake_what_waits_and_are_never_refused),
		NAMED(what_one_batch_writes_is_bounded_in_bytes),
		cmocka_unit_test(results_come_back_on_the_loop_and_closing_finishes_what_waits),
		cmocka_unit_test(urls_that_are_not_a_sqlite_file_are_refused),
		NAMED(no_statement_scans_a_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
