/*
 * A reader that stops: while 200 MB of events go by, the gateway holds no more for it than its cap, nobody else
 * notices, and when it reads again it hears everything in order.
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

#define USER "usr_4a8f9c2b1e5d"

enum {
	RSS_SLACK_KB = 12 * 1024, /* over the growth cap of 256 KiB: the open message, batches under way, the allocator's own */
	LATENCY_FACTOR = 3,
	LATENCY_SLACK_US = 30000,
	SAMPLES_MAX = 20000,
};

struct flood {
	struct cluster *c;
	struct chat *reader, *slow, *other; /* two tabs of the one, and another user */
	struct {
		uint64_t us[SAMPLES_MAX];
		size_t n;
	} kinds[2]; /* a ping, answered by the gateway; a small query, answered by the worker */
	unsigned kind;
	char asked[32];
	uint64_t asked_at;
	long rss_max_kb;
	uint64_t looked_at;
};

/* The other user's ping and small query, in turns, one after the other: each round's time is a sample. */
static void probe(struct flood *f)
{
	struct chat_answer *a = NULL;
	if (f->asked[0])
		HASH_FIND_STR(f->other->answers, f->asked, a);
	if (f->asked[0] && !a)
		return;
	if (a && f->kinds[f->kind].n < SAMPLES_MAX)
		f->kinds[f->kind].us[f->kinds[f->kind].n++] = a->at_us - f->asked_at;
	f->asked_at = clock_us();
	f->kind ^= 1;
	json_t *m = f->kind ? json_pack("{s:s,s:i}", "type", "thread.list", "limit", 1) : json_pack("{s:s}", "type", "ping");
	snprintf(f->asked, sizeof f->asked, "%s", chat_send(f->other, m));
}

/* Prints both kinds' percentiles; returns the larger p99. */
static uint64_t latency(struct flood *f)
{
	uint64_t worst = 0;
	for (unsigned k = 0; k < 2; k++) {
		size_t n = f->kinds[k].n;
		assert_true(n > 0);
		uint64_t p50 = percentile(f->kinds[k].us, n, 0.5), p99 = percentile(f->kinds[k].us, n, 0.99);
		print_message("    another's %s: p50 %llu us, p99 %llu us of %zu\n", k ? "query" : "ping",
		              (unsigned long long)p50, (unsigned long long)p99, n);
		if (p99 > worst)
			worst = p99;
		f->kinds[k].n = 0;
	}
	return worst;
}

static void watch_memory(struct flood *f)
{
	if (clock_ms() < f->looked_at + 20)
		return;
	f->looked_at = clock_ms();
	long rss = process_rss_kb(f->c->gateways[0].process.pid);
	if (rss > f->rss_max_kb)
		f->rss_max_kb = rss;
}

/* One run of about mb MiB of text, twice that in frames; returns p99 of the other's latency. */
static uint64_t flood(struct flood *f, unsigned mb, const char *what)
{
	char run[40], steps[256];
	uint64_t begin = clock_ms(), bytes = f->reader->bytes, deltas = f->reader->deltas, deadline = begin + 120000 * patience();
	size_t looked = f->reader->n_events;
	bool ended = false;
	f->kinds[0].n = f->kinds[1].n = 0;
	f->rss_max_kb = 0;
	snprintf(steps, sizeof steps,
	         "[{\"stream\":{\"tokens\":%u,\"interval_ms\":0,\"bytes\":4096}},{\"think\":\"half\"},"
	         "{\"stream\":{\"tokens\":%u,\"interval_ms\":0,\"bytes\":65536}}]",
	         mb * 128, mb * 8);
	chat_start(f->reader, chat_script(steps), "script", run);
	while (!ended && clock_ms() < deadline) {
		probe(f);
		ws_loop_turn(f->c->loop, 20);
		watch_memory(f);
		for (; looked < f->reader->n_events; looked++)
			ended |= chat_is_terminal(f->reader->events[looked].type);
		if (f->reader->ws->state == WS_CLOSED)
			fail_msg("%s: the reader was closed: %d %s", what, f->reader->ws->close_code,
			         f->reader->ws->close_reason);
	}
	if (!ended)
		fail_msg("%s: the run has not ended, %llu bytes came", what, (unsigned long long)(f->reader->bytes - bytes));
	assert_string_equal(f->reader->events[f->reader->n_events - 1].type, "agent_completed");
	chat_check(f->reader);
	chat_check(f->other);
	print_message("%s: %.1f MB in %llu ms (%llu deltas); gateway RSS at most %ld KiB\n", what,
	              (double)(f->reader->bytes - bytes) / 1e6, (unsigned long long)(clock_ms() - begin),
	              (unsigned long long)(f->reader->deltas - deltas), f->rss_max_kb);
	return latency(f);
}

