/*
 * Bad links between gateways and workers: what they lose, double and delay, no client sees. All runs end, all tabs hear the
 * same bytes in order, no connection closes.
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

enum { USERS = 20, TABS = 2, ROUNDS = 5 };

struct person {
	char user[32], ack[32], run[40];
	struct chat *tabs[TABS];
};

struct scene {
	struct person people[USERS];
	unsigned round;
};

static const char *const scripts[ROUNDS] = {
	"[{\"say\":\"hello\"}]",
	"[{\"think\":\"a\"},{\"stream\":{\"tokens\":100,\"interval_ms\":2,\"bytes\":30}},{\"say\":\"end\"}]",
	"[{\"tool\":\"notes\",\"arguments\":{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}},{\"tool\":\"clock\",\"arguments\":{}},{\"think\":\"b\"}]",
	"[{\"stream\":{\"tokens\":30,\"interval_ms\":5,\"bytes\":2000}},{\"stream\":{\"tokens\":30,\"interval_ms\":5,\"bytes\":20}}]",
	"[{\"think\":\"1\"},{\"think\":\"2\"},{\"think\":\"3\"},{\"think\":\"4\"},{\"think\":\"5\"},{\"think\":\"6\"},{\"say\":\"end\"}]",
};

static void play_round(struct scene *s)
{
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		json_t *m = chat_run_message(chat_script(scripts[(s->round + i) % ROUNDS]), "script", NULL);
		if (i % 2) { /* the others have no key of their own: the gateway must not double them either */
			char key[32];
			snprintf(key, sizeof key, "key-%u", s->round);
			json_object_set_new(m, "idempotency_key", json_string(key));
		}
		snprintf(p->ack, sizeof p->ack, "%s", chat_send(p->tabs[(i + s->round) % TABS], m));
	}
	for (unsigned i = 0; i < USERS; i++) {
		struct person *p = &s->people[i];
		json_t *answer = chat_wait_answer(p->tabs[(i + s->round) % TABS], p->ack, 20000);
		if (!answer || chat_code(answer)[0])
			fail_msg("run.start of %s: %s", p->user, chat_code(answer));
		snprintf(p->run, sizeof p->run, "%s", chat_text_of(answer, "run_id"));
	}
	for (unsigned i = 0; i < USERS; i++)
		for (unsigned t = 0; t < TABS; t++) {
			struct person *p = &s->people[i];
			const struct chat_event *end = chat_wait_end(p->tabs[t], p->run, 30000);
			if (!end)
				fail_msg("the run of %s has not ended at tab %u; seq %llu", p->user, t,
				         (unsigned long long)p->tabs[t]->last_seq);
			if (strcmp(end->type, "agent_completed") != 0)
				fail_msg("the run of %s ended in %s", p->user, end->raw);
		}
}

static unsigned count(const struct chat *chat, const char *type)
{
	unsigned n = 0;
	for (size_t i = 0; i < chat->n_events; i++)
		n += !strcmp(chat->events[i].type, type);
	return n;
}

static void check(const struct scene *s)
{
	for (unsigned i = 0; i < USERS; i++) {
		const struct person *p = &s->people[i];
		const struct chat *a = p->tabs[0];
		assert_int_equal(count(a, "run_accepted"), ROUNDS); /* none was started twice */
		assert_int_equal(count(a, "run_recovered"), 0);
		for (unsigned t = 0; t < TABS; t++) {
			chat_check(p->tabs[t]);
			assert_int_equal(p->tabs[t]->ws->state, WS_OPEN);
			assert_int_equal(p->tabs[t]->n_events, a->n_events);
			for (size_t k = 0; k < a->n_events; k++)
				assert_string_equal(p->tabs[t]->events[k].raw, a->events[k].raw);
		}
	}
}

static void clients_see_nothing_of_it(void **state)
{
	struct cluster *c = *state;
	struct scene s = {0};
	uint64_t begin = clock_ms();
	for (unsigned i = 0; i < USERS; i++) {
		snprintf(s.people[i].user, sizeof s.people[i].user, "usr_%012x", 0xbad0000 + i);
		for (unsigned t = 0; t < TABS; t++)
			s.people[i].tabs[t] = chat_enter_as(c->loop, cluster_port(c, t), s.people[i].user);
	}
	for (s.round = 0; s.round < ROUNDS; s.round++)
		play_round(&s);
	check(&s);
	print_message("%d runs in %llu ms\n", USERS * ROUNDS, (unsigned long long)(clock_ms() - begin));
	for (unsigned i = 0; i < USERS; i++)
		for (unsigned t = 0; t < TABS; t++)
			chat_free(s.people[i].tabs[t]);
	cluster_passed(c);
}

static struct cluster *start(const char *faults)
{
	struct cluster_args args = {.gateways = 2,
	                            .workers = 3,
	                            .gateway_program = PINION_FAULTY_GATEWAY,
	                            .worker_program = PINION_FAULTY_WORKER};
	char *setting = text_format("seed=%llu,%s", (unsigned long long)random_seed(), faults);
	setenv("PINION_FAULTS", setting, 1);
	print_message("faults: %s\n", setting);
	free(setting);
	return cluster_start(&args);
}

static int none(void **state)
{
	*state = start("lost=0");
	return 0;
}

static int few(void **state)
{
	*state = start("lost=10,doubled=20,late=20,late_ms=30");
	return 0;
}

static int many(void **state)
{
	*state = start("lost=60,doubled=100,late=100,late_ms=60");
	return 0;
}

static int late_only(void **state)
{
	*state = start("late=500,late_ms=25");
	return 0;
}

/* Every program must have had something to do. */
static void print_faults(const struct node *node)
{
	char *text = read_whole_file(node->process.log), *line = text ? strstr(text, "faults: ") : NULL;
	if (line)
		print_message("%s %.*s\n", node->process.name, (int)strcspn(line, "\n"), line);
	free(text);
}

static int tear_down(void **state)
{
	struct cluster *c = *state;
	for (unsigned i = 0; i < 3; i++) {
		cluster_drain(c, &c->workers[i], 20000);
		print_faults(&c->workers[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		cluster_drain(c, &c->gateways[i], 20000);
		print_faults(&c->gateways[i]);
	}
	cluster_stop(c);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1) /* one test by its name, '*' allowed */
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(clients_see_nothing_of_it, none, tear_down),
		cmocka_unit_test_setup_teardown(clients_see_nothing_of_it, late_only, tear_down),
		cmocka_unit_test_setup_teardown(clients_see_nothing_of_it, few, tear_down),
		cmocka_unit_test_setup_teardown(clients_see_nothing_of_it, many, tear_down),
	};
	return cmocka_run_group_tests_name("link_faults", tests, NULL, NULL);
}
