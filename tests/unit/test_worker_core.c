/* test_worker_core.c - users, commands, runs and what is published of them, by one worker over a real store. */
#include "tests/unit/worker_world.h"

#include "common/json.h"

#define ALICE "usr_00000000000a"
#define BOB "usr_00000000000b"

struct set {
	struct worker w;
	struct gateway g;
};

static void begin(struct set *s, void **state)
{
	worker_begin(&s->w, *state, "worker-1");
	gateway_begin(&s->g, "gateway-1", 1);
	hello(&s->w, &s->g);
	assert_int_equal(attach(&s->w, &s->g, ALICE)->code, ERR_OK);
}

static void end(struct set *s)
{
	worker_end(&s->w, true);
	gateway_end(&s->g);
}

static struct reply *start(struct set *s, const char *input)
{
	return ask(&s->w, &s->g, start_of(&s->g, ALICE, input));
}

static struct reply *start_in(struct set *s, const char *thread, enum on_busy on_busy)
{
	struct request request = start_of(&s->g, ALICE, "\"more\"");

	request.command.thread_id = str_c(thread);
	request.command.on_busy = on_busy;
	return ask(&s->w, &s->g, request);
}

static struct reply *cancel(struct set *s, const char *run_id)
{
	struct request request = command_of(&s->g, ALICE, COMMAND_RUN_CANCEL);

	request.command.run_id = str_c(run_id);
	return ask(&s->w, &s->g, request);
}

static struct reply *replay(struct set *s, uint64_t from, uint32_t max_bytes)
{
	struct request request = {.kind = REQUEST_REPLAY};

	request.replay.user_id = str_c(ALICE);
	request.replay.epoch = s->g.epoch;
	request.replay.from_seq = from;
	request.replay.max_bytes = max_bytes;
	request.replay.with_open = true;
	return ask(&s->w, &s->g, request);
}

/* ---- the path of one run ---- */

static void run_is_told_in_order_from_acceptance_to_end(void **state)
{
	struct set s;
	begin(&s, state);
	struct reply *reply = start(&s, "\"hello\\nworld\"");
	assert_int_equal(number_field(reply, "seq"), 2);
	char run_id[64];
	snprintf(run_id, sizeof(run_id), "%s", field(reply, "run_id"));
	struct agent_run *p = last_process(&s.w);
	assert_int_equal(p->sent[0].kind, RUN_BEGIN);
	assert_string_equal(p->sent[0].text, "\"hello\\nworld\"");
	say_think(&s.w, p, 1, "hm");
	say_tool(&s.w, p, 2, "clock", "{}");
	assert_int_equal(p->sent[1].kind, RUN_TOOL_GO);
	say_outcome(&s.w, p, 2, "{\"utc\":\"now\"}");
	assert_int_equal(p->sent[2].kind, RUN_TOOL_RESULT);
	assert_string_equal(p->sent[2].text, "{\"utc\":\"now\"}");
	say_text(&s.w, p, 3, "It ");
	say_text(&s.w, p, 3, "is now.");
	assert_string_equal(str_eq_c(buf_str(&s.g.text), "It is now.") ? "" : "differs", "");
	assert_int_equal(s.g.after_seq, 6); /* of its tool_completed */
	say_end(&s.w, p, 3);
	say_done(&s.w, p, "\"It is now.\"");
	assert_string_equal(types(&s.g), "thread_created run_accepted agent_started agent_thinking tool_executing tool_completed "
	                                 "agent_message agent_completed");
	for (size_t i = 0; i < s.g.n_events; i++)
		assert_int_equal(s.g.seqs[i], i + 1);
	assert_has(s.g.bodies[0], "\"title\":\"hello\"");
	char expected[512];
	snprintf(expected, sizeof(expected), "{\"type\":\"run_accepted\",\"seq\":2,\"run_id\":\"%s\",\"thread_id\":\"", run_id);
	assert_int_equal(strncmp(s.g.bodies[1], expected, strlen(expected)), 0);
	assert_has(s.g.bodies[1], "\",\"ts\":\"2026-01-01T00:1");
	assert_has(s.g.bodies[1], "\"agent\":\"demo\",\"input\":\"hello\\nworld\",\"request_id\":\"c1\"}");
	assert_has(s.g.bodies[4], "\"tool\":\"clock\",\"arguments\":{}");
	assert_has(s.g.bodies[5], "\"status\":\"ok\",\"result\":{\"utc\":\"now\"},\"duration_ms\":0}");
	assert_has(s.g.bodies[6], "\"role\":\"assistant\",\"text\":\"It is now.\"");
	assert_has(s.g.bodies[7], "\"output\":\"It is now.\",\"usage\":{\"steps\":1},\"duration_ms\":");
	end(&s);
}

static void output_waits_for_the_commit_before_it(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	size_t before = frame_begin(&p->waiting);
	struct run_up think = {.step = 1, .kind = RUN_THINK};
	assert_int_equal(run_up_encode(&think, &p->waiting), ERR_OK);
	frame_end(&p->waiting, before);
	process_deliver(p);
	assert_true(p->paused); /* until the store has it */
	worker_turn(&s.w);
	assert_false(p->paused);
	end(&s);
}

