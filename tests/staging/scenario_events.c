/* scenario_events.c - events: whole, in order, the same for all tabs and after a cut. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

enum { STREAM_TOKENS = 60, STREAM_BYTES = 16 };

static unsigned at_most(uint64_t users, unsigned n)
{
	return users < n ? (unsigned)users : n;
}

/* ---- events ---- */

static json_t *varied_input(const struct client *client, size_t i)
{
	return script(
		"[{\"think\":\"one\"},{\"tool\":\"calculator\",\"arguments\":{\"expression\":\"6*7\"}},{\"say\":\"%s\"},"
		"{\"stream\":{\"tokens\":%d,\"interval_ms\":2,\"bytes\":%d}},{\"say\":\"gr\\u00fc\\u00dfe \\ud83d\\ude00\"}]",
		client->person->mark, STREAM_TOKENS, STREAM_BYTES);
}

static const char *const varied_events[] = {"run_accepted",   "agent_started",  "agent_thinking",
                                            "tool_executing", "tool_completed", "agent_message",
                                            "agent_message",  "agent_message",  "agent_completed"};

static void check_order(struct job *job)
{
	struct client *client = job->client;
	size_t k = 0, n = sizeof varied_events / sizeof *varied_events;
	for (size_t i = job->first_event; i < client->n_log; i++) {
		const struct seen *seen = &client->log[i];
		if (strcmp(seen->run, job->run) != 0)
			continue;
		if (!stage_check(client->stage, k < n && !strcmp(seen->type, varied_events[k]),
		                 "%s: event %zu of the run is %s, not %s", client->person->user, k + 1, seen->type,
		                 k < n ? varied_events[k] : "none"))
			return;
		k++;
	}
	stage_check(client->stage, k == n, "%s: the run has %zu events, not %zu", client->person->user, k, n);
}

static void check_text(struct job *job, unsigned n, const char *expected)
{
	json_t *event = job_event(job, "agent_message", n);
	stage_check(job->client->stage, !strcmp(chat_text_of(event, "text"), expected),
	            "%s: message %u is \"%.60s\", not \"%.60s\"", job->client->person->user, n + 1, chat_text_of(event, "text"),
	            expected);
	json_decref(event);
}

/* What the script's stream says, token by token. */
static char *stream_text(unsigned tokens, unsigned bytes)
{
	struct blob out = {0};
	for (unsigned i = 1; i <= tokens; i++) {
		char label[24];
		unsigned n = (unsigned)snprintf(label, sizeof label, "tok%05u", i);
		blob_add_c(&out, label);
		for (; n < bytes - 1; n++)
			blob_add_c(&out, ".");
		blob_add_c(&out, " ");
	}
	return out.p;
}

static void check_fields(struct job *job)
{
	struct stage *stage = job->client->stage;
	json_t *accepted = job_event(job, "run_accepted", 0), *executing = job_event(job, "tool_executing", 0),
	       *completed = job_event(job, "tool_completed", 0), *end = job_event(job, "agent_completed", 0);
	char *result = json_dumps(json_object_get(completed, "result"), JSON_COMPACT | JSON_ENCODE_ANY);
	stage_check(stage, !strcmp(chat_text_of(accepted, "request_id"), job->ask),
	            "run_accepted has request_id \"%s\", not \"%s\"", chat_text_of(accepted, "request_id"), job->ask);
	stage_check(stage, !strcmp(chat_text_of(accepted, "agent"), stage->options->agent), "run_accepted names the agent \"%s\"",
	            chat_text_of(accepted, "agent"));
	stage_check(stage, json_equal(json_object_get(accepted, "input"), json_object_get(job->message, "input")),
	            "run_accepted has another input than was sent");
	stage_check(stage,
	            chat_text_of(executing, "tool_call_id")[0] &&
	                    !strcmp(chat_text_of(executing, "tool_call_id"), chat_text_of(completed, "tool_call_id")),
	            "tool_executing and tool_completed are not of one call");
	stage_check(stage, !strcmp(chat_text_of(completed, "status"), "ok") && result && strstr(result, "42"),
	            "the calculator says %s: %.60s of 6*7", chat_text_of(completed, "status"), result ? result : "nothing");
	stage_check(stage, json_is_object(json_object_get(end, "usage")) && json_is_integer(json_object_get(end, "duration_ms")),
	            "agent_completed lacks usage or duration_ms");
	free(result);
	json_decref(accepted);
	json_decref(executing);
	json_decref(completed);
	json_decref(end);
}

void play_events(struct stage *stage)
{
	unsigned n = at_most(stage->options->users, 200);
	struct client **clients = stage_crowd(stage, n, NULL);
	struct job *jobs = jobs_start_each(clients, n, NULL, varied_input);
	char *stream = stream_text(STREAM_TOKENS, STREAM_BYTES);
	jobs_wait(jobs, n, JOB_ENDED, 90000);
	for (unsigned i = 0; i < n; i++) {
		if (!job_check(&jobs[i], "agent_completed"))
			continue;
		check_order(&jobs[i]);
		check_fields(&jobs[i]);
		check_text(&jobs[i], 0, clients[i]->person->mark);
		check_text(&jobs[i], 1, stream);
		check_text(&jobs[i], 2,
		           "gr\xc3\xbc\xc3\x9f"
		           "e \xf0\x9f\x98\x80");
	}
	free(stream);
	for (unsigned i = 0; i < n; i++) {
		stage_doing(stage, "%u of %u logs are compared with their replay", i, n);
		stage_compare_replay(stage, clients[i]);
	}
}

