/*
 * json.h - jansson, with the strictness that input from outside gets. Thread: any.
 */
#ifndef PINION_COMMON_JSON_H
#define PINION_COMMON_JSON_H

#include <jansson.h>
#include "common/bytes.h"
#include "common/err.h"

#define JSON_DEPTH_MAX 32

/* Parses one JSON value (object, array or scalar) that fills `in`: UTF-8 valid, no duplicate key, no U+0000 in any string
 * or key, nesting of at most JSON_DEPTH_MAX levels, nothing behind it. *out is the caller's (json_decref).
 * ERR_INVALID_MESSAGE with what and where. */
MUST_CHECK enum err json_parse(json_t **out, struct str in, struct err_info *info);

/* Compact text, UTF-8 not escaped, keys in insertion order. */
void json_write(struct buf *out, const json_t *value);

/* A JSON string literal with quotes. The input must be valid UTF-8 (invalid bytes become U+FFFD). */
void json_write_string(struct buf *out, struct str s);

/* Whole-buffer UTF-8 validation (RFC 3629: no surrogates, no overlong forms, at most U+10FFFF). */
bool utf8_is_valid(struct str s);
/* The longest prefix of at most `max` bytes that doesn't cut a character. s must be valid UTF-8. */
struct str utf8_prefix(struct str s, size_t max);

#endif
