/*
 * What is wrong gets one answer that says so, or a close that says why; and the gateway goes on.
 *
 * Messages: every type with every field missing, of a wrong type, out of bounds, and with fields that don't belong. Frames:
 * every breach of RFC 6455 that a client can commit. Then random mutations of both.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"
#include "tests/lib/token.h"

#define USER "usr_4a8f9c2b1e5d"
#define NEVER "7f3b7f6e-52d4-4c8b-9a51-0d6a2ad7c1e5"

enum { MUTATIONS = 3000 };

/* A connection is good for many rows: it must survive each of them. */
static struct chat *enter(struct cluster *c)
{
	return chat_enter_as(c->loop, cluster_port(c, 0), USER);
}

static void leave(struct chat *chat)
{
	json_t *pong = chat_call(chat, json_pack("{s:s}", "type", "ping"));
	assert_string_equal(chat_text_of(pong, "type"), "pong");
	assert_int_equal(chat->n_events, 0); /* nothing that was refused has done anything */
	chat_check(chat);
	chat_free(chat);
}

/* Sends text, which carries `id`, and wants an error with one of `codes` ("a|b"). */
static void refused(struct chat *chat, const char *text, const char *id, const char *codes)
{
	chat_send_text(chat, text);
	json_t *answer = chat_wait_answer(chat, id, 10000);
	const char *code = chat_code(answer);
	if (!answer)
		fail_msg("no answer to %.300s (close %d %s)", text, chat->ws->close_code, chat->ws->close_reason);
	if (!code[0] || !strstr(codes, code))
		fail_msg("\"%s\", not \"%s\", answers %.300s", code, codes, text);
	chat_check(chat);
}

/* ---- text that is no message ---- */

static bool null_error_came(void *ctx)
{
	struct chat *chat = ctx;
	return chat->n_null_errors > 0 || chat->ws->state == WS_CLOSED;
}

static void refused_without_id(struct chat *chat, const char *text, size_t n)
{
	chat->n_null_errors = 0;
	chat->error_code[0] = 0;
	ws_send_text(chat->ws, text, n);
	if (!ws_loop_until(chat->loop, null_error_came, chat, 5000))
		fail_msg("no answer to \"%.200s\"", text);
	if (strcmp(chat->error_code, "invalid_message") != 0)
		fail_msg("\"%s\" (close %d), not invalid_message, answers %.200s", chat->error_code, chat->ws->close_code, text);
}

static void text_without_an_id_is_answered_with_null(void **state)
{
	static const char *const texts[] = {
		"",
		" ",
		"x",
		"not json",
		"{",
		"}",
		"{}",
		"[]",
		"[{\"type\":\"ping\",\"id\":\"1\"}]",
		"\"ping\"",
		"null",
		"true",
		"12",
		"{\"type\":\"ping\"}",
		"{\"type\":\"ping\",\"id\":null}",
		"{\"type\":\"ping\",\"id\":7}",
		"{\"type\":\"ping\",\"id\":\"\"}",
		"{\"type\":\"ping\",\"id\":[\"a\"]}",
		"{\"type\":\"ping\",\"id\":\"0123456789012345678901234567890123456789012345678901234567890123x\"}",
		"{\"type\":\"ping\",\"id\":\"a\"",
		"{\"type\":\"ping\",\"id\":\"a\"}}",
		"{\"type\":\"ping\",\"id\":\"a\"} {}",
		"{'type':'ping','id':'a'}",
		"{\"type\":\"ping\",\"id\":\"a\",}",
		"\xef\xbb\xbf{\"type\":\"ping\",\"id\":\"a\"}",
		"{\"type\":\"ping\",\"id\":\"a\"}//",
		"{type:\"ping\",\"id\":\"a\"}",
		"NaN",
		"{\"type\":\"nonsense\"}",
	};
	struct cluster *c = *state;
	struct chat *chat = enter(c);
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		refused_without_id(chat, texts[i], strlen(texts[i]));
	static const char with_nul[] = "{\"type\":\"ping\",\"id\":\"a\"}";
	refused_without_id(chat, with_nul, sizeof with_nul);
	char *deep = malloc(60001);
	memset(deep, '[', 60000);
	refused_without_id(chat, deep, 60000);
	free(deep);
	leave(chat);
	cluster_passed(c);
}

