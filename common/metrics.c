/* metrics.c - the list of metrics and its Prometheus text. Source: Prometheus exposition formats, text format 0.0.4. */
#include "common/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static const double default_bounds[] = {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};

/* The last metric's `next` is the end mark, so that NULL means: not registered. */
static struct metric end_mark;
static struct metric *first = &end_mark, **last = &first;

void metric_register(struct metric *metric)
{
	if (metric->next)
		return;
	if (metric->kind == METRIC_HISTOGRAM && metric->n_bounds == 0) {
		metric->bounds = default_bounds;
		metric->n_bounds = sizeof(default_bounds) / sizeof(default_bounds[0]);
	}
	assert(metric->n_bounds <= METRIC_BUCKETS_MAX);
	metric->next = &end_mark;
	*last = metric;
	last = &metric->next;
}

void metric_add(struct metric *metric, double n)
{
	metric_register(metric);
	metric->value += n;
}

void metric_set(struct metric *metric, double value)
{
	metric_register(metric);
	metric->value = value;
}

void metric_observe(struct metric *metric, double seconds)
{
	size_t i = 0;

	metric_register(metric);
	while (i < metric->n_bounds && seconds > metric->bounds[i])
		i++;
	metric->buckets[i]++;
	metric->value += seconds;
}

/* The shortest of two forms that gives the same number back. */
static void number(struct buf *out, double value)
{
	char text[40];

	snprintf(text, sizeof(text), "%.15g", value);
	if (strtod(text, NULL) != value)
		snprintf(text, sizeof(text), "%.17g", value);
	buf_append_c(out, text);
}

static void sample(struct buf *out, const char *name, const char *labels, double value)
{
	buf_append_c(out, name);
	if (labels)
		buf_printf(out, "{%s}", labels);
	buf_append_c(out, " ");
	number(out, value);
	buf_append_c(out, "\n");
}

static void bucket(struct buf *out, const struct metric *m, const char *le, uint64_t count)
{
	buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %llu\n", m->name, m->labels ? m->labels : "", m->labels ? "," : "", le,
	           (unsigned long long)count);
}

static void histogram(struct buf *out, const struct metric *m)
{
	uint64_t sum = 0;
	char name[256], le[32];

	for (size_t i = 0; i < m->n_bounds; i++) {
		sum += m->buckets[i];
		snprintf(le, sizeof(le), "%g", m->bounds[i]);
		bucket(out, m, le, sum);
	}
	sum += m->buckets[m->n_bounds];
	bucket(out, m, "+Inf", sum);
	snprintf(name, sizeof(name), "%s_sum", m->name);
	sample(out, name, m->labels, m->value);
	snprintf(name, sizeof(name), "%s_count", m->name);
	sample(out, name, m->labels, (double)sum);
}

static void head(struct buf *out, const char *name, const char *help, enum metric_kind kind)
{
	static const char *const kinds[] = {"counter", "gauge", "histogram"};

	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help ? help : name, name, kinds[kind]);
}

/* The format wants all lines of one name together, under one head. */
static bool is_first_of_name(const struct metric *metric)
{
	for (const struct metric *m = first; m != metric; m = m->next) {
		if (strcmp(m->name, metric->name) == 0)
			return false;
	}
	return true;
}

static void family(struct buf *out, const struct metric *metric)
{
	head(out, metric->name, metric->help, metric->kind);
	for (const struct metric *m = metric; m != &end_mark; m = m->next) {
		if (strcmp(m->name, metric->name) != 0)
			continue;
		if (m->kind == METRIC_HISTOGRAM)
			histogram(out, m);
		else
			sample(out, m->name, m->labels, m->value);
	}
}

static void process_metric(struct buf *out, const char *name, enum metric_kind kind, const char *help, double value)
{
	head(out, name, help, kind);
	sample(out, name, NULL, value);
}

static double cpu_seconds(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage) != 0)
		return 0;
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double resident_bytes(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%*s %ld", &pages) != 1)
		pages = 0;
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	double n = -3; /* ".", ".." and the directory's own */

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Unix time of the boot + the process's start in ticks (proc(5): stat, field 22). */
static double start_time(void)
{
	static double known;
	char line[1024], *p;
	unsigned long long boot = 0, ticks = 0;
	FILE *f;

	if (known > 0)
		return known;
	if ((f = fopen("/proc/stat", "re"))) {
		while (fgets(line, sizeof(line), f) && sscanf(line, "btime %llu", &boot) != 1)
			;
		fclose(f);
	}
	if ((f = fopen("/proc/self/stat", "re"))) {
		if (fgets(line, sizeof(line), f) && (p = strrchr(line, ')')))
			sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			       &ticks);
		fclose(f);
	}
	known = (double)boot + (double)ticks / (double)sysconf(_SC_CLK_TCK);
	return known;
}

void metrics_write(struct buf *out)
{
	for (const struct metric *m = first; m != &end_mark; m = m->next) {
		if (is_first_of_name(m))
			family(out, m);
	}
	process_metric(out, "process_resident_memory_bytes", METRIC_GAUGE, "Resident memory.", resident_bytes());
	process_metric(out, "process_cpu_seconds_total", METRIC_COUNTER, "User and system CPU time.", cpu_seconds());
	process_metric(out, "process_open_fds", METRIC_GAUGE, "Open file descriptors.", open_fds());
	process_metric(out, "process_start_time_seconds", METRIC_GAUGE, "Start of the process, Unix time.", start_time());
}
