/*
 * test_gateway_random.c - seeded schedules: links lose, double, delay and reorder; workers die, stop, hand users over;
 * connections come, stall, go and resume. Each connection must get exactly the events behind its cursor, in order, with
 * text that joins to the messages; each command one answer; each run.start one run. The seed of a failure is printed:
 * GATEWAY_SEED=n runs that one alone, GATEWAY_SEEDS=n as many.
 */
#include "tests/unit/gateway_world.h"

enum { TABS = 3, STEPS = 600 };

struct tab {
	struct conn *conn;
	uint64_t cursor; /* what it had when it went */
	bool had;        /* a welcome, ever */
};

static struct tab tabs[USERS][TABS];

static void tab_leave(struct tab *t)
{
	if (t->conn->welcomed) {
		t->cursor = t->conn->cursor;
		t->had = true;
	}
	c_finish(t->conn);
	t->conn = NULL;
}

static void tab_come(int user, struct tab *t)
{
	bool resumes = t->had && w_random() % 4;

	t->conn = resumes ? c_resume(user, t->cursor) : c_open(user);
	t->conn->must_resume = resumes;
}

static void tab_command(struct conn *c)
{
	uint64_t n = c->sent;

	if (c->n_answers + 80 > ANSWERS_MAX || c->reading_off)
		return;
	c->sent++;
	switch (w_random() % 3) {
	case 0:
		c_send(c, "{\"type\":\"ping\",\"id\":\"k%" PRIu64 "\"}", n);
		break;
	case 1:
		c_send(c, "{\"type\":\"thread.list\",\"id\":\"k%" PRIu64 "\"}", n);
		break;
	default:
		c_send(c, "{\"type\":\"run.start\",\"id\":\"k%" PRIu64 "\",\"input\":\"x\"}", n);
		break;
	}
}

static void tab_step(int user, struct tab *t)
{
	if (!t->conn) {
		if (w_chance(100))
			tab_come(user, t);
		return;
	}
	if (t->conn->close_code) {
		tab_leave(t);
		return;
	}
	unsigned dice = w_random() % 1000;
	if (dice < 10)
		tab_leave(t);
	else if (dice < 40)
		t->conn->stalled = !t->conn->stalled;
	else if (dice < 80)
		tab_command(t->conn);
}

static struct w_message *user_open_message(struct w_user *u)
{
	struct w_message *open[MESSAGES_MAX];
	size_t n = 0;

	for (size_t i = 0; i < u->n_messages; i++)
		if (u->messages[i]->open)
			open[n++] = u->messages[i];
	return n ? open[w_random() % n] : NULL;
}

static void user_step(struct w_user *u)
{
	static const char *const texts[] = {
		"a", "word ", "z\xc3\xbc", "\xe2\x82\xac uro ", "\xf0\x9f\x98\x80", "a longer piece of streamed text "};
	struct w_message *m = user_open_message(u);
	unsigned dice = w_random() % 100;

	if (u->owner < 0 || !w->workers[u->owner].alive || w->workers[u->owner].mute)
		return; /* nobody runs its agents */
	for (size_t i = 0; i < u->n_messages; i++)
		if (u->messages[i]->ending && w_chance(300))
			w_message_close(u, u->messages[i]);
	if (dice < 15) {
		w_commit(u, "tick", "\"more\":\"some event of an agent, to take up room\"", NULL, NULL);
	} else if (dice < 20 && u->n_messages < 500) {
		w_stream(u, w_message_open(u, NULL), "begin ");
	} else if (dice < 60 && m && m->text.n < 3000) {
		w_stream(u, m, texts[w_random() % 6]);
	} else if (dice < 62 && m) {
		w_message_close(u, m);
	} else if (dice < 64 && m) {
		m->open = false;
		m->ending = true;
	} else if (dice < 65 && m) {
		w_void_run(u, m->run);
	} else if (dice < 66) {
		struct item item = {.kind = ITEM_HEAD, .head.last_seq = u->last};
		w_publish_item(u, &item);
	}
}

