#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/err.h"

static void every_name_leads_back_to_its_error(void **state)
{
	for (unsigned i = 0; i < ERR_COUNT_; i++) {
		assert_int_equal(err_from_name(str_c(err_name((enum err)i))), i);
		assert_true(strlen(err_text((enum err)i)) > 0);
	}
}

static void names_are_unique(void **state)
{
	for (unsigned i = 0; i < ERR_COUNT_; i++) {
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(err_name((enum err)i), err_name((enum err)k));
	}
}

static void name_of_a_newer_peer_is_internal_and_none_is_ok(void **state)
{
	assert_int_equal(err_from_name(str_c("flux_capacitor")), ERR_INTERNAL);
	assert_int_equal(err_from_name(str_of("moved", 4)), ERR_INTERNAL);
	assert_int_equal(err_from_name(str_c("")), ERR_OK);
	assert_int_equal(err_from_name(str_of("moved!", 5)), ERR_MOVED);
}

static void number_that_is_no_error_reads_as_internal(void **state)
{
	assert_string_equal(err_name((enum err)9999), "internal");
	assert_string_equal(err_text((enum err) - 1), err_text(ERR_INTERNAL));
	assert_int_equal(err_for_client((enum err)9999), ERR_INTERNAL);
}

static void client_is_told_only_codes_of_its_protocol(void **state)
{
	for (unsigned i = ERR_INVALID_MESSAGE; i <= ERR_DRAINING; i++)
		assert_int_equal(err_for_client((enum err)i), i);
	for (unsigned i = ERR_MOVED; i < ERR_COUNT_; i++) {
		enum err told = err_for_client((enum err)i);

		assert_true(told == ERR_INTERNAL || told == ERR_UNAVAILABLE);
	}
	assert_int_equal(err_for_client(ERR_OK), ERR_OK);
	assert_int_equal(err_for_client(ERR_DISCONNECTED), ERR_UNAVAILABLE);
}

static void set_writes_text_or_the_default(void **state)
{
	struct err_info info;

	assert_int_equal(err_set(&info, ERR_IO, "disk %d", 3), ERR_IO);
	assert_int_equal(info.code, ERR_IO);
	assert_string_equal(info.text, "disk 3");
	assert_int_equal(err_set(&info, ERR_BUSY, NULL), ERR_BUSY);
	assert_string_equal(info.text, err_text(ERR_BUSY));
	assert_int_equal(err_set(NULL, ERR_BUSY, "x"), ERR_BUSY);
}

static void set_may_take_its_own_old_text(void **state)
{
	struct err_info info;

	(void)err_set(&info, ERR_IO, "inner");
	(void)err_set(&info, ERR_CONFIG, "outer %s", info.text);
	assert_string_equal(info.text, "outer inner");
}

static void wrap_goes_before_and_keeps_the_code(void **state)
{
	struct err_info info;

	(void)err_set(&info, ERR_IO, "inner");
	assert_int_equal(err_wrap(&info, "outer %d", 1), ERR_IO);
	assert_string_equal(info.text, "outer 1: inner");
	assert_int_equal(err_wrap(NULL, "x"), ERR_OK);
}

static void errno_stands_behind_the_text(void **state)
{
	struct err_info info;

	assert_int_equal(err_set_errno(&info, ERR_IO, ENOENT, "file %s", "a"), ERR_IO);
	assert_string_equal(info.text, "file a: No such file or directory");
}

static void long_texts_are_cut_not_overrun(void **state)
{
	struct err_info info;
	char longer[1000];

	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	(void)err_set(&info, ERR_IO, "%s", longer);
	assert_int_equal(strlen(info.text), sizeof(info.text) - 1);
	(void)err_wrap(&info, "%s", longer);
	assert_int_equal(strlen(info.text), sizeof(info.text) - 1);
	(void)err_set_errno(&info, ERR_IO, ENOENT, "%s", longer);
	assert_int_equal(strlen(info.text), sizeof(info.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_name_leads_back_to_its_error),
		cmocka_unit_test(names_are_unique),
		cmocka_unit_test(name_of_a_newer_peer_is_internal_and_none_is_ok),
		cmocka_unit_test(number_that_is_no_error_reads_as_internal),
		cmocka_unit_test(client_is_told_only_codes_of_its_protocol),
		cmocka_unit_test(set_writes_text_or_the_default),
		cmocka_unit_test(set_may_take_its_own_old_text),
		cmocka_unit_test(wrap_goes_before_and_keeps_the_code),
		cmocka_unit_test(errno_stands_behind_the_text),
		cmocka_unit_test(long_texts_are_cut_not_overrun),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