static void check_same_events(const struct chat *a, const struct chat *b)
{
	size_t skip = a->n_events - b->n_events;
	for (size_t i = 0; i < b->n_events; i++) {
		assert_int_equal(a->events[skip + i].seq, b->events[i].seq);
		assert_int_equal(a->events[skip + i].n, b->events[i].n);
		assert_true(a->events[skip + i].hash == b->events[i].hash);
	}
}

static void a_reader_that_stops_costs_its_cap_only(void **state)
{
	struct cluster *c = *state;
	static struct flood f; /* large */
	f.c = c;
	unsigned mb = patience() > 1 ? 8 : 50;
	struct chat_args args = {.port = cluster_port(c, 0), .user = USER, .forget_bytes = true};
	f.reader = chat_enter(c->loop, &args);
	args.receive_buffer = 4096;
	f.slow = chat_enter(c->loop, &args);
	f.other = chat_enter_as(c->loop, cluster_port(c, 0), "usr_000000000007");
	flood(&f, mb / 2, "warming up");
	uint64_t before = flood(&f, mb, "all read");
	assert_true(chat_wait_seq(f.slow, f.reader->last_seq, 60000));
	check_same_events(f.reader, f.slow);
	long rss = f.rss_max_kb;
	uint64_t at_stop = f.slow->bytes, begin = f.reader->bytes;

	ws_pause(f.slow->ws, true);
	uint64_t during = UINT64_MAX; /* the best round: the machine has other work too, but a stopped reader would burden all */
	for (unsigned i = 0; i < 8 && f.reader->bytes - begin < (uint64_t)mb * 4000000; i++) {
		uint64_t p99 = flood(&f, mb, "one has stopped");
		if (p99 < during)
			during = p99;
	}
	assert_true(f.reader->bytes - begin >= (uint64_t)mb * 4000000);
	print_message("%.1f MB went by the stopped reader; RSS grew by %ld KiB\n", (double)(f.reader->bytes - begin) / 1e6,
	              f.rss_max_kb - rss);
	assert_true(f.slow->bytes == at_stop);
	if (patience() == 1) { /* a sanitizer's allocator keeps what was freed */
		assert_true(f.rss_max_kb - rss < RSS_SLACK_KB);
		assert_true(during < before * LATENCY_FACTOR + LATENCY_SLACK_US);
	}

	uint64_t resumed_at = clock_ms();
	assert_int_equal(f.slow->ws->state, WS_OPEN);
	ws_pause(f.slow->ws, false);
	if (!chat_wait_seq(f.slow, f.reader->last_seq, 60000))
		fail_msg("the slow reader has %llu of %llu; %s", (unsigned long long)f.slow->last_seq,
		         (unsigned long long)f.reader->last_seq,
		         f.slow->ws->state == WS_CLOSED ? f.slow->ws->close_reason : "open");
	print_message("reading again: %.1f MB in %llu ms\n", (double)(f.slow->bytes - at_stop) / 1e6,
	              (unsigned long long)(clock_ms() - resumed_at));
	chat_check(f.slow);
	check_same_events(f.reader, f.slow);
	flood(&f, 2, "live again"); /* deltas too: it is at the head */
	assert_true(chat_wait_seq(f.slow, f.reader->last_seq, 30000));
	chat_check(f.slow);
	check_same_events(f.reader, f.slow);
	chat_free(f.reader);
	chat_free(f.slow);
	chat_free(f.other);
	cluster_passed(c);
}

static int set_up(void **state)
{
	static const char *const flags[] = {"--messages-per-s", "100000", "--burst", "100000", NULL};
	struct cluster_args args = {
		.gateways = 1,
		.workers = 1,
		.gateway_args = flags,
		.agents =
			"agents:\n"
			"  demo: {kind: demo}\n"
			"  script: {kind: script, limits: {run_seconds: 600, steps: 10000, cpu_seconds: 300, output_bytes: 536870912}}\n"
			"default_agent: demo\n",
	};
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
		cmocka_unit_test_setup_teardown(a_reader_that_stops_costs_its_cap_only, set_up, tear_down),
	};
	return cmocka_run_group_tests_name("slow_reader", tests, NULL, NULL);
}
