/*
 * Several tabs of one user, at several gateways: all see all, answers go to the asker alone, and caps hold.
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
#include "tests/lib/token.h"

#define USER "usr_4a8f9c2b1e5d"

enum { CAP = 8, GATEWAYS = 2, TABS = CAP * GATEWAYS };

static void enter_tabs(struct cluster *c, struct chat **tabs)
{
	for (unsigned i = 0; i < TABS; i++) {
		struct chat_args args = {.port = cluster_port(c, i % GATEWAYS), .user = USER, .in_band = i % 3 == 0};
		tabs[i] = chat_enter(c->loop, &args);
	}
}

static void leave_tabs(struct chat **tabs)
{
	for (unsigned i = 0; i < TABS; i++) {
		chat_check(tabs[i]);
		chat_free(tabs[i]);
	}
}

static void all_tabs_see_all(void **state)
{
	struct cluster *c = *state;
	struct chat *tabs[TABS];
	char runs[TABS][40];
	enter_tabs(c, tabs);
	for (unsigned i = 0; i < TABS; i++)
		chat_start(tabs[i],
		           chat_script("[{\"think\":\"t\"},{\"stream\":{\"tokens\":30,\"interval_ms\":2,\"bytes\":40}},"
		                       "{\"tool\":\"clock\",\"arguments\":{}},{\"say\":\"done\"}]"),
		           "script", runs[i]);
	for (unsigned i = 0; i < TABS; i++)
		for (unsigned k = 0; k < TABS; k++) {
			const struct chat_event *end = chat_wait_end(tabs[i], runs[k], 30000);
			assert_non_null(end);
			assert_string_equal(end->type, "agent_completed");
		}
	for (unsigned i = 0; i < TABS; i++) {
		assert_int_equal(HASH_COUNT(tabs[i]->answers), 1); /* its own, no other's */
		assert_true(tabs[i]->deltas > 0);
		assert_true(chat_wait_seq(tabs[i], tabs[0]->last_seq, 5000));
		assert_int_equal(tabs[i]->n_events, tabs[0]->n_events);
		for (size_t k = 0; k < tabs[0]->n_events; k++)
			assert_string_equal(tabs[i]->events[k].raw, tabs[0]->events[k].raw);
	}
	print_message("%d tabs, %zu events each, the same bytes\n", TABS, tabs[0]->n_events);
	leave_tabs(tabs);
	cluster_passed(c);
}

static bool decided(void *ctx)
{
	struct ws_client *ws = ctx;
	return ws->state == WS_OPEN || ws->state == WS_CLOSED;
}

static int upgrade_status(struct cluster *c, unsigned gateway, char *code)
{
	char *token = token_make(USER, 600), *bearer = text_format("Bearer %s", token), retry[16];
	struct ws_request request = {.port = cluster_port(c, gateway), .authorization = bearer};
	struct ws_client *ws = ws_connect(c->loop, &request);
	assert_true(ws_loop_until(c->loop, decided, ws, 10000));
	int status = ws->response.status;
	http_problem_code(&ws->response, code, 64);
	if (status == 429)
		assert_true(http_header(&ws->response, "retry-after", retry, sizeof retry) && atoi(retry) > 0);
	ws_free(ws);
	free(token);
	free(bearer);
	return status;
}

static void one_beyond_the_cap_is_refused(void **state)
{
	struct cluster *c = *state;
	struct chat *tabs[TABS];
	char code[64];
	enter_tabs(c, tabs);
	for (unsigned g = 0; g < GATEWAYS; g++) {
		assert_int_equal(upgrade_status(c, g, code), 429);
		assert_string_equal(code, "too_many_connections");
	}
	struct chat_args in_band = {.port = cluster_port(c, 0), .user = USER, .in_band = true};
	struct chat *late = chat_open(c->loop, &in_band);
	assert_false(chat_wait_welcome(late, 10000));
	assert_int_equal(late->ws->close_code, 1013);
	chat_free(late);
	struct chat *other = chat_enter_as(c->loop, cluster_port(c, 0), "usr_000000000002"); /* another user is not concerned */
	chat_free(other);
	ws_close(tabs[0]->ws, 1000, "");
	assert_true(chat_wait_closed(tabs[0], 5000));
	uint64_t deadline = clock_ms() + 5000 * patience();
	while (upgrade_status(c, 0, code) != 101 && clock_ms() < deadline)
		pause_ms(5);
	assert_true(clock_ms() < deadline);
	json_t *pong = chat_call(tabs[1], json_pack("{s:s}", "type", "ping"));
	assert_string_equal(chat_text_of(pong, "type"), "pong");
	leave_tabs(tabs);
	cluster_passed(c);
}

