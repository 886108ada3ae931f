/* scenario_isolation.c - what is mine stays mine: every frame of every connection is searched (client.c); here is the bait. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

/* ---- canary ---- */

static json_t *keep_input(const struct client *client, size_t i)
{
	const char *mark = client->person->mark;
	return script("[{\"tool\":\"notes\",\"arguments\":{\"op\":\"put\",\"key\":\"canary\",\"value\":\"%s\"}},{\"say\":\"%s\"},"
	              "{\"tool\":\"notes\",\"arguments\":{\"op\":\"get\",\"key\":\"canary\"}}]",
	              mark, mark);
}

static json_t *recall_input(const struct client *client, size_t i)
{
	return script("[{\"tool\":\"notes\",\"arguments\":{\"op\":\"get\",\"key\":\"canary\"}},"
	              "{\"tool\":\"notes\",\"arguments\":{\"op\":\"list\"}}]");
}

static json_t *ask_threads(const struct client *client, size_t i, void *ctx)
{
	return json_pack("{s:s}", "type", "thread.list");
}

static json_t *ask_runs(const struct client *client, size_t i, void *ctx)
{
	return json_pack("{s:s}", "type", "run.list");
}

static json_t *ask_history(const struct client *client, size_t i, void *ctx)
{
	const struct job *jobs = ctx;
	return json_pack("{s:s,s:s}", "type", "thread.history", "thread_id", jobs[i].thread);
}

/* The job's n-th tool gave back what its person keeps. */
static void check_recalled(struct job *job, unsigned n)
{
	json_t *event = job_event(job, "tool_completed", n);
	char *text = event ? json_dumps(event, JSON_COMPACT) : NULL;
	stage_check(job->client->stage, text && strstr(text, job->client->person->mark),
	            "%s does not find what they keep: %.160s", job->client->person->user, text ? text : "no tool_completed");
	free(text);
	json_decref(event);
}

static void check_answers(struct client **clients, size_t n, json_t **answers, const char *list, const char *what)
{
	for (size_t i = 0; i < n; i++)
		stage_check(clients[i]->stage, answers[i] && json_array_size(json_object_get(answers[i], list)) > 0,
		            "%s: %s answers %s without what is theirs", clients[i]->person->user, what, chat_code(answers[i]));
}

void play_canary(struct stage *stage)
{
	size_t n = stage->options->users;
	struct client **clients = stage_crowd(stage, (unsigned)n, NULL);
	struct job *jobs = jobs_start_each(clients, n, NULL, keep_input);
	jobs_wait(jobs, n, JOB_ENDED, 150000);
	for (size_t i = 0; i < n; i++)
		if (job_check(&jobs[i], "agent_completed"))
			check_recalled(&jobs[i], 1);
	check_answers(clients, n, stage_ask_each(clients, n, ask_threads, NULL), "threads", "thread.list");
	check_answers(clients, n, stage_ask_each(clients, n, ask_runs, NULL), "runs", "run.list");
	check_answers(clients, n, stage_ask_each(clients, n, ask_history, jobs), "messages", "thread.history");
	struct job *again = jobs_start_each(clients, n, NULL, recall_input);
	jobs_wait(again, n, JOB_ENDED, 150000);
	for (size_t i = 0; i < n; i++)
		if (job_check(&again[i], "agent_completed"))
			check_recalled(&again[i], 0);
	stage_note(stage, "%.1f MB that were sent to %zu users were searched for others' marks, runs and threads: %llu leaks",
	           (double)stage->result->bytes / 1e6, n, (unsigned long long)stage->result->leaks);
}

/* ---- foreign ---- */

struct scene {
	struct stage *stage;
	struct client *owner, *intruder;
	struct job *job; /* the owner's, under way */
};

/* The refusal without its id. */
static char *refusal_text(json_t *answer)
{
	json_t *copy = json_copy(answer);
	json_object_del(copy, "id");
	char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(copy);
	return text;
}

static json_t *command(const char *type, const char *field, const char *id)
{
	json_t *m = json_pack("{s:s,s:s}", "type", type, field, id);
	if (!strcmp(type, "tool.decide"))
		json_object_update_new(m, json_pack("{s:s,s:s}", "tool_call_id", id, "decision", "allow"));
	if (!strcmp(type, "thread.rename"))
		json_object_set_new(m, "title", json_string("mine now"));
	if (!strcmp(type, "run.start"))
		json_object_set_new(m, "input", json_string("hello"));
	return m;
}

static void all_alike(struct scene *s, const char *type, const char *field, const char *foreign)
{
	const char *ids[] = {"7f3b7f6e-52d4-4c8b-9a51-0d6a2ad7c1e5", foreign, "no id at all", "../../etc/passwd"};
	char *first = NULL;
	for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
		json_t *answer = client_call(s->intruder, command(type, field, ids[i]));
		char *text = answer ? refusal_text(answer) : strdup("no answer");
		stage_check(s->stage, !strcmp(chat_code(answer), "not_found"), "%s of \"%s\" answers %.160s", type, ids[i], text);
		if (first)
			stage_check(s->stage, !strcmp(first, text),
			            "%s tells a foreign ID from one that never was: %.120s, %.120s", type, first, text);
		else
			first = strdup(text);
		free(text);
	}
	free(first);
}

