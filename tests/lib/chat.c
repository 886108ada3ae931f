#include "tests/lib/chat.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/lib/token.h"

__attribute__((format(printf, 2, 3))) static void violate(struct chat *c, const char *fmt, ...)
{
	va_list ap;
	if (c->violation[0])
		return;
	va_start(ap, fmt);
	vsnprintf(c->violation, sizeof c->violation, fmt, ap);
	va_end(ap);
}

static void copy(char *out, size_t n, const char *text)
{
	snprintf(out, n, "%s", text);
}

const char *chat_text_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

const char *chat_code(const json_t *answer)
{
	return answer ? chat_text_of(answer, "code") : "none";
}

bool chat_is_terminal(const char *type)
{
	return !strcmp(type, "agent_completed") || !strcmp(type, "agent_failed") || !strcmp(type, "agent_cancelled");
}

json_t *chat_event_json(const struct chat_event *event)
{
	return json_loadb(event->raw, event->n, JSON_REJECT_DUPLICATES, NULL);
}

/* ---- runs and texts ---- */

static struct chat_run *run_get(struct chat *c, const char *id)
{
	struct chat_run *r;
	HASH_FIND_STR(c->runs, id, r);
	if (r)
		return r;
	r = calloc(1, sizeof *r);
	copy(r->id, sizeof r->id, id);
	HASH_ADD_STR(c->runs, id, r);
	return r;
}

static void texts_void(struct chat *c, const char *run_id)
{
	struct chat_text *t, *tmp;
	HASH_ITER (hh, c->texts, t, tmp)
		if (!strcmp(t->run_id, run_id))
			t->closed = true;
}

static void check_run(struct chat *c, const struct chat_event *e)
{
	if (!e->run_id[0])
		return;
	struct chat_run *r = run_get(c, e->run_id);
	bool accepted = !strcmp(e->type, "run_accepted");
	if (r->ended)
		violate(c, "%s (seq %llu) after the terminal event of its run", e->type, (unsigned long long)e->seq);
	if (accepted && (r->accepted || r->foreign))
		violate(c, "a second run_accepted (seq %llu)", (unsigned long long)e->seq);
	if (accepted)
		r->accepted = true;
	else if (!r->accepted)
		r->foreign = true;
	if (!strcmp(e->type, "run_recovered"))
		texts_void(c, e->run_id);
	if (chat_is_terminal(e->type)) {
		r->ended = true;
		struct chat_text *t, *tmp;
		HASH_ITER (hh, c->texts, t, tmp)
			if (!t->closed && t->text.n && !strcmp(t->run_id, e->run_id))
				violate(c, "message %s was left open by its run's terminal event", t->id);
	}
}

static struct chat_text *text_get(struct chat *c, const char *id)
{
	struct chat_text *t;
	HASH_FIND_STR(c->texts, id, t);
	if (t)
		return t;
	t = calloc(1, sizeof *t);
	copy(t->id, sizeof t->id, id);
	HASH_ADD_STR(c->texts, id, t);
	return t;
}

static void take_delta(struct chat *c, json_t *m)
{
	struct chat_text *t = text_get(c, chat_text_of(m, "message_id"));
	json_int_t offset = json_integer_value(json_object_get(m, "offset"));
	json_t *text = json_object_get(m, "text");
	if (!t->id[0] || !json_is_integer(json_object_get(m, "offset")) || !json_is_string(text) || json_object_get(m, "seq"))
		return violate(c, "a message_delta without its fields");
	c->deltas++;
	copy(t->run_id, sizeof t->run_id, chat_text_of(m, "run_id"));
	if (t->closed)
		return violate(c, "a message_delta of %s, which is closed", t->id);
	if (offset == 0) {
		t->text.n = 0;
		t->from_start = true;
	}
	if ((size_t)offset != t->text.n)
		return violate(c, "a message_delta of %s at offset %lld, %zu were sent", t->id, (long long)offset, t->text.n);
	blob_add(&t->text, json_string_value(text), json_string_length(text));
	t->deltas++;
}

