/* test_client_message.c - what clients may send, and how everything else is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "gateway/client_message.h"

#define ID_A "0a1b2c3d-0000-4000-8000-00000000000a"

static struct user_id user;
static struct err_info info;

static enum err parse(struct client_message *m, const char *text)
{
	info = (struct err_info){0};
	return client_message_parse(m, str_c(text), &user, &info);
}

static enum err verdict(const char *text)
{
	struct client_message m;
	enum err err = parse(&m, text);

	client_message_finish(&m);
	return err;
}

static void expect(enum err want, const char *text)
{
	enum err got = verdict(text);

	if (got != want)
		fail_msg("%s instead of %s (%s) for %s", err_name(got), err_name(want), info.text, text);
}

static int set_up(void **state)
{
	return user_id_parse(&user, str_c("usr_4a8f9c2b1e5d"), 0) == ERR_OK ? 0 : -1;
}

static void run_start_is_read_with_every_field(void **state)
{
	struct client_message m;

	assert_int_equal(
		parse(&m,
	              "{\"type\":\"run.start\",\"id\":\"c1\",\"user_id\":\"usr_4a8f9c2b1e5d\",\"input\":{ \"steps\" : [1, \"\\u00fc\"] },"
	              "\"agent\":\"script\",\"thread_id\":\"" ID_A "\",\"idempotency_key\":\"k\",\"on_busy\":\"interrupt\","
	              "\"metadata\":{\"b\":1,\"a\":2}}"),
		ERR_OK);
	assert_int_equal(m.kind, CLIENT_COMMAND);
	assert_int_equal(m.command.kind, COMMAND_RUN_START);
	assert_true(str_eq_c(m.id, "c1"));
	assert_true(str_eq_c(m.command.client_id, "c1"));
	assert_true(str_eq_c(m.command.input, "{\"steps\":[1,\"\xc3\xbc\"]}"));
	assert_true(str_eq_c(m.command.agent, "script"));
	assert_true(str_eq_c(m.command.thread_id, ID_A));
	assert_true(str_eq_c(m.command.idempotency_key, "k"));
	assert_int_equal(m.command.on_busy, ON_BUSY_INTERRUPT);
	assert_true(str_eq_c(m.command.metadata, "{\"b\":1,\"a\":2}"));
	client_message_finish(&m);
}

static void optional_fields_have_their_defaults(void **state)
{
	struct client_message m;

	assert_int_equal(parse(&m, "{\"type\":\"run.start\",\"id\":\"c1\",\"input\":\"hi\"}"), ERR_OK);
	assert_true(str_eq_c(m.command.input, "\"hi\""));
	assert_int_equal(m.command.on_busy, ON_BUSY_ENQUEUE);
	assert_int_equal(m.command.agent.n, 0);
	assert_int_equal(m.command.thread_id.n, 0);
	assert_int_equal(m.command.metadata.n, 0);
	client_message_finish(&m);
	assert_int_equal(parse(&m, "{\"type\":\"thread.list\",\"id\":\"c1\"}"), ERR_OK);
	assert_int_equal(m.command.limit, 50);
	client_message_finish(&m);
}

static void every_type_is_known(void **state)
{
	static const struct {
		const char *text;
		enum client_kind kind;
		enum command_kind command;
	} all[] = {
		{"{\"type\":\"run.start\",\"id\":\"i\",\"input\":\"\"}", CLIENT_COMMAND, COMMAND_RUN_START},
		{"{\"type\":\"run.cancel\",\"id\":\"i\",\"run_id\":\"" ID_A "\"}", CLIENT_COMMAND, COMMAND_RUN_CANCEL},
		{"{\"type\":\"tool.decide\",\"id\":\"i\",\"run_id\":\"" ID_A "\",\"tool_call_id\":\"" ID_A
	         "\",\"decision\":\"deny\",\"note\":\"\"}",
	         CLIENT_COMMAND, COMMAND_TOOL_DECIDE},
		{"{\"type\":\"thread.list\",\"id\":\"i\",\"limit\":100,\"before\":\"x\"}", CLIENT_COMMAND, COMMAND_THREAD_LIST},
		{"{\"type\":\"thread.history\",\"id\":\"i\",\"thread_id\":\"" ID_A "\",\"limit\":200}", CLIENT_COMMAND,
	         COMMAND_THREAD_HISTORY},
		{"{\"type\":\"thread.rename\",\"id\":\"i\",\"thread_id\":\"" ID_A "\",\"title\":\"t\"}", CLIENT_COMMAND,
	         COMMAND_THREAD_RENAME},
		{"{\"type\":\"thread.delete\",\"id\":\"i\",\"thread_id\":\"" ID_A "\"}", CLIENT_COMMAND, COMMAND_THREAD_DELETE},
		{"{\"type\":\"run.list\",\"id\":\"i\",\"thread_id\":\"" ID_A "\",\"limit\":1}", CLIENT_COMMAND, COMMAND_RUN_LIST},
		{"{\"type\":\"auth\",\"id\":\"i\",\"token\":\"\"}", CLIENT_AUTH, 0},
		{"{\"type\":\"auth.refresh\",\"id\":\"i\",\"token\":\"t\"}", CLIENT_AUTH_REFRESH, 0},
		{"{\"type\":\"ping\",\"id\":\"i\"}", CLIENT_PING, 0},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct client_message m;
		if (parse(&m, all[i].text) != ERR_OK)
			fail_msg("%s: %s", info.text, all[i].text);
		assert_int_equal(m.kind, all[i].kind);
		assert_int_equal(m.command.kind, all[i].command);
		client_message_finish(&m);
	}
}

static void decisions_are_allow_or_deny(void **state)
{
	struct client_message m;

	assert_int_equal(parse(&m, "{\"type\":\"tool.decide\",\"id\":\"i\",\"run_id\":\"" ID_A "\",\"tool_call_id\":\"" ID_A
	                           "\",\"decision\":\"allow\"}"),
	                 ERR_OK);
	assert_true(m.command.allow);
	client_message_finish(&m);
	expect(ERR_INVALID_MESSAGE, "{\"type\":\"tool.decide\",\"id\":\"i\",\"run_id\":\"" ID_A "\",\"tool_call_id\":\"" ID_A
	                            "\",\"decision\":\"maybe\"}");
	expect(ERR_INVALID_MESSAGE,
	       "{\"type\":\"tool.decide\",\"id\":\"i\",\"run_id\":\"" ID_A "\",\"tool_call_id\":\"" ID_A "\",\"decision\":true}");
}

static void malformed_messages_are_invalid(void **state)
{
	static const char *const all[] = {
		"",
		" ",
		"x",
		"{",
		"[]",
		"null",
		"5",
		"\"ping\"",
		"{}",
		"{\"id\":\"a\"}",
		"{\"type\":5,\"id\":\"a\"}",
		"{\"type\":null,\"id\":\"a\"}",
		"{\"type\":\"ping\"}",
		"{\"type\":\"ping\",\"id\":\"\"}",
		"{\"type\":\"ping\",\"id\":5}",
		"{\"type\":\"ping\",\"id\":null}",
		"{\"type\":\"ping\",\"id\":\"a\"} x",
		"{\"type\":\"ping\",\"id\":\"a\",\"id\":\"a\"}",
		"{\"type\":\"ping\",\"id\":\"a\\u0000\"}",
		"{\"type\":\"ping\",\"id\":\"a\",\"extra\":1}",
		"{\"type\":\"ping\",\"id\":\"a\",\"token\":\"t\"}",
		"{\"type\":\"ping\",\"id\":\"a\",\"\":1}",
		"{\"type\":\"run.start\",\"id\":\"a\"}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":5}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":null}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":[]}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"agent\":\"\"}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"agent\":null}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"agent\":{}}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"thread_id\":5}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"on_busy\":\"wait\"}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"on_busy\":1}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"metadata\":\"m\"}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"metadata\":[]}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"run_id\":\"" ID_A "\"}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"idempotency_key\":\"\"}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"idempotency_key\":7}",
		"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"idempotency_key\":\"\\u0001k\"}",
		"{\"type\":\"run.cancel\",\"id\":\"a\"}",
		"{\"type\":\"run.cancel\",\"id\":\"a\",\"run_id\":5}",
		"{\"type\":\"run.cancel\",\"id\":\"a\",\"run_id\":null}",
		"{\"type\":\"run.cancel\",\"id\":\"a\",\"run_id\":{}}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"limit\":0}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"limit\":101}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"limit\":-1}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"limit\":5.0}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"limit\":\"5\"}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"limit\":4294967297}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"before\":\"\"}",
		"{\"type\":\"thread.list\",\"id\":\"a\",\"before\":5}",
		"{\"type\":\"thread.history\",\"id\":\"a\"}",
		"{\"type\":\"thread.history\",\"id\":\"a\",\"thread_id\":\"" ID_A "\",\"limit\":201}",
		"{\"type\":\"thread.rename\",\"id\":\"a\",\"thread_id\":\"" ID_A "\"}",
		"{\"type\":\"thread.rename\",\"id\":\"a\",\"thread_id\":\"" ID_A "\",\"title\":\"\"}",
		"{\"type\":\"run.list\",\"id\":\"a\",\"limit\":101}",
		"{\"type\":\"auth.refresh\",\"id\":\"a\"}",
		"{\"type\":\"auth.refresh\",\"id\":\"a\",\"token\":5}",
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		expect(ERR_INVALID_MESSAGE, all[i]);
}

static void invalid_beats_not_found(void **state)
{
	expect(ERR_INVALID_MESSAGE, "{\"type\":\"thread.rename\",\"id\":\"a\",\"thread_id\":\"nonsense\",\"title\":5}");
	expect(ERR_INVALID_MESSAGE, "{\"type\":\"thread.rename\",\"id\":\"a\",\"thread_id\":\"nonsense\"}");
}

static void strings_that_are_no_id_of_ours_are_not_found(void **state)
{
	static const char *const all[] = {"",
	                                  "x",
	                                  "0A1B2C3D-0000-4000-8000-00000000000A",
	                                  "0a1b2c3d-0000-4000-8000-00000000000",
	                                  ID_A "0",
	                                  "00000000-0000-0000-0000-000000000000",
	                                  " " ID_A,
	                                  "{" ID_A "}"};
	char text[512];

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		snprintf(text, sizeof(text), "{\"type\":\"run.cancel\",\"id\":\"a\",\"run_id\":\"%s\"}", all[i]);
		expect(ERR_NOT_FOUND, text);
		snprintf(text, sizeof(text), "{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"thread_id\":\"%s\"}",
		         all[i]);
		expect(ERR_NOT_FOUND, text);
		snprintf(text, sizeof(text),
		         "{\"type\":\"tool.decide\",\"id\":\"a\",\"run_id\":\"" ID_A
		         "\",\"tool_call_id\":\"%s\",\"decision\":\"deny\"}",
		         all[i]);
		expect(ERR_NOT_FOUND, text);
	}
}

static void unknown_types_are_told_apart(void **state)
{
	expect(ERR_UNKNOWN_TYPE, "{\"type\":\"\",\"id\":\"a\"}");
	expect(ERR_UNKNOWN_TYPE, "{\"type\":\"Ping\",\"id\":\"a\"}");
	expect(ERR_UNKNOWN_TYPE, "{\"type\":\"run.pause\",\"id\":\"a\",\"anything\":{}}");
}

static void another_user_is_forbidden(void **state)
{
	expect(ERR_OK, "{\"type\":\"ping\",\"id\":\"a\",\"user_id\":\"usr_4a8f9c2b1e5d\"}");
	expect(ERR_FORBIDDEN, "{\"type\":\"ping\",\"id\":\"a\",\"user_id\":\"usr_4a8f9c2b1e5e\"}");
	expect(ERR_FORBIDDEN, "{\"type\":\"ping\",\"id\":\"a\",\"user_id\":\"usr_4a8f9c2b1e5d\\n\"}");
	expect(ERR_FORBIDDEN, "{\"type\":\"ping\",\"id\":\"a\",\"user_id\":\"\"}");
	expect(ERR_FORBIDDEN, "{\"type\":\"ping\",\"id\":\"a\",\"user_id\":null}");
	expect(ERR_FORBIDDEN, "{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"user_id\":5}");
}

/* A message whose `field` is a string of n bytes. */
static enum err with_length(const char *before, size_t n, const char *after)
{
	struct buf text = {0};