static void expect_code(struct scene *s, const char *what, json_t *message, const char *code)
{
	json_t *answer = client_call(s->intruder, message);
	stage_check(s->stage, answer && !strcmp(chat_code(answer), code), "%s answers \"%s\", not \"%s\"", what,
	            chat_code(answer), code);
}

/* Every command with another's user_id is refused before it does anything. */
static void body_user_ids(struct scene *s)
{
	static const char *const types[] = {"ping", "thread.list", "run.list"};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		expect_code(s, "another's user_id", json_pack("{s:s,s:s}", "type", types[i], "user_id", s->owner->person->user),
		            "forbidden");
		expect_code(s, "one's own user_id",
		            json_pack("{s:s,s:s}", "type", types[i], "user_id", s->intruder->person->user), "");
	}
	expect_code(s, "run.start in another's name",
	            json_pack("{s:s,s:s,s:s}", "type", "run.start", "input", "hello", "user_id", s->owner->person->user),
	            "forbidden");
}

static void same_key(struct scene *s)
{
	json_t *m = json_pack("{s:s,s:s,s:s,s:o}", "type", "run.start", "idempotency_key", "the-same-key", "agent",
	                      s->stage->options->agent, "input", script("[{\"think\":\"x\"}]"));
	char mine[40], again[40], theirs[40];
	snprintf(mine, sizeof mine, "%s", chat_text_of(client_call(s->intruder, json_copy(m)), "run_id"));
	snprintf(again, sizeof again, "%s", chat_text_of(client_call(s->intruder, json_copy(m)), "run_id"));
	snprintf(theirs, sizeof theirs, "%s", chat_text_of(client_call(s->owner, json_copy(m)), "run_id"));
	stage_check(s->stage, mine[0] && !strcmp(mine, again), "the same idempotency key started two runs: \"%s\", \"%s\"", mine,
	            again);
	stage_check(s->stage, theirs[0] && strcmp(mine, theirs) != 0, "two users' idempotency keys are one");
	json_object_set_new(m, "input", script("[{\"think\":\"y\"}]"));
	expect_code(s, "the same key with another input", m, "conflict");
}

static void forging(struct scene *s)
{
	struct job *jobs = jobs_alloc(s->stage, 3);
	job_start(&jobs[0], s->intruder, script("[{\"forge\":{\"user_id\":\"%s\"}}]", s->owner->person->user), NULL, NULL);
	job_start(&jobs[1], s->intruder, script("[{\"forge\":{\"run_id\":\"%s\"}}]", s->job->run), NULL, NULL);
	job_start(&jobs[2], s->intruder,
	          script("[{\"forge\":{\"user_id\":\"%s\",\"run_id\":\"%s\"}}]", s->owner->person->user, s->job->run), NULL,
	          NULL);
	jobs_wait(jobs, 3, JOB_ENDED, 30000);
	for (unsigned i = 0; i < 3; i++) {
		char code[48];
		job_check(&jobs[i], "agent_failed");
		job_end_field(&jobs[i], "code", code, sizeof code);
		stage_check(s->stage, !strcmp(code, "denied"), "a run that spoke in another's name ended with \"%s\", not denied",
		            code);
	}
}

static void foreign_numbers(struct scene *s)
{
	struct client_args args = {.resume = true, .last_seq = s->owner->last_seq + 1000000};
	struct client *client = client_enter(s->stage, s->intruder->person, &args);
	stage_check(s->stage, !json_is_true(json_object_get(client->chat->welcome, "resumed")),
	            "a last_seq that never was is resumed");
	client_close(client);
}

void play_foreign(struct stage *stage)
{
	struct client_args other_url = {.url = 1};
	struct scene s = {.stage = stage,
	                  .owner = client_enter(stage, stage_person(stage), NULL),
	                  .intruder = client_enter(stage, stage_person(stage), &other_url),
	                  .job = jobs_alloc(stage, 1)};
	job_start(s.job, s.owner,
	          script("[{\"say\":\"%s\"},{\"stream\":{\"tokens\":40,\"interval_ms\":50,\"bytes\":9}}]", s.owner->person->mark),
	          NULL, NULL);
	if (!jobs_wait(s.job, 1, JOB_ACKED, 20000) || s.job->state == JOB_REFUSED)
		stage_fail(stage, "the owner's run was not accepted: %s", s.job->code);
	all_alike(&s, "run.cancel", "run_id", s.job->run);
	all_alike(&s, "tool.decide", "run_id", s.job->run);
	all_alike(&s, "thread.history", "thread_id", s.job->thread);
	all_alike(&s, "thread.rename", "thread_id", s.job->thread);
	all_alike(&s, "thread.delete", "thread_id", s.job->thread);
	all_alike(&s, "run.list", "thread_id", s.job->thread);
	all_alike(&s, "run.start", "thread_id", s.job->thread);
	body_user_ids(&s);
	same_key(&s);
	forging(&s);
	foreign_numbers(&s);
	jobs_wait(s.job, 1, JOB_ENDED, 30000);
	job_check(s.job, "agent_completed");
	stage_check(stage, job_count(s.job, "agent_message") == 2, "the owner's run was disturbed");
}
