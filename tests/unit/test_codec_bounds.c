/* Every bound of the codec, from both sides, and every form that it demands. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "codec_examples.h"

/* ---- bounds ---- */

/* What the encoder says, and then, where it encodes, the decoder. */
static enum err request_verdict(const struct request *r)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct err_info info = {0};
	struct request back;
	enum err err = request_encode(r, &buf);

	if (!err)
		err = request_decode(&arena, &back, buf_str(&buf), &info);
	else
		assert_int_equal(buf.n, 0);
	arena_finish(&arena);
	buf_finish(&buf);
	return err;
}

/* One byte below the bound passes, one above does not. */
static void request_bound(struct request *r, struct str *field, size_t max)
{
	struct str before = *field, long_one = repeat('a', max + 1);

	*field = str_of(long_one.p, max);
	assert_int_equal(request_verdict(r), ERR_OK);
	*field = long_one;
	assert_int_equal(request_verdict(r), ERR_TOO_LARGE);
	*field = before;
	repeat_free(long_one);
}

static void strings_of_requests_are_bounded(void **state)
{
	struct request r = command_of(COMMAND_RUN_START);

	request_bound(&r, &r.gateway_id, NAME_MAX_BYTES);
	request_bound(&r, &r.gateway_incarnation, NAME_MAX_BYTES);
	request_bound(&r, &r.command.client_id, 64);
	request_bound(&r, &r.command.input, COMMAND_INPUT_MAX);
	request_bound(&r, &r.command.agent, NAME_MAX_BYTES);
	request_bound(&r, &r.command.idempotency_key, 256);
	request_bound(&r, &r.command.metadata, 16 << 10);
	r = command_of(COMMAND_TOOL_DECIDE);
	request_bound(&r, &r.command.note, 4096);
	r = command_of(COMMAND_THREAD_RENAME);
	request_bound(&r, &r.command.title, TEXT_MAX);
	r = command_of(COMMAND_THREAD_LIST);
	request_bound(&r, &r.command.before, TEXT_MAX);
	r = request_of(REQUEST_HELLO);
	request_bound(&r, &r.hello.events_url, URL_MAX);
	r = request_of(REQUEST_ATTACH);
	request_bound(&r, &r.attach.suspect_worker_id, NAME_MAX_BYTES);
}

static void ids_have_their_form(void **state)
{
	static const char *const not_ids[] = {"", "x", "0B5C7A52-6F0C-4A53-9F6E-0123456789AB",
	                                      "00000000-0000-0000-0000-000000000000", "0b5c7a52-6f0c-4a53-9f6e-0123456789a"};
	struct request r;

	for (size_t i = 0; i < sizeof(not_ids) / sizeof(*not_ids); i++) {
		r = command_of(COMMAND_RUN_CANCEL);
		r.command.run_id = str_c(not_ids[i]);
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
		r = command_of(COMMAND_THREAD_HISTORY);
		r.command.thread_id = str_c(not_ids[i]);
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
		r = command_of(COMMAND_TOOL_DECIDE);
		r.command.tool_call_id = str_c(not_ids[i]);
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	}
	r = command_of(COMMAND_RUN_START);
	r.command.thread_id = (struct str){0}; /* a new thread */
	assert_int_equal(request_verdict(&r), ERR_OK);
	r = command_of(COMMAND_RUN_LIST);
	r.command.thread_id = (struct str){0};
	assert_int_equal(request_verdict(&r), ERR_OK);
}

static void user_ids_have_their_form(void **state)
{
	static const struct str bad[] = {{"", 0},
	                                 {"test_user_123", 13},
	                                 {"usr_4A8F9C2B1E5D", 16},
	                                 {"usr_4a8f9c2b1e5", 15},
	                                 {USER "\n", 17},
	                                 {USER "\0", 17},
	                                 {"null", 4},
	                                 {"00000000-0000-0000-0000-000000000000", 36}};
	struct request r;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		r = request_of(REQUEST_ATTACH);
		r.attach.user_id = bad[i];
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
		r = request_of(REQUEST_DETACH);
		r.detach.user_id = bad[i];
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
		r = request_of(REQUEST_REPLAY);
		r.replay.user_id = bad[i];
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
		r = command_of(COMMAND_THREAD_LIST);
		r.command.user_id = bad[i];
		assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	}
	r = request_of(REQUEST_ATTACH);
	r.attach.user_id = repeat('9', 65);
	assert_int_equal(request_verdict(&r), ERR_TOO_LARGE);
	repeat_free(r.attach.user_id);
	r.attach.user_id = str_c("e2e-staging");
	assert_int_equal(request_verdict(&r), ERR_OK);
}

