/* client.c - the people of a scenario and their connections; every frame that comes is looked at for what is another's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "tests/staging/minter.h"
#include "tests/staging/stage.h"

enum { WELCOME_MS = 20000, WINDOW = 128, CROWD_MS = 120000 };

/* ---- people ---- */

struct person *stage_person_named(struct stage *stage, const char *user, size_t n)
{
	struct person *person = calloc(1, sizeof *person);
	char why[256];
	if (!person || n >= sizeof person->user)
		abort();
	memcpy(person->user, user, n);
	LL_PREPEND(stage->people, person);
	snprintf(person->mark, sizeof person->mark, "mark-%016llx",
	         (unsigned long long)(text_hash(user, n) ^ stage->nonce << 16 ^ stage->n_people++));
	person->token = minter_token(stage->options, user, n, TOKEN_TTL_S, why, sizeof why);
	if (!person->token)
		stage_fail(stage, "can't run: %s", why);
	return person;
}

struct person *stage_person(struct stage *stage)
{
	char user[32];
	int n = snprintf(user, sizeof user, "usr_%08llx%04x", (unsigned long long)stage->nonce, stage->n_people & 0xffff);
	return stage_person_named(stage, user, (size_t)n);
}

/* ---- isolation ---- */

static void leak(struct client *client, const char *what, const char *detail)
{
	client->stage->result->leaks++;
	stage_blame(client->stage, "LEAK: %s was sent %s of another: %.60s", client->person->user, what, detail);
}

/* Whose mark begins there; NULL: nobody's, so that it was bent or cut under way. */
static const struct person *owner_of(const struct stage *stage, const char *mark)
{
	const struct person *person;
	LL_FOREACH (stage->people, person)
		if (!strncmp(mark, person->mark, strlen(person->mark)))
			break;
	return person;
}

static void check_mark(struct client *client, const char *mark)
{
	const struct person *owner = owner_of(client->stage, mark);
	if (owner && owner != client->person)
		leak(client, "the mark", mark);
	else if (!owner)
		stage_blame(client->stage, "%s was sent a mark that is nobody's: %.24s", client->person->user, mark);
}

static void check_marks(struct client *client, const char *text, size_t n)
{
	const char *end = text + n;
	size_t own = strlen(client->person->mark);
	for (const char *at = text; (at = memmem(at, (size_t)(end - at), "mark-", 5)); at++)
		if ((size_t)(end - at) < own || memcmp(at, client->person->mark, own) != 0)
			check_mark(client, at);
}

/* Runs and threads are the first one's who is told of them. */
static void check_claim(struct client *client, const char *id, const char *what)
{
	struct stage *stage = client->stage;
	struct claim *claim;
	if (!id[0])
		return;
	HASH_FIND_STR(stage->claims, id, claim);
	if (!claim) {
		claim = calloc(1, sizeof *claim);
		snprintf(claim->id, sizeof claim->id, "%s", id);
		claim->person = client->person;
		HASH_ADD_STR(stage->claims, id, claim);
	} else if (claim->person != client->person) {
		leak(client, what, id);
	}
}

/* ---- what comes ---- */

static void on_raw(void *ctx, const char *text, size_t n)
{
	struct client *client = ctx;
	if (!client->welcome_us) {
		client->welcome_us = clock_us();
		if (strstr(text, "\"type\":\"welcome\""))
			stage_measure(client->stage, LATENCY_CONNECT, client->welcome_us - client->opened_us);
	}
	client->bytes += n;
	client->stage->result->bytes += n;
	check_marks(client, text, n);
}

/* The last of what was missed has come. */
static void measure_resume(struct client *client)
{
	if (client->last_seq < (uint64_t)json_integer_value(json_object_get(client->chat->welcome, "last_seq")))
		return;
	client->catching_up = false;
	stage_measure(client->stage, LATENCY_RESUME, clock_us() - client->opened_us);
}

static void on_event(void *ctx, const struct chat_event *event)
{
	struct client *client = ctx;
	if (client->n_log == client->cap_log) {
		client->cap_log = client->cap_log ? client->cap_log * 2 : 32;
		client->log = realloc(client->log, client->cap_log * sizeof *client->log);
		if (!client->log)
			abort();
	}
	struct seen *seen = &client->log[client->n_log++];
	*seen = (struct seen){.seq = event->seq, .hash = event->hash, .at_us = event->at_us, .n = event->n};
	memcpy(seen->type, event->type, sizeof seen->type);
	memcpy(seen->run, event->run_id, sizeof seen->run);
	memcpy(seen->thread, event->thread_id, sizeof seen->thread);
	if (!client->light && event->raw)
		seen->raw = strdup(event->raw);
	client->last_seq = event->seq;
	if (client->catching_up && client->chat->welcome)
		measure_resume(client);
	client->stage->result->events++;
	check_claim(client, event->run_id, "a run");
	check_claim(client, event->thread_id, "a thread");
}

