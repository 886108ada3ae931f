#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/bytes.h"

static void buf_grows_and_keeps_what_it_has(void **state)
{
	struct buf buf = {0};

	for (int i = 0; i < 10000; i++)
		buf_append(&buf, &(char){(char)('a' + i % 26)}, 1);
	assert_int_equal(buf.n, 10000);
	for (size_t i = 0; i < buf.n; i++)
		assert_int_equal(buf.p[i], 'a' + i % 26);
	buf_finish(&buf);
	assert_null(buf.p);
	buf_finish(&buf);
}

static void buf_printf_grows_beyond_its_first_guess(void **state)
{
	struct buf buf = {0};

	buf_append_c(&buf, "a");
	buf_printf(&buf, "%0300d", 7);
	buf_printf(&buf, "%s", "");
	assert_int_equal(buf.n, 301);
	assert_int_equal(buf.p[300], '7');
	buf_finish(&buf);
}

static void buf_printf_is_whole_at_every_length(void **state)
{
	for (int n = 1; n < 600; n++) {
		struct buf buf = {0};

		buf_printf(&buf, "%0*d", n, 7);
		assert_int_equal(buf.n, n);
		assert_int_equal(buf.p[n - 1], '7');
		buf_finish(&buf);
	}
}

static void buf_consume_drops_at_the_front(void **state)
{
	struct buf buf = {0};

	buf_append_str(&buf, str_c("hello world"));
	buf_consume(&buf, 6);
	assert_true(str_eq_c(buf_str(&buf), "world"));
	buf_consume(&buf, 5);
	assert_int_equal(buf.n, 0);
	buf_consume(&buf, 0);
	buf_clear(&buf);
	buf_finish(&buf);
}

static void empty_appends_to_a_zeroed_buf_are_fine(void **state)
{
	struct buf buf = {0};

	buf_append(&buf, NULL, 0);
	buf_append_str(&buf, str_c(NULL));
	assert_int_equal(buf.n, 0);
	assert_non_null(buf_reserve(&buf, 0));
	buf_finish(&buf);
}

static void bytes_live_until_the_last_reference_goes(void **state)
{
	struct bytes *bytes = bytes_create("abc", 3);

	assert_ptr_equal(bytes_ref(bytes), bytes);
	bytes_unref(bytes);
	assert_true(str_eq_c(bytes_str(bytes), "abc"));
	bytes_unref(bytes);
	bytes_unref(NULL);
	assert_int_equal(bytes_str(NULL).n, 0);
}

static void arena_gives_zeroed_aligned_memory(void **state)
{
	struct arena arena = {0};

	for (size_t n = 0; n < 3000; n += 7) {
		unsigned char *p = arena_alloc(&arena, n);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % _Alignof(max_align_t), 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(p[i], 0);
		memset(p, 0xff, n);
	}
	arena_reset(&arena);
	assert_int_equal(arena.used, 0);
	assert_int_equal(*(unsigned char *)arena_alloc(&arena, 100), 0);
	arena_finish(&arena);
	arena_finish(&arena);
}

static void arena_stops_at_its_limit_and_goes_on_after_reset(void **state)
{
	struct arena arena;

	arena_init(&arena, 10000);
	assert_non_null(arena_alloc(&arena, 9000));
	assert_null(arena_alloc(&arena, 2000));
	assert_null(arena_alloc(&arena, SIZE_MAX));
	assert_null(arena_alloc(&arena, SIZE_MAX - 8));
	assert_non_null(arena_alloc(&arena, 500));
	arena_reset(&arena);
	assert_non_null(arena_alloc(&arena, 9000));
	arena_finish(&arena);
}

static void arena_copies_are_terminated(void **state)
{
	struct arena arena;
	struct str copy;

	arena_init(&arena, 64);
	copy = arena_copy(&arena, str_of("abcdef", 3));
	assert_int_equal(copy.n, 3);
	assert_string_equal(copy.p, "abc");
	copy = arena_copy(&arena, str_c(NULL));
	assert_string_equal(copy.p, "");
	copy = arena_copy(&arena, str_of("x", 1));
	copy = arena_copy(&arena, str_c("this is beyond the limit of the arena by a few bytes at least"));
	assert_null(copy.p);
	assert_int_equal(copy.n, 0);
	arena_finish(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buf_grows_and_keeps_what_it_has),
		cmocka_unit_test(buf_printf_grows_beyond_its_first_guess),
		cmocka_unit_test(buf_printf_is_whole_at_every_length),
		cmocka_unit_test(buf_consume_drops_at_the_front),
		cmocka_unit_test(empty_appends_to_a_zeroed_buf_are_fine),
		cmocka_unit_test(bytes_live_until_the_last_reference_goes),
		cmocka_unit_test(arena_gives_zeroed_aligned_memory),
		cmocka_unit_test(arena_stops_at_its_limit_and_goes_on_after_reset),
		cmocka_unit_test(arena_copies_are_terminated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
