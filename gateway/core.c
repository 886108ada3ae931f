/*
 * core.c - the gateway as a whole: which workers there are, where publications go, the drain, what can be seen of it.
 */
#include "gateway/core.h"

#include <stdlib.h>
#include "common/log.h"
#include "gateway/feed.h"
#include "gateway/worker_peer.h"
#include "proto/codec.h"

enum {
	DRAIN_STEP_MS = 20,
	STATE_PINS_MAX = 100,
	DECODE_BYTES_MAX = 64 << 20,
};

static void core_sweep(struct task *task)
{
	struct core *core = CONTAINER_OF(task, struct core, sweep);

	while (core->sessions[SESSION_CLOSED])
		session_free(core->sessions[SESSION_CLOSED]);
	feed_sweep(core);
	peer_sweep(core);
	if (core->draining && core->drained && core_sessions(core) == 0) {
		void (*done)(void *ctx) = core->drained;
		core->drained = NULL;
		done(core->drained_ctx);
	}
}

/* ---- publications ---- */

static void on_publication(void *ctx, struct str message)
{
	struct core *core = ctx;
	struct batch batch;
	struct err_info info = {0};
	struct worker_peer *peer = NULL;

	arena_reset(&core->arena);
	if (batch_decode(&core->arena, &batch, message, &info) != ERR_OK) {
		metric_add(&metrics.bad_messages, 1);
		log_error("worker", "bad_publication", "why", info.text, NULL);
		return;
	}
	if (!str_eq(batch.gateway_incarnation, id_str(&core->incarnation)))
		return; /* meant for whom we were before */
	HASH_FIND(by_id, core->peers_by_id, batch.worker_id.p, batch.worker_id.n, peer);
	if (peer)
		peer_on_batch(peer, &batch);
}

/* ---- workers ---- */

static struct worker_peer *peer_of_url(struct core *core, const char *url)
{
	struct worker_peer *peer = NULL;

	HASH_FIND(by_url, core->peers, url, strlen(url), peer);
	return peer;
}

static bool is_among(const char *url, const char *const *urls, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(urls[i], url) == 0)
			return true;
	return false;
}

void core_set_workers(struct core *core, const char *const *urls, size_t n)
{
	struct worker_peer *peer, *next;

	HASH_ITER (by_url, core->peers, peer, next)
		if (!is_among(peer->url, urls, n))
			peer_list(peer, false);
	for (size_t i = 0; i < n; i++) {
		peer = peer_of_url(core, urls[i]);
		if (peer)
			peer_list(peer, true);
		else
			peer_create(core, urls[i]);
	}
}

bool core_is_ready(const struct core *core, struct err_info *why_not)
{
	if (core->draining)
		return err_set(why_not, ERR_DRAINING, NULL) == ERR_OK;
	if (router_is_ready(core))
		return true;
	return err_set(why_not, ERR_NO_WORKER, NULL) == ERR_OK;
}

/* ---- drain ---- */

static struct session *core_first_open(const struct core *core)
{
	for (size_t i = 0; i < SESSION_CLOSING; i++)
		if (core->sessions[i])
			return core->sessions[i];
	return NULL;
}

static size_t core_count_open(const struct core *core)
{
	return core_sessions(core) - core->n_sessions[SESSION_CLOSING];
}

/* Closes its share of those that are left: some each step, or one every few steps. */
static void on_drain(struct timer *timer)
{
	struct core *core = CONTAINER_OF(timer, struct core, drain_timer);
	uint64_t now = loop_now(core->loop);
	uint64_t left_ms = core->drain_end_ms > now ? core->drain_end_ms - now : 0;
	size_t n = core_count_open(core) / (left_ms / DRAIN_STEP_MS + 1) + 1;
	struct session *session;

	while (n-- > 0 && (session = core_first_open(core)))
		session_close(session, CLOSE_DRAINING, "draining: reconnect and resume");
	size_t left = core_count_open(core);
	if (left)
		timer_set(core->loop, &core->drain_timer, left_ms / left > DRAIN_STEP_MS ? left_ms / left : DRAIN_STEP_MS);
	else
		task_defer(core->loop, &core->sweep);
}

