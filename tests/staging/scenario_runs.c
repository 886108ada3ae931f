/* scenario_runs.c - how runs end before their time: cancel, crash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

/* ---- cancel ---- */

static json_t *cancel_of(const char *run)
{
	return json_pack("{s:s,s:s}", "type", "run.cancel", "run_id", run);
}

static void expect_cancelled(struct job *job, const char *what, const char *by)
{
	struct stage *stage = job->client->stage;
	char who[32];
	jobs_wait(job, 1, JOB_ENDED, 20000);
	job_check(job, "agent_cancelled");
	job_end_field(job, "by", who, sizeof who);
	stage_check(stage, !strcmp(who, by), "%s: cancelled by \"%s\", not \"%s\"", what, who, by);
}

static void cancel(struct job *job, const char *what, const char *code)
{
	json_t *answer = client_call(job->client, cancel_of(job->run));
	stage_check(job->client->stage, answer && !strcmp(chat_code(answer), code), "run.cancel of %s answers \"%s\", not \"%s\"",
	            what, chat_code(answer), code);
}

/* The job's run has had an event of this type. */
static bool has_event(struct job *job, const char *type, unsigned timeout_ms)
{
	uint64_t deadline = clock_us() + (uint64_t)timeout_ms * 1000 * patience();
	while (!job_count(job, type) && clock_us() < deadline && clock_us() < job->client->stage->deadline_us) {
		stage_turn(job->client->stage);
		jobs_look(job, 1);
	}
	return stage_check(job->client->stage, job_count(job, type) > 0, "no %s came", type);
}

/* Runs in this state are cancelled; until: the event that says that they are in it, NULL: at once. */
static void cancel_while(struct stage *stage, const char *what, const char *steps, const char *until)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	struct job *jobs = jobs_alloc(stage, 2);
	job_start(&jobs[0], client, script("%s", steps), NULL, NULL);
	jobs_wait(jobs, 1, JOB_ACKED, 20000);
	if (until && !has_event(&jobs[0], until, 20000))
		return;
	cancel(&jobs[0], what, "");
	expect_cancelled(&jobs[0], what, "user");
	cancel(&jobs[0], "a cancelled run", "not_active");
	job_start(&jobs[1], client, script("[{\"say\":\"after\"}]"), NULL, jobs[0].thread);
	jobs_wait(&jobs[1], 1, JOB_ENDED, 20000);
	job_check(&jobs[1], "agent_completed");
	client_close(client);
}

/* A run that waits behind another of its thread. */
static void cancel_queued(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	struct job *jobs = jobs_alloc(stage, 2);
	job_start(&jobs[0], client, script("[{\"sleep_ms\":1500},{\"say\":\"first\"}]"), NULL, NULL);
	jobs_wait(jobs, 1, JOB_ACKED, 20000);
	job_start(&jobs[1], client, script("[{\"say\":\"second\"}]"), NULL, jobs[0].thread);
	jobs_wait(jobs, 2, JOB_ACKED, 20000);
	cancel(&jobs[1], "a queued run", "");
	expect_cancelled(&jobs[1], "a queued run", "user");
	stage_check(stage, job_count(&jobs[1], "agent_started") == 0, "a run that was cancelled while it waited has started");
	jobs_wait(jobs, 1, JOB_ENDED, 20000);
	job_check(&jobs[0], "agent_completed");
	cancel(&jobs[0], "a completed run", "not_active");
	client_close(client);
}

static void on_busy(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	struct job *jobs = jobs_alloc(stage, 3);
	job_start(&jobs[0], client, script("[{\"sleep_ms\":30000}]"), NULL, NULL);
	jobs_wait(jobs, 1, JOB_ACKED, 20000);
	job_start_with(&jobs[1], client, script("[{\"say\":\"x\"}]"), NULL, jobs[0].thread,
	               json_pack("{s:s}", "on_busy", "reject"));
	jobs_wait(&jobs[1], 1, JOB_ACKED, 20000);
	stage_check(stage, jobs[1].state == JOB_REFUSED && !strcmp(jobs[1].code, "busy"),
	            "on_busy reject answers \"%s\", not busy", jobs[1].code);
	job_start_with(&jobs[2], client, script("[{\"say\":\"x\"}]"), NULL, jobs[0].thread,
	               json_pack("{s:s}", "on_busy", "interrupt"));
	expect_cancelled(&jobs[0], "an interrupted run", "interrupt");
	jobs_wait(&jobs[2], 1, JOB_ENDED, 20000);
	job_check(&jobs[2], "agent_completed");
	client_close(client);
}

static json_t *stream_input(const struct client *client, size_t i)
{
	return script("[{\"think\":\"a\"},{\"stream\":{\"tokens\":%zu,\"interval_ms\":5,\"bytes\":9}},{\"say\":\"%s\"}]",
	              10 + i % 30 * 5, client->person->mark);
}

static json_t *cancel_each(const struct client *client, size_t i, void *ctx)
{
	return cancel_of(((struct job *)ctx)[i].run);
}

