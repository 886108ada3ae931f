/*
 * worker_world.h - for tests: whole worker cores over one real store, with agents, gateways and a clock that the test plays.
 *
 * A worker has a connection to the store of its own (without a thread), a lease, a core, an agent host whose processes say what
 * the test tells them to, and a transport that keeps what is answered and published. Thread: one.
 */
#ifndef PINION_TESTS_UNIT_WORKER_WORLD_H
#define PINION_TESTS_UNIT_WORKER_WORLD_H

#include "tests/unit/store_fixture.h"

#include <jansson.h>
#include <signal.h>
#include "common/bytes.h"
#include "common/loop.h"
#include "proto/codec.h"
#include "worker/core.h"

enum { WORLD_TTL = 2000, WORLD_PROCESSES = 64, WORLD_SENT = 64, WORLD_EVENTS = 4096, WORLD_TURNS = 50 };

/* ---- a process that the test speaks for ---- */

struct sent {
	enum run_down_kind kind;
	uint32_t step, attempt, n_journal;
	enum tool_status status;
	char text[512];          /* input, arguments or result */
	struct step journal[16]; /* results are not kept */
};

struct agent_run {
	struct agent_run_events events;
	void *ctx;
	struct fake_host *host;
	bool paused, killed, forgotten, ended;
	struct buf waiting; /* frames that were said while paused */
	struct sent sent[WORLD_SENT];
	size_t n_sent;
};

struct fake_host {
	struct agent_host host;
	bool ready;
	struct agent_run *processes[WORLD_PROCESSES];
	size_t n;
};

/* ---- gateways ---- */

struct gateway {
	const char *id;
	char incarnation[40];
	uint64_t number;   /* of requests */
	uint64_t epoch;    /* as the last attach said */
	uint64_t received; /* last batch */
	uint64_t batches, beats, gaps;
	bool draining;
	size_t n_events, n_deltas, n_heads, n_lost;
	char *bodies[WORLD_EVENTS];
	uint64_t seqs[WORLD_EVENTS];
	struct buf text; /* of the last message's deltas */
	char message_id[40];
	uint64_t head, after_seq;
};

struct gateway_pub {
	struct gateway **gateway; /* who listens at its address now */
};

struct answer {
	request_token token;
	struct arena arena;
	struct reply reply;
	unsigned times;
};

/* ---- a store that fails where the test wants it to ---- */

struct faulty {
	struct store_backend backend;
	struct store_backend *inner;
	unsigned fail_appends, fail_renewals, fail_acquires; /* so many of the next ones */
};

static inline void faulty_execute(struct store_backend *backend, struct store_op **ops, size_t n)
{
	struct faulty *faulty = (struct faulty *)backend;

	for (size_t i = 0; i < n; i++) {
		unsigned none = 0, *left = ops[i]->kind == STORE_APPEND    ? &faulty->fail_appends
		                           : ops[i]->kind == STORE_RENEW   ? &faulty->fail_renewals
		                           : ops[i]->kind == STORE_ACQUIRE ? &faulty->fail_acquires
		                                                           : &none;
		if (*left > 0) {
			--*left;
			ops[i]->err = err_set(&ops[i]->info, ERR_UNAVAILABLE, "the test says so");
		} else {
			faulty->inner->ops->execute(faulty->inner, &ops[i], 1);
		}
	}
}

static inline void faulty_close(struct store_backend *backend)
{
	struct faulty *faulty = (struct faulty *)backend;

	faulty->inner->ops->close(faulty->inner);
}

static const struct store_backend_ops faulty_ops = {.execute = faulty_execute, .close = faulty_close};

/* ---- a worker ---- */

struct worker {
	struct loop loop;
	uint64_t now;
	struct fixture *fixture;
	struct faulty faulty;
	struct store *store;
	struct lease *lease;
	struct agents *agents;
	struct fake_host host;
	struct gateway_transport transport;
	struct gateway *gateways[4];
	size_t n_gateways;
	struct core *core;
	request_token token;
	struct answer *answers[64]; /* by token modulo */
	bool drained;
};

static inline struct worker *worker_of_loop(struct loop *loop)
{
	return (struct worker *)loop;
}

static inline uint64_t world_now(struct loop *loop)
{
	return worker_of_loop(loop)->now;
}

static inline uint64_t world_wall(struct loop *loop)
{
	return 1767225600000 + worker_of_loop(loop)->now;
}

