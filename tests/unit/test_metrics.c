#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/metrics.h"

static struct metric opened = METRIC_INIT(METRIC_COUNTER, "t_opened_total", NULL, "Opened.");
static struct metric slow = METRIC_INIT(METRIC_COUNTER, "t_closed_total", "reason=\"slow\"", "Closed.");
static struct metric level = METRIC_INIT(METRIC_GAUGE, "t_level", NULL, "Level.");
static struct metric gone = METRIC_INIT(METRIC_COUNTER, "t_closed_total", "reason=\"gone\"", "Closed.");
static struct metric latency = METRIC_INIT(METRIC_HISTOGRAM, "t_latency_seconds", NULL, "Latency.");
static const double two_bounds[] = {0.5, 2};
static struct metric sized = {
	.name = "t_sized_seconds", .labels = "op=\"x\"", .kind = METRIC_HISTOGRAM, .bounds = two_bounds, .n_bounds = 2};

static struct buf out;

static const char *text(void)
{
	buf_clear(&out);
	metrics_write(&out);
	buf_append(&out, "", 1);
	return out.p;
}

static size_t occurrences(const char *in, const char *of)
{
	size_t n = 0;

	for (const char *p = in; (p = strstr(p, of)); p++)
		n++;
	return n;
}

static void registered_metrics_show_before_they_count(void **state)
{
	metric_register(&opened);
	metric_register(&opened);
	assert_int_equal(occurrences(text(), "\nt_opened_total 0\n"), 1);
	metric_add(&opened, 2);
	metric_add(&opened, 1);
	assert_int_equal(occurrences(text(), "\nt_opened_total 3\n"), 1);
}

static void labels_of_one_name_stand_together_under_one_head(void **state)
{
	metric_add(&slow, 1);
	metric_set(&level, 2.5);
	metric_add(&gone, 4);
	assert_non_null(strstr(text(), "# HELP t_closed_total Closed.\n# TYPE t_closed_total counter\n"
	                               "t_closed_total{reason=\"slow\"} 1\nt_closed_total{reason=\"gone\"} 4\n"));
	assert_int_equal(occurrences(text(), "# TYPE t_closed_total"), 1);
	assert_non_null(strstr(text(), "# TYPE t_level gauge\nt_level 2.5\n"));
}

static void gauge_shows_its_last_value_exactly(void **state)
{
	metric_set(&level, 0.1);
	assert_non_null(strstr(text(), "\nt_level 0.1\n"));
	metric_set(&level, 123456789012345);
	assert_non_null(strstr(text(), "\nt_level 123456789012345\n"));
	metric_set(&level, -3);
	assert_non_null(strstr(text(), "\nt_level -3\n"));
}

static void histogram_counts_cumulatively(void **state)
{
	metric_observe(&sized, 0.5);
	metric_observe(&sized, 1);
	metric_observe(&sized, 99);
	assert_non_null(strstr(text(), "t_sized_seconds_bucket{op=\"x\",le=\"0.5\"} 1\n"
	                               "t_sized_seconds_bucket{op=\"x\",le=\"2\"} 2\n"
	                               "t_sized_seconds_bucket{op=\"x\",le=\"+Inf\"} 3\n"
	                               "t_sized_seconds_sum{op=\"x\"} 100.5\n"
	                               "t_sized_seconds_count{op=\"x\"} 3\n"));
}

static void histogram_has_bounds_of_its_own_accord(void **state)
{
	metric_observe(&latency, 0.0005);
	metric_observe(&latency, 60);
	assert_non_null(strstr(text(), "t_latency_seconds_bucket{le=\"0.001\"} 1\n"));
	assert_non_null(strstr(text(), "t_latency_seconds_bucket{le=\"10\"} 1\nt_latency_seconds_bucket{le=\"+Inf\"} 2\n"));
}

static double value_of(const char *name)
{
	const char *at = strstr(text(), name);

	assert_non_null(at);
	return strtod(at + strlen(name), NULL);
}

static void process_metrics_are_there_and_sane(void **state)
{
	assert_true(value_of("\nprocess_resident_memory_bytes ") > 100000);
	assert_true(value_of("\nprocess_cpu_seconds_total ") >= 0);
	assert_in_range(value_of("\nprocess_open_fds "), 3, 1000);
	assert_true(value_of("\nprocess_start_time_seconds ") > 1.6e9);
}

static void every_line_ends(void **state)
{
	text();
	assert_int_equal(out.p[out.n - 2], '\n');
	assert_null(strstr(out.p, "\n\n"));
}

static int finish(void **state)
{
	buf_finish(&out);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registered_metrics_show_before_they_count),
		cmocka_unit_test(labels_of_one_name_stand_together_under_one_head),
		cmocka_unit_test(gauge_shows_its_last_value_exactly),
		cmocka_unit_test(histogram_counts_cumulatively),
		cmocka_unit_test(histogram_has_bounds_of_its_own_accord),
		cmocka_unit_test(process_metrics_are_there_and_sane),
		cmocka_unit_test(every_line_ends),
	};

	return cmocka_run_group_tests(tests, NULL, finish);
}
