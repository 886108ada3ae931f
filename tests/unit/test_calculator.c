#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "worker/host/tool/tools.h"

static void expect(const char *expression, bool ok, const char *text)
{
	struct buf out = {0};
	bool did = calculator_evaluate(str_c(expression), &out);

	buf_append(&out, "", 1);
	if (did != ok || strcmp(out.p, text) != 0)
		fail_msg("%s gave %s \"%s\"", expression, did ? "ok" : "error", out.p);
	buf_finish(&out);
}

static void gives(const char *expression, const char *result)
{
	expect(expression, true, result);
}

static void fails(const char *expression, const char *error)
{
	expect(expression, false, error);
}

static void operators_bind_as_people_expect(void **state)
{
	gives("2 + 3 * 4", "14");
	gives("(2 + 3) * 4", "20");
	gives("10 - 4 - 3", "3");
	gives("2 ^ 3 ^ 2", "512");
	gives("-2 ^ 2", "-4");
	gives("2 ^ -1", "0.5");
	gives("--3", "3");
	gives("+5 - -5", "10");
	gives("7 / 2", "3.5");
	gives("8 / 2", "4");
	gives("17 % 5", "2");
	gives("-17 % 5", "-2");
	gives("7.5 % 2", "1.5");
	gives("\t1\n+ 1 ", "2");
}

static void whole_numbers_are_exact(void **state)
{
	gives("9007199254740993 + 0", "9007199254740993");
	gives("9223372036854775807 - 1", "9223372036854775806");
	gives("2 ^ 62", "4611686018427387904");
	gives("3037000500 * 3037000499", "9223372033963249500");
	gives("-9223372036854775807 - 1", "-9223372036854775808");
	gives("(-9223372036854775807 - 1) / -1", "9223372036854775808");
	gives("(-9223372036854775807 - 1) % -1", "0");
	gives("-(-9223372036854775807 - 1)", "9223372036854775808");
	gives("2 ^ 70", "1.1805916207174113e+21");
	gives("0 ^ 0", "1");
	gives("-0.0", "0");
}

static void fractions_are_written_as_short_as_they_can_be(void **state)
{
	gives("0.1 + 0.2", "0.30000000000000004");
	gives("0.1", "0.1");
	gives(".5 + 1.", "1.5");
	gives("1e3", "1000");
	gives("1.5E-3", "0.0015");
	gives("1e300", "1e+300");
	gives("1/3", "0.3333333333333333");
}

static void functions_and_constants_work(void **state)
{
	gives("sqrt(16)", "4");
	gives("abs(-3) + abs(2)", "5");
	gives("min(3, 1, 2) + max(4, 9, 5)", "10");
	gives("max(1.5, 1)", "1.5");
	gives("floor(-1.5)", "-2");
	gives("ceil(1.2)", "2");
	gives("round(2.5)", "3");
	gives("round(7)", "7");
	gives("log(1000)", "3");
	gives("ln(e)", "1");
	gives("exp(0)", "1");
	gives("round(sin(pi / 2) * 1000)", "1000");
	gives("cos(0) + tan(0)", "1");
	gives("pi", "3.141592653589793");
}

static void errors_name_the_character(void **state)
{
	fails("", "the expression is empty (at character 1)");
	fails("   ", "the expression is empty (at character 4)");
	fails("1 +", "the expression ends too early (at character 4)");
	fails("1 + * 2", "a number is expected (at character 5)");
	fails("(1 + 2", "a closing parenthesis is missing (at character 7)");
	fails("1 + 2)", "there is a closing parenthesis too many (at character 6)");
	fails("1 2", "an operator is expected (at character 3)");
	fails("2pi", "an operator is expected (at character 2)");
	fails("1.2.3", "an operator is expected (at character 4)");
	fails(".", "a number is expected (at character 1)");
	fails("1 / 0", "division by zero (at character 3)");
	fails("5 % (2 - 2)", "remainder of a division by zero (at character 3)");
	fails("0 ^ -1", "division by zero (at character 3)");
	fails("foo + 1", "there is no such name (at character 1)");
	fails("2 * system(1)", "there is no such function (at character 5)");
	fails("sqrt(1, 2)", "this function takes one argument (at character 1)");
	fails("sqrt(-1)", "the function has no value there (at character 1)");
	fails("ln(0)", "the function has no value there (at character 1)");
	fails("1e308 * 10", "the result is too large (at character 1)");
	fails("(-8) ^ 0.5", "the result is not a number (at character 1)");
	fails("1; 2", "an operator is expected (at character 2)");
	fails("0x10", "an operator is expected (at character 2)");
	fails("nan", "there is no such name (at character 1)");
	fails("\xc3\xa4", "a number is expected (at character 1)");
}

