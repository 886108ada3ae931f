/*
 * Who may come in, by token and by request: tokens wrong in every way, at all four doors; and each row of the table of
 * refusals in docs/protocol.md with its status, its code and its form.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"
#include "tests/lib/token.h"

#define USER "usr_4a8f9c2b1e5d"
#define OTHER "usr_000000000001"
#define HS256 "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"

/* ---- the doors: each gives "" where it lets in, else the code; status or close code into *number ---- */

static void door_whoami(struct cluster *c, const char *token, char *code, int *number)
{
	struct http_response r = {0};
	char *headers = text_format("Authorization: Bearer %s\r\n", token);
	http_get(cluster_port(c, 0), "/v1/whoami", headers, &r, 10000);
	http_problem_code(&r, code, 64);
	*number = r.status;
	http_response_finish(&r);
	free(headers);
}

static bool decided(void *ctx)
{
	struct ws_client *ws = ctx;
	return ws->state == WS_OPEN || ws->state == WS_CLOSED;
}

static void door_upgrade(struct cluster *c, const char *token, char *code, int *number)
{
	char *bearer = text_format("Bearer %s", token);
	struct ws_request request = {.port = cluster_port(c, 0), .authorization = bearer};
	struct ws_client *ws = ws_connect(c->loop, &request);
	assert_true(ws_loop_until(c->loop, decided, ws, 10000));
	http_problem_code(&ws->response, code, 64);
	*number = ws->response.status;
	assert_string_equal(ws->violation, "");
	ws_free(ws);
	free(bearer);
}

static void door_auth(struct cluster *c, const char *token, char *code, int *number)
{
	struct chat_args args = {.port = cluster_port(c, 0), .token = token, .in_band = true};
	struct chat *chat = chat_open(c->loop, &args);
	char id[24];
	bool in = chat_wait_welcome(chat, 10000);
	snprintf(id, sizeof id, "%s-auth", chat->tag);
	snprintf(code, 64, "%s", in ? "" : chat_code(chat_answer(chat, id)));
	*number = chat->ws->close_code;
	if (!in)
		assert_in_range(*number, 4401, 4403);
	chat_check(chat);
	chat_free(chat);
}

static void door_refresh(struct cluster *c, const char *token, char *code, int *number)
{
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), USER);
	json_t *answer = chat_call(chat, json_pack("{s:s,s:s}", "type", "auth.refresh", "token", token));
	snprintf(code, 64, "%s", chat_code(answer));
	*number = answer ? 200 : 0;
	chat_check(chat);
	chat_free(chat);
}

typedef void door(struct cluster *c, const char *token, char *code, int *number);
static door *const doors[] = {door_whoami, door_upgrade, door_auth, door_refresh};
static const char *const door_names[] = {"whoami", "upgrade", "auth", "auth.refresh"};

/* codes: one, or several separated by '|', any of which is right. */
static bool code_is(const char *code, const char *codes)
{
	size_t n = strlen(code);
	for (const char *p = codes;; p = strchr(p, '|') + 1) {
		if (!strncmp(p, code, n) && (p[n] == 0 || p[n] == '|'))
			return true;
		if (!strchr(p, '|'))
			return false;
	}
}

static void expect(struct cluster *c, const char *what, const char *token, const char *codes)
{
	for (size_t d = 0; d < 4; d++) {
		char code[64] = "";
		int number = 0;
		if (strlen(token) > 3000 && d < 2)
			continue; /* over what a header may hold */
		doors[d](c, token, code, &number);
		if (!code_is(code, codes) || (codes[0] && d < 2 && number != 401 && number != 403))
			fail_msg("%s at %s: \"%s\" (%d), not \"%s\"", what, door_names[d], code, number, codes);
	}
}

/* Takes the token. */
static void expect_free(struct cluster *c, const char *what, char *token, const char *codes)
{
	expect(c, what, token, codes);
	free(token);
}

