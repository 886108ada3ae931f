/* scenario_crowd.c - everybody at once: concurrent, load. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

/* ---- concurrent ---- */

static json_t *own_words(const struct client *client, size_t i)
{
	return script("[{\"think\":\"%s\"},{\"stream\":{\"tokens\":10,\"interval_ms\":20,\"bytes\":9}},{\"say\":\"%s\"}]",
	              client->person->mark, client->person->mark);
}

static json_t *spoken(const struct client *client, size_t i)
{
	return json_sprintf("remember secret is %s", client->person->mark);
}

static json_t *recalled(const struct client *client, size_t i)
{
	return json_string("recall secret");
}

/* Some message of the run holds its person's mark. */
static void check_own_answer(struct job *job)
{
	bool found = false;
	unsigned n = job_count(job, "agent_message");
	for (unsigned i = 0; i < n && !found; i++) {
		json_t *event = job_event(job, "agent_message", i);
		found = strstr(chat_text_of(event, "text"), job->client->person->mark);
		json_decref(event);
	}
	stage_check(job->client->stage, found, "%s got an answer that is not theirs, or none", job->client->person->user);
}

static void all_answer(struct job *jobs, size_t n, bool own)
{
	jobs_wait(jobs, n, JOB_ENDED, 150000);
	for (size_t i = 0; i < n; i++)
		if (job_check(&jobs[i], "agent_completed") && own)
			check_own_answer(&jobs[i]);
}

void play_concurrent(struct stage *stage)
{
	size_t n = stage->options->users, half = n / 2;
	struct client **clients = stage_crowd(stage, (unsigned)n, NULL);
	all_answer(jobs_start_each(clients, n, NULL, own_words), n, true);
	struct job *one = jobs_start_each(clients, half, NULL, own_words);
	struct job *other = jobs_start_each(clients + half, n - half, stage->options->other_agent, spoken);
	all_answer(one, half, true);
	all_answer(other, n - half, false);
	all_answer(jobs_start_each(clients + half, n - half, stage->options->other_agent, recalled), n - half, true);
}

/* ---- load ---- */

enum { QUIET = 10, NOISES = 8, QUIET_MS = 4000, SPIN_MS = 6000 };

static json_t *short_input(const struct client *client, size_t i)
{
	return script("[{\"stream\":{\"tokens\":8,\"interval_ms\":10,\"bytes\":9}},{\"say\":\"%s\"}]", client->person->mark);
}

static void burst(struct stage *stage, struct client **clients, size_t n)
{
	uint64_t begin = clock_us();
	struct job *jobs = jobs_start_each(clients, n, NULL, short_input);
	jobs_wait(jobs, n, JOB_ENDED, 150000);
	for (size_t i = 0; i < n; i++)
		job_check(&jobs[i], "agent_completed");
	stage_note(stage, "burst: %zu runs, started at once, ended within %.1f s", n, (double)(clock_us() - begin) / 1e6);
}

struct worker_bee {
	struct job *job;
	uint64_t next_us;
	unsigned done;
};

/* One look at a user of the sustained load: judges a run that has ended, and starts the next when its time has come. */
static void sustain_one(struct worker_bee *bee, struct client *client, struct random *random, uint64_t pause_us, bool more)
{
	uint64_t now = clock_us();
	if (bee->job->message) {
		jobs_look(bee->job, 1);
		if (bee->job->state < JOB_ENDED)
			return;
		job_check(bee->job, "agent_completed");
		json_decref(bee->job->message);
		bee->job->message = NULL;
		bee->done++;
		bee->next_us = now + random_below(random, pause_us);
	}
	if (more && now >= bee->next_us)
		job_start(bee->job, client, short_input(client, 0), NULL, NULL);
}

