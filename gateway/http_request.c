#include "gateway/http_request.h"

#include <ctype.h>
#include <strings.h>
#include "common/json.h"

#define SEQ_MAX (1ull << 53)

/* ---- origins ---- */

struct authority {
	struct str host;
	unsigned port; /* 0: malformed */
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static struct authority parse_authority(struct str text, unsigned default_port)
{
	struct authority out = {text, default_port};
	const char *colon = text.n ? memrchr(text.p, ':', text.n) : NULL;
	unsigned port = 0;

	if (text.n == 0)
		return (struct authority){0};
	if (!colon || (text.p[0] == '[' && text.p[text.n - 1] == ']'))
		return out;
	out.host.n = (size_t)(colon - text.p);
	if (colon + 1 == text.p + text.n || out.host.n == 0)
		return (struct authority){0};
	for (const char *p = colon + 1; p < text.p + text.n; p++) {
		if (!is_digit(*p) || port > 65535)
			return (struct authority){0};
		port = port * 10 + (unsigned)(*p - '0');
	}
	out.port = port <= 65535 ? port : 0;
	return out;
}

static bool same_authority(struct authority a, struct authority b)
{
	return a.port != 0 && a.port == b.port && a.host.n == b.host.n && strncasecmp(a.host.p, b.host.p, a.host.n) == 0;
}

/* The part behind "http://" or "https://"; false for "null" and all else. */
static bool split_origin(struct str origin, bool *tls, struct str *rest)
{
	*tls = origin.n > 8 && strncasecmp(origin.p, "https://", 8) == 0;
	if (!*tls && !(origin.n > 7 && strncasecmp(origin.p, "http://", 7) == 0))
		return false;
	*rest = str_of(origin.p + (*tls ? 8 : 7), origin.n - (*tls ? 8 : 7));
	return memchr(rest->p, '/', rest->n) == NULL && memchr(rest->p, '@', rest->n) == NULL;
}

static bool same_origin(struct str a, struct str b)
{
	bool a_tls, b_tls;
	struct str a_rest, b_rest;

	if (!split_origin(a, &a_tls, &a_rest) || !split_origin(b, &b_tls, &b_rest))
		return a.n == b.n && strncasecmp(a.p, b.p, a.n) == 0;
	return a_tls == b_tls &&
	       same_authority(parse_authority(a_rest, a_tls ? 443 : 80), parse_authority(b_rest, b_tls ? 443 : 80));
}

bool origin_is_allowed(struct str origin, struct str host, bool tls, const struct string_list *allowed)
{
	bool origin_tls;
	struct str rest;

	for (size_t i = 0; i < allowed->n; i++)
		if (strcmp(allowed->items[i], "*") == 0 || same_origin(origin, str_c(allowed->items[i])))
			return true;
	if (!split_origin(origin, &origin_tls, &rest) || (tls && !origin_tls))
		return false;
	return same_authority(parse_authority(rest, origin_tls ? 443 : 80), parse_authority(host, origin_tls ? 443 : 80));
}

/* ---- lists of tokens ---- */

static bool is_token_char(char c)
{
	return isalnum((unsigned char)c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* The next item of a comma-separated list, blanks trimmed; false at the end. */
static bool next_item(struct str *list, struct str *item)
{
	const char *comma;

	if (list->n == 0)
		return false;
	comma = memchr(list->p, ',', list->n);
	*item = str_of(list->p, comma ? (size_t)(comma - list->p) : list->n);
	*list = comma ? str_of(comma + 1, list->n - item->n - 1) : str_of(list->p + list->n, 0);
	while (item->n && (item->p[0] == ' ' || item->p[0] == '\t'))
		*item = str_of(item->p + 1, item->n - 1);
	while (item->n && (item->p[item->n - 1] == ' ' || item->p[item->n - 1] == '\t'))
		item->n--;
	return true;
}

enum offer subprotocol_offer(struct str list)
{
	bool cut = list.n >= SUBPROTOCOL_LIST_MAX, hidden = false;
	struct str rest = list, item;

	if (list.n == 0)
		return OFFER_NONE;
	if (list.n > SUBPROTOCOL_LIST_MAX)
		return OFFER_UNREACHED;
	while (next_item(&rest, &item)) {
		/* the last name of a cut list may be the beginning of a longer one */
		if (str_eq_c(item, SUBPROTOCOL) && !(cut && rest.n == 0))
			return hidden ? OFFER_UNREACHED : OFFER_OURS;
		for (size_t i = 0; i < item.n; i++)
			if (!is_token_char(item.p[i]))
				return OFFER_MALFORMED;
		if (item.n > SUBPROTOCOL_NAME_MAX)
			hidden = true;
	}
	return cut ? OFFER_UNREACHED : OFFER_OTHERS;
}

bool header_has_token(struct str value, const char *token)
{
	struct str item;

	while (next_item(&value, &item))
		if (item.n == strlen(token) && strncasecmp(item.p, token, item.n) == 0)
			return true;
	return false;
}

bool websocket_key_is_valid(struct str key)
{
	if (key.n != 24 || key.p[22] != '=' || key.p[23] != '=')
		return false;
	for (size_t i = 0; i < 22; i++)
		if (!isalnum((unsigned char)key.p[i]) && key.p[i] != '+' && key.p[i] != '/')
			return false;
	return true;
}

/* ---- the query, the token ---- */

static enum err take_last_seq(struct query *query, struct str value, struct err_info *info)
{
	uint64_t n = 0;

	if (query->has_last_seq)
		return err_set(info, ERR_BAD_REQUEST, "last_seq is given twice");
	if (value.n == 0 || value.n > 16)
		return err_set(info, ERR_BAD_REQUEST, "last_seq is no number from 0 to 2^53");
	for (size_t i = 0; i < value.n; i++) {
		if (!is_digit(value.p[i]))
			return err_set(info, ERR_BAD_REQUEST, "last_seq is no number from 0 to 2^53");
		n = n * 10 + (uint64_t)(value.p[i] - '0');
	}
	if (n > SEQ_MAX)
		return err_set(info, ERR_BAD_REQUEST, "last_seq is no number from 0 to 2^53");
	query->has_last_seq = true;
	query->last_seq = n;
	return ERR_OK;
}

enum err query_take(struct query *query, struct str argument, struct err_info *info)
{
	const char *equal = argument.n ? memchr(argument.p, '=', argument.n) : NULL;
	struct str name = str_of(argument.p, equal ? (size_t)(equal - argument.p) : argument.n);
	struct str value = equal ? str_of(equal + 1, argument.n - name.n - 1) : str_of(NULL, 0);

	if (str_eq_c(name, "token") || str_eq_c(name, "access_token"))
		return err_set(info, ERR_BAD_REQUEST,
		               "a token never belongs into a URL: send it as Authorization: Bearer, or in the first "
		               "message");
	return str_eq_c(name, "last_seq") ? take_last_seq(query, value, info) : ERR_OK;
}

enum err bearer_token(struct str authorization, struct str *out, struct err_info *info)
{
	struct str rest = authorization;

	*out = (struct str){0};
	if (rest.n && memchr(rest.p, ',', rest.n))
		return err_set(info, ERR_BAD_REQUEST, "more than one Authorization");
	if (rest.n < 7 || strncasecmp(rest.p, "Bearer ", 7) != 0)
		return err_set(info, ERR_TOKEN_INVALID, "the Authorization is no Bearer token");
	rest = str_of(rest.p + 7, rest.n - 7);
	while (rest.n && rest.p[0] == ' ')
		rest = str_of(rest.p + 1, rest.n - 1);
	while (rest.n && (rest.p[rest.n - 1] == ' ' || rest.p[rest.n - 1] == '\t'))
		rest.n--;
	if (rest.n == 0)
		return err_set(info, ERR_TOKEN_INVALID, "the token is empty");
	*out = rest;
	return ERR_OK;
}

/* ---- answers ---- */

unsigned http_status_of(enum err code)
{
	switch (code) {
	case ERR_UNSUPPORTED_SUBPROTOCOL:
	case ERR_BAD_REQUEST:
		return 400;
	case ERR_TOKEN_MISSING:
	case ERR_TOKEN_INVALID:
	case ERR_TOKEN_EXPIRED:
	case ERR_ISSUER_MISMATCH:
	case ERR_AUDIENCE_MISMATCH:
		return 401;
	case ERR_INVALID_USER_ID:
	case ERR_ORIGIN_NOT_ALLOWED:
		return 403;
	case ERR_NOT_FOUND:
		return 404;
	case ERR_TOO_MANY_CONNECTIONS:
	case ERR_RATE_LIMITED:
		return 429;
	case ERR_NO_WORKER:
	case ERR_DRAINING:
	case ERR_OVERLOADED:
	case ERR_UNAVAILABLE:
		return 503;
	default:
		return 500;
	}
}

const char *http_reason(unsigned status)
{
	switch (status) {
	case 200:
		return "OK";
	case 304:
		return "Not Modified";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 429:
		return "Too Many Requests";
	case 503:
		return "Service Unavailable";
	default:
		return "Internal Server Error";
	}
}

void http_reply_write(struct buf *out, const struct http_reply *reply)
{
	buf_printf(out, "HTTP/1.1 %u %s\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n", reply->status,
	           http_reason(reply->status));
	if (reply->content_type)
		buf_printf(out, "Content-Type: %s\r\n", reply->content_type);
	if (reply->status != 304)
		buf_printf(out, "Content-Length: %zu\r\n", reply->body.n);
	if (reply->extra)
		buf_append_c(out, reply->extra);
	buf_append_c(out, "\r\n");
	if (!reply->head)
		buf_append_str(out, reply->body);
}

void http_refusal_write(struct buf *out, enum err code, unsigned status, const char *detail, unsigned retry_after_s,
                        const char *extra, bool head)
{
	struct buf body = {0}, headers = {0};
	struct http_reply reply = {.status = status, .content_type = "application/problem+json", .head = head};

	buf_printf(&body,
	           "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u,\"code\":\"%s\",\"detail\":", http_reason(status),
	           status, err_name(code));
	json_write_string(&body, str_c(detail && detail[0] ? detail : err_text(code)));
	buf_append_c(&body, "}");
	buf_append_c(&headers, "Cache-Control: no-store\r\n");
	if (retry_after_s)
		buf_printf(&headers, "Retry-After: %u\r\n", retry_after_s);
	if (status == 401)
		buf_printf(&headers, "WWW-Authenticate: Bearer realm=\"pinion\"%s\r\n",
		           code == ERR_TOKEN_MISSING ? "" : ", error=\"invalid_token\"");
	if (extra)
		buf_append_c(&headers, extra);
	buf_append(&headers, "", 1);
	reply.body = buf_str(&body);
	reply.extra = headers.p;
	http_reply_write(out, &reply);
	buf_finish(&headers);
	buf_finish(&body);
}
