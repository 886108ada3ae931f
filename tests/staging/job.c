#include "tests/staging/job.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *script(const char *fmt, ...)
{
	va_list ap;
	char *text;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	json_t *steps = json_loads(text, 0, NULL);
	free(text);
	if (!steps)
		abort(); /* our own text */
	return json_pack("{s:o}", "steps", steps);
}

static void finish_all(void *memory, size_t n)
{
	struct job *jobs = memory;
	for (size_t i = 0; i < n; i++)
		json_decref(jobs[i].message);
}

struct job *jobs_alloc(struct stage *stage, size_t n)
{
	return stage_alloc(stage, n, sizeof(struct job), finish_all);
}

/* ---- asking ---- */

static void ask(struct job *job)
{
	snprintf(job->ask, sizeof job->ask, "%s", chat_send(job->client->chat, json_copy(job->message)));
	job->asked_on = job->client->returned;
	job->state = JOB_ASKED;
}

void job_start_with(struct job *job, struct client *client, json_t *input, const char *agent, const char *thread, json_t *more)
{
	static unsigned long long keys;
	const struct staging_options *o = client->stage->options;
	json_decref(job->message);
	*job = (struct job){.client = client, .first_event = client->n_log, .looked = client->n_log, .first_sent_us = clock_us()};
	job->message = chat_run_message(input, agent ? agent : o->agent, thread);
	json_object_set_new(job->message, "idempotency_key", json_sprintf("k%llu", ++keys));
	json_object_update(job->message, more);
	json_decref(more);
	client->stage->result->runs++;
	ask(job);
}

void job_start(struct job *job, struct client *client, json_t *input, const char *agent, const char *thread)
{
	job_start_with(job, client, input, agent, thread, NULL);
}

/* ---- looking ---- */

static bool is_put_off(const char *code)
{
	return !strcmp(code, "overloaded") || !strcmp(code, "unavailable") || !strcmp(code, "draining") ||
	       !strcmp(code, "rate_limited");
}

static void take_answer(struct job *job, const struct chat_answer *answer)
{
	struct stage *stage = job->client->stage;
	const char *code = chat_code(answer->json);
	if (!code[0] && chat_text_of(answer->json, "run_id")[0]) {
		snprintf(job->run, sizeof job->run, "%s", chat_text_of(answer->json, "run_id"));
		snprintf(job->thread, sizeof job->thread, "%s", chat_text_of(answer->json, "thread_id"));
		job->ack_seq = (uint64_t)json_integer_value(json_object_get(answer->json, "seq"));
		job->state = JOB_ACKED;
		stage_measure(stage, LATENCY_ACK, answer->at_us - job->first_sent_us);
	} else if (is_put_off(code)) {
		json_int_t ms = json_integer_value(json_object_get(answer->json, "retry_after_ms"));
		stage->result->retries++;
		job->state = JOB_PUT_OFF;
		job->retry_at_us = clock_us() + (uint64_t)(ms > 0 && ms < 10000 ? ms : 1000) * 1000;
	} else {
		snprintf(job->code, sizeof job->code, "%s", code[0] ? code : "an ack without run_id");
		job->state = JOB_REFUSED;
	}
}

static void look_for_answer(struct job *job)
{
	struct chat_answer *answer = NULL;
	if (job->asked_on != job->client->returned) { /* the connection was cut: who can tell whether it was heard? */
		if (client_is_welcome(job->client))
			ask(job);
		return;
	}
	HASH_FIND_STR(job->client->chat->answers, job->ask, answer);
	if (answer)
		take_answer(job, answer);
}

static void look_for_end(struct job *job)
{
	struct client *client = job->client;
	for (; job->looked < client->n_log; job->looked++) {
		const struct seen *seen = &client->log[job->looked];
		if (strcmp(seen->run, job->run) != 0)
			continue;
		if (!job->started && !strcmp(seen->type, "agent_started")) {
			job->started = job->looked;
			stage_measure(client->stage, LATENCY_START, seen->at_us - job->first_sent_us);
		}
		if (!chat_is_terminal(seen->type) || job->state == JOB_ENDED)
			continue;
		job->end = job->looked;
		job->state = JOB_ENDED;
		stage_measure(client->stage, LATENCY_RUN, seen->at_us - job->first_sent_us);
	}
}

static void look(struct job *job)
{
	if (job->state == JOB_PUT_OFF && clock_us() >= job->retry_at_us && client_is_welcome(job->client))
		ask(job);
	if (job->state == JOB_ASKED)
		look_for_answer(job);
	if (job->state == JOB_ACKED)
		look_for_end(job);
}

void jobs_look(struct job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		look(&jobs[i]);
}

/* ---- waiting ---- */

struct wait {
	struct job *jobs;
	size_t n, reached;
	enum job_state state;
};

