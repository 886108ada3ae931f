/* scenario_workers.c - where users are, and what becomes of them when their worker goes: pins, worker-loss, drain. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

static const char *worker_of(const struct client *client)
{
	return chat_text_of(client->chat->welcome, "worker_id");
}

/* ---- pins ---- */

struct census {
	struct {
		char name[72];
		unsigned users;
	} workers[32];
	unsigned n;
};

static void count_in(struct census *census, const char *name)
{
	unsigned i = 0;
	while (i < census->n && strcmp(census->workers[i].name, name) != 0)
		i++;
	if (i == 32)
		return;
	if (i == census->n) {
		snprintf(census->workers[i].name, sizeof census->workers[i].name, "%s", name);
		census->n++;
	}
	census->workers[i].users++;
}

static void note_census(struct stage *stage, const struct census *census)
{
	struct blob text = {0};
	for (unsigned i = 0; i < census->n; i++)
		blob_printf(&text, "%s%s %u", i ? ", " : "", census->workers[i].name, census->workers[i].users);
	stage_note(stage, "users by worker: %s", text.p ? text.p : "none");
	blob_free(&text);
}

void play_pins(struct stage *stage)
{
	unsigned n = stage->options->users < 200 ? (unsigned)stage->options->users : 200;
	struct client **clients = stage_crowd(stage, n, NULL);
	struct census census = {0};
	for (unsigned i = 0; i < n; i++) {
		char pin[72];
		snprintf(pin, sizeof pin, "%s", worker_of(clients[i]));
		count_in(&census, pin);
		stage_doing(stage, "%u of %u users asked at every gateway", i, n);
		for (unsigned u = 0; u <= stage->options->n_endpoints;
		     u++) { /* each URL while the first tab is open, the last after it is cut */
			struct client_args args = {.url = u, .light = true};
			if (u == stage->options->n_endpoints)
				client_cut(clients[i]);
			struct client *tab = client_enter(stage, clients[i]->person, &args);
			stage_check(stage, !strcmp(worker_of(tab), pin), "%s is at %s, and by %s at %s", clients[i]->person->user,
			            pin, stage->options->endpoints[tab->url].url, worker_of(tab));
			client_close(tab);
		}
	}
	note_census(stage, &census);
}

/* ---- a worker goes ---- */

enum { GONE_RUNS = 100 };

static char *expand(const char *command, const char *worker, const char *signal)
{
	struct blob out = {0};
	for (const char *at = command; *at;) {
		if (!strncmp(at, "{worker}", 8)) {
			for (const char *p = worker; *p; p++)
				if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", *p))
					blob_add(&out, p, 1);
			at += 8;
		} else if (!strncmp(at, "{signal}", 8)) {
			blob_add_c(&out, signal);
			at += 8;
		} else {
			blob_add(&out, at++, 1);
		}
	}
	return out.p;
}

struct helper {
	pid_t pid;
	int status;
};

static bool has_exited(void *ctx)
{
	struct helper *helper = ctx;
	return helper->pid <= 0 || waitpid(helper->pid, &helper->status, WNOHANG) != 0;
}

/* The operator's command, while the clients live on. */
static void take_down(struct stage *stage, const char *command, const char *worker, const char *signal)
{
	char *text = expand(command, worker, signal);
	struct helper helper = {.pid = fork(), .status = -1};
	if (helper.pid == 0) {
		execl("/bin/sh", "sh", "-c", text, (char *)NULL);
		_exit(127);
	}
	stage_note(stage, "%s", text);
	free(text);
	if (!stage_until(stage, has_exited, &helper, 60000))
		stage_fail(stage, "can't run: the command has not ended within a minute");
	if (helper.status != 0)
		stage_fail(stage, "can't run: the command ended with status %d",
		           WIFEXITED(helper.status) ? WEXITSTATUS(helper.status) : -1);
}

static json_t *long_input(const struct client *client, size_t i)
{
	return script("[{\"think\":\"one\"},{\"stream\":{\"tokens\":40,\"interval_ms\":20,\"bytes\":16}},"
	              "{\"tool\":\"notes\",\"arguments\":{\"op\":\"put\",\"key\":\"k\",\"value\":\"%s\"}},{\"sleep_ms\":1000},"
	              "{\"tool\":\"calculator\",\"arguments\":{\"expression\":\"6*7\"}},{\"sleep_ms\":1000},"
	              "{\"stream\":{\"tokens\":40,\"interval_ms\":20,\"bytes\":16}},{\"sleep_ms\":500},{\"say\":\"%s\"}]",
	              client->person->mark, client->person->mark);
}

