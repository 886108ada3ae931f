/*
 * Whatever dies: a worker killed in the middle of runs, one that stood still and woke up, a gateway killed, a worker that
 * drains. Runs end once, events stay in order, and who is not concerned notices nothing.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"

enum { USERS = 24, TABS = 2, STOPPED_MS = 10000 };

struct person {
	char user[32], run[40], worker[32], ack[32];
	struct chat *tabs[TABS]; /* one at each gateway */
	size_t taken;
	bool concerned;
};

struct scene {
	struct cluster *c;
	struct person people[USERS];
};

static const char long_run[] =
	"[{\"think\":\"one\"},{\"stream\":{\"tokens\":60,\"interval_ms\":10,\"bytes\":24}},"
	"{\"tool\":\"notes\",\"arguments\":{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}},{\"sleep_ms\":400},"
	"{\"tool\":\"calculator\",\"arguments\":{\"expression\":\"6*7\"}},{\"sleep_ms\":400},"
	"{\"stream\":{\"tokens\":60,\"interval_ms\":10,\"bytes\":24}},{\"sleep_ms\":400},{\"say\":\"end\"}]";

static struct scene *enter(struct cluster *c)
{
	struct scene *s = calloc(1, sizeof *s);
	s->c = c;
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		snprintf(p->user, sizeof p->user, "usr_%012x", 0xfa110000 + i * 31);
		for (unsigned t = 0; t < TABS; t++)
			p->tabs[t] = chat_enter_as(c->loop, cluster_port(c, t), p->user);
		snprintf(p->worker, sizeof p->worker, "%s", chat_text_of(p->tabs[0]->welcome, "worker_id"));
	}
	return s;
}

/* Everybody starts a run at their tab t. */
static void start_all(struct scene *s, unsigned t, const char *steps)
{
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		snprintf(p->ack, sizeof p->ack, "%s",
		         chat_send(p->tabs[t], chat_run_message(chat_script(steps), "script", NULL)));
	}
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		json_t *answer = chat_wait_answer(p->tabs[t], p->ack, 15000);
		if (!answer || chat_code(answer)[0])
			fail_msg("run.start of %s (%s): %s", p->user, p->worker, chat_code(answer));
		snprintf(p->run, sizeof p->run, "%s", chat_text_of(answer, "run_id"));
	}
}

static unsigned count(const struct chat *chat, const char *run, const char *type)
{
	unsigned n = 0;
	for (size_t i = 0; i < chat->n_events; i++)
		n += !strcmp(chat->events[i].run_id, run) && !strcmp(chat->events[i].type, type);
	return n;
}

static void wait_all_ended(struct scene *s, unsigned from_tab, unsigned timeout_ms)
{
	for (unsigned i = 0; i < USERS; i++)
		for (unsigned t = from_tab; t < TABS; t++) {
			struct person *p = &s->people[i];
			const struct chat_event *end = chat_wait_end(p->tabs[t], p->run, timeout_ms);
			if (!end)
				fail_msg("the run of %s (%s) has not ended at tab %u: seq %llu, close %d %s", p->user, p->worker,
				         t, (unsigned long long)p->tabs[t]->last_seq, p->tabs[t]->ws->close_code,
				         p->tabs[t]->ws->close_reason);
			if (strcmp(end->type, "agent_completed") != 0)
				fail_msg("the run of %s (%s) ended in %s", p->user, p->worker, end->raw);
		}
}

/* All tabs of all are open, have kept to every promise, and heard the same. */
static void check_all(struct scene *s, unsigned from_tab)
{
	for (unsigned i = 0; i < USERS; i++)
		for (unsigned t = from_tab; t < TABS; t++) {
			struct chat *a = s->people[i].tabs[TABS - 1], *b = s->people[i].tabs[t];
			chat_check(b);
			assert_int_equal(b->ws->state, WS_OPEN);
			assert_true(chat_wait_seq(b, a->last_seq, 5000));
			for (size_t k = 0; k < a->n_events && k < b->n_events; k++)
				assert_string_equal(a->events[a->n_events - 1 - k].raw, b->events[b->n_events - 1 - k].raw);
		}
}

