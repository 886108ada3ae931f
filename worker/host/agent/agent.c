/* agent.c - see agent.h. */
#include "worker/host/agent/agent.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>
#include "common/json.h"
#include "proto/codec.h"
#include "worker/host/agent/channel.h"
#include "worker/host/spawn.h"
#include "worker/host/tool/tools.h"

struct agent {
	struct channel channel;
	struct arena begin_memory, message_memory;
	struct run_down begin;
	uint32_t step;   /* the last one that was begun */
	size_t recalled; /* journal entries before this one were used up */
};

/* ---- sending ---- */

static void send_or_fail(struct agent *agent, const struct run_up *up)
{
	if (channel_send(&agent->channel, up) != ERR_OK)
		agent_fail(agent, "step %u: what it sends is too large", agent->step);
}

static _Noreturn void leave(struct agent *agent)
{
	channel_flush(&agent->channel);
	_exit(0);
}

_Noreturn void agent_fail(struct agent *agent, const char *fmt, ...)
{
	char text[TEXT_MAX + 8]; /* room to cut at a character */
	struct run_up up = {.kind = RUN_FAIL, .step = agent->step};
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (!utf8_is_valid(utf8_prefix(str_c(text), TEXT_MAX)))
		for (char *p = text; *p; p++)
			if (*p & 0x80)
				*p = '?';
	up.text = utf8_prefix(str_c(text), TEXT_MAX);
	/* Too long to be sent is out of the question for this one. */
	if (channel_send(&agent->channel, &up) != ERR_OK)
		_exit(1);
	leave(agent);
}

_Noreturn void agent_done(struct agent *agent, struct str output)
{
	char usage[32];
	struct run_up up = {.kind = RUN_DONE, .step = agent->step, .output = output};

	snprintf(usage, sizeof(usage), "{\"steps\":%u}", agent->step);
	up.usage = str_c(usage);
	send_or_fail(agent, &up);
	leave(agent);
}

/* ---- steps ---- */

/* Journals are in the order of their steps. */
static const struct step *begin_step(struct agent *agent, enum step_kind kind)
{
	const struct step *step;

	agent->step++;
	while (agent->recalled < agent->begin.begin.n_journal) {
		step = &agent->begin.begin.journal[agent->recalled];
		if (step->number > agent->step)
			break;
		agent->recalled++;
		if (step->number < agent->step)
			continue;
		if (step->kind != kind)
			agent_fail(agent, "step %u: the journal is of another agent", agent->step);
		return step;
	}
	return NULL;
}

struct str agent_input(const struct agent *agent)
{
	return agent->begin.begin.input;
}

uint32_t agent_steps(const struct agent *agent)
{
	return agent->step;
}

void agent_think(struct agent *agent, struct str text)
{
	struct run_up up = {.kind = RUN_THINK, .text = text};

	if (begin_step(agent, STEP_THINK))
		return;
	up.step = agent->step;
	send_or_fail(agent, &up);
}

static void execute(struct agent *agent, const struct run_down *go)
{
	struct run_up outcome = {.kind = RUN_TOOL_OUTCOME, .step = agent->step};
	struct buf result = {0};

	outcome.status = tool_run(go->tool_go.tool, go->tool_go.arguments, &result);
	outcome.result = buf_str(&result);
	send_or_fail(agent, &outcome);
	buf_finish(&result);
}

static enum tool_status await_tool(struct agent *agent, struct buf *result)
{
	struct run_down down;

	for (;;) {
		arena_reset(&agent->message_memory);
		channel_receive(&agent->channel, &agent->message_memory, &down);
		if (down.kind == RUN_TOOL_GO && down.tool_go.step == agent->step) {
			execute(agent, &down);
		} else if (down.kind == RUN_TOOL_RESULT && down.tool_result.step == agent->step) {
			buf_append_str(result, down.tool_result.result);
			return down.tool_result.status;
		}
	}
}

enum tool_status agent_tool(struct agent *agent, struct str name, struct str arguments, struct buf *result)
{
	const struct step *step = begin_step(agent, STEP_TOOL);
	struct run_up up = {.kind = RUN_TOOL_CALL, .step = agent->step, .tool = name, .arguments = arguments};

	if (step) {
		buf_append_str(result, step->result);
		return step->status;
	}
	send_or_fail(agent, &up);
	return await_tool(agent, result);
}

bool agent_message_begin(struct agent *agent)
{
	return begin_step(agent, STEP_MESSAGE) == NULL;
}

void agent_text(struct agent *agent, struct str text)
{
	while (text.n > 0) {
		struct run_up up = {.kind = RUN_TEXT, .step = agent->step, .text = utf8_prefix(text, DELTA_TEXT_MAX)};

		send_or_fail(agent, &up);
		text = str_of(text.p + up.text.n, text.n - up.text.n);
	}
}

void agent_message_end(struct agent *agent)
{
	struct run_up up = {.kind = RUN_MESSAGE_END, .step = agent->step};

	send_or_fail(agent, &up);
}

bool agent_mark_recall(struct agent *agent, struct str *value)
{
	const struct step *step = begin_step(agent, STEP_MARK);

	*value = step ? step->result : (struct str){0};
	return step != NULL;
}

void agent_mark(struct agent *agent, struct str value)
{
	struct run_up up = {.kind = RUN_MARK, .step = agent->step, .result = value};

	send_or_fail(agent, &up);
}

void agent_forge(struct agent *agent, struct str user_id, struct str run_id)
{
	struct run_up up = {.kind = RUN_THINK,
	                    .claimed_user_id = user_id,
	                    .claimed_run_id = run_id,
	                    .text = str_c("a message in another's name")};

	if (begin_step(agent, STEP_THINK))
		return;
	up.step = agent->step;
	send_or_fail(agent, &up);
}

/* ---- time ---- */

void agent_wait_until(struct agent *agent, uint64_t due_ns)
{
	channel_wait_until(&agent->channel, due_ns);
}

uint64_t agent_now_ns(void)
{
	return channel_now_ns();
}

void agent_look(struct agent *agent)
{
	channel_look(&agent->channel);
}

void agent_flush(struct agent *agent)
{
	channel_flush(&agent->channel);
}

/* ---- the process ---- */

/* jansson seeds its hashes from /dev/urandom, which is out of reach here. */
static void seed_hashes(void)
{
	size_t seed = 0;

	(void)!getrandom(&seed, sizeof(seed), 0);
	json_object_seed(seed | 1);
}

_Noreturn void agent_main(enum agent_kind kind)
{
	struct agent agent = {.step = 0};

	seed_hashes();
	channel_init(&agent.channel, RUN_SOCKET_FD);
	channel_receive(&agent.channel, &agent.begin_memory, &agent.begin);
	if (agent.begin.kind != RUN_BEGIN)
		agent_fail(&agent, "the first message is not the beginning of a run");
	switch (kind) {
	case AGENT_DEMO:
		demo_agent(&agent);
	case AGENT_SCRIPT:
		script_agent(&agent);
	}
	agent_fail(&agent, "there is no agent of kind %d", (int)kind);
}
