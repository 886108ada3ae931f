#include "worker/event.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include "common/json.h"

void ts_print(char out[TS_LEN + 1], uint64_t unix_ms)
{
	time_t seconds = (time_t)(unix_ms / 1000);
	struct tm tm;
	gmtime_r(&seconds, &tm);
	size_t n = strftime(out, TS_LEN + 1, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, TS_LEN + 1 - n, ".%03uZ", (unsigned)(unix_ms % 1000));
}

void event_begin(struct event_text *event, const char *type, const struct id *run, const struct id *thread, uint64_t ts_ms)
{
	struct buf *text = &event->text;
	buf_printf(text, "{\"type\":\"%s\",\"seq\":", type);
	event->split = text->n;
	if (run && !id_is_none(run))
		buf_printf(text, ",\"run_id\":\"%s\"", run->s);
	if (thread && !id_is_none(thread))
		buf_printf(text, ",\"thread_id\":\"%s\"", thread->s);
	char ts[TS_LEN + 1];
	ts_print(ts, ts_ms);
	buf_printf(text, ",\"ts\":\"%s\"", ts);
}

void event_string(struct event_text *event, const char *key, struct str value)
{
	buf_printf(&event->text, ",\"%s\":", key);
	json_write_string(&event->text, value);
}

void event_json(struct event_text *event, const char *key, struct str json)
{
	buf_printf(&event->text, ",\"%s\":", key);
	buf_append_str(&event->text, json.n ? json : str_c("null"));
}

void event_number(struct event_text *event, const char *key, uint64_t value)
{
	buf_printf(&event->text, ",\"%s\":%" PRIu64, key, value);
}

void event_bool(struct event_text *event, const char *key, bool value)
{
	buf_printf(&event->text, ",\"%s\":%s", key, value ? "true" : "false");
}

void event_end(struct event_text *event)
{
	buf_append_c(&event->text, "}");
}

void event_finish(struct event_text *event)
{
	buf_finish(&event->text);
}

struct bytes *event_render(const struct event_text *event, uint64_t seq)
{
	struct buf out = {0};
	buf_reserve(&out, event->text.n + 24);
	buf_append(&out, event->text.p, event->split);
	buf_printf(&out, "%" PRIu64, seq);
	buf_append(&out, event->text.p + event->split, event->text.n - event->split);
	struct bytes *body = bytes_create(out.p, out.n);
	buf_finish(&out);
	return body;
}

struct bytes *event_render_deleted(uint64_t seq)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "{\"type\":\"deleted\",\"seq\":%" PRIu64 "}", seq);
	return bytes_create(text, (size_t)n);
}

static size_t escaped_byte_size(unsigned char c)
{
	if (c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f')
		return 2;
	return c < 0x20 || c == 0x7f ? 6 : 1;
}

size_t json_escaped_size(struct str s)
{
	size_t n = 0;
	for (size_t i = 0; i < s.n; i++)
		n += escaped_byte_size((unsigned char)s.p[i]);
	return n;
}

struct str json_escaped_prefix(struct str s, size_t max)
{
	size_t used = 0;
	for (size_t i = 0; i < s.n; i++) {
		used += escaped_byte_size((unsigned char)s.p[i]);
		if (used > max)
			return utf8_prefix(s, i);
	}
	return s;
}