static void check_agent_message(struct chat *c, json_t *m)
{
	struct chat_text *t = text_get(c, chat_text_of(m, "message_id"));
	json_t *text = json_object_get(m, "text");
	size_t n = json_string_length(text);
	if (!t->id[0] || !json_is_string(text))
		return violate(c, "an agent_message without its fields");
	if (t->closed)
		violate(c, "a second agent_message %s", t->id);
	if (t->deltas && (t->text.n != n || memcmp(t->text.p, json_string_value(text), n) != 0))
		violate(c, "agent_message %s has %zu bytes, its deltas have %zu or others", t->id, n, t->text.n);
	t->closed = true;
	blob_free(&t->text);
}

/* ---- events ---- */

/* 2026-01-31T23:59:59.123Z */
static bool is_timestamp(const char *ts)
{
	static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";
	for (size_t i = 0; i < sizeof form; i++)
		if (form[i] == 'd' ? ts[i] < '0' || ts[i] > '9' : ts[i] != form[i])
			return false;
	return true;
}

static void take_event(struct chat *c, json_t *m, const char *type, const char *text, size_t n)
{
	if (c->n_events == c->cap_events) {
		c->cap_events = c->cap_events ? c->cap_events * 2 : 64;
		c->events = realloc(c->events, c->cap_events * sizeof *c->events);
		if (!c->events)
			abort();
	}
	struct chat_event *e = &c->events[c->n_events++];
	*e = (struct chat_event){.seq = (uint64_t)json_integer_value(json_object_get(m, "seq")), .n = n, .at_us = clock_us()};
	copy(e->type, sizeof e->type, type);
	copy(e->run_id, sizeof e->run_id, chat_text_of(m, "run_id"));
	copy(e->thread_id, sizeof e->thread_id, chat_text_of(m, "thread_id"));
	e->hash = text_hash(text, n);
	if (!c->args.forget_bytes) {
		e->raw = malloc(n + 1);
		memcpy(e->raw, text, n + 1);
	}
	if (!c->welcome)
		violate(c, "%s before the welcome", type);
	if (e->seq != c->last_seq + 1)
		violate(c, "%s with seq %llu after %llu", type, (unsigned long long)e->seq, (unsigned long long)c->last_seq);
	if (n > 1 << 20)
		violate(c, "an event of %zu bytes", n);
	c->last_seq = e->seq;
	if (strcmp(type, "deleted") != 0 && (!is_timestamp(chat_text_of(m, "ts")) || !e->thread_id[0]))
		violate(c, "%s (seq %llu) without ts or thread_id", type, (unsigned long long)e->seq);
	if (!strcmp(type, "agent_message"))
		check_agent_message(c, m);
	check_run(c, e);
	if (c->args.on_event)
		c->args.on_event(c->args.ctx, e);
}

static void take_welcome(struct chat *c, json_t *m)
{
	static const char *const texts[] = {"protocol", "connection_id", "user_id", "worker_id"};
	if (c->welcome)
		return violate(c, "a second welcome");
	c->welcome = json_incref(m);
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (!chat_text_of(m, texts[i])[0])
			violate(c, "welcome without %s", texts[i]);
	if (strcmp(chat_text_of(m, "protocol"), "pinion.v1") != 0)
		violate(c, "welcome of protocol %s", chat_text_of(m, "protocol"));
	if (c->args.user && strcmp(chat_text_of(m, "user_id"), c->args.user) != 0)
		violate(c, "welcome of another user: %s", chat_text_of(m, "user_id"));
	uint64_t last = (uint64_t)json_integer_value(json_object_get(m, "last_seq"));
	uint64_t earliest = (uint64_t)json_integer_value(json_object_get(m, "earliest_seq"));
	bool resumed = json_is_true(json_object_get(m, "resumed"));
	bool can = c->args.resume && earliest <= c->args.last_seq + 1 && c->args.last_seq <= last;
	if (resumed != can && c->args.resume)
		violate(c, "resumed is %d for %llu of %llu to %llu", resumed, (unsigned long long)c->args.last_seq,
		        (unsigned long long)earliest, (unsigned long long)last);
	c->last_seq = resumed && c->args.resume ? c->args.last_seq : last;
}