static void worker_step(int index)
{
	struct w_worker *me = &w->workers[index];

	if (!me->alive) {
		if (w_chance(30))
			w_revive(index);
	} else if (me->mute) {
		if (w_chance(20))
			me->mute = false;
	} else if (w_chance(2)) {
		w_kill(index);
	} else if (w_chance(2)) {
		me->mute = true;
	} else if (w_chance(3)) {
		struct w_user *u = &w->users[w_random() % USERS];
		struct item item = {.kind = ITEM_LOST};
		if (u->owner == index) {
			w_publish_item(u, &item);
			w_take_over(u, -1);
		}
	} else if (w_chance(2)) {
		me->attach_code = me->attach_code ? ERR_OK : ERR_FULL;
	}
}

static void heal(void)
{
	w->lose = w->twice = w->delay = 0;
	for (int i = 0; i < WORKERS; i++) {
		w->workers[i].attach_code = ERR_OK;
		w->workers[i].mute = false;
		if (!w->workers[i].alive)
			w_revive(i);
	}
	for (int u = 0; u < USERS; u++)
		for (int i = 0; i < TABS; i++)
			if (tabs[u][i].conn)
				tabs[u][i].conn->stalled = false;
	for (size_t i = 0; i < CONNS; i++)
		w->conns[i].wanted = true;
	w_run(25000);
}

static void expect_whole(int user, struct conn *c)
{
	const struct w_user *u = &w->users[user];

	assert_int_equal(c->close_code, 0);
	assert_true(c->welcomed);
	assert_int_equal(c->cursor, u->last);
	for (size_t i = 0; i < u->n_messages; i++)
		if (u->messages[i]->open)
			assert_int_equal(c_text(c, u->messages[i]->id)->text.n, u->messages[i]->text.n);
	for (uint64_t n = 0; n < c->sent; n++) {
		char id[32];
		unsigned answers = 0;
		int len = snprintf(id, sizeof(id), "k%" PRIu64 " ", n);
		for (size_t i = 0; i < c->n_answers; i++)
			answers += strncmp(c->answers[i], id, (size_t)len) == 0;
		assert_int_equal(answers, 1);
	}
}

static void expect_one_run_per_key(void)
{
	for (unsigned i = 0; i < w->executed; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(w->keys[i], w->keys[k]);
}

static void run_schedule(uint64_t seed)
{
	w_begin(seed, WORKERS);
	memset(tabs, 0, sizeof(tabs));
	w->lose = w_random() % 80;
	w->twice = w_random() % 80;
	w->delay = w_random() % 2 ? w_random() % 40 : 0;
	w->config.outbox_bytes = w_random() % 2 ? 4096 : 262144;
	for (int step = 0; step < STEPS; step++) {
		for (int u = 0; u < USERS; u++) {
			for (int k = 0; k < 4; k++)
				user_step(&w->users[u]);
			for (int i = 0; i < TABS; i++)
				tab_step(u, &tabs[u][i]);
		}
		for (int i = 0; i < WORKERS; i++)
			worker_step(i);
		w_run(1 + w_random() % 50);
	}
	heal();
	for (int u = 0; u < USERS; u++)
		for (int i = 0; i < TABS; i++)
			if (tabs[u][i].conn && !tabs[u][i].conn->close_code)
				expect_whole(u, tabs[u][i].conn);
	expect_one_run_per_key();
	w_end();
}

#ifdef PINION_SANITIZED
#define SEEDS 8 /* each takes ten times as long */
#else
#define SEEDS 40
#endif

static void every_connection_gets_everything_once_whatever_the_links_do(void **state)
{
	const char *one = getenv("GATEWAY_SEED"), *many = getenv("GATEWAY_SEEDS");
	uint64_t first = one ? strtoull(one, NULL, 10) : 1;
	uint64_t n = one ? 1 : many ? strtoull(many, NULL, 10) : SEEDS;

	for (uint64_t seed = first; seed < first + n; seed++) {
		fprintf(stderr, "seed %" PRIu64 "%s", seed, seed + 1 < first + n ? ", " : "\n");
		run_schedule(seed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_connection_gets_everything_once_whatever_the_links_do),
	};

	log_init(LOG_ERROR, LOG_KEY_VALUE, "gateway", "test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
