/* scenario_limits.c - what is counted, and what is capped: churn, limits, slow. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/staging/job.h"
#include "tests/staging/scenario.h"

static uint64_t limit_of(const struct client *client, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(json_object_get(client->chat->welcome, "limits"), name));
}

/* ---- churn ---- */

enum { CHURN_USERS = 20, CHURN_ROUNDS_MIN = 5, CONNECTIONS_MAX = 64 };

struct churn {
	struct client *clients[CONNECTIONS_MAX];
	struct person *person;
	unsigned n; /* as many as one may have */
};

static bool churn_is_in(void *ctx)
{
	struct churn *churn = ctx;
	for (unsigned i = 0; i < churn->n; i++)
		if (!client_is_welcome(churn->clients[i]) && !client_is_closed(churn->clients[i]))
			return false;
	return true;
}

/* Connections as many as the limit allows, all at one URL: one that was left counted from before would show as a refusal. A
 * connection that was just dropped may still be counted for a moment: so that one is asked again until the time is up. */
static bool fill(struct stage *stage, struct churn *churn, unsigned url)
{
	struct client_args args = {.url = url, .light = true};
	uint64_t deadline = clock_us() + 5000000ull * patience();
	for (unsigned i = 0; i < churn->n; i++)
		churn->clients[i] = client_open(stage, churn->person, &args);
	for (;;) {
		bool all = true;
		stage_until(stage, churn_is_in, churn, 10000);
		for (unsigned i = 0; i < churn->n; i++) {
			if (client_is_welcome(churn->clients[i]))
				continue;
			all = false;
			if (clock_us() >= deadline)
				return stage_check(stage, false,
				                   "%s: connection %u of %u is refused long after all others were dropped: %s",
				                   churn->person->user, i + 1, churn->n, client_trouble(churn->clients[i]));
			stage_linger(stage, 50);
			client_close(churn->clients[i]);
			churn->clients[i] = client_open(stage, churn->person, &args);
		}
		if (all)
			return stage_check(stage, true, "in");
	}
}

/* Half by a closing handshake, half without a word. */
static void leave(struct churn *churn)
{
	for (unsigned i = 0; i < churn->n; i++) {
		if (i % 2)
			ws_close(churn->clients[i]->chat->ws, 1000, "bye");
		client_close(churn->clients[i]);
	}
}

/* Runs up to the limit, while connections drop; and again: those that ended must not be counted. */
static void churn_runs(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	uint64_t active = limit_of(client, "active_runs");
	size_t n = active < 64 ? (size_t)active : 64;
	for (unsigned round = 0; round < 3; round++) {
		struct job *jobs = jobs_alloc(stage, n);
		for (size_t i = 0; i < n; i++)
			job_start(&jobs[i], client, script("[{\"sleep_ms\":200}%s]", i % 2 ? ",{\"crash\":\"exit\"}" : ""), NULL,
			          NULL);
		jobs_wait(jobs, n, JOB_ENDED, 30000);
		for (size_t i = 0; i < n; i++)
			job_check(&jobs[i], i % 2 ? "agent_failed" : "agent_completed");
	}
	json_t *answer = client_call(client, json_pack("{s:s,s:i}", "type", "thread.list", "limit", 100));
	size_t i, still = 0;
	json_t *thread;
	json_array_foreach(json_object_get(answer, "threads"), i, thread)
		still += json_object_get(thread, "active_run_id") != NULL;
	stage_check(stage, answer && !still, "%zu threads have an active run after all have ended", still);
}

void play_churn(struct stage *stage)
{
	static struct churn people[CHURN_USERS];
	uint64_t end = clock_us() + stage->options->duration_ms * 1000;
	unsigned n = stage->options->users < CHURN_USERS ? (unsigned)stage->options->users : CHURN_USERS, rounds = 0;
	struct client *first = client_enter(stage, stage_person(stage), NULL);
	uint64_t limit = limit_of(first, "connections");
	stage_check(stage, limit > 0, "the welcome tells no limit of connections");
	for (unsigned i = 0; i < n; i++)
		people[i] = (struct churn){.person = stage_person(stage),
		                           .n = limit < CONNECTIONS_MAX ? (unsigned)limit : CONNECTIONS_MAX};
	for (; (rounds < CHURN_ROUNDS_MIN || clock_us() < end) && !stage->result->n_failures && clock_us() < stage->deadline_us;
	     rounds++) {
		for (unsigned i = 0; i < n && fill(stage, &people[i], rounds / 2); i++)
			;
		for (unsigned i = 0; i < n && !stage->result->n_failures; i++)
			leave(&people[i]);
		stage_doing(stage, "round %u: %u users, %u connections each", rounds + 1, n, people[0].n);
	}
	if (limit > CONNECTIONS_MAX)
		stage_note(stage, "the limit of %llu connections is not reached with %d", (unsigned long long)limit,
		           CONNECTIONS_MAX);
	stage_note(stage, "%u users came and went %u times with %u connections each", n, rounds, people[0].n);
	churn_runs(stage);
}

/* ---- limits ---- */

