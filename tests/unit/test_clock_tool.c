#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "worker/host/tool/tools.h"

#define WINTER 1767225600 /* 2026-01-01T00:00:00Z */
#define SUMMER 1782864000 /* 2026-07-01T00:00:00Z */

static void describes(time_t now, const char *zone, const char *result)
{
	struct buf out = {0};

	assert_true(clock_describe(now, str_c(zone), &out));
	buf_append(&out, "", 1);
	assert_string_equal(out.p, result);
	buf_finish(&out);
}

static void refuses(const char *zone, const char *why)
{
	struct buf out = {0};

	assert_false(clock_describe(WINTER, str_c(zone), &out));
	buf_append(&out, "", 1);
	assert_string_equal(out.p, why);
	buf_finish(&out);
}

static void zones_are_applied_with_their_summer_time(void **state)
{
	describes(WINTER, "UTC",
	          "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2026-01-01T00:00:00+00:00\",\"timezone\":\"UTC\"}");
	describes(WINTER, "Europe/Berlin",
	          "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2026-01-01T01:00:00+01:00\",\"timezone\":\"Europe/Berlin\"}");
	describes(SUMMER, "Europe/Berlin",
	          "{\"utc\":\"2026-07-01T00:00:00Z\",\"local\":\"2026-07-01T02:00:00+02:00\",\"timezone\":\"Europe/Berlin\"}");
	describes(WINTER, "America/New_York",
	          "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2025-12-31T19:00:00-05:00\",\"timezone\":\"America/New_York\"}");
	describes(WINTER, "Asia/Kolkata",
	          "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2026-01-01T05:30:00+05:30\",\"timezone\":\"Asia/Kolkata\"}");
	describes(WINTER, "Etc/GMT+5",
	          "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2025-12-31T19:00:00-05:00\",\"timezone\":\"Etc/GMT+5\"}");
}

static void one_zone_does_not_stick_to_the_next(void **state)
{
	struct buf first = {0}, again = {0};

	assert_true(clock_describe(WINTER, (struct str){0}, &first));
	describes(WINTER, "Asia/Kolkata",
	          "{\"utc\":\"2026-01-01T00:00:00Z\",\"local\":\"2026-01-01T05:30:00+05:30\",\"timezone\":\"Asia/Kolkata\"}");
	assert_true(clock_describe(WINTER, (struct str){0}, &again));
	assert_true(str_eq(buf_str(&first), buf_str(&again)));
	buf_finish(&first);
	buf_finish(&again);
}

static void unknown_zones_are_refused(void **state)
{
	refuses("Mars/Olympus", "there is no timezone \"Mars/Olympus\"");
	refuses("Europe", "there is no timezone \"Europe\"");
	refuses("zone.tab", "timezone must be an IANA name such as \"Europe/Berlin\"");
}

static void names_that_are_no_zone_are_refused(void **state)
{
	static const char *const names[] = {"/etc/passwd", "../../etc/passwd", "Europe/../../x", "Europe/", "Europe//Berlin",
	                                    ":UTC",        "<+03>-3",          "Europe/Berlin ", "1UTC",    "\xc3\xa4"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		refuses(names[i], "timezone must be an IANA name such as \"Europe/Berlin\"");
}

static void tool(const char *arguments, enum tool_status status, const char *contains)
{
	struct buf out = {0};

	assert_int_equal(tool_run(str_c("clock"), str_c(arguments), &out), status);
	buf_append(&out, "", 1);
	assert_non_null(strstr(out.p, contains));
	buf_finish(&out);
}

static void the_tool_takes_an_optional_zone(void **state)
{
	tool("{}", TOOL_OK, "{\"utc\":\"20");
	tool("", TOOL_OK, "{\"utc\":\"20");
	tool("{\"timezone\":null}", TOOL_OK, "\"timezone\":\"");
	tool("{\"timezone\":\"Asia/Tokyo\"}", TOOL_OK, "+09:00\",\"timezone\":\"Asia/Tokyo\"}");
	tool("{\"timezone\":1}", TOOL_ERROR, "timezone must be a string");
	tool("{\"zone\":\"UTC\"}", TOOL_ERROR, "no argument \\\"zone\\\"");
	tool("{\"timezone\":\"Nowhere/Land\"}", TOOL_ERROR, "there is no timezone");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zones_are_applied_with_their_summer_time),
		cmocka_unit_test(one_zone_does_not_stick_to_the_next),
		cmocka_unit_test(unknown_zones_are_refused),
		cmocka_unit_test(names_that_are_no_zone_are_refused),
		cmocka_unit_test(the_tool_takes_an_optional_zone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