enum { WAVE = 40, WAVES = 2 }; /* a session takes 64 commands ahead */

struct started {
	char runs[WAVES * WAVE][40];
	unsigned accepted, refused;
};

static void start_wave(struct chat *chat, struct started *started)
{
	char ids[WAVE][32];
	for (unsigned i = 0; i < WAVE; i++)
		snprintf(ids[i], sizeof ids[i], "%s",
		         chat_send(chat, chat_run_message(chat_script("[{\"sleep_ms\":1500}]"), "script", NULL)));
	for (unsigned i = 0; i < WAVE; i++) {
		json_t *answer = chat_wait_answer(chat, ids[i], 20000);
		if (!chat_code(answer)[0])
			snprintf(started->runs[started->accepted++], 40, "%s", chat_text_of(answer, "run_id"));
		else if (!strcmp(chat_code(answer), "queue_full"))
			started->refused++;
		else
			fail_msg("answered by %s", chat_code(answer));
	}
}

/* Eight runs are active, sixty-four wait, one more is refused; all that were accepted run. */
static void caps_of_runs_hold(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), USER);
	struct started started = {0};
	for (unsigned i = 0; i < WAVES; i++)
		start_wave(chat, &started);
	json_t *list = chat_call(chat, json_pack("{s:s,s:i}", "type", "run.list", "limit", 100)), *run;
	unsigned active = 0;
	size_t at;
	json_array_foreach(json_object_get(list, "runs"), at, run) active += !strcmp(chat_text_of(run, "status"), "active");
	print_message("%u accepted, %u refused, %u active at once\n", started.accepted, started.refused, active);
	assert_in_range(started.accepted, 72, 80); /* none of them has ended yet, or few */
	assert_true(active <= 8);
	for (unsigned i = 0; i < started.accepted; i++)
		if (i >= 16) /* enough have really run: the rest is cancelled, waiting or active */
			chat_send(chat, json_pack("{s:s,s:s}", "type", "run.cancel", "run_id", started.runs[i]));
	for (unsigned i = 0; i < started.accepted; i++)
		assert_non_null(chat_wait_end(chat, started.runs[i], 40000));
	chat_check(chat);
	chat_free(chat);
	cluster_passed(c);
}

static void a_flood_of_messages_is_limited(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), USER);
	char last[32] = "";
	unsigned limited = 0, pongs = 0;
	for (unsigned i = 0; i < 400; i++)
		snprintf(last, sizeof last, "%s", chat_send(chat, json_pack("{s:s}", "type", "ping")));
	assert_non_null(chat_wait_answer(chat, last, 10000));
	struct chat_answer *a, *tmp;
	HASH_ITER (hh, chat->answers, a, tmp) {
		limited += !strcmp(chat_code(a->json), "rate_limited");
		pongs += !strcmp(chat_text_of(a->json, "type"), "pong");
		if (!strcmp(chat_code(a->json), "rate_limited"))
			assert_true(json_integer_value(json_object_get(a->json, "retry_after_ms")) > 0);
	}
	assert_int_equal(limited + pongs, 400);
	assert_in_range(pongs, 200, 300);
	chat_check(chat);
	chat_free(chat);
	chat = chat_enter_as(c->loop, cluster_port(c, 0), USER); /* one that doesn't stop is closed */
	uint64_t deadline = clock_ms() + 30000 * patience();
	while (chat->ws->state == WS_OPEN && clock_ms() < deadline) {
		if (ws_unsent(chat->ws) < 65536)
			for (unsigned i = 0; i < 100; i++)
				chat_send(chat, json_pack("{s:s}", "type", "ping"));
		ws_loop_turn(c->loop, 5);
	}
	assert_int_equal(chat->ws->close_code, 4429);
	chat_check(chat);
	chat_free(chat);
	cluster_passed(c);
}

static int set_up(void **state)
{
	struct cluster_args args = {.gateways = GATEWAYS, .workers = 2};
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
		TEST(all_tabs_see_all),
		TEST(one_beyond_the_cap_is_refused),
		TEST(caps_of_runs_hold),
		TEST(a_flood_of_messages_is_limited),
	};
	return cmocka_run_group_tests_name("tabs", tests, NULL, NULL);
}
