/*
 * agents_file.c - the agents file, by libyaml's document tree.
 *
 * The names of agents are keys that no schema can list, which libcyaml (common/config_file.c) has no form for; so the tree is
 * walked here by small tables of fields. Every node knows its line.
 */
#include "worker/agents_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "proto/codec.h"
#include "worker/tool/tool.h"

enum { AGENTS_MAX = 1000 };

struct file {
	const char *path;
	yaml_document_t document;
	struct agents *agents;
	struct str preset;
	size_t preset_line;
	struct err_info *info;
};

/* One key of a mapping and what reads its value. */
struct field {
	const char *key;
	enum err (*read)(struct file *file, yaml_node_t *value, void *into);
};

static void *must_have(void *p)
{
	if (!p)
		abort();
	return p;
}

static size_t line_of(const yaml_node_t *node)
{
	return node->start_mark.line + 1;
}

#define COMPLAIN(file, node, ...) complain(file, line_of(node), __VA_ARGS__)

static enum err complain(struct file *file, size_t line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static enum err complain(struct file *file, size_t line, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(file->info, ERR_CONFIG, "%s:%zu: %s", file->path, line, text);
}

/* ---- nodes ---- */

static yaml_node_t *node_at(struct file *file, int index)
{
	return yaml_document_get_node(&file->document, index);
}

static struct str scalar(const yaml_node_t *node)
{
	return str_of((const char *)node->data.scalar.value, node->data.scalar.length);
}

static bool is_plain_scalar(const yaml_node_t *node)
{
	return node->type == YAML_SCALAR_NODE && node->data.scalar.length > 0 &&
	       strlen((const char *)node->data.scalar.value) == node->data.scalar.length;
}

static bool came_before(struct file *file, const yaml_node_t *mapping, const yaml_node_pair_t *pair)
{
	for (const yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < pair; p++)
		if (str_eq(scalar(node_at(file, p->key)), scalar(node_at(file, pair->key))))
			return true;
	return false;
}

/* Calls read for each pair of a mapping; keys are checked to be scalars, each there once. */
static enum err each_pair(struct file *file, yaml_node_t *node, const char *what, void *into,
                          enum err (*read)(struct file *file, yaml_node_t *key, yaml_node_t *value, void *into))
{
	enum err err = ERR_OK;

	if (node->type != YAML_MAPPING_NODE)
		return COMPLAIN(file, node, "%s must be a mapping", what);
	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top && err == ERR_OK;
	     pair++) {
		yaml_node_t *key = node_at(file, pair->key);

		if (!is_plain_scalar(key))
			return COMPLAIN(file, key, "a key of %s must be a word", what);
		if (came_before(file, node, pair))
			return COMPLAIN(file, key, "\"" STR_FMT "\" is there twice", STR_ARG(scalar(key)));
		err = read(file, key, node_at(file, pair->value), into);
	}
	return err;
}

static enum err read_field(struct file *file, const struct field *fields, size_t n, yaml_node_t *key, yaml_node_t *value,
                           void *into)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq_c(scalar(key), fields[i].key))
			return fields[i].read(file, value, into);
	return COMPLAIN(file, key, "unknown key \"" STR_FMT "\"", STR_ARG(scalar(key)));
}

static enum err read_uint(struct file *file, const yaml_node_t *value, uint64_t min, uint64_t max, uint64_t *out)
{
	struct str s;
	char *end;

	if (!is_plain_scalar(value))
		return COMPLAIN(file, value, "a number is needed here");
	s = scalar(value);
	errno = 0;
	*out = strtoull(s.p, &end, 10);
	if (s.p[0] < '0' || s.p[0] > '9' || (s.p[0] == '0' && s.n > 1) || *end || errno || *out < min || *out > max)
		return COMPLAIN(file, value, "\"" STR_FMT "\" is no whole number from %llu to %llu", STR_ARG(s),
		                (unsigned long long)min, (unsigned long long)max);
	return ERR_OK;
}

/* ---- limits ---- */

static enum err read_limit_32(struct file *file, const yaml_node_t *value, uint32_t max, uint32_t *out)
{
	uint64_t n = 0;
	enum err err = read_uint(file, value, 1, max, &n);

	*out = (uint32_t)n;
	return err;
}

#define LIMIT_FIELD(name, max)                                                             \
	static enum err read_##name(struct file *file, yaml_node_t *value, void *into)     \
	{                                                                                  \
		return read_limit_32(file, value, max, &((struct agent_def *)into)->name); \
	}
LIMIT_FIELD(run_seconds, 7 * 86400)
LIMIT_FIELD(steps, 1000000)
LIMIT_FIELD(tool_seconds, 86400)
LIMIT_FIELD(memory_mb, 1 << 20)
LIMIT_FIELD(cpu_seconds, 7 * 86400)
#undef LIMIT_FIELD

