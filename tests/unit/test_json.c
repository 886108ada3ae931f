#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"

#define LIT(z) str_of(z, sizeof(z) - 1)

static void accepts(struct str in)
{
	struct err_info info;
	json_t *value;

	if (json_parse(&value, in, &info) != ERR_OK)
		fail_msg("%.*s: %s", STR_ARG(in), info.text);
	json_decref(value);
}

static void refuses(struct str in)
{
	struct err_info info = {0};
	json_t *value;

	if (json_parse(&value, in, &info) != ERR_INVALID_MESSAGE)
		fail_msg("accepted: %.*s", STR_ARG(in));
	assert_null(value);
	assert_true(strlen(info.text) > 0);
}

static void values_of_every_kind_are_accepted(void **state)
{
	accepts(LIT("{}"));
	accepts(LIT(" [1, -2.5e3, true, null, \"a\"] \n"));
	accepts(LIT("\"x\""));
	accepts(LIT("17"));
	accepts(LIT("null"));
	accepts(LIT("{\"a\":{\"a\":1},\"b\":{\"a\":2}}"));
	accepts(LIT("\"\\ud83d\\ude00 \xf0\x9f\x98\x80\""));
}

static void malformed_text_is_refused(void **state)
{
	refuses(LIT(""));
	refuses(str_c(NULL));
	refuses(LIT(" "));
	refuses(LIT("{"));
	refuses(LIT("{}x"));
	refuses(LIT("{} {}"));
	refuses(LIT("{'a':1}"));
	refuses(LIT("{\"a\":1,}"));
	refuses(LIT("[1,2"));
	refuses(LIT("nul"));
	refuses(LIT("01"));
	refuses(LIT("NaN"));
	refuses(LIT("\"a\nb\""));
	refuses(LIT("\"\\ud800\""));
	refuses(LIT("{}\0"));
	refuses(LIT("// c\n{}"));
}

static void duplicate_keys_are_refused(void **state)
{
	refuses(LIT("{\"a\":1,\"a\":1}"));
	refuses(LIT("[{\"x\":{\"a\":1,\"b\":2,\"a\":3}}]"));
	refuses(LIT("{\"a\":1,\"\\u0061\":2}"));
}

static void nul_characters_are_refused(void **state)
{
	refuses(LIT("\"a\\u0000b\""));
	refuses(LIT("{\"a\\u0000\":1}"));
	refuses(LIT("\"a\0b\""));
}

static void bad_utf8_is_refused(void **state)
{
	refuses(LIT("\"\xff\""));
	refuses(LIT("\"\xc3\""));
	refuses(LIT("\"\xed\xa0\x80\""));
}

static void nested(struct buf *out, size_t levels, const char *open, const char *middle, const char *shut)
{
	buf_clear(out);
	for (size_t i = 0; i < levels; i++)
		buf_append_c(out, open);
	buf_append_c(out, middle);
	for (size_t i = 0; i < levels; i++)
		buf_append_c(out, shut);
}

static void depth_is_limited_to_32_levels(void **state)
{
	struct buf buf = {0};

	nested(&buf, 32, "[", "1", "]");
	accepts(buf_str(&buf));
	nested(&buf, 33, "[", "1", "]");
	refuses(buf_str(&buf));
	nested(&buf, 32, "{\"a\":", "1", "}");
	accepts(buf_str(&buf));
	nested(&buf, 33, "{\"a\":", "1", "}");
	refuses(buf_str(&buf));
	nested(&buf, 1000000, "[", "", "");
	refuses(buf_str(&buf));
	buf_finish(&buf);
}

static void brackets_in_strings_are_no_levels(void **state)
{
	struct buf buf = {0};

	nested(&buf, 100, "[", "", "");
	buf_clear(&buf);
	buf_append_c(&buf, "[\"\\\\\",\"\\\"");
	for (int i = 0; i < 100; i++)
		buf_append_c(&buf, "[{");
	buf_append_c(&buf, "\",[],[],[],[]]");
	accepts(buf_str(&buf));
	buf_finish(&buf);
}

static void errors_say_where_but_quote_nothing(void **state)
{
	struct err_info info;
	json_t *value;

	assert_int_equal(json_parse(&value, LIT("{\"a\": secret}"), &info), ERR_INVALID_MESSAGE);
	assert_null(strstr(info.text, "secret"));
	assert_non_null(strstr(info.text, "byte"));
}

static void text_is_written_compact_in_the_order_of_insertion(void **state)
{
	struct buf buf = {0};
	json_t *value = json_pack("{s:i, s:s, s:[b,n]}", "z", 1, "a", "\xc3\xa4/\"\n", "m", 1);

	json_write(&buf, value);
	assert_true(str_eq_c(buf_str(&buf), "{\"z\":1,\"a\":\"\xc3\xa4/\\\"\\n\",\"m\":[true,null]}"));
	json_decref(value);
	buf_clear(&buf);
	value = json_string("x");
	json_write(&buf, value);
	assert_true(str_eq_c(buf_str(&buf), "\"x\""));
	json_decref(value);
	buf_finish(&buf);
}

