#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/token_bucket.h"

static void starts_full_and_ends_empty(void **state)
{
	struct token_bucket b;

	token_bucket_init(&b, 50, 200, 1000);
	for (int i = 0; i < 200; i++)
		assert_true(token_bucket_take(&b, 1, 1000));
	assert_false(token_bucket_take(&b, 1, 1000));
}

static void refills_at_its_rate_up_to_the_burst(void **state)
{
	struct token_bucket b;

	token_bucket_init(&b, 50, 3, 0);
	assert_true(token_bucket_take(&b, 3, 0));
	assert_false(token_bucket_take(&b, 1, 19));
	assert_true(token_bucket_take(&b, 1, 20));
	assert_false(token_bucket_take(&b, 1, 20));
	assert_true(token_bucket_take(&b, 3, 100000));
	assert_false(token_bucket_take(&b, 1, 100000));
}

static void many_small_refills_add_up(void **state)
{
	struct token_bucket b;
	int taken = 0;

	token_bucket_init(&b, 3, 1, 0);
	assert_true(token_bucket_take(&b, 1, 0));
	for (uint64_t now = 1; now <= 10000; now++)
		taken += token_bucket_take(&b, 1, now);
	assert_in_range(taken, 29, 30);
}

static void wait_is_exactly_as_long_as_needed(void **state)
{
	const double rates[] = {0.1, 1, 3, 7, 50, 333, 5000};

	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		struct token_bucket b, early;
		uint64_t wait;

		token_bucket_init(&b, rates[i], 5, 500);
		assert_true(token_bucket_take(&b, 5, 500));
		wait = token_bucket_wait_ms(&b, 2, 500);
		assert_true(wait >= 1);
		early = b;
		if (wait > 1)
			assert_false(token_bucket_take(&early, 2, 500 + wait - 1));
		assert_true(token_bucket_take(&b, 2, 500 + wait));
	}
}

static void nothing_to_wait_for_is_zero_and_never_is_the_maximum(void **state)
{
	struct token_bucket b;

	token_bucket_init(&b, 10, 5, 0);
	assert_true(token_bucket_wait_ms(&b, 5, 0) == 0);
	assert_true(token_bucket_wait_ms(&b, 6, 0) == UINT64_MAX);
}

static void clock_that_goes_back_adds_nothing(void **state)
{
	struct token_bucket b;

	token_bucket_init(&b, 1000, 1, 1000);
	assert_true(token_bucket_take(&b, 1, 1000));
	assert_false(token_bucket_take(&b, 1, 0));
	assert_false(token_bucket_take(&b, 1, 1000));
	assert_true(token_bucket_take(&b, 1, 1001));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starts_full_and_ends_empty),
		cmocka_unit_test(refills_at_its_rate_up_to_the_burst),
		cmocka_unit_test(many_small_refills_add_up),
		cmocka_unit_test(wait_is_exactly_as_long_as_needed),
		cmocka_unit_test(nothing_to_wait_for_is_zero_and_never_is_the_maximum),
		cmocka_unit_test(clock_that_goes_back_adds_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
