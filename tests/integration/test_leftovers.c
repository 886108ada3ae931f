/*
 * Nothing stays behind: after connects and disconnects by the hundred, runs of every ending and rude clients, the descriptors,
 * processes and counts of gateway and worker are what they were before. And a small scenario under valgrind is clean.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"
#include "tests/lib/token.h"

enum { CONNECTS = 500, RUNS = 200, USERS = 40 };

static const char *user_name(unsigned i)
{
	static char name[32];
	snprintf(name, sizeof name, "usr_%012x", 0x1ef70000 + i % USERS);
	return name;
}

/* A connection that comes, and goes in one of the ways there are. */
static void come_and_go(struct cluster *c, unsigned i)
{
	struct chat_args args = {.port = cluster_port(c, 0), .user = user_name(i), .in_band = i % 5 == 0};
	struct chat *chat = chat_open(c->loop, &args);
	if (i % 7 == 0) { /* before anything has come of it */
		ws_loop_turn(c->loop, 1);
		chat_free(chat);
		return;
	}
	assert_true(chat_wait_welcome(chat, 10000));
	switch (i % 4) {
	case 0:
		ws_close(chat->ws, 1000, "bye");
		assert_true(chat_wait_closed(chat, 5000));
		break;
	case 1:
		ws_send_frame(chat->ws, WS_TEXT, true, "{\"ty", 4, 4); /* in the middle of a message */
		break;
	case 2:
		ws_send_frame(chat->ws, WS_FIN | WS_BINARY, true, "x", 1, 1);
		assert_true(chat_wait_closed(chat, 5000));
		break;
	default:
		chat_send(chat, json_pack("{s:s}", "type", "thread.list")); /* with a question open */
	}
	chat_check(chat);
	chat_free(chat);
}

static void knock(struct cluster *c, unsigned i)
{
	struct http_response r = {0};
	char *token = token_make(i % 2 ? "test_user_123" : user_name(i), i % 3 ? 600 : -600);
	char *headers = text_format("Authorization: Bearer %s\r\n", token);
	http_get(cluster_port(c, 0), i % 4 ? "/v1/whoami" : "/ws", headers, &r, 5000);
	assert_true(r.status > 0);
	http_response_finish(&r);
	free(token);
	free(headers);
}

/* Runs of every ending, eight at a time, some left alone by their client. */
static void run_one(struct chat *chat, unsigned i)
{
	static const char *const scripts[] = {
		"[{\"say\":\"hello\"}]",
		"[{\"crash\":\"segv\"}]",
		"[{\"stream\":{\"tokens\":20,\"interval_ms\":1,\"bytes\":100}},{\"tool\":\"clock\",\"arguments\":{}}]",
		"[{\"crash\":\"exit\"}]",
		"[{\"sleep_ms\":60000}]",
		"[{\"write_mb\":1},{\"fds\":10},{\"think\":\"x\"}]",
		"[{\"fail\":\"on purpose\"}]",
		"[{\"crash\":\"abort\"}]",
	};
	char run[40];
	chat_start(chat, chat_script(scripts[i % 8]), "script", run);
	if (i % 8 == 4) {
		assert_non_null(chat_wait_event(chat, run, "agent_started", 10000));
		json_t *answer = chat_call(chat, json_pack("{s:s,s:s}", "type", "run.cancel", "run_id", run));
		assert_string_equal(chat_text_of(answer, "type"), "ack");
	}
	const struct chat_event *end = chat_wait_end(chat, run, 15000);
	assert_non_null(end);
	static const char *const endings[] = {"agent_completed", "agent_failed",    "agent_completed", "agent_failed",
	                                      "agent_cancelled", "agent_completed", "agent_failed",    "agent_failed"};
	if (strcmp(end->type, endings[i % 8]) != 0)
		fail_msg("%s ended in %s", scripts[i % 8], end->raw);
	if (strstr(scripts[i % 8], "crash") && !strstr(end->raw, "agent_crashed"))
		fail_msg("%s ended in %s", scripts[i % 8], end->raw);
}