/* ---- connections ---- */

static void connect_now(struct client *client, bool in_band, bool resume, int receive_buffer)
{
	const struct staging_options *o = client->stage->options;
	struct chat_args args = {
		.endpoint = &o->endpoints[client->url % o->n_endpoints],
		.user = client->person->user,
		.token = client->person->token,
		.in_band = in_band,
		.resume = resume,
		.last_seq = client->last_seq,
		.forget_bytes = client->light,
		.receive_buffer = receive_buffer,
		.on_raw = on_raw,
		.on_event = on_event,
		.ctx = client,
	};
	client->opened_us = clock_us();
	client->welcome_us = client->return_at_us = 0;
	client->catching_up = resume;
	client->stage->result->connections++;
	client->chat = chat_open(client->stage->loop, &args);
}

struct client *client_open(struct stage *stage, struct person *person, const struct client_args *args)
{
	static const struct client_args none;
	struct client *client = calloc(1, sizeof *client);
	if (!client)
		abort();
	args = args ? args : &none;
	client->stage = stage;
	client->person = person;
	client->url = args->url % stage->options->n_endpoints;
	client->light = args->light;
	client->returns = args->returns;
	client->last_seq = args->last_seq;
	DL_APPEND(stage->clients, client);
	connect_now(client, args->in_band, args->resume, args->receive_buffer);
	return client;
}

static void judge_chat(struct client *client)
{
	const struct chat *chat = client->chat;
	client->stage->result->deltas += chat->deltas;
	client->stage->result->checks++;
	if (chat->violation[0])
		stage_blame(client->stage, "%s: %s", client->person->user, chat->violation);
	if (chat->ws->violation[0])
		stage_blame(client->stage, "%s: WebSocket: %s", client->person->user, chat->ws->violation);
}

void client_cut(struct client *client)
{
	chat_drop(client->chat);
}

void client_return(struct client *client)
{
	bool knows_place = client->chat->welcome || client->n_log || client->chat->args.resume;
	judge_chat(client);
	if (client->chat->welcome && !client->n_log && !client->chat->args.resume)
		client->last_seq = client->chat->last_seq;
	chat_free(client->chat);
	client->url = (client->url + 1) % client->stage->options->n_endpoints;
	client->returned++;
	connect_now(client, false, knows_place, 0);
}

void client_close(struct client *client)
{
	judge_chat(client);
	chat_free(client->chat);
	DL_DELETE(client->stage->clients, client);
	for (size_t i = 0; i < client->n_log; i++)
		free(client->log[i].raw);
	free(client->log);
	free(client);
}

bool client_is_welcome(const struct client *client)
{
	return client->chat->welcome && client->chat->ws->state == WS_OPEN;
}

bool client_is_closed(const struct client *client)
{
	return client->chat->ws->state == WS_CLOSED;
}

const char *client_trouble(const struct client *client)
{
	static char text[800];
	const struct ws_client *ws = client->chat->ws;
	const char *url = client->stage->options->endpoints[client->url].url;
	if (ws->trouble[0])
		snprintf(text, sizeof text, "%s: %s", url, ws->trouble);
	else if (ws->response.status && ws->response.status != 101)
		snprintf(text, sizeof text, "%s: HTTP %d %.120s", url, ws->response.status,
		         ws->response.body.p ? ws->response.body.p : "");
	else if (ws->close_code)
		snprintf(text, sizeof text, "%s: closed, %d %s %s", url, ws->close_code, ws->close_reason,
		         client->chat->error_code);
	else
		snprintf(text, sizeof text, "%s: %s", url,
		         ws->state == WS_CLOSED ? "the connection was cut" : "no answer in time");
	return text;
}

static bool welcome_or_closed(void *ctx)
{
	return client_is_welcome(ctx) || client_is_closed(ctx);
}

bool client_wait_welcome(struct client *client)
{
	stage_until(client->stage, welcome_or_closed, client, WELCOME_MS);
	return client_is_welcome(client);
}

struct client *client_enter(struct stage *stage, struct person *person, const struct client_args *args)
{
	struct client *client = client_open(stage, person, args);
	if (!client_wait_welcome(client))
		stage_fail(stage, "no welcome for %s at %s", person->user, client_trouble(client));
	return client;
}

struct wait {
	struct client *client;
	uint64_t seq;
	char id[72];
};

static bool seq_came(void *ctx)
{
	struct wait *w = ctx;
	return w->client->last_seq >= w->seq || (client_is_closed(w->client) && !w->client->returns);
}

bool client_wait_seq(struct client *client, uint64_t seq, unsigned timeout_ms)
{
	struct wait w = {.client = client, .seq = seq};
	stage_until(client->stage, seq_came, &w, timeout_ms);
	return client->last_seq >= seq;
}

static bool answer_came(void *ctx)
{
	struct wait *w = ctx;
	return chat_answer(w->client->chat, w->id) || client_is_closed(w->client);
}

