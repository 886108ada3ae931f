/*
 * gateway_world.h - a gateway's core in a world of make-believe: a clock that is set, workers over a shared log, links
 * that lose, double and delay by a seed, connections that stall. One test program includes it; all is static.
 */
#ifndef PINION_TESTS_GATEWAY_WORLD_H
#define PINION_TESTS_GATEWAY_WORLD_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "common/arena.h"
#include "common/ids.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "gateway/core.h"
#include "gateway/session.h"
#include "proto/codec.h"

enum { WORKERS = 3, USERS = 4, CONNS = 64, EVENTS_MAX = 4096, MESSAGES_MAX = 2048, ANSWERS_MAX = 4096 };

/* ---- the log that the workers share ---- */

struct w_event {
	char *body;
	char closes[ID_LEN + 1], voids[ID_LEN + 1];
};

struct w_message {
	char id[ID_LEN + 1], run[ID_LEN + 1];
	struct buf text;
	uint64_t after[4096]; /* per byte: needs the events up to here */
	uint64_t published;   /* bytes */
	uint64_t voided_by;   /* seq; 0: not */
	bool open;
	bool ending; /* no longer listed, its last event not yet committed */
};

struct w_user {
	char name[USER_ID_MAX + 1];
	int owner; /* worker, -1: none */
	uint64_t epoch;
	uint64_t last, earliest;
	struct w_event events[EVENTS_MAX + 1]; /* by seq */
	struct w_message *messages[MESSAGES_MAX];
	size_t n_messages;
};

struct w_dedup {
	uint64_t number;
	char *reply;
	size_t n;
};

struct w_worker {
	char url[32], id[32];
	uint64_t incarnation;
	bool alive; /* its link is up */
	bool mute;  /* stopped: answers nothing, beats no more */
	bool draining;
	bool knows;           /* heard a hello */
	enum err attach_code; /* what it answers to attach instead */
	enum err command_code;
	uint64_t number; /* of its last batch */
	uint64_t credit;
	bool attached[USERS];
	struct w_dedup dedup[8192];
	size_t n_dedup;
	unsigned attaches, detaches, replays, commands, hellos;
};

/* ---- what is under way ---- */

enum w_kind { W_UP, W_DOWN, W_REQUEST, W_REPLY, W_PUBLICATION };

struct w_delivery {
	enum w_kind kind;
	uint64_t due, order;
	struct worker_link *link;
	uint64_t number;
	enum err err;
	struct buf bytes;
	struct w_delivery *next;
};

struct worker_link {
	const struct worker_link_events *events;
	void *ctx;
	int worker;
	bool closed;
	struct {
		uint64_t number, deadline;
	} flight[8192];
	size_t n_flight;
	struct worker_link *next;
};

/* ---- connections ---- */

struct w_text { /* of a message as this connection was sent it */
	char id[ID_LEN + 1];
	struct buf text;
	bool closed;
};

struct conn {
	struct session *session;
	int user;
	bool used, stalled, wanted, reading_off;
	int close_code; /* 0: open */
	char reason[64];
	struct buf raw;
	bool welcomed, resumed, must_resume;
	uint64_t welcome_last, welcome_earliest;
	char welcome_worker[32];
	uint64_t cursor;
	uint64_t events, deltas, frames;
	struct w_text texts[MESSAGES_MAX];
	size_t n_texts;
	char answers[ANSWERS_MAX][96]; /* "id code" or "id ack" */
	size_t n_answers;
	uint64_t sent; /* commands sent, ids k0, k1, … */
	char last_frame[512];
};

static struct world {
	struct loop loop;
	uint64_t now, armed;
	struct core_config config;
	struct core *core;
	struct worker_transport transport;
	struct worker_link *links;
	struct w_worker workers[WORKERS];
	struct w_user users[USERS];
	struct w_delivery *queue;
	uint64_t order;
	char gateway_incarnation[64];
	struct conn conns[CONNS];
	uint64_t next_beat;
	uint64_t rng;
	unsigned lose, twice, delay; /* per thousand; delay: how many ms at the most */
	bool holes;                  /* workers leave out the first event of each page */
	unsigned executed;           /* runs started */
	char keys[8192][72];         /* their idempotency keys */
	enum err verify_code;
	char verify_user[65];
	int64_t verify_expires;
} * w;

static inline uint64_t w_random(void)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return w->rng;
}

static inline bool w_chance(unsigned per_thousand)
{
	return per_thousand && w_random() % 1000 < per_thousand;
}

/* ---- the loop ---- */

static uint64_t w_now_ms(struct loop *loop)
{
	return w->now;
}