enum { OVER_CONNECTIONS = 400, RUNS_MAX = 1000 };

static void message_size(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	uint64_t limit = limit_of(client, "message_bytes");
	if (!stage_check(stage, limit >= 1024 && limit <= 16 << 20, "message_bytes is %llu", (unsigned long long)limit))
		return;
	static const char head[] = "{\"type\":\"ping\",\"id\":\"full\"";
	char *text = malloc(limit + 2);
	memset(text, ' ', limit + 2);
	memcpy(text, head, sizeof head - 1);
	text[limit - 1] = '}';
	ws_send_text(client->chat->ws, text, limit);
	json_t *pong = chat_wait_answer(client->chat, "full", 15000);
	stage_check(stage, pong && !strcmp(chat_text_of(pong, "type"), "pong"), "a message of message_bytes is answered by %s",
	            pong ? chat_code(pong) : client_trouble(client));
	text[limit - 1] = ' ';
	text[limit] = '}';
	ws_send_text(client->chat->ws, text, limit + 1);
	free(text);
	chat_wait_closed(client->chat, 15000);
	stage_check(stage, client->chat->ws->close_code == 1009, "a message of message_bytes + 1 is answered by: %s",
	            client_trouble(client));
}

/* Behind a balancer the connections spread over gateways, each of which counts its own: so it goes on until one is refused. */
static void connections(struct stage *stage)
{
	struct person *person = stage_person(stage);
	struct client_args args = {.light = true};
	struct client *client = client_enter(stage, person, &args);
	uint64_t limit = limit_of(client, "connections");
	unsigned in = 1;
	char code[64] = "";
	for (; in < OVER_CONNECTIONS; in++) {
		client = client_open(stage, person, &args);
		if (!client_wait_welcome(client))
			break;
	}
	if (in < OVER_CONNECTIONS)
		http_problem_code(&client->chat->ws->response, code, sizeof code);
	stage_check(stage, in >= limit && client->chat->ws->response.status == 429 && !strcmp(code, "too_many_connections"),
	            "with a limit of %llu connections, %u were let in, then: %s", (unsigned long long)limit, in,
	            in < OVER_CONNECTIONS ? client_trouble(client) : "no refusal");
	stage_note(stage, "connections: %u of one user at %s, limit %llu", in, stage->options->endpoints[0].url,
	           (unsigned long long)limit);
}

/* Each of n pings gets one answer; those over the rate are told when to try again. */
static void rate(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	unsigned burst = (unsigned)limit_of(client, "burst"),
		 n = burst + burst / 2 + (unsigned)limit_of(client, "messages_per_s");
	unsigned pongs = 0, told = 0, lost = 0;
	for (unsigned i = 0; i < n; i++)
		chat_send(client->chat, json_pack("{s:s}", "type", "ping"));
	char last[32];
	snprintf(last, sizeof last, "%s", chat_send(client->chat, json_pack("{s:s}", "type", "ping")));
	chat_wait_answer(client->chat, last, 20000);
	for (unsigned i = 1; i <= n; i++) {
		char id[32];
		snprintf(id, sizeof id, "%s-%u", client->chat->tag, i);
		json_t *answer = chat_answer(client->chat, id);
		pongs += !strcmp(chat_text_of(answer, "type"), "pong");
		told += !strcmp(chat_code(answer), "rate_limited") &&
		        json_integer_value(json_object_get(answer, "retry_after_ms")) > 0;
		lost += !answer;
	}
	stage_check(
		stage, pongs >= burst && pongs + told == n && told > 0,
		"of %u pings at once (burst %u) %u were answered, %u told rate_limited with retry_after_ms, %u not answered: %s",
		n, burst, pongs, told, lost, client_is_closed(client) ? client_trouble(client) : "open");
	for (unsigned i = 0; i < burst * 20 && !client_is_closed(client) && i < 200000; i++) {
		chat_send(client->chat, json_pack("{s:s}", "type", "ping"));
		if (i % 100 == 0)
			stage_turn(stage);
	}
	chat_wait_closed(client->chat, 15000);
	stage_check(stage, client->chat->ws->close_code == 4429, "sustained abuse of the rate is answered by: %s",
	            client_trouble(client));
}

static json_t *cancel_of(const struct job *job)
{
	return json_pack("{s:s,s:s}", "type", "run.cancel", "run_id", job->run);
}