static enum err read_output_bytes(struct file *file, yaml_node_t *value, void *into)
{
	return read_uint(file, value, 1024, 1ull << 40, &((struct agent_def *)into)->output_bytes);
}

static enum err read_limit(struct file *file, yaml_node_t *key, yaml_node_t *value, void *into)
{
	static const struct field fields[] = {
		{"run_seconds", read_run_seconds},   {"steps", read_steps},
		{"tool_seconds", read_tool_seconds}, {"memory_mb", read_memory_mb},
		{"cpu_seconds", read_cpu_seconds},   {"output_bytes", read_output_bytes},
	};

	return read_field(file, fields, sizeof(fields) / sizeof(fields[0]), key, value, into);
}

static enum err read_limits(struct file *file, yaml_node_t *value, void *into)
{
	return each_pair(file, value, "limits", into, read_limit);
}

/* ---- an agent ---- */

static enum err read_kind(struct file *file, yaml_node_t *value, void *into)
{
	static const char *const later[] = {"llm", "stdio", "acp"};
	struct agent_def *agent = into;
	struct str kind = value->type == YAML_SCALAR_NODE ? scalar(value) : str_c("");

	if (str_eq_c(kind, "demo"))
		agent->kind = AGENT_DEMO;
	else if (str_eq_c(kind, "script"))
		agent->kind = AGENT_SCRIPT;
	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++)
		if (str_eq_c(kind, later[i]))
			return COMPLAIN(file, value, "kind \"%s\" is not supported by this version (it has demo and script)",
			                later[i]);
	return agent->kind
	               ? ERR_OK
	               : COMPLAIN(file, value, "\"" STR_FMT "\" is no kind of agent (there are demo and script)", STR_ARG(kind));
}

static void add_tool(struct agent_def *agent, struct str name)
{
	agent->tools.items = must_have(realloc(agent->tools.items, (agent->tools.n + 1) * sizeof(char *)));
	agent->tools.items[agent->tools.n++] = must_have(strndup(name.p, name.n));
}

static enum err read_tools(struct file *file, yaml_node_t *value, void *into)
{
	if (value->type != YAML_SEQUENCE_NODE)
		return COMPLAIN(file, value, "tools must be a list");
	for (yaml_node_item_t *item = value->data.sequence.items.start; item < value->data.sequence.items.top; item++) {
		yaml_node_t *name = node_at(file, *item);

		if (!is_plain_scalar(name) || !tool_find(scalar(name)))
			return COMPLAIN(file, name,
			                "\"" STR_FMT "\" is no tool of this version (there are clock, calculator, notes)",
			                STR_ARG(name->type == YAML_SCALAR_NODE ? scalar(name) : str_c("?")));
		add_tool(into, scalar(name));
	}
	return ERR_OK;
}

/* Fields that kinds of a later version have: told as such, not as unknown. */
static enum err read_later(struct file *file, yaml_node_t *value, void *into)
{
	return COMPLAIN(file, value, "this field belongs to a kind of agent that is not supported by this version");
}

static enum err read_agent_field(struct file *file, yaml_node_t *key, yaml_node_t *value, void *into)
{
	static const struct field fields[] = {
		{"kind", read_kind},          {"tools", read_tools},    {"limits", read_limits}, {"model", read_later},
		{"instructions", read_later}, {"approval", read_later}, {"command", read_later}, {"network", read_later},
	};

	return read_field(file, fields, sizeof(fields) / sizeof(fields[0]), key, value, into);
}

static void add_builtin_tools(struct agent_def *agent)
{
	static const char *const builtin[] = {"clock", "calculator", "notes"};

	for (size_t i = 0; i < sizeof(builtin) / sizeof(builtin[0]); i++)
		add_tool(agent, str_c(builtin[i]));
}

static struct agent_def *add_agent(struct agents *agents, struct str name, enum agent_kind kind)
{
	struct agent_def *agent;

	agents->items = must_have(realloc(agents->items, (agents->n + 1) * sizeof(*agents->items)));
	agent = &agents->items[agents->n++];
	*agent = (struct agent_def){
		.name = must_have(strndup(name.p, name.n)),
		.kind = kind,
		.run_seconds = 120,
		.steps = 16,
		.tool_seconds = 30,
		.memory_mb = 256,
		.cpu_seconds = 60,
		.output_bytes = 64 << 20,
	};
	return agent;
}

static enum err read_agent(struct file *file, yaml_node_t *key, yaml_node_t *value, void *into)
{
	struct agent_def *agent;
	bool lists_tools = false;
	enum err err;

