/* test_store.c - what each operation of the store does, and that workers are fenced from one another's users. */
#include "tests/unit/store_fixture.h"

#define NAMED(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)

/* ---- ownership ---- */

static void a_new_user_is_granted_at_epoch_1_with_an_empty_log(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t me = register_worker(f, "a");
	struct store_op *op = acquire_op(&user, "a", me);

	assert_int_equal(run_op(f, op), ERR_OK);
	assert_true(op->acquire.was_new);
	assert_int_equal(op->acquire.epoch, 1);
	assert_int_equal(op->acquire.last_seq, 0);
	assert_int_equal(op->acquire.earliest_seq, 1);
	assert_int_equal(op->acquire.n_open_runs, 0);
	store_op_free(op);
}

static void acquiring_what_we_own_keeps_the_epoch(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t me = register_worker(f, "a");
	struct store_op *op;

	assert_int_equal(acquire(f, &user, "a", me), 1);
	op = acquire_op(&user, "a", me);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_false(op->acquire.was_new);
	assert_int_equal(op->acquire.epoch, 1);
	store_op_free(op);
}

static void a_living_owner_keeps_his_user(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), b = register_worker(f, "b");
	struct store_op *op = acquire_op(&user, "b", b);

	acquire(f, &user, "a", a);
	op->acquire.over_id = str_c("a");
	op->acquire.over_incarnation = a + 1; /* not he */
	assert_int_equal(run_op(f, op), ERR_MOVED);
	assert_str(op->acquire.owner.id, "a");
	assert_str(op->acquire.owner.url, "ipc:///run/worker");
	assert_int_equal(op->acquire.owner.incarnation, a);
	store_op_free(op);
	assert_int_equal(append_one(f, &user, 1, 1, "{}"), ERR_OK);
}

static void a_dead_owner_is_overtaken_and_fenced(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), b = register_worker(f, "b");
	struct store_op *op = acquire_op(&user, "b", b);

	acquire(f, &user, "a", a);
	op->acquire.over_id = str_c("a");
	op->acquire.over_incarnation = a;
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->acquire.epoch, 2);
	store_op_free(op);
	assert_int_equal(append_one(f, &user, 1, 1, "{}"), ERR_FENCED);
	assert_non_null(strstr(f->info.text, "epoch 2"));
	assert_int_equal(append_one(f, &user, 2, 1, "{}"), ERR_OK);
}

static void an_owner_that_stopped_or_was_replaced_is_overtaken_at_once(void **state)
{
	struct fixture *f = *state;
	struct user_id first = user_number(1), second = user_number(2);
	uint64_t a = register_worker(f, "a"), b = register_worker(f, "b"), c = register_worker(f, "c");

	acquire(f, &first, "a", a);
	acquire(f, &second, "c", c);
	assert_int_equal(stop_worker(f, "a", a), ERR_OK);
	assert_int_equal(acquire(f, &first, "b", b), 2);
	assert_int_equal(register_worker(f, "c"), c + 1);
	assert_int_equal(acquire(f, &second, "b", b), 2);
}

static void an_incarnation_that_was_replaced_acquires_nothing(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t old = register_worker(f, "a");
	struct store_op *op = acquire_op(&user, "a", old);

	assert_int_equal(register_worker(f, "a"), old + 1);
	assert_int_equal(run_op(f, op), ERR_FENCED);
	store_op_free(op);
	op = acquire_op(&user, "nobody", 1);
	assert_int_equal(run_op(f, op), ERR_FENCED);
	store_op_free(op);
}

static enum err release(struct fixture *f, const struct user_id *user, uint64_t epoch)
{
	struct store_op *op = store_op_create(STORE_RELEASE, user, NULL, NULL);
	enum err err;

	op->release.epoch = epoch;
	err = run_op(f, op);
	store_op_free(op);
	return err;
}