/* ---- tabs ---- */

enum { TABS = 4, TAB_USERS = 50 };

static bool same_logs(struct stage *stage, const struct client *a, const struct client *b)
{
	if (!stage_check(stage, a->n_log == b->n_log, "%s: one tab heard %zu events, another %zu", a->person->user, a->n_log,
	                 b->n_log))
		return false;
	for (size_t i = 0; i < a->n_log; i++)
		if (!stage_check(stage, a->log[i].seq == b->log[i].seq && a->log[i].hash == b->log[i].hash,
		                 "%s: event %llu differs between two tabs", a->person->user, (unsigned long long)a->log[i].seq))
			return false;
	return true;
}

static json_t *tab_input(const struct client *client, size_t i)
{
	return script("[{\"think\":\"%s\"},{\"stream\":{\"tokens\":30,\"interval_ms\":5,\"bytes\":9}},{\"say\":\"%s\"}]",
	              client->person->mark, client->person->mark);
}

void play_tabs(struct stage *stage)
{
	unsigned n = at_most(stage->options->users, TAB_USERS);
	struct client *tabs[TAB_USERS][TABS];
	struct job *jobs = jobs_alloc(stage, (size_t)n * 2);
	for (unsigned i = 0; i < n; i++) {
		struct person *person = stage_person(stage);
		for (unsigned t = 0; t < TABS; t++) {
			struct client_args args = {.url = i + t};
			stage_doing(stage, "%u of %u users are in with %d tabs", i, n, TABS);
			tabs[i][t] = client_enter(stage, person, &args);
		}
	}
	for (unsigned i = 0; i < n; i++) /* two tabs of each speak at once */
		for (unsigned t = 0; t < 2; t++)
			job_start(&jobs[i * 2 + t], tabs[i][t], tab_input(tabs[i][t], i), NULL, NULL);
	jobs_wait(jobs, (size_t)n * 2, JOB_ENDED, 60000);
	for (unsigned i = 0; i < n; i++) {
		uint64_t last = 0;
		job_check(&jobs[i * 2], "agent_completed");
		job_check(&jobs[i * 2 + 1], "agent_completed");
		for (unsigned t = 0; t < TABS; t++)
			last = tabs[i][t]->last_seq > last ? tabs[i][t]->last_seq : last;
		for (unsigned t = 0; t < TABS; t++)
			client_wait_seq(tabs[i][t], last, 10000);
		for (unsigned t = 1; t < TABS; t++)
			if (!same_logs(stage, tabs[i][0], tabs[i][t]))
				break;
	}
}

/* ---- resume ---- */

static json_t *long_input(const struct client *client, size_t i)
{
	return script("[{\"think\":\"%s\"},{\"stream\":{\"tokens\":100,\"interval_ms\":10,\"bytes\":12}},"
	              "{\"tool\":\"clock\",\"arguments\":{}},{\"stream\":{\"tokens\":100,\"interval_ms\":10,\"bytes\":12}},"
	              "{\"say\":\"%s\"}]",
	              client->person->mark, client->person->mark);
}

/* Cuts someone's connection now and then until all runs have ended; they come back, at another URL, where they were. */
static void cut_at_random(struct stage *stage, struct client **clients, struct job *jobs, unsigned n)
{
	struct random random = {stage->nonce};
	uint64_t deadline = clock_us() + 60000000ull * patience();
	unsigned ended = 0, cuts = 0;
	while (ended < n && clock_us() < deadline && clock_us() < stage->deadline_us) {
		stage_linger(stage, 10);
		jobs_look(jobs, n);
		ended = 0;
		for (unsigned i = 0; i < n; i++) {
			ended += jobs[i].state >= JOB_ENDED;
			if (jobs[i].state >= JOB_ENDED || !client_is_welcome(clients[i]) || random_below(&random, 60) != 0)
				continue;
			client_cut(clients[i]);
			cuts++;
		}
		stage_doing(stage, "%u of %u runs have ended, %u cuts", ended, n, cuts);
	}
	stage_check(stage, cuts > 0, "nothing was cut");
	stage_note(stage, "%u connections were cut in the middle of %u runs", cuts, n);
}

void play_resume(struct stage *stage)
{
	unsigned n = at_most(stage->options->users, 200);
	struct client_args args = {.returns = true};
	struct client **clients = stage_crowd(stage, n, &args);
	struct job *jobs = jobs_start_each(clients, n, NULL, long_input);
	cut_at_random(stage, clients, jobs, n);
	jobs_wait(jobs, n, JOB_ENDED, 30000);
	for (unsigned i = 0; i < n; i++)
		job_check(&jobs[i], "agent_completed");
	for (unsigned i = 0; i < n; i++) {
		stage_doing(stage, "%u of %u logs are compared with their replay", i, n);
		stage_compare_replay(stage, clients[i]);
	}
}
