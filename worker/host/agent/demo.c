/* demo.c - the `demo` agent: thinks once, uses one tool, answers. Its rules are in demo_rules.c. */
#include <jansson.h>
#include <string.h>
#include "common/json.h"
#include "worker/host/agent/agent.h"
#include "worker/host/agent/demo_rules.h"

#define PIECE_BYTES 24

/* The input is a string; an object's "text" or "message" serves too. */
static void read_text(struct agent *agent, struct buf *out)
{
	struct err_info info = {0};
	json_t *input = NULL;
	const json_t *text;

	if (json_parse(&input, agent_input(agent), &info) != ERR_OK)
		agent_fail(agent, "the input: %s", info.text);
	text = input;
	if (json_is_object(input))
		text = json_object_get(input, "text") ? json_object_get(input, "text") : json_object_get(input, "message");
	if (!json_is_string(text))
		agent_fail(agent, "the input must be a string, or an object with a string \"text\"");
	buf_append(out, json_string_value(text), json_string_length(text));
	json_decref(input);
}

/* A few words at a time; each piece ends behind a space, or inside a word that is longer than a piece. */
static struct str next_piece(struct str rest)
{
	struct str piece = utf8_prefix(rest, PIECE_BYTES);

	for (size_t n = piece.n; piece.n < rest.n && n > 0; n--)
		if (piece.p[n - 1] == ' ')
			return str_of(piece.p, n);
	return piece;
}

static struct str next_word(struct str rest)
{
	const char *space = memchr(rest.p, ' ', rest.n);

	return space ? str_of(rest.p, (size_t)(space - rest.p) + 1) : rest;
}

static void say(struct agent *agent, struct str text, uint32_t pace_ms)
{
	uint64_t due_ns = agent_now_ns();

	if (!agent_message_begin(agent))
		return;
	while (text.n > 0) {
		struct str piece = pace_ms ? next_word(text) : next_piece(text);

		agent_text(agent, piece);
		text = str_of(text.p + piece.n, text.n - piece.n);
		due_ns += pace_ms * 1000000ull;
		if (pace_ms)
			agent_wait_until(agent, due_ns);
	}
	agent_message_end(agent);
}

static enum tool_status use_tool(struct agent *agent, const struct demo_plan *plan, struct buf *result)
{
	struct buf arguments = {0};
	enum tool_status status;

	json_write(&arguments, plan->arguments);
	status = agent_tool(agent, str_c(plan->tool), buf_str(&arguments), result);
	buf_finish(&arguments);
	return status;
}

_Noreturn void demo_agent(struct agent *agent)
{
	struct buf text = {0}, result = {0}, answer = {0}, output = {0};
	struct demo_plan plan;
	enum tool_status status;

	read_text(agent, &text);
	demo_plan(&plan, buf_str(&text));
	agent_think(agent, str_c(plan.thought));
	status = use_tool(agent, &plan, &result);
	demo_answer(&plan, status, buf_str(&result), &answer);
	say(agent, buf_str(&answer), plan.pace_ms);
	json_write_string(&output, buf_str(&answer));
	agent_done(agent, buf_str(&output));
}