static void a_released_user_is_anybodys_under_a_higher_epoch(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), b = register_worker(f, "b");

	acquire(f, &user, "a", a);
	assert_int_equal(release(f, &user, 2), ERR_FENCED);
	assert_int_equal(release(f, &user, 1), ERR_OK);
	assert_int_equal(release(f, &user, 1), ERR_FENCED);
	assert_int_equal(acquire(f, &user, "b", b), 2);
	assert_int_equal(release(f, &user, 1), ERR_FENCED);
}

static void renewing_raises_the_counter_and_shows_everybody(void **state)
{
	struct fixture *f = *state;
	uint64_t a = register_worker(f, "a");
	struct store_op *op;

	register_worker(f, "b");
	for (uint64_t i = 0; i < 2; i++) {
		op = store_op_create(STORE_RENEW, NULL, NULL, NULL);
		op->renew.id = str_c("a");
		op->renew.incarnation = a;
		assert_int_equal(run_op(f, op), ERR_OK);
		assert_int_equal(op->renew.n_rows, 2);
		assert_str(op->renew.rows[0].id, "a");
		assert_int_equal(op->renew.rows[0].counter, 2 + i);
		assert_int_equal(op->renew.rows[1].counter, 1);
		store_op_free(op);
	}
	register_worker(f, "a");
	op = store_op_create(STORE_RENEW, NULL, NULL, NULL);
	op->renew.id = str_c("a");
	op->renew.incarnation = a;
	assert_int_equal(run_op(f, op), ERR_FENCED);
	store_op_free(op);
}

/* ---- appends ---- */

static void events_come_back_as_they_were_given(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct event events[] = {
		{.body = str_c("{\"seq\":1,\"text\":\"żółw\"}")},
		{.body = str_c("{\"seq\":2}"), .closes_message_id = str_c("m1")},
		{.body = str_c("{\"seq\":3}"), .voids_run_id = str_c("r1")},
	};
	struct store_op *op = append_op(&user, epoch, 1, events, 3);

	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	fixture_reopen(f);
	op = read_op(&user, epoch, 1, 1 << 20);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->read.n, 3);
	assert_int_equal(op->read.last_seq, 3);
	assert_int_equal(op->read.earliest_seq, 1);
	assert_int_equal(op->read.events[2].seq, 3);
	assert_str(op->read.events[0].body, "{\"seq\":1,\"text\":\"żółw\"}");
	assert_str(op->read.events[1].closes_message_id, "m1");
	assert_str(op->read.events[1].voids_run_id, "");
	assert_str(op->read.events[2].voids_run_id, "r1");
	store_op_free(op);
}

static void an_append_needs_the_epoch_and_the_end_of_the_log(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1), stranger = user_number(2);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));

	assert_int_equal(append_one(f, &user, epoch, 2, "{}"), ERR_FENCED);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_FENCED);
	assert_non_null(strstr(f->info.text, "the log ends at 1, not 0"));
	assert_int_equal(append_one(f, &user, epoch + 1, 2, "{}"), ERR_FENCED);
	assert_int_equal(append_one(f, &stranger, 1, 1, "{}"), ERR_FENCED);
	assert_int_equal(append_one(f, &user, epoch, 0, "{}"), ERR_INTERNAL);
	assert_int_equal(last_seq_of(f, &user, epoch), 1);
}

static void a_page_ends_at_its_size_but_has_at_least_one_event(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct store_op *op;

	for (uint64_t seq = 1; seq <= 5; seq++)
		assert_int_equal(append_one(f, &user, epoch, seq, "0123456789"), ERR_OK);
	op = read_op(&user, epoch, 2, 25);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->read.n, 2);
	assert_int_equal(op->read.events[0].seq, 2);
	store_op_free(op);
	op = read_op(&user, epoch, 5, 1);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->read.n, 1);
	store_op_free(op);
	op = read_op(&user, epoch, 6, 1000);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->read.n, 0);
	store_op_free(op);
	op = read_op(&user, epoch + 1, 1, 1000);
	assert_int_equal(run_op(f, op), ERR_FENCED);
	store_op_free(op);
}