	buf_append_c(&text, before);
	for (size_t i = 0; i < n; i++)
		buf_append_c(&text, "x");
	buf_append_c(&text, after);
	buf_append(&text, "", 1);
	enum err err = verdict(text.p);
	buf_finish(&text);
	return err;
}

static void fields_have_their_bounds(void **state)
{
	static const struct {
		const char *before;
		size_t most;
		const char *after;
		enum err beyond;
	} all[] = {
		{"{\"type\":\"ping\",\"id\":\"", 64, "\"}", ERR_INVALID_MESSAGE},
		{"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"idempotency_key\":\"", 64, "\"}", ERR_TOO_LARGE},
		{"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"agent\":\"", 128, "\"}", ERR_TOO_LARGE},
		{"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\",\"metadata\":{\"a\":\"", 4096 - 8, "\"}}", ERR_TOO_LARGE},
		{"{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"", (1 << 20) - 2, "\"}", ERR_TOO_LARGE},
		{"{\"type\":\"thread.list\",\"id\":\"a\",\"before\":\"", 128, "\"}", ERR_TOO_LARGE},
		{"{\"type\":\"thread.rename\",\"id\":\"a\",\"thread_id\":\"" ID_A "\",\"title\":\"", 200, "\"}", ERR_TOO_LARGE},
		{"{\"type\":\"tool.decide\",\"id\":\"a\",\"run_id\":\"" ID_A "\",\"tool_call_id\":\"" ID_A
	         "\",\"decision\":\"deny\",\"note\":\"",
	         1000, "\"}", ERR_TOO_LARGE},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		assert_int_equal(with_length(all[i].before, all[i].most, all[i].after), ERR_OK);
		assert_int_equal(with_length(all[i].before, all[i].most + 1, all[i].after), all[i].beyond);
	}
}

