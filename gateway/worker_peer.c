/*
 * worker_peer.c - one worker's link. Batches are numbered per pair of incarnations: a number that is skipped, or a beat
 * that names a higher one, means that publications were lost, and every feed bound to the peer asks the log. Credit tells
 * the worker how far we are; it is told again until an answer says that it knows.
 */
#include "gateway/worker_peer.h"

#include <assert.h>
#include <stdlib.h>
#include "common/log.h"
#include "common/state.h"
#include "gateway/feed.h"
#include "proto/codec.h"

enum {
	HELLO_AGAIN_MS = 2000,
	HELLO_SOON_MS = 50,
	SILENCE_MS = 1500,
	SILENCE_LATE_MS = 250, /* a check this much late says more about us than about the worker */
	CREDIT_MS = 250,
	CREDIT_BATCHES = 64,
	CREDIT_TIMEOUT_MS = 1000,
	ATTACHES_IN_FLIGHT = 64,
	REPLAYS_IN_FLIGHT = 32,
};

#define TO(state) (1u << (state))

static const unsigned successors[PEER_STATES] = {
	[PEER_DOWN] = TO(PEER_GREETING) | TO(PEER_CLOSED),
	[PEER_GREETING] = TO(PEER_READY) | TO(PEER_DOWN) | TO(PEER_CLOSED),
	[PEER_READY] = TO(PEER_SILENT) | TO(PEER_GREETING) | TO(PEER_DOWN) | TO(PEER_CLOSED),
	[PEER_SILENT] = TO(PEER_READY) | TO(PEER_GREETING) | TO(PEER_DOWN) | TO(PEER_CLOSED),
	[PEER_CLOSED] = 0,
};

const char *peer_state_name(enum peer_state state)
{
	static const char *const names[PEER_STATES] = {"down", "greeting", "ready", "silent", "closed"};

	return names[state];
}

/* ---- lanes ---- */

static void lane_grant(struct lane *lane)
{
	while (lane->open && lane->waiting && lane->in_use < lane->most) {
		struct lane_ticket *ticket = lane->waiting;
		DL_DELETE(lane->waiting, ticket);
		ticket->granted = true;
		lane->in_use++;
		ticket->grant(ticket);
	}
}

void lane_enter(struct lane *lane, struct lane_ticket *ticket)
{
	assert(!ticket->lane);
	ticket->lane = lane;
	ticket->granted = false;
	DL_APPEND(lane->waiting, ticket);
	lane_grant(lane);
}

void lane_leave(struct lane_ticket *ticket)
{
	struct lane *lane = ticket->lane;

	if (!lane)
		return;
	ticket->lane = NULL;
	if (ticket->granted)
		lane->in_use--;
	else
		DL_DELETE(lane->waiting, ticket);
	lane_grant(lane);
}

/* ---- states ---- */

/* Moves, and unbinds the feeds where it leaves READY. */
static void peer_move(struct worker_peer *peer, enum peer_state to, const char *why)
{
	enum peer_state from = peer->state;

	if (from == to)
		return;
	(void)state_may_follow(successors, from, to, "worker_link");
	log_info("worker", "link", "url", peer->url, "from", peer_state_name(from), "to", peer_state_name(to), "why", why, NULL);
	peer->state = to;
	peer->attaches.open = peer->replays.open = to == PEER_READY;
	if (to == PEER_READY)
		timer_set(peer->core->loop, &peer->silence_timer, SILENCE_MS);
	else
		timer_cancel(peer->core->loop, &peer->silence_timer);
	while (to != PEER_READY && peer->feeds)
		feed_on_peer_lost(peer->feeds, why);
}

static void peer_forget_id(struct worker_peer *peer)
{
	if (!peer->worker_id)
		return;
	struct worker_peer *named = NULL;
	HASH_FIND(by_id, peer->core->peers_by_id, peer->worker_id->p, peer->worker_id->n, named);
	if (named == peer)
		HASH_DELETE(by_id, peer->core->peers_by_id, peer);
	bytes_unref(peer->worker_id);
	peer->worker_id = NULL;
}

/* ---- greeting ---- */

static void on_hello(void *owner, enum err err, const struct reply *reply);

static void peer_say_hello(struct worker_peer *peer)
{
	struct request request = {.kind = REQUEST_HELLO, .hello.events_url = str_c(peer->core->config->advertise_events)};

	timer_cancel(peer->core->loop, &peer->hello_timer);
	call_abandon(&peer->hello);
	peer->hello = peer_call(peer, &request, 0, HELLO_AGAIN_MS, on_hello, peer);
}

