/*
 * job.h - runs that a scenario starts: many at once, each followed from its run.start to its terminal event.
 *
 * Every run.start has an idempotency key. Where the deployment says when to try again (overloaded, unavailable, draining, rate_limited),
 * or a connection is cut before the answer, the same run.start is sent again, as a client of the product would; that it
 * started once only is checked by the events.
 */
#ifndef PINION_STAGING_JOB_H
#define PINION_STAGING_JOB_H

#include "tests/staging/stage.h"

enum job_state {
	JOB_NEW,
	JOB_ASKED,   /* run.start is out */
	JOB_PUT_OFF, /* will be asked again */
	JOB_ACKED,
	JOB_ENDED,   /* its terminal event came */
	JOB_REFUSED, /* by `code` */
};

struct job {
	struct client *client;
	json_t *message;
	enum job_state state;
	char ask[72], run[40], thread[40], code[32];
	uint64_t ack_seq;
	unsigned asked_on; /* which of the client's connections the question is out on */
	uint64_t first_sent_us, retry_at_us;
	size_t first_event, looked; /* indices into the client's log */
	size_t end;                 /* of the terminal event, in JOB_ENDED */
	size_t started;             /* of the first agent_started; 0: none (it is never the first event) */
};

/* Room for n jobs, the stage's. */
struct job *jobs_alloc(struct stage *stage, size_t n);

/* The run.start is sent at once. input is stolen; agent NULL: the options' script agent; thread NULL: a new one. */
void job_start(struct job *job, struct client *client, json_t *input, const char *agent, const char *thread);
/* The same with more fields (stolen): {"on_busy":"reject"}. A used job may be started anew. */
void job_start_with(struct job *job, struct client *client, json_t *input, const char *agent, const char *thread, json_t *more);

/* {"steps":[…]} from the text of the steps. */
json_t *script(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Waits until all have come to `state` (JOB_ACKED, JOB_ENDED) or beyond; blames those that have not, by how far they came. What is
 * refused counts as come. Measures what passes by. */
bool jobs_wait(struct job *jobs, size_t n, enum job_state state, unsigned timeout_ms);
/* One look at each; for callers with a loop of their own. */
void jobs_look(struct job *jobs, size_t n);

/* "agent_completed", …; "" where it has none. */
const char *job_end_type(const struct job *job);
/* The field of the terminal event, "" where it is none. */
void job_end_field(const struct job *job, const char *key, char *out, size_t n);
/* It ended in this, and its events are in order: run_accepted first, as acknowledged, agent_started, the terminal last, each once. */
bool job_check(struct job *job, const char *end_type);
unsigned job_count(const struct job *job, const char *type);
/* The n-th event of this type, parsed; the caller's; NULL where there is none. */
json_t *job_event(const struct job *job, const char *type, unsigned n);

/* One job for each client, with the input that is made for it. */
struct job *jobs_start_each(struct client **clients, size_t n, const char *agent,
                            json_t *(*input)(const struct client *client, size_t i));

#endif
