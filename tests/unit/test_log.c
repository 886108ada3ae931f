#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/log.h"
#include "tests/unit/capture.h"

static struct capture capture;

static void line_is_key_value_with_service_and_instance(void **state)
{
	const char *text;

	log_init(LOG_INFO, LOG_KEY_VALUE, "gateway", "gateway-0");
	capture_begin(&capture, 2);
	log_info("session", "open", "user", "usr_4a8f9c2b1e5d", "n", LOG_U64(7), "d", LOG_I64(-7), NULL);
	text = capture_end(&capture);
	assert_int_equal(text[4], '-');
	assert_int_equal(text[10], 'T');
	assert_int_equal(text[23], 'Z');
	assert_string_equal(text + 24, " info session.open service=gateway instance=gateway-0 user=usr_4a8f9c2b1e5d n=7 d=-7\n");
}

static void values_that_could_forge_a_line_are_quoted(void **state)
{
	log_init(LOG_INFO, LOG_KEY_VALUE, "", "");
	capture_begin(&capture, 2);
	log_warn("a", "b", "k", "x y\nz\"\\\x01", "empty", "", "eq", "a=b", "sp", " ", "bad", "\xff", "good", "\xc3\xa4", NULL);
	assert_string_equal(
		capture_end(&capture) + 24,
		" warn a.b k=\"x y\\nz\\\"\\\\\\x01\" empty=\"\" eq=\"a=b\" sp=\" \" bad=\"\\xff\" good=\"\xc3\xa4\"\n");
}

static void field_without_value_is_left_out(void **state)
{
	log_init(LOG_INFO, LOG_KEY_VALUE, NULL, NULL);
	capture_begin(&capture, 2);
	log_info("a", "b", "gone", (const char *)NULL, "c", "d", NULL);
	assert_string_equal(capture_end(&capture) + 24, " info a.b c=d\n");
}

static void json_lines_parse_whatever_the_values(void **state)
{
	struct err_info info;
	json_t *line;
	struct str text;

	log_init(LOG_INFO, LOG_JSON, "worker", "w");
	capture_begin(&capture, 2);
	log_error("run", "failed", "why", "a\"b\n\xff", NULL);
	text = str_c(capture_end(&capture));
	assert_int_equal(text.p[text.n - 1], '\n');
	if (json_parse(&line, str_of(text.p, text.n - 1), &info) != ERR_OK)
		fail_msg("%s", info.text);
	assert_string_equal(json_string_value(json_object_get(line, "level")), "error");
	assert_string_equal(json_string_value(json_object_get(line, "event")), "run.failed");
	assert_string_equal(json_string_value(json_object_get(line, "service")), "worker");
	assert_string_equal(json_string_value(json_object_get(line, "why")), "a\"b\n\xef\xbf\xbd");
	json_decref(line);
}

static void lines_below_the_level_are_not_written(void **state)
{
	log_init(LOG_WARN, LOG_KEY_VALUE, "s", "i");
	assert_false(log_enabled(LOG_INFO));
	assert_true(log_enabled(LOG_WARN));
	capture_begin(&capture, 2);
	log_debug("a", "b", NULL);
	log_info("a", "b", NULL);
	assert_string_equal(capture_end(&capture), "");
}

static void long_values_are_cut_and_errno_survives(void **state)
{
	static char longer[5000];

	memset(longer, 'x', sizeof(longer) - 1);
	log_init(LOG_INFO, LOG_KEY_VALUE, "", "");
	capture_begin(&capture, 2);
	errno = ENOENT;
	log_info("a", "b", "k", longer, "last", "1", NULL);
	assert_int_equal(errno, ENOENT);
	assert_in_range(strlen(capture_end(&capture)), 2000, 2200);
	assert_non_null(strstr(capture.text, " last=1\n"));
}

static void numbers_print_at_their_limits(void **state)
{
	assert_string_equal(LOG_U64(UINT64_MAX), "18446744073709551615");
	assert_string_equal(LOG_I64(INT64_MIN), "-9223372036854775808");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(line_is_key_value_with_service_and_instance),
		cmocka_unit_test(values_that_could_forge_a_line_are_quoted),
		cmocka_unit_test(field_without_value_is_left_out),
		cmocka_unit_test(json_lines_parse_whatever_the_values),
		cmocka_unit_test(lines_below_the_level_are_not_written),
		cmocka_unit_test(long_values_are_cut_and_errno_survives),
		cmocka_unit_test(numbers_print_at_their_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