static void missing_and_broken_fields_of_requests_are_refused(void **state)
{
	struct request r = request_of(REQUEST_HELLO);

	r.gateway_id = (struct str){0};
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = request_of(REQUEST_HELLO);
	r.gateway_id = str_of("a\0b", 3);
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = request_of(REQUEST_HELLO);
	r.gateway_id = str_c("\xff");
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = request_of(REQUEST_HELLO);
	r.hello.events_url = (struct str){0};
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = command_of(COMMAND_RUN_START);
	r.command.client_id = (struct str){0};
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = command_of(COMMAND_RUN_START);
	r.command.input = (struct str){0};
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = command_of(COMMAND_RUN_START);
	r.command.input = str_c("\"\xc0\xaf\"");
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = command_of(COMMAND_RUN_START);
	r.command.on_busy = 3;
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = command_of(99);
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
	r = request_of(99);
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
}

static void the_list_of_open_messages_is_bounded(void **state)
{
	struct have have[PAGE_OPEN_MAX + 1];
	struct request r = request_of(REQUEST_REPLAY);

	for (size_t i = 0; i < PAGE_OPEN_MAX + 1; i++)
		have[i] = example_have[0];
	r.replay.have = have;
	r.replay.n_have = PAGE_OPEN_MAX;
	assert_int_equal(request_verdict(&r), ERR_OK);
	r.replay.n_have++;
	assert_int_not_equal(request_verdict(&r), ERR_OK);
	have[3].message_id = str_c("nope");
	r.replay.n_have = 5;
	assert_int_equal(request_verdict(&r), ERR_PROTOCOL);
}

static enum err batch_verdict(struct item *items, size_t n)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct batch b = batch_of(items, n), back;
	enum err err = batch_encode(&b, &buf);

	if (!err)
		err = batch_decode(&arena, &back, buf_str(&buf), NULL);
	else
		assert_int_equal(buf.n, 0);
	arena_finish(&arena);
	buf_finish(&buf);
	return err;
}

static void items_of_batches_are_bounded(void **state)
{
	struct item *items = calloc(BATCH_ITEMS_MAX + 1, sizeof(*items));
	struct str body = repeat('a', EVENT_BODY_MAX + 4097), text = repeat('a', DELTA_TEXT_MAX + 1);

	example_items(items);
	items[0].event.body = str_of(body.p, EVENT_BODY_MAX + 4096);
	items[1].delta.text = str_of(text.p, DELTA_TEXT_MAX);
	assert_int_equal(batch_verdict(items, 4), ERR_OK);
	items[0].event.body = body;
	assert_int_equal(batch_verdict(items, 4), ERR_TOO_LARGE);
	items[0].event.body = (struct str){0};
	assert_int_equal(batch_verdict(items, 4), ERR_PROTOCOL);
	items[0].event = example_events[0];
	items[0].event.seq = 0;
	assert_int_equal(batch_verdict(items, 4), ERR_PROTOCOL);
	items[0].event.seq = 1;
	items[1].delta.text = text;
	assert_int_equal(batch_verdict(items, 4), ERR_TOO_LARGE);
	items[1].delta.text = str_of("\xc3", 1);
	assert_int_equal(batch_verdict(items, 4), ERR_PROTOCOL);
	items[1].delta = example_open[0];
	items[1].delta.message_id = (struct str){0};
	assert_int_equal(batch_verdict(items, 4), ERR_PROTOCOL);
	items[1].delta = example_open[0];
	items[2].user_id = str_c("default");
	assert_int_equal(batch_verdict(items, 4), ERR_PROTOCOL);
	items[2].user_id = str_c(USER);
	items[2].kind = 9;
	assert_int_equal(batch_verdict(items, 4), ERR_PROTOCOL);
	for (size_t i = 0; i < BATCH_ITEMS_MAX + 1; i++)
		items[i] = (struct item){.user_id = str_c(USER), .kind = ITEM_HEAD, .head = {7}};
	assert_int_equal(batch_verdict(items, BATCH_ITEMS_MAX), ERR_OK);
	assert_int_not_equal(batch_verdict(items, BATCH_ITEMS_MAX + 1), ERR_OK);
	repeat_free(body);
	repeat_free(text);
	free(items);
}

static enum err reply_verdict(const struct reply *r)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct reply back;
	enum err err = reply_encode(r, &buf);

	if (!err)
		err = reply_decode(&arena, &back, buf_str(&buf), NULL);
	arena_finish(&arena);
	buf_finish(&buf);
	return err;
}

