/* Every message there and back, frames, and no crash whatever the bytes are. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "codec_examples.h"

static void assert_str(struct str s, const char *expected)
{
	assert_int_equal(s.n, strlen(expected));
	if (s.n)
		assert_memory_equal(s.p, expected, s.n);
}

/* ---- there and back ---- */

static void assert_command(const struct command *a, const struct command *b)
{
	assert_true(str_eq(a->user_id, b->user_id) && str_eq(a->client_id, b->client_id) && str_eq(a->run_id, b->run_id));
	assert_true(str_eq(a->thread_id, b->thread_id) && str_eq(a->input, b->input) && str_eq(a->agent, b->agent));
	assert_true(str_eq(a->idempotency_key, b->idempotency_key) && str_eq(a->metadata, b->metadata));
	assert_true(str_eq(a->tool_call_id, b->tool_call_id) && str_eq(a->note, b->note) && str_eq(a->title, b->title));
	assert_true(str_eq(a->before, b->before));
	assert_true(a->epoch == b->epoch && a->kind == b->kind && a->on_busy == b->on_busy && a->allow == b->allow);
	assert_true(a->limit == b->limit && a->max_active == b->max_active && a->max_queued == b->max_queued);
}

static void assert_request(const struct request *a, const struct request *b)
{
	assert_int_equal(b->version, LINK_VERSION);
	assert_true(str_eq(a->gateway_id, b->gateway_id) && str_eq(a->gateway_incarnation, b->gateway_incarnation));
	assert_true(a->number == b->number);
	assert_int_equal(a->kind, b->kind);
	switch (a->kind) {
	case REQUEST_HELLO:
		assert_true(str_eq(a->hello.events_url, b->hello.events_url));
		break;
	case REQUEST_ATTACH:
		assert_true(str_eq(a->attach.user_id, b->attach.user_id));
		assert_true(str_eq(a->attach.suspect_worker_id, b->attach.suspect_worker_id));
		assert_true(a->attach.suspect_incarnation == b->attach.suspect_incarnation);
		break;
	case REQUEST_DETACH:
		assert_true(str_eq(a->detach.user_id, b->detach.user_id) && a->detach.epoch == b->detach.epoch);
		break;
	case REQUEST_COMMAND:
		assert_command(&a->command, &b->command);
		break;
	case REQUEST_REPLAY:
		assert_true(str_eq(a->replay.user_id, b->replay.user_id) && a->replay.epoch == b->replay.epoch);
		assert_true(a->replay.from_seq == b->replay.from_seq && a->replay.max_bytes == b->replay.max_bytes);
		assert_int_equal(a->replay.n_have, b->replay.n_have);
		for (size_t i = 0; i < a->replay.n_have; i++) {
			assert_true(str_eq(a->replay.have[i].message_id, b->replay.have[i].message_id));
			assert_true(a->replay.have[i].offset == b->replay.have[i].offset);
		}
		break;
	case REQUEST_CREDIT:
		assert_true(a->credit.received == b->credit.received);
		break;
	}
}

static void request_round_trip(struct request r)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct err_info info = {0};
	struct request back;

	assert_int_equal(request_encode(&r, &buf), ERR_OK);
	assert_int_equal(request_decode(&arena, &back, buf_str(&buf), &info), ERR_OK);
	assert_request(&r, &back);
	arena_finish(&arena);
	buf_finish(&buf);
}

static void every_request_comes_back(void **state)
{
	for (int kind = REQUEST_HELLO; kind <= REQUEST_CREDIT; kind++) {
		if (kind != REQUEST_COMMAND)
			request_round_trip(request_of(kind));
	}
	for (int kind = COMMAND_RUN_START; kind <= COMMAND_RUN_LIST; kind++)
		request_round_trip(command_of(kind));
}

static void assert_event(const struct event *a, const struct event *b)
{
	assert_true(a->seq == b->seq && str_eq(a->body, b->body));
	assert_true(str_eq(a->closes_message_id, b->closes_message_id) && str_eq(a->voids_run_id, b->voids_run_id));
}

static void assert_delta(const struct delta *a, const struct delta *b)
{
	assert_true(str_eq(a->run_id, b->run_id) && str_eq(a->message_id, b->message_id) && str_eq(a->text, b->text));
	assert_true(a->after_seq == b->after_seq && a->offset == b->offset);
}

