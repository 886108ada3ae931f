/*
 * Many users at once: each sees their own and nothing of another's, each stays on one worker, and each run's events come
 * in their order exactly once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"

enum { USERS = 500, USERS_SLOW = 100, TABS = 2 /* one at each gateway */ };

struct person {
	char user[32], secret[32], run_id[40], thread_id[40], id[32];
	struct chat *tabs[TABS];
	unsigned index;
	bool leaked;
};

struct crowd {
	struct cluster *cluster;
	struct person *people;
	unsigned n;
	unsigned long long frames, bytes;
};

static struct crowd crowd;

/* Every byte that anyone is sent is searched for secrets; only one's own may show. */
static void on_raw(void *ctx, const char *text, size_t n)
{
	struct person *p = ctx;
	crowd.frames++;
	crowd.bytes += n;
	for (const char *at = text; (at = memmem(at, n - (size_t)(at - text), "secret-", 7)); at++)
		if ((size_t)(text + n - at) < strlen(p->secret) || memcmp(at, p->secret, strlen(p->secret)) != 0)
			p->leaked = true;
	for (const char *at = text; (at = memmem(at, n - (size_t)(at - text), "usr_", 4)); at++)
		if (memcmp(at, p->user, strlen(p->user)) != 0)
			p->leaked = true;
}

static bool all_welcome(void *ctx)
{
	for (unsigned i = 0; i < crowd.n; i++)
		for (unsigned t = 0; t < TABS; t++)
			if (!crowd.people[i].tabs[t]->welcome)
				return false;
	return true;
}

static bool all_answered(void *ctx)
{
	for (unsigned i = 0; i < crowd.n; i++)
		if (!chat_answer(crowd.people[i].tabs[i % TABS], crowd.people[i].id))
			return false;
	return true;
}

static bool run_ended(const struct chat *chat, const char *run_id)
{
	for (size_t i = chat->n_events; i-- > 0;)
		if (!strcmp(chat->events[i].run_id, run_id) && chat_is_terminal(chat->events[i].type))
			return true;
	return false;
}

static bool all_ended(void *ctx)
{
	for (unsigned i = 0; i < crowd.n; i++)
		for (unsigned t = 0; t < TABS; t++)
			if (!run_ended(crowd.people[i].tabs[t], crowd.people[i].run_id))
				return false;
	return true;
}

static void enter_all(struct cluster *c)
{
	uint64_t begin = clock_ms();
	for (unsigned i = 0; i < crowd.n; i++) {
		struct person *p = &crowd.people[i];
		p->index = i;
		snprintf(p->user, sizeof p->user, "usr_%012x", 0x5eed0000 + i * 7919);
		snprintf(p->secret, sizeof p->secret, "secret-%06x-%06xz", i * 2654435761u & 0xffffff, i);
		for (unsigned t = 0; t < TABS; t++) {
			struct chat_args args = {.port = cluster_port(c, t), .user = p->user, .on_raw = on_raw, .ctx = p};
			p->tabs[t] = chat_open(c->loop, &args);
		}
	}
	if (!ws_loop_until(c->loop, all_welcome, NULL, 60000))
		fail_msg("not everybody got a welcome");
	print_message("%u users, %u connections: all welcome in %llu ms\n", crowd.n, crowd.n * TABS,
	              (unsigned long long)(clock_ms() - begin));
}

/* One request by each user at once, by each second one at another gateway; all acks are waited for. */
static void ask_all(struct cluster *c, json_t *(*make)(const struct person *p), unsigned timeout_ms)
{
	uint64_t begin = clock_ms();
	for (unsigned i = 0; i < crowd.n; i++) {
		struct person *p = &crowd.people[i];
		snprintf(p->id, sizeof p->id, "%s", chat_send(p->tabs[i % TABS], make(p)));
	}
	if (!ws_loop_until(c->loop, all_answered, NULL, timeout_ms))
		fail_msg("not everybody got an answer");
	for (unsigned i = 0; i < crowd.n; i++) {
		struct person *p = &crowd.people[i];
		json_t *answer = chat_answer(p->tabs[i % TABS], p->id);
		if (strcmp(chat_text_of(answer, "type"), "ack") != 0)
			fail_msg("%s was answered by %s", p->user, chat_code(answer));
		if (chat_text_of(answer, "run_id")[0]) {
			snprintf(p->run_id, sizeof p->run_id, "%s", chat_text_of(answer, "run_id"));
			snprintf(p->thread_id, sizeof p->thread_id, "%s", chat_text_of(answer, "thread_id"));
		}
	}
	print_message("%u answers in %llu ms\n", crowd.n, (unsigned long long)(clock_ms() - begin));
}