static void run_many(struct cluster *c, unsigned n)
{
	for (unsigned k = 0; k < n; k += 10) {
		struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), user_name(k / 10));
		for (unsigned i = k; i < k + 10 && i < n; i++)
			run_one(chat, i);
		chat_check(chat);
		chat_free(chat);
	}
}

struct figures {
	long gateway_fds, worker_fds;
	size_t worker_children, runs_left;
};

static size_t count_runs(const struct cluster *c)
{
	pid_t hosts[8], n = 0;
	size_t n_hosts = process_children(c->workers[0].process.pid, hosts, 8);
	for (size_t i = 0; i < n_hosts && i < 8; i++)
		n += (pid_t)process_children(hosts[i], NULL, 0);
	return (size_t)n;
}

static struct figures measure(const struct cluster *c)
{
	return (struct figures){process_descriptors(c->gateways[0].process.pid), process_descriptors(c->workers[0].process.pid),
	                        process_children(c->workers[0].process.pid, NULL, 0), count_runs(c)};
}

/* Waits until the figures are those of before; closing takes a moment. */
static void expect_as_before(struct cluster *c, const struct figures *before)
{
	uint64_t deadline = clock_ms() + 15000 * patience();
	struct figures now = measure(c);
	while (clock_ms() < deadline &&
	       (now.gateway_fds > before->gateway_fds || now.worker_fds > before->worker_fds || now.runs_left > 0)) {
		ws_loop_turn(c->loop, 20);
		now = measure(c);
	}
	print_message("descriptors: gateway %ld, was %ld; worker %ld, was %ld; children %zu, were %zu; runs %zu\n",
	              now.gateway_fds, before->gateway_fds, now.worker_fds, before->worker_fds, now.worker_children,
	              before->worker_children, now.runs_left);
	assert_true(now.gateway_fds <= before->gateway_fds);
	assert_true(now.worker_fds <= before->worker_fds);
	assert_int_equal(now.worker_children, before->worker_children);
	assert_int_equal(now.runs_left, 0);
}

static void expect_no_connections(struct cluster *c)
{
	uint64_t deadline = clock_ms() + 15000 * patience();
	while (node_metric(&c->gateways[0], "pinion_gateway_connections") > 0 && clock_ms() < deadline)
		pause_ms(20);
	assert_true(node_metric(&c->gateways[0], "pinion_gateway_connections") == 0);
}

static void churn_leaves_nothing(void **state)
{
	struct cluster *c = *state;
	unsigned scale = patience() > 1 ? 4 : 1;
	for (unsigned i = 0; i < 60; i++) /* every user once, and one of each way: what is made once is made now */
		come_and_go(c, i);
	run_many(c, 20);
	expect_no_connections(c);
	struct figures before = measure(c);
	long rss_gateway = process_rss_kb(c->gateways[0].process.pid), rss_worker = process_rss_kb(c->workers[0].process.pid);
	uint64_t begin = clock_ms();
	for (unsigned i = 0; i < CONNECTS / scale; i++) {
		come_and_go(c, i);
		if (i % 5 == 0)
			knock(c, i);
	}
	print_message("%u connections came and went in %llu ms\n", CONNECTS / scale, (unsigned long long)(clock_ms() - begin));
	begin = clock_ms();
	run_many(c, RUNS / scale);
	print_message("%u runs in %llu ms\n", RUNS / scale, (unsigned long long)(clock_ms() - begin));
	expect_no_connections(c);
	expect_as_before(c, &before);
	print_message("RSS: gateway %ld KiB, was %ld; worker %ld KiB, was %ld\n", process_rss_kb(c->gateways[0].process.pid),
	              rss_gateway, process_rss_kb(c->workers[0].process.pid), rss_worker);
	cluster_passed(c);
}

