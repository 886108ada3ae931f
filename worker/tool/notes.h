/*
 * notes.h - the `notes` tool: the user's own durable notes, by key.
 *
 * {"op":"put","key":K,"value":V} · {"op":"get","key":K} · {"op":"list"} · {"op":"delete","key":K}. K: 1 to 256 bytes; V: any JSON
 * value of at most 64 KiB. Results: {"key":K,"stored":true} · {"key":K,"value":V} or {"key":K,"found":false} · {"keys":[…]} ·
 * {"key":K,"deleted":true or false}. Here are only the words; the run carries them out (run_tool.c). Thread: any.
 */
#ifndef PINION_WORKER_TOOL_NOTES_H
#define PINION_WORKER_TOOL_NOTES_H

#include "common/bytes.h"

enum { NOTE_KEY_MAX = 256, NOTE_VALUE_MAX = 64 << 10 };

enum notes_op { NOTES_PUT, NOTES_GET, NOTES_LIST, NOTES_DELETE };

struct notes_request {
	enum notes_op op;
	struct buf key, value; /* value: JSON text */
};

/* True; or false, and *wrong holds what is wrong as a JSON string. notes_finish in both cases. */
bool notes_parse(struct notes_request *request, struct str arguments, struct buf *wrong);
void notes_finish(struct notes_request *request);

/* Results, as JSON text appended to out. */
void notes_put_result(struct buf *out, const struct notes_request *request);
void notes_get_result(struct buf *out, const struct notes_request *request, bool found, struct str value);
void notes_list_result(struct buf *out, const struct str *keys, size_t n);
void notes_delete_result(struct buf *out, const struct notes_request *request, bool found);

#endif
