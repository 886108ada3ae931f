/*
 * feed.c - where a feed is attached. An owner is asked for by route (router.h); `moved` is followed to a worker that we
 * know, everything else goes to the next choice; a round without success waits, from 50 ms doubling to 1 s. A feed that
 * lost its worker names it as suspect, and the worker that is asked judges by the lease.
 */
#include "gateway/feed.h"

#include <assert.h>
#include <stdlib.h>
#include "common/log.h"
#include "common/state.h"

enum {
	ATTACH_TIMEOUT_MS = 1000,
	DETACH_TIMEOUT_MS = 1000,
	IDLE_MS = 5000,
	LOST_MS = 30000,
	WAIT_LEAST_MS = 50,
	WAIT_MOVED_MS = 100,
	WAIT_MOST_MS = 1000,
	STEADY_MS = 1000, /* lost sooner than this after it was attached: wait before the next try */
	REDIRECTS_MAX = 3,
	WAKE_SPREAD_MS = 32,
};

#define TO(state) (1u << (state))

static const unsigned successors[FEED_STATES] = {
	[FEED_SEEKING] = TO(FEED_ATTACHING) | TO(FEED_GONE),
	[FEED_ATTACHING] = TO(FEED_ATTACHED) | TO(FEED_SEEKING) | TO(FEED_GONE),
	[FEED_ATTACHED] = TO(FEED_SEEKING) | TO(FEED_DETACHING) | TO(FEED_GONE),
	[FEED_DETACHING] = TO(FEED_SEEKING) | TO(FEED_GONE),
	[FEED_GONE] = 0,
};

const char *feed_state_name(enum feed_state state)
{
	static const char *const names[FEED_STATES] = {"seeking", "attaching", "attached", "detaching", "gone"};

	return names[state];
}

static void feed_move(struct feed *feed, enum feed_state to)
{
	(void)state_may_follow(successors, feed->state, to, "feed");
	feed->state = to;
}

static void feed_try(struct feed *feed);

/* ---- waiting ---- */

static void feed_stop_waiting(struct feed *feed)
{
	timer_cancel(feed->core->loop, &feed->timer);
	if (!feed->in_seekers)
		return;
	feed->in_seekers = false;
	DL_DELETE2(feed->core->seekers, feed, seek_prev, seek_next);
}

/* The next round begins after a wait that doubles. */
static void feed_wait(struct feed *feed, uint64_t least_ms)
{
	uint64_t delay = feed->delay_ms > least_ms ? feed->delay_ms : least_ms;

	assert(feed->state == FEED_SEEKING);
	feed->delay_ms = delay * 2 < WAIT_MOST_MS ? delay * 2 : WAIT_MOST_MS;
	route_begin(&feed->route);
	feed->redirects = 0;
	timer_set(feed->core->loop, &feed->timer, delay);
	if (!feed->in_seekers) {
		feed->in_seekers = true;
		DL_APPEND2(feed->core->seekers, feed, seek_prev, seek_next);
	}
}

void feed_wake_seekers(struct core *core)
{
	struct feed *feed;
	uint64_t n = 0;

	DL_FOREACH2(core->seekers, feed, seek_next)
	timer_set(core->loop, &feed->timer, n++ / 64 % WAKE_SPREAD_MS);
}

static void on_timer(struct timer *timer)
{
	struct feed *feed = CONTAINER_OF(timer, struct feed, timer);

	if (feed->state == FEED_SEEKING) {
		feed_stop_waiting(feed);
		feed_try(feed);
	} else if (feed->state == FEED_ATTACHED && feed->doubt) {
		feed_doubt(feed);
	}
}

static void on_lost_timer(struct timer *timer)
{
	struct feed *feed = CONTAINER_OF(timer, struct feed, lost_timer);
	struct session *session, *next;

	DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
	if (session_is_welcomed(session))
		session_close(session, CLOSE_TRY_LATER, "unavailable");
}

/* ---- attaching ---- */

/* Leaves the worker that it is bound to; every request under way is given up. */
static void feed_unbind(struct feed *feed)
{
	struct session *session;

	call_abandon(&feed->call);
	lane_leave(&feed->attach_ticket);
	feed_recall_repair(feed);
	DL_FOREACH2(feed->sessions, session, feed_next)
	{
		stream_recall(session);
		command_recall(session);
	}
	peer_unbind(feed);
}