static void on_hello_timer(struct timer *timer)
{
	struct worker_peer *peer = CONTAINER_OF(timer, struct worker_peer, hello_timer);

	if (peer->state == PEER_GREETING)
		peer_say_hello(peer);
}

/* Whatever was agreed with this worker no longer holds: greet it again, soon. */
static void peer_greet_again(struct worker_peer *peer, const char *why)
{
	if (peer->state != PEER_READY && peer->state != PEER_SILENT)
		return;
	peer_move(peer, PEER_GREETING, why);
	timer_set(peer->core->loop, &peer->hello_timer, HELLO_SOON_MS);
}

/* Two URLs can lead to one worker, and a name can come back on another URL: the newest incarnation has it. */
static bool peer_claim_id(struct worker_peer *peer, struct str id, uint64_t incarnation)
{
	struct worker_peer *other = NULL;

	HASH_FIND(by_id, peer->core->peers_by_id, id.p, id.n, other);
	if (other && other != peer) {
		if (other->incarnation >= incarnation && other->state == PEER_READY)
			return false;
		peer_greet_again(other, "replaced");
		peer_forget_id(other);
	}
	if (!str_eq(peer_id(peer), id)) {
		peer_forget_id(peer);
		peer->worker_id = bytes_create(id.p, id.n);
		HASH_ADD_KEYPTR(by_id, peer->core->peers_by_id, peer->worker_id->p, peer->worker_id->n, peer);
	}
	return true;
}

static void peer_become_ready(struct worker_peer *peer, const struct reply *reply)
{
	if (peer->incarnation != reply->worker_incarnation)
		peer->received = peer->credited = 0;
	peer->incarnation = reply->worker_incarnation;
	peer->draining = reply->hello.draining;
	peer->heard_ms = loop_now(peer->core->loop);
	peer_move(peer, PEER_READY, "hello");
	feed_wake_seekers(peer->core);
}

static void on_hello(void *owner, enum err err, const struct reply *reply)
{
	struct worker_peer *peer = owner;

	peer->hello = NULL;
	if (peer->state != PEER_GREETING)
		return;
	if (!err && reply->code == ERR_OK && reply->kind == REQUEST_HELLO && reply->worker_id.n && reply->worker_incarnation) {
		if (peer_claim_id(peer, reply->worker_id, reply->worker_incarnation)) {
			peer_become_ready(peer, reply);
			return;
		}
		log_debug("worker", "same_worker_at_two_urls", "url", peer->url, NULL);
	} else if (!err) {
		log_warn("worker", "hello_refused", "url", peer->url, "code", err_name(reply->code), NULL);
	}
	timer_set(peer->core->loop, &peer->hello_timer, err == ERR_TIMEOUT ? 0 : HELLO_AGAIN_MS);
}

static void on_up(void *ctx)
{
	struct worker_peer *peer = ctx;

	if (!peer->core || peer->state == PEER_CLOSED)
		return;
	if (peer->state == PEER_READY || peer->state == PEER_SILENT)
		peer_move(peer, PEER_GREETING, "reconnected");
	else if (peer->state == PEER_DOWN)
		peer_move(peer, PEER_GREETING, "up");
	peer_say_hello(peer);
}

static void on_down(void *ctx)
{
	struct worker_peer *peer = ctx;

	if (!peer->core || peer->state == PEER_CLOSED)
		return;
	timer_cancel(peer->core->loop, &peer->hello_timer);
	call_abandon(&peer->hello);
	peer_move(peer, PEER_DOWN, "down");
}

/* ---- requests ---- */

struct call *peer_call(struct worker_peer *peer, struct request *request, uint64_t number, uint32_t timeout_ms, call_fn *done,
                       void *owner)
{
	struct core *core = peer->core;
	struct call *call = NULL;

	if (number)
		HASH_FIND(hh, peer->calls, &number, sizeof(number), call);
	if (call) { /* still under way, though given up before: its answer will do */
		call->done = done;
		call->owner = owner;
		return call;
	}
	request->gateway_id = str_c(core->config->gateway_id);
	request->gateway_incarnation = id_str(&core->incarnation);
	request->number = number ? number : ++core->last_number;
	buf_clear(&core->encoded);
	if (request_encode(request, &core->encoded) != ERR_OK) {
		log_error("worker", "request_too_large", "url", peer->url, "kind", LOG_U64(request->kind), NULL);
		return NULL;
	}
	call = calloc(1, sizeof(*call));
	if (!call)
		abort();
	*call = (struct call){.number = request->number, .kind = request->kind, .peer = peer, .done = done, .owner = owner};
	HASH_ADD(hh, peer->calls, number, sizeof(call->number), call);
	core->transport->ops->request_send(peer->link, call->number, buf_str(&core->encoded), timeout_ms);
	return call;
}