static json_t *short_input(const struct client *client, size_t i)
{
	return script("[{\"say\":\"%s\"}]", client->person->mark);
}

/* Each step's effect once: one tool_executing and one tool_completed a call, one closing message each. */
static void check_effects(struct job *job)
{
	stage_check(
		job->client->stage,
		job_count(job, "tool_executing") == 2 && job_count(job, "tool_completed") == 2 &&
			job_count(job, "agent_thinking") == 1 && job_count(job, "agent_message") == 3,
		"%s: a step was lost or done twice: %u tool_executing, %u tool_completed, %u agent_thinking, %u agent_message",
		job->client->person->user, job_count(job, "tool_executing"), job_count(job, "tool_completed"),
		job_count(job, "agent_thinking"), job_count(job, "agent_message"));
	json_t *end = job_event(job, "agent_message", 2);
	stage_check(job->client->stage, !strcmp(chat_text_of(end, "text"), job->client->person->mark),
	            "%s: the last message is another's", job->client->person->user);
	json_decref(end);
}

struct started {
	struct job *jobs;
	size_t n;
};

static bool most_have_started(void *ctx)
{
	struct started *s = ctx;
	size_t n = 0;
	jobs_look(s->jobs, s->n);
	for (size_t i = 0; i < s->n; i++)
		n += s->jobs[i].started > 0;
	return n >= (s->n + 1) / 2;
}

/* From `since` to the run_recovered that came last; 0 for none. */
static uint64_t recovery_time(struct job *jobs, size_t n, uint64_t since)
{
	uint64_t longest = 0;
	for (size_t i = 0; i < n; i++) {
		const struct client *client = jobs[i].client;
		for (size_t k = jobs[i].first_event; k < client->n_log; k++)
			if (!strcmp(client->log[k].type, "run_recovered") && client->log[k].at_us > since + longest)
				longest = client->log[k].at_us - since;
	}
	return longest;
}

static unsigned came_back(struct client **clients, size_t n)
{
	unsigned times = 0;
	for (size_t i = 0; i < n; i++)
		times += clients[i]->returned;
	return times;
}

static void a_worker_goes(struct stage *stage, const char *command, const char *signal, bool killed)
{
	size_t n = stage->options->users, running = n < GONE_RUNS ? n : GONE_RUNS, recovered = 0;
	struct client_args args = {.returns = true};
	struct client **clients = stage_crowd(stage, (unsigned)n, &args);
	char worker[72];
	unsigned concerned = 0;
	snprintf(worker, sizeof worker, "%s", worker_of(clients[0]));
	for (size_t i = 0; i < running; i++)
		concerned += !strcmp(worker_of(clients[i]), worker);
	struct job *jobs = jobs_start_each(clients, running, NULL, long_input);
	struct started started = {jobs, running};
	stage_check(stage, stage_until(stage, most_have_started, &started, 60000), "the runs have not started");
	uint64_t begin = clock_us();
	take_down(stage, command, worker, signal);
	jobs_wait(jobs, running, JOB_ENDED, 90000);
	for (size_t i = 0; i < running; i++) {
		if (job_check(&jobs[i], "agent_completed"))
			check_effects(&jobs[i]);
		recovered += job_count(&jobs[i], "run_recovered") > 0;
	}
	stage_note(stage, "%u of %zu runs were at %s; %u connections had to come back", concerned, running, worker,
	           came_back(clients, n));
	if (recovered)
		stage_note(stage, "%zu runs were recovered, all within %.1f s of the command", recovered,
		           (double)recovery_time(jobs, running, begin) / 1e6);
	if (killed)
		stage_check(stage, recovered > 0, "no run was recovered: has the command killed %s?", worker);
	struct job *after = jobs_start_each(clients, n, NULL, short_input); /* and everybody can go on */
	jobs_wait(after, n, JOB_ENDED, 90000);
	for (size_t i = 0; i < n; i++)
		job_check(&after[i], "agent_completed");
	for (size_t i = 0; i < running; i++) {
		stage_doing(stage, "%zu of %zu logs are compared with their replay", i, running);
		stage_compare_replay(stage, clients[i]);
	}
}

void play_worker_loss(struct stage *stage)
{
	if (!stage->options->chaos)
		stage_fail(stage, "can't run: give the command that kills a worker (--chaos)");
	a_worker_goes(stage, stage->options->chaos, "KILL", true);
}

void play_drain(struct stage *stage)
{
	a_worker_goes(stage, stage->options->chaos_drain ? stage->options->chaos_drain : stage->options->chaos, "TERM", false);
}