static void history_and_lists_show_what_happened(void **state)
{
	struct set s;
	begin(&s, state);
	char thread[64];
	snprintf(thread, sizeof(thread), "%s", field(start(&s, "\"question\""), "thread_id"));
	struct agent_run *p = last_process(&s.w);
	say_text(&s.w, p, 1, "answer");
	say_end(&s.w, p, 1);
	struct request request = command_of(&s.g, ALICE, COMMAND_THREAD_HISTORY);
	request.command.thread_id = str_c(thread);
	struct reply *reply = ask(&s.w, &s.g, request);
	char fields[2048];
	snprintf(fields, sizeof(fields), STR_FMT, STR_ARG(reply->command.fields));
	assert_has(fields, "\"role\":\"user\",\"text\":\"question\",\"seq\":2,\"ts\":");
	assert_has(fields, "\"role\":\"assistant\",\"text\":\"answer\",\"seq\":4,\"ts\":");
	assert_has(fields, "\"status\":\"active\"");
	assert_has(fields, "\"as_of_seq\":4");
	say_done(&s.w, p, "");
	reply = ask(&s.w, &s.g, command_of(&s.g, ALICE, COMMAND_RUN_LIST));
	snprintf(fields, sizeof(fields), STR_FMT, STR_ARG(reply->command.fields));
	assert_has(fields, "\"status\":\"completed\"");
	assert_has(fields, "\"ended_at\":\"2026");
	reply = ask(&s.w, &s.g, command_of(&s.g, ALICE, COMMAND_THREAD_LIST));
	snprintf(fields, sizeof(fields), STR_FMT, STR_ARG(reply->command.fields));
	assert_has(fields, "{\"threads\":[{\"thread_id\":");
	assert_has(fields, "\"title\":\"question\"");
	assert_null(strstr(fields, "active_run_id"));
	request = command_of(&s.g, ALICE, COMMAND_RUN_LIST);
	request.command.thread_id = str_c("00000000-0000-4000-8000-00000000dead");
	assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_NOT_FOUND);
	end(&s);
}

static void refused_starts_say_why_and_start_nothing(void **state)
{
	struct set s;
	begin(&s, state);
	struct request request = start_of(&s.g, ALICE, "\"x\"");
	request.command.agent = str_c("nobody");
	assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_UNKNOWN_AGENT);
	request = start_of(&s.g, ALICE, "\"x\"");
	request.command.thread_id = str_c("00000000-0000-4000-8000-00000000dead");
	assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_NOT_FOUND);
	assert_int_equal(ask(&s.w, &s.g, start_of(&s.g, ALICE, "17"))->code, ERR_INVALID_MESSAGE);
	request = start_of(&s.g, ALICE, "\"x\"");
	request.command.epoch = s.g.epoch + 1;
	assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_FENCED);
	assert_int_equal(ask(&s.w, &s.g, start_of(&s.g, BOB, "\"x\""))->code, ERR_FENCED);
	assert_int_equal(s.g.n_events, 0);
	assert_int_equal(s.w.host.n, 0);
	end(&s);
}

/* ---- idempotency, duplicates ---- */

static struct request keyed(struct set *s, const char *key, const char *input)
{
	struct request request = start_of(&s->g, ALICE, input);

	request.command.idempotency_key = str_c(key);
	return request;
}

static void same_key_answers_with_the_first_run(void **state)
{
	struct set s;
	begin(&s, state);
	char first[64];
	snprintf(first, sizeof(first), "%s", field(ask(&s.w, &s.g, keyed(&s, "k", "\"x\"")), "run_id"));
	struct reply *again = ask(&s.w, &s.g, keyed(&s, "k", "\"x\""));
	assert_string_equal(field(again, "run_id"), first);
	assert_int_equal(number_field(again, "seq"), 2);
	assert_int_equal(ask(&s.w, &s.g, keyed(&s, "k", "\"other\""))->code, ERR_CONFLICT);
	assert_string_not_equal(field(ask(&s.w, &s.g, keyed(&s, "k2", "\"x\"")), "run_id"), first);
	assert_int_equal(s.w.host.n, 2);
	end(&s);
}

static void starts_with_one_key_in_flight_join(void **state)
{
	struct set s;
	begin(&s, state);
	struct answer *answers[10];
	for (int i = 0; i < 10; i++) {
		struct request request = keyed(&s, "k", i == 9 ? "\"other\"" : "\"x\"");
		answers[i] = send_request(&s.w, &s.g, &request);
	}
	worker_turn(&s.w);
	char first[64];
	snprintf(first, sizeof(first), "%s", field(&answers[0]->reply, "run_id"));
	for (int i = 1; i < 9; i++)
		assert_string_equal(field(&answers[i]->reply, "run_id"), first);
	assert_int_equal(answers[9]->reply.code, ERR_CONFLICT);
	assert_int_equal(count_in(types(&s.g), "run_accepted"), 1);
	end(&s);
}

static void key_is_known_after_the_next_worker_took_over(void **state)
{
	struct set s;
	begin(&s, state);
	char first[64];
	snprintf(first, sizeof(first), "%s", field(ask(&s.w, &s.g, keyed(&s, "k", "\"x\"")), "run_id"));
	end(&s);
	begin(&s, state);
	assert_string_equal(field(ask(&s.w, &s.g, keyed(&s, "k", "\"x\"")), "run_id"), first);
	end(&s);
}

