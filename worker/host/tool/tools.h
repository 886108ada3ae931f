/*
 * tools.h - the tools that run inside a run's own sandbox: a table from name to function.
 *
 * They touch nothing outside the process but the time zone database. Thread: the run's only one.
 */
#ifndef PINION_HOST_TOOLS_H
#define PINION_HOST_TOOLS_H

#include <jansson.h>
#include <time.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/str.h"
#include "proto/messages.h"

/* Runs the confined tool `name` on `arguments` (JSON object text) and appends its result, a JSON value's text, to `result`:
 * with TOOL_ERROR a JSON string that says what is wrong, written to be read by a user or a model. */
enum tool_status tool_run(struct str name, struct str arguments, struct buf *result);

/* What `expression` comes to, as JSON number text. False: *out holds what is wrong, and at which character (plain text). */
bool calculator_evaluate(struct str expression, struct buf *out);

/* {"utc":…,"local":…,"timezone":…} for that moment; an empty zone: the machine's own. False: *out holds what is wrong
 * (plain text). Changes the process's TZ. */
bool clock_describe(time_t now, struct str zone, struct buf *out);

/* The tools as the table calls them. */
enum tool_status calculator_tool(const json_t *arguments, struct buf *result);
enum tool_status clock_tool(const json_t *arguments, struct buf *result);

/* Appends `text` as a JSON string and returns TOOL_ERROR. */
enum tool_status tool_refuse(struct buf *result, struct str text);

/* NULL where `arguments` has no key but the one named `allowed`; else the first that is too many. */
const char *tool_unknown_argument(const json_t *arguments, const char *allowed);

#endif
