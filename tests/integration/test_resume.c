/*
 * Coming back: a client that drops a thousand times hears, all in all, exactly what an undisturbed tab hears; and a run is
 * started once however often it is asked for by one key.
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

enum { RUNS = 100, DROPS = 1000, RUNS_AT_ONCE = 4, REPEATS = 50, REPEATERS = 5 };

#define USER "usr_4a8f9c2b1e5d"

struct heard {
	struct {
		char *raw;
		size_t n;
	} * items;
	size_t n, cap;
	uint64_t first_seq; /* of items[0] */
};

static void heard_add(struct heard *h, const struct chat_event *e)
{
	if (!h->n)
		h->first_seq = e->seq;
	assert_int_equal(e->seq, h->first_seq + h->n); /* across connections too: nothing missing, nothing twice */
	if (h->n == h->cap) {
		h->cap = h->cap ? h->cap * 2 : 1024;
		h->items = realloc(h->items, h->cap * sizeof *h->items);
	}
	h->items[h->n].raw = strndup(e->raw, e->n);
	h->items[h->n++].n = e->n;
}

static void heard_free(struct heard *h)
{
	for (size_t i = 0; i < h->n; i++)
		free(h->items[i].raw);
	free(h->items);
}

/* The client that can't hold a connection. */
struct restless {
	struct cluster *cluster;
	struct chat *chat;
	struct heard heard;
	size_t taken; /* events of the current connection that are in `heard` */
	struct random random;
	unsigned drops, cold_drops; /* cold: before the welcome */
	uint64_t drop_at_us;
};

static void restless_take(struct restless *r)
{
	for (; r->taken < r->chat->n_events; r->taken++)
		heard_add(&r->heard, &r->chat->events[r->taken]);
}

static void restless_plan(struct restless *r)
{
	r->drop_at_us = clock_us() + random_below(&r->random, 24000) * patience();
}

static void restless_drop(struct restless *r)
{
	struct chat *old = r->chat;
	restless_take(r);
	chat_check(old);
	r->drops++;
	if (!old->welcome && old->n_events == 0) { /* what it has is what it asked for */
		r->cold_drops++;
		old->last_seq = old->args.last_seq;
	}
	if (random_below(&r->random, 3) == 0)
		ws_close(old->ws, 1000, "bye");
	r->chat = chat_resume(old, cluster_port(r->cluster, (unsigned)random_below(&r->random, 2)));
	r->taken = 0;
	chat_free(old);
	restless_plan(r);
}

struct scene {
	struct restless r;
	struct chat *calm;
	struct {
		char id[40];
		bool ended;
	} runs[RUNS];
	unsigned started, ended;
};

static void note_ends(struct scene *s, size_t *looked)
{
	for (; *looked < s->calm->n_events; (*looked)++) {
		const struct chat_event *e = &s->calm->events[*looked];
		if (chat_is_terminal(e->type))
			s->ended++;
	}
}

static void start_run(struct scene *s)
{
	static const char *const scripts[] = {
		"[{\"think\":\"a\"},{\"stream\":{\"tokens\":40,\"interval_ms\":4,\"bytes\":24}},{\"say\":\"end\"}]",
		"[{\"say\":\"one\"},{\"tool\":\"calculator\",\"arguments\":{\"expression\":\"6*7\"}},{\"stream\":{\"tokens\":20,\"interval_ms\":8,\"bytes\":400}}]",
		"[{\"stream\":{\"tokens\":200,\"interval_ms\":1,\"bytes\":16}},{\"tool\":\"clock\",\"arguments\":{}},{\"say\":\"\xc3\xa9nd\"}]",
		"[{\"think\":\"b\"},{\"sleep_ms\":60},{\"tool\":\"notes\",\"arguments\":{\"op\":\"put\",\"key\":\"x\",\"value\":1}},{\"fail\":\"no\"}]",
	};
	chat_start(s->calm, chat_script(scripts[s->started % 4]), "script", s->runs[s->started].id);
	s->started++;
}

/* From the first event that both heard to the last: the same bytes. */
static void compare(const struct heard *h, const struct chat *calm)
{
	size_t same = 0;
	for (size_t i = 0; i < calm->n_events; i++) {
		const struct chat_event *e = &calm->events[i];
		if (e->seq < h->first_seq)
			continue;
		size_t k = (size_t)(e->seq - h->first_seq);
		assert_true(k < h->n);
		assert_int_equal(h->items[k].n, e->n);
		assert_memory_equal(h->items[k].raw, e->raw, e->n);
		same++;
	}
	assert_int_equal(same, h->n);
	print_message("%zu events heard by both, the same bytes\n", same);
}