	if (scalar(key).n > NAME_MAX_BYTES || file->agents->n >= AGENTS_MAX)
		return COMPLAIN(file, key, "an agent's name is at most %d bytes long, and there are at most %d agents",
		                NAME_MAX_BYTES, AGENTS_MAX);
	agent = add_agent(file->agents, scalar(key), 0);
	if ((err = each_pair(file, value, "an agent", agent, read_agent_field)) != ERR_OK)
		return err;
	if (!agent->kind)
		return COMPLAIN(file, key, "agent \"%s\" needs a kind (demo or script)", agent->name);
	for (yaml_node_pair_t *pair = value->data.mapping.pairs.start; pair < value->data.mapping.pairs.top; pair++)
		lists_tools |= str_eq_c(scalar(node_at(file, pair->key)), "tools");
	if (!lists_tools)
		add_builtin_tools(agent);
	return ERR_OK;
}

/* ---- the file ---- */

static enum err read_agents(struct file *file, yaml_node_t *value, void *into)
{
	return each_pair(file, value, "agents", into, read_agent);
}

static enum err read_preset(struct file *file, yaml_node_t *value, void *into)
{
	if (!is_plain_scalar(value))
		return COMPLAIN(file, value, "default_agent must be a name");
	file->preset = scalar(value);
	file->preset_line = line_of(value);
	return ERR_OK;
}

static enum err read_servers(struct file *file, yaml_node_t *value, void *into)
{
	return COMPLAIN(file, value, "mcp_servers are not supported by this version");
}

static enum err read_top_field(struct file *file, yaml_node_t *key, yaml_node_t *value, void *into)
{
	static const struct field fields[] = {{"agents", read_agents},
	                                      {"default_agent", read_preset},
	                                      {"mcp_servers", read_servers}};

	return read_field(file, fields, sizeof(fields) / sizeof(fields[0]), key, value, into);
}

static enum err choose_preset(struct file *file)
{
	struct agents *agents = file->agents;

	if (agents->n == 0)
		return complain(file, 1, "no agents are defined; say at least \"agents: {demo: {kind: demo}}\"");
	agents->preset = file->preset.n ? agents_find(agents, file->preset) : &agents->items[0];
	if (!agents->preset)
		return complain(file, file->preset_line, "default_agent \"" STR_FMT "\" is not one of the agents",
		                STR_ARG(file->preset));
	return ERR_OK;
}

static enum err read_document(struct file *file)
{
	yaml_node_t *root = yaml_document_get_root_node(&file->document);
	enum err err = ERR_OK;

	if (root)
		err = each_pair(file, root, "the file", file->agents, read_top_field);
	return err == ERR_OK ? choose_preset(file) : err;
}

static enum err load(struct file *file, FILE *in)
{
	yaml_parser_t parser;
	enum err err;

	if (!yaml_parser_initialize(&parser))
		abort();
	yaml_parser_set_input_file(&parser, in);
	if (yaml_parser_load(&parser, &file->document)) {
		err = read_document(file);
		yaml_document_delete(&file->document);
	} else {
		err = complain(file, parser.problem_mark.line + 1, "%s", parser.problem ? parser.problem : "this is not YAML");
	}
	yaml_parser_delete(&parser);
	return err;
}

static enum err load_path(struct agents *agents, const char *path, struct err_info *info)
{
	struct file file = {.path = path, .agents = agents, .info = info};
	FILE *in = fopen(path, "re");
	enum err err;

	if (!in)
		return err_set_errno(info, ERR_CONFIG, errno, "%s", path);
	err = load(&file, in);
	fclose(in);
	return err;
}

static void add_presets(struct agents *agents)
{
	add_builtin_tools(add_agent(agents, str_c("demo"), AGENT_DEMO));
	add_builtin_tools(add_agent(agents, str_c("script"), AGENT_SCRIPT));
	agents->preset = &agents->items[0];
}

enum err agents_load(const char *path, struct agents **out, struct err_info *info)
{
	struct agents *agents = must_have(calloc(1, sizeof(*agents)));
	enum err err = ERR_OK;

	if (path)
		err = load_path(agents, path, info);
	else
		add_presets(agents);
	if (err != ERR_OK) {
		agents_free(agents);
		agents = NULL;
	}
	*out = agents;
	return err;
}

const struct agent_def *agents_find(const struct agents *agents, struct str name)
{
	if (name.n == 0)
		return agents->preset;
	for (size_t i = 0; i < agents->n; i++)
		if (str_eq_c(name, agents->items[i].name))
			return &agents->items[i];
	return NULL;
}

void agents_free(struct agents *agents)
{
	if (!agents)
		return;
	for (size_t i = 0; i < agents->n; i++) {
		for (size_t k = 0; k < agents->items[i].tools.n; k++)
			free(agents->items[i].tools.items[k]);
		free(agents->items[i].tools.items);
		free(agents->items[i].name);
	}
	free(agents->items);
	free(agents);
}