/* Where the text is broken or the id stands twice it may be read or not: the answer has the id, or null. */
static void refused_somehow(struct chat *chat, const char *text, const char *id)
{
	chat->n_null_errors = 0;
	chat_send_text(chat, text);
	uint64_t deadline = clock_ms() + 10000 * patience();
	while (!chat->n_null_errors && !chat_answer(chat, id) && clock_ms() < deadline)
		ws_loop_turn(chat->loop, 20);
	const char *code = chat->n_null_errors ? chat->error_code : chat_code(chat_answer(chat, id));
	if (strcmp(code, "invalid_message") != 0)
		fail_msg("\"%s\" answers %.200s", code, text);
}

static char *nested(unsigned levels, const char *id)
{
	struct blob text = {0};
	blob_printf(&text, "{\"type\":\"run.start\",\"id\":\"%s\",\"input\":", id);
	for (unsigned i = 1; i < levels; i++)
		blob_add_c(&text, "{\"a\":");
	blob_add_c(&text, "1");
	for (unsigned i = 0; i < levels; i++)
		blob_add_c(&text, "}");
	return text.p;
}

static void strict_json_is_demanded(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = enter(c);
	refused_somehow(chat, "{\"type\":\"ping\",\"id\":\"d1\",\"id\":\"d1\"}", "d1");
	refused_somehow(chat, "{\"type\":\"ping\",\"type\":\"ping\",\"id\":\"d2\"}", "d2");
	refused_somehow(chat, "{\"type\":\"run.start\",\"id\":\"d3\",\"input\":{\"a\":1,\"a\":2}}", "d3");
	refused_somehow(chat, "{\"type\":\"run.start\",\"id\":\"d4\",\"input\":\"a\\u0000b\"}", "d4");
	refused_somehow(chat, "{\"type\":\"ping\\u0000\",\"id\":\"d5\"}", "d5");
	refused_somehow(chat, "{\"type\":\"run.start\",\"id\":\"d6\",\"input\":{\"\\u0000\":1}}", "d6");
	refused_somehow(chat, "{\"type\":\"run.start\",\"id\":\"d7\",\"input\":\"\\ud800\"}", "d7");
	char *deep = nested(33, "d8");
	refused_somehow(chat, deep, "d8");
	free(deep);
	leave(chat);
	cluster_passed(c);
}

/* ---- every type, every field ---- */

struct field {
	const char *name;
	const char *good;  /* JSON */
	const char *wrong; /* JSON values separated by ';' : each is refused with invalid_message */
	const char *large; /* a value over its bound, refused with too_large or invalid_message; or NULL */
	bool needed;
};

#define NO_STRING "null;5;true;[];{};[\"a\"];1.5"
#define NO_LIMIT(over) "null;\"5\";0;-1;1.5;" over ";true;[];{};1e3"
#define X100 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X1000 X100 X100 X100 X100 X100 X100 X100 X100 X100 X100

