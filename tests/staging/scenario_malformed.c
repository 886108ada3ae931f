/* scenario_malformed.c - messages and frames that are wrong. Source of the frames: RFC 6455, section 5. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

/* ---- messages ---- */

/* %s is the id that the answer must carry. */
static const struct {
	const char *text, *codes;
} with_id[] = {
	{"{\"type\":\"nonsense\",\"id\":\"%s\"}", "unknown_type"},
	{"{\"type\":\"\",\"id\":\"%s\"}", "unknown_type|invalid_message"},
	{"{\"type\":7,\"id\":\"%s\"}", "invalid_message"},
	{"{\"id\":\"%s\"}", "invalid_message"},
	{"{\"type\":\"ping\",\"id\":\"%s\",\"extra\":1}", "invalid_message"},
	{"{\"type\":\"run.start\",\"id\":\"%s\"}", "invalid_message"},
	{"{\"type\":\"run.start\",\"id\":\"%s\",\"input\":null}", "invalid_message"},
	{"{\"type\":\"run.start\",\"id\":\"%s\",\"input\":[1]}", "invalid_message"},
	{"{\"type\":\"run.start\",\"id\":\"%s\",\"input\":\"x\",\"agent\":5}", "invalid_message"},
	{"{\"type\":\"run.start\",\"id\":\"%s\",\"input\":\"x\",\"agent\":\"no-such-agent\"}", "unknown_agent"},
	{"{\"type\":\"run.start\",\"id\":\"%s\",\"input\":\"x\",\"on_busy\":\"wait\"}", "invalid_message"},
	{"{\"type\":\"run.start\",\"id\":\"%s\",\"input\":\"x\",\"metadata\":[]}", "invalid_message"},
	{"{\"type\":\"run.cancel\",\"id\":\"%s\"}", "invalid_message"},
	{"{\"type\":\"run.cancel\",\"id\":\"%s\",\"run_id\":{}}", "invalid_message"},
	{"{\"type\":\"tool.decide\",\"id\":\"%s\",\"run_id\":\"x\",\"tool_call_id\":\"y\",\"decision\":\"maybe\"}",
         "invalid_message"},
	{"{\"type\":\"thread.list\",\"id\":\"%s\",\"limit\":0}", "invalid_message"},
	{"{\"type\":\"thread.list\",\"id\":\"%s\",\"limit\":101}", "invalid_message"},
	{"{\"type\":\"thread.list\",\"id\":\"%s\",\"limit\":\"5\"}", "invalid_message"},
	{"{\"type\":\"thread.history\",\"id\":\"%s\"}", "invalid_message"},
	{"{\"type\":\"thread.rename\",\"id\":\"%s\",\"thread_id\":\"x\"}", "invalid_message"},
	{"{\"type\":\"auth.refresh\",\"id\":\"%s\",\"token\":5}", "invalid_message"},
	{"{\"type\":\"auth\",\"id\":\"%s\",\"token\":\"x\"}", "invalid_message"},
};

static const char *const without_id[] = {
	"",
	" ",
	"x",
	"not json",
	"{",
	"}",
	"{}",
	"[]",
	"\"ping\"",
	"null",
	"12",
	"{\"type\":\"ping\"}",
	"{\"type\":\"ping\",\"id\":null}",
	"{\"type\":\"ping\",\"id\":7}",
	"{\"type\":\"ping\",\"id\":\"\"}",
	"{\"type\":\"ping\",\"id\":\"a\"",
	"{\"type\":\"ping\",\"id\":\"a\"}}",
	"{'type':'ping','id':'a'}",
	"{\"type\":\"ping\",\"id\":\"a\",}",
	"\xef\xbb\xbf{\"type\":\"ping\",\"id\":\"a\"}",
	"{\"type\":\"ping\",\"id\":\"01234567890123456789012345678901234567890123456789012345678901234\"}",
};

static bool is_among(const char *code, const char *codes)
{
	const char *at = code[0] ? strstr(codes, code) : NULL;
	return at && (at == codes || at[-1] == '|') && (!at[strlen(code)] || at[strlen(code)] == '|');
}

static bool null_error_came(void *ctx)
{
	struct client *client = ctx;
	return client->chat->n_null_errors > 0 || client_is_closed(client);
}