static void take_answer(struct chat *c, json_t *m, const char *type, const char *text, size_t n)
{
	const char *id = json_string_value(json_object_get(m, "id"));
	struct chat_answer *a;
	if (!strcmp(type, "error") && (!chat_text_of(m, "code")[0] || !json_is_string(json_object_get(m, "message"))))
		violate(c, "an error without code or message");
	if (!id) {
		if (strcmp(type, "error") != 0 || !json_is_null(json_object_get(m, "id")))
			return violate(c, "%s without an id", type);
		c->n_null_errors++;
		return copy(c->error_code, sizeof c->error_code, chat_text_of(m, "code"));
	}
	HASH_FIND_STR(c->answers, id, a);
	if (a)
		return violate(c, "a second answer to %.64s", id);
	if (strlen(id) >= sizeof a->id)
		return violate(c, "an answer to an id of %zu bytes", strlen(id));
	a = calloc(1, sizeof *a);
	copy(a->id, sizeof a->id, id);
	a->json = json_incref(m);
	a->raw = strndup(text, n);
	a->at_us = clock_us();
	HASH_ADD_STR(c->answers, id, a);
}

static bool is_event(const char *type)
{
	static const char *const types[] = {"run_accepted",    "agent_started",  "agent_thinking",    "tool_executing",
	                                    "tool_completed",  "agent_message",  "run_recovered",     "approval_required",
	                                    "agent_completed", "agent_failed",   "approval_resolved", "agent_cancelled",
	                                    "thread_created",  "thread_renamed", "thread_deleted",    "deleted"};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (!strcmp(type, types[i]))
			return true;
	return false;
}

static void on_text(void *ctx, const char *text, size_t n)
{
	struct chat *c = ctx;
	json_t *m = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	const char *type = chat_text_of(m, "type");
	c->bytes += n;
	if (c->args.on_raw)
		c->args.on_raw(c->args.ctx, text, n);
	if (!json_is_object(m))
		violate(c, "a message that is no JSON object: %.60s", text);
	else if (is_event(type))
		take_event(c, m, type, text, n);
	else if (!strcmp(type, "message_delta"))
		take_delta(c, m);
	else if (!strcmp(type, "welcome"))
		take_welcome(c, m);
	else if (!strcmp(type, "ack") || !strcmp(type, "error") || !strcmp(type, "pong"))
		take_answer(c, m, type, text, n);
	else
		violate(c, "a message of unknown type %s", type);
	json_decref(m);
}

static void on_state(void *ctx)
{
	struct chat *c = ctx;
	if (c->ws->state == WS_OPEN && c->args.in_band) {
		char *text = text_format("{\"type\":\"auth\",\"id\":\"%s-auth\",\"token\":\"%s\"}", c->tag, c->token);
		ws_send_text(c->ws, text, strlen(text));
		free(text);
	}
}

/* ---- life ---- */

struct chat *chat_open(struct ws_loop *loop, const struct chat_args *args)
{
	static unsigned opened;
	struct chat *c = calloc(1, sizeof *c);
	if (!c)
		abort();
	c->loop = loop;
	c->args = *args;
	c->args.user = args->user ? strdup(args->user) : NULL;
	c->args.token = NULL;
	c->token = args->token ? strdup(args->token) : token_make(args->user, 3600);
	snprintf(c->tag, sizeof c->tag, "c%u", ++opened);
	char *bearer = text_format("Bearer %s", c->token);
	char *target = args->resume ? text_format("/ws?last_seq=%llu", (unsigned long long)args->last_seq) : strdup("/ws");
	struct ws_request request = {
		.endpoint = args->endpoint,
		.port = args->port,
		.target = target,
		.authorization = args->in_band ? NULL : bearer,
		.subprotocols = "pinion.v1",
		.receive_buffer = args->receive_buffer,
	};
	c->ws = ws_connect(loop, &request);
	c->ws->ctx = c;
	c->ws->on_text = on_text;
	c->ws->on_state = on_state;
	free(bearer);
	free(target);
	return c;
}

