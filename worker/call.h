/*
 * call.h - one request of a gateway, from its arrival to its answer.
 *
 * Each request is answered exactly once. One that repeats the number of a request under way joins it; one that repeats the
 * number of an answered request that changed something gets the same reply again (gateway_peer.h keeps those).
 * Owner: the core, until call_answer or its kin, after which the pointer is dead. Thread: the loop's.
 */
#ifndef PINION_WORKER_CALL_H
#define PINION_WORKER_CALL_H

#include "worker/core_private.h"

struct call {
	struct core *core;
	struct gateway_peer *peer; /* NULL once its incarnation is gone */
	struct call *prev, *next;
	struct arena arena;
	struct request request; /* views the arena */
	request_token *tokens;
	size_t n_tokens;

	/* a command of a user's (command.h); listed with the user while under way */
	struct user *user;
	struct call *user_prev, *user_next;
	struct call *followers; /* run.start: they repeat our idempotency key and are answered with us (by follow_next) */
	struct call *follow_next;
	bool is_follower;
	bool waits; /* for an earlier command on the same thread */
	uint64_t input_hash;
	unsigned reads_open;
	bool key_found, thread_found;
	enum err read_err;
	struct {
		struct id run_id, thread_id;
		uint64_t seq, input_hash;
	} first; /* what an earlier run.start with this key answered */
	struct str title;
	uint64_t created_ms;
	uint32_t limit;
};

/* Decodes and dispatches; answers at once what can't be understood. */
void call_handle(struct core *core, request_token token, struct str message);

/* Fills in version, number, worker, user and epoch (where the reply names none), answers all tokens and frees. */
void call_answer(struct call *call, struct reply *reply);
/* ERR_OK with a command's fields ("{}" for none). */
void call_answer_fields(struct call *call, struct str fields);
void call_fail(struct call *call, enum err code, const char *text);
/* All under way, with ERR_DISCONNECTED: the outcome is not known. */
void call_fail_all(struct core *core);

#endif
