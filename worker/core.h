/*
 * core.h - the worker without its libraries: users, runs, gateways' attachments, commands.
 *
 * Built on struct loop, struct store, struct lease, struct agent_host and struct gateway_transport only, so that the
 * simulation runs it whole. Thread: the loop's.
 */
#ifndef PINION_WORKER_CORE_H
#define PINION_WORKER_CORE_H

#include <jansson.h>
#include "common/err.h"
#include "common/loop.h"
#include "worker/agent_host.h"
#include "worker/agents_file.h"
#include "worker/gateway_link.h"
#include "worker/lease.h"
#include "worker/store/store.h"

struct core;

struct core_config {
	const char *worker_id;
	const char *url;      /* our own, as gateways reach us */
	uint32_t max_users;   /* 20000; beyond: ERR_FULL */
	uint32_t max_runs;    /* 256 processes at once; more wait, accepted */
	uint32_t ring_bytes;  /* 65536: recent events kept in memory per user */
	uint32_t idle_user_s; /* 300: a user without gateways and runs is given back after this long */
};

struct core_parts {
	struct loop *loop;
	struct store *store;
	struct lease *lease;
	struct agent_host *host;
	struct gateway_transport *transport; /* on_request and ctx are set by core_create */
	const struct agents *agents;
};

struct core *core_create(const struct core_parts *parts, const struct core_config *config);
/* Accepts nothing new; hands users over as they become idle; *done when none is left, or at the deadline. */
void core_drain(struct core *core, uint32_t deadline_ms, void (*done)(void *ctx), void *ctx);
bool core_is_ready(const struct core *core, struct err_info *why_not);
json_t *core_state(const struct core *core);
/* Stops all runs; publishes nothing more. */
void core_destroy(struct core *core);

#endif