static void repeated_request_number_gets_the_same_reply(void **state)
{
	struct set s;
	begin(&s, state);
	struct request request = start_of(&s.g, ALICE, "\"x\"");
	struct answer *first = send_request(&s.w, &s.g, &request);
	struct answer *joined = send_request(&s.w, &s.g, &request); /* while it is under way */
	worker_turn(&s.w);
	assert_int_equal(joined->times, 1);
	struct answer *later = send_request(&s.w, &s.g, &request);
	assert_int_equal(later->times, 1);
	char id[64];
	snprintf(id, sizeof(id), "%s", field(&first->reply, "run_id"));
	assert_string_equal(field(&joined->reply, "run_id"), id);
	assert_string_equal(field(&later->reply, "run_id"), id);
	assert_int_equal(s.w.host.n, 1);
	end(&s);
}

/* ---- one run a thread, many a user ---- */

static void runs_of_one_thread_take_turns(void **state)
{
	struct set s;
	begin(&s, state);
	char thread[64];
	snprintf(thread, sizeof(thread), "%s", field(start(&s, "\"x\""), "thread_id"));
	assert_int_equal(start_in(&s, thread, ON_BUSY_ENQUEUE)->code, ERR_OK);
	assert_int_equal(s.w.host.n, 1);
	assert_int_equal(start_in(&s, thread, ON_BUSY_REJECT)->code, ERR_BUSY);
	struct reply *list = ask(&s.w, &s.g, command_of(&s.g, ALICE, COMMAND_RUN_LIST));
	char runs[1024];
	snprintf(runs, sizeof(runs), STR_FMT, STR_ARG(list->command.fields));
	assert_has(runs, "\"status\":\"queued\"}"); /* not started yet */
	assert_int_equal(count_in(runs, "started_at"), 1);
	say_done(&s.w, s.w.host.processes[0], "");
	assert_int_equal(s.w.host.n, 2);
	assert_string_equal(types_from(&s.g, 3), "run_accepted agent_completed agent_started");
	end(&s);
}

static void interrupt_cancels_what_is_open_in_the_thread(void **state)
{
	struct set s;
	begin(&s, state);
	char thread[64];
	snprintf(thread, sizeof(thread), "%s", field(start(&s, "\"x\""), "thread_id"));
	start_in(&s, thread, ON_BUSY_ENQUEUE);
	assert_int_equal(start_in(&s, thread, ON_BUSY_INTERRUPT)->code, ERR_OK);
	assert_string_equal(types_from(&s.g, 3), "run_accepted run_accepted agent_cancelled agent_cancelled agent_started");
	assert_has(s.g.bodies[5], "\"by\":\"interrupt\"");
	assert_int_equal(s.w.host.processes[0]->sent[1].kind, RUN_CANCEL);
	end(&s);
}

static void more_than_max_active_wait_and_max_queued_is_full(void **state)
{
	struct set s;
	begin(&s, state);
	struct request request = start_of(&s.g, ALICE, "\"x\"");
	request.command.max_active = 2;
	request.command.max_queued = 1;
	for (int i = 0; i < 3; i++, request.number = 0)
		assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_OK);
	assert_int_equal(s.w.host.n, 2);
	assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_QUEUE_FULL);
	say_done(&s.w, s.w.host.processes[0], "");
	assert_int_equal(s.w.host.n, 3);
	end(&s);
}

static void runs_wait_for_the_agent_host(void **state)
{
	struct set s;
	begin(&s, state);
	s.w.host.ready = false;
	assert_int_equal(start(&s, "\"x\"")->code, ERR_OK);
	assert_string_equal(types(&s.g), "thread_created run_accepted");
	s.w.host.ready = true;
	worker_live(&s.w, 500);
	assert_string_equal(types(&s.g), "thread_created run_accepted agent_started");
	end(&s);
}

static void free_processes_go_round_the_users(void **state)
{
	struct set s;
	worker_begin_with(&s.w, *state, "worker-1", &(struct core_config){.max_runs = 1});
	gateway_begin(&s.g, "gateway-1", 1);
	hello(&s.w, &s.g);
	attach(&s.w, &s.g, BOB);
	uint64_t bobs = s.g.epoch;
	attach(&s.w, &s.g, ALICE);
	for (int i = 0; i < 3; i++)
		start(&s, "\"alice\"");
	s.g.epoch = bobs;
	ask(&s.w, &s.g, start_of(&s.g, BOB, "\"bob\""));
	say_done(&s.w, s.w.host.processes[0], "");
	process_exit(&s.w, s.w.host.processes[0], (struct run_exit){.spawned = true});
	say_done(&s.w, s.w.host.processes[1], "");
	process_exit(&s.w, s.w.host.processes[1], (struct run_exit){.spawned = true});
	assert_int_equal(s.w.host.n, 3);
	assert_string_equal(s.w.host.processes[1]->sent[0].text, "\"alice\"");
	assert_string_equal(s.w.host.processes[2]->sent[0].text, "\"bob\"");
	end(&s);
}

/* ---- cancel ---- */