static uint64_t w_wall_ms(struct loop *loop)
{
	return 1700000000000ull + w->now;
}

static void w_arm(struct loop *loop, uint64_t due_ms)
{
	w->armed = due_ms;
}

static void w_defer(struct loop *loop)
{
}

static const struct loop_ops w_loop_ops = {.now_ms = w_now_ms, .wall_ms = w_wall_ms, .arm = w_arm, .defer = w_defer};

/* ---- deliveries ---- */

static struct w_delivery *w_post(enum w_kind kind, struct worker_link *link, uint64_t delay)
{
	struct w_delivery *d = calloc(1, sizeof(*d)), **at = &w->queue;

	*d = (struct w_delivery){.kind = kind, .link = link, .due = w->now + delay, .order = ++w->order};
	while (*at && ((*at)->due < d->due || ((*at)->due == d->due && (*at)->order < d->order)))
		at = &(*at)->next;
	d->next = *at;
	*at = d;
	return d;
}

static uint64_t w_latency(void)
{
	return w->delay ? w_random() % (w->delay + 1) : 0;
}

static struct worker_link *w_link_of(int worker)
{
	for (struct worker_link *l = w->links; l; l = l->next)
		if (l->worker == worker && !l->closed)
			return l;
	return NULL;
}

/* ---- workers ---- */

static int w_user_index(struct str name)
{
	for (int i = 0; i < USERS; i++)
		if (str_eq_c(name, w->users[i].name))
			return i;
	return -1;
}

static void w_publish(struct w_worker *worker, const struct item *items, size_t n)
{
	struct batch batch = {.worker_id = str_c(worker->id),
	                      .worker_incarnation = worker->incarnation,
	                      .gateway_incarnation = str_c(w->gateway_incarnation),
	                      .draining = worker->draining,
	                      .items = items,
	                      .n_items = n};

	if (!worker->knows || !worker->alive || worker->mute)
		return;
	if (n)
		worker->number++;
	batch.number = worker->number;
	if (w_chance(w->lose))
		return;
	for (int copies = w_chance(w->twice) ? 2 : 1; copies > 0; copies--) {
		struct w_delivery *d = w_post(W_PUBLICATION, NULL, w_latency());
		assert_int_equal(batch_encode(&batch, &d->bytes), ERR_OK);
	}
}

static struct event w_event_view(const struct w_user *u, uint64_t seq)
{
	const struct w_event *e = &u->events[seq];

	return (struct event){.seq = seq,
	                      .body = str_c(e->body),
	                      .closes_message_id = str_c(e->closes),
	                      .voids_run_id = str_c(e->voids)};
}

static void w_publish_item(struct w_user *u, struct item *item)
{
	struct w_worker *owner = u->owner < 0 ? NULL : &w->workers[u->owner];

	item->user_id = str_c(u->name);
	item->epoch = u->epoch;
	if (owner && owner->attached[u - w->users])
		w_publish(owner, item, 1);
}

/* Commits an event: {"type":TYPE,"seq":N,…more}. closes, voids: NULL or an id. */
static uint64_t w_commit(struct w_user *u, const char *type, const char *more, const char *closes, const char *voids)
{
	uint64_t seq = ++u->last;
	struct w_event *e = &u->events[seq];

	assert_true(seq < EVENTS_MAX);
	size_t n = strlen(type) + strlen(more) + 64;
	e->body = malloc(n);
	snprintf(e->body, n, "{\"type\":\"%s\",\"seq\":%" PRIu64 "%s%s}", type, seq, *more ? "," : "", more);
	snprintf(e->closes, sizeof(e->closes), "%s", closes ? closes : "");
	snprintf(e->voids, sizeof(e->voids), "%s", voids ? voids : "");
	struct item item = {.kind = ITEM_EVENT, .event = w_event_view(u, seq)};
	w_publish_item(u, &item);
	return seq;
}

static struct w_message *w_message_open(struct w_user *u, const char *run)
{
	struct w_message *m = calloc(1, sizeof(*m));
	struct id id;

	assert_true(u->n_messages < MESSAGES_MAX);
	id_make(&id);
	memcpy(m->id, id.s, sizeof(m->id));
	if (run)
		snprintf(m->run, sizeof(m->run), "%s", run);
	else {
		id_make(&id);
		memcpy(m->run, id.s, sizeof(m->run));
	}
	m->open = true;
	u->messages[u->n_messages++] = m;
	return m;
}

static void w_publish_delta(struct w_user *u, const struct w_message *m, uint64_t offset, struct str text)
{
	struct item item = {.kind = ITEM_DELTA,
	                    .delta = {.run_id = str_c(m->run),
	                              .message_id = str_c(m->id),
	                              .after_seq = m->after[offset + text.n - 1],
	                              .offset = offset,
	                              .text = text}};

	w_publish_item(u, &item);
}

