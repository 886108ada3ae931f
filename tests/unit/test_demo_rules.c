#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "worker/host/agent/demo_rules.h"

static void plans(const char *text, enum demo_intent intent, const char *tool, const char *arguments)
{
	struct demo_plan plan;
	struct buf written = {0};

	demo_plan(&plan, str_c(text));
	json_write(&written, plan.arguments);
	buf_append(&written, "", 1);
	if (plan.intent != intent || strcmp(plan.tool, tool) != 0 || strcmp(written.p, arguments) != 0)
		fail_msg("\"%s\" gave intent %d, %s %s", text, (int)plan.intent, plan.tool, written.p);
	assert_true(strlen(plan.thought) > 0);
	buf_finish(&written);
	demo_plan_finish(&plan);
}

static void answers(const char *text, enum tool_status status, const char *result, const char *answer)
{
	struct demo_plan plan;
	struct buf out = {0};

	demo_plan(&plan, str_c(text));
	demo_answer(&plan, status, str_c(result), &out);
	buf_append(&out, "", 1);
	if (!strstr(out.p, answer))
		fail_msg("\"%s\" was answered \"%s\"", text, out.p);
	buf_finish(&out);
	demo_plan_finish(&plan);
}

static void things_to_remember_go_to_the_notes(void **state)
{
	plans("remember secret is S3CR3T", DEMO_REMEMBER, "notes", "{\"op\":\"put\",\"key\":\"secret\",\"value\":\"S3CR3T\"}");
	plans("Remember that my Name is Bob.", DEMO_REMEMBER, "notes", "{\"op\":\"put\",\"key\":\"name\",\"value\":\"Bob.\"}");
	plans("note: shopping = milk: 2 l", DEMO_REMEMBER, "notes",
	      "{\"op\":\"put\",\"key\":\"shopping\",\"value\":\"milk: 2 l\"}");
	plans("note list: a = b", DEMO_REMEMBER, "notes", "{\"op\":\"put\",\"key\":\"list\",\"value\":\"a = b\"}");
	plans("remember milk and eggs", DEMO_REMEMBER, "notes", "{\"op\":\"put\",\"key\":\"milk\",\"value\":\"and eggs\"}");
	plans("remember milk", DEMO_REMEMBER, "notes", "{\"op\":\"put\",\"key\":\"note\",\"value\":\"milk\"}");
	plans("remember isotope are rare", DEMO_REMEMBER, "notes", "{\"op\":\"put\",\"key\":\"isotope\",\"value\":\"rare\"}");
}

static void what_was_remembered_is_recalled_and_forgotten(void **state)
{
	plans("recall secret", DEMO_RECALL, "notes", "{\"op\":\"get\",\"key\":\"secret\"}");
	plans("What is my secret?", DEMO_RECALL, "notes", "{\"op\":\"get\",\"key\":\"secret\"}");
	plans("what's the Name", DEMO_RECALL, "notes", "{\"op\":\"get\",\"key\":\"name\"}");
	plans("forget my name.", DEMO_FORGET, "notes", "{\"op\":\"delete\",\"key\":\"name\"}");
	plans("delete note shopping", DEMO_FORGET, "notes", "{\"op\":\"delete\",\"key\":\"shopping\"}");
	plans("List notes", DEMO_LIST, "notes", "{\"op\":\"list\"}");
}

static void questions_for_the_time_go_to_the_clock(void **state)
{
	plans("what time is it?", DEMO_CLOCK, "clock", "{}");
	plans("What is the time in New York?", DEMO_CLOCK, "clock", "{\"timezone\":\"America/New_York\"}");
	plans("time Africa/Lagos please", DEMO_CLOCK, "clock", "{\"timezone\":\"Africa/Lagos\"}");
	plans("which date is it in tokyo", DEMO_CLOCK, "clock", "{\"timezone\":\"Asia/Tokyo\"}");
}

static void arithmetic_goes_to_the_calculator(void **state)
{
	plans("what is 2 + 3 * 4?", DEMO_CALCULATE, "calculator", "{\"expression\":\"2 + 3 * 4\"}");
	plans("(1+2)*3", DEMO_CALCULATE, "calculator", "{\"expression\":\"(1+2)*3\"}");
	plans("please compute sqrt(16) / 2 for me", DEMO_CALCULATE, "calculator", "{\"expression\":\"sqrt(16) / 2\"}");
	plans("how much is 2^10", DEMO_CALCULATE, "calculator", "{\"expression\":\"2^10\"}");
}