static void cancel_in_each_state(void **state)
{
	struct set s;
	begin(&s, state);
	char first[64], queued[64], thread[64];
	struct reply *reply = start(&s, "\"x\"");
	snprintf(first, sizeof(first), "%s", field(reply, "run_id"));
	snprintf(thread, sizeof(thread), "%s", field(reply, "thread_id"));
	snprintf(queued, sizeof(queued), "%s", field(start_in(&s, thread, ON_BUSY_ENQUEUE), "run_id"));
	assert_int_equal(cancel(&s, "00000000-0000-4000-8000-00000000dead")->code, ERR_NOT_FOUND);
	assert_int_equal(cancel(&s, queued)->code, ERR_OK);
	assert_has(last_body(&s.g), "\"type\":\"agent_cancelled\"");
	assert_has(last_body(&s.g), "\"by\":\"user\"");
	assert_has(last_body(&s.g), queued);
	assert_int_equal(cancel(&s, queued)->code, ERR_NOT_ACTIVE);
	struct agent_run *p = last_process(&s.w);
	say_text(&s.w, p, 1, "half a sen");
	assert_int_equal(cancel(&s, first)->code, ERR_OK);
	assert_string_equal(types_from(&s.g, 5), "agent_message agent_cancelled");
	assert_int_equal(p->sent[p->n_sent - 1].kind, RUN_CANCEL);
	say_done(&s.w, p, "\"too late\"");
	assert_false(p->forgotten);
	worker_live(&s.w, 600);
	assert_true(p->forgotten);
	assert_int_equal(count_in(types(&s.g), "agent_completed"), 0);
	assert_int_equal(cancel(&s, first)->code, ERR_NOT_ACTIVE);
	end(&s);
}

static void cancel_during_a_tool_closes_the_call(void **state)
{
	struct set s;
	begin(&s, state);
	char run[64];
	snprintf(run, sizeof(run), "%s", field(start(&s, "\"x\""), "run_id"));
	say_tool(&s.w, last_process(&s.w), 1, "clock", "{}");
	assert_int_equal(cancel(&s, run)->code, ERR_OK);
	assert_string_equal(types_from(&s.g, 3), "tool_executing tool_completed agent_cancelled");
	assert_has(s.g.bodies[4], "\"status\":\"cancelled\"");
	end(&s);
}

static void cancel_before_the_acceptance_is_durable_is_carried_out_after_it(void **state)
{
	struct set s;
	begin(&s, state);
	struct request request = start_of(&s.g, ALICE, "\"x\"");
	struct answer *answer = send_request(&s.w, &s.g, &request);
	json_t *known = core_state(s.w.core);
	const char *run_id = json_string_value(
		json_object_get(json_array_get(json_object_get(json_array_get(json_object_get(known, "users"), 0), "runs"), 0),
	                        "run_id"));
	request = command_of(&s.g, ALICE, COMMAND_RUN_CANCEL);
	request.command.run_id = str_c(run_id);
	struct answer *cancelled = send_request(&s.w, &s.g, &request);
	worker_turn(&s.w);
	assert_int_equal(answer->reply.code, ERR_OK);
	assert_int_equal(cancelled->reply.code, ERR_OK);
	assert_string_equal(types(&s.g), "thread_created run_accepted agent_started agent_cancelled");
	json_decref(known);
	end(&s);
}

/* ---- threads ---- */

static struct reply *thread_command(struct set *s, enum command_kind kind, const char *thread)
{
	struct request request = command_of(&s->g, ALICE, kind);

	request.command.thread_id = str_c(thread);
	request.command.title = str_c(kind == COMMAND_THREAD_RENAME ? "new" : "");
	return ask(&s->w, &s->g, request);
}

static void threads_are_renamed_and_deleted(void **state)
{
	struct set s;
	begin(&s, state);
	char thread[64];
	snprintf(thread, sizeof(thread), "%s", field(start(&s, "\"x\""), "thread_id"));
	assert_int_equal(thread_command(&s, COMMAND_THREAD_RENAME, thread)->code, ERR_OK);
	assert_has(last_body(&s.g), "\"type\":\"thread_renamed\"");
	assert_has(last_body(&s.g), "\"title\":\"new\"}");
	assert_null(strstr(last_body(&s.g), "run_id"));
	assert_int_equal(thread_command(&s, COMMAND_THREAD_DELETE, thread)->code, ERR_BUSY);
	say_done(&s.w, last_process(&s.w), "");
	assert_int_equal(thread_command(&s, COMMAND_THREAD_DELETE, thread)->code, ERR_OK);
	assert_int_equal(thread_command(&s, COMMAND_THREAD_DELETE, thread)->code, ERR_NOT_FOUND);
	assert_int_equal(start_in(&s, thread, ON_BUSY_ENQUEUE)->code, ERR_NOT_FOUND);
	struct reply *page = replay(&s, 1, 1 << 20); /* from memory */
	assert_int_equal(page->page.n_events, 6);
	assert_str(page->page.events[1].body, "{\"type\":\"deleted\",\"seq\":2}");
	assert_str(page->page.events[1].closes_message_id, "");
	assert_has(page->page.events[5].body.p, "thread_deleted");
	end(&s);
}