static const struct message {
	const char *type;
	struct field fields[9];
} messages[] = {
	{"run.start",
         {{"input", "\"hello\"", "null;5;true;[];[1]", NULL, true},
          {"agent", "\"demo\"", NO_STRING, "\"" X100 X100 "\"", false},
          {"thread_id", "\"" NEVER "\"", NO_STRING, NULL, false},
          {"idempotency_key", "\"k\"", NO_STRING ";\"\\u0001x\"", "\"" X100 "\"", false},
          {"on_busy", "\"enqueue\"", NO_STRING ";\"\";\"Enqueue\";\"wait\"", NULL, false},
          {"metadata", "{\"a\":1}", "null;5;true;[];\"a\"", "{\"a\":\"" X1000 X1000 X1000 X1000 X1000 "\"}", false}}},
	{"run.cancel", {{"run_id", "\"" NEVER "\"", NO_STRING, NULL, true}}},
	{"tool.decide",
         {{"run_id", "\"" NEVER "\"", NO_STRING, NULL, true},
          {"tool_call_id", "\"" NEVER "\"", NO_STRING, NULL, true},
          {"decision", "\"allow\"", NO_STRING ";\"\";\"ALLOW\";\"maybe\"", NULL, true},
          {"note", "\"n\"", NO_STRING, "\"" X1000 X100 "\"", false}}},
	{"thread.list", {{"limit", "10", NO_LIMIT("101"), NULL, false}, {"before", "\"\"", "null;5;true;[];{}", NULL, false}}},
	{"thread.history",
         {{"thread_id", "\"" NEVER "\"", NO_STRING, NULL, true},
          {"limit", "10", NO_LIMIT("201"), NULL, false},
          {"before", "\"1\"", "null;5;true;[];{}", NULL, false}}},
	{"thread.rename",
         {{"thread_id", "\"" NEVER "\"", NO_STRING, NULL, true}, {"title", "\"t\"", NO_STRING, "\"" X1000 X1000 "\"", true}}},
	{"thread.delete", {{"thread_id", "\"" NEVER "\"", NO_STRING, NULL, true}}},
	{"run.list",
         {{"thread_id", "\"" NEVER "\"", NO_STRING, NULL, false},
          {"limit", "10", NO_LIMIT("101"), NULL, false},
          {"before", "\"1\"", "null;5;true;[];{}", NULL, false}}},
	{"auth.refresh", {{"token", "\"x\"", NO_STRING, NULL, true}}},
	{"ping", {{NULL, NULL, NULL, NULL, false}}},
};

enum { N_MESSAGES = sizeof messages / sizeof *messages };

/* The message with its needed fields; the one at `odd` (or -1) has `value` instead, or is left out where that is NULL. */
static char *write_message(const struct message *m, const char *id, int odd, const char *value)
{
	struct blob text = {0};
	blob_printf(&text, "{\"type\":\"%s\",\"id\":\"%s\"", m->type, id);
	for (int i = 0; m->fields[i].name; i++) {
		const char *v = i == odd ? value : m->fields[i].needed ? m->fields[i].good : NULL;
		if (v)
			blob_printf(&text, ",\"%s\":%s", m->fields[i].name, v);
	}
	blob_add_c(&text, "}");
	return text.p;
}

static unsigned rows; /* tried, and a source of ids */

static void try_row(struct chat *chat, const struct message *m, int odd, const char *value, const char *codes)
{
	char id[16];
	snprintf(id, sizeof id, "r%u", ++rows);
	char *text = write_message(m, id, odd, value);
	refused(chat, text, id, codes);
	free(text);
}

static void try_field(struct chat *chat, const struct message *m, int i)
{
	const struct field *f = &m->fields[i];
	char *wrong = strdup(f->wrong), *rest = wrong;
	if (f->needed)
		try_row(chat, m, i, NULL, "invalid_message");
	for (char *value; (value = strsep(&rest, ";"));)
		try_row(chat, m, i, value, "invalid_message");
	if (f->large)
		try_row(chat, m, i, f->large, "too_large|invalid_message");
	free(wrong);
}

static void try_extra(struct chat *chat, const struct message *m, const char *extra, const char *codes)
{
	char id[16];
	snprintf(id, sizeof id, "r%u", ++rows);
	char *text = write_message(m, id, -1, NULL);
	struct blob longer = {0};
	blob_add(&longer, text, strlen(text) - 1);
	blob_printf(&longer, ",%s}", extra);
	refused(chat, longer.p, id, codes);
	blob_free(&longer);
	free(text);
}

static void every_field_is_checked(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = enter(c);
	rows = 0;
	for (size_t m = 0; m < N_MESSAGES; m++) {
		for (int i = 0; messages[m].fields[i].name; i++)
			try_field(chat, &messages[m], i);
		try_extra(chat, &messages[m], "\"colour\":\"red\"", "invalid_message");
		try_extra(chat, &messages[m], "\"user_id\":\"usr_000000000001\"", "forbidden");
		try_extra(chat, &messages[m], "\"user_id\":5", "forbidden|invalid_message");
		try_extra(chat, &messages[m], "\"epoch\":1", "invalid_message");
	}
	print_message("%u malformed messages were refused\n", rows);
	leave(chat);
	cluster_passed(c);
}

