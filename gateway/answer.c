#include "gateway/answer.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include "common/json.h"
#include "gateway/ws_frame.h"

const char *answer_timestamp(char out[TIMESTAMP_MAX], uint64_t wall_ms)
{
	time_t seconds = (time_t)(wall_ms / 1000);
	struct tm tm;
	char date[24] = "";

	if (gmtime_r(&seconds, &tm))
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, TIMESTAMP_MAX, "%s.%03uZ", date, (unsigned)(wall_ms % 1000));
	return out;
}

static void put_string(struct buf *text, const char *before, struct str s)
{
	buf_append_c(text, before);
	json_write_string(text, s);
}

struct bytes *answer_welcome(struct buf *text, const struct core_config *config, const struct welcome *welcome)
{
	put_string(text, "{\"type\":\"welcome\",\"protocol\":\"pinion.v1\",\"connection_id\":", id_str(welcome->connection_id));
	put_string(text, ",\"user_id\":", user_id_str(welcome->user_id));
	put_string(text, ",\"worker_id\":", welcome->worker_id);
	buf_printf(text, ",\"last_seq\":%" PRIu64 ",\"earliest_seq\":%" PRIu64 ",\"resumed\":%s,\"heartbeat_s\":%u",
	           welcome->last_seq, welcome->earliest_seq, welcome->resumed ? "true" : "false", config->heartbeat_s);
	buf_printf(text,
	           ",\"limits\":{\"message_bytes\":%u,\"messages_per_s\":%u,\"burst\":%u,\"connections\":%u,"
	           "\"active_runs\":%u,\"queued_runs\":%u}}",
	           config->message_bytes, config->messages_per_s, config->burst, config->connections, config->active_runs,
	           config->queued_runs);
	return ws_frame_text(buf_str(text));
}

struct bytes *answer_ack(struct buf *text, struct str id, struct str fields)
{
	if (fields.n && (fields.n < 2 || fields.p[0] != '{' || fields.p[fields.n - 1] != '}'))
		return NULL;
	put_string(text, "{\"type\":\"ack\",\"id\":", id);
	if (fields.n > 2) {
		buf_append_c(text, ",");
		buf_append(text, fields.p + 1, fields.n - 1);
	} else {
		buf_append_c(text, "}");
	}
	return ws_frame_text(buf_str(text));
}

struct bytes *answer_error(struct buf *text, struct str id, enum err code, struct str why, uint32_t retry_after_ms)
{
	if (id.n)
		put_string(text, "{\"type\":\"error\",\"id\":", id);
	else
		buf_append_c(text, "{\"type\":\"error\",\"id\":null");
	put_string(text, ",\"code\":", str_c(err_name(code)));
	put_string(text, ",\"message\":", why.n ? why : str_c(err_text(code)));
	if (retry_after_ms)
		buf_printf(text, ",\"retry_after_ms\":%u", retry_after_ms);
	buf_append_c(text, "}");
	return ws_frame_text(buf_str(text));
}

struct bytes *answer_pong(struct buf *text, struct str id, uint64_t wall_ms)
{
	char ts[TIMESTAMP_MAX];

	put_string(text, "{\"type\":\"pong\",\"id\":", id);
	put_string(text, ",\"ts\":", str_c(answer_timestamp(ts, wall_ms)));
	buf_append_c(text, "}");
	return ws_frame_text(buf_str(text));
}

struct bytes *answer_delta(struct buf *text, const struct id *run_id, const struct id *message_id, uint64_t offset,
                           struct str piece)
{
	buf_printf(text, "{\"type\":\"message_delta\",\"run_id\":\"%s\",\"message_id\":\"%s\",\"offset\":%" PRIu64, run_id->s,
	           message_id->s, offset);
	put_string(text, ",\"text\":", piece);
	buf_append_c(text, "}");
	return ws_frame_text(buf_str(text));
}