static void commands_on_one_thread_do_not_overtake_each_other(void **state)
{
	struct set s;
	begin(&s, state);
	char thread[64];
	snprintf(thread, sizeof(thread), "%s", field(start(&s, "\"x\""), "thread_id"));
	say_done(&s.w, last_process(&s.w), "");
	struct request rename = command_of(&s.g, ALICE, COMMAND_THREAD_RENAME), run = start_of(&s.g, ALICE, "\"y\""),
		       gone = command_of(&s.g, ALICE, COMMAND_THREAD_DELETE);
	rename.command.thread_id = run.command.thread_id = gone.command.thread_id = str_c(thread);
	rename.command.title = str_c("new");
	struct answer *answers[] = {
		send_request(&s.w, &s.g, &rename),
		send_request(&s.w, &s.g, &run),
		send_request(&s.w, &s.g, &gone),
	};
	worker_turn(&s.w);
	assert_int_equal(answers[0]->reply.code, ERR_OK);
	assert_int_equal(answers[1]->reply.code, ERR_OK);
	assert_int_equal(answers[2]->reply.code, ERR_BUSY);
	struct reply *list = ask(&s.w, &s.g, command_of(&s.g, ALICE, COMMAND_THREAD_LIST));
	assert_has(list->command.fields.p, "\"title\":\"new\"");
	end(&s);
}

/* ---- tools ---- */

static void notes_are_kept_with_the_call_that_made_them(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	say_tool(&s.w, p, 1, "notes", "{\"op\":\"put\",\"key\":\"colour\",\"value\":\"blue\"}");
	assert_string_equal(p->sent[1].text, "{\"key\":\"colour\",\"stored\":true}");
	say_tool(&s.w, p, 2, "notes", "{\"op\":\"get\",\"key\":\"colour\"}");
	assert_string_equal(p->sent[2].text, "{\"key\":\"colour\",\"value\":\"blue\"}");
	say_tool(&s.w, p, 3, "notes", "{\"op\":\"list\"}");
	assert_string_equal(p->sent[3].text, "{\"keys\":[\"colour\"]}");
	say_tool(&s.w, p, 4, "notes", "{\"op\":\"delete\",\"key\":\"colour\"}");
	assert_string_equal(p->sent[4].text, "{\"key\":\"colour\",\"deleted\":true}");
	say_tool(&s.w, p, 5, "notes", "{\"op\":\"get\",\"key\":\"colour\"}");
	assert_string_equal(p->sent[5].text, "{\"key\":\"colour\",\"found\":false}");
	say_tool(&s.w, p, 6, "notes", "{\"op\":\"burn\"}");
	assert_int_equal(p->sent[6].status, TOOL_ERROR);
	assert_has(last_body(&s.g), "\"status\":\"error\"");
	end(&s);
}

static void unknown_tool_is_denied_and_the_run_goes_on(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	say_tool(&s.w, p, 1, "rocket", "{\"to\":\"moon\"}");
	assert_string_equal(types_from(&s.g, 3), "tool_executing tool_completed");
	assert_has(last_body(&s.g), "\"status\":\"denied\"");
	assert_int_equal(p->sent[1].kind, RUN_TOOL_RESULT);
	assert_int_equal(p->sent[1].status, TOOL_DENIED);
	say_done(&s.w, p, "1");
	assert_has(last_body(&s.g), "\"output\":1");
	end(&s);
}

static void large_results_are_cut_and_say_so(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	char *result = malloc(400001);
	memset(result, 'a', 400000);
	result[0] = result[399999] = '"';
	result[400000] = 0;
	say_tool(&s.w, p, 1, "clock", "{}");
	say_outcome(&s.w, p, 1, result);
	free(result);
	assert_has(last_body(&s.g), "\"truncated\":true");
	assert_true(strlen(last_body(&s.g)) < 270000);
	say_done(&s.w, p, "");
	end(&s);
}

/* ---- how runs end ---- */

static void assert_failed(struct set *s, const char *code)
{
	char part[64];

	snprintf(part, sizeof(part), "\"code\":\"%s\"", code);
	assert_has(last_body(&s->g), "\"type\":\"agent_failed\"");
	assert_has(last_body(&s->g), part);
}

static void exits_become_the_right_terminal(void **state)
{
	static const struct {
		struct run_exit exit;
		const char *code;
	} rows[] = {
		{{.spawned = true, .exit_status = 0}, "agent_crashed"},
		{{.spawned = true, .exit_status = 3}, "agent_crashed"},
		{{.spawned = true, .signal = SIGSEGV, .peak_rss_bytes = 10 << 20}, "agent_crashed"},
		{{.spawned = true, .signal = SIGSEGV, .peak_rss_bytes = 250 << 20}, "memory_limit"},
		{{.spawned = true, .signal = SIGXCPU}, "budget_exceeded"},
		{{.spawned = true, .protocol_error = true, .signal = SIGKILL, .why = "too long"}, "agent_error"},
		{{.spawned = false, .why = "sandbox: landlock"}, "internal"},
	};
	struct set s;
	begin(&s, state);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		start(&s, "\"x\"");
		process_exit(&s.w, last_process(&s.w), rows[i].exit);
		assert_failed(&s, rows[i].code);
	}
	assert_int_equal(count_in(types(&s.g), "agent_failed"), sizeof(rows) / sizeof(rows[0]));
	end(&s);
}

