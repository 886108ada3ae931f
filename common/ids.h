/*
 * ids.h - user IDs (the grammar of the client protocol) and the opaque IDs that we issue (libuuid).
 * Thread: any. Errors: by return value. Source: docs/protocol.md, "IDs"; RFC 9562 for the UUID form.
 */
#ifndef PINION_COMMON_IDS_H
#define PINION_COMMON_IDS_H

#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"

#define USER_ID_MAX 64 /* bytes */
#define ID_LEN 36

/* A validated user ID, compared byte for byte. Zero-filled behind the NUL, so that it can be a hash key. */
struct user_id {
	char s[USER_ID_MAX + 1];
};

/* An ID that we issued: a canonical lower-case UUID, meaning nothing. Zeroed: none. */
struct id {
	char s[ID_LEN + 1];
};

enum user_id_form {
	USER_ID_E2E = 1 << 0, /* e2e-…, for staging only */
};

/* Checks `in` against the grammar; `extra` says which forms beyond the standing ones are allowed.
 * ERR_INVALID_USER_ID otherwise, and *out is zeroed. */
MUST_CHECK enum err user_id_parse(struct user_id *out, struct str in, unsigned extra);

bool user_id_eq(const struct user_id *a, const struct user_id *b);

void id_make(struct id *out);
/* True and *out set for a canonical lower-case UUID that is not nil; else false and *out zeroed. */
bool id_parse(struct id *out, struct str in);
bool id_eq(const struct id *a, const struct id *b);
bool id_is_none(const struct id *a);

/* Where id_make takes its 16 bytes from; NULL restores libuuid. The simulation sets a seeded source. */
void id_set_source(void (*fill)(uint8_t bytes[16]));

static inline struct str id_str(const struct id *id)
{
	return str_c(id->s);
}

static inline struct str user_id_str(const struct user_id *id)
{
	return str_c(id->s);
}

#endif