static void messages(struct stage *stage, struct client *client)
{
	for (size_t i = 0; i < sizeof with_id / sizeof *with_id; i++) {
		char id[16], text[256];
		snprintf(id, sizeof id, "m%zu", i);
		snprintf(text, sizeof text, with_id[i].text, id);
		chat_send_text(client->chat, text);
		json_t *answer = chat_wait_answer(client->chat, id, 10000);
		stage_check(stage, answer && is_among(chat_code(answer), with_id[i].codes), "\"%s\", not \"%s\", answers %s",
		            chat_code(answer), with_id[i].codes, text);
	}
	for (size_t i = 0; i < sizeof without_id / sizeof *without_id; i++) {
		client->chat->n_null_errors = 0;
		client->chat->error_code[0] = 0;
		chat_send_text(client->chat, without_id[i]);
		stage_until(stage, null_error_came, client, 10000);
		stage_check(stage, client->chat->n_null_errors == 1 && !strcmp(client->chat->error_code, "invalid_message"),
		            "\"%s\" (%u errors without id) answers %s", client->chat->error_code, client->chat->n_null_errors,
		            without_id[i]);
	}
}

/* ---- frames ---- */

enum { FRAME_NOTHING = -1, FRAME_ANSWERED = -2 };

static const struct frame {
	const char *what;
	unsigned first;
	bool masked;
	const char *payload;
	uint64_t announced;
	int close_codes[3]; /* any of these; FRAME_NOTHING: the connection may also just end; FRAME_ANSWERED: or be told */
} frames[] = {
	{"a binary message", WS_FIN | WS_BINARY, true, "abc", 3, {1003}},
	{"text that is not UTF-8", WS_FIN | WS_TEXT, true, "\xff\xfe\xfd", 3, {1007}},
	{"an overlong form", WS_FIN | WS_TEXT, true, "\xc0\xaf", 2, {1007}},
	{"an unmasked frame", WS_FIN | WS_TEXT, false, "{}", 2, {1002, FRAME_NOTHING, FRAME_ANSWERED}},
	{"a reserved bit", WS_FIN | WS_RSV1 | WS_TEXT, true, "{}", 2, {1002, FRAME_NOTHING}},
	{"a reserved opcode", WS_FIN | 3, true, "{}", 2, {1002, FRAME_NOTHING}},
	{"a continuation of nothing", WS_FIN | WS_CONTINUATION, true, "{}", 2, {1002, FRAME_NOTHING}},
	{"a fragmented ping", WS_PING, true, "a", 1, {1002, FRAME_NOTHING}},
	{"a close code that must not be sent", WS_FIN | WS_CLOSE, true, "\x03\xed", 2, {1002, FRAME_NOTHING}},
	{"a frame that announces 2^62 bytes", WS_FIN | WS_TEXT, true, "{}", 1ull << 62, {1009, 1002, FRAME_NOTHING}},
};

static bool frame_came_to(const struct client *client, int code)
{
	if (code == FRAME_ANSWERED)
		return client->chat->n_null_errors > 0;
	if (code == FRAME_NOTHING)
		return client_is_closed(client) && !client->chat->ws->close_code;
	return client_is_closed(client) && client->chat->ws->close_code == code;
}

static void send_frame(struct stage *stage, const struct frame *f)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	bool right = false;
	stage_doing(stage, "%s", f->what);
	ws_send_frame(client->chat->ws, f->first, f->masked, f->payload, strlen(f->payload), f->announced);
	stage_until(stage, null_error_came, client, 15000);
	for (unsigned i = 0; i < 3; i++)
		right |= f->close_codes[i] && frame_came_to(client, f->close_codes[i]);
	stage_check(stage, right, "%s is answered by: %s", f->what, client_trouble(client));
	client_close(client);
}

static void fragments(struct stage *stage, struct client *client)
{
	ws_send_frame(client->chat->ws, WS_TEXT, true, "{\"type\":\"pi", 11, 11);
	ws_send_frame(client->chat->ws, WS_FIN | WS_PING, true, "between", 7, 7);
	ws_send_frame(client->chat->ws, WS_FIN | WS_CONTINUATION, true, "ng\",\"id\":\"frag\"}", 16, 16);
	json_t *pong = chat_wait_answer(client->chat, "frag", 10000);
	stage_check(stage, !strcmp(chat_text_of(pong, "type"), "pong") && client->chat->ws->pongs_in == 1,
	            "a message in fragments with a ping between is not answered");
}

void play_malformed(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	struct job *jobs = jobs_alloc(stage, 1);
	messages(stage, client);
	fragments(stage, client);
	stage_check(stage, client->n_log == 0, "something that was refused has done something: %zu events", client->n_log);
	for (size_t i = 0; i < sizeof frames / sizeof *frames; i++)
		send_frame(stage, &frames[i]);
	job_start(jobs, client, script("[{\"say\":\"still here\"}]"), NULL, NULL);
	jobs_wait(jobs, 1, JOB_ENDED, 30000);
	job_check(jobs, "agent_completed");
}