static inline void world_arm(struct loop *loop, uint64_t due_ms)
{
}

static inline void world_defer(struct loop *loop)
{
}

static const struct loop_ops world_loop_ops = {.now_ms = world_now,
                                               .wall_ms = world_wall,
                                               .arm = world_arm,
                                               .defer = world_defer};

/* ---- the agent host ---- */

static inline struct agent_run *fake_spawn(struct agent_host *host, enum agent_kind kind, const struct agent_limits *limits,
                                           const struct agent_run_events *events, void *ctx)
{
	struct fake_host *fake = (struct fake_host *)host;
	struct agent_run *run = calloc(1, sizeof(*run));

	assert_non_null(run);
	assert_true(fake->n < WORLD_PROCESSES);
	run->events = *events;
	run->ctx = ctx;
	run->host = fake;
	fake->processes[fake->n++] = run;
	return run;
}

static inline void keep_text(char *out, struct str text)
{
	snprintf(out, 512, STR_FMT, STR_ARG(text));
}

static inline enum err fake_send(struct agent_run *run, const struct run_down *down)
{
	struct sent *sent = &run->sent[run->n_sent++];

	assert_false(run->forgotten);
	assert_true(run->n_sent < WORLD_SENT);
	sent->kind = down->kind;
	if (down->kind == RUN_BEGIN) {
		keep_text(sent->text, down->begin.input);
		sent->attempt = down->begin.attempt;
		sent->n_journal = (uint32_t)down->begin.n_journal;
		for (size_t i = 0; i < down->begin.n_journal && i < 16; i++)
			sent->journal[i] = down->begin.journal[i];
	} else if (down->kind == RUN_TOOL_GO) {
		sent->step = down->tool_go.step;
		keep_text(sent->text, down->tool_go.arguments);
	} else if (down->kind == RUN_TOOL_RESULT) {
		sent->step = down->tool_result.step;
		sent->status = down->tool_result.status;
		keep_text(sent->text, down->tool_result.result);
	}
	return ERR_OK;
}

static inline void fake_pause(struct agent_run *run, bool paused)
{
	assert_false(run->forgotten);
	run->paused = paused;
}

static inline void fake_kill(struct agent_run *run)
{
	run->killed = true;
}

static inline void fake_forget(struct agent_run *run)
{
	assert_false(run->forgotten);
	assert_false(run->ended);
	run->forgotten = true;
}

static inline bool fake_is_ready(const struct agent_host *host, const char **why_not)
{
	if (why_not)
		*why_not = "the test says so";
	return ((const struct fake_host *)host)->ready;
}

static inline const char *fake_properties(const struct agent_host *host)
{
	return "files=test";
}

static const struct agent_host_ops fake_host_ops = {
	.spawn = fake_spawn,
	.send = fake_send,
	.pause = fake_pause,
	.kill = fake_kill,
	.forget = fake_forget,
	.is_ready = fake_is_ready,
	.properties = fake_properties,
};

static inline void process_deliver(struct agent_run *run)
{
	struct str frame;
	size_t used;

	while (!run->paused && !run->forgotten && !run->ended &&
	       frame_next(buf_str(&run->waiting), RUN_MESSAGE_MAX, &frame, &used) == ERR_OK) {
		struct arena arena = {0};
		struct run_up up;
		struct err_info info;
		enum err err = run_up_decode(&arena, &up, frame, &info);

		if (err)
			fail_msg("%s", info.text);
		buf_consume(&run->waiting, used); /* the decoder has copied it */
		run->events.message(run->ctx, &up);
		arena_finish(&arena);
	}
}

/* ---- the transport ---- */

static inline void gateway_item(struct gateway *gateway, const struct item *item)
{
	switch (item->kind) {
	case ITEM_EVENT:
		assert_true(gateway->n_events < WORLD_EVENTS);
		gateway->seqs[gateway->n_events] = item->event.seq;
		gateway->bodies[gateway->n_events++] = strndup(item->event.body.p, item->event.body.n);
		break;
	case ITEM_DELTA:
		gateway->n_deltas++;
		if (!str_eq_c(item->delta.message_id, gateway->message_id)) {
			buf_clear(&gateway->text);
			snprintf(gateway->message_id, sizeof(gateway->message_id), STR_FMT, STR_ARG(item->delta.message_id));
		}
		if (item->delta.offset == gateway->text.n)
			buf_append_str(&gateway->text, item->delta.text);
		gateway->after_seq = item->delta.after_seq;
		break;
	case ITEM_HEAD:
		gateway->n_heads++;
		gateway->head = item->head.last_seq;
		break;
	case ITEM_LOST:
		gateway->n_lost++;
		break;
	}
}