static void nesting_is_bounded(void **state)
{
	struct buf text = {0};

	for (int levels = 32; levels <= 33; levels++) {
		buf_clear(&text);
		buf_append_c(&text, "{\"type\":\"run.start\",\"id\":\"a\",\"input\":{\"a\":"); /* two levels */
		for (int i = 2; i < levels; i++)
			buf_append_c(&text, "[");
		for (int i = 2; i < levels; i++)
			buf_append_c(&text, "]");
		buf_append_c(&text, "}}");
		buf_append(&text, "", 1);
		expect(levels == 32 ? ERR_OK : ERR_INVALID_MESSAGE, text.p);
	}
	buf_finish(&text);
}

static void id_is_read_where_the_rest_is_wrong(void **state)
{
	struct client_message m;

	assert_int_equal(parse(&m, "{\"type\":\"run.start\",\"id\":\"c9\",\"input\":5}"), ERR_INVALID_MESSAGE);
	assert_true(str_eq_c(m.id, "c9"));
	assert_true(info.text[0]);
	client_message_finish(&m);
	assert_int_equal(parse(&m, "{\"type\":\"nothing\",\"id\":\"c9\"}"), ERR_UNKNOWN_TYPE);
	assert_true(str_eq_c(m.id, "c9"));
	client_message_finish(&m);
}

