/*
 * log.h - one line an event on stderr, key=value or JSON.
 *
 *   log_info("session", "open", "connection", id.s, "user", user.s, NULL);
 *   → 2026-01-01T00:00:00.000Z info session.open connection=… user=…
 *
 * Fields come as pairs of strings (const char *), ended by NULL; numbers by LOG_U64(n) and friends, which lend a small
 * buffer for the call's duration. Values are escaped. No token, message text or key ever goes in. Thread: any.
 */
#ifndef PINION_COMMON_LOG_H
#define PINION_COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_KEY_VALUE, LOG_JSON };

/* Before any thread starts. service: "gateway", "worker", …; id: the instance's name; both are fields of each line. */
void log_init(enum log_level least, enum log_format format, const char *service, const char *id);
bool log_enabled(enum log_level level);

/* "debug" … "error"; "text" or "json": false for any other word. */
bool log_level_parse(const char *word, enum log_level *out);
bool log_format_parse(const char *word, enum log_format *out);

void log_line(enum log_level level, const char *entity, const char *event, ...) __attribute__((sentinel));

#define log_debug(entity, ...)                                    \
	do {                                                      \
		if (log_enabled(LOG_DEBUG))                       \
			log_line(LOG_DEBUG, entity, __VA_ARGS__); \
	} while (0)
#define log_info(entity, ...) log_line(LOG_INFO, entity, __VA_ARGS__)
#define log_warn(entity, ...) log_line(LOG_WARN, entity, __VA_ARGS__)
#define log_error(entity, ...) log_line(LOG_ERROR, entity, __VA_ARGS__)

struct log_number {
	char s[24];
};
const char *log_u64(struct log_number *lent, uint64_t n);
const char *log_i64(struct log_number *lent, int64_t n);
#define LOG_U64(n) log_u64(&(struct log_number){{0}}, (n))
#define LOG_I64(n) log_i64(&(struct log_number){{0}}, (n))

#endif