static void end_all(struct cluster *c, const char *what)
{
	uint64_t begin = clock_ms();
	if (!ws_loop_until(c->loop, all_ended, NULL, 90000))
		fail_msg("%s: not all runs have ended", what);
	print_message("%s: all ended %llu ms after the last ack\n", what, (unsigned long long)(clock_ms() - begin));
}

static json_t *make_put(const struct person *p)
{
	char steps[512];
	snprintf(steps, sizeof steps,
	         "[{\"think\":\"mine is %s\"},{\"tool\":\"notes\",\"arguments\":{\"op\":\"put\",\"key\":\"k\",\"value\":\"%s\"}},"
	         "{\"say\":\"stored %s\"}]",
	         p->secret, p->secret, p->secret);
	return chat_run_message(chat_script(steps), "script", NULL);
}

static json_t *make_get(const struct person *p)
{
	return chat_run_message(chat_script("[{\"think\":\"reading\"},{\"tool\":\"notes\",\"arguments\":{\"op\":\"list\"}},"
	                                    "{\"tool\":\"notes\",\"arguments\":{\"op\":\"get\",\"key\":\"k\"}}]"),
	                        "script", p->thread_id);
}

static json_t *make_history(const struct person *p)
{
	return json_pack("{s:s,s:s}", "type", "thread.history", "thread_id", p->thread_id);
}

static json_t *make_list(const struct person *p)
{
	return json_pack("{s:s}", "type", "thread.list");
}

static json_t *make_demo(const struct person *p)
{
	char *text = text_format("remember colour is %s", p->secret);
	json_t *m = chat_run_message(json_string(text), "demo", NULL);
	free(text);
	return m;
}

/* The run's events on this tab, in order, against the types told; a NULL in types ends them. */
static void check_order(const struct chat *chat, const char *run_id, const char *const *types)
{
	size_t at = 0;
	for (size_t i = 0; i < chat->n_events; i++) {
		const struct chat_event *e = &chat->events[i];
		if (strcmp(e->run_id, run_id) != 0)
			continue;
		if (!types[at] || strcmp(e->type, types[at]) != 0)
			fail_msg("%s: event %zu of the run is %s, not %s", chat->args.user, at, e->type,
			         types[at] ? types[at] : "none");
		at++;
	}
	if (types[at])
		fail_msg("%s: the run has no %s", chat->args.user, types[at]);
}

static void check_same_on_tabs(const struct person *p)
{
	const struct chat *a = p->tabs[0], *b = p->tabs[1];
	assert_int_equal(a->n_events, b->n_events);
	for (size_t i = 0; i < a->n_events; i++) {
		assert_int_equal(a->events[i].n, b->events[i].n);
		assert_string_equal(a->events[i].raw, b->events[i].raw);
	}
}

/* The result of the run's last tool_completed tells the user's own secret. */
static void check_secret_is_theirs(const struct person *p)
{
	const struct chat *chat = p->tabs[0];
	for (size_t i = chat->n_events; i-- > 0;) {
		const struct chat_event *e = &chat->events[i];
		if (strcmp(e->run_id, p->run_id) != 0 || strcmp(e->type, "tool_completed") != 0)
			continue;
		if (!strstr(e->raw, p->secret))
			fail_msg("%s did not get their own note: %s", p->user, e->raw);
		return;
	}
	fail_msg("%s has no tool_completed", p->user);
}

static void check_all(void)
{
	unsigned on[CLUSTER_MAX] = {0};
	for (unsigned i = 0; i < crowd.n; i++) {
		struct person *p = &crowd.people[i];
		const char *worker = chat_text_of(p->tabs[0]->welcome, "worker_id");
		if (p->leaked)
			fail_msg("%s was sent something of another's", p->user);
		assert_string_equal(chat_text_of(p->tabs[1]->welcome, "worker_id"), worker);
		on[atoi(strrchr(worker, '-') + 1) % CLUSTER_MAX]++;
		chat_check(p->tabs[0]);
		chat_check(p->tabs[1]);
		check_same_on_tabs(p);
	}
	print_message("users by worker: %u %u %u; %llu frames, %llu bytes were searched\n", on[0], on[1], on[2], crowd.frames,
	              crowd.bytes);
	for (unsigned w = 0; w < 3; w++)
		assert_true(on[w] > crowd.n / 10);
}

