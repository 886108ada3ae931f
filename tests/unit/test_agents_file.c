/* The agents file: what it gives, and that each mistake is told with its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "worker/agents_file.h"

static char path[] = "/tmp/pinion-agents-XXXXXX";

static enum err load(const char *text, struct agents **agents, struct err_info *info)
{
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	fputs(text, out);
	fclose(out);
	return agents_load(path, agents, info);
}

static void assert_refused(const char *text, unsigned line, const char *why)
{
	struct agents *agents;
	struct err_info info = {0};
	char where[64];

	assert_int_equal(load(text, &agents, &info), ERR_CONFIG);
	assert_null(agents);
	snprintf(where, sizeof(where), "%s:%u: ", path, line);
	if (strncmp(info.text, where, strlen(where)) != 0 || !strstr(info.text, why))
		fail_msg("said \"%s\", expected \"%s…%s\"", info.text, where, why);
}

static void without_a_file_there_are_demo_and_script(void **state)
{
	struct agents *agents;

	assert_int_equal(agents_load(NULL, &agents, NULL), ERR_OK);
	assert_int_equal(agents->n, 2);
	assert_string_equal(agents_find(agents, str_c(""))->name, "demo");
	assert_int_equal(agents_find(agents, str_c("script"))->kind, AGENT_SCRIPT);
	assert_null(agents_find(agents, str_c("other")));
	agents_free(agents);
}

static void a_whole_file_is_read(void **state)
{
	struct agents *agents;
	const struct agent_def *helper;

	assert_int_equal(load("agents:\n"
	                      "  load: {kind: script}\n"
	                      "  helper:\n"
	                      "    kind: demo\n"
	                      "    tools: [clock]\n"
	                      "    limits: {run_seconds: 5, output_bytes: 2048}\n"
	                      "default_agent: helper\n",
	                      &agents, NULL),
	                 ERR_OK);
	helper = agents_find(agents, str_c(""));
	assert_string_equal(helper->name, "helper");
	assert_int_equal(helper->tools.n, 1);
	assert_string_equal(helper->tools.items[0], "clock");
	assert_int_equal(helper->run_seconds, 5);
	assert_int_equal(helper->steps, 16);
	assert_int_equal(helper->output_bytes, 2048);
	assert_int_equal(agents_find(agents, str_c("load"))->tools.n, 3);
	agents_free(agents);
}

static void each_mistake_is_told_with_its_line(void **state)
{
	assert_refused("", 1, "no agents");
	assert_refused("agents: {}\n", 1, "no agents");
	assert_refused("agents:\n  a: {kind: demo}\nother: 1\n", 3, "unknown key \"other\"");
	assert_refused("agents:\n  a:\n    kind: demon\n", 3, "no kind");
	assert_refused("agents:\n  a:\n    kind: llm\n", 3, "not supported by this version");
	assert_refused("agents:\n  a:\n    tools: []\n", 2, "needs a kind");
	assert_refused("agents:\n  a:\n    kind: demo\n    kind: demo\n", 4, "twice");
	assert_refused("agents:\n  a:\n    kind: demo\n    tools: [shell]\n", 4, "no tool");
	assert_refused("agents:\n  a:\n    kind: demo\n    limits: {steps: 12abc}\n", 4, "12abc");
	assert_refused("agents:\n  a:\n    kind: demo\n    limits: {steps: 010}\n", 4, "010");
	assert_refused("agents:\n  a:\n    kind: demo\n    limits: {steps: -1}\n", 4, "-1");
	assert_refused("agents:\n  a:\n    kind: demo\n    limits: {pages: 1}\n", 4, "unknown key \"pages\"");
	assert_refused("agents:\n  a: {kind: demo}\ndefault_agent: b\n", 3, "not one of the agents");
	assert_refused("agents: [\n", 2, "");
	assert_refused("agents:\n  a: {kind: demo}\nmcp_servers:\n  x: {command: [y]}\n", 4, "not supported");
}

static void a_file_that_is_missing_is_named(void **state)
{
	struct agents *agents;
	struct err_info info = {0};

	assert_int_equal(agents_load("/nonexistent/agents.yaml", &agents, &info), ERR_CONFIG);
	assert_non_null(strstr(info.text, "/nonexistent/agents.yaml: No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_file_there_are_demo_and_script),
		cmocka_unit_test(a_whole_file_is_read),
		cmocka_unit_test(each_mistake_is_told_with_its_line),
		cmocka_unit_test(a_file_that_is_missing_is_named),
	};
	int failed;

	close(mkstemp(path));
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return failed;
}
