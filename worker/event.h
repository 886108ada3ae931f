/*
 * event.h - the JSON text of durable events, printed before their sequence number is known.
 *
 * A body is printed as two parts, before and behind the number; event_render joins them once the append that carries the
 * event is submitted. Keys come in the order type, seq, run_id, thread_id, ts, then the event's own (docs/protocol.md,
 * "Server to client: events"). Thread: the loop's.
 */
#ifndef PINION_WORKER_EVENT_H
#define PINION_WORKER_EVENT_H

#include "common/bytes.h"
#include "common/ids.h"

struct event_text {
	struct buf text;
	size_t split; /* where the sequence number goes */
};

#define TS_LEN 24 /* 2026-01-01T00:00:00.000Z */

/* RFC 3339 in UTC with milliseconds, of Unix ms. */
void ts_print(char out[TS_LEN + 1], uint64_t unix_ms);

/* run or thread NULL (or zeroed): left out. */
void event_begin(struct event_text *event, const char *type, const struct id *run, const struct id *thread, uint64_t ts_ms);
void event_string(struct event_text *event, const char *key, struct str value);
void event_json(struct event_text *event, const char *key, struct str json); /* json: valid JSON text; empty: null */
void event_number(struct event_text *event, const char *key, uint64_t value);
void event_bool(struct event_text *event, const char *key, bool value);
void event_end(struct event_text *event);
void event_finish(struct event_text *event);

/* The body with its number; one reference, the caller's. */
struct bytes *event_render(const struct event_text *event, uint64_t seq);
/* What stands in place of an event of a deleted thread. */
struct bytes *event_render_deleted(uint64_t seq);

/* Bytes that s takes as a JSON string literal without its quotes. */
size_t json_escaped_size(struct str s);
/* The longest prefix in whole characters whose literal has at most `max` bytes. */
struct str json_escaped_prefix(struct str s, size_t max);

#endif