/* The host dies in the middle of a run: the run ends (at another attempt or not), a new host comes, nothing of the old stays. */
static void a_killed_agent_host_is_replaced(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), user_name(1));
	char run[40];
	pid_t host = 0, next = 0;
	chat_start(chat, chat_script("[{\"think\":\"1\"},{\"sleep_ms\":2000},{\"say\":\"end\"}]"), "script", run);
	assert_non_null(chat_wait_event(chat, run, "agent_thinking", 10000));
	assert_int_equal(process_children(c->workers[0].process.pid, &host, 1), 1);
	kill(host, SIGKILL);
	const struct chat_event *end = chat_wait_end(chat, run, 15000);
	assert_non_null(end);
	print_message("the run ended in %s\n", end->raw);
	chat_start(chat, chat_script("[{\"say\":\"again\"}]"), "script", run);
	end = chat_wait_end(chat, run, 20000);
	assert_non_null(end);
	assert_string_equal(end->type, "agent_completed");
	assert_int_equal(process_children(c->workers[0].process.pid, &next, 1), 1);
	assert_true(next != host);
	chat_check(chat);
	chat_free(chat);
	cluster_passed(c);
}

static void nothing_is_leaked_under_valgrind(void **state)
{
	struct cluster *c = *state;
	if (!c) {
		print_message("skipped: valgrind is not installed, or sanitizers are in use\n");
		return;
	}
	for (unsigned i = 0; i < 8; i++)
		come_and_go(c, i);
	knock(c, 0);
	knock(c, 1);
	run_many(c, 9);
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), user_name(0));
	json_t *answer = chat_call(chat, json_pack("{s:s}", "type", "thread.list")),
	       *threads = json_object_get(answer, "threads");
	const char *thread = chat_text_of(json_array_get(threads, 0), "thread_id");
	assert_non_null(chat_call(chat, json_pack("{s:s,s:s}", "type", "thread.history", "thread_id", thread)));
	assert_non_null(chat_call(chat, json_pack("{s:s,s:s,s:s}", "type", "thread.rename", "thread_id", thread, "title", "t")));
	assert_non_null(chat_call(chat, json_pack("{s:s,s:s}", "type", "thread.delete", "thread_id", thread)));
	chat_free(chat);
	struct chat_args args = {.port = cluster_port(c, 0), .user = user_name(0), .resume = true};
	struct chat *again = chat_enter(c->loop, &args);
	assert_true(chat_wait_seq(again, (uint64_t)json_integer_value(json_object_get(again->welcome, "last_seq")), 10000));
	chat_check(again);
	chat_free(again);
	cluster_passed(c); /* the verdict is the programs' exit status: --error-exitcode */
}

static int set_up(void **state)
{
	struct cluster_args args = {.gateways = 1, .workers = 1};
	*state = cluster_start(&args);
	return 0;
}

#ifndef PINION_SANITIZED
/* Whether valgrind knows what a worker needs: older ones have no pidfd_open. */
static bool valgrind_knows_pidfd(void)
{
	char *command = text_format("valgrind -q /proc/%d/exe --pidfd >/dev/null 2>&1", (int)getpid());
	bool knows = system(command) == 0;
	free(command);
	return knows;
}
#endif

static int set_up_valgrind(void **state)
{
	*state = NULL;
#ifndef PINION_SANITIZED
	static const char *const wrap[] = {"valgrind",
	                                   "-q",
	                                   "--error-exitcode=99",
	                                   "--leak-check=full",
	                                   "--errors-for-leak-kinds=definite",
	                                   "--child-silent-after-fork=yes",
	                                   "--num-callers=20",
	                                   NULL};
	struct cluster_args args = {.gateways = 1, .workers = 1, .wrap_gateways = wrap, .ready_ms = 60000};
	if (system("valgrind --version >/dev/null 2>&1") == 0) {
		args.wrap_workers = valgrind_knows_pidfd() ? wrap : NULL;
		print_message("under valgrind: the gateway%s\n",
		              args.wrap_workers ? " and the worker" : "; this valgrind can't run the worker");
		setenv("PINION_TEST_PATIENCE", "6", 1);
		*state = cluster_start(&args);
	}
#endif
	return 0;
}

static int tear_down(void **state)
{
	cluster_stop(*state);
	unsetenv("PINION_TEST_PATIENCE");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--pidfd"))
		return syscall(SYS_pidfd_open, getpid(), 0) < 0;
	if (argc > 1) /* one test by its name, '*' allowed */
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(churn_leaves_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_killed_agent_host_is_replaced, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nothing_is_leaked_under_valgrind, set_up_valgrind, tear_down),
	};
	return cmocka_run_group_tests_name("leftovers", tests, NULL, NULL);
}