struct chat *chat_resume(const struct chat *old, uint16_t port)
{
	struct chat_args args = old->args;
	args.port = port;
	args.token = old->token;
	args.resume = true;
	args.last_seq = old->last_seq;
	return chat_open(old->loop, &args);
}

void chat_drop(struct chat *c)
{
	if (c->ws)
		ws_abort(c->ws);
}

static void free_tables(struct chat *c)
{
	struct chat_answer *a, *a_tmp;
	struct chat_text *t, *t_tmp;
	struct chat_run *r, *r_tmp;
	HASH_ITER (hh, c->answers, a, a_tmp) {
		HASH_DEL(c->answers, a);
		json_decref(a->json);
		free(a->raw);
		free(a);
	}
	HASH_ITER (hh, c->texts, t, t_tmp) {
		HASH_DEL(c->texts, t);
		blob_free(&t->text);
		free(t);
	}
	HASH_ITER (hh, c->runs, r, r_tmp) {
		HASH_DEL(c->runs, r);
		free(r);
	}
}

void chat_free(struct chat *c)
{
	if (!c)
		return;
	ws_free(c->ws);
	free_tables(c);
	for (size_t i = 0; i < c->n_events; i++)
		free(c->events[i].raw);
	free(c->events);
	json_decref(c->welcome);
	free((char *)c->args.user);
	free(c->token);
	free(c);
}

/* ---- waiting ---- */

struct wait {
	struct chat *chat;
	const char *id, *type;
	uint64_t seq;
	size_t looked; /* events already looked at */
	const struct chat_event *found;
};

static bool ended(const struct chat *c)
{
	return c->ws->state == WS_CLOSED;
}

static bool welcome_or_end(void *ctx)
{
	struct wait *w = ctx;
	return w->chat->welcome || ended(w->chat);
}

bool chat_wait_welcome(struct chat *chat, unsigned timeout_ms)
{
	struct wait w = {.chat = chat};
	return ws_loop_until(chat->loop, welcome_or_end, &w, timeout_ms) && chat->welcome;
}

static bool is_ended(void *ctx)
{
	return ended(((struct wait *)ctx)->chat);
}

bool chat_wait_closed(struct chat *chat, unsigned timeout_ms)
{
	struct wait w = {.chat = chat};
	return ws_loop_until(chat->loop, is_ended, &w, timeout_ms);
}

static bool seq_or_end(void *ctx)
{
	struct wait *w = ctx;
	return w->chat->last_seq >= w->seq || ended(w->chat);
}

bool chat_wait_seq(struct chat *chat, uint64_t seq, unsigned timeout_ms)
{
	struct wait w = {.chat = chat, .seq = seq};
	return ws_loop_until(chat->loop, seq_or_end, &w, timeout_ms) && chat->last_seq >= seq;
}

static bool event_or_end(void *ctx)
{
	struct wait *w = ctx;
	for (; w->looked < w->chat->n_events; w->looked++) {
		const struct chat_event *e = &w->chat->events[w->looked];
		if (strcmp(e->run_id, w->id) != 0 || (w->type ? strcmp(e->type, w->type) != 0 : !chat_is_terminal(e->type)))
			continue;
		w->found = e;
		return true;
	}
	return ended(w->chat);
}

const struct chat_event *chat_wait_event(struct chat *chat, const char *run_id, const char *type, unsigned timeout_ms)
{
	struct wait w = {.chat = chat, .id = run_id, .type = type};
	return ws_loop_until(chat->loop, event_or_end, &w, timeout_ms) ? w.found : NULL;
}