/* Runs until the user's queue is full; then all are cancelled. */
static void queue(struct stage *stage)
{
	struct client *client = client_enter(stage, stage_person(stage), NULL);
	uint64_t room = limit_of(client, "active_runs") + limit_of(client, "queued_runs");
	if (!stage_check(stage, room > 0 && room < RUNS_MAX, "can't fill a queue of %llu runs", (unsigned long long)room))
		return;
	struct job *jobs = jobs_alloc(stage, (size_t)room + 1);
	size_t n = 0, refused = 0;
	for (; n <= room; n++) {
		job_start(&jobs[n], client, script("[{\"sleep_ms\":60000}]"), NULL, NULL);
		jobs_wait(&jobs[n], 1, JOB_ACKED, 20000);
		stage_doing(stage, "%zu of %llu runs are accepted", n, (unsigned long long)room);
		if (jobs[n].state == JOB_REFUSED)
			refused++;
		if (jobs[n].state != JOB_ACKED)
			break;
	}
	stage_check(stage, n == room && refused == 1 && !strcmp(jobs[n].code, "queue_full"),
	            "with room for %llu runs, %zu were accepted, then: \"%s\"", (unsigned long long)room, n,
	            n <= room ? jobs[n].code : "");
	for (size_t i = n; i-- > 0;) { /* from the last, so that none that waits is started meanwhile */
		stage_linger(stage, 25);
		client_call(client, cancel_of(&jobs[i]));
	}
	jobs_wait(jobs, n, JOB_ENDED, 30000);
	for (size_t i = 0; i < n; i++)
		stage_check(stage, !strcmp(job_end_type(&jobs[i]), "agent_cancelled"), "a run that was cancelled ended in %s",
		            job_end_type(&jobs[i]));
}

void play_limits(struct stage *stage)
{
	message_size(stage);
	connections(stage);
	rate(stage);
	queue(stage);
}

/* ---- slow ---- */

enum { FLOOD_CHUNKS = 160, FLOOD_BYTES = 65536, PINGS = 40 };

/* p99 of the pings of another user, one after the other. */
static uint64_t ping_p99(struct stage *stage, struct client *client, bool (*enough)(void *ctx), void *ctx)
{
	struct samples times = {0};
	while (clock_us() < stage->deadline_us && (times.n < PINGS || !enough(ctx))) {
		uint64_t sent = clock_us();
		char id[32];
		struct chat_answer *answer;
		snprintf(id, sizeof id, "%s", chat_send(client->chat, json_pack("{s:s}", "type", "ping")));
		if (!chat_wait_answer(client->chat, id, 15000)) {
			stage_check(stage, false, "no answer to a ping: %s", client_trouble(client));
			break;
		}
		HASH_FIND_STR(client->chat->answers, id, answer);
		samples_add(&times, answer->at_us - sent);
		stage_measure(stage, LATENCY_PING, answer->at_us - sent);
		stage_linger(stage, 25); /* within everybody's rate */
	}
	uint64_t at = samples_at(&times, 0.99);
	samples_free(&times);
	return at;
}

static bool at_once(void *ctx)
{
	return true;
}

static bool job_has_ended(void *ctx)
{
	jobs_look(ctx, 1);
	return ((struct job *)ctx)->state >= JOB_ENDED;
}

void play_slow(struct stage *stage)
{
	struct person *person = stage_person(stage);
	struct client_args narrow = {.receive_buffer = 4096, .light = true};
	struct client *reader = client_enter(stage, person, NULL), *stopped = client_enter(stage, person, &narrow),
		      *other = client_enter(stage, stage_person(stage), NULL);
	struct job *jobs = jobs_alloc(stage, 1);
	uint64_t before = ping_p99(stage, other, at_once, NULL);
	ws_pause(stopped->chat->ws, true);
	stage_doing(stage, "%d MB go by a reader that has stopped", FLOOD_CHUNKS * FLOOD_BYTES / 1000000);
	job_start(jobs, reader,
	          script("[{\"stream\":{\"tokens\":%d,\"interval_ms\":4,\"bytes\":%d}},{\"think\":\"x\"},"
	                 "{\"stream\":{\"tokens\":%d,\"interval_ms\":4,\"bytes\":%d}}]",
	                 FLOOD_CHUNKS / 2, FLOOD_BYTES, FLOOD_CHUNKS / 2, FLOOD_BYTES),
	          NULL, NULL);
	uint64_t during = ping_p99(stage, other, job_has_ended, jobs);
	jobs_wait(jobs, 1, JOB_ENDED, 60000);
	job_check(jobs, "agent_completed");
	uint64_t bar = (before * 3 + 250000) * patience();
	stage_check(stage, during <= bar, "a stopped reader slows others: p99 of a ping was %.1f ms, then %.1f ms",
	            (double)before / 1e3, (double)during / 1e3);
	uint64_t behind = reader->last_seq - stopped->last_seq;
	stage_check(stage, behind > 0, "the stopped reader was not behind: the flood was too small");
	ws_pause(stopped->chat->ws, false);
	stage_check(stage, client_wait_seq(stopped, reader->last_seq, 60000), "the stopped reader came to %llu of %llu only: %s",
	            (unsigned long long)stopped->last_seq, (unsigned long long)reader->last_seq,
	            client_is_closed(stopped) ? client_trouble(stopped) : "open");
	for (size_t i = 0; i < reader->n_log && i < stopped->n_log; i++)
		stage_check(stage, reader->log[i].seq == stopped->log[i].seq && reader->log[i].hash == stopped->log[i].hash,
		            "the stopped reader was told another event %llu", (unsigned long long)stopped->log[i].seq);
	stage_note(stage, "another's ping: p99 %.1f ms, %.1f ms while %.1f MB went by the stopped reader", (double)before / 1e3,
	           (double)during / 1e3, (double)reader->bytes / 1e6);
}