/* The same user comes back at the other gateway: still the same worker, and everything is there from the first event on. */
static void check_return(struct cluster *c)
{
	for (unsigned i = 0; i < crowd.n; i += 10) {
		struct person *p = &crowd.people[i];
		struct chat_args args = {.port = cluster_port(c, 1), .user = p->user, .resume = true, .last_seq = 0};
		struct chat *again = chat_enter(c->loop, &args);
		assert_string_equal(chat_text_of(again->welcome, "worker_id"), chat_text_of(p->tabs[0]->welcome, "worker_id"));
		assert_true(chat_wait_seq(again, p->tabs[0]->last_seq, 10000));
		assert_int_equal(again->n_events, p->tabs[0]->n_events);
		for (size_t k = 0; k < again->n_events; k++)
			assert_string_equal(again->events[k].raw, p->tabs[0]->events[k].raw);
		chat_check(again);
		chat_free(again);
	}
}

static void users_see_only_their_own(void **state)
{
	static const char *const put[] = {"run_accepted",   "agent_started", "agent_thinking",  "tool_executing",
	                                  "tool_completed", "agent_message", "agent_completed", NULL};
	static const char *const get[] = {"run_accepted",   "agent_started",   "agent_thinking",
	                                  "tool_executing", "tool_completed",  "tool_executing",
	                                  "tool_completed", "agent_completed", NULL};
	struct cluster *c = *state;
	crowd.cluster = c;
	crowd.n = patience() > 1 ? USERS_SLOW : USERS;
	crowd.people = calloc(crowd.n, sizeof *crowd.people);
	enter_all(c);
	ask_all(c, make_put, 60000);
	end_all(c, "runs that store");
	for (unsigned i = 0; i < crowd.n; i++)
		for (unsigned t = 0; t < TABS; t++)
			check_order(crowd.people[i].tabs[t], crowd.people[i].run_id, put);
	ask_all(c, make_get, 60000);
	end_all(c, "runs that read");
	for (unsigned i = 0; i < crowd.n; i++) {
		check_order(crowd.people[i].tabs[0], crowd.people[i].run_id, get);
		check_secret_is_theirs(&crowd.people[i]);
	}
	ask_all(c, make_history, 30000);
	ask_all(c, make_list, 30000);
	ask_all(c, make_demo, 60000);
	end_all(c, "demo runs");
	check_all();
	check_return(c);
	for (unsigned i = 0; i < crowd.n; i++)
		for (unsigned t = 0; t < TABS; t++)
			chat_free(crowd.people[i].tabs[t]);
	free(crowd.people);
	cluster_passed(c);
}

static json_t *expect_code(struct chat *chat, json_t *message, const char *code)
{
	json_t *answer = chat_call(chat, message);
	if (strcmp(chat_code(answer), code) != 0)
		fail_msg("answered by \"%s\", not \"%s\"", chat_code(answer), code);
	return answer;
}

