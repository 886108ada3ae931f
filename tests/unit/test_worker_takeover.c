/* test_worker_takeover.c - users that change hands, runs that go on elsewhere, workers that drain, stores that fail. */
#include <sqlite3.h>
#include "tests/unit/worker_world.h"

#define ALICE "usr_00000000000a"
#define BOB "usr_00000000000b"

static void start_run(struct worker *w, struct gateway *g, const char *agent, char run_id[64])
{
	struct request request = start_of(g, ALICE, "{\"steps\":[]}");

	request.command.agent = str_c(agent);
	struct reply *reply = ask(w, g, request);
	snprintf(run_id, 64, "%s", field(reply, "run_id"));
}

static void begin_with(struct worker *w, struct gateway *g, void **state, const char *worker, const char *gateway,
                       unsigned incarnation)
{
	worker_begin(w, *state, worker);
	gateway_begin(g, gateway, incarnation);
	hello(w, g);
}

/* The whole log, as the store has it. */
static char *whole_log(struct worker *w, struct gateway *g)
{
	struct buf out = {0};
	struct request request = {.kind = REQUEST_REPLAY};

	request.replay.user_id = str_c(ALICE);
	request.replay.epoch = g->epoch;
	request.replay.from_seq = 1;
	request.replay.max_bytes = 1 << 20;
	struct reply *page = ask(w, g, request);
	assert_int_equal(page->code, ERR_OK);
	for (size_t i = 0; i < page->page.n_events; i++) {
		assert_int_equal(page->page.events[i].seq, i + 1);
		buf_append_str(&out, page->page.events[i].body);
		buf_append_c(&out, "\n");
	}
	buf_append(&out, "", 1);
	return out.p;
}

static void assert_one_terminal(struct worker *w, struct gateway *g, size_t runs)
{
	char *log = whole_log(w, g);
	size_t n = count_in(log, "\"type\":\"agent_completed\"") + count_in(log, "\"type\":\"agent_failed\"") +
	           count_in(log, "\"type\":\"agent_cancelled\"");

	assert_int_equal(count_in(log, "\"type\":\"run_accepted\""), runs);
	assert_int_equal(n, runs);
	free(log);
}