static void w_stream(struct w_user *u, struct w_message *m, const char *text)
{
	size_t offset = m->text.n, n = strlen(text);

	assert_true(offset + n < sizeof(m->after) / sizeof(m->after[0]));
	buf_append(&m->text, text, n);
	for (size_t i = offset; i < offset + n; i++)
		m->after[i] = u->last;
	w_publish_delta(u, m, offset, str_of(m->text.p + offset, n));
}

static void w_message_close(struct w_user *u, struct w_message *m)
{
	struct buf more = {0};

	buf_printf(&more, "\"message_id\":\"%s\",\"text\":", m->id);
	json_write_string(&more, buf_str(&m->text));
	buf_append(&more, "", 1);
	m->open = m->ending = false;
	w_commit(u, "agent_message", more.p, m->id, NULL);
	buf_finish(&more);
}

static void w_void_run(struct w_user *u, const char *run)
{
	char id[ID_LEN + 1];

	snprintf(id, sizeof(id), "%s", run);
	for (size_t i = 0; i < u->n_messages; i++)
		if (strcmp(u->messages[i]->run, id) == 0 && (u->messages[i]->open || u->messages[i]->ending)) {
			u->messages[i]->open = u->messages[i]->ending = false;
			u->messages[i]->voided_by = u->last + 1;
		}
	w_commit(u, "run_recovered", "", NULL, id);
}

/* Another worker owns the user from here on; what was streaming is void. */
static void w_take_over(struct w_user *u, int owner)
{
	u->owner = owner;
	u->epoch++;
	for (int i = 0; i < WORKERS; i++)
		w->workers[i].attached[u - w->users] = false;
	for (size_t i = 0; i < u->n_messages; i++)
		if (u->messages[i]->open || u->messages[i]->ending)
			w_void_run(u, u->messages[i]->run);
}

static void w_answer_attach(int index, const struct request *q, struct reply *r)
{
	struct w_worker *me = &w->workers[index];
	int user = w_user_index(q->attach.user_id);
	struct w_user *u = &w->users[user];

	me->attaches++;
	if (me->attach_code != ERR_OK) {
		r->code = me->attach_code;
		return;
	}
	if (u->owner >= 0 && u->owner != index && w->workers[u->owner].alive && !w->workers[u->owner].mute) {
		r->code = ERR_MOVED;
		r->kind = REQUEST_ATTACH;
		r->moved.worker_url = str_c(w->workers[u->owner].url);
		r->moved.worker_id = str_c(w->workers[u->owner].id);
		r->moved.incarnation = w->workers[u->owner].incarnation;
		return;
	}
	if (u->owner != index)
		w_take_over(u, index);
	me->attached[user] = true;
	r->kind = REQUEST_ATTACH;
	r->user_id = str_c(u->name);
	r->epoch = u->epoch;
	r->attached.last_seq = u->last;
	r->attached.earliest_seq = u->earliest;
}

static bool w_is_owner(int index, struct str user_id, uint64_t epoch)
{
	int user = w_user_index(user_id);

	return user >= 0 && w->users[user].owner == index && w->users[user].epoch == epoch;
}

static uint64_t w_have(const struct request *q, const char *id)
{
	for (size_t i = 0; i < q->replay.n_have; i++)
		if (str_eq_c(q->replay.have[i].message_id, id))
			return q->replay.have[i].offset;
	return 0;
}

static void w_answer_replay(int index, const struct request *q, struct reply *r, struct event *events, struct delta *open)
{
	const struct w_user *u = &w->users[w_user_index(q->replay.user_id)];
	size_t bytes = 0;
	uint64_t seq = q->replay.from_seq < u->earliest ? u->earliest : q->replay.from_seq;

	w->workers[index].replays++;
	r->kind = REQUEST_REPLAY;
	r->user_id = str_c(u->name);
	r->epoch = u->epoch;
	r->page.events = events;
	r->page.open = open;
	r->page.last_seq = u->last;
	r->page.earliest_seq = u->earliest;
	for (; seq <= u->last && (r->page.n_events == 0 || bytes < q->replay.max_bytes); seq++) {
		events[r->page.n_events] = w_event_view(u, seq);
		bytes += events[r->page.n_events++].body.n;
	}
	r->page.more = seq <= u->last;
	if (w->holes && r->page.n_events > 1) {
		r->page.events++;
		r->page.n_events--;
	}
	for (size_t i = 0; q->replay.with_open && !r->page.more && i < u->n_messages; i++) {
		const struct w_message *m = u->messages[i];
		uint64_t have = w_have(q, m->id);
		if (!m->open || !m->text.n)
			continue;
		if (have > m->text.n)
			have = 0;
		open[r->page.n_open++] = (struct delta){.run_id = str_c(m->run),
		                                        .message_id = str_c(m->id),
		                                        .after_seq = m->after[m->text.n - 1],
		                                        .offset = have,
		                                        .text = str_of(m->text.p + have, m->text.n - have)};
	}
}

