/*
 * answer.h - the frames that the gateway itself writes, in the shapes of docs/protocol.md. Each returns a finished frame,
 * one reference, the caller's. `text` is scratch memory, emptied by the caller. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_ANSWER_H
#define PINION_GATEWAY_ANSWER_H

#include "common/bytes.h"
#include "common/err.h"
#include "common/ids.h"
#include "gateway/core.h"

#define DELTA_PIECE_MAX (16u << 10) /* bytes of text in one message_delta where we cut */
#define TIMESTAMP_MAX 32

struct welcome {
	const struct id *connection_id;
	const struct user_id *user_id;
	struct str worker_id;
	uint64_t last_seq, earliest_seq;
	bool resumed;
};

struct bytes *answer_welcome(struct buf *text, const struct core_config *config, const struct welcome *welcome);
/* fields: JSON object text with the ack's own fields; "{}" or empty for none. NULL where it is no object. */
struct bytes *answer_ack(struct buf *text, struct str id, struct str fields);
/* id empty: null. why empty: the default text. retry_after_ms 0: left out. */
struct bytes *answer_error(struct buf *text, struct str id, enum err code, struct str why, uint32_t retry_after_ms);
struct bytes *answer_pong(struct buf *text, struct str id, uint64_t wall_ms);
struct bytes *answer_delta(struct buf *text, const struct id *run_id, const struct id *message_id, uint64_t offset,
                           struct str piece);

/* RFC 3339, milliseconds, UTC. */
const char *answer_timestamp(char out[TIMESTAMP_MAX], uint64_t wall_ms);

#endif
