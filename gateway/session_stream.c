/*
 * session_stream.c - events and text to one session, in order, whatever it can take.
 *
 * A live session gets what its feed gets. When its outbox is full it falls behind: what is queued stays, it remembers how
 * much it was sent of each open message, and nothing more is queued until the outbox has drained to a quarter. Then it
 * pulls pages of the log from its own cursor until it has what the feed has, then the rest of the open text. Before the
 * event that closes a message of which it was sent a part, the missing rest is queued, so that joined deltas are the text.
 */
#include <assert.h>
#include <stdlib.h>
#include "common/json.h"
#include "common/log.h"
#include "gateway/answer.h"
#include "gateway/feed.h"

enum {
	PULL_BYTES = 64 << 10,
	PULL_BYTES_LEAST = 4 << 10,
	PULL_TIMEOUT_MS = 1500,
	PULL_WAIT_LEAST_MS = 50,
	PULL_WAIT_MOST_MS = 1000,
};

struct pull {
	struct session *session;
	struct call *call;
	struct lane_ticket ticket;
	struct timer timer; /* after an answer that brought nothing */
	uint64_t delay_ms;
};

/* ---- what it was sent of open messages ---- */

static struct seen *seen_find(struct session *session, const struct id *message_id)
{
	for (size_t i = 0; i < session->n_seen; i++)
		if (id_eq(&session->seen[i].message_id, message_id))
			return &session->seen[i];
	return NULL;
}

static struct seen *seen_add(struct session *session, const struct open_message *m, size_t offset)
{
	struct seen *seen = realloc(session->seen, (session->n_seen + 1) * sizeof(*seen));

	if (!seen)
		abort();
	session->seen = seen;
	seen += session->n_seen++;
	*seen = (struct seen){.message_id = m->message_id, .run_id = m->run_id, .offset = offset};
	return seen;
}

static void seen_forget(struct session *session, const struct feed_event *event)
{
	size_t n = 0;

	for (size_t i = 0; i < session->n_seen; i++) {
		const struct seen *seen = &session->seen[i];
		if (id_eq(&seen->message_id, &event->closes) || id_eq(&seen->run_id, &event->voids))
			continue;
		session->seen[n++] = *seen;
	}
	session->n_seen = n;
}

static void seen_clear(struct session *session)
{
	free(session->seen);
	session->seen = NULL;
	session->n_seen = 0;
}

/* Falls behind its feed; called before the feed's own state moves on. */
static void stream_lag(struct session *session)
{
	const struct open_message *m;

	assert(!session->seen && session->cursor == session->feed->last);
	DL_FOREACH (session->feed->open, m)
		if (m->shown)
			seen_add(session, m, m->shown);
	session_move(session, SESSION_LAGGING);
}

/* ---- queueing ---- */

/* The text of the message from offset to its end, as deltas. */
static void stream_rest(struct session *session, struct feed_event *event, const struct id *run_id, size_t offset)
{
	struct str text = feed_event_text(event);

	while (offset < text.n) {
		struct str piece = utf8_prefix(str_of(text.p + offset, text.n - offset), DELTA_PIECE_MAX);
		if (!piece.n)
			return;
		session_queue(session, answer_delta(core_text(session->core), run_id, &event->closes, offset, piece));
		metric_add(&metrics.deltas, 1);
		offset += piece.n;
	}
}

static void stream_rest_of_closed(struct session *session, struct feed_event *event)
{
	if (id_is_none(&event->closes))
		return;
	if (session->state == SESSION_LIVE) {
		const struct open_message *m = feed_find_open(session->feed, &event->closes);
		if (m && m->shown)
			stream_rest(session, event, &m->run_id, m->shown);
	} else {
		const struct seen *seen = seen_find(session, &event->closes);
		if (seen && seen->offset)
			stream_rest(session, event, &seen->run_id, seen->offset);
	}
}

static void stream_queue_event(struct session *session, struct feed_event *event)
{
	stream_rest_of_closed(session, event);
	session_queue(session, bytes_ref(event->frame));
	session->cursor = event->seq;
	seen_forget(session, event);
	metric_add(&metrics.events, 1);
}

void stream_event(struct session *session, struct feed_event *event)
{
	if (!session_is_welcomed(session) || session->cursor + 1 != event->seq)
		return;
	if (session_has_room(session, event->frame->n))
		stream_queue_event(session, event);
	else if (session->state == SESSION_LIVE)
		stream_lag(session);
}

void stream_piece(struct session *session, struct bytes *frame)
{
	if (session->state != SESSION_LIVE)
		return;
	if (session_has_room(session, frame->n)) {
		session_queue(session, bytes_ref(frame));
		metric_add(&metrics.deltas, 1);
	} else {
		stream_lag(session);
	}
}

/* ---- pulling ---- */

static void pull_end(struct session *session)
{
	struct pull *pull = session->pull;

	if (!pull)
		return;
	session->pull = NULL;
	call_abandon(&pull->call);
	timer_cancel(session->core->loop, &pull->timer);
	lane_leave(&pull->ticket);
	free(pull);
}

static void pull_later(struct pull *pull)
{
	lane_leave(&pull->ticket);
	timer_set(pull->session->core->loop, &pull->timer, pull->delay_ms);
	pull->delay_ms = pull->delay_ms * 2 < PULL_WAIT_MOST_MS ? pull->delay_ms * 2 : PULL_WAIT_MOST_MS;
}

static void stream_take_page(struct session *session, const struct reply *reply)
{
	for (size_t i = 0; i < reply->page.n_events; i++) {
		const struct event *event = &reply->page.events[i];
		struct feed_event ready;
		if (event->seq <= session->cursor)
			continue;
		if (event->seq != session->cursor + 1 || event->seq > session->feed->last)
			return;
		bool good = feed_event_init(&ready, session->core, event);
		bool room = good && session_has_room(session, ready.frame->n);
		if (room)
			stream_queue_event(session, &ready);
		feed_event_finish(&ready);
		if (!room)
			return;
	}
}