static inline void fake_pub_send(struct gateway_pub *pub, struct str message)
{
	struct gateway *gateway = *pub->gateway;
	struct arena arena = {0};
	struct batch batch;
	struct err_info info;

	if (batch_decode(&arena, &batch, message, &info))
		fail_msg("%s", info.text);
	assert_str(batch.gateway_incarnation, gateway->incarnation);
	if (batch.number != gateway->received + (batch.n_items > 0))
		gateway->gaps++;
	gateway->received = batch.number;
	gateway->draining = batch.draining;
	if (batch.n_items)
		gateway->batches++;
	else
		gateway->beats++;
	for (size_t i = 0; i < batch.n_items; i++)
		gateway_item(gateway, &batch.items[i]);
	arena_finish(&arena);
}

static inline enum err fake_pub_open(struct gateway_transport *t, const char *url, struct gateway_pub **out,
                                     struct err_info *info)
{
	struct worker *w = (struct worker *)((char *)t - offsetof(struct worker, transport));

	for (size_t i = 0; i < w->n_gateways; i++) {
		if (strstr(url, w->gateways[i]->id)) {
			*out = calloc(1, sizeof(**out));
			(*out)->gateway = &w->gateways[i];
			return ERR_OK;
		}
	}
	return err_set(info, ERR_CONFIG, "no such gateway: %s", url);
}

static inline void fake_pub_close(struct gateway_pub *pub)
{
	free(pub);
}

static inline void fake_reply(struct gateway_transport *t, request_token token, struct str message)
{
	struct worker *w = (struct worker *)((char *)t - offsetof(struct worker, transport));
	struct answer *answer = w->answers[token % 64];
	struct err_info info;

	if (!answer || answer->token != token)
		return; /* nobody waits for it any more */
	assert_int_equal(answer->times++, 0);
	if (reply_decode(&answer->arena, &answer->reply, message, &info))
		fail_msg("%s", info.text);
}

static const struct gateway_transport_ops fake_transport_ops = {
	.reply = fake_reply,
	.pub_open = fake_pub_open,
	.pub_send = fake_pub_send,
	.pub_close = fake_pub_close,
};

/* ---- time ---- */

static inline void worker_turn(struct worker *w)
{
	loop_run_timers(&w->loop);
	/* What the last part of a turn asks of the store is only seen by the next one. */
	for (int i = 0, idle = 0; i < WORLD_TURNS && idle < 2; i++) {
		idle = store_pump(w->store) ? 0 : idle + 1;
		for (size_t k = 0; k < w->host.n; k++)
			process_deliver(w->host.processes[k]);
		loop_turn_end(&w->loop);
	}
}

static inline void worker_live(struct worker *w, uint64_t ms)
{
	worker_turn(w);
	for (uint64_t i = 0; i < ms; i += 50) {
		w->now += 50;
		worker_turn(w);
	}
}

/* ---- coming and going ---- */

static inline void on_world_fenced(void *ctx)
{
}

static inline void on_world_held(void *ctx, bool holds)
{
}

static inline void worker_begin_with(struct worker *w, struct fixture *f, const char *id, const struct core_config *extra)
{
	static const struct lease_events events = {.fenced = on_world_fenced, .held = on_world_held};
	char url[64];
	struct lease_config lease = {.worker_id = id, .url = url, .ttl_ms = WORLD_TTL};
	struct core_config config = extra ? *extra : (struct core_config){0};

	memset(w, 0, sizeof(*w));
	snprintf(url, sizeof(url), "ipc:///run/%s", id);
	w->fixture = f;
	w->faulty.backend.ops = &faulty_ops;
	assert_int_equal(store_sqlite_open(f->path, &w->faulty.inner, &f->info), ERR_OK);
	w->store = store_create_unthreaded(&w->faulty.backend);
	loop_init(&w->loop, &world_loop_ops);
	w->now = 1000000;
	assert_int_equal(lease_create(&w->loop, w->store, &lease, &events, w, &w->lease, &f->info), ERR_OK);
	assert_int_equal(agents_load(NULL, &w->agents, &f->info), ERR_OK);
	w->host = (struct fake_host){.host.ops = &fake_host_ops, .ready = true};
	w->transport.ops = &fake_transport_ops;
	config.worker_id = id;
	config.url = url;
	w->core = core_create(&(struct core_parts){&w->loop, w->store, w->lease, &w->host.host, &w->transport, w->agents},
	                      &config);
	worker_live(w, 100);
}