/* A new reader, from the first event on, is told what was seen live. */
static void check_log(struct scene *s)
{
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		struct chat *live = p->tabs[TABS - 1];
		struct chat_args args = {.port = cluster_port(s->c, 1), .user = p->user, .resume = true};
		struct chat *again = chat_enter(s->c->loop, &args);
		assert_true(chat_wait_seq(again, live->last_seq, 10000));
		assert_int_equal(again->n_events, live->n_events);
		for (size_t k = 0; k < live->n_events; k++)
			assert_string_equal(again->events[k].raw, live->events[k].raw);
		chat_check(again);
		chat_free(again);
	}
}

static void leave(struct scene *s)
{
	for (unsigned i = 0; i < USERS; i++)
		for (unsigned t = 0; t < TABS; t++)
			chat_free(s->people[i].tabs[t]);
	free(s);
}

static void mark_concerned(struct scene *s, const char *worker)
{
	unsigned n = 0;
	for (unsigned i = 0; i < USERS; i++)
		n += s->people[i].concerned = !strcmp(s->people[i].worker, worker);
	print_message("%u of %u users are at %s\n", n, (unsigned)USERS, worker);
	assert_true(n > 0 && n < USERS);
}

static bool concerned_stream(void *ctx)
{
	struct scene *s = ctx;
	for (unsigned i = 0; i < USERS; i++)
		if (s->people[i].concerned && s->people[i].tabs[1]->deltas < 5)
			return false;
	return true;
}

/* From `since` on: the longest time until a concerned user was told that the run goes on. */
static void print_recovery_time(const struct scene *s, uint64_t since)
{
	uint64_t times[USERS], n = 0;
	for (unsigned i = 0; i < USERS; i++) {
		const struct chat *chat = s->people[i].tabs[1];
		for (size_t k = 0; k < chat->n_events; k++)
			if (!strcmp(chat->events[k].type, "run_recovered") && chat->events[k].at_us > since) {
				times[n++] = chat->events[k].at_us - since;
				break;
			}
	}
	if (n)
		print_message("recovered after %llu ms (median), %llu ms (last) of %llu\n",
		              (unsigned long long)percentile(times, n, 0.5) / 1000,
		              (unsigned long long)percentile(times, n, 1) / 1000, (unsigned long long)n);
}

/* Who was on the lost worker: recovered once, attempt 2. Who was not: nothing. */
static void check_recovery(const struct scene *s)
{
	for (unsigned i = 0; i < USERS; i++) {
		const struct person *p = &s->people[i];
		unsigned recovered = count(p->tabs[1], p->run, "run_recovered"),
			 started = count(p->tabs[1], p->run, "agent_started");
		if (recovered != p->concerned || started != 1 + recovered)
			fail_msg("%s (%s): %u times recovered, %u times started", p->user, p->worker, recovered, started);
	}
}

static void a_killed_workers_runs_go_on_elsewhere(void **state)
{
	struct cluster *c = *state;
	struct scene *s = enter(c);
	struct node *victim = cluster_node(c, s->people[0].worker);
	mark_concerned(s, s->people[0].worker);
	start_all(s, 0, long_run);
	assert_true(ws_loop_until(c->loop, concerned_stream, s, 10000));
	uint64_t killed = clock_us();
	cluster_kill(victim);
	wait_all_ended(s, 0, 30000);
	print_recovery_time(s, killed);
	check_recovery(s);
	check_all(s, 0);
	start_all(s, 1, "[{\"say\":\"again\"}]"); /* life goes on without it */
	wait_all_ended(s, 0, 20000);
	cluster_start_worker(c, (unsigned)(victim - c->workers), true); /* and with it again */
	cluster_wait_workers(c, 0, 3);
	cluster_wait_workers(c, 1, 3);
	start_all(s, 0, "[{\"say\":\"once more\"}]");
	wait_all_ended(s, 0, 20000);
	check_all(s, 0);
	check_log(s);
	leave(s);
	cluster_passed(c);
}