static void written(struct str in, const char *want)
{
	struct buf buf = {0};

	json_write_string(&buf, in);
	if (!str_eq_c(buf_str(&buf), want))
		fail_msg("%.*s, not %s", (int)buf.n, buf.p, want);
	buf_finish(&buf);
}

static void strings_are_escaped(void **state)
{
	written(LIT(""), "\"\"");
	written(str_c(NULL), "\"\"");
	written(LIT("plain"), "\"plain\"");
	written(LIT("a\"b\\c"), "\"a\\\"b\\\\c\"");
	written(LIT("\n\r\t\b\f\x01\x1f"), "\"\\n\\r\\t\\b\\f\\u0001\\u001f\"");
	written(LIT("\xc3\xa4\xf0\x9f\x98\x80"), "\"\xc3\xa4\xf0\x9f\x98\x80\"");
	written(LIT("z\xffz\xc3"), "\"z\xef\xbf\xbdz\xef\xbf\xbd\"");
}

static void every_byte_string_becomes_json_that_parses(void **state)
{
	struct buf buf = {0};
	uint32_t x = 1;

	for (int round = 0; round < 2000; round++) {
		char raw[24];

		for (size_t i = 0; i < sizeof(raw); i++) {
			x = x * 1664525 + 1013904223;
			raw[i] = (char)(x >> 24);
			if (raw[i] == 0)
				raw[i] = 1;
		}
		buf_clear(&buf);
		json_write_string(&buf, str_of(raw, sizeof(raw)));
		accepts(buf_str(&buf));
	}
	buf_finish(&buf);
}

/* Decodes by the RFC's table, bit by bit: slow, and another way than the code's. */
static bool decodes(const unsigned char *p, size_t n)
{
	while (n > 0) {
		uint32_t c = p[0], least = 0;
		size_t len = 1;

		if (c >= 0xf8 || (c >= 0x80 && c < 0xc0))
			return false;
		if (c >= 0xc0) {
			len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
			least = len == 4 ? 0x10000 : len == 3 ? 0x800 : 0x80;
			c &= 0x7fu >> len;
		}
		if (n < len)
			return false;
		for (size_t i = 1; i < len; i++) {
			if (p[i] >> 6 != 2)
				return false;
			c = c << 6 | (p[i] & 0x3f);
		}
		if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
			return false;
		p += len;
		n -= len;
	}
	return true;
}

static void utf8_is_judged_as_the_rfc_says(void **state)
{
	static const unsigned char edges[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2,
	                                      0xdf, 0xe0, 0xe1, 0xed, 0xee, 0xef, 0xf0, 0xf4, 0xf5, 0xff, 0x41};
	const size_t n = sizeof(edges);

	for (size_t i = 0; i < n * n * n * n; i++) {
		unsigned char s[4] = {edges[i % n], edges[i / n % n], edges[i / n / n % n], edges[i / n / n / n]};

		for (size_t len = 1; len <= 4; len++)
			assert_int_equal(utf8_is_valid(str_of((char *)s, len)), decodes(s, len));
	}
}

static void utf8_fault_is_found_anywhere_in_long_text(void **state)
{
	char text[100];

	memset(text, 'a', sizeof(text));
	for (size_t i = 0; i < sizeof(text); i++) {
		text[i] = (char)0xff;
		assert_false(utf8_is_valid(str_of(text, sizeof(text))));
		text[i] = 'a';
	}
	assert_true(utf8_is_valid(str_of(text, sizeof(text))));
	assert_true(utf8_is_valid(str_c(NULL)));
}

static void prefix_never_cuts_a_character(void **state)
{
	struct str s = LIT("a\xc3\xa4\xf0\x9f\x98\x80z");
	const size_t want[] = {0, 1, 1, 3, 3, 3, 3, 7, 8, 8};

	for (size_t max = 0; max < 10; max++)
		assert_int_equal(utf8_prefix(s, max).n, want[max]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_of_every_kind_are_accepted),
		cmocka_unit_test(malformed_text_is_refused),
		cmocka_unit_test(duplicate_keys_are_refused),
		cmocka_unit_test(nul_characters_are_refused),
		cmocka_unit_test(bad_utf8_is_refused),
		cmocka_unit_test(depth_is_limited_to_32_levels),
		cmocka_unit_test(brackets_in_strings_are_no_levels),
		cmocka_unit_test(errors_say_where_but_quote_nothing),
		cmocka_unit_test(text_is_written_compact_in_the_order_of_insertion),
		cmocka_unit_test(strings_are_escaped),
		cmocka_unit_test(every_byte_string_becomes_json_that_parses),
		cmocka_unit_test(utf8_is_judged_as_the_rfc_says),
		cmocka_unit_test(utf8_fault_is_found_anywhere_in_long_text),
		cmocka_unit_test(prefix_never_cuts_a_character),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
