/*
 * script.c - the `script` agent: does what its input says, step by step, for load and staging tests.
 *
 * The whole script is checked before its first step, so that a bad one has no effects. What was tried and refused is
 * gathered for the final output: {"steps":[{"step":2,"probe":"open","outcome":"denied: EACCES"}]}, steps counted from 1.
 * Source: docs/protocol.md, "script".
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/json.h"
#include "proto/codec.h"
#include "worker/host/agent/agent.h"
#include "worker/host/agent/attempt.h"

#define STEPS_MAX 10000
#define NS_PER_MS 1000000ull

struct script {
	struct agent *agent;
	json_t *outcomes; /* array */
	size_t at;        /* of the step at hand, from 1 */
};

/* One kind of step. `value` is what stands under its name; `check` returns NULL or what is wrong with it. */
struct step_def {
	const char *name;
	const char *(*check)(const json_t *step, const json_t *value);
	void (*run)(struct script *script, const json_t *step, const json_t *value);
};

static struct str json_str(const json_t *value)
{
	return str_of(json_string_value(value), json_string_length(value));
}

/* ---- checks ---- */

static bool whole_in(const json_t *value, json_int_t min, json_int_t max)
{
	return json_is_integer(value) && json_integer_value(value) >= min && json_integer_value(value) <= max;
}

/* NULL where all keys of `object` are among `known`, a NULL-ended list. */
static const char *first_unknown(const json_t *object, const char *const *known)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)object, key, value)
	{
		const char *const *k = known;

		while (*k && strcmp(*k, key) != 0)
			k++;
		if (!*k)
			return key;
	}
	return NULL;
}

static const char *check_text(const json_t *step, const json_t *value)
{
	return json_is_string(value) ? NULL : "its value must be a string";
}

static const char *check_tool(const json_t *step, const json_t *value)
{
	const json_t *arguments = json_object_get(step, "arguments");

	if (!json_is_string(value) || json_string_length(value) == 0 || json_string_length(value) > NAME_MAX_BYTES)
		return "its value must be the name of a tool";
	return !arguments || json_is_object(arguments) ? NULL : "\"arguments\" must be an object";
}

static const char *check_stream(const json_t *step, const json_t *value)
{
	static const char *const known[] = {"tokens", "interval_ms", "bytes", NULL};
	const json_t *interval = json_object_get(value, "interval_ms"), *bytes = json_object_get(value, "bytes");

	if (!json_is_object(value) || first_unknown(value, known))
		return "its value must be an object of tokens, interval_ms and bytes";
	if (!whole_in(json_object_get(value, "tokens"), 1, 1000000))
		return "\"tokens\" must be a whole number from 1 to 1000000";
	if (interval && !whole_in(interval, 0, 60000))
		return "\"interval_ms\" must be a whole number from 0 to 60000";
	return !bytes || whole_in(bytes, 1, DELTA_TEXT_MAX) ? NULL : "\"bytes\" must be a whole number from 1 to 65536";
}

static const char *check_ms(const json_t *step, const json_t *value)
{
	return whole_in(value, 0, 86400000) ? NULL : "its value must be a whole number of milliseconds, at most a day";
}

static const char *check_amount(const json_t *step, const json_t *value)
{
	return whole_in(value, 0, 1000000) ? NULL : "its value must be a whole number from 0 to 1000000";
}

static const char *check_crash(const json_t *step, const json_t *value)
{
	const char *how = json_is_string(value) ? json_string_value(value) : "";

	if (strcmp(how, "segv") == 0 || strcmp(how, "abort") == 0 || strcmp(how, "exit") == 0)
		return NULL;
	return "its value must be \"segv\", \"abort\" or \"exit\"";
}

static const char *check_probe(const json_t *step, const json_t *value)
{
	const char *why = "its value must be an object with one key";
	void *only = json_object_iter((json_t *)value);

	if (json_object_size(value) != 1)
		return why;
	return probe_is_valid(json_object_iter_key(only), json_object_iter_value(only), &why) ? NULL : why;
}

static const char *check_forge(const json_t *step, const json_t *value)
{
	static const char *const known[] = {"user_id", "run_id", NULL};
	const json_t *user = json_object_get(value, "user_id"), *run = json_object_get(value, "run_id");

	if (!json_is_object(value) || first_unknown(value, known) || (user && !json_is_string(user)) ||
	    (run && !json_is_string(run)) || json_string_length(user) + json_string_length(run) == 0)
		return "its value must be an object with the strings user_id and run_id, or one of them";
	return NULL;
}

/* ---- outcomes ---- */

static void add_outcome(struct script *script, struct str recorded)
{
	json_t *outcome = NULL;

	if (json_parse(&outcome, recorded, NULL) == ERR_OK)
		(void)json_array_append_new(script->outcomes, outcome);
}

static json_t *new_outcome(const struct script *script)
{
	json_t *outcome = json_object();

	(void)json_object_set_new(outcome, "step", json_integer((json_int_t)script->at));
	return outcome;
}