void call_abandon(struct call **call)
{
	if (*call)
		(*call)->done = NULL;
	*call = NULL;
}

/* The reply as far as it can be believed; else an error, as if none had come. */
static enum err peer_read_reply(struct worker_peer *peer, const struct call *call, struct str message, struct reply *reply)
{
	struct err_info info = {0};
	enum err err;

	arena_reset(&peer->core->arena);
	err = reply_decode(&peer->core->arena, reply, message, &info);
	if (!err && reply->number != call->number)
		err = err_set(&info, ERR_PROTOCOL, "the reply's number is another request's");
	if (err) {
		metric_add(&metrics.bad_messages, 1);
		log_error("worker", "bad_reply", "url", peer->url, "why", info.text, NULL);
		return ERR_PROTOCOL;
	}
	if (reply->code == ERR_DISCONNECTED)
		return ERR_DISCONNECTED; /* it has not heard our hello */
	if (call->kind != REQUEST_HELLO &&
	    (!str_eq(reply->worker_id, peer_id(peer)) || reply->worker_incarnation != peer->incarnation))
		return ERR_DISCONNECTED; /* another incarnation than the one that we agreed with */
	return ERR_OK;
}

static void peer_free(struct worker_peer *peer)
{
	free(peer->url);
	free(peer);
}

static void on_reply(void *ctx, uint64_t number, enum err err, struct str message)
{
	struct worker_peer *peer = ctx;
	struct call *call = NULL;
	struct reply reply;

	HASH_FIND(hh, peer->calls, &number, sizeof(number), call);
	if (!call)
		return;
	HASH_DELETE(hh, peer->calls, call);
	if (!peer->core || peer->state == PEER_CLOSED) {
		free(call);
		if (!peer->core && !peer->calls)
			peer_free(peer);
		else if (!peer->calls)
			task_defer(peer->core->loop, &peer->core->sweep);
		return;
	}
	if (!err)
		err = peer_read_reply(peer, call, message, &reply);
	if (err == ERR_DISCONNECTED)
		peer_greet_again(peer, "disconnected");
	if (call->done)
		call->done(call->owner, err, err ? NULL : &reply);
	free(call);
}

/* ---- credit ---- */

static void peer_give_credit(struct worker_peer *peer);

static void on_credit(void *owner, enum err err, const struct reply *reply)
{
	struct worker_peer *peer = owner;

	peer->credit = NULL;
	if (!err && reply->code == ERR_OK)
		peer->credited = peer->credit_sent;
	if (peer->received > peer->credited && !timer_is_set(&peer->credit_timer))
		timer_set(peer->core->loop, &peer->credit_timer, CREDIT_MS);
}

static void on_credit_timer(struct timer *timer)
{
	peer_give_credit(CONTAINER_OF(timer, struct worker_peer, credit_timer));
}

static void peer_give_credit(struct worker_peer *peer)
{
	struct request request = {.kind = REQUEST_CREDIT, .credit.received = peer->received};

	if (peer->credit || peer->state != PEER_READY || peer->received == peer->credited)
		return;
	timer_cancel(peer->core->loop, &peer->credit_timer);
	peer->credit_sent = peer->received;
	peer->credit = peer_call(peer, &request, 0, CREDIT_TIMEOUT_MS, on_credit, peer);
}

static void peer_owe_credit(struct worker_peer *peer)
{
	if (peer->received >= peer->credited + CREDIT_BATCHES)
		peer_give_credit(peer);
	else if (peer->received > peer->credited && !peer->credit && !timer_is_set(&peer->credit_timer))
		timer_set(peer->core->loop, &peer->credit_timer, CREDIT_MS);
}

/* ---- publications ---- */

static void on_silence_timer(struct timer *timer)
{
	struct worker_peer *peer = CONTAINER_OF(timer, struct worker_peer, silence_timer);
	uint64_t now = loop_now(peer->core->loop), quiet = now - peer->heard_ms;

	if (quiet < SILENCE_MS)
		timer_set(peer->core->loop, timer, SILENCE_MS - quiet);
	else if (now > timer->due_ms + SILENCE_LATE_MS)
		timer_set(peer->core->loop, timer, SILENCE_MS); /* we stood still: what it sent may wait to be read */
	else
		peer_move(peer, PEER_SILENT, "no beat");
}