static void spin(struct cluster *c, unsigned ms)
{
	uint64_t until = clock_ms() + ms;
	while (clock_ms() < until)
		ws_loop_turn(c->loop, 20);
}

/* Awake, and heard of again; or it has found out that it was replaced, and ended. */
static void wait_awake(struct cluster *c, struct node *node)
{
	uint64_t deadline = clock_ms() + 20000 * patience();
	while (!process_has_ended(&node->process) && cluster_ready_workers(c, 0) < 3 && clock_ms() < deadline)
		ws_loop_turn(c->loop, 20);
	if (!node->process.pid) {
		node->killed = true;
		print_message("the woken worker ended with wait status 0x%x\n", (unsigned)node->process.status);
	} else {
		assert_int_equal(cluster_ready_workers(c, 0), 3);
		print_message("the woken worker is ready again\n");
	}
}

/* A worker stands still for ten seconds and wakes up: what it owned is another's by then, and it can't write a thing. */
static void stop_and_wake(void **state, bool dies)
{
	struct cluster *c = *state;
	struct scene *s = enter(c);
	struct node *victim = cluster_node(c, s->people[0].worker);
	mark_concerned(s, s->people[0].worker);
	start_all(s, 0, long_run);
	assert_true(ws_loop_until(c->loop, concerned_stream, s, 10000));
	uint64_t stopped = clock_us();
	if (dies)
		victim->killed = true; /* by another worker; its end is not judged */
	cluster_signal(c, victim, SIGSTOP);
	wait_all_ended(s, 0, 40000);
	print_recovery_time(s, stopped);
	check_recovery(s);
	start_all(s, 1, "[{\"say\":\"meanwhile\"}]");
	wait_all_ended(s, 0, 20000);
	uint64_t stood = (clock_us() - stopped) / 1000;
	if (stood < STOPPED_MS)
		spin(c, (unsigned)(STOPPED_MS - stood));
	if (dies) {
		assert_true(process_wait(&victim->process, 5000));
		print_message("the stopped worker was ended by another (wait status 0x%x)\n", (unsigned)victim->process.status);
	} else {
		assert_int_equal(process_state(node_pid(c, victim)), 'T');
		cluster_signal(c, victim, SIGCONT);
		wait_awake(c, victim);
	}
	start_all(s, 0, "[{\"think\":\"x\"},{\"sleep_ms\":300},{\"say\":\"after\"}]");
	wait_all_ended(s, 0, 20000);
	check_all(s, 0);
	for (unsigned i = 0; i < USERS; i++)
		assert_int_equal(count(s->people[i].tabs[1], s->people[i].run, "run_recovered"), 0);
	check_log(s); /* nothing has got in between */
	leave(s);
	cluster_passed(c);
}

static void a_stopped_worker_is_ended_before_it_can_write(void **state)
{
	stop_and_wake(state, true);
}

static void a_woken_worker_is_fenced_by_the_epoch(void **state)
{
	stop_and_wake(state, false);
}

static void a_killed_gateway_concerns_its_own_clients_only(void **state)
{
	struct cluster *c = *state;
	struct scene *s = enter(c);
	start_all(s, 1, long_run);
	spin(c, 300);
	cluster_kill(&c->gateways[0]);
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		assert_true(chat_wait_closed(p->tabs[0], 5000));
		chat_check(p->tabs[0]);
		struct chat *back = chat_resume(p->tabs[0], cluster_port(c, 1));
		assert_true(chat_wait_welcome(back, 10000));
		assert_true(json_is_true(json_object_get(back->welcome, "resumed")));
		assert_int_equal(back->last_seq >= p->tabs[0]->last_seq, 1);
		p->taken = p->tabs[0]->n_events;
		chat_free(p->tabs[0]);
		p->tabs[0] = back;
	}
	wait_all_ended(s, 0, 30000);
	check_all(s, 0);
	for (unsigned i = 0; i < USERS; i++) { /* before and after the kill together: all, once */
		struct person *p = &s->people[i];
		assert_int_equal(p->taken + p->tabs[0]->n_events, p->tabs[1]->n_events);
		assert_int_equal(count(p->tabs[1], p->run, "run_recovered"), 0);
	}
	cluster_start_gateway(c, 0, true);
	cluster_wait_workers(c, 0, 3);
	struct chat *again = chat_enter_as(c->loop, cluster_port(c, 0), s->people[0].user);
	char run[40];
	chat_start(again, json_string("what is 2+2?"), NULL, run);
	assert_non_null(chat_wait_end(again, run, 10000));
	assert_non_null(chat_wait_end(s->people[0].tabs[1], run, 10000));
	chat_free(again);
	leave(s);
	cluster_passed(c);
}