static void unknown_types_are_said_to_be_unknown(void **state)
{
	static const char *const types[] = {"\"\"",
	                                    "\"Ping\"",
	                                    "\"ping \"",
	                                    "\"run\"",
	                                    "\"welcome\"",
	                                    "\"ack\"",
	                                    "\"error\"",
	                                    "\"agent_completed\"",
	                                    "\"message_delta\"",
	                                    "\"pong\"",
	                                    "\"run.start\\n\"",
	                                    "\"user_message\"",
	                                    "\"" X100 X100 "\""};
	static const char *const no_types[] = {"null", "5", "[]", "{}", "true"};
	struct cluster *c = *state;
	struct chat *chat = enter(c);
	char id[16], *text;
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		snprintf(id, sizeof id, "t%zu", i);
		text = text_format("{\"type\":%s,\"id\":\"%s\"}", types[i], id);
		refused(chat, text, id, "unknown_type");
		free(text);
	}
	for (size_t i = 0; i < sizeof no_types / sizeof *no_types; i++) {
		snprintf(id, sizeof id, "n%zu", i);
		text = text_format("{\"type\":%s,\"id\":\"%s\"}", no_types[i], id);
		refused(chat, text, id, "invalid_message");
		free(text);
	}
	refused(chat, "{\"id\":\"no-type\"}", "no-type", "invalid_message");
	refused(chat, "{\"type\":\"auth\",\"id\":\"again\",\"token\":\"x\"}", "again", "invalid_message");
	refused(chat, "{\"type\":\"run.start\",\"id\":\"a1\",\"input\":\"x\",\"agent\":\"nobody\"}", "a1", "unknown_agent");
	char *own = text_format("{\"type\":\"ping\",\"id\":\"own\",\"user_id\":\"%s\"}", USER);
	chat_send_text(chat, own); /* one's own user_id is no mistake */
	assert_string_equal(chat_text_of(chat_wait_answer(chat, "own", 5000), "type"), "pong");
	free(own);
	leave(chat);
	cluster_passed(c);
}

static void bad_scripts_fail_and_say_why(void **state)
{
	static const char *const inputs[] = {
		"\"text\"",
		"{}",
		"{\"steps\":5}",
		"{\"steps\":[5]}",
		"{\"steps\":[{}]}",
		"{\"steps\":[{\"think\":5}]}",
		"{\"steps\":[{\"nothing\":1}]}",
		"{\"steps\":[{\"stream\":{\"tokens\":-1}}]}",
		"{\"steps\":[{\"sleep_ms\":\"long\"}]}",
		"{\"steps\":[{\"crash\":\"gently\"}]}",
		"{\"steps\":[{\"probe\":{\"open\":\"a\",\"exec\":\"b\"}}]}",
		"{\"steps\":[{\"tool\":7}]}",
	};
	struct cluster *c = *state;
	struct chat *chat = enter(c);
	for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
		char run[40];
		chat_start(chat, json_loads(inputs[i], JSON_DECODE_ANY, NULL), "script", run);
		const struct chat_event *end = chat_wait_end(chat, run, 10000);
		assert_non_null(end);
		if (strcmp(end->type, "agent_failed") != 0)
			fail_msg("%s ended in %s", inputs[i], end->raw);
	}
	chat_check(chat);
	chat_free(chat);
	cluster_passed(c);
}

/* ---- frames ---- */

enum outcome { CLOSES, LIVES, EITHER };

struct frame_case {
	const char *what;
	void (*commit)(struct ws_client *ws);
	enum outcome outcome;
	int code;    /* of the close; 0: any, or none */
	bool echoed; /* the server's library gives our own bad close frame back: not held against it */
};

static const char ping_text[] = "{\"type\":\"ping\",\"id\":\"f\"}";

static void send_ping(struct ws_client *ws)
{
	ws_send_text(ws, ping_text, sizeof ping_text - 1);
}

static void f_unmasked(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_TEXT, false, ping_text, sizeof ping_text - 1, sizeof ping_text - 1);
}

static void f_rsv1(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_RSV1 | WS_TEXT, true, ping_text, sizeof ping_text - 1, sizeof ping_text - 1);
}