/* Completes the outcome, journals it, and keeps it for the end. Takes it over. */
static void record(struct script *script, json_t *outcome, int refusal)
{
	const char *name = strerrorname_np(refusal);
	char verdict[64] = "allowed";
	struct buf text = {0};

	if (refusal && name)
		snprintf(verdict, sizeof(verdict), "denied: %s", name);
	else if (refusal)
		snprintf(verdict, sizeof(verdict), "denied: errno %d", refusal);
	(void)json_object_set_new(outcome, "outcome", json_string(verdict));
	json_write(&text, outcome);
	agent_mark(script->agent, buf_str(&text));
	(void)json_array_append_new(script->outcomes, outcome);
	buf_finish(&text);
}

/* ---- steps ---- */

static void run_think(struct script *script, const json_t *step, const json_t *value)
{
	agent_think(script->agent, json_str(value));
}

static void run_tool(struct script *script, const json_t *step, const json_t *value)
{
	const json_t *arguments = json_object_get(step, "arguments");
	struct buf text = {0}, result = {0};

	if (arguments)
		json_write(&text, arguments);
	else
		buf_append_c(&text, "{}");
	/* Its outcome is an event of its own, and no business of the script's. */
	(void)agent_tool(script->agent, json_str(value), buf_str(&text), &result);
	buf_finish(&text);
	buf_finish(&result);
}

static void run_say(struct script *script, const json_t *step, const json_t *value)
{
	if (!agent_message_begin(script->agent))
		return;
	agent_text(script->agent, json_str(value));
	agent_message_end(script->agent);
}

/* "tok00007 ", with dots before the space to make it longer, or without its beginning to make it shorter. */
static void make_token(char *out, size_t n, unsigned index)
{
	char label[24];
	size_t length = (size_t)snprintf(label, sizeof(label), "tok%05u", index);

	memset(out, '.', n);
	out[n - 1] = ' ';
	if (n - 1 >= length)
		memcpy(out, label, length);
	else
		memcpy(out, label + length - (n - 1), n - 1);
}

static long member(const json_t *object, const char *key, long preset)
{
	const json_t *value = json_object_get(object, key);

	return value ? (long)json_integer_value(value) : preset;
}

/* Each token has its moment, counted from the first: a late one does not delay the others. */
static void run_stream(struct script *script, const json_t *step, const json_t *value)
{
	unsigned tokens = (unsigned)member(value, "tokens", 1);
	size_t bytes = (size_t)member(value, "bytes", 9);
	uint64_t interval_ns = (uint64_t)member(value, "interval_ms", 0) * NS_PER_MS, start_ns = agent_now_ns();
	char *token;

	if (!agent_message_begin(script->agent))
		return;
	token = malloc(bytes);
	if (!token)
		agent_fail(script->agent, "out of memory");
	for (unsigned i = 1; i <= tokens; i++) {
		if (interval_ns)
			agent_wait_until(script->agent, start_ns + (i - 1) * interval_ns);
		make_token(token, bytes, i);
		agent_text(script->agent, str_of(token, bytes));
	}
	free(token);
	agent_message_end(script->agent);
}

static void run_sleep(struct script *script, const json_t *step, const json_t *value)
{
	struct str recorded;

	if (agent_mark_recall(script->agent, &recorded))
		return;
	agent_wait_until(script->agent, agent_now_ns() + (uint64_t)json_integer_value(value) * NS_PER_MS);
	agent_mark(script->agent, str_c("true"));
}

static void run_spin(struct script *script, const json_t *step, const json_t *value)
{
	uint64_t end_ns = agent_now_ns() + (uint64_t)json_integer_value(value) * NS_PER_MS;
	struct str recorded;

	if (agent_mark_recall(script->agent, &recorded))
		return;
	agent_flush(script->agent);
	while (agent_now_ns() < end_ns) {
		for (volatile unsigned i = 0; i < 1000000; i++)
			;
		agent_look(script->agent);
	}
	agent_mark(script->agent, str_c("true"));
}

static void run_resource(struct script *script, const char *name, const json_t *value, struct attempt (*attempt)(long))
{
	struct attempt result;
	struct str recorded;
	json_t *outcome;

	if (agent_mark_recall(script->agent, &recorded)) {
		add_outcome(script, recorded);
		return;
	}
	agent_flush(script->agent);
	result = attempt((long)json_integer_value(value));
	outcome = new_outcome(script);
	(void)json_object_set(outcome, name, (json_t *)value);
	(void)json_object_set_new(outcome, "granted", json_integer(result.granted));
	record(script, outcome, result.refusal);
}

static void run_alloc(struct script *script, const json_t *step, const json_t *value)
{
	run_resource(script, "alloc_mb", value, attempt_memory);
}

static void run_fork(struct script *script, const json_t *step, const json_t *value)
{
	run_resource(script, "fork", value, attempt_processes);
}

static void run_fds(struct script *script, const json_t *step, const json_t *value)
{
	run_resource(script, "fds", value, attempt_descriptors);
}

