/* tools.c - the table of confined tools, and what they share. */
#include "worker/host/tool/tools.h"

#include "common/json.h"

static const struct {
	const char *name;
	enum tool_status (*run)(const json_t *arguments, struct buf *result);
} table[] = {
	{"calculator", calculator_tool},
	{"clock", clock_tool},
};

enum tool_status tool_refuse(struct buf *result, struct str text)
{
	json_write_string(result, text);
	return TOOL_ERROR;
}

const char *tool_unknown_argument(const json_t *arguments, const char *allowed)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)arguments, key, value) if (strcmp(key, allowed) != 0) return key;
	return NULL;
}

static enum tool_status run_parsed(size_t which, struct str arguments, struct buf *result)
{
	struct err_info info = {0};
	json_t *parsed = NULL;
	enum tool_status status;

	if (arguments.n == 0)
		arguments = str_c("{}");
	if (json_parse(&parsed, arguments, &info) != ERR_OK)
		return tool_refuse(result, str_c(info.text));
	if (json_is_object(parsed))
		status = table[which].run(parsed, result);
	else
		status = tool_refuse(result, str_c("the arguments must be a JSON object"));
	json_decref(parsed);
	return status;
}

enum tool_status tool_run(struct str name, struct str arguments, struct buf *result)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (str_eq_c(name, table[i].name))
			return run_parsed(i, arguments, result);
	return tool_refuse(result, str_c("no such tool here"));
}
