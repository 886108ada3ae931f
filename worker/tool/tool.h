/*
 * tool.h - the tools an agent can call, what each promises, and where it runs. A table; the code of each is its own file.
 *
 * Confined tools execute inside the run's sandbox (worker/host/tool/): the worker only journals them. Worker tools execute
 * here, their effect committed in one transaction with tool_completed.
 */
#ifndef PINION_WORKER_TOOL_H
#define PINION_WORKER_TOOL_H

#include <jansson.h>
#include "common/err.h"
#include "common/str.h"

enum tool_place { TOOL_CONFINED, TOOL_WORKER };

struct tool {
	const char *name;
	enum tool_place place;
	bool idempotent; /* may be repeated when its outcome is unknown after a crash; otherwise it becomes in_doubt */
};

const struct tool *tool_find(struct str name); /* NULL: no such tool */

#endif