static void w_answer_command(int index, const struct request *q, struct reply *r, char fields[256])
{
	const struct command *c = &q->command;
	struct w_user *u = &w->users[w_user_index(c->user_id)];
	struct w_worker *me = &w->workers[index];
	struct id run;

	me->commands++;
	if (me->command_code != ERR_OK) {
		r->code = me->command_code;
		return;
	}
	strcpy(fields, "{}");
	if (c->kind == COMMAND_RUN_START) {
		char key[72];
		unsigned i = 0;
		snprintf(key, sizeof(key), STR_FMT, STR_ARG(c->idempotency_key));
		assert_true(key[0]);
		while (i < w->executed && strcmp(w->keys[i], key) != 0)
			i++;
		if (i == w->executed) {
			strcpy(w->keys[w->executed++], key);
			w_commit(u, "run_accepted", "", NULL, NULL);
		}
		id_make(&run);
		snprintf(fields, 256, "{\"run_id\":\"%s\",\"seq\":%" PRIu64 "}", run.s, u->last);
	}
	r->kind = REQUEST_COMMAND;
	r->user_id = str_c(u->name);
	r->epoch = u->epoch;
	r->command.fields = str_c(fields);
}

static void w_answer(int index, const struct request *q, struct buf *out)
{
	static struct event events[EVENTS_MAX];
	static struct delta open[MESSAGES_MAX];
	char fields[256] = "";
	struct w_worker *me = &w->workers[index];
	struct reply r = {.number = q->number, .worker_id = str_c(me->id), .worker_incarnation = me->incarnation};

	if (q->kind == REQUEST_HELLO) {
		me->hellos++;
		me->knows = true;
		snprintf(w->gateway_incarnation, sizeof(w->gateway_incarnation), STR_FMT, STR_ARG(q->gateway_incarnation));
		r.kind = REQUEST_HELLO;
		r.hello.draining = me->draining;
		r.hello.worker_url = str_c(me->url);
	} else if (!me->knows) {
		r.code = ERR_DISCONNECTED;
	} else if (q->kind == REQUEST_ATTACH) {
		w_answer_attach(index, q, &r);
	} else if (q->kind == REQUEST_DETACH) {
		me->detaches++;
		if (w_is_owner(index, q->detach.user_id, q->detach.epoch))
			me->attached[w_user_index(q->detach.user_id)] = false;
	} else if (q->kind == REQUEST_CREDIT) {
		me->credit = q->credit.received;
	} else if (q->kind == REQUEST_REPLAY) {
		if (w_is_owner(index, q->replay.user_id, q->replay.epoch))
			w_answer_replay(index, q, &r, events, open);
		else
			r.code = ERR_FENCED;
	} else if (w_is_owner(index, q->command.user_id, q->command.epoch)) {
		w_answer_command(index, q, &r, fields);
	} else {
		r.code = ERR_FENCED;
	}
	assert_int_equal(reply_encode(&r, out), ERR_OK);
}

static void w_on_request(struct w_delivery *d)
{
	struct w_worker *me = &w->workers[d->link->worker];
	struct arena arena = {0};
	struct request q;
	struct err_info info = {0};
	struct buf reply = {0};

	if (!me->alive || me->mute)
		return;
	if (request_decode(&arena, &q, buf_str(&d->bytes), &info) != ERR_OK)
		fail_msg("the gateway sent: %s", info.text);
	for (size_t i = 0; i < me->n_dedup; i++)
		if (me->dedup[i].number == q.number)
			buf_append(&reply, me->dedup[i].reply, me->dedup[i].n);
	if (!reply.n) {
		w_answer(d->link->worker, &q, &reply);
		struct w_dedup *slot = &me->dedup[me->n_dedup++ % 8192];
		assert_true(me->n_dedup <= 8192);
		*slot = (struct w_dedup){.number = q.number, .n = reply.n, .reply = malloc(reply.n)};
		memcpy(slot->reply, reply.p, reply.n);
		if (!me->knows)
			me->n_dedup--, free(slot->reply);
	}
	arena_finish(&arena);
	if (!w_chance(w->lose)) {
		struct w_delivery *back = w_post(W_REPLY, d->link, w_latency());
		back->number = d->number;
		buf_append_str(&back->bytes, buf_str(&reply));
	}
	buf_finish(&reply);
}