static void f_rsv3_ping(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_RSV3 | WS_PING, true, "x", 1, 1);
}

static void f_opcode_3(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | 3, true, "x", 1, 1);
}

static void f_opcode_15(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | 15, true, "x", 1, 1);
}

static void f_binary(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_BINARY, true, ping_text, sizeof ping_text - 1, sizeof ping_text - 1);
}

static void f_bad_utf8(struct ws_client *ws)
{
	static const char text[] = "{\"type\":\"ping\",\"id\":\"\xc3(\"}";
	ws_send_text(ws, text, sizeof text - 1);
}

static void f_surrogate(struct ws_client *ws)
{
	static const char text[] = "{\"type\":\"ping\",\"id\":\"\xed\xa0\x80\"}";
	ws_send_text(ws, text, sizeof text - 1);
}

static void f_overlong(struct ws_client *ws)
{
	static const char text[] = "{\"type\":\"ping\",\"id\":\"\xc0\xaf\"}";
	ws_send_text(ws, text, sizeof text - 1);
}

static void f_cut_character(struct ws_client *ws)
{
	ws_send_frame(ws, WS_TEXT, true, "\"\xe2\x82", 3, 3);
	ws_send_frame(ws, WS_FIN | WS_CONTINUATION, true, "", 0, 0);
}

static void f_too_large(struct ws_client *ws)
{
	char *text = malloc(65600);
	memset(text, ' ', 65600);
	ws_send_text(ws, text, 65537);
	free(text);
}

static void f_announced_huge(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_TEXT, true, "x", 1, 10u << 20);
}

static void f_announced_absurd(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_TEXT, true, "x", 1, UINT64_MAX);
}

static void f_large_in_pieces(struct ws_client *ws)
{
	char piece[4096];
	memset(piece, ' ', sizeof piece);
	for (unsigned i = 0; i < 20; i++)
		ws_send_frame(ws, i ? WS_CONTINUATION : WS_TEXT, true, piece, sizeof piece, sizeof piece);
}

static void f_lone_continuation(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_CONTINUATION, true, "x", 1, 1);
}

static void f_text_in_text(struct ws_client *ws)
{
	ws_send_frame(ws, WS_TEXT, true, "{", 1, 1);
	send_ping(ws);
}

static void f_fragmented_ping(struct ws_client *ws)
{
	ws_send_frame(ws, WS_PING, true, "x", 1, 1);
	ws_send_frame(ws, WS_FIN | WS_CONTINUATION, true, "y", 1, 1);
}

static void f_long_ping(struct ws_client *ws)
{
	char payload[200] = {0};
	ws_send_frame(ws, WS_FIN | WS_PING, true, payload, sizeof payload, sizeof payload);
}

static void f_long_close(struct ws_client *ws)
{
	char payload[200] = "\x03\xe8";
	ws_send_frame(ws, WS_FIN | WS_CLOSE, true, payload, sizeof payload, sizeof payload);
}

static void f_close_one_byte(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_CLOSE, true, "\x03", 1, 1);
}

static void f_close_1005(struct ws_client *ws)
{
	ws_send_frame(ws, WS_FIN | WS_CLOSE, true, "\x03\xed", 2, 2);
}

static void f_close_empty(struct ws_client *ws)
{
	ws_close(ws, 0, NULL);
}

static void f_http_again(struct ws_client *ws)
{
	static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	ws_send_bytes(ws, text, sizeof text - 1);
}

static void f_good_in_fragments(struct ws_client *ws)
{
	for (size_t i = 0; i < sizeof ping_text - 1; i++) {
		unsigned first = (i ? WS_CONTINUATION : WS_TEXT) | (i == sizeof ping_text - 2 ? WS_FIN : 0);
		ws_send_frame(ws, first, true, ping_text + i, 1, 1);
		if (i % 5 == 0)
			ws_send_frame(ws, WS_FIN | WS_PING, true, "between", 7, 7);
	}
}