const struct chat_event *chat_wait_end(struct chat *chat, const char *run_id, unsigned timeout_ms)
{
	return chat_wait_event(chat, run_id, NULL, timeout_ms);
}

struct chat *chat_enter(struct ws_loop *loop, const struct chat_args *args)
{
	struct chat *c = chat_open(loop, args);
	if (!chat_wait_welcome(c, 15000))
		fail_msg("no welcome for %s at port %u: status %d %s, close %d %s, error %s, %s",
		         c->args.user ? c->args.user : "?", args->port, c->ws->response.status,
		         c->ws->response.body.p ? c->ws->response.body.p : "", c->ws->close_code, c->ws->close_reason,
		         c->error_code, c->ws->violation);
	return c;
}

struct chat *chat_enter_as(struct ws_loop *loop, uint16_t port, const char *user)
{
	struct chat_args args = {.port = port, .user = user};
	return chat_enter(loop, &args);
}

/* ---- asking ---- */

void chat_send_text(struct chat *chat, const char *text)
{
	ws_send_text(chat->ws, text, strlen(text));
}

const char *chat_send(struct chat *chat, json_t *message)
{
	static char id[32];
	snprintf(id, sizeof id, "%s-%u", chat->tag, ++chat->n_sent);
	json_object_set_new(message, "id", json_string(id));
	char *text = json_dumps(message, JSON_COMPACT);
	chat_send_text(chat, text);
	free(text);
	json_decref(message);
	return id;
}

json_t *chat_answer(const struct chat *chat, const char *id)
{
	struct chat_answer *a;
	HASH_FIND_STR(chat->answers, id, a);
	return a ? a->json : NULL;
}

static bool answer_or_end(void *ctx)
{
	struct wait *w = ctx;
	return chat_answer(w->chat, w->id) || ended(w->chat);
}

json_t *chat_wait_answer(struct chat *chat, const char *id, unsigned timeout_ms)
{
	char kept[72];
	copy(kept, sizeof kept, id);
	struct wait w = {.chat = chat, .id = kept};
	return ws_loop_until(chat->loop, answer_or_end, &w, timeout_ms) ? chat_answer(chat, kept) : NULL;
}

json_t *chat_call(struct chat *chat, json_t *message)
{
	return chat_wait_answer(chat, chat_send(chat, message), 10000);
}

json_t *chat_run_message(json_t *input, const char *agent, const char *thread_id)
{
	json_t *m = json_pack("{s:s,s:o}", "type", "run.start", "input", input);
	if (agent)
		json_object_set_new(m, "agent", json_string(agent));
	if (thread_id)
		json_object_set_new(m, "thread_id", json_string(thread_id));
	return m;
}

json_t *chat_script(const char *steps)
{
	json_error_t error;
	json_t *list = json_loads(steps, 0, &error);
	if (!list)
		fail_msg("bad steps: %s in %s", error.text, steps);
	return json_pack("{s:o}", "steps", list);
}

void chat_start(struct chat *chat, json_t *input, const char *agent, char run_id[40])
{
	json_t *answer = chat_call(chat, chat_run_message(input, agent, NULL));
	if (!answer || chat_code(answer)[0] || !chat_text_of(answer, "run_id")[0])
		fail_msg("run.start of %s was answered by %s (%s), connection %s", chat->args.user ? chat->args.user : "?",
		         chat_code(answer), answer ? chat_text_of(answer, "message") : "", ended(chat) ? "closed" : "open");
	copy(run_id, 40, chat_text_of(answer, "run_id"));
}

void chat_check(const struct chat *chat)
{
	if (chat->violation[0])
		fail_msg("%s (%s): %s", chat->args.user ? chat->args.user : "?", chat->tag, chat->violation);
	if (chat->ws->violation[0])
		fail_msg("%s (%s): WebSocket: %s", chat->args.user ? chat->args.user : "?", chat->tag, chat->ws->violation);
}