/* ---- the transport ---- */

static bool w_flight_take(struct worker_link *link, uint64_t number)
{
	for (size_t i = 0; i < link->n_flight; i++) {
		if (link->flight[i].number != number)
			continue;
		link->flight[i] = link->flight[--link->n_flight];
		return true;
	}
	return false;
}

static enum err w_link_open(struct worker_transport *t, const char *url, const struct worker_link_events *events, void *ctx,
                            struct worker_link **out, struct err_info *info)
{
	struct worker_link *link = calloc(1, sizeof(*link));

	link->events = events;
	link->ctx = ctx;
	link->worker = -1;
	for (int i = 0; i < WORKERS; i++)
		if (strcmp(w->workers[i].url, url) == 0)
			link->worker = i;
	link->next = w->links;
	w->links = link;
	*out = link;
	if (link->worker >= 0 && w->workers[link->worker].alive)
		w_post(W_UP, link, 0);
	return ERR_OK;
}

static void w_request_send(struct worker_link *link, uint64_t number, struct str message, uint32_t timeout_ms)
{
	const struct w_worker *me = &w->workers[link->worker];

	for (size_t i = 0; i < link->n_flight; i++)
		assert_true(link->flight[i].number != number);
	link->flight[link->n_flight].number = number;
	link->flight[link->n_flight++].deadline = w->now + timeout_ms;
	if (!me->alive) {
		struct w_delivery *d = w_post(W_REPLY, link, 0);
		d->number = number;
		d->err = ERR_DISCONNECTED;
		return;
	}
	struct w_delivery *late = w_post(W_REPLY, link, timeout_ms);
	late->number = number;
	late->err = ERR_TIMEOUT;
	if (w_chance(w->lose))
		return;
	for (int copies = w_chance(w->twice) ? 2 : 1; copies > 0; copies--) {
		struct w_delivery *d = w_post(W_REQUEST, link, w_latency());
		d->number = number;
		buf_append_str(&d->bytes, message);
	}
}

static void w_link_close(struct worker_link *link)
{
	link->closed = true;
	for (size_t i = 0; i < link->n_flight; i++) {
		struct w_delivery *d = w_post(W_REPLY, link, 0);
		d->number = link->flight[i].number;
		d->err = ERR_CANCELLED;
	}
}

static const struct worker_transport_ops w_transport_ops = {.link_open = w_link_open,
                                                            .request_send = w_request_send,
                                                            .link_close = w_link_close};

/* A worker dies, its link with it; or comes up as a new incarnation. */
static void w_kill(int index)
{
	struct w_worker *me = &w->workers[index];
	struct worker_link *link = w_link_of(index);

	me->alive = me->knows = false;
	memset(me->attached, 0, sizeof(me->attached));
	for (size_t i = 0; i < me->n_dedup; i++)
		free(me->dedup[i].reply);
	me->n_dedup = 0;
	for (size_t i = 0; link && i < link->n_flight; i++) {
		struct w_delivery *d = w_post(W_REPLY, link, 0);
		d->number = link->flight[i].number;
		d->err = ERR_DISCONNECTED;
	}
	if (link)
		w_post(W_DOWN, link, 0);
}

static void w_revive(int index)
{
	struct w_worker *me = &w->workers[index];

	me->alive = true;
	me->mute = false;
	me->incarnation++;
	me->number = 0;
	if (w_link_of(index))
		w_post(W_UP, w_link_of(index), 1);
}

/* ---- connections ---- */

static void c_want_write(struct conn *conn)
{
	conn->wanted = true;
}

static void c_close(struct conn *conn, enum close_code code, const char *reason)
{
	if (conn->close_code)
		return;
	conn->close_code = (int)code;
	snprintf(conn->reason, sizeof(conn->reason), "%s", reason);
	conn->wanted = true;
}

static void c_set_reading(struct conn *conn, bool on)
{
	conn->reading_off = !on;
}

static const struct conn_ops c_ops = {.want_write = c_want_write, .close = c_close, .set_reading = c_set_reading};

static struct w_text *c_text(struct conn *c, const char *id)
{
	for (size_t i = 0; i < c->n_texts; i++)
		if (strcmp(c->texts[i].id, id) == 0)
			return &c->texts[i];
	assert_true(c->n_texts < MESSAGES_MAX);
	struct w_text *t = &c->texts[c->n_texts++];
	snprintf(t->id, sizeof(t->id), "%s", id);
	return t;
}