static void crash_during_a_message_closes_it(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	say_text(&s.w, last_process(&s.w), 1, "I was say");
	process_exit(&s.w, last_process(&s.w), (struct run_exit){.spawned = true, .signal = SIGABRT});
	assert_string_equal(types_from(&s.g, 3), "agent_message agent_failed");
	end(&s);
}

static void forger_is_denied(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	say(&s.w, p, (struct run_up){.step = 1, .kind = RUN_THINK, .claimed_user_id = str_c(BOB), .text = str_c("I am Bob")});
	assert_failed(&s, "denied");
	assert_true(p->forgotten);
	assert_int_equal(count_in(types(&s.g), "agent_thinking"), 0);
	end(&s);
}

/* As a gateway does, which would be taken for dead otherwise. */
static void acknowledge(struct set *s)
{
	struct request credit = {.kind = REQUEST_CREDIT, .credit.received = s->g.received};

	assert_int_equal(ask(&s->w, &s->g, credit)->code, ERR_OK);
}

static void limits_end_the_run(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	say_tool(&s.w, last_process(&s.w), 1, "clock", "{}");
	acknowledge(&s);
	worker_live(&s.w, 31000);
	assert_string_equal(types_from(&s.g, 3), "tool_executing tool_completed agent_failed");
	assert_has(s.g.bodies[4], "\"status\":\"timeout\"");
	assert_failed(&s, "timeout");
	start(&s, "\"x\"");
	say_think(&s.w, last_process(&s.w), 17, "");
	assert_failed(&s, "budget_exceeded");
	start(&s, "\"x\"");
	acknowledge(&s);
	worker_live(&s.w, 121000);
	assert_failed(&s, "timeout");
	((struct agent_def *)s.w.agents->preset)->output_bytes = 10;
	start(&s, "\"x\"");
	say_text(&s.w, last_process(&s.w), 1, "eleven byte");
	assert_failed(&s, "output_limit");
	end(&s);
}

static void words_out_of_turn_end_the_run(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	say_outcome(&s.w, last_process(&s.w), 1, "1");
	assert_failed(&s, "agent_error");
	start(&s, "\"x\"");
	say_think(&s.w, last_process(&s.w), 1, "");
	say_think(&s.w, last_process(&s.w), 1, "again");
	assert_failed(&s, "agent_error");
	start(&s, "\"x\"");
	say(&s.w, last_process(&s.w), (struct run_up){.step = 1, .kind = RUN_TEXT, .text = str_of("a\0b", 3)});
	assert_failed(&s, "agent_error");
	start(&s, "\"x\"");
	say_tool(&s.w, last_process(&s.w), 1, "clock", "[1]");
	assert_failed(&s, "agent_error");
	end(&s);
}

static void long_text_is_several_messages(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	size_t n = 1300 << 10;
	char *text = malloc(n + 1);
	for (size_t i = 0; i < n; i++)
		text[i] = (char)('a' + i % 26);
	text[n] = 0;
	for (size_t i = 0; i < n; i += DELTA_TEXT_MAX)
		say(&s.w, p,
		    (struct run_up){.step = 1, .kind = RUN_TEXT, .text = utf8_prefix(str_of(text + i, n - i), DELTA_TEXT_MAX)});
	say_end(&s.w, p, 1);
	assert_string_equal(types_from(&s.g, 3), "agent_message agent_message agent_message");
	size_t at = 0;
	for (size_t i = 3; i < 6; i++) {
		json_t *event = json_loads(s.g.bodies[i], 0, NULL);
		const char *part = json_string_value(json_object_get(event, "text"));
		assert_true(strlen(s.g.bodies[i]) <= EVENT_BODY_MAX);
		assert_int_equal(strncmp(part, text + at, strlen(part)), 0);
		at += strlen(part);
		json_decref(event);
	}
	assert_int_equal(at, n);
	free(text);
	say_done(&s.w, p, "");
	end(&s);
}

/* ---- pages, credit, beats ---- */

static void replay_comes_from_memory_and_from_the_store(void **state)
{
	struct set s;
	worker_begin_with(&s.w, *state, "worker-1", &(struct core_config){.ring_bytes = 4096});
	gateway_begin(&s.g, "gateway-1", 1);
	hello(&s.w, &s.g);
	attach(&s.w, &s.g, ALICE);
	((struct agent_def *)agents_find(s.w.agents, str_c("script")))->steps = 60;
	struct request request = start_of(&s.g, ALICE, "{}");
	request.command.agent = str_c("script");
	assert_int_equal(ask(&s.w, &s.g, request)->code, ERR_OK);
	for (uint32_t i = 1; i <= 60; i++)
		say_think(&s.w, last_process(&s.w), i, "thinking about nothing in particular, at some length");
	uint64_t seq = 1;
	for (int pages = 0; seq <= 63; pages++) {
		struct reply *page = replay(&s, seq, 2000);
		assert_true(page->page.n_events > 0);
		assert_true(pages < 63);
		for (size_t i = 0; i < page->page.n_events; i++, seq++) {
			assert_int_equal(page->page.events[i].seq, seq);
			assert_str(page->page.events[i].body, s.g.bodies[seq - 1]);
		}
		assert_int_equal(page->page.more, seq <= 63);
		assert_int_equal(page->page.last_seq, 63);
	}
	assert_int_equal(replay(&s, 64, 2000)->page.n_events, 0);
	end(&s);
}