static int journal_rows(const struct fixture *f)
{
	sqlite3 *db;
	sqlite3_stmt *s;

	assert_int_equal(sqlite3_open_v2(f->path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM journal", -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	int n = sqlite3_column_int(s, 0);
	sqlite3_finalize(s);
	sqlite3_close(db);
	return n;
}

/* ---- recovery ---- */

static void run_goes_on_after_its_last_journalled_step(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	start_run(&a, &g, "script", run_id);
	struct agent_run *p = last_process(&a);
	say_think(&a, p, 1, "one");
	say_tool(&a, p, 2, "calculator", "{\"expression\":\"1+1\"}");
	say_outcome(&a, p, 2, "2");
	say(&a, p, (struct run_up){.step = 3, .kind = RUN_MARK, .result = str_c("{\"slept\":5}")});
	say_text(&a, p, 4, "half a mess"); /* not durable */
	worker_end(&a, true);

	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	assert_int_equal(attach(&b, &h, ALICE)->code, ERR_OK);
	assert_string_equal(types(&h), "run_recovered agent_started");
	p = last_process(&b);
	assert_int_equal(p->sent[0].kind, RUN_BEGIN);
	assert_int_equal(p->sent[0].attempt, 2);
	assert_int_equal(p->sent[0].n_journal, 3);
	assert_int_equal(p->sent[0].journal[1].kind, STEP_TOOL);
	assert_int_equal(p->sent[0].journal[2].kind, STEP_MARK);
	say_text(&b, p, 4, "half a message, and the rest");
	say_end(&b, p, 4);
	say_done(&b, p, "");
	char *log = whole_log(&b, &h);
	assert_has(log, "\"type\":\"run_recovered\",\"seq\":7,");
	assert_has(log, "\"attempt\":2,\"reason\":\"worker_lost\"}");
	assert_int_equal(count_in(log, "\"type\":\"agent_started\""), 2);
	assert_int_equal(count_in(log, "\"type\":\"tool_executing\""), 1);
	assert_int_equal(count_in(log, "\"type\":\"agent_message\""), 1);
	free(log);
	assert_one_terminal(&b, &h, 1);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void unfinished_idempotent_call_is_executed_again_but_shown_once(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	start_run(&a, &g, "script", run_id);
	say_tool(&a, last_process(&a), 1, "clock", "{}");
	worker_end(&a, true);

	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	attach(&b, &h, ALICE);
	struct agent_run *p = last_process(&b);
	assert_int_equal(p->sent[0].n_journal, 0);
	say_tool(&b, p, 1, "clock", "{}");
	assert_int_equal(p->sent[1].kind, RUN_TOOL_GO);
	say_outcome(&b, p, 1, "\"now\"");
	say_done(&b, p, "");
	char *log = whole_log(&b, &h);
	assert_int_equal(count_in(log, "\"type\":\"tool_executing\""), 1);
	assert_int_equal(count_in(log, "\"type\":\"tool_completed\""), 1);
	free(log);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

/* No tool of this version is unsafe to repeat: the journal row of one is put there by hand. */
static void put_unfinished_call(struct fixture *f, uint64_t epoch, uint64_t seq, const char *run_id, const char *call_id)
{
	struct user_id user = user_named(ALICE);
	struct event event = {.body = str_c("{\"type\":\"tool_executing\",\"seq\":4}")};
	struct str thread = {0};
	struct journal_row row = {
		.run_id = str_c(run_id),
		.step = {.number = 1, .kind = STEP_TOOL},
		.tool = str_c("send_letter"),
		.tool_call_id = str_c(call_id),
		.arguments = str_c("{}"),
		.started_ms = 1,
	};
	struct store_op *op = append_op(&user, epoch, seq, &event, 1);
	op->append.threads = &thread;
	op->append.effects.journal_put = &row;
	op->append.effects.n_journal_put = 1;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
}

static void unfinished_call_of_unknown_effect_is_in_doubt(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	start_run(&a, &g, "script", run_id);
	worker_end(&a, true);
	put_unfinished_call(*state, g.epoch, 4, run_id, "00000000-0000-4000-8000-0000000000cc");

	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	attach(&b, &h, ALICE);
	struct agent_run *p = last_process(&b);
	assert_int_equal(p->sent[0].n_journal, 1);
	assert_int_equal(p->sent[0].journal[0].number, 1);
	assert_int_equal(p->sent[0].journal[0].status, TOOL_IN_DOUBT);
	char *log = whole_log(&b, &h);
	assert_has(log,
	           "\"tool_call_id\":\"00000000-0000-4000-8000-0000000000cc\",\"tool\":\"send_letter\",\"status\":\"in_doubt\"");
	free(log);
	say_done(&b, p, "");
	assert_one_terminal(&b, &h, 1);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void queued_runs_stay_queued_across_owners(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	a.host.ready = false;
	start_run(&a, &g, "script", run_id);
	worker_end(&a, true);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	attach(&b, &h, ALICE);
	worker_live(&b, 100);
	say_done(&b, last_process(&b), "");
	char *log = whole_log(&b, &h);
	assert_int_equal(count_in(log, "run_recovered"), 0);
	assert_has(log, "\"attempt\":1}");
	free(log);
	assert_one_terminal(&b, &h, 1);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void interrupt_outlives_the_worker_that_promised_it(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char thread[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	snprintf(thread, sizeof(thread), "%s", field(ask(&a, &g, start_of(&g, ALICE, "\"x\"")), "thread_id"));
	struct request request = start_of(&g, ALICE, "\"y\"");
	request.command.thread_id = str_c(thread);
	request.command.on_busy = ON_BUSY_INTERRUPT;
	struct answer *answer = send_request(&a, &g, &request);
	for (int i = 0; i < 2; i++) /* find the thread, accept the run; not more */
		store_pump(a.store);
	assert_int_equal(answer->reply.code, ERR_OK);
	a.faulty.fail_appends = 1; /* the terminal event, which waits for the store, is not to get in */
	worker_end(&a, true);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	attach(&b, &h, ALICE);
	worker_live(&b, 100);
	char *log = whole_log(&b, &h);
	assert_int_equal(count_in(log, "agent_cancelled"), 1);
	assert_int_equal(count_in(log, "run_recovered"), 1); /* what it had streamed is void */
	assert_true(strstr(log, "run_recovered") < strstr(log, "agent_cancelled"));
	free(log);
	assert_string_equal(last_process(&b)->sent[0].text, "\"y\"");
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void text_that_was_closed_before_the_crash_is_not_said_again(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64], *piece = malloc(DELTA_TEXT_MAX + 1);
	memset(piece, 'a', DELTA_TEXT_MAX);
	piece[DELTA_TEXT_MAX] = 0;
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	start_run(&a, &g, "script", run_id);
	for (int i = 0; i < 12; i++) /* 768 KiB: one message of 512 KiB is closed */
		say_text(&a, last_process(&a), 1, piece);
	assert_int_equal(count_in(types(&g), "agent_message"), 1);
	worker_end(&a, true);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	attach(&b, &h, ALICE);
	for (int i = 0; i < 12; i++)
		say_text(&b, last_process(&b), 1, piece);
	say_end(&b, last_process(&b), 1);
	assert_int_equal(journal_rows(*state), 1);
	say_done(&b, last_process(&b), "");
	assert_int_equal(journal_rows(*state), 0); /* it has ended */
	char *log = whole_log(&b, &h);
	assert_int_equal(count_in(log, "\"type\":\"agent_message\""), 2);
	assert_in_range(strlen(log), 768 << 10, 800 << 10);
	free(log);
	free(piece);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void runs_outlive_their_agent_host(void **state)
{
	struct worker w;
	struct gateway g;
	char run_id[64];
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	start_run(&w, &g, "script", run_id);
	say_think(&w, last_process(&w), 1, "one");
	process_exit(&w, last_process(&w), (struct run_exit){.spawned = true, .why = "agent host died"});
	worker_live(&w, 100);
	assert_int_equal(w.host.n, 2);
	assert_int_equal(last_process(&w)->sent[0].n_journal, 1);
	assert_string_equal(types_from(&g, 4), "run_recovered agent_started");
	say_done(&w, last_process(&w), "");
	assert_one_terminal(&w, &g, 1);
	worker_end(&w, true);
	gateway_end(&g);
}

/* What was streamed and not closed is void before the terminal event, though no attempt is started any more. */
static void cancel_before_the_next_attempt_voids_what_was_streamed(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	start_run(&a, &g, "script", run_id);
	say_text(&a, last_process(&a), 1, "half a mess");
	worker_end(&a, true);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 2);
	b.host.ready = false;
	attach(&b, &h, ALICE);
	struct request request = command_of(&h, ALICE, COMMAND_RUN_CANCEL);
	request.command.run_id = str_c(run_id);
	assert_int_equal(ask(&b, &h, request)->code, ERR_OK);
	assert_string_equal(types(&h), "run_recovered agent_cancelled");
	assert_has(h.bodies[0], "\"attempt\":2,\"reason\":\"worker_lost\"");
	assert_one_terminal(&b, &h, 1);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void cancel_while_the_journal_is_read_again_closes_the_call(void **state)
{
	struct worker w;
	struct gateway g;
	char run_id[64];
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	start_run(&w, &g, "script", run_id);
	say_tool(&w, last_process(&w), 1, "clock", "{}");
	struct agent_run *p = last_process(&w);
	p->ended = true;
	p->events.ended(p->ctx, &(struct run_exit){.spawned = true, .why = "agent host died"});
	struct request request = command_of(&g, ALICE, COMMAND_RUN_CANCEL);
	request.command.run_id = str_c(run_id);
	assert_int_equal(ask(&w, &g, request)->code, ERR_OK);
	assert_string_equal(types_from(&g, 3), "tool_executing run_recovered tool_completed agent_cancelled");
	assert_has(g.bodies[5], "\"status\":\"cancelled\"");
	assert_one_terminal(&w, &g, 1);
	worker_end(&w, true);
	gateway_end(&g);
}

/* ---- fencing ---- */

static void nobody_is_told_that_a_user_is_ours_while_the_lease_does_not_hold(void **state)
{
	struct worker w;
	struct gateway g;
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	w.faulty.fail_renewals = 1000;
	worker_live(&w, WORLD_TTL);
	assert_int_equal(attach(&w, &g, ALICE)->code, ERR_UNAVAILABLE);
	w.faulty.fail_renewals = 0;
	worker_live(&w, 1000);
	assert_int_equal(attach(&w, &g, ALICE)->code, ERR_OK);
	worker_end(&w, true);
	gateway_end(&g);
}

static void user_is_asked_for_until_the_store_says_whose_it_is(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 1);
	worker_live(&b, WORLD_TTL + 1500);
	assert_int_equal(attach(&b, &h, ALICE)->code, ERR_OK);
	a.faulty.fail_acquires = 2;
	a.now += 10000;
	worker_live(&a, 2000);
	assert_int_equal(g.n_lost, 1);
	worker_end(&a, true);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void user_of_a_living_worker_is_moved_not_taken(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 1);
	struct reply *reply = attach(&b, &h, ALICE);
	assert_int_equal(reply->code, ERR_MOVED);
	assert_str(reply->moved.worker_url, "ipc:///run/worker-a");
	assert_str(reply->moved.worker_id, "worker-a");
	worker_end(&a, true);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void overtaken_worker_stops_at_its_next_write(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	char run_id[64];
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	start_run(&a, &g, "script", run_id);
	struct agent_run *old = last_process(&a);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 1);
	/* a stands still; b watches it for a full ttl */
	worker_live(&b, WORLD_TTL + 1500);
	assert_int_equal(attach(&b, &h, ALICE)->code, ERR_OK);
	assert_int_equal(h.epoch, g.epoch + 1);
	/* a goes on as if nothing had been */
	say_think(&a, old, 1, "I write on");
	assert_true(old->forgotten);
	assert_int_equal(g.n_lost, 1);
	assert_int_equal(ask(&a, &g, start_of(&g, ALICE, "\"x\""))->code, ERR_FENCED);
	say_think(&b, last_process(&b), 1, "I write");
	say_done(&b, last_process(&b), "");
	char *log = whole_log(&b, &h);
	assert_null(strstr(log, "I write on"));
	free(log);
	assert_one_terminal(&b, &h, 1);
	worker_end(&a, true);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void overtaken_worker_finds_out_without_writing(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 1);
	worker_live(&b, WORLD_TTL + 1500);
	assert_int_equal(attach(&b, &h, ALICE)->code, ERR_OK);
	a.now += 10000;
	worker_live(&a, 1000);
	assert_int_equal(g.n_lost, 1);
	assert_int_equal(attach(&a, &g, ALICE)->code, ERR_MOVED);
	worker_end(&a, true);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void command_in_flight_is_answered_when_the_user_is_lost(void **state)
{
	struct worker a, b;
	struct gateway g, h;
	begin_with(&a, &g, state, "worker-a", "gateway-1", 1);
	attach(&a, &g, ALICE);
	begin_with(&b, &h, state, "worker-b", "gateway-1", 1);
	worker_live(&b, WORLD_TTL + 1500);
	attach(&b, &h, ALICE);
	struct request request = start_of(&g, ALICE, "\"x\"");
	request.command.idempotency_key = str_c("k");
	struct answer *first = send_request(&a, &g, &request);
	request.number = 0;
	struct answer *follower = send_request(&a, &g, &request);
	worker_turn(&a);
	assert_int_equal(first->reply.code, ERR_FENCED);
	assert_int_equal(follower->reply.code, ERR_FENCED);
	worker_end(&a, true);
	worker_end(&b, true);
	gateway_end(&g);
	gateway_end(&h);
}

/* ---- draining, fullness ---- */

static void on_drained(void *ctx)
{
	((struct worker *)ctx)->drained = true;
}

static void draining_worker_gives_idle_users_back_and_waits_for_runs(void **state)
{
	struct worker w;
	struct gateway g;
	char run_id[64];
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, BOB);
	attach(&w, &g, ALICE);
	start_run(&w, &g, "script", run_id);
	core_drain(w.core, 30000, on_drained, &w);
	worker_turn(&w);
	assert_int_equal(g.n_lost, 1); /* Bob */
	assert_false(w.drained);
	assert_int_equal(attach(&w, &g, BOB)->code, ERR_DRAINING);
	assert_int_equal(ask(&w, &g, start_of(&g, ALICE, "\"later\""))->code, ERR_OK); /* accepted, journalled, not started */
	assert_int_equal(w.host.n, 1);
	worker_live(&w, 300);
	assert_true(g.draining);
	say_done(&w, last_process(&w), "");
	worker_turn(&w);
	assert_true(w.drained);
	assert_int_equal(g.n_lost, 2);
	worker_end(&w, true);

	struct worker next;
	struct gateway h;
	begin_with(&next, &h, state, "worker-b", "gateway-1", 2);
	attach(&next, &h, ALICE);
	worker_live(&next, 100);
	assert_string_equal(last_process(&next)->sent[0].text, "\"later\"");
	say_done(&next, last_process(&next), "");
	assert_one_terminal(&next, &h, 2);
	worker_end(&next, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void drain_deadline_cuts_runs_without_a_terminal(void **state)
{
	struct worker w, next;
	struct gateway g, h;
	char run_id[64];
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	start_run(&w, &g, "script", run_id);
	core_drain(w.core, 1000, on_drained, &w);
	worker_live(&w, 1200);
	assert_true(w.drained);
	assert_string_equal(types(&g), "thread_created run_accepted agent_started");
	worker_end(&w, true);
	begin_with(&next, &h, state, "worker-b", "gateway-1", 2);
	attach(&next, &h, ALICE);
	say_done(&next, last_process(&next), "");
	assert_one_terminal(&next, &h, 1);
	worker_end(&next, true);
	gateway_end(&g);
	gateway_end(&h);
}

static void full_worker_says_so(void **state)
{
	struct worker w;
	struct gateway g;
	worker_begin_with(&w, *state, "worker-a", &(struct core_config){.max_users = 1});
	gateway_begin(&g, "gateway-1", 1);
	hello(&w, &g);
	assert_int_equal(attach(&w, &g, ALICE)->code, ERR_OK);
	assert_int_equal(attach(&w, &g, BOB)->code, ERR_FULL);
	assert_int_equal(attach(&w, &g, ALICE)->code, ERR_OK);
	worker_end(&w, true);
	gateway_end(&g);
}

/* ---- a store that fails ---- */

static void output_waits_for_the_store_and_comes_once(void **state)
{
	struct worker w;
	struct gateway g;
	char run_id[64];
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	start_run(&w, &g, "script", run_id);
	struct agent_run *p = last_process(&w);
	w.faulty.fail_appends = 3;
	say_think(&w, p, 1, "one");
	assert_true(p->paused);
	assert_int_equal(g.n_events, 3);
	worker_live(&w, 1500);
	assert_false(p->paused);
	assert_string_equal(types_from(&g, 3), "agent_thinking");
	say_done(&w, p, "");
	assert_one_terminal(&w, &g, 1);
	worker_end(&w, true);
	gateway_end(&g);
}

static void command_is_told_that_the_store_is_unavailable(void **state)
{
	struct worker w;
	struct gateway g;
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	w.faulty.fail_appends = 1;
	struct request request = start_of(&g, ALICE, "\"x\"");
	request.command.idempotency_key = str_c("k");
	struct reply *reply = ask(&w, &g, request);
	assert_int_equal(reply->code, ERR_UNAVAILABLE);
	assert_true(reply->retry_after_ms > 0);
	assert_true(last_process(&w)->forgotten);
	worker_live(&w, 200);
	request.number = g.number; /* the same again: nothing had happened, so it is carried out */
	assert_int_equal(ask(&w, &g, request)->code, ERR_OK);
	assert_int_equal(count_in(types(&g), "run_accepted"), 1);
	worker_end(&w, true);
	gateway_end(&g);
}

static void core_can_be_destroyed_in_the_middle_of_everything(void **state)
{
	struct worker w;
	struct gateway g;
	char run_id[64];
	begin_with(&w, &g, state, "worker-a", "gateway-1", 1);
	attach(&w, &g, ALICE);
	start_run(&w, &g, "script", run_id);
	struct agent_run *p = last_process(&w);
	say_text(&w, p, 1, "half");
	struct request start = start_of(&g, ALICE, "\"x\""), list = command_of(&g, ALICE, COMMAND_THREAD_LIST);
	start.command.idempotency_key = str_c("k");
	struct answer *answers[] = {
		send_request(&w, &g, &start),
		send_request(&w, &g, &list),
		send_request(&w, &g, &(struct request){.kind = REQUEST_ATTACH, .attach.user_id = str_c(BOB)}),
	};
	w.faulty.fail_appends = 1;
	size_t begin = frame_begin(&p->waiting);
	assert_int_equal(run_up_encode(&(struct run_up){.step = 1, .kind = RUN_MESSAGE_END}, &p->waiting), ERR_OK);
	frame_end(&p->waiting, begin);
	process_deliver(p);
	worker_end(&w, true);
	(void)answers; /* each was answered, or asan would tell of its request */
	gateway_end(&g);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
	const struct CMUnitTest tests[] = {
		CASE(run_goes_on_after_its_last_journalled_step),
		CASE(unfinished_idempotent_call_is_executed_again_but_shown_once),
		CASE(unfinished_call_of_unknown_effect_is_in_doubt),
		CASE(queued_runs_stay_queued_across_owners),
		CASE(interrupt_outlives_the_worker_that_promised_it),
		CASE(text_that_was_closed_before_the_crash_is_not_said_again),
		CASE(runs_outlive_their_agent_host),
		CASE(cancel_before_the_next_attempt_voids_what_was_streamed),
		CASE(cancel_while_the_journal_is_read_again_closes_the_call),
		CASE(nobody_is_told_that_a_user_is_ours_while_the_lease_does_not_hold),
		CASE(user_is_asked_for_until_the_store_says_whose_it_is),
		CASE(user_of_a_living_worker_is_moved_not_taken),
		CASE(overtaken_worker_stops_at_its_next_write),
		CASE(overtaken_worker_finds_out_without_writing),
		CASE(command_in_flight_is_answered_when_the_user_is_lost),
		CASE(draining_worker_gives_idle_users_back_and_waits_for_runs),
		CASE(drain_deadline_cuts_runs_without_a_terminal),
		CASE(full_worker_says_so),
		CASE(output_waits_for_the_store_and_comes_once),
		CASE(command_is_told_that_the_store_is_unavailable),
		CASE(core_can_be_destroyed_in_the_middle_of_everything),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
