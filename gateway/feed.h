/*
 * feed.h - one user's events as this gateway has them: attached at the user's owner, exactly next, repaired from the log.
 *
 *     SEEKING ──a worker to ask──► ATTACHING ──attached──► ATTACHED ──nobody left for 5 s──► DETACHING ──► gone
 *        ▲  ▲                          │                      │                                  │
 *        │  └──────refused, moved──────┘                      │                                  │ somebody came
 *        └───────────lost, fenced, overtaken──────────────────┴──────────────────────────────────┘
 *
 * A feed exists per user with connections here, and a little longer. It keeps no ring of events: only the last sequence
 * number, and the text of the messages that are open. Whatever is not exactly next is asked of the log (one request in
 * flight per feed). Owned by the core, swept at the turn's end. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_FEED_H
#define PINION_GATEWAY_FEED_H

#include "gateway/router.h"
#include "gateway/worker_peer.h"

enum feed_state { FEED_SEEKING, FEED_ATTACHING, FEED_ATTACHED, FEED_DETACHING, FEED_GONE, FEED_STATES };

struct open_message {
	struct id message_id, run_id;
	struct buf text;
	size_t shown;       /* bytes of it that the live sessions have */
	uint64_t after_seq; /* what is not shown yet may be, to those who have the events up to here */
	uint64_t want;      /* bytes known to exist */
	uint64_t want_asked;
	bool confirmed;     /* its start was seen or the log listed it; else only its existence is guessed */
	bool asked, listed; /* known when the log was asked; listed in its answer */
	struct open_message *prev, *next;
};

struct closed_message {
	uint64_t hash; /* of its id, or of the run whose messages up to here are void */
	uint64_t seq;  /* of the event that closed it */
};

/* An event on its way to the sessions. */
struct feed_event {
	uint64_t seq;
	struct str body;
	struct id closes, voids; /* message, run; none: zeroed */
	struct bytes *frame;
	json_t *json; /* of the body, parsed where the closed message's text is asked for */
	struct core *core;
};

/* Views the event; the caller finishes it in every case. False: the worker sent what can't be one. */
bool feed_event_init(struct feed_event *out, struct core *core, const struct event *event);
struct str feed_event_text(struct feed_event *event); /* of an agent_message */
void feed_event_finish(struct feed_event *event);

struct feed {
	struct core *core;
	struct user_id user;
	enum feed_state state;
	struct worker_peer *peer; /* bound while ATTACHING, ATTACHED, DETACHING */
	uint64_t epoch;
	bool known; /* attached before: last and open go on */
	uint64_t last, earliest, want;
	uint64_t want_asked;

	struct open_message *open;
	size_t n_open;
	struct closed_message *closed; /* the latest ones, a ring */
	uint64_t n_closings, closings_asked;
	uint64_t closed_floor; /* what was closed up to here may have left the ring */

	struct session *sessions;
	size_t n_sessions;

	struct route route;
	uint32_t redirects;
	struct bytes *suspect; /* id of the worker that was lost; NULL: none */
	uint64_t suspect_incarnation;
	uint64_t delay_ms;    /* of the next wait */
	uint64_t attached_ms; /* since when, or when last */
	struct call *call;    /* attach, detach */
	struct lane_ticket attach_ticket;
	bool in_seekers;

	bool doubt; /* something may be missing */
	struct call *repair;
	struct lane_ticket repair_ticket;
	uint64_t repairs_asked, repairs_done; /* serial numbers */
	uint64_t repair_delay_ms;

	struct timer timer;      /* SEEKING: the next try; ATTACHED: the next repair */
	struct timer idle_timer; /* nobody is left */
	struct timer lost_timer; /* the sessions have waited long enough */

	struct feed *peer_prev, *peer_next, *seek_prev, *seek_next;
	UT_hash_handle hh;
	struct feed *next; /* among the dead */
};

/* The user's feed, made where there is none. */
struct feed *feed_obtain(struct core *core, const struct user_id *user);
struct feed *feed_find(struct core *core, struct str user_id);
void feed_join(struct feed *feed, struct session *session);
void feed_leave(struct session *session);

void feed_on_item(struct worker_peer *peer, const struct item *item);
void feed_on_peer_lost(struct feed *feed, const char *why); /* unbinds, and asks another */
void feed_reattach(struct feed *feed, const char *why);
void feed_doubt(struct feed *feed); /* ask the log once more */
void feed_wake_seekers(struct core *core);

struct open_message *feed_find_open(struct feed *feed, const struct id *message_id);
const char *feed_state_name(enum feed_state state);
void feed_destroy(struct feed *feed); /* no session is left; swept */
void feed_sweep(struct core *core);

/* ---- feed_log.c: the feed's content ---- */

void feed_on_event(struct feed *feed, const struct event *event);
void feed_on_delta(struct feed *feed, const struct delta *delta, bool from_log);
void feed_on_attached(struct feed *feed, uint64_t last, uint64_t earliest);
bool feed_page_is_ours(const struct feed *feed, const struct reply *reply);
void feed_recall_repair(struct feed *feed);
void feed_finish_content(struct feed *feed);
void feed_init_content(struct feed *feed);

#endif