/* ---- effects ---- */

struct world {
	struct thread_row thread;
	struct run_row run;
	struct message_row message;
	struct journal_row step;
	struct event event;
	struct str event_thread;
};

/* Thread t1 with the active run r1, a message and a tool step, as the one event `seq`. */
static struct store_op *world_op(struct world *w, const struct user_id *user, uint64_t epoch, uint64_t seq)
{
	struct store_op *op;

	*w = (struct world){
		.thread = {.thread_id = str_c("t1"), .title = str_c("first"), .created_ms = 100, .updated_ms = 100},
		.run = {.run_id = str_c("r1"),
	                .thread_id = str_c("t1"),
	                .agent = str_c("demo"),
	                .status = RUN_ACTIVE,
	                .attempt = 1,
	                .accepted_seq = seq,
	                .accepted_ms = 100,
	                .input = str_c("\"hello\""),
	                .client_id = str_c("c1")},
		.message = {.message_id = str_c("m1"),
	                    .run_id = str_c("r1"),
	                    .thread_id = str_c("t1"),
	                    .role = str_c("user"),
	                    .text = str_c("hello"),
	                    .seq = seq,
	                    .ts_ms = 100},
		.step = {.run_id = str_c("r1"),
	                 .step = {.number = 1, .kind = STEP_TOOL},
	                 .tool = str_c("clock"),
	                 .tool_call_id = str_c("tc1"),
	                 .arguments = str_c("{}"),
	                 .started_ms = 101},
		.event = {.body = str_c("{\"type\":\"run_accepted\"}")},
		.event_thread = str_c("t1"),
	};
	op = append_op(user, epoch, seq, &w->event, 1);
	op->append.threads = &w->event_thread;
	op->append.effects.threads_put = &w->thread;
	op->append.effects.runs_put = &w->run;
	op->append.effects.messages = &w->message;
	op->append.effects.journal_put = &w->step;
	op->append.effects.n_threads_put = op->append.effects.n_runs_put = 1;
	op->append.effects.n_messages = op->append.effects.n_journal_put = 1;
	return op;
}

static void make_world(struct fixture *f, struct world *w, const struct user_id *user, uint64_t epoch, uint64_t seq)
{
	struct store_op *op = world_op(w, user, epoch, seq);

	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
}

static struct store_op *find_run(struct fixture *f, const struct user_id *user, const char *run_id)
{
	struct store_op *op = store_op_create(STORE_FIND_RUN, user, NULL, NULL);

	op->find_run.run_id = str_c(run_id);
	assert_int_equal(run_op(f, op), ERR_OK);
	return op;
}

static void a_new_owner_gets_open_runs_and_the_journal_of_active_ones(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), epoch = acquire(f, &user, "a", a);
	struct run_row queued = {.run_id = str_c("r2"),
	                         .thread_id = str_c("t1"),
	                         .agent = str_c("demo"),
	                         .status = RUN_QUEUED,
	                         .accepted_seq = 2,
	                         .input = str_c("\"later\"")};
	struct event event = {.body = str_c("{}")};
	struct world w;
	struct store_op *op;

	make_world(f, &w, &user, epoch, 1);
	op = append_op(&user, epoch, 2, &event, 1);
	op->append.effects.runs_put = &queued;
	op->append.effects.n_runs_put = 1;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	stop_worker(f, "a", a);
	op = acquire_op(&user, "b", register_worker(f, "b"));
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->acquire.last_seq, 2);
	assert_int_equal(op->acquire.n_open_runs, 2);
	assert_str(op->acquire.open_runs[0].run_id, "r1");
	assert_str(op->acquire.open_runs[0].input, "\"hello\"");
	assert_int_equal(op->acquire.open_runs[0].status, RUN_ACTIVE);
	assert_str(op->acquire.open_runs[1].run_id, "r2");
	assert_int_equal(op->acquire.n_journal, 1);
	assert_str(op->acquire.journal[0].run_id, "r1");
	assert_str(op->acquire.journal[0].tool, "clock");
	assert_int_equal(op->acquire.journal[0].step.kind, STEP_TOOL);
	assert_false(op->acquire.journal[0].finished);
	store_op_free(op);
}

