/*
 * demo_rules.h - the wits of the `demo` agent: from what the user wrote to one tool call, and from its result to an answer.
 * Pure functions, so that they are tested without a sandbox.
 */
#ifndef PINION_HOST_DEMO_RULES_H
#define PINION_HOST_DEMO_RULES_H

#include <jansson.h>
#include "common/bytes.h"
#include "proto/messages.h"

enum demo_intent {
	DEMO_HELP,      /* greets, says what it can do */
	DEMO_CLOCK,     /* "what time is it in Tokyo" */
	DEMO_CALCULATE, /* "what is 2 + 3 * 4" */
	DEMO_REMEMBER,  /* "remember colour is blue" */
	DEMO_RECALL,    /* "what is colour", "recall colour" */
	DEMO_FORGET,    /* "forget colour" */
	DEMO_LIST,      /* "list notes" */
	DEMO_COUNT_UP,  /* "count to 20", a word at a time */
	DEMO_COUNT,     /* anything else: counts words */
};

struct demo_plan {
	enum demo_intent intent;
	const char *thought; /* what it thinks, for agent_thinking */
	const char *tool;
	json_t *arguments;
	char *subject;    /* the key, expression, place or number that the answer names */
	uint32_t pace_ms; /* between the words of the answer; 0: as fast as it goes */
};

/* What to do about `text` (valid UTF-8). demo_plan_finish frees what it holds. */
void demo_plan(struct demo_plan *plan, struct str text);
void demo_plan_finish(struct demo_plan *plan);

/* Appends the answer to `out`, given how the tool ended; `result` is JSON text. */
void demo_answer(const struct demo_plan *plan, enum tool_status status, struct str result, struct buf *out);

#endif
