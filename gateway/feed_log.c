/*
 * feed_log.c - what a feed has: the number of the last event, and the text of open messages.
 *
 * Events are applied exactly next. Text is applied by offset: what overlaps is cut, what leaves a hole raises `want`.
 * Whatever is missing is asked of the log in one request at a time, which also lists the messages that are open; one that
 * we knew when we asked and that is not listed has ended: if any of it was shown, its event is on the way. Text that
 * belongs behind an event that we lack waits (`shown`).
 */
#include "gateway/feed.h"

#include <assert.h>
#include <stdlib.h>
#include "common/json.h"
#include "common/log.h"
#include "gateway/answer.h"
#include "gateway/ws_frame.h"
#include "proto/codec.h"

enum {
	CLOSED_RING = 32,
	MESSAGE_TEXT_MAX = 1 << 20,
	REPAIR_TIMEOUT_MS = 1500,
	REPAIR_BYTES = 256 << 10,
	REPAIR_WAIT_LEAST_MS = 20,
	REPAIR_WAIT_MOST_MS = 1000,
};

/* ---- events on their way ---- */

bool feed_event_init(struct feed_event *out, struct core *core, const struct event *event)
{
	*out = (struct feed_event){.seq = event->seq, .body = event->body, .core = core};
	if (event->body.n < 2 || event->seq == 0)
		return false;
	if (event->closes_message_id.n && !id_parse(&out->closes, event->closes_message_id))
		return false;
	if (event->voids_run_id.n && !id_parse(&out->voids, event->voids_run_id))
		return false;
	out->frame = ws_frame_text(event->body);
	return true;
}

struct str feed_event_text(struct feed_event *event)
{
	if (!event->json && json_parse(&event->json, event->body, NULL) != ERR_OK)
		return (struct str){0};
	const json_t *text = json_object_get(event->json, "text");
	return str_of(json_string_value(text), json_string_length(text));
}

void feed_event_finish(struct feed_event *event)
{
	bytes_unref(event->frame);
	json_decref(event->json);
	*event = (struct feed_event){0};
}

/* ---- open messages ---- */

static uint64_t id_hash(const struct id *id)
{
	uint64_t h = 14695981039346656037u; /* FNV-1a */

	for (size_t i = 0; i < ID_LEN; i++)
		h = (h ^ (uint8_t)id->s[i]) * 1099511628211u;
	return h;
}

struct open_message *feed_find_open(struct feed *feed, const struct id *message_id)
{
	struct open_message *m;

	DL_FOREACH (feed->open, m)
		if (id_eq(&m->message_id, message_id))
			return m;
	return NULL;
}

static struct open_message *open_create(struct feed *feed, const struct id *message_id, const struct id *run_id)
{
	struct open_message *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->message_id = *message_id;
	m->run_id = *run_id;
	DL_APPEND(feed->open, m);
	feed->n_open++;
	return m;
}

static void open_drop(struct feed *feed, struct open_message *m)
{
	DL_DELETE(feed->open, m);
	feed->n_open--;
	buf_finish(&m->text);
	free(m);
}

/* Whether text that comes now, meant for those who have the events up to after_seq, is of a message that is over. */
static bool was_closed(const struct feed *feed, const struct id *message_id, const struct id *run_id, uint64_t after_seq)
{
	uint64_t message = id_hash(message_id), run = id_hash(run_id);

	for (size_t i = 0; feed->closed && i < CLOSED_RING; i++) {
		const struct closed_message *closed = &feed->closed[i];
		if (closed->hash == message || (closed->hash == run && after_seq < closed->seq))
			return true;
	}
	return false;
}

static void remember_closed(struct feed *feed, const struct id *id)
{
	if (!feed->closed && !(feed->closed = calloc(CLOSED_RING, sizeof(*feed->closed))))
		abort();
	struct closed_message *slot = &feed->closed[feed->n_closings++ % CLOSED_RING];
	if (slot->seq > feed->closed_floor)
		feed->closed_floor = slot->seq;
	*slot = (struct closed_message){.hash = id_hash(id), .seq = feed->last};
}