static void drops_lose_double_and_reorder_nothing(void **state)
{
	struct cluster *c = *state;
	struct scene s = {.r = {.cluster = c, .random = {random_seed()}}};
	size_t looked = 0;
	unsigned drops = DROPS / (patience() > 1 ? 4 : 1), runs = RUNS / (patience() > 1 ? 4 : 1);
	uint64_t begin = clock_ms(), deadline = begin + 120000 * patience();
	s.calm = chat_enter_as(c->loop, cluster_port(c, 0), USER);
	s.r.chat = chat_enter_as(c->loop, cluster_port(c, 1), USER);
	restless_plan(&s.r);
	while (s.ended < runs || s.r.drops < drops) {
		if (clock_ms() > deadline)
			fail_msg("%u of %u runs ended, %u drops", s.ended, runs, s.r.drops);
		/* runs go on for as long as there are drops to come */
		bool room = s.started - s.ended < RUNS_AT_ONCE && s.started < runs;
		if (room && (uint64_t)s.started * drops <= (uint64_t)(s.r.drops + drops / 20) * runs)
			start_run(&s);
		ws_loop_turn(c->loop, 2);
		note_ends(&s, &looked);
		chat_check(s.calm);
		if (s.r.drops < drops && clock_us() >= s.r.drop_at_us)
			restless_drop(&s.r);
	}
	assert_true(chat_wait_seq(s.r.chat, s.calm->last_seq, 20000));
	restless_take(&s.r);
	chat_check(s.r.chat);
	print_message("%u runs, %u drops (%u before the welcome) in %llu ms\n", s.ended, s.r.drops, s.r.cold_drops,
	              (unsigned long long)(clock_ms() - begin));
	compare(&s.r.heard, s.calm);
	heard_free(&s.r.heard);
	chat_free(s.r.chat);
	chat_free(s.calm);
	cluster_passed(c);
}

static void resumed_is_told_truly(void **state)
{
	struct cluster *c = *state;
	char run[40];
	struct chat *a = chat_enter_as(c->loop, cluster_port(c, 0), USER);
	assert_int_equal(a->last_seq, 0);
	chat_start(a, chat_script("[{\"think\":\"1\"},{\"think\":\"2\"}]"), "script", run);
	assert_non_null(chat_wait_end(a, run, 10000));
	uint64_t last = a->last_seq;
	const uint64_t from[] = {0, 1, last - 1, last, last + 1, last + 1000000};
	for (size_t i = 0; i < 6; i++) {
		struct chat_args args = {.port = cluster_port(c, 1), .user = USER, .resume = true, .last_seq = from[i]};
		struct chat *b = chat_enter(c->loop, &args); /* checks `resumed` against N, earliest and last */
		assert_int_equal(json_is_true(json_object_get(b->welcome, "resumed")), from[i] <= last);
		assert_true(chat_wait_seq(b, last, 10000));
		assert_int_equal(b->n_events, from[i] <= last ? last - from[i] : 0);
		for (size_t k = 0; k < b->n_events; k++)
			assert_string_equal(b->events[k].raw, a->events[a->n_events - b->n_events + k].raw);
		chat_check(b);
		chat_free(b);
	}
	struct chat *fresh = chat_enter_as(c->loop, cluster_port(c, 1), USER);
	assert_int_equal(fresh->last_seq, last);
	chat_free(fresh);
	chat_free(a);
	cluster_passed(c);
}

/* A tab that comes in the middle of a message gets it from offset 0, and what it joins is the whole. */
static void an_open_message_comes_from_its_start(void **state)
{
	struct cluster *c = *state;
	char run[40];
	struct chat *a = chat_enter_as(c->loop, cluster_port(c, 0), USER), *late[6];
	chat_start(a, chat_script("[{\"stream\":{\"tokens\":120,\"interval_ms\":10,\"bytes\":32}}]"), "script", run);
	for (unsigned i = 0; i < 6; i++) {
		uint64_t deltas = a->deltas, deadline = clock_ms() + 10000 * patience();
		while (a->deltas < deltas + 15 && clock_ms() < deadline)
			ws_loop_turn(c->loop, 20);
		late[i] = i % 2 ? chat_resume(a, cluster_port(c, 1))
		                : chat_enter_as(c->loop, cluster_port(c, i % 4 ? 0 : 1), USER);
	}
	assert_non_null(chat_wait_end(a, run, 20000));
	for (unsigned i = 0; i < 6; i++) {
		assert_non_null(chat_wait_end(late[i], run, 20000));
		assert_true(late[i]->deltas > 0); /* chat.c compares their text with the agent_message */
		chat_check(late[i]);
		chat_free(late[i]);
	}
	chat_check(a);
	chat_free(a);
	cluster_passed(c);
}