static void replies_are_bounded(void **state)
{
	struct reply r = reply_of(REQUEST_COMMAND, ERR_OK);
	struct str fields = repeat(' ', LINK_MESSAGE_MAX);

	r.command.fields = str_of(fields.p, LINK_MESSAGE_MAX - (64 << 10));
	assert_int_equal(reply_verdict(&r), ERR_OK);
	r.command.fields = fields;
	assert_int_equal(reply_verdict(&r), ERR_TOO_LARGE);
	r = reply_of(0, ERR_OK);
	r.text = str_of(fields.p, TEXT_MAX + 1);
	assert_int_equal(reply_verdict(&r), ERR_TOO_LARGE);
	r = reply_of(0, ERR_OK);
	r.user_id = str_c("none");
	assert_int_equal(reply_verdict(&r), ERR_PROTOCOL);
	r = reply_of(0, ERR_OK);
	r.worker_id = (struct str){0};
	assert_int_equal(reply_verdict(&r), ERR_PROTOCOL);
	r = reply_of(REQUEST_DETACH, ERR_OK); /* has no body */
	assert_int_equal(reply_verdict(&r), ERR_PROTOCOL);
	repeat_free(fields);
}

/* A page of events that fit one by one but not together. */
static void a_message_beyond_the_link_bound_is_not_encoded(void **state)
{
	struct event events[9];
	struct str body = repeat('a', EVENT_BODY_MAX);
	struct reply r = reply_of(REQUEST_REPLAY, ERR_OK);

	for (int i = 0; i < 9; i++)
		events[i] = (struct event){.seq = (uint64_t)i + 1, .body = body};
	r.page.events = events;
	r.page.n_events = 9;
	r.page.n_open = 0;
	assert_int_equal(reply_verdict(&r), ERR_TOO_LARGE);
	r.page.n_events = 7;
	assert_int_equal(reply_verdict(&r), ERR_OK);
	repeat_free(body);
}

static enum err run_up_verdict(const struct run_up *u)
{
	struct arena arena = {0};
	struct buf buf = {0};
	struct run_up back;
	enum err err = run_up_encode(u, &buf);

	if (!err)
		err = run_up_decode(&arena, &back, buf_str(&buf), NULL);
	arena_finish(&arena);
	buf_finish(&buf);
	return err;
}

static void what_a_run_says_is_bounded(void **state)
{
	struct run_up u = run_up_of(RUN_TEXT);
	struct str text = repeat('a', EVENT_BODY_MAX + 1);

	u.text = str_of(text.p, EVENT_BODY_MAX);
	assert_int_equal(run_up_verdict(&u), ERR_OK);
	u.text = text;
	assert_int_equal(run_up_verdict(&u), ERR_TOO_LARGE);
	u.text = str_c("\xed\xa0\x80");
	assert_int_equal(run_up_verdict(&u), ERR_PROTOCOL);
	u = run_up_of(RUN_TOOL_CALL);
	u.tool = (struct str){0};
	assert_int_equal(run_up_verdict(&u), ERR_PROTOCOL);
	u = run_up_of(RUN_TOOL_OUTCOME);
	u.status = TOOL_IN_DOUBT + 1;
	assert_int_equal(run_up_verdict(&u), ERR_PROTOCOL);
	u = run_up_of(99);
	assert_int_equal(run_up_verdict(&u), ERR_PROTOCOL);
	repeat_free(text);
}

static void host_messages_are_bounded(void **state)
{
	struct str properties[HOST_PROPERTIES_MAX + 1];
	struct host_command c = {.kind = HOST_SPAWN, .agent = 99};
	struct host_report r = {.kind = HOST_READY, .properties = properties};
	struct buf buf = {0};

	assert_int_equal(host_command_encode(&c, &buf), ERR_PROTOCOL);
	for (size_t i = 0; i < HOST_PROPERTIES_MAX + 1; i++)
		properties[i] = str_c("a=b");
	r.n_properties = HOST_PROPERTIES_MAX + 1;
	assert_int_equal(host_report_encode(&r, &buf), ERR_PROTOCOL);
	r.n_properties = HOST_PROPERTIES_MAX;
	assert_int_equal(host_report_encode(&r, &buf), ERR_OK);
	buf_finish(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strings_of_requests_are_bounded),
		cmocka_unit_test(ids_have_their_form),
		cmocka_unit_test(user_ids_have_their_form),
		cmocka_unit_test(missing_and_broken_fields_of_requests_are_refused),
		cmocka_unit_test(the_list_of_open_messages_is_bounded),
		cmocka_unit_test(items_of_batches_are_bounded),
		cmocka_unit_test(replies_are_bounded),
		cmocka_unit_test(a_message_beyond_the_link_bound_is_not_encoded),
		cmocka_unit_test(what_a_run_says_is_bounded),
		cmocka_unit_test(host_messages_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
