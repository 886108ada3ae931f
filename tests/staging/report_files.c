/* Sources: the JUnit XML that Jenkins and GitLab read (testsuite, testcase, failure); TAP version 13, testanything.org. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/report.h"

/* ---- JUnit ---- */

static void put_xml(FILE *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		if (*p == '&')
			fputs("&amp;", out);
		else if (*p == '<')
			fputs("&lt;", out);
		else if (*p == '>')
			fputs("&gt;", out);
		else if (*p == '"')
			fputs("&quot;", out);
		else
			fputc(*p < 0x20 && *p != '\n' && *p != '\t' ? '?' : *p, out);
}

static void write_junit_case(FILE *out, const struct result *r)
{
	fprintf(out, "    <testcase classname=\"pinion-staging\" name=\"%s\" time=\"%.3f\">\n", r->scenario->name,
	        (double)r->us / 1e6);
	if (!r->passed) {
		fprintf(out, "      <failure message=\"");
		put_xml(out, r->n_failures ? r->failures[0] : "");
		fprintf(out, "\">");
		for (size_t i = 0; i < r->n_failures && i < FAILURES_KEPT; i++) {
			put_xml(out, r->failures[i]);
			fputc('\n', out);
		}
		fprintf(out, "(%zu in all)</failure>\n", r->n_failures);
	}
	if (r->n_notes) {
		fprintf(out, "      <system-out>");
		for (size_t i = 0; i < r->n_notes; i++) {
			put_xml(out, r->notes[i]);
			fputc('\n', out);
		}
		fprintf(out, "</system-out>\n");
	}
	fprintf(out, "    </testcase>\n");
}

static void write_junit(FILE *out, struct report *report)
{
	size_t failed = 0;
	for (size_t i = 0; i < report->n; i++)
		failed += !report->results[i].passed;
	fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
	fprintf(out,
	        "  <testsuite name=\"pinion-staging\" tests=\"%zu\" failures=\"%zu\" errors=\"0\" skipped=\"0\" time=\"%.3f\">\n",
	        report->n, failed, (double)report->us / 1e6);
	for (size_t i = 0; i < report->n; i++)
		write_junit_case(out, &report->results[i]);
	fprintf(out, "  </testsuite>\n</testsuites>\n");
}

/* ---- TAP ---- */

static void put_line(FILE *out, const char *text)
{
	for (; *text; text++)
		fputc(*text == '\n' || *text == '\r' ? ' ' : *text, out);
	fputc('\n', out);
}

static void write_tap(FILE *out, struct report *report)
{
	fprintf(out, "TAP version 13\n1..%zu\n", report->n);
	for (size_t i = 0; i < report->n; i++) {
		const struct result *r = &report->results[i];
		fprintf(out, "%sok %zu - %s\n", r->passed ? "" : "not ", i + 1, r->scenario->name);
		for (size_t k = 0; k < r->n_failures && k < FAILURES_KEPT; k++) {
			fputs("# ", out);
			put_line(out, r->failures[k]);
		}
	}
}

/* ---- JSON ---- */

static json_t *texts(char *const *list, size_t n, size_t kept)
{
	json_t *array = json_array();
	for (size_t i = 0; i < n && i < kept; i++)
		json_array_append_new(array, json_stringn_nocheck(list[i], strlen(list[i])));
	return array;
}

static json_t *latencies(struct result *r)
{
	json_t *all = json_object();
	for (unsigned k = 0; k < N_LATENCIES; k++) {
		struct samples *s = &r->latency[k];
		if (s->n)
			json_object_set_new(all, latency_names[k],
			                    json_pack("{s:I,s:f,s:f,s:f,s:f}", "count", (json_int_t)s->n, "p50_ms",
			                              (double)samples_at(s, 0.5) / 1e3, "p90_ms",
			                              (double)samples_at(s, 0.9) / 1e3, "p99_ms",
			                              (double)samples_at(s, 0.99) / 1e3, "max_ms",
			                              (double)samples_at(s, 1) / 1e3));
	}
	return all;
}

static json_t *result_json(struct result *r)
{
	json_t *o = json_pack("{s:s,s:s,s:b,s:f}", "name", r->scenario->name, "proves", r->scenario->proves, "passed", r->passed,
	                      "seconds", (double)r->us / 1e6);
	const struct {
		const char *name;
		uint64_t n;
	} counts[] = {{"checks", r->checks},   {"connections", r->connections},
	              {"runs", r->runs},       {"events", r->events},
	              {"deltas", r->deltas},   {"bytes", r->bytes},
	              {"put_off", r->retries}, {"leaks", r->leaks}};
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
		json_object_set_new(o, counts[i].name, json_integer((json_int_t)counts[i].n));
	json_object_set_new(o, "failure_count", json_integer((json_int_t)r->n_failures));
	json_object_set_new(o, "failures", texts(r->failures, r->n_failures, FAILURES_KEPT));
	json_object_set_new(o, "notes", texts(r->notes, r->n_notes, NOTES_KEPT));
	json_object_set_new(o, "latency", latencies(r));
	return o;
}

static void write_json(FILE *out, struct report *report)
{
	bool passed = true;
	json_t *urls = json_array(), *scenarios = json_array();
	for (unsigned i = 0; i < report->options->n_endpoints; i++)
		json_array_append_new(urls, json_string(report->options->endpoints[i].url));
	for (size_t i = 0; i < report->n; i++) {
		passed &= report->results[i].passed;
		json_array_append_new(scenarios, result_json(&report->results[i]));
	}
	json_t *all = json_pack("{s:b,s:f,s:I,s:o,s:o}", "passed", passed, "seconds", (double)report->us / 1e6, "users",
	                        (json_int_t)report->options->users, "urls", urls, "scenarios", scenarios);
	json_dumpf(all, out, JSON_INDENT(2));
	fputc('\n', out);
	json_decref(all);
}

/* ---- files ---- */

static bool write_file(const char *path, void (*write)(FILE *out, struct report *report), struct report *report)
{
	if (!path)
		return true;
	FILE *out = fopen(path, "we");
	if (out) {
		write(out, report);
		bool failed = ferror(out);
		if (fclose(out) == 0 && !failed)
			return true;
	}
	fprintf(stderr, "pinion-staging: can't write %s: %s\n", path, strerror(errno));
	return false;
}

bool report_files(struct report *report)
{
	bool junit = write_file(report->options->junit, write_junit, report);
	bool json = write_file(report->options->json, write_json, report);
	bool tap = write_file(report->options->tap, write_tap, report);
	return junit && json && tap;
}