/* For the duration each user runs again and again, with pauses that keep the whole at some 70 runs a second. */
static void sustained(struct stage *stage, struct client **clients, size_t n)
{
	struct random random = {stage->nonce};
	struct worker_bee *bees = stage_alloc(stage, n, sizeof *bees, NULL);
	struct job *jobs = jobs_alloc(stage, n);
	uint64_t begin = clock_us(), end = begin + stage->options->duration_ms * 1000, pause_us = 1000000 + n * 30000;
	size_t done = 0, busy = 1;
	for (size_t i = 0; i < n; i++)
		bees[i] = (struct worker_bee){.job = &jobs[i], .next_us = begin + random_below(&random, pause_us)};
	while (busy && clock_us() < stage->deadline_us && clock_us() < end + 60000000ull * patience()) {
		stage_turn(stage);
		bool more = clock_us() < end;
		done = busy = 0;
		for (size_t i = 0; i < n; i++) {
			sustain_one(&bees[i], clients[i], &random, pause_us, more);
			done += bees[i].done;
			busy += more || bees[i].job->message;
		}
		stage_doing(stage, "sustained: %zu runs have ended, %.0f a second", done,
		            (double)done * 1e6 / (double)(clock_us() - begin));
	}
	stage_check(stage, !busy, "%zu runs of the sustained load have not ended", busy);
	stage_check(stage, done > 0, "not one run ended in the sustained load");
	stage_note(stage, "sustained: %zu runs in %.0f s", done, (double)(clock_us() - begin) / 1e6);
}

/* A few users, each with one run after the other; the time from run.start to its end at fraction q. */
static uint64_t quiet_latency(struct stage *stage, struct client **clients, size_t n, double q)
{
	struct samples times = {0};
	struct job *jobs = jobs_alloc(stage, n);
	uint64_t end = clock_us() + QUIET_MS * 1000;
	while (clock_us() < end && clock_us() < stage->deadline_us) {
		for (size_t i = 0; i < n; i++)
			job_start(&jobs[i], clients[i], short_input(clients[i], i), NULL, NULL);
		if (!jobs_wait(jobs, n, JOB_ENDED, 30000))
			break;
		for (size_t i = 0; i < n; i++)
			if (job_check(&jobs[i], "agent_completed"))
				samples_add(&times, clients[i]->log[jobs[i].end].at_us - jobs[i].first_sent_us);
	}
	uint64_t at = samples_at(&times, q);
	samples_free(&times);
	return at;
}

static void noisy_neighbour(struct stage *stage)
{
	struct client **quiet = stage_crowd(stage, QUIET, NULL);
	struct client *noisy = client_enter(stage, stage_person(stage), NULL);
	struct job *noise = jobs_alloc(stage, NOISES);
	uint64_t before = quiet_latency(stage, quiet, QUIET, 0.5);
	for (unsigned i = 0; i < NOISES; i++)
		job_start(&noise[i], noisy,
		          script("[{\"spin_ms\":%d},{\"stream\":{\"tokens\":2000,\"interval_ms\":0,\"bytes\":1024}}]", SPIN_MS),
		          NULL, NULL);
	jobs_wait(noise, NOISES, JOB_ACKED, 20000);
	uint64_t during = quiet_latency(stage, quiet, QUIET, 0.5);
	jobs_wait(noise, NOISES, JOB_ENDED, 90000);
	for (unsigned i = 0; i < NOISES; i++)
		job_check(&noise[i], "agent_completed");
	uint64_t bar = (before * 4 + 500000) * patience();
	stage_check(stage, during <= bar,
	            "a noisy neighbour slows others: a run took %.0f ms, and %.0f ms beside %d spinning ones",
	            (double)before / 1e3, (double)during / 1e3, NOISES);
	stage_note(stage, "noisy neighbour: half the runs of others within %.0f ms, %.0f ms beside %d that spin (bar %.0f ms)",
	           (double)before / 1e3, (double)during / 1e3, NOISES, (double)bar / 1e3);
}

void play_load(struct stage *stage)
{
	size_t n = stage->options->users;
	struct client **clients = stage_crowd(stage, (unsigned)n, NULL);
	burst(stage, clients, n);
	sustained(stage, clients, n);
	for (size_t i = 0; i < n; i++)
		client_close(clients[i]);
	noisy_neighbour(stage);
}