static inline void worker_begin(struct worker *w, struct fixture *f, const char *id)
{
	worker_begin_with(w, f, id, NULL);
}

/* stopped: it said goodbye to the store; else it is as if it had been killed. */
static inline void worker_end(struct worker *w, bool stopped)
{
	core_destroy(w->core);
	lease_destroy(w->lease, stopped);
	store_close(w->store);
	for (size_t i = 0; i < w->host.n; i++) {
		assert_true(w->host.processes[i]->forgotten || w->host.processes[i]->ended);
		buf_finish(&w->host.processes[i]->waiting);
		free(w->host.processes[i]);
	}
	for (size_t i = 0; i < 64; i++) {
		if (w->answers[i])
			arena_finish(&w->answers[i]->arena);
		free(w->answers[i]);
	}
	agents_free(w->agents);
	assert_int_equal(w->loop.heap_len, 0); /* no timer is left */
	loop_finish(&w->loop);
}

static inline void gateway_end(struct gateway *gateway)
{
	for (size_t i = 0; i < gateway->n_events; i++)
		free(gateway->bodies[i]);
	buf_finish(&gateway->text);
}

/* ---- asking ---- */

static inline struct answer *send_request(struct worker *w, struct gateway *gateway, struct request *request)
{
	struct answer *answer = calloc(1, sizeof(*answer));
	struct buf out = {0};

	answer->token = ++w->token;
	if (w->answers[w->token % 64])
		arena_finish(&w->answers[w->token % 64]->arena);
	free(w->answers[w->token % 64]);
	w->answers[w->token % 64] = answer;
	request->gateway_id = str_c(gateway->id);
	request->gateway_incarnation = str_c(gateway->incarnation);
	if (request->number == 0)
		request->number = ++gateway->number;
	assert_int_equal(request_encode(request, &out), ERR_OK);
	w->transport.on_request(w->transport.ctx, answer->token, buf_str(&out));
	buf_finish(&out);
	return answer;
}

/* Fails the test where it is not answered while the store and the processes do all they can. */
static inline struct reply *ask(struct worker *w, struct gateway *gateway, struct request request)
{
	struct answer *answer = send_request(w, gateway, &request);

	worker_turn(w);
	assert_int_equal(answer->times, 1);
	assert_int_equal(answer->reply.number, request.number);
	return &answer->reply;
}

static inline void hello(struct worker *w, struct gateway *gateway)
{
	char url[80];
	bool is_known = false;

	for (size_t i = 0; i < w->n_gateways; i++)
		is_known |= w->gateways[i] == gateway;
	if (!is_known)
		w->gateways[w->n_gateways++] = gateway;
	snprintf(url, sizeof(url), "ipc:///run/%s-events", gateway->id);
	assert_int_equal(ask(w, gateway, (struct request){.kind = REQUEST_HELLO, .hello.events_url = str_c(url)})->code, ERR_OK);
}

static inline struct reply *attach(struct worker *w, struct gateway *gateway, const char *user)
{
	struct reply *reply = ask(w, gateway, (struct request){.kind = REQUEST_ATTACH, .attach.user_id = str_c(user)});

	if (reply->code == ERR_OK)
		gateway->epoch = reply->epoch;
	return reply;
}

static inline void gateway_begin(struct gateway *gateway, const char *id, unsigned incarnation)
{
	memset(gateway, 0, sizeof(*gateway));
	gateway->id = id;
	snprintf(gateway->incarnation, sizeof(gateway->incarnation), "00000000-0000-4000-8000-%012u", incarnation);
}

static inline struct request command_of(struct gateway *gateway, const char *user, enum command_kind kind)
{
	struct request request = {.kind = REQUEST_COMMAND};

	request.command.user_id = str_c(user);
	request.command.epoch = gateway->epoch;
	request.command.client_id = str_c("c1");
	request.command.kind = kind;
	request.command.limit = 50;
	return request;
}

static inline struct request start_of(struct gateway *gateway, const char *user, const char *input)
{
	struct request request = command_of(gateway, user, COMMAND_RUN_START);

	request.command.input = str_c(input);
	request.command.max_active = 8;
	request.command.max_queued = 64;
	return request;
}

