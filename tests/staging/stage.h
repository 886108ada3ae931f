/*
 * stage.h - what every scenario plays on: its users, their connections, what was measured, and what was found wrong.
 *
 * A scenario is a function that acts and checks. stage_check and stage_blame note a failure and go on; stage_fail ends the
 * scenario (longjmp to stage_play: never call it from a callback). Everything that a scenario opens is the stage's and goes with it.
 *
 * What no scenario has to ask for, because it is looked at in every frame of every connection: the promises that chat.h
 * checks (numbering, deltas, one terminal a run, one answer a request), and isolation: each person has a mark, which
 * stands in what they write, and no frame may bring anybody another's mark, run or thread.
 *
 * One thread, one epoll loop. Times in microseconds of the monotonic clock unless a name says otherwise.
 */
#ifndef PINION_STAGING_STAGE_H
#define PINION_STAGING_STAGE_H

#include <setjmp.h>
#include <uthash.h>
#include "tests/lib/chat.h"
#include "tests/staging/options.h"
#include "tests/staging/samples.h"

enum { FAILURES_KEPT = 12, NOTES_KEPT = 24 };

struct stage;

struct scenario {
	const char *name;
	const char *proves; /* one line */
	void (*play)(struct stage *stage);
	bool needs_chaos;
};

struct person {
	char user[72];
	char mark[32]; /* that stands in what they write, and in nothing that anybody else may see */
	char *token;
	struct person *next;
};

struct seen { /* an event that came */
	uint64_t seq, hash, at_us;
	char type[24], run[40], thread[40];
	char *raw; /* NULL where the client is light */
	size_t n;
};

struct client { /* one tab: a connection, and those that take its place */
	struct stage *stage;
	struct person *person;
	struct chat *chat; /* the present connection */
	unsigned url;      /* index of the endpoint */
	bool light;        /* keeps no bytes of events */
	bool returns;      /* comes back by itself when it is cut off */
	bool catching_up;  /* has resumed, and waits for what it missed */
	unsigned returned; /* how often it has */
	uint64_t return_at_us, opened_us, welcome_us;
	uint64_t last_seq; /* of the last event, or where it began */
	uint64_t bytes;
	struct seen *log; /* all events over all its connections */
	size_t n_log, cap_log;
	struct client *prev, *next;
};

struct claim { /* whose a run or a thread is */
	char id[40];
	const struct person *person;
	UT_hash_handle hh;
};

struct result {
	const struct scenario *scenario;
	bool passed;
	uint64_t us;
	uint64_t checks, connections, runs, events, deltas, bytes, retries, leaks;
	size_t n_failures; /* the first of them are kept */
	char *failures[FAILURES_KEPT];
	size_t n_notes;
	char *notes[NOTES_KEPT];
	struct samples latency[N_LATENCIES];
};

struct block { /* memory that goes with the stage */
	struct block *next;
	void (*finish)(void *memory, size_t n);
	size_t n;
	_Alignas(16) char memory[];
};

struct stage {
	const struct staging_options *options;
	struct ws_loop *loop;
	struct result *result;
	struct person *people;
	struct client *clients;
	struct claim *claims;
	struct block *blocks;
	uint64_t nonce; /* of this run of the program and this scenario: users are made from it */
	unsigned n_people;
	uint64_t begin_us, deadline_us, told_us, polled_us;
	char doing[120]; /* for the progress line */
	jmp_buf out;
};

/* Plays the scenario from its first line to its end, and judges it. number: its place in this run. */
void stage_play(const struct staging_options *options, const struct scenario *scenario, uint64_t nonce, unsigned number,
                struct result *result);
void result_finish(struct result *result);

/* n zeroed things of `size` bytes, which go with the stage; finish, if any, is then called with them. Never NULL. */
void *stage_alloc(struct stage *stage, size_t n, size_t size, void (*finish)(void *memory, size_t n));

/* ---- judging ---- */

void stage_fail(struct stage *stage, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
void stage_blame(struct stage *stage, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Counts a check; blames where it does not hold. Returns ok. */
bool stage_check(struct stage *stage, bool ok, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A line for the report. */
void stage_note(struct stage *stage, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void stage_doing(struct stage *stage, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void stage_measure(struct stage *stage, enum latency what, uint64_t us);

/* ---- time ---- */

/* One turn of the loop; shows progress; brings clients back that were cut off. */
void stage_turn(struct stage *stage);
/* Turns until cond holds: true; or the time, or the scenario's, is up: false. cond is asked about every 5 ms. */
bool stage_until(struct stage *stage, bool (*cond)(void *ctx), void *ctx, unsigned timeout_ms);
/* Lets that time go by. */
void stage_linger(struct stage *stage, unsigned ms);

/* ---- people and their connections ---- */

struct person *stage_person(struct stage *stage); /* a new user */
/* Whose user ID is these bytes; a token for it is made. */
struct person *stage_person_named(struct stage *stage, const char *user, size_t n);

struct client_args {
	unsigned url; /* taken modulo the number of endpoints */
	bool light, returns, in_band;
	bool resume;
	uint64_t last_seq;
	int receive_buffer;
};

/* Begins to connect; NULL args: the first URL. */
struct client *client_open(struct stage *stage, struct person *person, const struct client_args *args);
/* Waits for the welcome; the scenario fails without it. */
struct client *client_enter(struct stage *stage, struct person *person, const struct client_args *args);
/* Cuts the connection without a word; what was seen stays. */
void client_cut(struct client *client);
/* Connects again, at the next URL, from after its last event. */
void client_return(struct client *client);
void client_close(struct client *client);        /* and forgets it */
bool client_wait_welcome(struct client *client); /* true; or false where it was closed, or nothing came in time */
bool client_is_welcome(const struct client *client);
bool client_is_closed(const struct client *client);
/* Why there is no welcome, or no longer a connection. */
const char *client_trouble(const struct client *client);
/* Waits until the client has seen seq. */
bool client_wait_seq(struct client *client, uint64_t seq, unsigned timeout_ms);
/* Sends (message is stolen) and waits for the answer: borrowed, NULL where none came. */
json_t *client_call(struct client *client, json_t *message);

/* Each client's message (made, and then stolen) at once; waits for the answers: borrowed, NULL where none came. The array is
 * the stage's. */
json_t **stage_ask_each(struct client **clients, size_t n, json_t *(*make)(const struct client *client, size_t i, void *ctx),
                        void *ctx);

/* n new users with one client each, spread over the URLs, all welcome; the array is the stage's. */
struct client **stage_crowd(struct stage *stage, unsigned n, const struct client_args *args);

/* The log of `client` is byte for byte what a new reader is told of the same numbers. */
void stage_compare_replay(struct stage *stage, struct client *client);

/* ---- HTTP ---- */

/* One GET at that URL: status (0: none), body into `body` (the caller's, blob_free). bearer NULL: no such header. */
int stage_get(struct stage *stage, unsigned url, const char *path, const char *bearer, struct blob *body);

#endif