static void assert_reply(const struct reply *a, const struct reply *b)
{
	assert_true(a->number == b->number && str_eq(a->worker_id, b->worker_id) &&
	            a->worker_incarnation == b->worker_incarnation);
	assert_int_equal(a->code, b->code);
	assert_int_equal(a->kind, b->kind);
	assert_true(str_eq(a->text, b->text) && a->retry_after_ms == b->retry_after_ms);
	assert_true(str_eq(a->user_id, b->user_id) && a->epoch == b->epoch);
	if (a->kind == REQUEST_HELLO) {
		assert_true(a->hello.draining == b->hello.draining && str_eq(a->hello.worker_url, b->hello.worker_url));
	} else if (a->kind == REQUEST_ATTACH && a->code == ERR_MOVED) {
		assert_true(str_eq(a->moved.worker_url, b->moved.worker_url) && str_eq(a->moved.worker_id, b->moved.worker_id));
		assert_true(a->moved.incarnation == b->moved.incarnation);
	} else if (a->kind == REQUEST_ATTACH) {
		assert_true(a->attached.last_seq == b->attached.last_seq && a->attached.earliest_seq == b->attached.earliest_seq);
	} else if (a->kind == REQUEST_COMMAND) {
		assert_true(str_eq(a->command.fields, b->command.fields));
	} else if (a->kind == REQUEST_REPLAY) {
		assert_int_equal(a->page.n_events, b->page.n_events);
		assert_int_equal(a->page.n_open, b->page.n_open);
		for (size_t i = 0; i < a->page.n_events; i++)
			assert_event(&a->page.events[i], &b->page.events[i]);
		for (size_t i = 0; i < a->page.n_open; i++)
			assert_delta(&a->page.open[i], &b->page.open[i]);
		assert_true(a->page.last_seq == b->page.last_seq && a->page.earliest_seq == b->page.earliest_seq);
		assert_true(a->page.more == b->page.more);
	}
}

static void reply_round_trip(struct reply r)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct err_info info = {0};
	struct reply back;

	assert_int_equal(reply_encode(&r, &buf), ERR_OK);
	assert_int_equal(reply_decode(&arena, &back, buf_str(&buf), &info), ERR_OK);
	assert_reply(&r, &back);
	arena_finish(&arena);
	buf_finish(&buf);
}

static void every_reply_comes_back(void **state)
{
	reply_round_trip(reply_of(0, ERR_UNAVAILABLE));
	reply_round_trip(reply_of(REQUEST_HELLO, ERR_OK));
	reply_round_trip(reply_of(REQUEST_ATTACH, ERR_OK));
	reply_round_trip(reply_of(REQUEST_ATTACH, ERR_MOVED));
	reply_round_trip(reply_of(REQUEST_COMMAND, ERR_OK));
	reply_round_trip(reply_of(REQUEST_REPLAY, ERR_OK));
	for (int code = ERR_OK; code < ERR_COUNT_; code++)
		reply_round_trip(reply_of(0, code));
}

static void a_batch_and_a_beat_come_back(void **state)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct item items[4];
	struct batch back, b;

	example_items(items);
	for (size_t n = 0; n <= 4; n += 4) {
		b = batch_of(items, n);
		buf_clear(&buf);
		assert_int_equal(batch_encode(&b, &buf), ERR_OK);
		assert_int_equal(batch_decode(&arena, &back, buf_str(&buf), NULL), ERR_OK);
		assert_true(str_eq(b.worker_id, back.worker_id) && str_eq(b.gateway_incarnation, back.gateway_incarnation));
		assert_true(b.worker_incarnation == back.worker_incarnation && b.number == back.number && back.draining);
		assert_int_equal(back.n_items, n);
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(back.items[i].kind, items[i].kind);
		assert_true(str_eq(back.items[i].user_id, items[i].user_id) && back.items[i].epoch == items[i].epoch);
	}
	assert_event(&items[0].event, &back.items[0].event);
	assert_delta(&items[1].delta, &back.items[1].delta);
	assert_true(back.items[2].head.last_seq == 55);
	arena_finish(&arena);
	buf_finish(&buf);
}