static const struct w_message *w_find_message(const struct w_user *u, const char *id)
{
	for (size_t i = 0; i < u->n_messages; i++)
		if (strcmp(u->messages[i]->id, id) == 0)
			return u->messages[i];
	fail_msg("message %s was never opened", id);
	return NULL;
}

static void c_on_delta(struct conn *c, const json_t *j)
{
	const char *id = json_string_value(json_object_get(j, "message_id"));
	size_t offset = (size_t)json_integer_value(json_object_get(j, "offset"));
	const json_t *text = json_object_get(j, "text");
	const struct w_message *m = w_find_message(&w->users[c->user], id);
	struct w_text *t = c_text(c, id);

	assert_false(t->closed); /* no text behind the event that closed or voided it */
	if (offset == 0)
		buf_clear(&t->text);
	assert_int_equal(offset, t->text.n);
	assert_true(json_string_length(text) > 0);
	buf_append(&t->text, json_string_value(text), json_string_length(text));
	assert_true(t->text.n <= m->text.n);
	assert_memory_equal(t->text.p, m->text.p, t->text.n);
	assert_true(c->cursor >= m->after[offset]);
	assert_true(c->cursor >= m->after[t->text.n - 1]);
	c->deltas++;
}

static void c_on_event(struct conn *c, const json_t *j, struct str raw)
{
	const struct w_user *u = &w->users[c->user];
	uint64_t seq = (uint64_t)json_integer_value(json_object_get(j, "seq"));

	assert_true(c->welcomed);
	if (seq != c->cursor + 1)
		fail_msg("event %" PRIu64 " came behind %" PRIu64, seq, c->cursor);
	assert_int_equal(raw.n, strlen(u->events[seq].body));
	assert_memory_equal(raw.p, u->events[seq].body, raw.n);
	c->cursor = seq;
	c->events++;
	if (u->events[seq].closes[0]) {
		struct w_text *t = c_text(c, u->events[seq].closes);
		const json_t *text = json_object_get(j, "text");
		if (t->text.n) { /* seen from its start: what was joined is the message */
			assert_int_equal(t->text.n, json_string_length(text));
			assert_memory_equal(t->text.p, json_string_value(text), t->text.n);
		}
		t->closed = true;
	}
	for (size_t i = 0; u->events[seq].voids[0] && i < u->n_messages; i++)
		if (u->messages[i]->voided_by == seq)
			c_text(c, u->messages[i]->id)->closed = true;
}

static void c_on_answer(struct conn *c, const json_t *j, const char *type)
{
	const char *id = json_string_value(json_object_get(j, "id"));
	const char *code = json_string_value(json_object_get(j, "code"));

	assert_true(c->n_answers < ANSWERS_MAX);
	snprintf(c->answers[c->n_answers++], sizeof(c->answers[0]), "%s %s", id ? id : "null", code ? code : type);
}

static void c_on_frame(struct conn *c, struct str raw)
{
	json_t *j;
	struct err_info info = {0};

	if (json_parse(&j, raw, &info) != ERR_OK)
		fail_msg("not JSON: %s: " STR_FMT, info.text, STR_ARG(raw));
	const char *type = json_string_value(json_object_get(j, "type"));
	snprintf(c->last_frame, sizeof(c->last_frame), STR_FMT, STR_ARG(raw));
	c->frames++;
	if (strcmp(type, "welcome") == 0) {
		assert_false(c->welcomed);
		assert_int_equal(c->frames, 1);
		uint64_t last = (uint64_t)json_integer_value(json_object_get(j, "last_seq"));
		c->welcomed = true;
		c->resumed = json_is_true(json_object_get(j, "resumed"));
		c->welcome_last = last;
		c->welcome_earliest = (uint64_t)json_integer_value(json_object_get(j, "earliest_seq"));
		snprintf(c->welcome_worker, sizeof(c->welcome_worker), "%s", json_string_value(json_object_get(j, "worker_id")));
		assert_true(c->resumed || !c->must_resume);
		if (!c->resumed)
			c->cursor = last;
	} else if (strcmp(type, "message_delta") == 0) {
		c_on_delta(c, j);
	} else if (json_object_get(j, "seq") && strcmp(type, "ack") != 0) {
		c_on_event(c, j, raw);
	} else {
		c_on_answer(c, j, type);
	}
	json_decref(j);
}

