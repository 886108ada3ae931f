/*
 * metrics.h - counters, gauges and histograms in Prometheus's text form (exposition format 0.0.4). Thread: one.
 * Metrics are static objects that register themselves; nothing is allocated while counting.
 */
#ifndef PINION_COMMON_METRICS_H
#define PINION_COMMON_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include "common/bytes.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_BUCKETS_MAX 16

struct metric {
	const char *name;   /* pinion_gateway_connections */
	const char *labels; /* "reason=\"slow\"", without braces; NULL: none */
	const char *help;
	enum metric_kind kind;
	const double *bounds; /* histogram: upper bounds in seconds, ascending */
	size_t n_bounds;
	double value; /* counter, gauge; histogram: the sum */
	uint64_t buckets[METRIC_BUCKETS_MAX + 1];
	struct metric *next;
};

#define METRIC_INIT(kind_, name_, labels_, help_)                              \
	{                                                                      \
		.name = name_, .labels = labels_, .help = help_, .kind = kind_ \
	}

void metric_register(struct metric *metric); /* twice is once */
void metric_add(struct metric *metric, double n);
void metric_set(struct metric *metric, double value);
void metric_observe(struct metric *metric, double seconds); /* default bounds where none are given: 1 ms … 10 s */
void metrics_write(struct buf *out);                        /* all registered, plus process RSS, CPU seconds, open descriptors */

#endif