static void on_page(void *owner, enum err err, const struct reply *reply)
{
	struct session *session = owner;
	struct pull *pull = session->pull;
	uint64_t before = session->cursor;

	pull->call = NULL;
	if (!err && (reply->code == ERR_FENCED || reply->code == ERR_MOVED)) {
		feed_reattach(session->feed, err_name(reply->code)); /* which ends the pull */
		return;
	}
	if (err || !feed_page_is_ours(session->feed, reply)) {
		pull_later(pull);
		return;
	}
	if (reply->page.earliest_seq > session->cursor + 1) {
		session_close(session, CLOSE_TRY_LATER, "behind_retention");
		return;
	}
	stream_take_page(session, reply);
	if (session->cursor == before) { /* no room yet for a large one, or the worker's fault */
		pull_later(pull);
		return;
	}
	pull_end(session);
	stream_pump(session);
}

static uint32_t pull_bytes(const struct session *session)
{
	uint32_t half = session->core->config->outbox_bytes / 2;

	return half < PULL_BYTES_LEAST ? PULL_BYTES_LEAST : half < PULL_BYTES ? half : PULL_BYTES;
}

static void on_pull_turn(struct lane_ticket *ticket)
{
	struct pull *pull = CONTAINER_OF(ticket, struct pull, ticket);
	struct feed *feed = pull->session->feed;
	struct request request = {.kind = REQUEST_REPLAY,
	                          .replay = {.user_id = user_id_str(&feed->user),
	                                     .epoch = feed->epoch,
	                                     .from_seq = pull->session->cursor + 1,
	                                     .max_bytes = pull_bytes(pull->session)}};

	pull->call = peer_call(feed->peer, &request, 0, PULL_TIMEOUT_MS, on_page, pull->session);
}

static void on_pull_timer(struct timer *timer)
{
	struct pull *pull = CONTAINER_OF(timer, struct pull, timer);

	lane_enter(&pull->session->feed->peer->replays, &pull->ticket);
}

static void pull_begin(struct session *session)
{
	struct pull *pull = calloc(1, sizeof(*pull));

	if (!pull)
		abort();
	pull->session = session;
	pull->ticket.grant = on_pull_turn;
	pull->timer.fn = on_pull_timer;
	pull->delay_ms = PULL_WAIT_LEAST_MS;
	session->pull = pull;
	lane_enter(&session->feed->peer->replays, &pull->ticket);
}

void stream_recall(struct session *session)
{
	pull_end(session);
}

/* Queues open text that it lacks, as room allows. Whether it has all of it now. */
static bool stream_open_text(struct session *session)
{
	const struct open_message *m;

	DL_FOREACH (session->feed->open, m) {
		struct seen *seen = seen_find(session, &m->message_id);
		while ((seen ? seen->offset : 0) < m->shown) {
			if (!seen)
				seen = seen_add(session, m, 0);
			struct str left = str_of(m->text.p + seen->offset, m->shown - seen->offset);
			struct str piece = utf8_prefix(left, DELTA_PIECE_MAX);
			struct bytes *frame = answer_delta(core_text(session->core), &m->run_id, &m->message_id, seen->offset,
			                                   piece);
			if (!session_has_room(session, frame->n)) {
				bytes_unref(frame);
				return false;
			}
			session_queue(session, frame);
			metric_add(&metrics.deltas, 1);
			seen->offset += piece.n;
		}
	}
	return true;
}

void stream_pump(struct session *session)
{
	const struct feed *feed = session->feed;

	if (session->state != SESSION_LAGGING || session->pull)
		return;
	if (session->outbox.bytes > session->core->config->outbox_bytes / 4)
		return;
	if (session->cursor < feed->last) {
		if (feed->state == FEED_ATTACHED)
			pull_begin(session);
		return;
	}
	if (stream_open_text(session)) {
		seen_clear(session);
		session_move(session, SESSION_LIVE);
	}
}

/* ---- the welcome ---- */

/* The client may have seen more than this gateway knows of (by another one): ask the log before saying "no". */
static bool stream_must_ask(struct session *session)
{
	struct feed *feed = session->feed;

	if (!session->has_last_seq || session->last_seq <= feed->last)
		return false;
	if (!session->sync_serial) {
		session->sync_serial = feed->repairs_asked + 1;
		feed_doubt(feed);
	}
	return feed->repairs_done < session->sync_serial;
}

void stream_welcome(struct session *session)
{
	struct feed *feed = session->feed;

	if (session->state != SESSION_ATTACHING || feed->state != FEED_ATTACHED || stream_must_ask(session))
		return;
	bool resumed = session->has_last_seq && session->last_seq + 1 >= feed->earliest && session->last_seq <= feed->last;
	struct welcome welcome = {.connection_id = &session->id,
	                          .user_id = &feed->user,
	                          .worker_id = peer_id(feed->peer),
	                          .last_seq = feed->last,
	                          .earliest_seq = feed->earliest,
	                          .resumed = resumed};
	struct bytes *frame = answer_welcome(core_text(session->core), session->core->config, &welcome);
	session->cursor = resumed ? session->last_seq : feed->last;
	timer_cancel(session->core->loop, &session->deadline_timer);
	free(session->auth_id);
	session->auth_id = NULL;
	session_move(session, SESSION_LAGGING);
	outbox_push_front(&session->outbox, frame);
	bytes_unref(frame);
	session_wake(session);
	stream_pump(session);
	command_next(session);
}