static void every_host_message_comes_back(void **state)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct str properties[] = {str_c("files=landlock"), str_c("net=seccomp")};

	for (int kind = HOST_SPAWN; kind <= HOST_STOP; kind++) {
		struct host_command c = {.kind = kind}, back;

		if (kind == HOST_SPAWN || kind == HOST_KILL)
			c.slot = 5;
		if (kind == HOST_SPAWN)
			c = (struct host_command){.kind = kind,
			                          .slot = 5,
			                          .agent = AGENT_SCRIPT,
			                          .memory_bytes = 1ull << 33,
			                          .cpu_seconds = 60,
			                          .file_bytes = 7,
			                          .descriptors = 16};
		if (kind == HOST_TICK)
			c.lease_ms = 2000;
		buf_clear(&buf);
		assert_int_equal(host_command_encode(&c, &buf), ERR_OK);
		assert_int_equal(host_command_decode(&arena, &back, buf_str(&buf), NULL), ERR_OK);
		assert_true(back.kind == c.kind && back.slot == c.slot && back.agent == c.agent && back.lease_ms == c.lease_ms);
		assert_true(back.memory_bytes == c.memory_bytes && back.cpu_seconds == c.cpu_seconds);
		assert_true(back.file_bytes == c.file_bytes && back.descriptors == c.descriptors);
	}
	for (int kind = HOST_READY; kind <= HOST_EXITED; kind++) {
		struct host_report r = {.kind = kind}, back;

		if (kind == HOST_READY) {
			r.properties = properties;
			r.n_properties = 2;
		} else if (kind == HOST_SPAWNED) {
			r.slot = 6;
			r.pid = 4242;
		} else {
			r = (struct host_report){.kind = kind,
			                         .slot = 6,
			                         .exit_status = 1,
			                         .signal = 9,
			                         .cpu_ms = 17,
			                         .peak_rss_bytes = 1 << 20,
			                         .why = str_c("no tick")};
		}
		buf_clear(&buf);
		assert_int_equal(host_report_encode(&r, &buf), ERR_OK);
		assert_int_equal(host_report_decode(&arena, &back, buf_str(&buf), NULL), ERR_OK);
		assert_true(back.kind == r.kind && back.slot == r.slot && back.pid == r.pid && back.cpu_ms == r.cpu_ms);
		assert_true(back.exit_status == r.exit_status && back.signal == r.signal && str_eq(back.why, r.why));
		assert_true(back.peak_rss_bytes == r.peak_rss_bytes && back.n_properties == r.n_properties);
		for (size_t i = 0; i < r.n_properties; i++)
			assert_true(str_eq(back.properties[i], r.properties[i]));
	}
	arena_finish(&arena);
	buf_finish(&buf);
}

static void every_run_message_comes_back(void **state)
{
	struct arena arena = {0};
	struct buf buf = {0};

	for (int kind = RUN_BEGIN; kind <= RUN_CANCEL; kind++) {
		struct run_down d = run_down_of(kind), back;

		buf_clear(&buf);
		assert_int_equal(run_down_encode(&d, &buf), ERR_OK);
		assert_int_equal(run_down_decode(&arena, &back, buf_str(&buf), NULL), ERR_OK);
		assert_int_equal(back.kind, kind);
		if (kind == RUN_BEGIN) {
			assert_str(back.begin.input, "\"hello\"");
			assert_true(back.begin.n_journal == 3 && back.begin.attempt == 2 && back.begin.output_bytes == 64 << 20);
			assert_true(back.begin.journal[1].status == TOOL_IN_DOUBT && back.begin.journal[2].kind == STEP_MARK);
			assert_str(back.begin.journal[1].result, "\"?\"");
			assert_str(back.begin.run_id, ID_1);
			assert_str(back.begin.thread_id, ID_2);
		} else if (kind == RUN_TOOL_GO) {
			assert_true(back.tool_go.step == 4);
			assert_str(back.tool_go.tool, "clock");
			assert_str(back.tool_go.arguments, "{}");
		} else if (kind == RUN_TOOL_RESULT) {
			assert_true(back.tool_result.step == 4 && back.tool_result.status == TOOL_TIMEOUT);
			assert_str(back.tool_result.result, "\"slow\"");
		}
	}
	for (int kind = RUN_THINK; kind <= RUN_FAIL; kind++) {
		struct run_up u = run_up_of(kind), back;

		buf_clear(&buf);
		assert_int_equal(run_up_encode(&u, &buf), ERR_OK);
		assert_int_equal(run_up_decode(&arena, &back, buf_str(&buf), NULL), ERR_OK);
		assert_true(back.kind == u.kind && back.step == 9 && back.status == u.status && back.retryable == u.retryable);
		assert_true(str_eq(back.text, u.text) && str_eq(back.tool, u.tool) && str_eq(back.arguments, u.arguments));
		assert_true(str_eq(back.result, u.result) && str_eq(back.output, u.output) && str_eq(back.usage, u.usage));
		assert_true(str_eq(back.claimed_user_id, u.claimed_user_id));
	}
	arena_finish(&arena);
	buf_finish(&buf);
}

