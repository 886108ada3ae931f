/* codec_examples.h - one example of each message, for the codec's tests. */
#ifndef PINION_TESTS_CODEC_EXAMPLES_H
#define PINION_TESTS_CODEC_EXAMPLES_H

#include <stdlib.h>
#include "proto/codec.h"

#define USER "usr_4a8f9c2b1e5d"
#define ID_1 "0b5c7a52-6f0c-4a53-9f6e-0123456789ab"
#define ID_2 "4d5c7a52-6f0c-4a53-9f6e-0123456789ab"

static const struct have example_have[] = {{{ID_1, 36}, 12}, {{ID_2, 36}, 0}};

static inline struct request request_of(enum request_kind kind)
{
	struct request r = {.gateway_id = str_c("gateway-0"), .gateway_incarnation = str_c(ID_1), .number = 77, .kind = kind};

	switch (kind) {
	case REQUEST_HELLO:
		r.hello.events_url = str_c("ipc:///run/x/gateway-0-events");
		break;
	case REQUEST_ATTACH:
		r.attach.user_id = str_c(USER);
		r.attach.suspect_worker_id = str_c("worker-1");
		r.attach.suspect_incarnation = 9;
		break;
	case REQUEST_DETACH:
		r.detach.user_id = str_c(USER);
		r.detach.epoch = 4;
		break;
	case REQUEST_COMMAND:
		break;
	case REQUEST_REPLAY:
		r.replay.user_id = str_c(USER);
		r.replay.epoch = 5;
		r.replay.from_seq = 1ull << 40;
		r.replay.max_bytes = 65536;
		r.replay.with_open = true;
		r.replay.have = example_have;
		r.replay.n_have = 2;
		break;
	case REQUEST_CREDIT:
		r.credit.received = 123456789012ull;
		break;
	}
	return r;
}

static inline struct request command_of(enum command_kind kind)
{
	struct request r = request_of(REQUEST_COMMAND);
	struct command *c = &r.command;

	c->user_id = str_c("104857612345678901234");
	c->epoch = 3;
	c->client_id = str_c("c-1");
	c->kind = kind;
	switch (kind) {
	case COMMAND_RUN_START:
		c->input = str_c("{\"steps\":[]}");
		c->agent = str_c("script");
		c->thread_id = str_c(ID_1);
		c->idempotency_key = str_c("\x01" ID_2);
		c->metadata = str_c("{}");
		c->on_busy = ON_BUSY_INTERRUPT;
		c->max_active = 8;
		c->max_queued = 64;
		break;
	case COMMAND_RUN_CANCEL:
		c->run_id = str_c(ID_1);
		break;
	case COMMAND_TOOL_DECIDE:
		c->run_id = str_c(ID_1);
		c->tool_call_id = str_c(ID_2);
		c->allow = true;
		c->note = str_c("fine");
		break;
	case COMMAND_THREAD_RENAME:
		c->title = str_c("Grüße");
		c->thread_id = str_c(ID_1);
		break;
	case COMMAND_THREAD_DELETE:
		c->thread_id = str_c(ID_1);
		break;
	case COMMAND_THREAD_HISTORY:
	case COMMAND_RUN_LIST:
		c->thread_id = str_c(ID_2);
		c->limit = 50;
		c->before = str_c("cursor");
		break;
	case COMMAND_THREAD_LIST:
		c->limit = 100;
		c->before = str_c("cursor");
		break;
	}
	return r;
}

static const struct event example_events[] = {
	{.seq = 1, .body = {"{\"type\":\"run_accepted\"}", 23}},
	{.seq = UINT64_MAX, .body = {"{}", 2}, .closes_message_id = {ID_1, 36}, .voids_run_id = {ID_2, 36}},
};
static const struct delta example_open[] = {
	{.run_id = {ID_1, 36}, .message_id = {ID_2, 36}, .after_seq = 7, .offset = 4, .text = {"w\xc3\xb6rld", 6}},
	{.run_id = {ID_1, 36}, .message_id = {ID_1, 36}, .after_seq = 8, .offset = 9},
};