static void replay_gives_open_text_beyond_what_the_gateway_has(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	say_text(&s.w, p, 1, "0123456789");
	struct reply *page = replay(&s, 4, 65536);
	assert_int_equal(page->page.n_open, 1);
	assert_str(page->page.open[0].text, "0123456789");
	struct have have = {.message_id = str_c(s.g.message_id), .offset = 7};
	struct request request = {.kind = REQUEST_REPLAY};
	request.replay.user_id = str_c(ALICE);
	request.replay.epoch = s.g.epoch;
	request.replay.from_seq = 4;
	request.replay.max_bytes = 65536;
	request.replay.with_open = true;
	request.replay.have = &have;
	request.replay.n_have = 1;
	page = ask(&s.w, &s.g, request);
	assert_int_equal(page->page.open[0].offset, 7);
	assert_str(page->page.open[0].text, "789");
	assert_false(page->page.more);
	have.offset = 10;
	request.number = 0;
	page = ask(&s.w, &s.g, request);
	assert_int_equal(page->page.n_open, 1);
	assert_str(page->page.open[0].text, "");
	end(&s);
}

/* A turn's text of one run, however many pieces it comes in, is few items for the gateway. */
static void a_flood_of_small_text_is_joined_and_stays_whole(void **state)
{
	enum { PIECES = 9000 };
	struct set s;
	struct buf whole = {0};
	begin(&s, state);
	start(&s, "\"x\"");
	start(&s, "\"y\"");
	struct agent_run *p = last_process(&s.w), *other = s.w.host.processes[s.w.host.n - 2];
	say_text(&s.w, other, 1, "of another message");
	size_t deltas = s.g.n_deltas;
	for (int i = 0; i < PIECES; i++) {
		char token[16];
		snprintf(token, sizeof(token), "t%05d\xc3\xa9 ", i);
		size_t frame = frame_begin(&p->waiting);
		struct run_up up = {.step = 1, .kind = RUN_TEXT, .text = str_c(token)};
		assert_int_equal(run_up_encode(&up, &p->waiting), ERR_OK);
		frame_end(&p->waiting, frame);
		buf_append_c(&whole, token);
	}
	worker_turn(&s.w);
	assert_int_equal(s.g.text.n, whole.n);
	assert_memory_equal(s.g.text.p, whole.p, whole.n);
	assert_in_range(s.g.n_deltas - deltas, 2, 100);
	deltas = s.g.n_deltas;
	say_text(&s.w, p, 1, "one ");
	say_text(&s.w, p, 1, "by one");
	assert_int_equal(s.g.n_deltas - deltas, 2); /* at once, each in its turn */
	buf_finish(&whole);
	end(&s);
}

static void without_credit_items_are_left_out_and_the_head_is_told_later(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "{\"a\":1}");
	struct agent_run *p = last_process(&s.w);
	for (int i = 0; i < 2100 && !p->paused; i++)
		say_text(&s.w, p, 1, "token ");
	assert_true(p->paused); /* slowed, not dropped */
	size_t deltas = s.g.n_deltas;
	assert_true(s.g.received <= 2048);
	assert_int_equal(start(&s, "\"y\"")->code, ERR_OK);
	assert_int_equal(s.g.n_events, 3); /* left out */
	struct request credit = {.kind = REQUEST_CREDIT, .credit.received = s.g.received};
	assert_int_equal(ask(&s.w, &s.g, credit)->code, ERR_OK);
	assert_int_equal(s.g.n_heads, 1);
	assert_int_equal(s.g.head, 6);
	assert_true(s.g.n_deltas > deltas); /* an empty one, that shows how long the message is */
	assert_false(p->paused);
	assert_int_equal(s.g.gaps, 0);
	end(&s);
}

static void silent_gateway_does_not_hold_runs_up_for_ever(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	struct agent_run *p = last_process(&s.w);
	for (int i = 0; i < 2100 && !p->paused; i++)
		say_text(&s.w, p, 1, "token ");
	assert_true(p->paused);
	worker_live(&s.w, 3500);
	assert_false(p->paused);
	worker_live(&s.w, 30000); /* taken for dead: hello skips a number, and it must attach anew */
	assert_int_equal(ask(&s.w, &s.g, command_of(&s.g, ALICE, COMMAND_RUN_LIST))->code, ERR_DISCONNECTED);
	uint64_t gaps = s.g.gaps;
	hello(&s.w, &s.g);
	worker_live(&s.w, 300);
	assert_true(s.g.gaps > gaps);
	assert_int_equal(ask(&s.w, &s.g, command_of(&s.g, ALICE, COMMAND_RUN_LIST))->code, ERR_FENCED);
	assert_int_equal(attach(&s.w, &s.g, ALICE)->code, ERR_OK);
	end(&s);
}

static void beats_repeat_the_last_number(void **state)
{
	struct set s;
	begin(&s, state);
	start(&s, "\"x\"");
	uint64_t number = s.g.received;
	worker_live(&s.w, 1000);
	assert_in_range(s.g.beats, 3, 6);
	assert_int_equal(s.g.received, number);
	assert_int_equal(s.g.gaps, 0);
	end(&s);
}