static bool all_reached(void *ctx)
{
	struct wait *w = ctx;
	w->reached = 0;
	jobs_look(w->jobs, w->n);
	for (size_t i = 0; i < w->n; i++)
		w->reached += w->jobs[i].state >= w->state;
	if (w->n)
		stage_doing(w->jobs[0].client->stage, "%zu of %zu runs %s", w->reached, w->n,
		            w->state == JOB_ENDED ? "have ended" : "are acknowledged");
	return w->reached == w->n;
}

static const char *how_far(const struct job *job)
{
	switch (job->state) {
	case JOB_ASKED:
		return "run.start was not answered";
	case JOB_PUT_OFF:
		return "run.start was put off again and again";
	case JOB_ACKED:
		return job->started ? "it has started, and not ended" : "it was acknowledged, and has not started";
	default:
		return "?";
	}
}

bool jobs_wait(struct job *jobs, size_t n, enum job_state state, unsigned timeout_ms)
{
	struct wait w = {.jobs = jobs, .n = n, .state = state};
	if (!n || stage_until(jobs[0].client->stage, all_reached, &w, timeout_ms))
		return true;
	for (size_t i = 0; i < n; i++)
		if (jobs[i].state < state)
			stage_check(jobs[i].client->stage, false, "%s: %s (last event %llu, connection %s)",
			            jobs[i].client->person->user, how_far(&jobs[i]), (unsigned long long)jobs[i].client->last_seq,
			            client_is_closed(jobs[i].client) ? client_trouble(jobs[i].client) : "open");
	return false;
}

/* ---- judging ---- */

const char *job_end_type(const struct job *job)
{
	return job->state == JOB_ENDED ? job->client->log[job->end].type : "";
}

void job_end_field(const struct job *job, const char *key, char *out, size_t n)
{
	json_t *event = job->state == JOB_ENDED && job->client->log[job->end].raw
	                        ? json_loads(job->client->log[job->end].raw, 0, NULL)
	                        : NULL;
	snprintf(out, n, "%s", chat_text_of(event, key));
	json_decref(event);
}

static const struct seen *next_of(const struct job *job, const char *type, size_t *at)
{
	for (; *at < job->client->n_log; ++*at) {
		const struct seen *seen = &job->client->log[*at];
		if (!strcmp(seen->run, job->run) && (!type || !strcmp(seen->type, type))) {
			++*at;
			return seen;
		}
	}
	return NULL;
}

unsigned job_count(const struct job *job, const char *type)
{
	unsigned n = 0;
	for (size_t at = job->first_event; next_of(job, type, &at);)
		n++;
	return n;
}

json_t *job_event(const struct job *job, const char *type, unsigned n)
{
	const struct seen *seen = NULL;
	size_t at = job->first_event;
	for (unsigned i = 0; i <= n; i++)
		if (!(seen = next_of(job, type, &at)))
			return NULL;
	return seen->raw ? json_loads(seen->raw, 0, NULL) : NULL;
}

bool job_check(struct job *job, const char *end_type)
{
	struct stage *stage = job->client->stage;
	const char *user = job->client->person->user;
	char why[200] = "";
	size_t at = job->first_event;
	if (job->state == JOB_REFUSED)
		return stage_check(stage, false, "%s: run.start was refused: %s", user, job->code);
	if (job->state != JOB_ENDED)
		return stage_check(stage, false, "%s: %s", user, how_far(job));
	if (strcmp(job_end_type(job), "agent_failed") == 0) {
		char code[48];
		job_end_field(job, "code", code, sizeof code);
		snprintf(why, sizeof why, " (%s)", code);
	}
	const struct seen *first = next_of(job, NULL, &at), *second = next_of(job, NULL, &at);
	bool ok = stage_check(stage, !strcmp(job_end_type(job), end_type), "%s: the run ended in %s%s, not %s", user,
	                      job_end_type(job), why, end_type);
	ok &= stage_check(stage, first && !strcmp(first->type, "run_accepted") && first->seq == job->ack_seq,
	                  "%s: the run's first event is %s %llu; its ack said run_accepted %llu", user,
	                  first ? first->type : "none", first ? (unsigned long long)first->seq : 0,
	                  (unsigned long long)job->ack_seq);
	ok &= stage_check(stage, second && (!strcmp(second->type, "agent_started") || !strcmp(second->type, "agent_cancelled")),
	                  "%s: the run's second event is %s", user, second ? second->type : "none");
	ok &= stage_check(stage,
	                  job_count(job, "run_accepted") == 1 && job_count(job, "agent_completed") +
	                                                                         job_count(job, "agent_failed") +
	                                                                         job_count(job, "agent_cancelled") ==
	                                                                 1,
	                  "%s: the run has not exactly one run_accepted and one terminal event", user);
	return ok;
}

/* ---- many ---- */

struct job *jobs_start_each(struct client **clients, size_t n, const char *agent,
                            json_t *(*input)(const struct client *client, size_t i))
{
	struct job *jobs = jobs_alloc(clients[0]->stage, n);
	for (size_t i = 0; i < n; i++)
		job_start(&jobs[i], clients[i], input(clients[i], i), agent, NULL);
	return jobs;
}