static void updates_change_what_changes_and_keep_the_rest(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), epoch = acquire(f, &user, "a", a);
	struct run_row run = {
		.run_id = str_c("r1"), .status = RUN_ACTIVE, .attempt = 2, .started_ms = 200, .cancel_by = str_c("user")};
	struct journal_row step = {.run_id = str_c("r1"),
	                           .finished = true,
	                           .step = {.number = 1, .kind = STEP_TOOL, .status = TOOL_ERROR, .result = str_c("\"no\"")}};
	struct thread_row thread = {.thread_id = str_c("t1"), .title = str_c("renamed"), .updated_ms = 300};
	struct world w;
	struct store_op *op;

	make_world(f, &w, &user, epoch, 1);
	op = append_op(&user, epoch, 2, NULL, 0); /* effects alone */
	op->append.effects.runs_put = &run;
	op->append.effects.journal_put = &step;
	op->append.effects.threads_put = &thread;
	op->append.effects.n_runs_put = op->append.effects.n_journal_put = op->append.effects.n_threads_put = 1;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	op = find_run(f, &user, "r1");
	assert_true(op->find_run.found);
	assert_int_equal(op->find_run.row.attempt, 2);
	assert_int_equal(op->find_run.row.started_ms, 200);
	assert_int_equal(op->find_run.row.accepted_seq, 1);
	assert_str(op->find_run.row.cancel_by, "user");
	assert_str(op->find_run.row.input, "\"hello\"");
	store_op_free(op);
	op = acquire_op(&user, "a", a);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_true(op->acquire.journal[0].finished);
	assert_str(op->acquire.journal[0].tool, "clock");
	assert_str(op->acquire.journal[0].step.result, "\"no\"");
	assert_int_equal(op->acquire.journal[0].step.status, TOOL_ERROR);
	store_op_free(op);
	op = store_op_create(STORE_FIND_THREAD, &user, NULL, NULL);
	op->find_thread.thread_id = str_c("t1");
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_true(op->find_thread.found);
	assert_str(op->find_thread.row.title, "renamed");
	assert_str(op->find_thread.row.active_run_id, "r1");
	assert_int_equal(op->find_thread.row.created_ms, 100);
	assert_int_equal(op->find_thread.row.updated_ms, 300);
	store_op_free(op);
}

static void the_journal_of_an_ended_run_goes(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), epoch = acquire(f, &user, "a", a);
	struct world w;
	struct store_op *op;

	make_world(f, &w, &user, epoch, 1);
	op = append_op(&user, epoch, 2, NULL, 0);
	op->append.effects.journal_drop_run = str_c("r1");
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	op = acquire_op(&user, "a", a);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->acquire.n_open_runs, 1);
	assert_int_equal(op->acquire.n_journal, 0);
	store_op_free(op);
}

static void an_append_that_fails_leaves_no_effect(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct event event = {.body = str_c("{}")};
	struct world w;
	struct store_op *op = world_op(&w, &user, epoch, 2); /* seq 1 is missing */

	assert_int_equal(run_op(f, op), ERR_FENCED);
	store_op_free(op);
	op = find_run(f, &user, "r1");
	assert_false(op->find_run.found);
	store_op_free(op);
	make_world(f, &w, &user, epoch, 1);
	op = append_op(&user, epoch, 2, &event, 1); /* the message is there already: the last step fails */
	op->append.effects.messages = &w.message;
	op->append.effects.n_messages = 1;
	assert_int_equal(run_op(f, op), ERR_INTERNAL);
	store_op_free(op);
	assert_int_equal(last_seq_of(f, &user, epoch), 1);
}