static void feed_close_messages(struct feed *feed, const struct feed_event *event)
{
	struct open_message *m, *next;

	if (!id_is_none(&event->closes)) {
		remember_closed(feed, &event->closes);
		m = feed_find_open(feed, &event->closes);
		if (m)
			open_drop(feed, m);
	}
	if (id_is_none(&event->voids))
		return;
	remember_closed(feed, &event->voids);
	DL_FOREACH_SAFE (feed->open, m, next)
		if (id_eq(&m->run_id, &event->voids))
			open_drop(feed, m);
}

/* Queues to the live sessions what they may see by now. */
static void feed_show(struct feed *feed, struct open_message *m)
{
	struct session *session, *next;

	while (m->shown < m->text.n && m->after_seq <= feed->last) {
		struct str piece = utf8_prefix(str_of(m->text.p + m->shown, m->text.n - m->shown), DELTA_PIECE_MAX);
		struct bytes *frame = answer_delta(core_text(feed->core), &m->run_id, &m->message_id, m->shown, piece);
		DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
		stream_piece(session, frame);
		bytes_unref(frame);
		m->shown += piece.n;
	}
}

/* ---- the log ---- */

static bool feed_lacks(const struct feed *feed)
{
	const struct open_message *m;

	if (feed->want > feed->last)
		return true;
	DL_FOREACH (feed->open, m)
		if (m->want > m->text.n || !m->confirmed)
			return true;
	return false;
}

void feed_doubt(struct feed *feed)
{
	feed->doubt = true;
	if (feed->state == FEED_ATTACHED && !feed->repair_ticket.lane && !timer_is_set(&feed->timer))
		lane_enter(&feed->peer->replays, &feed->repair_ticket);
}

void feed_recall_repair(struct feed *feed)
{
	call_abandon(&feed->repair);
	lane_leave(&feed->repair_ticket);
	feed->repair_delay_ms = 0;
	if (feed->state == FEED_ATTACHED)
		timer_cancel(feed->core->loop, &feed->timer);
}

/* After an answer that brought nothing: ask again, but not at once. */
static void feed_doubt_later(struct feed *feed)
{
	uint64_t delay = feed->repair_delay_ms ? feed->repair_delay_ms : REPAIR_WAIT_LEAST_MS;

	feed->repair_delay_ms = delay * 2 < REPAIR_WAIT_MOST_MS ? delay * 2 : REPAIR_WAIT_MOST_MS;
	feed->doubt = true;
	timer_set(feed->core->loop, &feed->timer, delay);
}

/* Events are gone from the log: those who lack them can't be served, the others go on. */
static void feed_skip_to(struct feed *feed, uint64_t last)
{
	struct session *session, *next;

	DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
	if (session_is_welcomed(session) && session->cursor < last)
		session_close(session, CLOSE_TRY_LATER, "behind_retention");
	while (feed->open)
		open_drop(feed, feed->open);
	feed->last = last;
}

static void feed_take_page_events(struct feed *feed, const struct reply *reply)
{
	if (reply->page.earliest_seq > feed->last + 1)
		feed_skip_to(feed, reply->page.earliest_seq - 1);
	for (size_t i = 0; i < reply->page.n_events; i++)
		feed_on_event(feed, &reply->page.events[i]);
	if (reply->page.last_seq > feed->want)
		feed->want = reply->page.last_seq;
}

/* Whether the page says which messages are open: it reaches the end. */
static bool page_lists_open(const struct feed *feed, const struct reply *reply)
{
	return !reply->page.more && feed->last >= reply->page.last_seq;
}

/* Nothing more of its text is to come but by the event that ends it. */
static void open_settle(struct open_message *m)
{
	m->want = m->text.n;
	m->confirmed = true;
}