static char *claims(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *claims(const char *fmt, ...)
{
	va_list ap;
	char *payload, *token;
	va_start(ap, fmt);
	if (vasprintf(&payload, fmt, ap) < 0)
		abort();
	va_end(ap);
	token = token_sign(HS256, payload, 256, TOKEN_SECRET);
	free(payload);
	return token;
}

/* ---- tests ---- */

static void tokens_with_wrong_signatures_are_invalid(void **state)
{
	struct cluster *c = *state;
	long long exp = (long long)time(NULL) + 600;
	char payload[128];
	snprintf(payload, sizeof payload, "{\"sub\":\"" USER "\",\"exp\":%lld}", exp);
	const struct {
		const char *what, *header;
		int bits;
		const char *secret;
	} rows[] = {
		{"alg none", "{\"alg\":\"none\"}", 256, NULL},
		{"alg None", "{\"alg\":\"None\"}", 256, NULL},
		{"alg none, signed", "{\"alg\":\"none\"}", 256, TOKEN_SECRET},
		{"no alg", "{\"typ\":\"JWT\"}", 256, TOKEN_SECRET},
		{"alg a number", "{\"alg\":256}", 256, TOKEN_SECRET},
		{"alg hs256", "{\"alg\":\"hs256\"}", 256, TOKEN_SECRET},
		{"HS384", "{\"alg\":\"HS384\"}", 384, TOKEN_SECRET},
		{"HS512", "{\"alg\":\"HS512\"}", 512, TOKEN_SECRET},
		{"HS512 told as HS256", HS256, 512, TOKEN_SECRET},
		{"RS256", "{\"alg\":\"RS256\"}", 256, TOKEN_SECRET},
		{"ES256", "{\"alg\":\"ES256\"}", 256, TOKEN_SECRET},
		{"another key", HS256, 256, "another-secret-another-secret-another-secret"},
		{"an empty key", HS256, 256, ""},
		{"no signature", HS256, 256, NULL},
		{"crit", "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}", 256, TOKEN_SECRET},
		{"b64 false", "{\"alg\":\"HS256\",\"b64\":false,\"crit\":[\"b64\"]}", 256, TOKEN_SECRET},
		{"a header that is no JSON", "alg=HS256", 256, TOKEN_SECRET},
		{"a header that is a list", "[\"HS256\"]", 256, TOKEN_SECRET},
		{"an empty header", "", 256, TOKEN_SECRET},
	};
	expect_free(c, "a good token", token_sign(HS256, payload, 256, TOKEN_SECRET), "");
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		expect_free(c, rows[i].what, token_sign(rows[i].header, payload, rows[i].bits, rows[i].secret), "token_invalid");
	cluster_passed(c);
}

static void tokens_that_were_tampered_with_are_invalid(void **state)
{
	struct cluster *c = *state;
	char *good = token_make(USER, 600), *other = token_make(OTHER, 600);
	size_t n = strlen(good);
	char *signature = strrchr(good, '.') + 1, *payload = strchr(good, '.') + 1;
	expect_free(c, "another's payload",
	            text_format("%.*s%.*s.%s", (int)(payload - good), good, (int)strcspn(strchr(other, '.') + 1, "."),
	                        strchr(other, '.') + 1, signature),
	            "token_invalid");
	expect_free(c, "a cut signature", text_format("%.*s", (int)n - 1, good), "token_invalid");
	expect_free(c, "a short signature", text_format("%.*sAA", (int)(signature - good), good), "token_invalid");
	expect_free(c, "a longer signature", text_format("%sAA", good), "token_invalid");
	expect_free(c, "padding", text_format("%s=", good), "token_invalid");
	expect_free(c, "four parts", text_format("%s.%s", good, signature), "token_invalid");
	expect_free(c, "five parts", text_format("%s.%s.%s", good, signature, signature), "token_invalid");
	expect_free(c, "two parts", text_format("%.*s", (int)(signature - good) - 1, good), "token_invalid");
	expect_free(c, "one part", strdup("eyJhbGciOiJIUzI1NiJ9"), "token_invalid");
	expect_free(c, "dots", strdup(".."), "token_invalid");
	expect_free(c, "no base64", strdup("!!!!.????.++++"), "token_invalid");
	for (size_t i = 0; i + 1 < n; i += 7) { /* a flipped bit anywhere; the last character's low bits mean nothing */
		char *bent = strdup(good), code[64] = "";
		int number;
		bent[i] = bent[i] == 'A' ? 'B' : bent[i] == '.' ? 'x' : 'A';
		door_whoami(c, bent, code, &number);
		if (strcmp(bent, good) != 0)
			assert_string_equal(code, "token_invalid");
		free(bent);
	}
	free(good);
	free(other);
	cluster_passed(c);
}

static void claims_are_checked(void **state)
{
	struct cluster *c = *state;
	long long now = (long long)time(NULL), exp = now + 600;
	expect_free(c, "no sub", claims("{\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "sub a number", claims("{\"sub\":123456789012345678,\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "sub null", claims("{\"sub\":null,\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "sub a list", claims("{\"sub\":[\"" USER "\"],\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "sub an object", claims("{\"sub\":{\"id\":\"" USER "\"},\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "sub twice", claims("{\"sub\":\"" OTHER "\",\"sub\":\"" USER "\",\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "sub with NUL", claims("{\"sub\":\"" USER "\\u0000\",\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "user_id instead of sub", claims("{\"user_id\":\"" USER "\",\"exp\":%lld}", exp), "token_invalid");
	expect_free(c, "a test ID", claims("{\"sub\":\"test_user_123\",\"exp\":%lld}", exp), "invalid_user_id");
	expect_free(c, "no exp", claims("{\"sub\":\"" USER "\"}"), "token_invalid");
	expect_free(c, "exp a string", claims("{\"sub\":\"" USER "\",\"exp\":\"%lld\"}", exp), "token_invalid");
	expect_free(c, "exp null", claims("{\"sub\":\"" USER "\",\"exp\":null}"), "token_invalid");
	expect_free(c, "exp 0", claims("{\"sub\":\"" USER "\",\"exp\":0}"), "token_expired");
	expect_free(c, "exp negative", claims("{\"sub\":\"" USER "\",\"exp\":-1}"), "token_expired|token_invalid");
	expect_free(c, "expired a minute ago", claims("{\"sub\":\"" USER "\",\"exp\":%lld}", now - 60), "token_expired");
	expect_free(c, "within the leeway", claims("{\"sub\":\"" USER "\",\"exp\":%lld}", now - 10), "");
	expect_free(c, "nbf to come", claims("{\"sub\":\"" USER "\",\"exp\":%lld,\"nbf\":%lld}", exp, now + 120),
	            "token_invalid");
	expect_free(c, "nbf within the leeway", claims("{\"sub\":\"" USER "\",\"exp\":%lld,\"nbf\":%lld}", exp, now + 15), "");
	expect_free(c, "iat to come", claims("{\"sub\":\"" USER "\",\"exp\":%lld,\"iat\":%lld}", exp, now + 120),
	            "token_invalid");
	expect_free(c, "a payload that is no JSON", claims("sub=" USER), "token_invalid");
	expect_free(c, "a payload with more behind it", claims("{\"sub\":\"" USER "\",\"exp\":%lld}{}", exp), "token_invalid");
	expect_free(c, "an empty payload", claims("%s", ""), "token_invalid");
	char *filler = malloc(12001);
	memset(filler, 'x', 12000);
	filler[12000] = 0;
	expect_free(c, "a huge one", claims("{\"sub\":\"" USER "\",\"exp\":%lld,\"x\":\"%s\"}", exp, filler), "token_invalid");
	free(filler);
	cluster_passed(c);
}

static void issuer_and_audience_are_checked_where_configured(void **state)
{
	struct cluster *c = *state;
	long long exp = (long long)time(NULL) + 600;
	const struct {
		const char *what, *rest, *codes;
	} rows[] = {
		{"both right", "\"iss\":\"https://id.example\",\"aud\":\"pinion\"", ""},
		{"aud in a list", "\"iss\":\"https://id.example\",\"aud\":[\"x\",\"pinion\"]", ""},
		{"another issuer", "\"iss\":\"https://id.example/\",\"aud\":\"pinion\"", "issuer_mismatch"},
		{"no issuer", "\"aud\":\"pinion\"", "issuer_mismatch"},
		{"an issuer that is a list", "\"iss\":[\"https://id.example\"],\"aud\":\"pinion\"",
	         "issuer_mismatch|token_invalid"},
		{"another audience", "\"iss\":\"https://id.example\",\"aud\":\"pinion2\"", "audience_mismatch"},
		{"other audiences", "\"iss\":\"https://id.example\",\"aud\":[\"x\",\"y\"]", "audience_mismatch"},
		{"no audience", "\"iss\":\"https://id.example\"", "audience_mismatch"},
		{"an audience that is a number", "\"iss\":\"https://id.example\",\"aud\":1", "audience_mismatch|token_invalid"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char *token = claims("{\"sub\":\"" USER "\",\"exp\":%lld,%s}", exp, rows[i].rest), code[64];
		int number;
		for (size_t d = 0; d < 3; d++) {
			doors[d](c, token, code, &number);
			if (!code_is(code, rows[i].codes))
				fail_msg("%s at %s: \"%s\", not \"%s\"", rows[i].what, door_names[d], code, rows[i].codes);
		}
		free(token);
	}
	cluster_passed(c);
}

static void a_refresh_keeps_the_identity(void **state)
{
	struct cluster *c = *state;
	struct chat *chat = chat_enter_as(c->loop, cluster_port(c, 0), USER);
	char *same = token_make(USER, 7200), *other = token_make(OTHER, 7200);
	json_t *answer = chat_call(chat, json_pack("{s:s,s:s}", "type", "auth.refresh", "token", same));
	assert_string_equal(chat_text_of(answer, "type"), "ack");
	assert_int_equal(json_string_length(json_object_get(answer, "expires_at")), strlen("2026-01-01T00:00:00.000Z"));
	answer = chat_call(chat, json_pack("{s:s,s:s}", "type", "auth.refresh", "token", other));
	assert_string_equal(chat_code(answer), "forbidden");
	assert_true(chat_wait_closed(chat, 5000));
	assert_int_equal(chat->ws->close_code, 4403);
	chat_check(chat);
	chat_free(chat);
	free(same);
	free(other);
	cluster_passed(c);
}

/* ---- the table ---- */

struct refusal {
	const char *what, *target, *authorization, *subprotocols, *origin, *headers;
	int status;
	const char *code; /* with 101: the subprotocol chosen */
};

static void check_form(const struct refusal *row, const struct ws_client *ws)
{
	char code[64], value[128];
	http_problem_code(&ws->response, code, sizeof code);
	if (ws->response.status != row->status)
		fail_msg("%s: %d %s", row->what, ws->response.status, code);
	if (row->status == 101) {
		assert_string_equal(ws->subprotocol, row->code);
		return;
	}
	if (strcmp(code, row->code) != 0)
		fail_msg("%s: code %s, not %s", row->what, code, row->code);
	http_header(&ws->response, "content-type", value, sizeof value);
	assert_string_equal(value, "application/problem+json");
	if (row->status == 429 || row->status == 503)
		if (!http_header(&ws->response, "retry-after", value, sizeof value) || atoi(value) < 1)
			fail_msg("%s: no Retry-After", row->what);
}

static struct ws_client *try_upgrade(struct cluster *c, uint16_t port, const struct refusal *row, const char *bearer)
{
	struct ws_request request = {
		.port = port,
		.target = row->target,
		.authorization = row->authorization && !strcmp(row->authorization, "good") ? bearer : row->authorization,
		.subprotocols = row->subprotocols,
		.origin = row->origin,
		.headers = row->headers,
	};
	struct ws_client *ws = ws_connect(c->loop, &request);
	if (!ws_loop_until(c->loop, decided, ws, 10000))
		fail_msg("%s: no answer", row->what);
	check_form(row, ws);
	return ws;
}

static void refusals_have_their_status_and_code(void **state)
{
	struct cluster *c = *state;
	uint16_t port = cluster_port(c, 0);
	char *same_origin = text_format("http://127.0.0.1:%u", port), *other_port = text_format("http://127.0.0.1:%u", port + 1);
	char *expired = token_make(USER, -60), *bad_id = token_make("test_user_123", 600), *token = token_make(USER, 600);
	char *b_expired = text_format("Bearer %s", expired), *b_bad_id = text_format("Bearer %s", bad_id);
	char *bearer = text_format("Bearer %s", token), *twice = text_format("Authorization: Bearer %s\r\n", token);
	char *in_url = text_format("/ws?token=%s", token), *access_token = text_format("/ws?access_token=%s", token);
	const struct refusal rows[] = {
		{"good", NULL, "good", NULL, NULL, NULL, 101, ""},
		{"good with subprotocol", NULL, "good", "pinion.v1", NULL, NULL, 101, "pinion.v1"},
		{"ours among others", NULL, "good", "chat, pinion.v1,other", NULL, NULL, 101, "pinion.v1"},
		{"ours behind long ones", NULL, "good",
	         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, pinion.v1", NULL,
	         NULL, 101, "pinion.v1"},
		{"others only", NULL, "good", "chat", NULL, NULL, 400, "unsupported_subprotocol"},
		{"another version", NULL, "good", "pinion.v2", NULL, NULL, 400, "unsupported_subprotocol"},
		{"nearly ours", NULL, "good", "PINION.V1, pinion.v11, xpinion.v1", NULL, NULL, 400, "unsupported_subprotocol"},
		{"a long list of others", NULL, "good",
	         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	         NULL, NULL, 400, "unsupported_subprotocol"},
		{"same origin", NULL, "good", NULL, same_origin, NULL, 101, ""},
		{"origin of another port", NULL, "good", NULL, other_port, NULL, 403, "origin_not_allowed"},
		{"another origin", NULL, "good", NULL, "https://evil.example", NULL, 403, "origin_not_allowed"},
		{"origin null", NULL, "good", NULL, "null", NULL, 403, "origin_not_allowed"},
		{"another origin without a token", NULL, NULL, NULL, "https://evil.example", NULL, 403, "origin_not_allowed"},
		{"two tokens", NULL, "good", NULL, NULL, twice, 400, "bad_request"},
		{"token in the URL", in_url, NULL, NULL, NULL, NULL, 400, "bad_request"},
		{"access_token in the URL", access_token, "good", NULL, NULL, NULL, 400, "bad_request"},
		{"last_seq a word", "/ws?last_seq=abc", "good", NULL, NULL, NULL, 400, "bad_request"},
		{"last_seq negative", "/ws?last_seq=-1", "good", NULL, NULL, NULL, 400, "bad_request"},
		{"last_seq empty", "/ws?last_seq=", "good", NULL, NULL, NULL, 400, "bad_request"},
		{"last_seq huge", "/ws?last_seq=99999999999999999999999999", "good", NULL, NULL, NULL, 400, "bad_request"},
		{"last_seq and more", "/ws?last_seq=1x", "good", NULL, NULL, NULL, 400, "bad_request"},
		{"last_seq 0", "/ws?last_seq=0", "good", NULL, NULL, NULL, 101, ""},
		{"an unknown parameter", "/ws?colour=red", "good", NULL, NULL, NULL, 101, ""},
		{"another scheme", NULL, "Basic dXNlcjpwYXNz", NULL, NULL, NULL, 401, "token_invalid"},
		{"Bearer without a token", NULL, "Bearer", NULL, NULL, NULL, 401, "token_invalid"},
		{"a bad token", NULL, "Bearer nonsense", NULL, NULL, NULL, 401, "token_invalid"},
		{"an expired token", NULL, b_expired, NULL, NULL, NULL, 401, "token_expired"},
		{"an invalid user ID", NULL, b_bad_id, NULL, NULL, NULL, 403, "invalid_user_id"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		ws_free(try_upgrade(c, port, &rows[i], bearer));
	char *all[] = {same_origin, other_port, expired, bad_id, token, b_expired, b_bad_id, bearer, twice, in_url, access_token};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
	cluster_passed(c);
}

static void requests_that_are_no_upgrade_are_answered(void **state)
{
	struct cluster *c = *state;
	char *token = token_make(USER, 600);
	const struct {
		const char *what, *line, *headers;
		int low, high;
		const char *code;
	} rows[] = {
		{"whoami without a token", "GET /v1/whoami", "", 401, 401, "token_missing"},
		{"POST to whoami", "POST /v1/whoami", "Content-Length: 0\r\n", 405, 405, ""},
		{"nowhere", "GET /nowhere", "", 404, 404, ""},
		{"the admin's page", "GET /metrics", "", 404, 404, ""},
		{"/ws without an upgrade", "GET /ws", "", 400, 426, ""},
		{"version 12", "GET /ws",
	         "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
	         400, 426, ""},
		{"no version", "GET /ws",
	         "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 400, 426, ""},
		{"a key that is none", "GET /ws",
	         "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n", 400,
	         400, ""},
		{"the upgrade elsewhere", "GET /elsewhere",
	         "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
	         404, 404, ""},
		{"POST to /ws", "POST /ws",
	         "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n",
	         400, 405, ""},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct http_response r = {0};
		char code[64],
			*request = text_format("%s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s%s%s\r\n", rows[i].line, rows[i].headers,
		                               i ? "Authorization: Bearer " : "", i ? token : "", i ? "\r\n" : "");
		http_raw(cluster_port(c, 0), request, strlen(request), &r, 10000);
		http_problem_code(&r, code, sizeof code);
		if (r.status < rows[i].low || r.status > rows[i].high || (rows[i].code[0] && strcmp(code, rows[i].code) != 0))
			fail_msg("%s: %d %s %s", rows[i].what, r.status, code, r.trouble);
		http_response_finish(&r);
		free(request);
	}
	free(token);
	cluster_passed(c);
}

static void caps_refuse_with_retry_after(void **state)
{
	struct cluster *c = *state;
	struct ws_client *open[8];
	char *token = token_make(USER, 600), *bearer = text_format("Bearer %s", token);
	const struct refusal good = {"within the cap", NULL, "good", NULL, NULL, NULL, 101, ""};
	const struct refusal many = {"one too many", NULL, "good", NULL, NULL, NULL, 429, "too_many_connections"};
	const struct refusal over = {"over all connections", NULL, "good", NULL, NULL, NULL, 503, "overloaded"};
	for (size_t i = 0; i < 3; i++)
		open[i] = try_upgrade(c, cluster_port(c, 0), &good, bearer);
	ws_free(try_upgrade(c, cluster_port(c, 0), &many, bearer));
	for (size_t i = 0; i < 3; i++)
		ws_free(open[i]);
	open[0] = try_upgrade(c, cluster_port(c, 1), &good, bearer);
	open[1] = try_upgrade(c, cluster_port(c, 1), &good, bearer);
	ws_free(try_upgrade(c, cluster_port(c, 1), &over, bearer));
	ws_free(open[0]);
	ws_free(open[1]);
	free(token);
	free(bearer);
	cluster_passed(c);
}

static void no_worker_is_503(void **state)
{
	struct cluster *c = *state;
	char *token = token_make(USER, 600), *bearer = text_format("Bearer %s", token);
	const struct refusal row = {"no worker", NULL, "good", NULL, NULL, NULL, 503, "no_worker"};
	struct http_response r = {0};
	ws_free(try_upgrade(c, cluster_port(c, 0), &row, bearer));
	http_get(c->gateways[0].admin, "/livez", NULL, &r, 5000);
	assert_int_equal(r.status, 200);
	http_get(c->gateways[0].admin, "/readyz", NULL, &r, 5000);
	assert_int_equal(r.status, 503);
	assert_true(r.body.n > 0);
	http_response_finish(&r);
	cluster_start_worker(c, 0, true);
	cluster_wait_workers(c, 0, 1);
	const struct refusal good = {"a worker came", NULL, "good", NULL, NULL, NULL, 101, ""};
	ws_free(try_upgrade(c, cluster_port(c, 0), &good, bearer));
	free(token);
	free(bearer);
	cluster_passed(c);
}

/* ---- clusters ---- */

static int start(void **state, const char *const *flags)
{
	struct cluster_args args = {.gateways = 1, .workers = 1, .gateway_args = flags};
	*state = cluster_start(&args);
	return 0;
}

static int plain(void **state)
{
	return start(state, NULL);
}

static int with_issuer(void **state)
{
	static const char *const flags[] = {"--issuer", "https://id.example", "--audience", "pinion", NULL};
	return start(state, flags);
}

static int with_caps(void **state)
{
	static const char *const three[] = {"--connections", "3", NULL}, *const two[] = {"--max-connections", "2", NULL};
	start(state, three);
	struct cluster *c = *state;
	c->args.gateways = 2;
	c->args.gateway_args = two;
	cluster_start_gateway(c, 1, true);
	cluster_wait_workers(c, 1, 1);
	return 0;
}

static int without_worker(void **state)
{
	struct cluster_args args = {.gateways = 0, .workers = 0};
	struct cluster *c = cluster_start(&args);
	*state = c;
	c->args.gateways = c->args.workers = 1;
	cluster_start_gateway(c, 0, false);
	uint64_t deadline = clock_ms() + 20000 * patience();
	int fd;
	while ((fd = http_dial(c->gateways[0].admin)) < 0 && clock_ms() < deadline)
		pause_ms(10);
	if (fd >= 0)
		close(fd);
	return 0;
}

static int tear_down(void **state)
{
	cluster_stop(*state);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1) /* one test by its name, '*' allowed */
		cmocka_set_test_filter(argv[1]);
#define TEST(name, up) cmocka_unit_test_setup_teardown(name, up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(tokens_with_wrong_signatures_are_invalid, plain),
		TEST(tokens_that_were_tampered_with_are_invalid, plain),
		TEST(claims_are_checked, plain),
		TEST(issuer_and_audience_are_checked_where_configured, with_issuer),
		TEST(a_refresh_keeps_the_identity, plain),
		TEST(refusals_have_their_status_and_code, plain),
		TEST(requests_that_are_no_upgrade_are_answered, plain),
		TEST(caps_refuse_with_retry_after, with_caps),
		TEST(no_worker_is_503, without_worker),
	};
	return cmocka_run_group_tests_name("tokens", tests, NULL, NULL);
}