/* ---- bytes that no encoder of ours makes ---- */

static void another_version_is_refused_by_name(void **state)
{
	struct arena arena = {0};
	struct err_info info = {0};
	struct request request;
	struct reply reply;
	struct batch batch;

	/* field 1 (version), varint 2 */
	assert_int_equal(request_decode(&arena, &request, str_of("\x08\x02", 2), &info), ERR_VERSION);
	assert_non_null(strstr(info.text, "version 2"));
	assert_non_null(strstr(info.text, "version 1"));
	assert_int_equal(reply_decode(&arena, &reply, str_of("\x08\x02", 2), NULL), ERR_VERSION);
	assert_int_equal(batch_decode(&arena, &batch, str_of("", 0), NULL), ERR_VERSION);
	arena_finish(&arena);
}

static void an_unknown_error_name_is_internal(void **state)
{
	static const char bytes[] = "\x08\x01\x1a\x01w\x2a\x05later"; /* version, worker_id, code */
	struct arena arena = {0};
	struct reply r;

	assert_int_equal(reply_decode(&arena, &r, str_of(bytes, sizeof(bytes) - 1), NULL), ERR_OK);
	assert_int_equal(r.code, ERR_INTERNAL);
	arena_finish(&arena);
}

/* Two bytes each: an Item without content, again and again. */
static void many_small_things_are_refused_before_they_are_many(void **state)
{
	struct arena arena = {0};
	size_t n = 4u << 20;
	char *p = malloc(n);
	struct batch b;

	for (size_t i = 0; i < n; i += 2)
		memcpy(p + i, "\x32", 2);
	assert_int_equal(batch_decode(&arena, &b, str_of(p, n), NULL), ERR_CAPACITY);
	assert_true(arena.used <= 33u << 20);
	free(p);
	arena_finish(&arena);
}

static void the_arenas_limit_holds(void **state)
{
	struct arena arena;
	struct buf buf = {0};
	struct request r = command_of(COMMAND_RUN_START), back;
	struct err_info info = {0};

	arena_init(&arena, 256);
	assert_int_equal(request_encode(&r, &buf), ERR_OK);
	assert_int_equal(request_decode(&arena, &back, buf_str(&buf), &info), ERR_CAPACITY);
	arena_finish(&arena);
	buf_finish(&buf);
}