static void f_good_byte_by_byte(struct ws_client *ws)
{
	unsigned char frame[6 + sizeof ping_text] = {WS_FIN | WS_TEXT, 0x80 | (sizeof ping_text - 1), 0, 0, 0, 0};
	memcpy(frame + 6, ping_text, sizeof ping_text - 1);
	for (size_t i = 0; i < 6 + sizeof ping_text - 1; i++) {
		ws_send_bytes(ws, frame + i, 1);
		ws_loop_turn(ws->loop, 0);
	}
}

static void f_pongs_unasked(struct ws_client *ws)
{
	for (unsigned i = 0; i < 10; i++)
		ws_send_frame(ws, WS_FIN | WS_PONG, true, "\xff\xfe", 2, 2);
	send_ping(ws);
}

static void f_empty_fragments(struct ws_client *ws)
{
	for (unsigned i = 0; i < 20000; i++)
		ws_send_frame(ws, i ? WS_CONTINUATION : WS_TEXT, true, "", 0, 0);
}

static void f_long_ping_length_form(struct ws_client *ws)
{
	static const unsigned char frame[] = {WS_FIN | WS_PING, 0xfe, 0, 1, 0, 0, 0, 0, 'x'};
	ws_send_bytes(ws, frame, sizeof frame);
}

static const struct frame_case frame_cases[] = {
	{"fragments with pings between", f_good_in_fragments, LIVES, 0, false},
	{"byte by byte", f_good_byte_by_byte, LIVES, 0, false},
	{"pongs that nobody asked for", f_pongs_unasked, LIVES, 0, false},
	{"unmasked", f_unmasked, EITHER, 0, false},
	{"RSV1", f_rsv1, CLOSES, 0, false},
	{"RSV3 on a ping", f_rsv3_ping, CLOSES, 0, false},
	{"opcode 3", f_opcode_3, CLOSES, 0, false},
	{"opcode 15", f_opcode_15, CLOSES, 0, false},
	{"binary", f_binary, CLOSES, 1003, false},
	{"bad UTF-8", f_bad_utf8, CLOSES, 1007, false},
	{"a surrogate", f_surrogate, CLOSES, 1007, false},
	{"an overlong form", f_overlong, CLOSES, 1007, false},
	{"a cut character and an empty last fragment", f_cut_character, CLOSES, 1007, false},
	{"one byte too large", f_too_large, CLOSES, 1009, false},
	{"10 MB announced", f_announced_huge, CLOSES, 1009, false},
	{"2^64-1 bytes announced", f_announced_absurd, CLOSES, 0, false},
	{"too large in pieces", f_large_in_pieces, CLOSES, 1009, false},
	{"a continuation of nothing", f_lone_continuation, CLOSES, 0, false},
	{"a text inside a text", f_text_in_text, CLOSES, 0, false},
	{"a fragmented ping", f_fragmented_ping, CLOSES, 0, false},
	{"a ping of 200 bytes", f_long_ping, CLOSES, 0, false},
	{"a ping with a longer form of length", f_long_ping_length_form, CLOSES, 0, false},
	{"a close of 200 bytes", f_long_close, CLOSES, 0, false},
	{"a close of one byte", f_close_one_byte, CLOSES, 0, true},
	{"close 1005", f_close_1005, CLOSES, 0, true},
	{"an empty close", f_close_empty, CLOSES, 0, false},
	{"HTTP once more", f_http_again, CLOSES, 0, false},
	{"endless empty fragments", f_empty_fragments, CLOSES, 0, false},
};

static bool answered_or_closed(void *ctx)
{
	struct chat *chat = ctx;
	return chat_answer(chat, "f") || chat->ws->state == WS_CLOSED;
}

static void try_frames(struct cluster *c, const struct frame_case *row)
{
	struct chat *chat = enter(c);
	row->commit(chat->ws);
	if (!ws_loop_until(c->loop, answered_or_closed, chat, 15000))
		fail_msg("%s: neither answered nor closed", row->what);
	bool closed = chat->ws->state == WS_CLOSED;
	if ((row->outcome == CLOSES && !closed) || (row->outcome == LIVES && closed))
		fail_msg("%s: %s (close %d %s)", row->what, closed ? "closed" : "answered", chat->ws->close_code,
		         chat->ws->close_reason);
	if (row->code && chat->ws->close_code != row->code)
		fail_msg("%s: close %d %s, not %d", row->what, chat->ws->close_code, chat->ws->close_reason, row->code);
	if (row->code && !chat->ws->close_reason[0])
		fail_msg("%s: close %d without a reason", row->what, chat->ws->close_code);
	if (chat->ws->close_code == 1011)
		fail_msg("%s: close 1011 means a bug", row->what);
	if (!row->echoed)
		chat_check(chat);
	chat_free(chat);
}