static void feed_ask(struct feed *feed, struct worker_peer *peer)
{
	feed_move(feed, FEED_ATTACHING);
	peer_bind(peer, feed);
	lane_enter(&peer->attaches, &feed->attach_ticket);
}

static void feed_try(struct feed *feed)
{
	struct worker_peer *peer = route_next(feed->core, &feed->route, user_id_str(&feed->user));

	if (peer)
		feed_ask(feed, peer);
	else
		feed_wait(feed, WAIT_LEAST_MS);
}

/* Back from ATTACHING without an owner. */
static void feed_refused(struct feed *feed)
{
	feed_unbind(feed);
	feed_move(feed, FEED_SEEKING);
}

/* The owner that was named is one that we can't reach either: the next to be asked may judge it. */
static void feed_suspect_owner(struct feed *feed, const struct reply *reply)
{
	struct worker_peer *peer = NULL;

	if (reply->moved.worker_id.n)
		HASH_FIND(by_id, feed->core->peers_by_id, reply->moved.worker_id.p, reply->moved.worker_id.n, peer);
	if (!peer || (peer->state != PEER_SILENT && peer->state != PEER_DOWN))
		return;
	bytes_unref(feed->suspect);
	feed->suspect = bytes_ref(peer->worker_id);
	feed->suspect_incarnation = reply->moved.incarnation;
}

static void feed_follow(struct feed *feed, const struct reply *reply)
{
	struct worker_peer *owner = router_find(feed->core, reply->moved.worker_id, reply->moved.worker_url,
	                                        reply->moved.incarnation);
	struct worker_peer *asked = feed->peer;

	feed_refused(feed);
	if (owner)
		feed->route.first = owner->serial;
	else
		feed_suspect_owner(feed, reply);
	if (owner && owner != asked && feed->redirects++ < REDIRECTS_MAX)
		feed_ask(feed, owner);
	else
		feed_wait(feed, WAIT_MOVED_MS);
}

static void feed_become_attached(struct feed *feed, const struct reply *reply)
{
	struct session *session, *next;

	lane_leave(&feed->attach_ticket);
	feed_move(feed, FEED_ATTACHED);
	feed->epoch = reply->epoch;
	feed->route.first = feed->peer->serial;
	feed->attached_ms = loop_now(feed->core->loop);
	feed->redirects = 0;
	bytes_unref(feed->suspect);
	feed->suspect = NULL;
	timer_cancel(feed->core->loop, &feed->lost_timer);
	metric_add(&metrics.attaches, 1);
	feed_on_attached(feed, reply->attached.last_seq, reply->attached.earliest_seq);
	DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
	{
		stream_welcome(session);
		stream_pump(session);
		command_next(session);
	}
}

static bool attached_is_believable(const struct feed *feed, const struct reply *reply)
{
	return reply->kind == REQUEST_ATTACH && str_eq(reply->user_id, user_id_str(&feed->user)) && reply->epoch > 0 &&
	       reply->epoch >= feed->epoch;
}

static void on_attach(void *owner, enum err err, const struct reply *reply)
{
	struct feed *feed = owner;

	feed->call = NULL;
	if (!err && reply->code == ERR_OK && attached_is_believable(feed, reply)) {
		feed_become_attached(feed, reply);
		return;
	}
	if (!err && reply->code == ERR_OK)
		log_error("feed", "attach_not_believed", "user", feed->user.s, "epoch", LOG_U64(reply->epoch), NULL);
	if (!err && reply->code == ERR_MOVED && reply->kind == REQUEST_ATTACH) {
		feed_follow(feed, reply);
		return;
	}
	feed_refused(feed);
	feed_try(feed);
}

static void on_attach_turn(struct lane_ticket *ticket)
{
	struct feed *feed = CONTAINER_OF(ticket, struct feed, attach_ticket);
	struct request request = {.kind = REQUEST_ATTACH, .attach.user_id = user_id_str(&feed->user)};
	struct str suspect = bytes_str(feed->suspect);

	if (suspect.n && !(str_eq(suspect, peer_id(feed->peer)) && feed->suspect_incarnation == feed->peer->incarnation)) {
		request.attach.suspect_worker_id = suspect;
		request.attach.suspect_incarnation = feed->suspect_incarnation;
	}
	feed->call = peer_call(feed->peer, &request, 0, ATTACH_TIMEOUT_MS, on_attach, feed);
}