static struct store_op *find_key(struct fixture *f, const struct user_id *user, const char *key, uint64_t not_before)
{
	struct store_op *op = store_op_create(STORE_FIND_KEY, user, NULL, NULL);

	op->find_key.key = str_c(key);
	op->find_key.not_before_ms = not_before;
	assert_int_equal(run_op(f, op), ERR_OK);
	return op;
}

static void an_idempotency_key_is_found_by_its_user_until_it_is_old(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1), other = user_number(2);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct world w;
	struct store_op *op = world_op(&w, &user, epoch, 1);

	op->append.effects.key.key = str_c("k");
	op->append.effects.key.run_id = str_c("r1");
	op->append.effects.key.thread_id = str_c("t1");
	op->append.effects.key.seq = 1;
	op->append.effects.key.input_hash = UINT64_MAX - 1;
	op->append.effects.key.created_ms = 1000;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	op = find_key(f, &user, "k", 1000);
	assert_true(op->find_key.found);
	assert_str(op->find_key.run_id, "r1");
	assert_str(op->find_key.thread_id, "t1");
	assert_int_equal(op->find_key.seq, 1);
	assert_true(op->find_key.input_hash == UINT64_MAX - 1);
	store_op_free(op);
	op = find_key(f, &user, "k", 1001);
	assert_false(op->find_key.found);
	store_op_free(op);
	op = find_key(f, &other, "k", 0);
	assert_false(op->find_key.found);
	store_op_free(op);
}

static void put_key(struct fixture *f, const struct user_id *user, uint64_t epoch, const char *key, uint64_t created,
                    uint64_t drop)
{
	struct store_op *op = append_op(user, epoch, 1, NULL, 0);

	op->append.effects.key.key = str_c(key);
	op->append.effects.key.created_ms = created;
	op->append.effects.key.drop_before_ms = drop;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
}

static bool has_key(struct fixture *f, const struct user_id *user, const char *key)
{
	struct store_op *op = find_key(f, user, key, 0);
	bool found = op->find_key.found;

	store_op_free(op);
	return found;
}

static void old_keys_of_all_users_go_with_new_ones(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1), other = user_number(2);
	uint64_t a = register_worker(f, "a"), epoch = acquire(f, &user, "a", a), others = acquire(f, &other, "a", a);

	put_key(f, &other, others, "old", 1000, 0);
	put_key(f, &other, others, "new", 2001, 1000);
	assert_true(has_key(f, &other, "old"));
	put_key(f, &user, epoch, "k", 3000, 2001);
	assert_false(has_key(f, &other, "old"));
	assert_true(has_key(f, &other, "new"));
	assert_true(has_key(f, &user, "k"));
}

static void a_message_moves_its_thread_up(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct event event = {.body = str_c("{}")};
	struct message_row message = {
		.message_id = str_c("m2"), .thread_id = str_c("t1"), .role = str_c("assistant"), .seq = 2, .ts_ms = 900};
	struct world w;
	struct store_op *op;

	make_world(f, &w, &user, epoch, 1);
	op = append_op(&user, epoch, 2, &event, 1);
	op->append.effects.messages = &message;
	op->append.effects.n_messages = 1;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	op = store_op_create(STORE_FIND_THREAD, &user, NULL, NULL);
	op->find_thread.thread_id = str_c("t1");
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->find_thread.row.updated_ms, 900);
	store_op_free(op);
}

static void change_note(struct fixture *f, const struct user_id *user, uint64_t epoch, const char *key, const char *value,
                        bool *deleted)
{
	struct store_op *op = append_op(user, epoch, 1, NULL, 0);

	op->append.effects.note.op = value ? NOTE_PUT : NOTE_DELETE;
	op->append.effects.note.key = str_c(key);
	op->append.effects.note.value = str_c(value);
	assert_int_equal(run_op(f, op), ERR_OK);
	*deleted = op->append.effects.note_deleted;
	store_op_free(op);
}

