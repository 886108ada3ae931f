/*
 * main.c - pinion-staging: a client of any deployment, which proves from outside what the deployment promises.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include "tests/staging/report.h"
#include "tests/staging/scenario.h"

static void list_scenarios(void)
{
	for (size_t i = 0; i < n_scenarios; i++)
		printf("%-12s %s%s\n", scenarios[i].name, scenarios[i].proves,
		       scenarios[i].needs_chaos ? " (needs --chaos)" : "");
}

/* As many descriptors as this process may have. */
static void raise_descriptors(uint64_t users)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < users * 2 + 64)
		fprintf(stderr, "pinion-staging: %llu descriptors may be too few for %llu users (ulimit -n)\n",
		        (unsigned long long)limit.rlim_cur, (unsigned long long)users);
}

/* The results, one for each selected scenario; NULL where a name is wrong. */
static struct result *select_scenarios(const struct staging_options *o, size_t *n)
{
	struct result *results = calloc(n_scenarios + o->scenario.n, sizeof *results);
	if (!results)
		abort();
	*n = 0;
	for (size_t i = 0; i < o->scenario.n; i++) {
		results[*n].scenario = scenario_find(o->scenario.items[i]);
		if (!results[(*n)++].scenario) {
			fprintf(stderr, "pinion-staging: --scenario %s: there is none of this name (see --list)\n",
			        o->scenario.items[i]);
			free(results);
			return NULL;
		}
	}
	for (size_t i = 0; i < n_scenarios && !o->scenario.n; i++)
		if (!scenarios[i].needs_chaos || o->chaos || o->chaos_drain)
			results[(*n)++].scenario = &scenarios[i];
	return results;
}

static bool run(struct report *report)
{
	bool passed = report->n > 0;
	uint64_t nonce = 0, begin = clock_us();
	if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
		nonce = begin;
	report_opening(report);
	for (size_t i = 0; i < report->n; i++) {
		stage_play(report->options, report->results[i].scenario, nonce, (unsigned)i, &report->results[i]);
		report_result(&report->results[i]);
		passed &= report->results[i].passed;
	}
	report->us = clock_us() - begin;
	report_closing(report);
	return report_files(report) && passed;
}

int main(int argc, char **argv)
{
	struct staging_options options = {0};
	struct report report = {.options = &options};
	enum config_verdict verdict = staging_options_load(&options, argc, argv);
	int status = verdict == CONFIG_BAD ? 2 : 0;
	signal(SIGPIPE, SIG_IGN);
	if (verdict == CONFIG_RUN && options.list) {
		list_scenarios();
	} else if (verdict == CONFIG_RUN || verdict == CONFIG_CHECK) {
		report.results = select_scenarios(&options, &report.n);
		if (!report.results)
			status = 2;
		else if (verdict == CONFIG_CHECK)
			printf("configuration is valid\n");
		else {
			raise_descriptors(options.users);
			status = run(&report) ? 0 : 1;
		}
	}
	for (size_t i = 0; i < report.n && report.results; i++)
		result_finish(&report.results[i]);
	free(report.results);
	staging_options_free(&options);
	return status;
}
