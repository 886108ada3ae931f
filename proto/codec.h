/*
 * codec.h - messages.h to bytes and back, by protobuf (https://protobuf.dev/programming-guides/encoding/).
 *
 * Decoding bounds everything before it allocates: the message's length, each string's length, each array's count, and the
 * arena's size. It checks enums, versions, and that user IDs and our own IDs have their form where a form is demanded.
 * A decoded message views the arena and lives until the arena is reset. Thread: an arena belongs to one.
 */
#ifndef PINION_PROTO_CODEC_H
#define PINION_PROTO_CODEC_H

#include "common/arena.h"
#include "common/bytes.h"
#include "common/err.h"
#include "proto/messages.h"

#define LINK_VERSION 1 /* major: a peer of another is refused with ERR_VERSION */

enum {
	LINK_MESSAGE_MAX = 8 << 20,    /* bytes of one NNG message; RECVMAXSZ is set to it */
	LINK_BATCH_TARGET = 256 << 10, /* a batch or page is closed when it has grown past this */
	EVENT_BODY_MAX = 1 << 20,      /* protocol.md: an event is at most 1 MiB */
	DELTA_TEXT_MAX = 64 << 10,
	COMMAND_INPUT_MAX = 1 << 20,
	RUN_MESSAGE_MAX = 2 << 20, /* bytes of one message on a run's socket */
	HOST_MESSAGE_MAX = 4096,
	BATCH_ITEMS_MAX = 16384,
	PAGE_OPEN_MAX = 256,
	URL_MAX = 1024,
	NAME_MAX_BYTES = 128, /* ids of gateways and workers, agent and tool names */
	TEXT_MAX = 1024,      /* error texts */
};

/* Encoders append to out. A message that breaks a bound: ERR_TOO_LARGE, nothing appended. `version` is filled in. */
MUST_CHECK enum err request_encode(const struct request *request, struct buf *out);
MUST_CHECK enum err reply_encode(const struct reply *reply, struct buf *out);
MUST_CHECK enum err batch_encode(const struct batch *batch, struct buf *out);
MUST_CHECK enum err host_command_encode(const struct host_command *command, struct buf *out);
MUST_CHECK enum err host_report_encode(const struct host_report *report, struct buf *out);
MUST_CHECK enum err run_down_encode(const struct run_down *down, struct buf *out);
MUST_CHECK enum err run_up_encode(const struct run_up *up, struct buf *out);

/* Decoders: ERR_PROTOCOL with what is wrong, ERR_VERSION, ERR_CAPACITY. User IDs in requests and items are checked by
 * user_id_parse with USER_ID_E2E allowed (whether a deployment takes those is the gateway's to say). */
MUST_CHECK enum err request_decode(struct arena *arena, struct request *out, struct str in, struct err_info *info);
MUST_CHECK enum err reply_decode(struct arena *arena, struct reply *out, struct str in, struct err_info *info);
MUST_CHECK enum err batch_decode(struct arena *arena, struct batch *out, struct str in, struct err_info *info);
MUST_CHECK enum err host_command_decode(struct arena *arena, struct host_command *out, struct str in, struct err_info *info);
MUST_CHECK enum err host_report_decode(struct arena *arena, struct host_report *out, struct str in, struct err_info *info);
MUST_CHECK enum err run_down_decode(struct arena *arena, struct run_down *out, struct str in, struct err_info *info);
MUST_CHECK enum err run_up_decode(struct arena *arena, struct run_up *out, struct str in, struct err_info *info);

/* ---- frames on a run's stream socket: 4 bytes little-endian length, then the message ---- */

/* Appends a frame around what `encode` appended: frame_begin, then the encoder, then frame_end. */
size_t frame_begin(struct buf *out);
void frame_end(struct buf *out, size_t begin);

/* Looks for a whole frame at the front of `in`: ERR_OK and *message (a view of `in`) and *used; ERR_AGAIN when more bytes
 * are needed; ERR_PROTOCOL when the length is over max or 0. */
MUST_CHECK enum err frame_next(struct str in, size_t max, struct str *message, size_t *used);

#endif
