/*
 * pinion_chat_main.c - one user's conversation from the command line, for test scripts and by hand.
 *
 *   pinion-chat --port P --key FILE --user ID [--say TEXT]… [--script STEPS]… [--from SEQ] [--agent NAME]
 *
 * Connects (resuming after SEQ where that is given), starts a run for each TEXT or list of steps, one after the other, prints
 * every event's bytes on a line of its own as it comes, and ends when all runs have ended. Exit status: 0 all ended in
 * agent_completed and every promise was kept; 1 otherwise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "tests/lib/chat.h"
#include "tests/lib/process.h"
#include "tests/lib/token.h"

enum { WAIT_MS = 30000 };

static void on_event(void *ctx, const struct chat_event *event)
{
	printf("%s\n", event->raw);
}

static int complain(const char *what, const char *detail)
{
	fprintf(stderr, "pinion-chat: %s: %s\n", what, detail);
	return 1;
}

static char *make_token(const char *key_file, const char *user)
{
	char *secret = read_whole_file(key_file);
	if (!secret)
		return NULL;
	secret[strcspn(secret, "\n")] = 0;
	char *payload = text_format("{\"sub\":\"%s\",\"exp\":%lld}", user, (long long)time(NULL) + 3600);
	char *token = token_sign("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", payload, 256, secret);
	free(payload);
	free(secret);
	return token;
}

static int run_one(struct chat *chat, json_t *input, const char *agent)
{
	json_t *answer = input ? chat_call(chat, chat_run_message(input, agent, NULL)) : NULL;
	if (!answer || chat_code(answer)[0])
		return complain("run.start", answer ? chat_text_of(answer, "message") : "no answer");
	const struct chat_event *end = chat_wait_end(chat, chat_text_of(answer, "run_id"), WAIT_MS);
	if (!end)
		return complain("run", "it has not ended");
	return strcmp(end->type, "agent_completed") == 0 ? 0 : complain("run", end->type);
}

static int run_all(struct chat *chat, int argc, char **argv, const char *agent)
{
	int status = 0;
	for (int i = 1; i + 1 < argc && status == 0; i += 2) {
		if (!strcmp(argv[i], "--say"))
			status = run_one(chat, json_string(argv[i + 1]), agent);
		else if (!strcmp(argv[i], "--script"))
			status = run_one(chat, json_pack("{s:o?}", "steps", json_loads(argv[i + 1], 0, NULL)), "script");
	}
	return status;
}

int main(int argc, char **argv)
{
	struct chat_args args = {.on_event = on_event};
	const char *key = NULL, *agent = NULL;
	int status = 1;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--port"))
			args.port = (uint16_t)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--key"))
			key = argv[i + 1];
		else if (!strcmp(argv[i], "--user"))
			args.user = argv[i + 1];
		else if (!strcmp(argv[i], "--agent"))
			agent = argv[i + 1];
		else if (!strcmp(argv[i], "--from")) {
			args.resume = true;
			args.last_seq = strtoull(argv[i + 1], NULL, 10);
		} else if (strcmp(argv[i], "--say") != 0 && strcmp(argv[i], "--script") != 0)
			return complain("unknown option", argv[i]);
	}
	if (argc % 2 == 0 || !args.port || !key || !args.user)
		return complain("usage",
		                "--port P --key FILE --user ID [--say TEXT]… [--script STEPS]… [--from SEQ] [--agent NAME]");
	char *token = make_token(key, args.user);
	if (!token)
		return complain("can't read the key", key);
	args.token = token;
	struct ws_loop *loop = ws_loop_create();
	struct chat *chat = chat_open(loop, &args);
	if (!chat_wait_welcome(chat, WAIT_MS))
		complain("no welcome", chat->ws->response.body.p ? chat->ws->response.body.p : chat->ws->close_reason);
	else if (args.resume &&
	         !chat_wait_seq(chat, (uint64_t)json_integer_value(json_object_get(chat->welcome, "last_seq")), WAIT_MS))
		complain("resume", "not all came");
	else
		status = run_all(chat, argc, argv, agent);
	if (chat->violation[0] || chat->ws->violation[0])
		status = complain("a promise was broken", chat->violation[0] ? chat->violation : chat->ws->violation);
	chat_free(chat);
	ws_loop_destroy(loop);
	free(token);
	return status;
}