static void feed_take_page_open(struct feed *feed, const struct reply *reply)
{
	struct open_message *m, *next;

	if (feed->n_closings - feed->closings_asked >= CLOSED_RING) {
		feed->doubt = true; /* which of these were closed since is no longer known: ask again */
		return;
	}
	DL_FOREACH (feed->open, m)
		m->listed = false;
	for (size_t i = 0; i < reply->page.n_open; i++)
		feed_on_delta(feed, &reply->page.open[i], true);
	if (!page_lists_open(feed, reply))
		return;
	DL_FOREACH_SAFE (feed->open, m, next) {
		if (m->asked && !m->listed && !m->shown)
			open_drop(feed, m);
		else if (m->asked && !m->listed)
			open_settle(m); /* its end is being committed: the event that closes it needs to know what was shown */
		else if (m->asked && m->want == m->want_asked && m->confirmed)
			m->want = m->text.n;
	}
	if (feed->want == feed->want_asked)
		feed->want = feed->last;
}

static uint64_t feed_progress(const struct feed *feed)
{
	uint64_t n = feed->last;
	const struct open_message *m;

	DL_FOREACH (feed->open, m)
		n += m->text.n + 1;
	return n;
}

static void feed_on_page(struct feed *feed, const struct reply *reply)
{
	uint64_t before = feed_progress(feed);

	if (reply->page.earliest_seq > feed->earliest)
		feed->earliest = reply->page.earliest_seq;
	feed_take_page_events(feed, reply);
	feed_take_page_open(feed, reply);
	if (!reply->page.more)
		feed->repairs_done = feed->repairs_asked;
	lane_leave(&feed->repair_ticket); /* only now: what is missing meanwhile is asked for below, once */
	if (feed_progress(feed) != before)
		feed->repair_delay_ms = 0;
	if (reply->page.more || feed->doubt || feed_lacks(feed)) {
		if (feed_progress(feed) != before)
			feed_doubt(feed);
		else
			feed_doubt_later(feed);
	}
}

bool feed_page_is_ours(const struct feed *feed, const struct reply *reply)
{
	return reply->code == ERR_OK && reply->kind == REQUEST_REPLAY && str_eq(reply->user_id, user_id_str(&feed->user)) &&
	       reply->epoch == feed->epoch;
}

static void on_repair(void *owner, enum err err, const struct reply *reply)
{
	struct feed *feed = owner;
	struct session *session, *next;

	feed->repair = NULL;
	if (!err && (reply->code == ERR_FENCED || reply->code == ERR_MOVED)) {
		feed_reattach(feed, err_name(reply->code));
		return;
	}
	if (err || !feed_page_is_ours(feed, reply)) {
		lane_leave(&feed->repair_ticket);
		feed_doubt_later(feed);
		return;
	}
	feed_on_page(feed, reply);
	DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
	{
		stream_welcome(session);
		stream_pump(session);
	}
}

static void on_repair_turn(struct lane_ticket *ticket)
{
	struct feed *feed = CONTAINER_OF(ticket, struct feed, repair_ticket);
	struct have have[PAGE_OPEN_MAX];
	size_t n = 0;
	struct open_message *m;

	DL_FOREACH (feed->open, m) {
		m->asked = true;
		m->want_asked = m->want;
		have[n++] = (struct have){.message_id = id_str(&m->message_id), .offset = m->text.n};
	}
	struct request request = {.kind = REQUEST_REPLAY,
	                          .replay = {.user_id = user_id_str(&feed->user),
	                                     .epoch = feed->epoch,
	                                     .from_seq = feed->last + 1,
	                                     .max_bytes = REPAIR_BYTES,
	                                     .with_open = true,
	                                     .have = have,
	                                     .n_have = n}};
	feed->doubt = false;
	feed->want_asked = feed->want;
	feed->closings_asked = feed->n_closings;
	feed->repairs_asked++;
	feed->peer->repairs++;
	metric_add(&metrics.repairs, 1);
	feed->repair = peer_call(feed->peer, &request, 0, REPAIR_TIMEOUT_MS, on_repair, feed);
}

/* ---- what comes ---- */

static void feed_apply(struct feed *feed, struct feed_event *event)
{
	struct session *session, *next;
	struct open_message *m;

	DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
	stream_event(session, event);
	feed->last = event->seq;
	feed_close_messages(feed, event);
	DL_FOREACH (feed->open, m)
		feed_show(feed, m);
	DL_FOREACH_SAFE2(feed->sessions, session, next, feed_next)
	stream_pump(session);
}