void core_drain(struct core *core, uint32_t spread_ms, void (*done)(void *ctx), void *ctx)
{
	log_info("core", "drain", "sessions", LOG_U64(core_sessions(core)), NULL);
	core->draining = true;
	core->drained = done;
	core->drained_ctx = ctx;
	core->drain_end_ms = loop_now(core->loop) + spread_ms;
	timer_set(core->loop, &core->drain_timer, 0);
}

/* ---- state ---- */

static json_t *peer_json(const struct worker_peer *peer)
{
	struct str id = peer_id(peer);

	return json_pack("{s:s%,s:s,s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I}", "id", id.n ? id.p : "", id.n, "url", peer->url, "state",
	                 peer_state_name(peer->state), "ready", peer_is_routable(peer), "draining", peer->draining, "incarnation",
	                 (json_int_t)peer->incarnation, "feeds", (json_int_t)peer->n_feeds, "last_batch",
	                 (json_int_t)peer->received, "gaps", (json_int_t)peer->gaps, "repairs", (json_int_t)peer->repairs);
}

static json_t *pins_json(const struct core *core)
{
	json_t *pins = json_object();
	struct feed *feed, *next;
	size_t n = 0;

	HASH_ITER (hh, core->feeds, feed, next) {
		if (n++ == STATE_PINS_MAX)
			break;
		struct str id = feed->peer ? peer_id(feed->peer) : (struct str){0};
		json_object_set_new(pins, feed->user.s,
		                    json_pack("{s:s%,s:s,s:I,s:I,s:I}", "worker", id.n ? id.p : "", id.n, "state",
		                              feed_state_name(feed->state), "epoch", (json_int_t)feed->epoch, "last_seq",
		                              (json_int_t)feed->last, "connections", (json_int_t)feed->n_sessions));
	}
	return pins;
}

json_t *core_state(const struct core *core)
{
	json_t *workers = json_array(), *sessions = json_object();
	struct worker_peer *peer, *next;

	HASH_ITER (by_url, core->peers, peer, next)
		json_array_append_new(workers, peer_json(peer));
	for (size_t i = 0; i < SESSION_CLOSED; i++)
		json_object_set_new(sessions, session_state_name((enum session_state)i),
		                    json_integer((json_int_t)core->n_sessions[i]));
	return json_pack("{s:s,s:s,s:b,s:o,s:I,s:o,s:o}", "gateway_id", core->config->gateway_id, "incarnation",
	                 core->incarnation.s, "draining", core->draining, "workers", workers, "users",
	                 (json_int_t)HASH_COUNT(core->feeds), "pins", pins_json(core), "sessions", sessions);
}

/* ---- life ---- */

struct core *core_create(struct loop *loop, const struct core_config *config, struct worker_transport *transport,
                         struct verifier verifier)
{
	struct core *core = calloc(1, sizeof(*core));

	if (!core)
		abort();
	core->loop = loop;
	core->config = config;
	core->transport = transport;
	core->verifier = verifier;
	core->sweep.fn = core_sweep;
	core->drain_timer.fn = on_drain;
	id_make(&core->incarnation);
	arena_init(&core->arena, DECODE_BYTES_MAX);
	core_metrics_register();
	transport->on_publication = on_publication;
	transport->ctx = core;
	return core;
}

void core_destroy(struct core *core)
{
	struct feed *feed, *next_feed;
	struct worker_peer *peer, *next_peer;

	if (!core)
		return;
	core->transport->on_publication = NULL;
	for (size_t i = 0; i < SESSION_STATES; i++)
		while (core->sessions[i])
			session_free(core->sessions[i]);
	HASH_ITER (hh, core->feeds, feed, next_feed)
		feed_destroy(feed);
	HASH_ITER (by_url, core->peers, peer, next_peer)
		peer_close(peer);
	feed_sweep(core);
	peer_orphan(core);
	timer_cancel(core->loop, &core->drain_timer);
	task_cancel(core->loop, &core->sweep);
	arena_finish(&core->arena);
	buf_finish(&core->encoded);
	buf_finish(&core->text);
	free(core);
}