static void c_parse(struct conn *c)
{
	while (c->raw.n >= 2) {
		const uint8_t *p = (const uint8_t *)c->raw.p;
		size_t header = 2, n = p[1];
		assert_int_equal(p[0], 0x81);
		assert_true(n <= 127);
		if (n == 126) {
			header = 4;
			n = (size_t)p[2] << 8 | p[3];
		} else if (n == 127) {
			header = 10;
			n = 0;
			for (int i = 0; i < 8; i++)
				n = n << 8 | p[2 + i];
		}
		assert_true(c->raw.n >= header + n); /* whole frames only */
		c_on_frame(c, str_of(c->raw.p + header, n));
		buf_consume(&c->raw, header + n);
	}
}

static void c_flush(struct conn *c)
{
	while (c->session && !c->stalled && c->wanted) {
		struct buf out = {0};
		c->wanted = session_fill(c->session, &out, 16384);
		session_on_sent(c->session, out.n);
		buf_append_str(&c->raw, buf_str(&out));
		buf_finish(&out);
		c_parse(c);
	}
}

/* ---- time ---- */

static void w_deliver(struct w_delivery *d)
{
	switch (d->kind) {
	case W_UP:
		if (!d->link->closed && w->workers[d->link->worker].alive)
			d->link->events->up(d->link->ctx);
		break;
	case W_DOWN:
		if (!d->link->closed)
			d->link->events->down(d->link->ctx);
		break;
	case W_REQUEST:
		w_on_request(d);
		break;
	case W_REPLY:
		if (w_flight_take(d->link, d->number))
			d->link->events->reply(d->link->ctx, d->number, d->err, buf_str(&d->bytes));
		break;
	case W_PUBLICATION:
		if (w->transport.on_publication)
			w->transport.on_publication(w->transport.ctx, buf_str(&d->bytes));
		break;
	}
}

static void w_turn_end(void)
{
	loop_turn_end(&w->loop);
	for (size_t i = 0; i < CONNS; i++)
		c_flush(&w->conns[i]);
	loop_turn_end(&w->loop);
}

static void w_beat(void)
{
	w->next_beat = w->now + 250;
	for (int i = 0; i < WORKERS; i++)
		w_publish(&w->workers[i], NULL, 0);
}

/* One thing at a time until `ms` have gone by. */
static void w_run(uint64_t ms)
{
	uint64_t end = w->now + ms;

	for (;;) {
		w_turn_end();
		uint64_t next = end + 1;
		struct w_delivery *d = w->queue;
		if (d && d->due < next)
			next = d->due;
		if (w->armed < next)
			next = w->armed;
		if (w->next_beat < next)
			next = w->next_beat;
		if (next > end)
			break;
		if (next > w->now)
			w->now = next;
		if (d && d->due <= w->now) {
			w->queue = d->next;
			w_deliver(d);
			buf_finish(&d->bytes);
			free(d);
		} else if (w->next_beat <= w->now) {
			w_beat();
		} else {
			loop_run_timers(&w->loop);
		}
	}
	w->now = end;
}

/* ---- building it ---- */

static enum err w_verify(void *ctx, struct str token, int64_t now_s, struct identity *out, struct err_info *info)
{
	if (w->verify_code)
		return err_set(info, w->verify_code, "refused by the test");
	assert_int_equal(user_id_parse(&out->user, str_c(w->verify_user), USER_ID_E2E), ERR_OK);
	out->expires_s = w->verify_expires;
	return ERR_OK;
}

static const char *const w_urls[WORKERS] = {"ipc:///w0", "ipc:///w1", "ipc:///w2"};

static uint64_t w_id_count;

/* IDs that are the same in each run of a seed. */
static void w_fill_id(uint8_t bytes[16])
{
	uint64_t n = ++w_id_count * 11400714819323198485u;

	memcpy(bytes, &n, 8);
	n = (n ^ n >> 31) * 13787848793156543929u;
	memcpy(bytes + 8, &n, 8);
}

static void w_begin(uint64_t seed, int n_workers)
{
	w_id_count = seed << 32;
	id_set_source(w_fill_id);
	w = calloc(1, sizeof(*w));
	w->rng = seed * 2654435761u + 88172645463325252u;
	w->now = 1000;
	w->armed = UINT64_MAX;
	loop_init(&w->loop, &w_loop_ops);
	w->config = (struct core_config){.gateway_id = "gateway-0",
	                                 .advertise_events = "ipc:///events",
	                                 .message_bytes = 65536,
	                                 .messages_per_s = 50,
	                                 .burst = 200,
	                                 .connections = 8,
	                                 .active_runs = 8,
	                                 .queued_runs = 64,
	                                 .heartbeat_s = 25,
	                                 .outbox_bytes = 262144,
	                                 .auth_wait_s = 10,
	                                 .unauthenticated_per_address = 2,
	                                 .max_sessions = 60,
	                                 .command_timeout_ms = 10000};
	for (int i = 0; i < WORKERS; i++) {
		struct w_worker *me = &w->workers[i];
		snprintf(me->url, sizeof(me->url), "%s", w_urls[i]);
		snprintf(me->id, sizeof(me->id), "worker-%d", i);
		me->incarnation = 1;
		me->alive = true;
	}
	for (int i = 0; i < USERS; i++) {
		snprintf(w->users[i].name, sizeof(w->users[i].name), "usr_00000000000%x", (unsigned)i % 16);
		w->users[i].owner = -1;
		w->users[i].earliest = 1;
	}
	snprintf(w->verify_user, sizeof(w->verify_user), "%s", w->users[0].name);
	w->verify_expires = 1700000000 + 1000000;
	w->transport.ops = &w_transport_ops;
	w->core = core_create(&w->loop, &w->config, &w->transport, (struct verifier){.verify = w_verify});
	core_set_workers(w->core, w_urls, (size_t)n_workers);
	w->next_beat = w->now + 250;
	w_run(10);
}