/* ---- losing ---- */

static void feed_seek_again(struct feed *feed, const char *why)
{
	uint64_t now = loop_now(feed->core->loop);
	bool steady = now - feed->attached_ms >= STEADY_MS;

	log_debug("feed", "lost", "user", feed->user.s, "why", why, NULL);
	metric_add(&metrics.reattaches, 1);
	feed_unbind(feed);
	feed_move(feed, FEED_SEEKING);
	if (feed->n_sessions && !timer_is_set(&feed->lost_timer))
		timer_set(feed->core->loop, &feed->lost_timer, LOST_MS);
	feed_stop_waiting(feed);
	route_begin(&feed->route);
	feed->redirects = 0;
	if (steady) {
		feed->delay_ms = 0;
		feed_try(feed);
	} else {
		feed_wait(feed, WAIT_LEAST_MS);
	}
}

void feed_reattach(struct feed *feed, const char *why)
{
	if (feed->state == FEED_ATTACHED)
		feed_seek_again(feed, why);
}

static void feed_note_suspect(struct feed *feed)
{
	if (!feed->peer->worker_id)
		return;
	bytes_unref(feed->suspect);
	feed->suspect = bytes_ref(feed->peer->worker_id);
	feed->suspect_incarnation = feed->peer->incarnation;
}

void feed_on_peer_lost(struct feed *feed, const char *why)
{
	switch (feed->state) {
	case FEED_ATTACHED:
		feed_note_suspect(feed);
		feed_seek_again(feed, why);
		break;
	case FEED_ATTACHING:
		if (!feed->suspect)
			feed_note_suspect(feed);
		feed_refused(feed);
		feed_try(feed);
		break;
	case FEED_DETACHING:
		feed_unbind(feed);
		feed_move(feed, FEED_SEEKING);
		if (feed->n_sessions)
			feed_try(feed);
		else
			feed_destroy(feed);
		break;
	case FEED_SEEKING:
	case FEED_GONE:
	case FEED_STATES:
		assert(!feed->peer);
		break;
	}
}

/* ---- detaching ---- */

static void on_detach(void *owner, enum err err, const struct reply *reply)
{
	struct feed *feed = owner;

	feed->call = NULL;
	feed_unbind(feed);
	feed_move(feed, FEED_SEEKING);
	if (!feed->n_sessions) {
		feed_destroy(feed);
		return;
	}
	route_begin(&feed->route);
	feed_try(feed);
}

/* The feed lives until the worker has answered: a connection that comes meanwhile attaches after it, never before. */
static void feed_detach(struct feed *feed)
{
	struct request request = {.kind = REQUEST_DETACH, .detach = {.user_id = user_id_str(&feed->user), .epoch = feed->epoch}};

	feed_recall_repair(feed);
	feed_stop_waiting(feed);
	feed_move(feed, FEED_DETACHING);
	feed->call = peer_call(feed->peer, &request, 0, DETACH_TIMEOUT_MS, on_detach, feed);
}

static void on_idle_timer(struct timer *timer)
{
	struct feed *feed = CONTAINER_OF(timer, struct feed, idle_timer);

	if (feed->n_sessions)
		return;
	if (feed->state == FEED_ATTACHED)
		feed_detach(feed);
	else if (feed->state == FEED_SEEKING)
		feed_destroy(feed);
	else
		timer_set(feed->core->loop, timer, IDLE_MS);
}

/* ---- items ---- */

static struct feed *feed_create(struct core *core, const struct user_id *user);

/* A worker publishes a user of whom nobody is here (an attach that was given up may have been carried out): detach. */
static void feed_refuse_stray(struct worker_peer *peer, const struct item *item)
{
	struct user_id user = {{0}};

	if (item->kind == ITEM_LOST || peer->state != PEER_READY || item->user_id.n > USER_ID_MAX)
		return;
	memcpy(user.s, item->user_id.p, item->user_id.n);
	struct feed *feed = feed_create(peer->core, &user);
	feed->epoch = item->epoch;
	feed->state = FEED_ATTACHED;
	peer_bind(peer, feed);
	feed_detach(feed);
}