static void peer_on_gap(struct worker_peer *peer, uint64_t number)
{
	struct feed *feed;

	peer->gaps++;
	metric_add(&metrics.gaps, 1);
	log_warn("worker", "publications_lost", "url", peer->url, "have", LOG_U64(peer->received), "got", LOG_U64(number), NULL);
	DL_FOREACH2(peer->feeds, feed, peer_next)
	feed_doubt(feed);
}

static void peer_count(struct worker_peer *peer, const struct batch *batch)
{
	uint64_t whole = batch->n_items ? batch->number - 1 : batch->number; /* what we should have had before */

	if (whole > peer->received && batch->number > peer->received)
		peer_on_gap(peer, batch->number);
	if (batch->number > peer->received)
		peer->received = batch->number;
}

void peer_on_batch(struct worker_peer *peer, const struct batch *batch)
{
	if (batch->worker_incarnation < peer->incarnation)
		return;
	if (batch->worker_incarnation > peer->incarnation) {
		peer_greet_again(peer, "new incarnation");
		return;
	}
	peer->heard_ms = loop_now(peer->core->loop);
	peer->draining = batch->draining;
	if (peer->state == PEER_SILENT) {
		peer_move(peer, PEER_READY, "beat");
		feed_wake_seekers(peer->core);
	}
	peer_count(peer, batch);
	for (size_t i = 0; i < batch->n_items; i++)
		feed_on_item(peer, &batch->items[i]);
	peer_owe_credit(peer);
}

/* ---- life ---- */

void peer_bind(struct worker_peer *peer, struct feed *feed)
{
	assert(!feed->peer);
	feed->peer = peer;
	DL_APPEND2(peer->feeds, feed, peer_prev, peer_next);
	peer->n_feeds++;
}

static void peer_close_if_unused(struct worker_peer *peer)
{
	if (!peer->listed && !peer->n_feeds && peer->state != PEER_CLOSED)
		peer_close(peer);
}

void peer_unbind(struct feed *feed)
{
	struct worker_peer *peer = feed->peer;

	if (!peer)
		return;
	feed->peer = NULL;
	DL_DELETE2(peer->feeds, feed, peer_prev, peer_next);
	peer->n_feeds--;
	peer_close_if_unused(peer);
}

void peer_create(struct core *core, const char *url)
{
	static const struct worker_link_events events = {.up = on_up, .down = on_down, .reply = on_reply};
	struct worker_peer *peer = calloc(1, sizeof(*peer));
	struct err_info info = {0};

	if (!peer || !(peer->url = strdup(url)))
		abort();
	peer->core = core;
	peer->serial = ++core->last_peer_serial;
	peer->listed = true;
	peer->hello_timer.fn = on_hello_timer;
	peer->silence_timer.fn = on_silence_timer;
	peer->credit_timer.fn = on_credit_timer;
	peer->attaches.most = ATTACHES_IN_FLIGHT;
	peer->replays.most = REPLAYS_IN_FLIGHT;
	if (core->transport->ops->link_open(core->transport, url, &events, peer, &peer->link, &info) != ERR_OK) {
		log_error("worker", "link_refused", "url", url, "why", info.text, NULL);
		peer_free(peer);
		return;
	}
	HASH_ADD_KEYPTR(by_url, core->peers, peer->url, strlen(peer->url), peer);
}

void peer_list(struct worker_peer *peer, bool listed)
{
	peer->listed = listed;
	peer_close_if_unused(peer);
}

void peer_close(struct worker_peer *peer)
{
	struct core *core = peer->core;

	timer_cancel(core->loop, &peer->hello_timer);
	timer_cancel(core->loop, &peer->credit_timer);
	call_abandon(&peer->hello);
	call_abandon(&peer->credit);
	peer_move(peer, PEER_CLOSED, "closed");
	peer_forget_id(peer);
	HASH_DELETE(by_url, core->peers, peer);
	core->transport->ops->link_close(peer->link);
	LL_PREPEND(core->dead_peers, peer);
	task_defer(core->loop, &core->sweep);
}

void peer_sweep(struct core *core)
{
	struct worker_peer *peer, *next;

	LL_FOREACH_SAFE (core->dead_peers, peer, next) {
		if (peer->calls)
			continue; /* until the transport has completed them */
		LL_DELETE(core->dead_peers, peer);
		peer_free(peer);
	}
}

void peer_orphan(struct core *core)
{
	struct worker_peer *peer, *next;

	LL_FOREACH_SAFE (core->dead_peers, peer, next) {
		peer->core = NULL;
		if (!peer->calls)
			peer_free(peer);
	}
	core->dead_peers = NULL;
}
