/* json.c - strict parsing and compact writing over jansson; UTF-8 checks. Source: RFC 8259, RFC 3629. */
#include "common/json.h"

#include <stdint.h>
#include <stdlib.h>

/* Whether brackets outside strings nest deeper than allowed. Malformed text may give either answer: the parser refuses it. */
static bool is_too_deep(struct str in)
{
	unsigned depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < in.n; i++) {
		char c = in.p[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > JSON_DEPTH_MAX)
				return true;
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		}
	}
	return false;
}

enum err json_parse(json_t **out, struct str in, struct err_info *info)
{
	json_error_t error;
	char *near;

	*out = NULL;
	if (in.n == 0)
		return err_set(info, ERR_INVALID_MESSAGE, "not JSON: empty");
	if (!utf8_is_valid(in))
		return err_set(info, ERR_INVALID_MESSAGE, "not valid UTF-8");
	if (is_too_deep(in))
		return err_set(info, ERR_INVALID_MESSAGE, "nested deeper than %d levels", JSON_DEPTH_MAX);
	*out = json_loadb(in.p, in.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (*out)
		return ERR_OK;
	/* jansson quotes the input behind "near"; where it is says enough, and texts of users stay out of logs */
	near = strstr(error.text, " near ");
	if (near)
		*near = 0;
	return err_set(info, ERR_INVALID_MESSAGE, "not valid JSON: %s at byte %d", error.text, error.position);
}

static int append(const char *p, size_t n, void *out)
{
	buf_append(out, p, n);
	return 0;
}

void json_write(struct buf *out, const json_t *value)
{
	if (json_dump_callback(value, append, out, JSON_COMPACT | JSON_ENCODE_ANY) != 0)
		abort(); /* only a NULL or cyclic value, or no memory */
}

/* The length of the character at p, of which n > 0 bytes are there; 0: not valid UTF-8. */
static size_t char_len(const unsigned char *p, size_t n)
{
	unsigned char c = p[0], low = 0x80, high = 0xbf;
	size_t len;

	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (n < len)
		return 0;
	if (c == 0xe0)
		low = 0xa0; /* overlong */
	else if (c == 0xed)
		high = 0x9f; /* surrogates */
	else if (c == 0xf0)
		low = 0x90; /* overlong */
	else if (c == 0xf4)
		high = 0x8f; /* above U+10FFFF */
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

bool utf8_is_valid(struct str s)
{
	const unsigned char *p = (const unsigned char *)s.p;
	size_t i = 0;

	while (i < s.n) {
		uint64_t word;
		size_t len;

		if (s.n - i >= sizeof(word)) {
			memcpy(&word, p + i, sizeof(word));
			if (!(word & UINT64_C(0x8080808080808080))) {
				i += sizeof(word);
				continue;
			}
		}
		len = char_len(p + i, s.n - i);
		if (len == 0)
			return false;
		i += len;
	}
	return true;
}

struct str utf8_prefix(struct str s, size_t max)
{
	if (s.n <= max)
		return s;
	while (max > 0 && ((unsigned char)s.p[max] & 0xc0) == 0x80)
		max--;
	return str_of(s.p, max);
}

static void escape(struct buf *out, unsigned char c)
{
	switch (c) {
	case '"':
		buf_append_c(out, "\\\"");
		break;
	case '\\':
		buf_append_c(out, "\\\\");
		break;
	case '\n':
		buf_append_c(out, "\\n");
		break;
	case '\r':
		buf_append_c(out, "\\r");
		break;
	case '\t':
		buf_append_c(out, "\\t");
		break;
	case '\b':
		buf_append_c(out, "\\b");
		break;
	case '\f':
		buf_append_c(out, "\\f");
		break;
	default:
		buf_printf(out, "\\u%04x", c);
	}
}

void json_write_string(struct buf *out, struct str s)
{
	const unsigned char *p = (const unsigned char *)s.p;
	size_t done = 0, i = 0;

	buf_reserve(out, s.n + 2);
	buf_append_c(out, "\"");
	while (i < s.n) {
		bool special = p[i] < 0x20 || p[i] == '"' || p[i] == '\\';
		size_t len = special ? 0 : char_len(p + i, s.n - i);

		if (len > 0) {
			i += len;
			continue;
		}
		buf_append(out, p + done, i - done);
		if (special)
			escape(out, p[i]);
		else
			buf_append_c(out, "\xef\xbf\xbd");
		done = ++i;
	}
	if (s.n > done)
		buf_append(out, p + done, s.n - done);
	buf_append_c(out, "\"");
}