json_t *client_call(struct client *client, json_t *message)
{
	struct wait w = {.client = client};
	snprintf(w.id, sizeof w.id, "%s", chat_send(client->chat, message));
	stage_until(client->stage, answer_came, &w, 15000);
	return chat_answer(client->chat, w.id);
}

struct question {
	struct client *client;
	char id[72];
};

struct questions {
	struct question *list;
	size_t n;
};

static bool all_answered(void *ctx)
{
	struct questions *all = ctx;
	size_t answered = 0;
	for (size_t i = 0; i < all->n; i++)
		answered += chat_answer(all->list[i].client->chat, all->list[i].id) || client_is_closed(all->list[i].client);
	if (all->n)
		stage_doing(all->list[0].client->stage, "%zu of %zu questions are answered", answered, all->n);
	return answered == all->n;
}

json_t **stage_ask_each(struct client **clients, size_t n, json_t *(*make)(const struct client *client, size_t i, void *ctx),
                        void *ctx)
{
	struct stage *stage = clients[0]->stage;
	struct questions all = {stage_alloc(stage, n, sizeof(struct question), NULL), n};
	json_t **answers = stage_alloc(stage, n, sizeof(json_t *), NULL);
	for (size_t i = 0; i < n; i++) {
		all.list[i].client = clients[i];
		snprintf(all.list[i].id, sizeof all.list[i].id, "%s", chat_send(clients[i]->chat, make(clients[i], i, ctx)));
	}
	stage_until(stage, all_answered, &all, 60000);
	for (size_t i = 0; i < n; i++)
		answers[i] = chat_answer(clients[i]->chat, all.list[i].id);
	return answers;
}

/* ---- crowds ---- */

struct crowd {
	struct stage *stage;
	struct client **clients;
	unsigned n, opened, welcome;
	const struct client_args *args;
};

static void crowd_open_next(struct crowd *crowd)
{
	struct client_args args = *crowd->args;
	args.url += crowd->opened;
	crowd->clients[crowd->opened++] = client_open(crowd->stage, stage_person(crowd->stage), &args);
}

/* A limit on new connections is kept to, not blamed. */
static bool was_put_off(const struct client *client)
{
	int status = client->chat->ws->response.status;
	return client_is_closed(client) && (status == 429 || status == 503);
}

static bool crowd_is_in(void *ctx)
{
	struct crowd *crowd = ctx;
	uint64_t now = clock_us();
	crowd->welcome = 0;
	for (unsigned i = 0; i < crowd->opened; i++) {
		struct client *c = crowd->clients[i];
		crowd->welcome += client_is_welcome(c);
		if (was_put_off(c) && now - c->opened_us > 1000000) {
			crowd->stage->result->retries++;
			client_return(c);
		} else if (client_is_closed(c) && !was_put_off(c)) {
			return true; /* the caller will say why */
		}
	}
	while (crowd->opened < crowd->n && crowd->opened - crowd->welcome < WINDOW)
		crowd_open_next(crowd);
	stage_doing(crowd->stage, "%u of %u users are in", crowd->welcome, crowd->n);
	return crowd->welcome == crowd->n;
}

struct client **stage_crowd(struct stage *stage, unsigned n, const struct client_args *args)
{
	static const struct client_args none;
	struct crowd crowd = {.stage = stage, .n = n, .args = args ? args : &none};
	const char *trouble = "";
	crowd.clients = stage_alloc(stage, n, sizeof(struct client *), NULL);
	stage_until(stage, crowd_is_in, &crowd, CROWD_MS);
	for (unsigned i = 0; i < crowd.opened; i++)
		if (!client_is_welcome(crowd.clients[i]))
			trouble = client_trouble(crowd.clients[i]);
	if (crowd.welcome != n)
		stage_fail(stage, "%u of %u users got a welcome; %s", crowd.welcome, n, trouble);
	return crowd.clients;
}

/* ---- replay ---- */

void stage_compare_replay(struct stage *stage, struct client *client)
{
	if (!client->n_log)
		return;
	struct client_args args = {.url = client->url + 1, .light = true, .resume = true, .last_seq = client->log[0].seq - 1};
	struct client *reader = client_enter(stage, client->person, &args);
	client_wait_seq(reader, client->last_seq, 30000);
	stage_check(stage, reader->n_log >= client->n_log, "%s: a replay has %zu events, %zu were seen live",
	            client->person->user, reader->n_log, client->n_log);
	for (size_t i = 0; i < client->n_log && i < reader->n_log; i++)
		if (!stage_check(stage, reader->log[i].seq == client->log[i].seq && reader->log[i].hash == client->log[i].hash,
		                 "%s: event %llu (%s) was replayed in other bytes than it was sent live", client->person->user,
		                 (unsigned long long)client->log[i].seq, client->log[i].type))
			break;
	client_close(reader);
}
