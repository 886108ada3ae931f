/* log.c - builds each line in memory and hands it to the kernel in one write, so that lines of threads don't mix. */
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/json.h"

#define VALUE_MAX 2048 /* bytes of one value; the rest is cut */

static struct {
	enum log_level least;
	enum log_format format;
	char service[32];
	char id[128];
} config = {.least = LOG_INFO};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(enum log_level least, enum log_format format, const char *service, const char *id)
{
	config.least = least;
	config.format = format;
	snprintf(config.service, sizeof(config.service), "%s", service ? service : "");
	snprintf(config.id, sizeof(config.id), "%s", id ? id : "");
}

bool log_enabled(enum log_level level)
{
	return level >= config.least;
}

bool log_level_parse(const char *word, enum log_level *out)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++)
		if (strcmp(word, level_names[i]) == 0) {
			*out = (enum log_level)i;
			return true;
		}
	return false;
}

bool log_format_parse(const char *word, enum log_format *out)
{
	*out = strcmp(word, "json") == 0 ? LOG_JSON : LOG_KEY_VALUE;
	return *out == LOG_JSON || strcmp(word, "text") == 0;
}

static void time_text(char out[32])
{
	struct timespec now;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, 32 - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

static struct str cut(const char *value)
{
	return str_of(value, strnlen(value, VALUE_MAX));
}

static bool is_plain(struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
			return false;
	}
	return s.n > 0;
}

static void quoted(struct buf *line, struct str s)
{
	bool utf8 = utf8_is_valid(s);

	buf_append_c(line, "\"");
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c == '"' || c == '\\')
			buf_printf(line, "\\%c", c);
		else if (c == '\n')
			buf_append_c(line, "\\n");
		else if (c < ' ' || c == 0x7f || (c >= 0x80 && !utf8))
			buf_printf(line, "\\x%02x", c);
		else
			buf_append(line, &c, 1);
	}
	buf_append_c(line, "\"");
}

static void field(struct buf *line, const char *key, const char *value)
{
	struct str s = cut(value);

	if (config.format == LOG_JSON) {
		buf_append_c(line, ",");
		json_write_string(line, str_c(key));
		buf_append_c(line, ":");
		json_write_string(line, s);
		return;
	}
	buf_printf(line, " %s=", key);
	if (is_plain(s))
		buf_append_str(line, s);
	else
		quoted(line, s);
}

static void head(struct buf *line, enum log_level level, const char *entity, const char *event)
{
	char when[32];

	time_text(when);
	if (config.format == LOG_JSON) {
		buf_printf(line, "{\"ts\":\"%s\",\"level\":\"%s\",\"event\":", when, level_names[level]);
		buf_append_c(line, "\"");
		buf_printf(line, "%s.%s\"", entity, event);
	} else {
		buf_printf(line, "%s %s %s.%s", when, level_names[level], entity, event);
	}
	if (config.service[0])
		field(line, "service", config.service);
	if (config.id[0])
		field(line, "instance", config.id);
}

/* A full or broken stderr costs the line, never the process. */
static void emit(struct str line)
{
	while (line.n > 0) {
		ssize_t n = write(STDERR_FILENO, line.p, line.n);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		line = str_of(line.p + n, line.n - (size_t)n);
	}
}

void log_line(enum log_level level, const char *entity, const char *event, ...)
{
	int saved = errno;
	struct buf line = {0};
	const char *key;
	va_list ap;

	if (!log_enabled(level))
		return;
	head(&line, level, entity, event);
	va_start(ap, event);
	while ((key = va_arg(ap, const char *))) {
		const char *value = va_arg(ap, const char *);

		if (value)
			field(&line, key, value);
	}
	va_end(ap);
	buf_append_c(&line, config.format == LOG_JSON ? "}\n" : "\n");
	emit(buf_str(&line));
	buf_finish(&line);
	errno = saved;
}

const char *log_u64(struct log_number *lent, uint64_t n)
{
	snprintf(lent->s, sizeof(lent->s), "%" PRIu64, n);
	return lent->s;
}

const char *log_i64(struct log_number *lent, int64_t n)
{
	snprintf(lent->s, sizeof(lent->s), "%" PRId64, n);
	return lent->s;
}