static struct store_op *read_note(struct fixture *f, const struct user_id *user, const char *key)
{
	struct store_op *op = store_op_create(STORE_NOTE_READ, user, NULL, NULL);

	op->note.key = str_c(key);
	assert_int_equal(run_op(f, op), ERR_OK);
	return op;
}

static void notes_are_put_read_listed_and_deleted(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1), other = user_number(2);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct store_op *op;
	bool deleted;

	change_note(f, &user, epoch, "b", "1", &deleted);
	change_note(f, &user, epoch, "a", "2", &deleted);
	change_note(f, &user, epoch, "b", "3", &deleted);
	op = read_note(f, &user, "b");
	assert_true(op->note.found);
	assert_str(op->note.value, "3");
	store_op_free(op);
	op = read_note(f, &user, "");
	assert_int_equal(op->note.n_keys, 2);
	assert_str(op->note.keys[0], "a");
	assert_str(op->note.keys[1], "b");
	store_op_free(op);
	op = read_note(f, &other, "b");
	assert_false(op->note.found);
	store_op_free(op);
	change_note(f, &user, epoch, "b", NULL, &deleted);
	assert_true(deleted);
	change_note(f, &user, epoch, "b", NULL, &deleted);
	assert_false(deleted);
	op = read_note(f, &user, "b");
	assert_false(op->note.found);
	store_op_free(op);
}

static void deleting_a_thread_takes_all_of_it_and_nothing_else(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), epoch = acquire(f, &user, "a", a);
	struct event event = {.body = str_c("{\"type\":\"thread_deleted\"}")};
	struct str thread = str_c("t1");
	struct world w;
	struct store_op *op;

	assert_int_equal(append_one(f, &user, epoch, 1, "{\"of\":\"another thread\"}"), ERR_OK);
	make_world(f, &w, &user, epoch, 2);
	op = append_op(&user, epoch, 3, &event, 1);
	op->append.threads = &thread;
	op->append.effects.thread_deleted = thread;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	op = read_op(&user, epoch, 1, 1000);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->read.n, 3);
	assert_str(op->read.events[0].body, "{\"of\":\"another thread\"}");
	assert_str(op->read.events[1].body, "{\"type\":\"deleted\",\"seq\":2}");
	assert_str(op->read.events[2].body, "{\"type\":\"thread_deleted\"}");
	store_op_free(op);
	op = find_run(f, &user, "r1");
	assert_false(op->find_run.found);
	store_op_free(op);
	op = store_op_create(STORE_LIST_MESSAGES, &user, NULL, NULL);
	op->list_messages.thread_id = thread;
	op->list_messages.limit = 10;
	assert_int_equal(run_op(f, op), ERR_NOT_FOUND);
	store_op_free(op);
	op = acquire_op(&user, "a", a);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->acquire.n_open_runs, 0);
	store_op_free(op);
}

/* ---- lists ---- */

/* Threads t00, t01, … each with one ended run r00, … and one message, at seq 1, 2, …; two threads share each updated_ms. */
static void fill_lists(struct fixture *f, const struct user_id *user, uint64_t epoch, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char thread_id[16], run_id[16];
		struct world w;
		struct store_op *op = world_op(&w, user, epoch, i + 1);

		snprintf(thread_id, sizeof(thread_id), "t%02u", i);
		snprintf(run_id, sizeof(run_id), "r%02u", i);
		w.thread.thread_id = w.run.thread_id = w.message.thread_id = w.event_thread = str_c(thread_id);
		w.thread.updated_ms = 1000 + i / 2;
		w.run.run_id = str_c(run_id);
		w.run.status = RUN_COMPLETED;
		op->append.effects.n_journal_put = 0;
		assert_int_equal(run_op(f, op), ERR_OK);
		store_op_free(op);
	}
}

