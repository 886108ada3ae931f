#include "tests/staging/report.h"

#include <stdio.h>
#include <unistd.h>

static const char *paint(const char *code)
{
	return isatty(STDOUT_FILENO) ? code : "";
}

#define GREEN paint("\033[32m")
#define RED paint("\033[1;31m")
#define DIM paint("\033[2m")
#define PLAIN paint("\033[0m")

static void print_ms(uint64_t us)
{
	if (us < 100000)
		printf(" %9.1f", (double)us / 1e3);
	else
		printf(" %9.0f", (double)us / 1e3);
}

void report_opening(const struct report *report)
{
	const struct staging_options *o = report->options;
	printf("pinion-staging: %zu scenario%s, %llu users, on", report->n, report->n == 1 ? "" : "s",
	       (unsigned long long)o->users);
	for (unsigned i = 0; i < o->n_endpoints; i++)
		printf(" %s", o->endpoints[i].url);
	printf("\n\n");
	fflush(stdout);
}

void report_result(struct result *r)
{
	printf("%s%s%s %-12s %6.1f s  %7llu checks %6llu connections %6llu runs %8llu events",
	       isatty(STDOUT_FILENO) ? "\r\033[K  " : "  ", r->passed ? GREEN : RED, r->passed ? "ok   " : "FAILED",
	       r->scenario->name, (double)r->us / 1e6, (unsigned long long)r->checks, (unsigned long long)r->connections,
	       (unsigned long long)r->runs, (unsigned long long)r->events);
	if (r->retries)
		printf(" %llu put off", (unsigned long long)r->retries);
	printf("%s\n", PLAIN);
	for (size_t i = 0; i < r->n_failures && i < FAILURES_KEPT; i++)
		printf("         %s- %s%s\n", RED, r->failures[i], PLAIN);
	if (r->n_failures > FAILURES_KEPT)
		printf("         %s- and %zu more%s\n", RED, r->n_failures - FAILURES_KEPT, PLAIN);
	for (size_t i = 0; i < r->n_notes; i++)
		printf("         %s%s%s\n", DIM, r->notes[i], PLAIN);
	fflush(stdout);
}

static void print_latencies(struct report *report)
{
	bool any = false;
	for (size_t i = 0; i < report->n; i++)
		for (unsigned k = 0; k < N_LATENCIES; k++)
			any |= report->results[i].latency[k].n > 1;
	if (!any)
		return;
	printf("\nLatency in ms         count       p50       p90       p99       max\n");
	for (size_t i = 0; i < report->n; i++) {
		struct result *r = &report->results[i];
		for (unsigned k = 0; k < N_LATENCIES; k++) {
			struct samples *s = &r->latency[k];
			if (s->n < 2)
				continue;
			printf("  %-11s %-7s %6zu", r->scenario->name, latency_names[k], s->n);
			print_ms(samples_at(s, 0.5));
			print_ms(samples_at(s, 0.9));
			print_ms(samples_at(s, 0.99));
			print_ms(samples_at(s, 1));
			printf("\n");
		}
	}
}

void report_closing(struct report *report)
{
	size_t passed = 0;
	struct result sum = {0};
	for (size_t i = 0; i < report->n; i++) {
		const struct result *r = &report->results[i];
		passed += r->passed;
		sum.checks += r->checks;
		sum.connections += r->connections;
		sum.runs += r->runs;
		sum.events += r->events;
		sum.deltas += r->deltas;
		sum.bytes += r->bytes;
		sum.leaks += r->leaks;
	}
	print_latencies(report);
	printf("\n%llu connections, %llu runs, %llu events, %llu deltas, %.1f MB; %llu checks, %llu leaks, in %.0f s\n",
	       (unsigned long long)sum.connections, (unsigned long long)sum.runs, (unsigned long long)sum.events,
	       (unsigned long long)sum.deltas, (double)sum.bytes / 1e6, (unsigned long long)sum.checks,
	       (unsigned long long)sum.leaks, (double)report->us / 1e6);
	if (passed == report->n) {
		printf("%sPASSED: %zu of %zu scenarios%s\n", GREEN, passed, report->n, PLAIN);
		return;
	}
	printf("%sFAILED: %zu of %zu scenarios:", RED, report->n - passed, report->n);
	for (size_t i = 0; i < report->n; i++)
		if (!report->results[i].passed)
			printf(" %s", report->results[i].scenario->name);
	printf("%s\n", PLAIN);
}