static void requests_before_hello_are_told_to_say_hello(void **state)
{
	struct set s;
	begin(&s, state);
	struct gateway stranger;
	gateway_begin(&stranger, "gateway-2", 2);
	assert_int_equal(attach(&s.w, &stranger, ALICE)->code, ERR_DISCONNECTED);
	gateway_end(&stranger);
	end(&s);
}

static void new_incarnation_replaces_the_old_one(void **state)
{
	struct set s;
	begin(&s, state);
	struct gateway again;
	gateway_begin(&again, "gateway-1", 2);
	s.w.gateways[0] = &again;
	hello(&s.w, &again);
	assert_int_equal(attach(&s.w, &s.g, ALICE)->code, ERR_DISCONNECTED);
	assert_int_equal(attach(&s.w, &again, ALICE)->code, ERR_OK);
	assert_int_equal(ask(&s.w, &again, start_of(&again, ALICE, "\"x\""))->code, ERR_OK);
	assert_int_equal(s.g.n_events, 0);
	assert_int_equal(again.n_events, 3);
	gateway_end(&again);
	end(&s);
}

static void late_detach_does_not_undo_a_newer_attach(void **state)
{
	struct set s;
	begin(&s, state);
	struct request detach = {.kind = REQUEST_DETACH, .number = ++s.g.number};
	detach.detach.user_id = str_c(ALICE);
	detach.detach.epoch = s.g.epoch;
	attach(&s.w, &s.g, ALICE);
	ask(&s.w, &s.g, detach);
	assert_int_equal(start(&s, "\"x\"")->code, ERR_OK);
	detach.number = 0;
	ask(&s.w, &s.g, detach);
	assert_int_equal(start(&s, "\"x\"")->code, ERR_FENCED);
	end(&s);
}

static void garbage_is_answered(void **state)
{
	struct set s;
	begin(&s, state);
	struct answer *answer = calloc(1, sizeof(*answer));
	answer->token = ++s.w.token;
	s.w.answers[s.w.token % 64] = answer;
	s.w.transport.on_request(s.w.transport.ctx, answer->token, str_c("\xff\xff\xff"));
	assert_int_equal(answer->times, 1);
	assert_int_equal(answer->reply.code, ERR_PROTOCOL);
	end(&s);
}

static void idle_user_is_given_back(void **state)
{
	struct set s;
	begin(&s, state);
	struct request detach = {.kind = REQUEST_DETACH};
	detach.detach.user_id = str_c(ALICE);
	ask(&s.w, &s.g, detach);
	worker_live(&s.w, 299000);
	json_t *known = core_state(s.w.core);
	assert_int_equal(json_integer_value(json_object_get(known, "users_owned")), 1);
	json_decref(known);
	worker_live(&s.w, 2000);
	known = core_state(s.w.core);
	assert_int_equal(json_integer_value(json_object_get(known, "users_owned")), 0);
	json_decref(known);
	uint64_t epoch = s.g.epoch;
	assert_int_equal(attach(&s.w, &s.g, ALICE)->code, ERR_OK);
	assert_int_equal(s.g.epoch, epoch + 1);
	end(&s);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
	const struct CMUnitTest tests[] = {
		CASE(run_is_told_in_order_from_acceptance_to_end),
		CASE(output_waits_for_the_commit_before_it),
		CASE(history_and_lists_show_what_happened),
		CASE(refused_starts_say_why_and_start_nothing),
		CASE(same_key_answers_with_the_first_run),
		CASE(starts_with_one_key_in_flight_join),
		CASE(key_is_known_after_the_next_worker_took_over),
		CASE(repeated_request_number_gets_the_same_reply),
		CASE(runs_of_one_thread_take_turns),
		CASE(interrupt_cancels_what_is_open_in_the_thread),
		CASE(more_than_max_active_wait_and_max_queued_is_full),
		CASE(runs_wait_for_the_agent_host),
		CASE(free_processes_go_round_the_users),
		CASE(cancel_in_each_state),
		CASE(cancel_during_a_tool_closes_the_call),
		CASE(cancel_before_the_acceptance_is_durable_is_carried_out_after_it),
		CASE(threads_are_renamed_and_deleted),
		CASE(commands_on_one_thread_do_not_overtake_each_other),
		CASE(notes_are_kept_with_the_call_that_made_them),
		CASE(unknown_tool_is_denied_and_the_run_goes_on),
		CASE(large_results_are_cut_and_say_so),
		CASE(exits_become_the_right_terminal),
		CASE(crash_during_a_message_closes_it),
		CASE(forger_is_denied),
		CASE(limits_end_the_run),
		CASE(words_out_of_turn_end_the_run),
		CASE(long_text_is_several_messages),
		CASE(replay_comes_from_memory_and_from_the_store),
		CASE(replay_gives_open_text_beyond_what_the_gateway_has),
		CASE(a_flood_of_small_text_is_joined_and_stays_whole),
		CASE(without_credit_items_are_left_out_and_the_head_is_told_later),
		CASE(silent_gateway_does_not_hold_runs_up_for_ever),
		CASE(beats_repeat_the_last_number),
		CASE(requests_before_hello_are_told_to_say_hello),
		CASE(new_incarnation_replaces_the_old_one),
		CASE(late_detach_does_not_undo_a_newer_attach),
		CASE(garbage_is_answered),
		CASE(idle_user_is_given_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
