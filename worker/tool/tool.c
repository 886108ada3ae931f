#include "worker/tool/tool.h"

static const struct tool tools[] = {
	{"clock", TOOL_CONFINED, true},
	{"calculator", TOOL_CONFINED, true},
	{"notes", TOOL_WORKER, true},
};

const struct tool *tool_find(struct str name)
{
	for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++)
		if (str_eq_c(name, tools[i].name))
			return &tools[i];
	return NULL;
}
