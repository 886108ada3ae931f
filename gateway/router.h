/*
 * router.h - which worker to ask for a user: the last known owner first, then rendezvous order over the workers that are
 * ready, listed and not draining. Holds no list: a route remembers the weight of its last choice. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_ROUTER_H
#define PINION_GATEWAY_ROUTER_H

#include "gateway/worker_peer.h"

struct route {
	uint32_t first; /* serial of the peer to ask first; 0: none */
	bool tried_first;
	bool started;
	uint64_t weight; /* of the last choice by rendezvous */
	uint32_t asked_first;
};

/* Begins a round. */
void route_begin(struct route *route);
/* The next peer to ask, or NULL: all have been. */
struct worker_peer *route_next(struct core *core, struct route *route, struct str key);

/* A ready peer by what a worker said of another: by id, else by URL. NULL: unknown or not ready, or of another incarnation. */
struct worker_peer *router_find(struct core *core, struct str worker_id, struct str url, uint64_t incarnation);

bool router_is_ready(const struct core *core);

#endif