static void a_draining_worker_hands_over_unnoticed(void **state)
{
	struct cluster *c = *state;
	struct scene *s = enter(c);
	struct node *node = cluster_node(c, s->people[0].worker);
	mark_concerned(s, s->people[0].worker);
	start_all(s, 0, "[{\"stream\":{\"tokens\":50,\"interval_ms\":10,\"bytes\":24}},{\"say\":\"end\"}]");
	assert_true(ws_loop_until(c->loop, concerned_stream, s, 10000));
	uint64_t begin = clock_ms();
	cluster_signal(c, node, SIGTERM);
	wait_all_ended(s, 0, 30000);
	for (unsigned i = 0; i < USERS; i++)
		assert_int_equal(count(s->people[i].tabs[0], s->people[i].run, "run_recovered"), 0);
	start_all(s, 1, "[{\"say\":\"after\"}]");
	wait_all_ended(s, 0, 20000);
	uint64_t deadline = clock_ms() + 35000 * patience();
	while (!process_has_ended(&node->process) && clock_ms() < deadline)
		ws_loop_turn(c->loop, 20);
	assert_int_equal(node->process.pid, 0);
	assert_int_equal(node->process.status, 0);
	print_message("the worker had drained after %llu ms\n", (unsigned long long)(clock_ms() - begin));
	check_all(s, 0);
	leave(s);
	cluster_passed(c);
}

static void a_draining_gateway_sends_its_clients_away(void **state)
{
	struct cluster *c = *state;
	struct scene *s = enter(c);
	start_all(s, 0, long_run);
	cluster_signal(c, &c->gateways[0], SIGTERM);
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		assert_true(chat_wait_closed(p->tabs[0], 20000));
		chat_check(p->tabs[0]);
		assert_int_equal(p->tabs[0]->ws->close_code, 1012);
		struct chat *back = chat_resume(p->tabs[0], cluster_port(c, 1));
		assert_true(chat_wait_welcome(back, 10000));
		chat_free(p->tabs[0]);
		p->tabs[0] = back;
	}
	wait_all_ended(s, 0, 30000);
	check_all(s, 0);
	assert_true(process_wait(&c->gateways[0].process, 15000 * patience()));
	assert_int_equal(c->gateways[0].process.status, 0);
	leave(s);
	cluster_passed(c);
}

/* ---- clusters ---- */

static int start(void **state, const char *const *worker_flags, bool namespaces)
{
	struct cluster_args args = {.gateways = 2, .workers = 3, .worker_args = worker_flags, .own_pid_namespaces = namespaces};
	*state = cluster_start(&args);
	return 0;
}

static int plain(void **state)
{
	return start(state, NULL, false);
}

/* Nobody kills the stale one, and nobody could see its process: only the epoch stands between it and the log. */
static int unkillable(void **state)
{
	static const char *const flags[] = {"--kill-stale=false", NULL};
	return start(state, flags, system("unshare --pid --fork --kill-child --mount-proc true 2>/dev/null") == 0);
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
#define TEST(name, up) cmocka_unit_test_setup_teardown(name, up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_killed_workers_runs_go_on_elsewhere, plain),
		TEST(a_stopped_worker_is_ended_before_it_can_write, plain),
		TEST(a_woken_worker_is_fenced_by_the_epoch, unkillable),
		TEST(a_killed_gateway_concerns_its_own_clients_only, plain),
		TEST(a_draining_worker_hands_over_unnoticed, plain),
		TEST(a_draining_gateway_sends_its_clients_away, plain),
	};
	return cmocka_run_group_tests_name("failover", tests, NULL, NULL);
}
