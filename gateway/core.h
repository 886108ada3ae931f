/*
 * core.h - the gateway without its libraries: sessions, user feeds, the router and the links' state machines.
 *
 * Built on struct loop, struct worker_transport and struct auth only, so that the simulation runs it whole. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_CORE_H
#define PINION_GATEWAY_CORE_H

#include <jansson.h>
#include "common/err.h"
#include "common/loop.h"
#include "gateway/auth.h"
#include "gateway/worker_link.h"

struct core;

struct core_config {
	const char *gateway_id;
	const char *advertise_events; /* URL at which workers reach our events socket */
	uint32_t message_bytes;       /* 65536 */
	uint32_t messages_per_s;      /* 50 */
	uint32_t burst;               /* 200 */
	uint32_t connections;         /* 8, per user */
	uint32_t active_runs;         /* 8, per user */
	uint32_t queued_runs;         /* 64, per user */
	uint32_t heartbeat_s;         /* 25 */
	uint32_t outbox_bytes;        /* 262144, per connection: past it the queue stops and is pulled from the log later */
	uint32_t auth_wait_s;         /* 10 */
	uint32_t unauthenticated_per_address; /* 32 */
	uint32_t max_sessions;                /* from the descriptor limit */
	uint32_t command_timeout_ms;          /* 10000: from a client's message to its answer at the latest */
};

/* auth_verify behind a pointer, so that tests can stand in. */
struct verifier {
	enum err (*verify)(void *ctx, struct str token, int64_t now_s, struct identity *out, struct err_info *info);
	void *ctx;
};

/* transport->on_publication and ctx are set by core_create; config, loop, transport outlive the core. */
struct core *core_create(struct loop *loop, const struct core_config *config, struct worker_transport *transport,
                         struct verifier verifier);

/* The workers that exist now, by NNG URL (the resolver calls this again when it changes). Links to new ones are opened; links
 * to ones no longer listed are closed once no user is attached through them. */
void core_set_workers(struct core *core, const char *const *urls, size_t n);

/* No new connections; close every session with 1012, spread over spread_ms; *done (may be NULL) when none is left. */
void core_drain(struct core *core, uint32_t spread_ms, void (*done)(void *ctx), void *ctx);

bool core_is_ready(const struct core *core, struct err_info *why_not); /* at least one worker that is ready */
json_t *core_state(const struct core *core);                           /* for /v1/state; the caller's */
size_t core_sessions(const struct core *core);
void core_destroy(struct core *core);

#endif