static void run_write(struct script *script, const json_t *step, const json_t *value)
{
	run_resource(script, "write_mb", value, attempt_disk);
}

static __attribute__((no_sanitize("address", "undefined"))) void fault(void)
{
	volatile int *volatile nowhere = NULL;

	*nowhere = 1; /* NOLINT(clang-analyzer-core.NullDereference): meant */
}

static void run_crash(struct script *script, const json_t *step, const json_t *value)
{
	const char *how = json_string_value(value);

	agent_flush(script->agent);
	if (strcmp(how, "segv") == 0)
		fault();
	if (strcmp(how, "abort") == 0)
		abort();
	_exit(3);
}

static void run_probe(struct script *script, const json_t *step, const json_t *value)
{
	void *only = json_object_iter((json_t *)value);
	const char *what = json_object_iter_key(only);
	struct str recorded;
	json_t *outcome;

	if (agent_mark_recall(script->agent, &recorded)) {
		add_outcome(script, recorded);
		return;
	}
	agent_flush(script->agent);
	outcome = new_outcome(script);
	(void)json_object_set_new(outcome, "probe", json_string(what));
	(void)json_object_set(outcome, "argument", json_object_iter_value(only));
	record(script, outcome, probe(what, json_object_iter_value(only)));
}

static void run_forge(struct script *script, const json_t *step, const json_t *value)
{
	agent_forge(script->agent, json_str(json_object_get(value, "user_id")), json_str(json_object_get(value, "run_id")));
	agent_flush(script->agent);
}

static void run_fail(struct script *script, const json_t *step, const json_t *value)
{
	agent_fail(script->agent, "%s", json_string_value(value));
}

static const struct step_def defs[] = {
	{"think", check_text, run_think},      {"tool", check_tool, run_tool},    {"say", check_text, run_say},
	{"stream", check_stream, run_stream},  {"sleep_ms", check_ms, run_sleep}, {"spin_ms", check_ms, run_spin},
	{"alloc_mb", check_amount, run_alloc}, {"fork", check_amount, run_fork},  {"fds", check_amount, run_fds},
	{"write_mb", check_amount, run_write}, {"crash", check_crash, run_crash}, {"probe", check_probe, run_probe},
	{"forge", check_forge, run_forge},     {"fail", check_text, run_fail},
};

/* ---- the script ---- */

static const struct step_def *find_def(const json_t *step, const json_t **value)
{
	for (size_t i = 0; i < sizeof(defs) / sizeof(defs[0]); i++)
		if ((*value = json_object_get(step, defs[i].name)))
			return &defs[i];
	return NULL;
}

static void check_step(struct agent *agent, size_t at, const json_t *step)
{
	const json_t *value;
	const struct step_def *def = json_is_object(step) ? find_def(step, &value) : NULL;
	const char *wrong, *unknown;

	if (!json_is_object(step))
		agent_fail(agent, "step %zu: it must be an object such as {\"say\":\"hello\"}", at);
	if (!def) {
		void *first = json_object_iter((json_t *)step);

		agent_fail(agent, "step %zu: there is no step \"%s\"", at, first ? json_object_iter_key(first) : "");
	}
	unknown = first_unknown(step,
	                        (const char *const[]){def->name, strcmp(def->name, "tool") == 0 ? "arguments" : NULL, NULL});
	if (unknown)
		agent_fail(agent, "step %zu: \"%s\" does not go with \"%s\"", at, def->name, unknown);
	wrong = def->check(step, value);
	if (wrong)
		agent_fail(agent, "step %zu: \"%s\": %s", at, def->name, wrong);
}

static json_t *parse_script(struct agent *agent)
{
	static const char *const known[] = {"steps", NULL};
	struct err_info info = {0};
	json_t *input = NULL, *steps;
	const char *unknown;

	if (json_parse(&input, agent_input(agent), &info) != ERR_OK)
		agent_fail(agent, "the input: %s", info.text);
	steps = json_object_get(input, "steps");
	if (!json_is_array(steps))
		agent_fail(agent, "the input must be an object {\"steps\":[…]}");
	if ((unknown = first_unknown(input, known)))
		agent_fail(agent, "the input has an unknown field \"%s\"", unknown);
	if (json_array_size(steps) > STEPS_MAX)
		agent_fail(agent, "the script has more than %d steps", STEPS_MAX);
	for (size_t i = 0; i < json_array_size(steps); i++)
		check_step(agent, i + 1, json_array_get(steps, i));
	return steps;
}

_Noreturn void script_agent(struct agent *agent)
{
	struct script script = {.agent = agent, .outcomes = json_array()};
	json_t *steps = parse_script(agent), *output = json_object();
	struct buf text = {0};

	for (script.at = 1; script.at <= json_array_size(steps); script.at++) {
		const json_t *step = json_array_get(steps, script.at - 1), *value;

		find_def(step, &value)->run(&script, step, value);
	}
	(void)json_object_set_new(output, "steps", script.outcomes);
	json_write(&text, output);
	agent_done(agent, buf_str(&text));
}