/* Another's run and thread are as unknown as ones that never were: the answers are alike byte for byte but for the id. */
static void anothers_ids_are_not_found(void **state)
{
	static const char never[] = "7f3b7f6e-52d4-4c8b-9a51-0d6a2ad7c1e5";
	struct cluster *c = *state;
	struct chat *a = chat_enter_as(c->loop, cluster_port(c, 0), "usr_00000000000a");
	struct chat *b = chat_enter_as(c->loop, cluster_port(c, 1), "usr_00000000000b");
	char run[40], thread[40];
	chat_start(a, chat_script("[{\"sleep_ms\":30000}]"), "script", run);
	const struct chat_event *begin = chat_wait_event(a, run, "agent_started", 10000);
	assert_non_null(begin);
	snprintf(thread, sizeof thread, "%s", begin->thread_id);
	const char *const run_ids[] = {run, never, "", "x", "../../etc/passwd", "usr_00000000000a"};
	const char *const thread_ids[] = {thread, never, "", "x", "0", "00000000-0000-0000-0000-000000000000"};
	char message[256] = "";
	for (size_t i = 0; i < 6; i++) {
		json_t *answer = expect_code(b, json_pack("{s:s,s:s}", "type", "run.cancel", "run_id", run_ids[i]), "not_found");
		if (!message[0])
			snprintf(message, sizeof message, "%s", chat_text_of(answer, "message"));
		assert_string_equal(chat_text_of(answer, "message"), message);
		expect_code(b,
		            json_pack("{s:s,s:s,s:s,s:s}", "type", "tool.decide", "run_id", run_ids[i], "tool_call_id", never,
		                      "decision", "allow"),
		            "not_found");
		expect_code(b, json_pack("{s:s,s:s}", "type", "thread.history", "thread_id", thread_ids[i]), "not_found");
		expect_code(b, json_pack("{s:s,s:s,s:s}", "type", "thread.rename", "thread_id", thread_ids[i], "title", "t"),
		            "not_found");
		expect_code(b, json_pack("{s:s,s:s}", "type", "thread.delete", "thread_id", thread_ids[i]), "not_found");
		expect_code(b, json_pack("{s:s,s:s}", "type", "run.list", "thread_id", thread_ids[i]), "not_found");
		expect_code(b, chat_run_message(json_string("x"), NULL, thread_ids[i]), "not_found");
	}
	expect_code(b, json_pack("{s:s,s:s}", "type", "ping", "user_id", "usr_00000000000a"), "forbidden");
	expect_code(a, json_pack("{s:s,s:s}", "type", "run.cancel", "run_id", run), "");
	const struct chat_event *end = chat_wait_end(a, run, 10000);
	assert_non_null(end);
	assert_string_equal(end->type, "agent_cancelled");
	assert_int_equal(b->n_events, 0);
	chat_check(a);
	chat_check(b);
	chat_free(a);
	chat_free(b);
	cluster_passed(c);
}

/* What a run's own code may not do, tried by the script agent inside its confinement. */
static void a_run_is_confined(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), "usr_00000000000c");
	char run[40],
		*steps = text_format("[{\"probe\":{\"open\":\"%s/jwt.key\"}},{\"probe\":{\"open\":\"%s/pinion.db\"}},"
	                             "{\"probe\":{\"open\":\"/etc/passwd\"}},{\"probe\":{\"connect\":\"127.0.0.1:%u\"}},"
	                             "{\"probe\":{\"unix\":\"%s/w0\"}},{\"probe\":{\"kill\":%d}},{\"probe\":{\"ptrace\":%d}},"
	                             "{\"probe\":{\"exec\":\"/bin/sh\"}},{\"fork\":1}]",
	                             c->dir, c->dir, cluster_port(c, 0), c->dir, (int)c->workers[0].process.pid,
	                             (int)c->workers[0].process.pid);
	chat_start(chat, chat_script(steps), "script", run);
	const struct chat_event *end = chat_wait_end(chat, run, 20000);
	assert_non_null(end);
	if (strcmp(end->type, "agent_completed") != 0 || strstr(end->raw, "allowed"))
		fail_msg("the probes ended in %s", end->raw);
	size_t denied = 0;
	for (const char *at = end->raw; (at = strstr(at, "denied: ")); at++)
		denied++;
	if (denied < 8)
		fail_msg("only %zu probes were denied: %s", denied, end->raw);
	chat_start(
		chat,
		chat_script(
			"[{\"forge\":{\"user_id\":\"usr_00000000000d\",\"run_id\":\"7f3b7f6e-52d4-4c8b-9a51-0d6a2ad7c1e5\"}}]"),
		"script", run);
	end = chat_wait_end(chat, run, 20000);
	assert_non_null(end);
	assert_string_equal(end->type, "agent_failed");
	assert_non_null(strstr(end->raw, "\"denied\""));
	chat_check(chat);
	chat_free(chat);
	free(steps);
	cluster_passed(c);
}

static int set_up(void **state)
{
	struct cluster_args args = {.gateways = 2, .workers = 3};
	*state = cluster_start(&args);
	return 0;
}

static int tear_down(void **state)
{
	cluster_stop(*state);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1) /* one test by its name, '*' allowed */
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(users_see_only_their_own, set_up, tear_down),
		cmocka_unit_test_setup_teardown(anothers_ids_are_not_found, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_run_is_confined, set_up, tear_down),
	};
	return cmocka_run_group_tests_name("isolation", tests, NULL, NULL);
}