/* A string of the ack's fields; valid until two calls later. */
static inline const char *field(const struct reply *reply, const char *name)
{
	static char texts[4][64];
	static unsigned turn;
	char *text = texts[turn++ % 4];
	json_t *fields = json_loadb(reply->command.fields.p, reply->command.fields.n, 0, NULL);

	if (reply->code != ERR_OK)
		fail_msg("%s: " STR_FMT, err_name(reply->code), STR_ARG(reply->text));
	assert_non_null(fields);
	snprintf(text, 64, "%s",
	         json_string_value(json_object_get(fields, name)) ? json_string_value(json_object_get(fields, name)) : "");
	json_decref(fields);
	return text;
}

static inline long number_field(const struct reply *reply, const char *name)
{
	json_t *fields = json_loadb(reply->command.fields.p, reply->command.fields.n, 0, NULL);
	long n = (long)json_integer_value(json_object_get(fields, name));

	json_decref(fields);
	return n;
}

/* ---- what a process says ---- */

static inline struct agent_run *last_process(struct worker *w)
{
	assert_true(w->host.n > 0);
	return w->host.processes[w->host.n - 1];
}

static inline void say(struct worker *w, struct agent_run *run, struct run_up up)
{
	size_t begin = frame_begin(&run->waiting);

	assert_int_equal(run_up_encode(&up, &run->waiting), ERR_OK);
	frame_end(&run->waiting, begin);
	worker_turn(w);
}

static inline void say_think(struct worker *w, struct agent_run *run, uint32_t step, const char *text)
{
	say(w, run, (struct run_up){.step = step, .kind = RUN_THINK, .text = str_c(text)});
}

static inline void say_text(struct worker *w, struct agent_run *run, uint32_t step, const char *text)
{
	say(w, run, (struct run_up){.step = step, .kind = RUN_TEXT, .text = str_c(text)});
}

static inline void say_end(struct worker *w, struct agent_run *run, uint32_t step)
{
	say(w, run, (struct run_up){.step = step, .kind = RUN_MESSAGE_END});
}

static inline void say_tool(struct worker *w, struct agent_run *run, uint32_t step, const char *tool, const char *arguments)
{
	say(w, run, (struct run_up){.step = step, .kind = RUN_TOOL_CALL, .tool = str_c(tool), .arguments = str_c(arguments)});
}

static inline void say_outcome(struct worker *w, struct agent_run *run, uint32_t step, const char *result)
{
	say(w, run, (struct run_up){.step = step, .kind = RUN_TOOL_OUTCOME, .status = TOOL_OK, .result = str_c(result)});
}

static inline void say_done(struct worker *w, struct agent_run *run, const char *output)
{
	say(w, run, (struct run_up){.kind = RUN_DONE, .output = str_c(output), .usage = str_c("{\"steps\":1}")});
}

static inline void process_exit(struct worker *w, struct agent_run *run, struct run_exit how)
{
	assert_false(run->ended);
	process_deliver(run);
	if (!run->forgotten) {
		run->ended = true;
		run->events.ended(run->ctx, &how);
	}
	worker_turn(w);
}

/* ---- what was published ---- */

static inline const char *types_from(const struct gateway *gateway, size_t from)
{
	static char out[8192];
	size_t n = 0;

	out[0] = 0;
	for (size_t i = from; i < gateway->n_events; i++) {
		json_t *event = json_loads(gateway->bodies[i], 0, NULL);

		assert_non_null(event);
		assert_int_equal(json_integer_value(json_object_get(event, "seq")), gateway->seqs[i]);
		n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%s", n ? " " : "",
		                      json_string_value(json_object_get(event, "type")));
		json_decref(event);
	}
	return out;
}

static inline const char *types(const struct gateway *gateway)
{
	return types_from(gateway, 0);
}

static inline const char *last_body(const struct gateway *gateway)
{
	assert_true(gateway->n_events > 0);
	return gateway->bodies[gateway->n_events - 1];
}

#define assert_has(text, part)                               \
	do {                                                 \
		if (!strstr(text, part))                     \
			fail_msg("no %s in %s", part, text); \
	} while (0)

static inline size_t count_in(const char *text, const char *part)
{
	size_t n = 0;

	for (const char *p = text; (p = strstr(p, part)) != NULL; p++)
		n++;
	return n;
}

#endif
