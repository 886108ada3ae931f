/*
 * agent.h - what an agent is made of: numbered steps that are journalled, and take no second effect after a recovery.
 *
 * An agent is deterministic code over its input and the outcomes of its steps. Each call of agent_think, agent_tool,
 * agent_message_begin and agent_mark_recall is one step, numbered 1, 2, 3, …. A step that the journal holds sends nothing and
 * returns what was recorded, so that a recovered run gets to where it stopped by running from its beginning again.
 *
 * There are no errors to handle: a run that is cancelled, or whose worker is gone, ends inside these calls (channel.h).
 */
#ifndef PINION_HOST_AGENT_H
#define PINION_HOST_AGENT_H

#include <stdbool.h>
#include "common/bytes.h"
#include "proto/messages.h"

struct agent;

/* The body of a confined process: waits for RUN_BEGIN on RUN_SOCKET_FD, runs the agent, exits. */
_Noreturn void agent_main(enum agent_kind kind);

/* The kinds of agent; each ends by agent_done or agent_fail. */
_Noreturn void demo_agent(struct agent *agent);
_Noreturn void script_agent(struct agent *agent);

struct str agent_input(const struct agent *agent); /* JSON text */
uint32_t agent_steps(const struct agent *agent);   /* steps so far */

/* A durable agent_thinking. */
void agent_think(struct agent *agent, struct str text);

/* Calls a tool, wherever it runs, and waits for its committed outcome. Appends the result, JSON text, to `result`. */
enum tool_status agent_tool(struct agent *agent, struct str name, struct str arguments, struct buf *result);

/* A message of the assistant's, streamed: begin; any number of texts (UTF-8; long ones become several deltas); end. False:
 * it was sent before the recovery; say nothing, and don't end it. */
bool agent_message_begin(struct agent *agent);
void agent_text(struct agent *agent, struct str text);
void agent_message_end(struct agent *agent);

/* A step with an effect or a value of its own (a sleep, a probe): true and its recorded value, a view that lives as long
 * as the agent; or false: do it, then record its value, JSON text, by agent_mark. */
bool agent_mark_recall(struct agent *agent, struct str *value);
void agent_mark(struct agent *agent, struct str value);

/* Claims to be another user's run. The worker ends the run for it. */
void agent_forge(struct agent *agent, struct str user_id, struct str run_id);

/* Waits; the clock is channel_now_ns's. */
void agent_wait_until(struct agent *agent, uint64_t due_ns);
uint64_t agent_now_ns(void);
/* For code that computes for long: notices a cancel. */
void agent_look(struct agent *agent);
/* Makes sure that all that was sent so far is on its way, whatever happens next. */
void agent_flush(struct agent *agent);

/* The end: output is JSON text. */
_Noreturn void agent_done(struct agent *agent, struct str output);
_Noreturn void agent_fail(struct agent *agent, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