static void threads_are_listed_in_pages_newest_first(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	char cursor[64] = "", expected[16];
	unsigned seen = 0, pages = 0;

	fill_lists(f, &user, epoch, 10);
	do {
		struct store_op *op = store_op_create(STORE_LIST_THREADS, &user, NULL, NULL);

		op->list_threads.limit = 3;
		op->list_threads.before = str_c(cursor);
		assert_int_equal(run_op(f, op), ERR_OK);
		for (size_t i = 0; i < op->list_threads.n; i++) {
			snprintf(expected, sizeof(expected), "t%02u", 9 - seen++);
			assert_str(op->list_threads.rows[i].thread_id, expected);
			assert_str(op->list_threads.rows[i].active_run_id, "");
		}
		snprintf(cursor, sizeof(cursor), STR_FMT, STR_ARG(op->list_threads.next));
		store_op_free(op);
		pages++;
	} while (*cursor);
	assert_int_equal(seen, 10);
	assert_int_equal(pages, 4);
}

static void runs_are_listed_in_pages_newest_first(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct store_op *op, *second;

	fill_lists(f, &user, epoch, 5);
	op = store_op_create(STORE_LIST_RUNS, &user, NULL, NULL);
	op->list_runs.limit = 3;
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->list_runs.n, 3);
	assert_str(op->list_runs.rows[0].run_id, "r04");
	assert_str(op->list_runs.rows[0].input, "");
	assert_true(op->list_runs.next.n > 0);
	second = store_op_create(STORE_LIST_RUNS, &user, NULL, NULL);
	second->list_runs.limit = 2;
	second->list_runs.before = op->list_runs.next;
	assert_int_equal(run_op(f, second), ERR_OK);
	assert_int_equal(second->list_runs.n, 2);
	assert_str(second->list_runs.rows[1].run_id, "r00");
	assert_int_equal(second->list_runs.next.n, 0); /* exactly the rest */
	store_op_free(second);
	store_op_free(op);
	op = store_op_create(STORE_LIST_RUNS, &user, NULL, NULL);
	op->list_runs.limit = 3;
	op->list_runs.thread_id = str_c("t02");
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->list_runs.n, 1);
	assert_str(op->list_runs.rows[0].run_id, "r02");
	store_op_free(op);
}

static struct store_op *history(struct fixture *f, const struct user_id *user, uint32_t limit, struct str before)
{
	struct store_op *op = store_op_create(STORE_LIST_MESSAGES, user, NULL, NULL);

	op->list_messages.thread_id = str_c("t1");
	op->list_messages.limit = limit;
	op->list_messages.before = before;
	assert_int_equal(run_op(f, op), ERR_OK);
	return op;
}

static void put_message(struct fixture *f, const struct user_id *user, uint64_t epoch, uint64_t seq, struct str text)
{
	struct event event = {.body = str_c("{}")};
	struct message_row message = {.message_id = str_c("m"),
	                              .run_id = str_c("r1"),
	                              .thread_id = str_c("t1"),
	                              .role = str_c("assistant"),
	                              .text = text,
	                              .seq = seq};
	struct store_op *op = append_op(user, epoch, seq, &event, 1);

	op->append.effects.messages = &message;
	op->append.effects.n_messages = 1;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
}

static void messages_come_oldest_first_from_the_newest_backwards(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct store_op *op, *older;
	struct world w;

	make_world(f, &w, &user, epoch, 1);
	put_message(f, &user, epoch, 2, str_c("two"));
	put_message(f, &user, epoch, 3, str_c("three"));
	op = history(f, &user, 2, str_of(NULL, 0));
	assert_int_equal(op->list_messages.n, 2);
	assert_str(op->list_messages.rows[0].text, "two");
	assert_str(op->list_messages.rows[1].text, "three");
	assert_str(op->list_messages.rows[1].thread_id, "t1");
	assert_int_equal(op->list_messages.as_of_seq, 3);
	assert_int_equal(op->list_messages.n_open_runs, 1);
	assert_str(op->list_messages.open_runs[0].run_id, "r1");
	older = history(f, &user, 2, op->list_messages.next);
	assert_int_equal(older->list_messages.n, 1);
	assert_str(older->list_messages.rows[0].text, "hello");
	assert_int_equal(older->list_messages.next.n, 0);
	store_op_free(older);
	store_op_free(op);
}

