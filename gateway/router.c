#include "gateway/router.h"

#include "common/rendezvous.h"

void route_begin(struct route *route)
{
	route->tried_first = false;
	route->started = false;
	route->asked_first = 0;
}

/* An owner that drains still owns: it is asked first all the same. */
static struct worker_peer *route_first(struct core *core, const struct route *route)
{
	struct worker_peer *peer, *next;

	HASH_ITER (by_url, core->peers, peer, next)
		if (peer->serial == route->first && peer->state == PEER_READY)
			return peer;
	return NULL;
}

struct worker_peer *route_next(struct core *core, struct route *route, struct str key)
{
	struct worker_peer *peer, *next, *best = NULL;
	uint64_t best_weight = 0;

	if (!route->tried_first && route->first) {
		route->tried_first = true;
		peer = route_first(core, route);
		if (peer) {
			route->asked_first = peer->serial;
			return peer;
		}
	}
	HASH_ITER (by_url, core->peers, peer, next) {
		if (!peer_is_routable(peer) || peer->serial == route->asked_first)
			continue;
		uint64_t weight = rendezvous_weight(key, peer_id(peer));
		if (route->started && weight >= route->weight)
			continue;
		if (!best || weight > best_weight) {
			best = peer;
			best_weight = weight;
		}
	}
	if (best) {
		route->started = true;
		route->weight = best_weight;
	}
	return best;
}

struct worker_peer *router_find(struct core *core, struct str worker_id, struct str url, uint64_t incarnation)
{
	struct worker_peer *peer = NULL;

	if (worker_id.n)
		HASH_FIND(by_id, core->peers_by_id, worker_id.p, worker_id.n, peer);
	if (!peer && url.n)
		HASH_FIND(by_url, core->peers, url.p, url.n, peer);
	if (!peer || peer->state != PEER_READY)
		return NULL;
	return incarnation == 0 || peer->incarnation == incarnation ? peer : NULL;
}

bool router_is_ready(const struct core *core)
{
	struct worker_peer *peer, *next;

	HASH_ITER (by_url, core->peers, peer, next)
		if (peer_is_routable(peer))
			return true;
	return false;
}
