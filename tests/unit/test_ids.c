#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/ids.h"

#define LIT(z)                   \
	{                        \
		z, sizeof(z) - 1 \
	}

static const struct str accepted[] = {
	LIT("usr_4a8f9c2b1e5d"),
	LIT("usr_000000000000"),
	LIT("usr_ffffffffffff"),
	LIT("3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
	LIT("ffffffff-ffff-ffff-ffff-ffffffffffff"),
	LIT("00000000-0000-0000-0000-000000000001"),
	LIT("123456789012345"),
	LIT("105526284830475930265"),
	LIT("000000000000000"),
};

static const struct str refused[] = {
	LIT(""),
	LIT(" "),
	LIT("none"),
	LIT("null"),
	LIT("default"),
	LIT("test_user_123"),
	LIT("concurrent_user_99"),
	LIT("usr_4A8F9C2B1E5D"),
	LIT("usr_4a8f9c2b1e5"),
	LIT("usr_4a8f9c2b1e5d0"),
	LIT("usr_4a8f9c2b1e5g"),
	LIT("USR_4a8f9c2b1e5d"),
	LIT("usr-4a8f9c2b1e5d"),
	LIT("usr_4a8f9c2b1e5d\n"),
	LIT("\nusr_4a8f9c2b1e5d"),
	LIT(" usr_4a8f9c2b1e5d"),
	LIT("usr_4a8f9c2b1e5d "),
	LIT("usr_4a8f9c2b1e5d\0"),
	LIT("usr_4a8f9c2b1e\0d"),
	LIT("usr_"),
	LIT("3F2504E0-4F89-41D3-9A0C-0305E82C3301"),
	LIT("3f2504e0-4f89-41d3-9a0c-0305e82c330"),
	LIT("3f2504e0-4f89-41d3-9a0c-0305e82c33011"),
	LIT("3f2504e04f8941d39a0c0305e82c3301"),
	LIT("3f2504e0-4f89-41d3-9a0c0-305e82c3301"),
	LIT("3f2504e0_4f89_41d3_9a0c_0305e82c3301"),
	LIT("3f2504e0-4f89-41d3-9a0c-0305e82c3301\n"),
	LIT("urn:uuid:3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
	LIT("{3f2504e0-4f89-41d3-9a0c-0305e82c3301}"),
	LIT("00000000-0000-0000-0000-000000000000"),
	LIT("12345678901234"),
	LIT("1234567890123456789012"),
	LIT("12345678901234a"),
	LIT("-12345678901234"),
	LIT("+12345678901234"),
	LIT("12345678901234."),
	LIT("１２３４５６７８９０１２３４５"),
	LIT("٠١٢٣٤٥٦٧٨٩٠١٢٣٤"),
	LIT("usr_４a8f9c2b1e5d"),
	LIT("e2e"),
	LIT("e2e-"),
	LIT("dev-user"),
};

static const struct str e2e_accepted[] = {
	LIT("e2e-a"),
	LIT("e2e-0"),
	LIT("e2e-run_1.user-2"),
	LIT("e2e-aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff"),
};

static const struct str e2e_refused[] = {
	LIT("e2e-"),
	LIT("e2e--a"),
	LIT("e2e-a-"),
	LIT("e2e-_a"),
	LIT("e2e-a."),
	LIT("e2e-A"),
	LIT("e2e-a b"),
	LIT("e2e-a\n"),
	LIT("e2e-\xc3\xa4"),
	LIT("E2E-a"),
	LIT("e2e-aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeefffffffffff"),
	LIT("e2e_a"),
};

#define N(list) (sizeof(list) / sizeof((list)[0]))

static void expect(const struct str *list, size_t n, unsigned extra, enum err want)
{
	for (size_t i = 0; i < n; i++) {
		struct user_id id, zero = {{0}};
		enum err err;

		memset(&id, 'x', sizeof(id));
		err = user_id_parse(&id, list[i], extra);
		if (err != want)
			fail_msg("\"%.*s\": %s", STR_ARG(list[i]), err_name(err));
		if (want == ERR_OK) {
			assert_memory_equal(id.s, list[i].p, list[i].n);
			assert_memory_equal(id.s + list[i].n, zero.s, sizeof(id.s) - list[i].n);
		} else {
			assert_memory_equal(&id, &zero, sizeof(id));
		}
	}
}

static void standing_forms_are_accepted_byte_for_byte(void **state)
{
	expect(accepted, N(accepted), 0, ERR_OK);
	expect(accepted, N(accepted), USER_ID_E2E, ERR_OK);
}

static void all_else_is_refused_and_leaves_zeroes(void **state)
{
	expect(refused, N(refused), 0, ERR_INVALID_USER_ID);
	expect(refused, N(refused), USER_ID_E2E, ERR_INVALID_USER_ID);
}

static void e2e_form_needs_the_configurations_leave(void **state)
{
	expect(e2e_accepted, N(e2e_accepted), USER_ID_E2E, ERR_OK);
	expect(e2e_accepted, N(e2e_accepted), 0, ERR_INVALID_USER_ID);
	expect(e2e_refused, N(e2e_refused), USER_ID_E2E, ERR_INVALID_USER_ID);
}

static void null_view_is_refused(void **state)
{
	struct user_id id;
	struct id other;

	assert_int_equal(user_id_parse(&id, str_c(NULL), USER_ID_E2E), ERR_INVALID_USER_ID);
	assert_false(id_parse(&other, str_c(NULL)));
}

static void every_single_byte_change_of_usr_is_judged_by_the_grammar(void **state)
{
	for (size_t at = 0; at < 16; at++) {
		for (int c = 0; c < 256; c++) {
			char text[] = "usr_4a8f9c2b1e5d";
			bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
			bool good = at < 4 ? c == text[at] : hex;
			struct user_id id;

			text[at] = (char)c;
			assert_int_equal(user_id_parse(&id, str_of(text, 16), USER_ID_E2E), good ? ERR_OK : ERR_INVALID_USER_ID);
		}
	}
}

static void users_are_equal_only_byte_for_byte(void **state)
{
	struct user_id a, b, c;

	assert_int_equal(user_id_parse(&a, str_c("usr_4a8f9c2b1e5d"), 0), ERR_OK);
	assert_int_equal(user_id_parse(&b, str_c("usr_4a8f9c2b1e5d"), 0), ERR_OK);
	assert_int_equal(user_id_parse(&c, str_c("usr_4a8f9c2b1e5e"), 0), ERR_OK);
	assert_true(user_id_eq(&a, &b));
	assert_false(user_id_eq(&a, &c));
}

static void made_ids_differ_and_parse(void **state)
{
	struct id a, b, again;

	id_make(&a);
	id_make(&b);
	assert_int_equal(strlen(a.s), ID_LEN);
	assert_false(id_eq(&a, &b));
	assert_true(id_parse(&again, id_str(&a)));
	assert_true(id_eq(&a, &again));
	assert_int_equal(a.s[14], '4');
}

static void foreign_strings_are_no_ids(void **state)
{
	struct id id;

	assert_false(id_parse(&id, str_c("3F2504E0-4F89-41D3-9A0C-0305E82C3301")));
	assert_true(id_is_none(&id));
	assert_false(id_parse(&id, str_c("00000000-0000-0000-0000-000000000000")));
	assert_false(id_parse(&id, str_c("usr_4a8f9c2b1e5d")));
	assert_false(id_parse(&id, str_c("")));
	assert_true(id_is_none(&id));
}

static uint8_t seed;

static void counting(uint8_t bytes[16])
{
	memset(bytes, seed++, 16);
}

static void source_can_be_seeded_and_restored(void **state)
{
	struct id a, b;

	id_set_source(counting);
	seed = 0x11;
	id_make(&a);
	seed = 0x11;
	id_make(&b);
	id_set_source(NULL);
	assert_string_equal(a.s, "11111111-1111-4111-9111-111111111111");
	assert_true(id_eq(&a, &b));
	id_make(&b);
	assert_false(id_eq(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(standing_forms_are_accepted_byte_for_byte),
		cmocka_unit_test(all_else_is_refused_and_leaves_zeroes),
		cmocka_unit_test(e2e_form_needs_the_configurations_leave),
		cmocka_unit_test(null_view_is_refused),
		cmocka_unit_test(every_single_byte_change_of_usr_is_judged_by_the_grammar),
		cmocka_unit_test(users_are_equal_only_byte_for_byte),
		cmocka_unit_test(made_ids_differ_and_parse),
		cmocka_unit_test(foreign_strings_are_no_ids),
		cmocka_unit_test(source_can_be_seeded_and_restored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