static void a_page_of_long_messages_ends_before_the_limit(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	size_t size = 900 << 10;
	char *text = malloc(size);
	struct world w;
	struct store_op *op;

	memset(text, 'x', size);
	make_world(f, &w, &user, epoch, 1);
	for (uint64_t seq = 2; seq < 6; seq++)
		put_message(f, &user, epoch, seq, str_of(text, size));
	op = history(f, &user, 10, str_of(NULL, 0));
	assert_int_equal(op->list_messages.n, 2);
	assert_int_equal(op->list_messages.rows[0].seq, 4);
	assert_true(op->list_messages.next.n > 0);
	store_op_free(op);
	free(text);
}

static void a_cursor_that_is_not_ours_is_refused(void **state)
{
	static const char *const bad[] = {"x",
	                                  "t",
	                                  "t5",
	                                  "t5.",
	                                  "t.a",
	                                  "5",
	                                  "r",
	                                  "r-1",
	                                  "r5x",
	                                  "m5x",
	                                  "m",
	                                  "t99999999999999999999.a",
	                                  "t1.0123456789012345678901234567890123456789",
	                                  "r9999999999999999999",
	                                  " r5",
	                                  "r5 "};
	static const enum store_op_kind kinds[] = {STORE_LIST_THREADS, STORE_LIST_MESSAGES, STORE_LIST_RUNS};
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct world w;

	make_world(f, &w, &user, epoch, 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		for (size_t k = 0; k < 3; k++) {
			struct store_op *op = store_op_create(kinds[k], &user, NULL, NULL);

			if (kinds[k] == STORE_LIST_THREADS)
				op->list_threads.before = str_c(bad[i]);
			else if (kinds[k] == STORE_LIST_MESSAGES)
				op->list_messages.before = str_c(bad[i]), op->list_messages.thread_id = str_c("t1");
			else
				op->list_runs.before = str_c(bad[i]);
			assert_int_equal(run_op(f, op), ERR_INVALID_MESSAGE);
			store_op_free(op);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		NAMED(a_new_user_is_granted_at_epoch_1_with_an_empty_log),
		NAMED(acquiring_what_we_own_keeps_the_epoch),
		NAMED(a_living_owner_keeps_his_user),
		NAMED(a_dead_owner_is_overtaken_and_fenced),
		NAMED(an_owner_that_stopped_or_was_replaced_is_overtaken_at_once),
		NAMED(an_incarnation_that_was_replaced_acquires_nothing),
		NAMED(a_released_user_is_anybodys_under_a_higher_epoch),
		NAMED(renewing_raises_the_counter_and_shows_everybody),
		NAMED(events_come_back_as_they_were_given),
		NAMED(an_append_needs_the_epoch_and_the_end_of_the_log),
		NAMED(a_page_ends_at_its_size_but_has_at_least_one_event),
		NAMED(a_new_owner_gets_open_runs_and_the_journal_of_active_ones),
		NAMED(updates_change_what_changes_and_keep_the_rest),
		NAMED(the_journal_of_an_ended_run_goes),
		NAMED(an_append_that_fails_leaves_no_effect),
		NAMED(an_idempotency_key_is_found_by_its_user_until_it_is_old),
		NAMED(old_keys_of_all_users_go_with_new_ones),
		NAMED(a_message_moves_its_thread_up),
		NAMED(notes_are_put_read_listed_and_deleted),
		NAMED(deleting_a_thread_takes_all_of_it_and_nothing_else),
		NAMED(threads_are_listed_in_pages_newest_first),
		NAMED(runs_are_listed_in_pages_newest_first),
		NAMED(messages_come_oldest_first_from_the_newest_backwards),
		NAMED(a_page_of_long_messages_ends_before_the_limit),
		NAMED(a_cursor_that_is_not_ours_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
