/* ids.c - the user-ID grammar and the making of opaque IDs. */
#include "common/ids.h"

#include <uuid/uuid.h>

#define OAUTH_DIGITS_MIN 15
#define OAUTH_DIGITS_MAX 21

static void (*random_source)(uint8_t bytes[16]);

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_lower_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f');
}

static bool is_lower_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z');
}

static bool has_prefix(struct str s, const char *prefix)
{
	size_t n = strlen(prefix);

	return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

/* usr_ + 12 of [0-9a-f] */
static bool is_usr(struct str s)
{
	if (s.n != 4 + 12 || !has_prefix(s, "usr_"))
		return false;
	for (size_t i = 4; i < s.n; i++) {
		if (!is_lower_hex(s.p[i]))
			return false;
	}
	return true;
}

/* 8-4-4-4-12, lower case, not nil */
static bool is_uuid(struct str s)
{
	bool nil = true;

	if (s.n != ID_LEN)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? s.p[i] != '-' : !is_lower_hex(s.p[i]))
			return false;
		if (!dash && s.p[i] != '0')
			nil = false;
	}
	return !nil;
}

static bool is_oauth_subject(struct str s)
{
	if (s.n < OAUTH_DIGITS_MIN || s.n > OAUTH_DIGITS_MAX)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (!is_digit(s.p[i]))
			return false;
	}
	return true;
}

/* e2e- + 1 to 60 of [a-z0-9_.-], starting and ending in [a-z0-9] */
static bool is_e2e(struct str s)
{
	if (s.n < 5 || s.n > USER_ID_MAX || !has_prefix(s, "e2e-"))
		return false;
	for (size_t i = 4; i < s.n; i++) {
		char c = s.p[i];

		if (!is_lower_alnum(c) && c != '_' && c != '.' && c != '-')
			return false;
	}
	return is_lower_alnum(s.p[4]) && is_lower_alnum(s.p[s.n - 1]);
}

enum err user_id_parse(struct user_id *out, struct str in, unsigned extra)
{
	memset(out, 0, sizeof(*out));
	if (!is_usr(in) && !is_uuid(in) && !is_oauth_subject(in) && !((extra & USER_ID_E2E) && is_e2e(in)))
		return ERR_INVALID_USER_ID;
	memcpy(out->s, in.p, in.n);
	return ERR_OK;
}

bool user_id_eq(const struct user_id *a, const struct user_id *b)
{
	return memcmp(a->s, b->s, sizeof(a->s)) == 0;
}

void id_make(struct id *out)
{
	uuid_t uuid;

	if (random_source) {
		random_source(uuid);
		uuid[6] = (uuid[6] & 0x0f) | 0x40; /* version 4 */
		uuid[8] = (uuid[8] & 0x3f) | 0x80; /* RFC 9562 variant */
	} else {
		uuid_generate_random(uuid);
	}
	uuid_unparse_lower(uuid, out->s);
}

bool id_parse(struct id *out, struct str in)
{
	memset(out, 0, sizeof(*out));
	if (!is_uuid(in))
		return false;
	memcpy(out->s, in.p, in.n);
	return true;
}

bool id_eq(const struct id *a, const struct id *b)
{
	return memcmp(a->s, b->s, sizeof(a->s)) == 0;
}

bool id_is_none(const struct id *a)
{
	return a->s[0] == 0;
}

void id_set_source(void (*fill)(uint8_t bytes[16]))
{
	random_source = fill;
}