/* Many, each at another moment of its life: who was told "yes" was cancelled, who was told "not active" had ended otherwise. */
static void cancel_at_any_moment(struct stage *stage)
{
	unsigned n = stage->options->users < 100 ? (unsigned)stage->options->users : 100, cancelled = 0;
	struct client **clients = stage_crowd(stage, n, NULL);
	struct job *jobs = jobs_start_each(clients, n, NULL, stream_input);
	jobs_wait(jobs, n, JOB_ACKED, 30000);
	stage_linger(stage, 300);
	json_t **answers = stage_ask_each(clients, n, cancel_each, jobs);
	jobs_wait(jobs, n, JOB_ENDED, 60000);
	for (unsigned i = 0; i < n; i++) {
		const char *code = chat_code(answers[i]);
		bool told = answers[i] && !code[0];
		cancelled += told;
		stage_check(stage, told || !strcmp(code, "not_active"), "run.cancel answers \"%s\"", code);
		job_check(&jobs[i], told ? "agent_cancelled" : "agent_completed");
	}
	stage_note(stage, "%u runs at any moment: %u cancelled, %u had ended", n, cancelled, n - cancelled);
}

void play_cancel(struct stage *stage)
{
	cancel_while(stage, "a run just accepted", "[{\"sleep_ms\":30000}]", NULL);
	cancel_while(stage, "a sleeping run", "[{\"think\":\"x\"},{\"sleep_ms\":30000}]", "agent_thinking");
	cancel_while(stage, "a spinning run", "[{\"think\":\"x\"},{\"spin_ms\":30000}]", "agent_thinking");
	cancel_while(stage, "a streaming run",
	             "[{\"think\":\"x\"},{\"stream\":{\"tokens\":3000,\"interval_ms\":10,\"bytes\":9}}]", "agent_thinking");
	cancel_while(stage, "a run after a tool", "[{\"tool\":\"clock\",\"arguments\":{}},{\"sleep_ms\":30000}]",
	             "tool_executing");
	cancel_queued(stage);
	on_busy(stage);
	cancel_at_any_moment(stage);
}

/* ---- crash ---- */

enum { STEPS_OVER = 1100, DEFAULT_RUN_S = 120 };

struct death {
	const char *what, *code;
	const char *steps; /* NULL: made by the caller */
};

static const struct death deaths[] = {
	{"a segmentation fault", "agent_crashed", "[{\"say\":\"before\"},{\"crash\":\"segv\"}]"},
	{"an abort", "agent_crashed", "[{\"say\":\"before\"},{\"crash\":\"abort\"}]"},
	{"an exit", "agent_crashed", "[{\"say\":\"before\"},{\"crash\":\"exit\"}]"},
	{"an agent's own error", "agent_error", "[{\"say\":\"before\"},{\"fail\":\"on purpose\"}]"},
	{"too much output", "output_limit", "[{\"stream\":{\"tokens\":1040,\"interval_ms\":0,\"bytes\":65536}}]"},
};

enum { N_DEATHS = sizeof deaths / sizeof *deaths, DEATH_STEPS = N_DEATHS, DEATH_TIMEOUT, ALL_DEATHS };

static json_t *too_many_steps(void)
{
	json_t *steps = json_array();
	for (unsigned i = 0; i < STEPS_OVER; i++)
		json_array_append_new(steps, json_pack("{s:s}", "think", "x"));
	return json_pack("{s:o}", "steps", steps);
}

static void expect_death(struct job *job, const char *what, const char *code)
{
	char got[48];
	if (!job_check(job, "agent_failed"))
		return;
	job_end_field(job, "code", got, sizeof got);
	stage_check(job->client->stage, !strcmp(got, code), "%s ends in agent_failed \"%s\", not \"%s\"", what, got, code);
}

/* Everybody's neighbour dies while they work on. */
void play_crash(struct stage *stage)
{
	const struct staging_options *o = stage->options;
	unsigned n = o->users < 20 ? (unsigned)o->users : 20;
	struct client **dying = stage_crowd(stage, ALL_DEATHS, NULL), **living = stage_crowd(stage, n, NULL);
	struct job *jobs = jobs_alloc(stage, ALL_DEATHS);
	job_start(&jobs[DEATH_TIMEOUT], dying[DEATH_TIMEOUT], script("[{\"sleep_ms\":%d}]", 2000 * DEFAULT_RUN_S),
	          o->timeout_agent, NULL);
	job_start(&jobs[DEATH_STEPS], dying[DEATH_STEPS], too_many_steps(), NULL, NULL);
	for (unsigned i = 0; i < N_DEATHS; i++)
		job_start(&jobs[i], dying[i], script("%s", deaths[i].steps), NULL, NULL);
	struct job *others = jobs_start_each(living, n, NULL, stream_input);
	jobs_wait(others, n, JOB_ENDED, 60000);
	jobs_wait(jobs, DEATH_TIMEOUT, JOB_ENDED, 60000);
	for (unsigned i = 0; i < n; i++)
		job_check(&others[i], "agent_completed");
	for (unsigned i = 0; i < N_DEATHS; i++)
		expect_death(&jobs[i], deaths[i].what, deaths[i].code);
	expect_death(&jobs[DEATH_STEPS], "too many steps", "budget_exceeded");
	stage_doing(stage, "waiting for the time of a run to be up");
	jobs_wait(&jobs[DEATH_TIMEOUT], 1, JOB_ENDED, (DEFAULT_RUN_S + 20) * 1000);
	expect_death(&jobs[DEATH_TIMEOUT], "a run that sleeps", "timeout");
	for (unsigned i = 0; i < ALL_DEATHS; i++) { /* and each can go on */
		job_start(&jobs[i], dying[i], script("[{\"say\":\"again\"}]"), NULL, NULL);
		jobs_wait(&jobs[i], 1, JOB_ENDED, 20000);
		job_check(&jobs[i], "agent_completed");
	}
}