static inline struct reply reply_of(enum request_kind kind, enum err code)
{
	struct reply r = {.number = 77,
	                  .worker_id = str_c("worker-0"),
	                  .worker_incarnation = 12,
	                  .code = code,
	                  .kind = kind,
	                  .text = str_c("why"),
	                  .retry_after_ms = 250,
	                  .user_id = str_c(USER),
	                  .epoch = 6};

	if (kind == REQUEST_HELLO) {
		r.user_id = (struct str){0};
		r.hello.draining = true;
		r.hello.worker_url = str_c("tcp://127.0.0.1:7000");
	} else if (kind == REQUEST_ATTACH && code == ERR_MOVED) {
		r.moved.worker_url = str_c("ipc:///run/x/worker-1");
		r.moved.worker_id = str_c("worker-1");
		r.moved.incarnation = 3;
	} else if (kind == REQUEST_ATTACH) {
		r.attached.last_seq = 41;
		r.attached.earliest_seq = 1;
	} else if (kind == REQUEST_COMMAND) {
		r.command.fields = str_c("{\"seq\":1}");
	} else if (kind == REQUEST_REPLAY) {
		r.page.events = example_events;
		r.page.n_events = 2;
		r.page.open = example_open;
		r.page.n_open = 2;
		r.page.last_seq = 99;
		r.page.earliest_seq = 2;
		r.page.more = true;
	}
	return r;
}

static inline struct batch batch_of(const struct item *items, size_t n)
{
	return (struct batch){.worker_id = str_c("worker-0"),
	                      .worker_incarnation = 12,
	                      .gateway_incarnation = str_c(ID_1),
	                      .number = 1000,
	                      .draining = true,
	                      .items = items,
	                      .n_items = n};
}

static inline void example_items(struct item items[4])
{
	memset(items, 0, 4 * sizeof(*items));
	for (int i = 0; i < 4; i++) {
		items[i].user_id = str_c(i % 2 ? USER : "e2e-a.b");
		items[i].epoch = (uint64_t)i;
		items[i].kind = (enum item_kind)(ITEM_EVENT + i);
	}
	items[0].event = example_events[1];
	items[1].delta = example_open[0];
	items[2].head.last_seq = 55;
}

static const struct step example_journal[] = {
	{.number = 1, .kind = STEP_THINK},
	{.number = 2, .kind = STEP_TOOL, .status = TOOL_IN_DOUBT, .result = {"\"?\"", 3}},
	{.number = 3, .kind = STEP_MARK, .result = {"1", 1}},
};

static inline struct run_down run_down_of(enum run_down_kind kind)
{
	struct run_down d = {.kind = kind};

	if (kind == RUN_BEGIN) {
		d.begin.input = str_c("\"hello\"");
		d.begin.journal = example_journal;
		d.begin.n_journal = 3;
		d.begin.attempt = 2;
		d.begin.output_bytes = 64 << 20;
		d.begin.run_id = str_c(ID_1);
		d.begin.thread_id = str_c(ID_2);
	} else if (kind == RUN_TOOL_GO) {
		d.tool_go.step = 4;
		d.tool_go.tool = str_c("clock");
		d.tool_go.arguments = str_c("{}");
	} else if (kind == RUN_TOOL_RESULT) {
		d.tool_result.step = 4;
		d.tool_result.status = TOOL_TIMEOUT;
		d.tool_result.result = str_c("\"slow\"");
	}
	return d;
}

static inline struct run_up run_up_of(enum run_up_kind kind)
{
	struct run_up u = {.step = 9, .kind = kind};

	switch (kind) {
	case RUN_THINK:
	case RUN_TEXT:
		u.text = str_c("text");
		u.claimed_user_id = str_c("usr_victim");
		break;
	case RUN_TOOL_CALL:
		u.tool = str_c("calculator");
		u.arguments = str_c("{\"expression\":\"1\"}");
		break;
	case RUN_TOOL_OUTCOME:
		u.status = TOOL_ERROR;
		u.result = str_c("\"x\"");
		break;
	case RUN_MARK:
		u.result = str_c("1");
		break;
	case RUN_DONE:
		u.output = str_c("\"out\"");
		u.usage = str_c("{\"steps\":1}");
		break;
	case RUN_FAIL:
		u.text = str_c("because");
		u.retryable = true;
		break;
	case RUN_MESSAGE_END:
		break;
	}
	return u;
}

static inline struct str repeat(char c, size_t n)
{
	char *p = malloc(n + 1);

	memset(p, c, n);
	p[n] = 0;
	return str_of(p, n);
}

static inline void repeat_free(struct str s)
{
	free((char *)(uintptr_t)s.p);
}

#endif