static void anything_else_still_uses_a_tool(void **state)
{
	plans("hello", DEMO_HELP, "notes", "{\"op\":\"list\"}");
	plans("", DEMO_HELP, "notes", "{\"op\":\"list\"}");
	plans("?!", DEMO_HELP, "notes", "{\"op\":\"list\"}");
	plans("the quick brown fox", DEMO_COUNT, "calculator", "{\"expression\":\"round(10 * 16 / 4) / 10\"}");
	plans("\xc3\xa4\xc3\xb6 \xe2\x82\xac", DEMO_COUNT, "calculator", "{\"expression\":\"round(10 * 3 / 2) / 10\"}");
	plans("count to 20", DEMO_COUNT_UP, "calculator", "{\"expression\":\"20 * 100 / 1000\"}");
	plans("Please count up to 7!", DEMO_COUNT_UP, "calculator", "{\"expression\":\"7 * 100 / 1000\"}");
	plans("I can count to infinity", DEMO_COUNT, "calculator", "{\"expression\":\"round(10 * 19 / 5) / 10\"}");
	plans("room 42", DEMO_COUNT, "calculator", "{\"expression\":\"round(10 * 6 / 2) / 10\"}");
}

static void answers_say_what_the_tool_said(void **state)
{
	answers("remember secret is S3CR3T", TOOL_OK, "{\"ok\":true}", "I'll remember that secret is S3CR3T.");
	answers("recall secret", TOOL_OK, "{\"key\":\"secret\",\"value\":\"S3CR3T\"}", "secret is S3CR3T.");
	answers("recall secret", TOOL_OK, "\"S3CR3T\"", "secret is S3CR3T.");
	answers("recall secret", TOOL_OK, "null", "I have no note of \"secret\"");
	answers("recall secret", TOOL_ERROR, "\"no such key\"", "no such key");
	answers("recall secret", TOOL_OK, "{\"key\":\"secret\",\"found\":false}", "I have no note of \"secret\"");
	answers("forget secret", TOOL_OK, "{\"key\":\"secret\",\"deleted\":true}", "I have forgotten secret.");
	answers("forget secret", TOOL_OK, "{\"key\":\"secret\",\"deleted\":false}", "I had no note of \"secret\".");
	answers("list notes", TOOL_OK, "[\"a\",\"b\"]", "I remember 2 things: a, b.");
	answers("list notes", TOOL_OK, "{\"keys\":[\"a\"]}", "I remember 1 thing: a.");
	answers("list notes", TOOL_OK, "{\"notes\":[{\"key\":\"a\",\"value\":1}]}", "I remember 1 thing: a.");
	answers("list notes", TOOL_OK, "[]", "no notes of yours yet");
	answers("help", TOOL_OK, "[]", "what time is it in Tokyo?");
	answers("1 + 1", TOOL_OK, "2", "1 + 1 = 2");
	answers("1 / 0", TOOL_ERROR, "\"division by zero (at character 3)\"", "The calculator says: division by zero");
	answers("time in Berlin", TOOL_OK,
	        "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2026-01-01T01:00:00+01:00\",\"timezone\":\"Europe/Berlin\"}",
	        "In Europe/Berlin it is 01:00:00 on 2026-01-01 (00:00:00 UTC).");
	answers("the quick brown fox", TOOL_OK, "4", "You wrote 4 words, of 4 characters on average.");
}

static void an_end_without_result_is_told_as_it_is(void **state)
{
	answers("remember a is b", TOOL_IN_DOUBT, "", "can't tell whether it was done");
	answers("remember a is b", TOOL_DENIED, "\"no\"", "not allowed to use the notes tool");
	answers("what time is it", TOOL_TIMEOUT, "", "did not come to an end");
	answers("list notes", TOOL_OK, "broken", "no notes");
	answers("time", TOOL_OK, "{}", "{}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(things_to_remember_go_to_the_notes),
		cmocka_unit_test(what_was_remembered_is_recalled_and_forgotten),
		cmocka_unit_test(questions_for_the_time_go_to_the_clock),
		cmocka_unit_test(arithmetic_goes_to_the_calculator),
		cmocka_unit_test(anything_else_still_uses_a_tool),
		cmocka_unit_test(answers_say_what_the_tool_said),
		cmocka_unit_test(an_end_without_result_is_told_as_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