static void length_and_depth_are_bounded(void **state)
{
	char text[1200];

	memset(text, '1', sizeof(text));
	text[1001] = 0;
	fails(text, "the expression is longer than 1000 bytes");
	memset(text, '(', 65);
	text[65] = 0;
	fails(text, "the expression is nested too deeply (at character 65)");
	memset(text, '-', 900);
	strcpy(text + 900, "1");
	fails(text, "the expression is nested too deeply (at character 65)");
	memset(text, 0, sizeof(text));
	for (int i = 0; i < 200; i++)
		strcat(text, "2^");
	strcat(text, "1");
	fails(text, "the expression is nested too deeply (at character 129)");
	memset(text, '(', 60);
	strcpy(text + 60, "7");
	memset(text + 61, ')', 60);
	text[121] = 0;
	gives(text, "7");
}

static void random_bytes_never_hurt(void **state)
{
	static const char alphabet[] = "0123456789.+-*/%^(),eE sqrtminmaxlnpi";
	unsigned seed = 20240607;

	for (int i = 0; i < 20000; i++) {
		struct buf out = {0};
		char text[64];
		size_t n = (size_t)rand_r(&seed) % sizeof(text);

		for (size_t k = 0; k < n; k++)
			text[k] = alphabet[(size_t)rand_r(&seed) % (sizeof(alphabet) - 1)];
		(void)calculator_evaluate(str_of(text, n), &out);
		assert_true(out.n > 0);
		buf_finish(&out);
	}
}

static void tool(const char *arguments, enum tool_status status, const char *result)
{
	struct buf out = {0};

	assert_int_equal(tool_run(str_c("calculator"), str_c(arguments), &out), status);
	buf_append(&out, "", 1);
	assert_string_equal(out.p, result);
	buf_finish(&out);
}

static void the_tool_takes_one_string(void **state)
{
	tool("{\"expression\":\"6*7\"}", TOOL_OK, "42");
	tool("{}", TOOL_ERROR, "\"calculator needs \\\"expression\\\", a string such as \\\"2 + 3 * 4\\\"\"");
	tool("{\"expression\":42}", TOOL_ERROR, "\"calculator needs \\\"expression\\\", a string such as \\\"2 + 3 * 4\\\"\"");
	tool("{\"expression\":\"1\",\"x\":1}", TOOL_ERROR, "\"calculator knows no argument \\\"x\\\", only \\\"expression\\\"\"");
	tool("[]", TOOL_ERROR, "\"the arguments must be a JSON object\"");
	tool("{\"expression\":\"1/0\"}", TOOL_ERROR, "\"division by zero (at character 2)\"");
}

static void an_unknown_tool_is_an_error(void **state)
{
	struct buf out = {0};

	assert_int_equal(tool_run(str_c("shell"), str_c("{}"), &out), TOOL_ERROR);
	buf_finish(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operators_bind_as_people_expect),
		cmocka_unit_test(whole_numbers_are_exact),
		cmocka_unit_test(fractions_are_written_as_short_as_they_can_be),
		cmocka_unit_test(functions_and_constants_work),
		cmocka_unit_test(errors_name_the_character),
		cmocka_unit_test(length_and_depth_are_bounded),
		cmocka_unit_test(random_bytes_never_hurt),
		cmocka_unit_test(the_tool_takes_one_string),
		cmocka_unit_test(an_unknown_tool_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