static void c_finish(struct conn *c)
{
	if (c->session)
		session_closed(c->session);
	for (size_t i = 0; i < c->n_texts; i++)
		buf_finish(&c->texts[i].text);
	buf_finish(&c->raw);
	memset(c, 0, sizeof(*c));
}

static void w_end(void)
{
	for (size_t i = 0; i < CONNS; i++)
		c_finish(&w->conns[i]);
	w_run(0);
	assert_int_equal(core_sessions(w->core), 0);
	core_destroy(w->core);
	w->core = NULL;
	while (w->queue) { /* what was in flight is completed, as the transport promises */
		struct w_delivery *d = w->queue;
		w->queue = d->next;
		w_deliver(d);
		buf_finish(&d->bytes);
		free(d);
	}
	assert_int_equal(w->loop.heap_len, 0);
	assert_null(w->loop.tasks);
	loop_finish(&w->loop);
	while (w->links) {
		struct worker_link *link = w->links;
		w->links = link->next;
		free(link);
	}
	for (int i = 0; i < WORKERS; i++)
		for (size_t k = 0; k < w->workers[i].n_dedup; k++)
			free(w->workers[i].dedup[k].reply);
	for (int i = 0; i < USERS; i++) {
		for (size_t k = 0; k <= w->users[i].last; k++)
			free(w->users[i].events[k].body);
		for (size_t k = 0; k < w->users[i].n_messages; k++) {
			buf_finish(&w->users[i].messages[k]->text);
			free(w->users[i].messages[k]);
		}
	}
	free(w);
	w = NULL;
}

static struct conn *c_slot(int user)
{
	for (size_t i = 0; i < CONNS; i++) {
		struct conn *c = &w->conns[i];
		if (c->used)
			continue;
		c->used = true;
		c->user = user;
		return c;
	}
	fail_msg("no free connection");
	return NULL;
}

static struct conn *c_open(int user)
{
	struct conn *c = c_slot(user);
	struct identity identity = {.expires_s = w->verify_expires};

	assert_int_equal(user_id_parse(&identity.user, str_c(w->users[user].name), 0), ERR_OK);
	struct session_args args = {.conn = c, .ops = &c_ops, .peer = "127.0.0.1", .identity = &identity};
	c->session = session_open(w->core, &args);
	return c;
}

static struct conn *c_resume(int user, uint64_t last_seq)
{
	struct conn *c = c_slot(user);
	struct identity identity = {.expires_s = w->verify_expires};

	assert_int_equal(user_id_parse(&identity.user, str_c(w->users[user].name), 0), ERR_OK);
	struct session_args args = {
		.conn = c, .ops = &c_ops, .peer = "127.0.0.1", .identity = &identity, .has_last_seq = true, .last_seq = last_seq};
	c->cursor = last_seq;
	c->session = session_open(w->core, &args);
	return c;
}

static inline struct conn *c_open_unauthenticated(void)
{
	struct conn *c = c_slot(0);
	struct session_args args = {.conn = c, .ops = &c_ops, .peer = "127.0.0.1"};

	c->session = session_open(w->core, &args);
	return c;
}

static void c_send(struct conn *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void c_send(struct conn *c, const char *fmt, ...)
{
	char text[70000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	session_on_text(c->session, str_c(text));
}

static inline unsigned c_count(const struct conn *c, const char *answer)
{
	unsigned n = 0;

	for (size_t i = 0; i < c->n_answers; i++)
		n += strcmp(c->answers[i], answer) == 0;
	return n;
}

static inline int w_owner_attached(int user)
{
	int owner = w->users[user].owner;

	return owner >= 0 && w->workers[owner].attached[user];
}

#endif
