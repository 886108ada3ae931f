/* agents_file.h - the agents file (YAML by schema, libcyaml): which agents there are, with which tools and limits. */
#ifndef PINION_WORKER_AGENTS_FILE_H
#define PINION_WORKER_AGENTS_FILE_H

#include "common/config.h"
#include "common/err.h"
#include "proto/messages.h"

struct agent_def {
	char *name;
	enum agent_kind kind;
	struct string_list tools; /* names; demo and script: the built-in ones where none are listed */
	uint32_t run_seconds, steps, tool_seconds, memory_mb, cpu_seconds;
	uint64_t output_bytes;
};

struct agents {
	struct agent_def *items;
	size_t n;
	const struct agent_def *preset; /* default_agent */
};

/* path NULL: `demo` (the default) and `script`. ERR_CONFIG with file:line; a kind or field that this version does not have is
 * an error that says so. */
MUST_CHECK enum err agents_load(const char *path, struct agents **out, struct err_info *info);
const struct agent_def *agents_find(const struct agents *agents, struct str name); /* empty name: the default; or NULL */
void agents_free(struct agents *agents);

#endif