static void breaches_of_the_frame_protocol_close(void **state)
{
	struct cluster *c = *state;
	for (size_t i = 0; i < sizeof frame_cases / sizeof *frame_cases; i++)
		try_frames(c, &frame_cases[i]);
	struct chat *chat = enter(c); /* the largest that is allowed */
	struct blob text = {0};
	blob_add_c(&text, "{\"type\":\"ping\",\"id\":\"f\"");
	while (text.n < 65535)
		blob_add_c(&text, " ");
	blob_add_c(&text, "}");
	ws_send_text(chat->ws, text.p, text.n);
	assert_string_equal(chat_text_of(chat_wait_answer(chat, "f", 5000), "type"), "pong");
	blob_free(&text);
	leave(chat);
	cluster_passed(c);
}

static void a_ping_is_answered_with_its_payload(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = enter(c);
	char payload[126];
	memset(payload, 'p', 125);
	payload[125] = 0;
	ws_send_frame(chat->ws, WS_FIN | WS_PING, true, payload, 125, 125);
	json_t *pong = chat_call(chat, json_pack("{s:s}", "type", "ping"));
	assert_non_null(pong);
	assert_int_equal(chat->ws->pongs_in, 1);
	assert_string_equal(chat->ws->pong, payload);
	leave(chat);
	cluster_passed(c);
}

/* ---- before authentication ---- */

static void before_authentication_there_is_nothing_but_auth(void **state)
{
	static const char *const texts[] = {
		"{\"type\":\"ping\",\"id\":\"f\"}",
		"{\"type\":\"run.start\",\"id\":\"f\",\"input\":\"x\"}",
		"{\"type\":\"auth\",\"id\":\"f\"}",
		"{\"type\":\"auth\",\"id\":\"f\",\"token\":5}",
		"{\"type\":\"auth\",\"id\":\"f\",\"token\":\"\"}",
		"not json",
		"{}",
		"{\"type\":\"auth.refresh\",\"id\":\"f\",\"token\":\"x\"}",
		"{\"type\":\"auth\",\"id\":\"f\",\"token\":\"x\",\"user_id\":\"" USER "\"}",
	};
	struct cluster *c = *state;
	for (size_t i = 0; i <= sizeof texts / sizeof *texts; i++) { /* the last says nothing at all */
		struct ws_request request = {.port = cluster_port(c, 1), .subprotocols = "pinion.v1"};
		struct chat chat = {.loop = c->loop};
		chat.ws = ws_connect(c->loop, &request);
		while (chat.ws->state < WS_OPEN)
			ws_loop_turn(c->loop, 50);
		assert_int_equal(chat.ws->state, WS_OPEN);
		if (i < sizeof texts / sizeof *texts)
			ws_send_text(chat.ws, texts[i], strlen(texts[i]));
		assert_true(chat_wait_closed(&chat, 10000));
		if (chat.ws->close_code != 4401)
			fail_msg("%s: close %d %s", texts[i], chat.ws->close_code, chat.ws->close_reason);
		ws_free(chat.ws);
	}
	cluster_passed(c);
}

/* ---- random ---- */

static void mutate_text(struct random *r, struct blob *text)
{
	for (uint64_t k = 1 + random_below(r, 3); k && text->n; k--) {
		size_t at = (size_t)random_below(r, text->n);
		switch (random_below(r, 4)) {
		case 0:
			text->p[at] = (char)random_next(r);
			break;
		case 1:
			text->p[at] = "{}[]\",:\\0"[random_below(r, 9)];
			break;
		case 2:
			memmove(text->p + at, text->p + at + 1, text->n - at - 1);
			text->n--;
			break;
		default:
			text->n = at;
		}
	}
}