static void feed_on_current_item(struct feed *feed, const struct item *item)
{
	switch (item->kind) {
	case ITEM_EVENT:
		feed_on_event(feed, &item->event);
		break;
	case ITEM_DELTA:
		feed_on_delta(feed, &item->delta, false);
		break;
	case ITEM_HEAD:
		if (item->head.last_seq > feed->want)
			feed->want = item->head.last_seq;
		feed_doubt(feed);
		break;
	case ITEM_LOST:
		feed_reattach(feed, "released");
		break;
	}
}

void feed_on_item(struct worker_peer *peer, const struct item *item)
{
	struct feed *feed = feed_find(peer->core, item->user_id);

	if (!feed)
		feed_refuse_stray(peer, item);
	else if (feed->state != FEED_ATTACHED || item->epoch < feed->epoch)
		return;
	else if (item->epoch > feed->epoch) {
		feed->epoch = item->epoch; /* nobody with a lower one is believed from here on */
		feed_reattach(feed, "a higher epoch");
	} else if (feed->peer == peer)
		feed_on_current_item(feed, item);
}

/* ---- life ---- */

struct feed *feed_find(struct core *core, struct str user_id)
{
	struct user_id key = {{0}};
	struct feed *feed = NULL;

	if (user_id.n > USER_ID_MAX)
		return NULL;
	if (user_id.n)
		memcpy(key.s, user_id.p, user_id.n);
	HASH_FIND(hh, core->feeds, &key, sizeof(key), feed);
	return feed;
}

static struct feed *feed_create(struct core *core, const struct user_id *user)
{
	struct feed *feed = calloc(1, sizeof(*feed));

	if (!feed)
		abort();
	feed->core = core;
	feed->user = *user;
	feed->state = FEED_SEEKING;
	feed->timer.fn = on_timer;
	feed->idle_timer.fn = on_idle_timer;
	feed->lost_timer.fn = on_lost_timer;
	feed->attach_ticket.grant = on_attach_turn;
	feed_init_content(feed);
	HASH_ADD(hh, core->feeds, user, sizeof(feed->user), feed);
	metric_add(&metrics.feeds, 1);
	return feed;
}

struct feed *feed_obtain(struct core *core, const struct user_id *user)
{
	struct feed *feed = NULL;

	HASH_FIND(hh, core->feeds, user, sizeof(*user), feed);
	if (feed)
		return feed;
	feed = feed_create(core, user);
	timer_set(core->loop, &feed->idle_timer, IDLE_MS);
	feed_try(feed);
	return feed;
}

void feed_join(struct feed *feed, struct session *session)
{
	timer_cancel(feed->core->loop, &feed->idle_timer);
	session->feed = feed;
	DL_APPEND2(feed->sessions, session, feed_prev, feed_next);
	feed->n_sessions++;
	if (feed->state == FEED_ATTACHED)
		stream_welcome(session);
}

void feed_leave(struct session *session)
{
	struct feed *feed = session->feed;

	if (!feed)
		return;
	stream_recall(session);
	command_recall(session);
	session->feed = NULL;
	DL_DELETE2(feed->sessions, session, feed_prev, feed_next);
	if (--feed->n_sessions)
		return;
	timer_cancel(feed->core->loop, &feed->lost_timer);
	timer_set(feed->core->loop, &feed->idle_timer, IDLE_MS);
}

void feed_destroy(struct feed *feed)
{
	struct core *core = feed->core;

	assert(!feed->sessions);
	feed_unbind(feed);
	feed_stop_waiting(feed);
	timer_cancel(core->loop, &feed->idle_timer);
	timer_cancel(core->loop, &feed->lost_timer);
	feed_move(feed, FEED_GONE);
	HASH_DELETE(hh, core->feeds, feed);
	metric_add(&metrics.feeds, -1);
	LL_PREPEND(core->dead_feeds, feed);
	task_defer(core->loop, &core->sweep);
}

void feed_sweep(struct core *core)
{
	struct feed *feed, *next;

	LL_FOREACH_SAFE (core->dead_feeds, feed, next) {
		feed_finish_content(feed);
		bytes_unref(feed->suspect);
		free(feed);
	}
	core->dead_feeds = NULL;
}
