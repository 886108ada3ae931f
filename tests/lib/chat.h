/*
 * chat.h - one client of Pinion's protocol, on ws_client.h: connects, asks and hears, and checks everything it hears.
 *
 * What the protocol promises on one connection is checked as it arrives and kept in `violation`: the welcome first; events
 * numbered without gap or repetition; ts in its form; deltas that fit by offset; an agent_message equal to its deltas;
 * a run_accepted first and one terminal last in each run; answers exactly once. Thread: the caller's (ws_loop_turn).
 * Source: docs/protocol.md.
 */
#ifndef PINION_TESTS_LIB_CHAT_H
#define PINION_TESTS_LIB_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>
#include "tests/lib/ws_client.h"

struct chat_event {
	uint64_t seq;
	char type[24];
	char run_id[40]; /* "" for none */
	char thread_id[40];
	char *raw; /* the frame's bytes, NUL-terminated; NULL where the chat doesn't keep them */
	size_t n;
	uint64_t hash;  /* of the bytes */
	uint64_t at_us; /* when it came */
};

struct chat_answer { /* ack, error or pong, by the id it carries */
	char id[72];
	json_t *json;
	char *raw;
	uint64_t at_us;
	UT_hash_handle hh;
};

struct chat_text { /* a message that streams, or did */
	char id[40];
	char run_id[40];
	struct blob text;
	unsigned deltas;
	bool closed, from_start;
	UT_hash_handle hh;
};

struct chat_run {
	char id[40];
	bool accepted, ended; /* accepted: its run_accepted came on this connection */
	bool foreign;         /* it began before this connection did */
	UT_hash_handle hh;
};

struct chat_args {
	const struct endpoint *endpoint; /* where to; outlives the chat; NULL: `port` on 127.0.0.1 */
	uint16_t port;
	const char *user;  /* for a token that is minted; or */
	const char *token; /* this one */
	bool in_band;      /* auth as first message instead of the header */
	bool resume;
	uint64_t last_seq; /* with resume */
	bool forget_bytes; /* keep hashes of events only */
	int receive_buffer;
	void (*on_event)(void *ctx, const struct chat_event *event); /* may be NULL */
	void (*on_raw)(void *ctx, const char *text, size_t n);       /* every frame's text; may be NULL */
	void *ctx;
};

struct chat {
	struct ws_loop *loop;
	struct ws_client *ws;
	struct chat_args args;
	char *token;
	char tag[12];        /* begins the ids it makes */
	json_t *welcome;     /* NULL until it came */
	char error_code[32]; /* of an error with id null, the last one */
	uint64_t last_seq;   /* of the last event, or where it began */
	struct chat_event *events;
	size_t n_events, cap_events;
	struct chat_answer *answers;
	struct chat_text *texts;
	struct chat_run *runs;
	unsigned n_sent, n_null_errors;
	uint64_t bytes, deltas;
	char violation[200];
};

/* Begins to connect. The chat is the caller's until chat_free. */
struct chat *chat_open(struct ws_loop *loop, const struct chat_args *args);
/* The same user, or token, and settings again, from after the last event that `old` has. */
struct chat *chat_resume(const struct chat *old, uint16_t port);
void chat_drop(struct chat *chat); /* the connection, without a word; what was heard stays */
void chat_free(struct chat *chat); /* drops, and forgets everything; NULL is fine */

/* Waiting: false, or NULL, when the deadline has passed or the connection has ended before. */
bool chat_wait_welcome(struct chat *chat, unsigned timeout_ms);
bool chat_wait_closed(struct chat *chat, unsigned timeout_ms);
bool chat_wait_seq(struct chat *chat, uint64_t seq, unsigned timeout_ms);
/* Returns the terminal event of the run. */
const struct chat_event *chat_wait_end(struct chat *chat, const char *run_id, unsigned timeout_ms);
const struct chat_event *chat_wait_event(struct chat *chat, const char *run_id, const char *type, unsigned timeout_ms);

/* chat_open and chat_wait_welcome; fails the test where no welcome comes. */
struct chat *chat_enter(struct ws_loop *loop, const struct chat_args *args);
struct chat *chat_enter_as(struct ws_loop *loop, uint16_t port, const char *user);

/* Sends a message (stolen) with an id of its own, which is returned (the next call overwrites it). */
const char *chat_send(struct chat *chat, json_t *message);
void chat_send_text(struct chat *chat, const char *text);
/* The answer to id, or NULL; borrowed. */
json_t *chat_answer(const struct chat *chat, const char *id);
json_t *chat_wait_answer(struct chat *chat, const char *id, unsigned timeout_ms);
/* chat_send and chat_wait_answer, 10 s. */
json_t *chat_call(struct chat *chat, json_t *message);

/* {"type":"run.start","input":…,"agent":…,"thread_id":…}; input is stolen; NULL leaves a field out. */
json_t *chat_run_message(json_t *input, const char *agent, const char *thread_id);
/* A script's input from the text of its steps: "[{…},…]". */
json_t *chat_script(const char *steps);
/* Starts a run and waits for its ack; run_id into out. Fails the test where it is not acked. */
void chat_start(struct chat *chat, json_t *input, const char *agent, char run_id[40]);

/* "" for an ack or pong, the code for an error, "none" for NULL. */
const char *chat_code(const json_t *answer);
const char *chat_text_of(const json_t *object, const char *key); /* "" where it is no string */
bool chat_is_terminal(const char *type);
json_t *chat_event_json(const struct chat_event *event); /* parsed anew; the caller's */
/* Fails the test where something has broken a promise. */
void chat_check(const struct chat *chat);

#endif