static void random_mutations_are_survived(void **state)
{
	struct cluster *c = *state;
	struct random r = {random_seed()};
	struct chat *chat = enter(c);
	unsigned closed = 0, answered = 0, total = MUTATIONS / (patience() > 1 ? 3 : 1);
	for (unsigned i = 0; i < total; i++) {
		const struct message *m = &messages[random_below(&r, N_MESSAGES)];
		char id[16], *good;
		struct blob text = {0};
		snprintf(id, sizeof id, "m%u", i);
		good = write_message(m, id, -1, NULL);
		blob_add_c(&text, good);
		mutate_text(&r, &text);
		unsigned answers = HASH_COUNT(chat->answers), nulls = chat->n_null_errors;
		ws_send_text(chat->ws, text.p, text.n);
		uint64_t deadline = clock_ms() + 10000 * patience();
		while (HASH_COUNT(chat->answers) == answers && chat->n_null_errors == nulls && chat->ws->state == WS_OPEN &&
		       clock_ms() < deadline)
			ws_loop_turn(c->loop, 20);
		if (HASH_COUNT(chat->answers) == answers && chat->n_null_errors == nulls && chat->ws->state == WS_OPEN)
			fail_msg("no answer to mutation %u: %.200s", i, text.p);
		answered += chat->ws->state == WS_OPEN;
		blob_free(&text);
		free(good);
		chat_check(chat);
		if (chat->ws->state == WS_OPEN)
			continue;
		if (chat->ws->close_code != 1007 && chat->ws->close_code != 4403 && chat->ws->close_code != 4401)
			fail_msg("mutation %u closed with %d %s", i, chat->ws->close_code, chat->ws->close_reason);
		closed++;
		chat_free(chat);
		chat = enter(c);
	}
	print_message("%u mutations: %u answered, %u closed (bad UTF-8 or a token)\n", total, answered, closed);
	chat_check(chat);
	chat_free(chat);
	cluster_passed(c);
}

static void garbage_on_the_port_is_survived(void **state)
{
	struct cluster *c = *state;
	struct random r = {random_seed()};
	for (unsigned i = 0; i < 200; i++) {
		struct blob bytes = {0};
		size_t n = (size_t)random_below(&r, 3000);
		if (i % 2)
			blob_add_c(&bytes, i % 4 == 1 ? "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: "
			                              : "GET /v1/whoami HTTP/1.1\r\nAuthorization: ");
		for (size_t k = 0; k < n; k++) {
			char byte = (char)random_next(&r);
			blob_add(&bytes, &byte, 1);
		}
		int fd = http_dial(cluster_port(c, i % 2));
		assert_true(fd >= 0);
		assert_true(write(fd, bytes.p ? bytes.p : "", bytes.n) == (ssize_t)bytes.n);
		close(fd);
		blob_free(&bytes);
	}
	leave(enter(c));
	cluster_passed(c);
}

static int set_up(void **state)
{
	static const char *const fast[] = {"--messages-per-s", "100000", "--burst", "100000", NULL};
	static const char *const impatient[] = {"--auth-wait-s", "1", NULL};
	struct cluster_args args = {.gateways = 1, .workers = 1, .gateway_args = fast};
	struct cluster *c = cluster_start(&args);
	*state = c;
	c->args.gateways = 2;
	c->args.gateway_args = impatient;
	cluster_start_gateway(c, 1, true);
	cluster_wait_workers(c, 1, 1);
	return 0;
}

static int tear_down(void **state)
{
	cluster_stop(*state);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1) /* one test by its name, '*' allowed */
		cmocka_set_test_filter(argv[1]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(text_without_an_id_is_answered_with_null),
		TEST(strict_json_is_demanded),
		TEST(every_field_is_checked),
		TEST(unknown_types_are_said_to_be_unknown),
		TEST(bad_scripts_fail_and_say_why),
		TEST(breaches_of_the_frame_protocol_close),
		TEST(a_ping_is_answered_with_its_payload),
		TEST(before_authentication_there_is_nothing_but_auth),
		TEST(random_mutations_are_survived),
		TEST(garbage_on_the_port_is_survived),
	};
	return cmocka_run_group_tests_name("malformed", tests, NULL, NULL);
}