static void an_oversize_message_is_not_looked_at(void **state)
{
	struct arena arena = {0};
	struct str big = repeat(0, LINK_MESSAGE_MAX + 1);
	struct request r;
	struct run_up u;

	assert_int_equal(request_decode(&arena, &r, big, NULL), ERR_PROTOCOL);
	assert_int_equal(run_up_decode(&arena, &u, str_of(big.p, RUN_MESSAGE_MAX + 1), NULL), ERR_PROTOCOL);
	assert_true(arena.used == 0);
	repeat_free(big);
	arena_finish(&arena);
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void decode_all(struct arena *arena, struct str in)
{
	struct request request;
	struct reply reply;
	struct batch batch;
	struct host_command command;
	struct host_report report;
	struct run_down down;
	struct run_up up;
	enum err errs[] = {request_decode(arena, &request, in, NULL),    reply_decode(arena, &reply, in, NULL),
	                   batch_decode(arena, &batch, in, NULL),        host_command_decode(arena, &command, in, NULL),
	                   host_report_decode(arena, &report, in, NULL), run_down_decode(arena, &down, in, NULL),
	                   run_up_decode(arena, &up, in, NULL)};

	for (size_t i = 0; i < sizeof(errs) / sizeof(*errs); i++)
		assert_true(errs[i] >= ERR_OK && errs[i] < ERR_COUNT_);
	arena_reset(arena);
}

enum { SEEDS_MAX = 64, MUTATIONS = 20000 };

struct seeds {
	struct buf items[SEEDS_MAX];
	size_t n;
};

static struct buf *seed_next(struct seeds *seeds)
{
	assert_true(seeds->n < SEEDS_MAX);
	return &seeds->items[seeds->n++];
}

static void seeds_fill(struct seeds *seeds)
{
	struct item items[4] = {0};
	struct batch b = batch_of(items, 4);

	example_items(items);
	assert_int_equal(batch_encode(&b, seed_next(seeds)), ERR_OK);
	for (int kind = REQUEST_HELLO; kind <= REQUEST_CREDIT; kind++) {
		struct request r = kind == REQUEST_COMMAND ? command_of(COMMAND_RUN_START) : request_of(kind);

		assert_int_equal(request_encode(&r, seed_next(seeds)), ERR_OK);
	}
	for (int kind = 0; kind <= REQUEST_REPLAY; kind++) {
		struct reply r = reply_of(kind, ERR_OK);

		if (kind != REQUEST_DETACH)
			assert_int_equal(reply_encode(&r, seed_next(seeds)), ERR_OK);
	}
	for (int kind = RUN_BEGIN; kind <= RUN_CANCEL; kind++) {
		struct run_down d = run_down_of(kind);

		assert_int_equal(run_down_encode(&d, seed_next(seeds)), ERR_OK);
	}
	for (int kind = RUN_THINK; kind <= RUN_FAIL; kind++) {
		struct run_up u = run_up_of(kind);

		assert_int_equal(run_up_encode(&u, seed_next(seeds)), ERR_OK);
	}
}

/* A copy on the heap of exactly the length, so that a read beyond it shows. */
static void mutate_and_decode(struct arena *arena, struct str seed, uint64_t *state)
{
	size_t n = seed.n;
	char *p;

	if (random_next(state) % 3 == 0)
		n = random_next(state) % (n + 1);
	p = malloc(n ? n : 1);
	memcpy(p, seed.p, n);
	for (uint64_t flips = random_next(state) % 4; n && flips; flips--)
		p[random_next(state) % n] ^= (char)(1u << random_next(state) % 8);
	if (n && random_next(state) % 4 == 0)
		p[random_next(state) % n] = (char)random_next(state);
	decode_all(arena, str_of(p, n));
	free(p);
}

static void truncated_and_flipped_bytes_never_crash(void **state)
{
	struct arena arena;
	struct seeds seeds = {.n = 0};
	uint64_t random = 0x9e3779b97f4a7c15;

	arena_init(&arena, 64u << 20);
	seeds_fill(&seeds);
	for (int i = 0; i < MUTATIONS; i++)
		mutate_and_decode(&arena, buf_str(&seeds.items[(size_t)i % seeds.n]), &random);
	for (size_t i = 0; i < seeds.n; i++)
		buf_finish(&seeds.items[i]);
	arena_finish(&arena);
}

/* ---- frames ---- */

static void frames_are_cut_out_of_a_stream_at_any_split(void **state)
{
	struct buf buf = {0};
	struct str message;
	size_t used, begin = frame_begin(&buf);

	buf_append_c(&buf, "one");
	frame_end(&buf, begin);
	begin = frame_begin(&buf);
	buf_append_c(&buf, "zwei");
	frame_end(&buf, begin);
	for (size_t n = 0; n < 7; n++)
		assert_int_equal(frame_next(str_of(buf.p, n), 100, &message, &used), ERR_AGAIN);
	assert_int_equal(frame_next(str_of(buf.p, 7), 100, &message, &used), ERR_OK);
	assert_str(message, "one");
	assert_int_equal(used, 7);
	buf_consume(&buf, used);
	assert_int_equal(frame_next(buf_str(&buf), 100, &message, &used), ERR_OK);
	assert_str(message, "zwei");
	assert_int_equal(frame_next(buf_str(&buf), 3, &message, &used), ERR_PROTOCOL);
	assert_int_equal(frame_next(str_of("\0\0\0\0", 4), 100, &message, &used), ERR_PROTOCOL);
	assert_int_equal(frame_next(str_of("\xff\xff\xff\xff", 4), RUN_MESSAGE_MAX, &message, &used), ERR_PROTOCOL);
	buf_finish(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_comes_back),
		cmocka_unit_test(every_reply_comes_back),
		cmocka_unit_test(a_batch_and_a_beat_come_back),
		cmocka_unit_test(every_host_message_comes_back),
		cmocka_unit_test(every_run_message_comes_back),
		cmocka_unit_test(another_version_is_refused_by_name),
		cmocka_unit_test(an_unknown_error_name_is_internal),
		cmocka_unit_test(many_small_things_are_refused_before_they_are_many),
		cmocka_unit_test(the_arenas_limit_holds),
		cmocka_unit_test(an_oversize_message_is_not_looked_at),
		cmocka_unit_test(truncated_and_flipped_bytes_never_crash),
		cmocka_unit_test(frames_are_cut_out_of_a_stream_at_any_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