static void auth_keeps_a_claimed_user_for_later(void **state)
{
	struct client_message m;

	assert_int_equal(client_message_parse(&m,
	                                      str_c("{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\",\"user_id\":\"someone\"}"),
	                                      NULL, &info),
	                 ERR_OK);
	assert_int_equal(m.kind, CLIENT_AUTH);
	assert_true(m.has_user_id);
	assert_true(str_eq_c(m.user_id, "someone"));
	assert_true(str_eq_c(m.token, "t"));
	client_message_finish(&m);
}

/* Flips, cuts and doubles bytes of a good message: any verdict, no crash. */
static void mutations_never_crash(void **state)
{
	static const char good[] =
		"{\"type\":\"run.start\",\"id\":\"c1\",\"input\":{\"steps\":[{\"say\":\"x\"}]},\"thread_id\":\"" ID_A
		"\",\"on_busy\":\"reject\",\"metadata\":{\"a\":[1,2,{}]}}";
	uint64_t rng = 88172645463325252u;

	for (int i = 0; i < 20000; i++) {
		char text[2 * sizeof(good)];
		size_t n = sizeof(good) - 1;
		struct client_message m;
		memcpy(text, good, n);
		for (int k = 0; k < 3; k++) {
			rng ^= rng << 13;
			rng ^= rng >> 7;
			rng ^= rng << 17;
			if (rng % 5 == 0)
				n = n > 4 ? n - rng / 5 % 4 : n;
			else
				text[rng / 5 % n] = (char)(rng >> 40);
		}
		(void)!client_message_parse(&m, str_of(text, n), &user, NULL);
		client_message_finish(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run_start_is_read_with_every_field),
		cmocka_unit_test(optional_fields_have_their_defaults),
		cmocka_unit_test(every_type_is_known),
		cmocka_unit_test(decisions_are_allow_or_deny),
		cmocka_unit_test(malformed_messages_are_invalid),
		cmocka_unit_test(invalid_beats_not_found),
		cmocka_unit_test(strings_that_are_no_id_of_ours_are_not_found),
		cmocka_unit_test(unknown_types_are_told_apart),
		cmocka_unit_test(another_user_is_forbidden),
		cmocka_unit_test(fields_have_their_bounds),
		cmocka_unit_test(nesting_is_bounded),
		cmocka_unit_test(id_is_read_where_the_rest_is_wrong),
		cmocka_unit_test(auth_keeps_a_claimed_user_for_later),
		cmocka_unit_test(mutations_never_crash),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
