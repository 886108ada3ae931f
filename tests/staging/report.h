/* report.h - what came out: a table for people, and JUnit XML, JSON and TAP for programs. */
#ifndef PINION_STAGING_REPORT_H
#define PINION_STAGING_REPORT_H

#include "tests/staging/stage.h"

struct report {
	const struct staging_options *options;
	struct result *results;
	size_t n;
	uint64_t us;
};

void report_opening(const struct report *report);
/* One scenario's line, and its failures and notes, right after it. */
void report_result(struct result *result);
void report_closing(struct report *report);
/* The files that the options name. False where one can't be written (it has said why on stderr). */
bool report_files(struct report *report);

#endif