void feed_on_event(struct feed *feed, const struct event *event)
{
	struct feed_event ready;

	if (event->seq <= feed->last)
		return;
	if (event->seq != feed->last + 1) {
		if (event->seq > feed->want)
			feed->want = event->seq;
		feed_doubt(feed);
		return;
	}
	if (feed_event_init(&ready, feed->core, event)) {
		feed_apply(feed, &ready);
	} else {
		metric_add(&metrics.bad_messages, 1);
		log_error("feed", "bad_event", "user", feed->user.s, "seq", LOG_U64(event->seq), NULL);
	}
	feed_event_finish(&ready);
}

static void feed_bad_delta(const struct feed *feed, const char *why)
{
	metric_add(&metrics.bad_messages, 1);
	log_error("feed", "bad_delta", "user", feed->user.s, "why", why, NULL);
}

/* The message that a delta is of; NULL: none that we want to hear of. */
static struct open_message *feed_message_of(struct feed *feed, const struct delta *delta, bool from_log)
{
	struct id message_id, run_id;

	if (!id_parse(&message_id, delta->message_id) || !id_parse(&run_id, delta->run_id)) {
		feed_bad_delta(feed, "ids");
		return NULL;
	}
	if (was_closed(feed, &message_id, &run_id, delta->after_seq))
		return NULL;
	struct open_message *m = feed_find_open(feed, &message_id);
	if (!m && feed->n_open >= PAGE_OPEN_MAX) {
		feed_bad_delta(feed, "too many open messages");
		return NULL;
	}
	if (!m) {
		m = open_create(feed, &message_id, &run_id);
		/* Its middle, or perhaps one that was closed long ago and comes late: the log knows. */
		m->confirmed = delta->offset == 0 && delta->after_seq >= feed->closed_floor;
	}
	if (from_log)
		m->confirmed = m->listed = true;
	return m;
}

void feed_on_delta(struct feed *feed, const struct delta *delta, bool from_log)
{
	struct open_message *m = feed_message_of(feed, delta, from_log);
	uint64_t end = delta->offset + delta->text.n;

	if (!m)
		return;
	if (end < delta->offset || end > MESSAGE_TEXT_MAX) {
		feed_bad_delta(feed, "too long");
		return;
	}
	if (end > m->want)
		m->want = end;
	if (delta->offset > m->text.n || !m->confirmed) {
		feed_doubt(feed);
		return;
	}
	if (end <= m->text.n)
		return;
	size_t have = m->text.n - (size_t)delta->offset;
	buf_append(&m->text, delta->text.p + have, delta->text.n - have);
	if (delta->after_seq > m->after_seq)
		m->after_seq = delta->after_seq;
	feed_show(feed, m);
	if (m->after_seq > feed->last) {
		if (m->after_seq > feed->want)
			feed->want = m->after_seq;
		feed_doubt(feed);
	}
}

void feed_on_attached(struct feed *feed, uint64_t last, uint64_t earliest)
{
	struct session *session;

	feed->earliest = earliest ? earliest : 1;
	if (feed->known && last < feed->last) {
		log_error("feed", "log_went_back", "user", feed->user.s, "have", LOG_U64(feed->last), "log", LOG_U64(last), NULL);
		feed_skip_to(feed, UINT64_MAX);
		feed->known = false;
	}
	if (!feed->known) {
		feed->known = true;
		feed->last = feed->want = feed->closed_floor = last;
		feed->repairs_done = ++feed->repairs_asked; /* as good as an answer of the log */
		DL_FOREACH2(feed->sessions, session, feed_next)
		session->sync_serial = feed->repairs_done;
	} else if (feed->earliest > feed->last + 1) {
		feed_skip_to(feed, feed->earliest - 1);
	}
	if (last > feed->want)
		feed->want = last;
	feed_doubt(feed);
}

void feed_init_content(struct feed *feed)
{
	feed->repair_ticket.grant = on_repair_turn;
}

void feed_finish_content(struct feed *feed)
{
	while (feed->open)
		open_drop(feed, feed->open);
	free(feed->closed);
	feed->closed = NULL;
}