static json_t *keyed(const char *key, const char *input)
{
	json_t *m = chat_run_message(json_string(input), "demo", NULL);
	json_object_set_new(m, "idempotency_key", json_string(key));
	return m;
}

static unsigned count_events(const struct chat *chat, const char *type)
{
	unsigned n = 0;
	for (size_t i = 0; i < chat->n_events; i++)
		n += !strcmp(chat->events[i].type, type);
	return n;
}

struct repeats {
	struct chat *chats[REPEATERS];
	char ids[REPEATS][32];
};

static bool repeats_answered(void *ctx)
{
	struct repeats *r = ctx;
	for (unsigned i = 0; i < REPEATS; i++)
		if (!chat_answer(r->chats[i % REPEATERS], r->ids[i]))
			return false;
	return true;
}

static void one_key_is_one_run(void **state)
{
	struct cluster *c = *state;
	struct repeats r;
	char run[40];
	for (unsigned i = 0; i < REPEATERS; i++)
		r.chats[i] = chat_enter_as(c->loop, cluster_port(c, i % 2), USER);
	for (unsigned i = 0; i < REPEATS; i++) /* all at once, over both gateways */
		snprintf(r.ids[i], sizeof r.ids[i], "%s", chat_send(r.chats[i % REPEATERS], keyed("order-66", "what is 2+2?")));
	assert_true(ws_loop_until(c->loop, repeats_answered, &r, 20000));
	json_t *first = chat_answer(r.chats[0], r.ids[0]);
	snprintf(run, sizeof run, "%s", chat_text_of(first, "run_id"));
	for (unsigned i = 0; i < REPEATS; i++) {
		json_t *answer = chat_answer(r.chats[i % REPEATERS], r.ids[i]);
		assert_string_equal(chat_text_of(answer, "type"), "ack");
		assert_string_equal(chat_text_of(answer, "run_id"), run);
		assert_string_equal(chat_text_of(answer, "thread_id"), chat_text_of(first, "thread_id"));
		assert_int_equal(json_integer_value(json_object_get(answer, "seq")),
		                 json_integer_value(json_object_get(first, "seq")));
	}
	for (unsigned i = 0; i < REPEATERS; i++)
		assert_non_null(chat_wait_end(r.chats[i], run, 10000));
	assert_string_equal(chat_text_of(chat_call(r.chats[1], keyed("order-66", "what is 2+2?")), "run_id"),
	                    run); /* after its end too */
	assert_string_equal(chat_code(chat_call(r.chats[2], keyed("order-66", "what is 3+3?"))), "conflict");
	json_t *other = chat_call(r.chats[3], keyed("order-67", "what is 2+2?"));
	assert_string_not_equal(chat_text_of(other, "run_id"), run);
	assert_non_null(chat_wait_end(r.chats[0], chat_text_of(other, "run_id"), 10000));
	assert_int_equal(count_events(r.chats[0], "run_accepted"), 2);
	struct chat *stranger = chat_enter_as(c->loop, cluster_port(c, 0), "usr_000000000009"); /* another's key is another key */
	json_t *theirs = chat_call(stranger, keyed("order-66", "what is 2+2?"));
	assert_string_equal(chat_text_of(theirs, "type"), "ack");
	assert_string_not_equal(chat_text_of(theirs, "run_id"), run);
	chat_free(stranger);
	for (unsigned i = 0; i < REPEATERS; i++) {
		chat_check(r.chats[i]);
		chat_free(r.chats[i]);
	}
	cluster_passed(c);
}

static int set_up(void **state)
{
	struct cluster_args args = {.gateways = 2, .workers = 2};
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
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(resumed_is_told_truly),
		TEST(an_open_message_comes_from_its_start),
		TEST(one_key_is_one_run),
		TEST(drops_lose_double_and_reorder_nothing),
	};
	return cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
