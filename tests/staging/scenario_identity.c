/*
 * scenario_identity.c - who may come in, at the four doors: whoami, the upgrade's header, the auth message, auth.refresh.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "tests/staging/minter.h"
#include "tests/staging/scenario.h"

enum door { DOOR_WHOAMI, DOOR_UPGRADE, DOOR_AUTH, DOOR_REFRESH, N_DOORS };
static const char *const door_names[] = {"whoami", "the upgrade", "auth", "auth.refresh"};

static void problem_code(const char *body, char code[64])
{
	json_t *problem = body ? json_loads(body, 0, NULL) : NULL;
	snprintf(code, 64, "%s", chat_text_of(problem, "code"));
	json_decref(problem);
}

/* "" where the door is open for this person, byte for byte; else the code that it was shut with. */
static void knock_whoami(struct stage *stage, unsigned url, const struct person *person, char code[64])
{
	struct blob body = {0};
	int status = stage_get(stage, url, "/v1/whoami", person->token, &body);
	json_t *answer = json_loads(body.p ? body.p : "", 0, NULL);
	if (status == 200)
		snprintf(code, 64, "%s", strcmp(chat_text_of(answer, "user_id"), person->user) ? "another user" : "");
	else if (status == 401 || status == 403)
		problem_code(body.p, code);
	else
		snprintf(code, 64, "status %d", status);
	json_decref(answer);
	blob_free(&body);
}

static void knock_socket(struct stage *stage, unsigned url, struct person *person, bool in_band, char code[64])
{
	struct client_args args = {.url = url, .in_band = in_band};
	struct client *client = client_open(stage, person, &args);
	const struct ws_client *ws = client->chat->ws;
	char id[32];
	snprintf(id, sizeof id, "%s-auth", client->chat->tag);
	if (client_wait_welcome(client))
		code[0] = 0;
	else if (!in_band)
		problem_code(ws->response.body.p, code);
	else if (ws->close_code == 4401 || ws->close_code == 4403)
		snprintf(code, 64, "%s", chat_code(chat_answer(client->chat, id)));
	else
		snprintf(code, 64, "close %d", ws->close_code);
	client_close(client);
}

static void knock_refresh(struct stage *stage, unsigned url, struct person *person, char code[64])
{
	struct client_args args = {.url = url};
	struct person *holder = stage_person(stage);
	struct client *client = client_enter(stage, holder, &args);
	json_t *answer = client_call(client, json_pack("{s:s,s:s}", "type", "auth.refresh", "token", person->token));
	snprintf(code, 64, "%s", chat_code(answer));
	if (!strcmp(code, "forbidden")) /* a good token, of another: what it should be */
		code[0] = 0;
	else if (!code[0])
		snprintf(code, 64, "another's token was taken");
	client_close(client);
}

static void knock(struct stage *stage, enum door door, unsigned url, struct person *person, char code[64])
{
	code[0] = 0;
	if (door == DOOR_WHOAMI)
		knock_whoami(stage, url, person, code);
	else if (door == DOOR_REFRESH)
		knock_refresh(stage, url, person, code);
	else
		knock_socket(stage, url, person, door == DOOR_AUTH, code);
}

/* code is one of codes, "a|b"; "" is only "". */
static bool is_among(const char *code, const char *codes)
{
	size_t n = strlen(code);
	if (!n || !codes[0])
		return !n && !codes[0];
	for (const char *at = codes; (at = strstr(at, code)); at++)
		if ((at == codes || at[-1] == '|') && (!at[n] || at[n] == '|'))
			return true;
	return false;
}

/* Printable, for the report. */
static const char *shown(const char *text)
{
	static char out[96];
	size_t at = 0;
	for (const unsigned char *p = (const unsigned char *)text; *p && at + 5 < sizeof out; p++)
		at += (size_t)snprintf(out + at, sizeof out - at, *p < 0x20 || *p > 0x7e ? "\\x%02x" : "%c", *p);
	out[at] = 0;
	return out;
}

static void expect(struct stage *stage, const char *what, struct person *person, const char *codes)
{
	char code[64];
	static unsigned url;
	for (unsigned door = 0; door < N_DOORS; door++) {
		knock(stage, (enum door)door, url++, person, code);
		stage_check(stage, is_among(code, codes), "%s at %s: %s, should be %s", what, door_names[door],
		            code[0] ? code : "let in", codes[0] ? codes : "let in");
	}
}

/* ---- ids ---- */

static const char *const bad_ids[] = {
	"",
	" ",
	"none",
	"null",
	"default",
	"admin",
	"demo",
	"anonymous",
	"test_user_123",
	"concurrent_user_99",
	"usr_4A8F9C2B1E5D",
	"usr_4a8f9c2b1e5",
	"usr_4a8f9c2b1e5d0",
	"usr_4a8f9c2b1e5g",
	"usr_4a8f9c2b1e5d\n",
	"usr_4a8f9c2b1e5d ",
	" usr_4a8f9c2b1e5d",
	"USR_4a8f9c2b1e5d",
	"usr-4a8f9c2b1e5d",
	"usr_4a8f9c2b1e5d/",
	"../usr_4a8f9c2b1e5d",
	"usr_4a8f9c2b1e5\xc3\xa9",
	"urn:uuid:550e8400-e29b-41d4-a716-446655440000",
	"{550e8400-e29b-41d4-a716-446655440000}",
	"550E8400-E29B-41D4-A716-446655440000",
	"550e8400e29b41d4a716446655440000",
	"00000000-0000-0000-0000-000000000000",
	"12345678901234",
	"1234567890123456789012",
	"+123456789012345",
	"12345678901234.5",
	"\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4\xd9\xa5\xd9\xa6\xd9\xa7\xd9\xa8\xd9\xa9\xd9\xa0\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4\xd9\xa5",
	"e2e-",
	"e2e-A",
	"e2e_a",
};

static void good_id(struct stage *stage, const char *fmt, unsigned long long number)
{
	char user[72];
	int n = snprintf(user, sizeof user, fmt, number);
	expect(stage, user, stage_person_named(stage, user, (size_t)n), "");
}

void play_ids(struct stage *stage)
{
	unsigned long long nonce = stage->nonce;
	good_id(stage, "usr_%012llx", nonce << 16 | 0xfff1);
	good_id(stage, "0190a6f2-7c3e-7b1a-9c1d-%012llx", nonce);
	good_id(stage, "550e8400-e29b-41d4-a716-%012llx", nonce);
	good_id(stage, "%015llu", 100000000000000 + nonce);
	good_id(stage, "10000000%013llu", nonce);
	for (size_t i = 0; i < sizeof bad_ids / sizeof *bad_ids; i++) {
		struct person *person = stage_person_named(stage, bad_ids[i], strlen(bad_ids[i]));
		stage_doing(stage, "bad ID %zu of %zu", i + 1, sizeof bad_ids / sizeof *bad_ids);
		char *what = text_format("the ID \"%s\"", shown(bad_ids[i]));
		expect(stage, what, person, "invalid_user_id|token_invalid");
		free(what);
	}
}

/* ---- tokens ---- */

/* Takes the token. */
static void expect_token(struct stage *stage, const char *what, char *token, const char *codes)
{
	struct person *person = stage_person(stage);
	free(person->token);
	person->token = token;
	expect(stage, what, person, codes);
}

static void forged_and_bent(struct stage *stage)
{
	struct person *person = stage_person(stage), *other = stage_person(stage);
	const char *good = person->token, *payload = strchr(good, '.'), *signature = strrchr(good, '.');
	if (!payload || payload == signature)
		stage_fail(stage, "can't run: the token of %s is no JWT", person->user);
	int head = (int)(payload - good), body = (int)(signature - payload);
	const char *other_payload = strchr(other->token, '.'), *other_signature = strrchr(other->token, '.');
	expect(stage, "a good token", person, "");
	expect_token(stage, "another's payload under this signature",
	             text_format("%.*s%.*s%s", head, good, (int)(other_signature - other_payload), other_payload, signature),
	             "token_invalid");
	expect_token(stage, "another's signature", text_format("%.*s%s", head + body, good, other_signature), "token_invalid");
	expect_token(stage, "no signature", text_format("%.*s.", head + body, good), "token_invalid");
	expect_token(stage, "two parts", text_format("%.*s", head + body, good), "token_invalid");
	expect_token(stage, "a cut signature", text_format("%.*s", (int)strlen(good) - 2, good), "token_invalid");
	expect_token(stage, "a longer signature", text_format("%sAAAA", good), "token_invalid");
	expect_token(stage, "four parts", text_format("%s%s", good, signature), "token_invalid");
	expect_token(stage, "alg none, unsigned", text_format("eyJhbGciOiJub25lIn0%.*s.", body, payload), "token_invalid");
	expect_token(stage, "alg none, signed", text_format("eyJhbGciOiJub25lIn0%.*s%s", body, payload, signature),
	             "token_invalid");
	expect_token(stage, "no token at all", strdup("x"), "token_invalid");
	size_t n = strlen(good);
	char *bent = strcpy(stage_alloc(stage, n + 1, 1, NULL), good);
	for (size_t i = 5; i + 1 < n; i += n / 9 + 1) { /* the last character's low bits mean nothing */
		char kept = bent[i], what[64];
		bent[i] = kept == 'A' ? 'B' : kept == '.' ? 'x' : 'A';
		snprintf(what, sizeof what, "a token bent at byte %zu", i);
		expect_token(stage, what, strdup(bent), "token_invalid");
		bent[i] = kept;
	}
}

static void expired(struct stage *stage)
{
	char why[256];
	struct person *person = stage_person(stage);
	if (!stage->options->secret && !strstr(stage->options->token_command, "{ttl}"))
		stage_fail(stage, "can't run: --token-command has no {ttl}, so no expired token can be had");
	char *token = minter_token(stage->options, person->user, strlen(person->user), -60, why, sizeof why);
	if (!token)
		stage_fail(stage, "can't run: %s", why);
	expect_token(stage, "a token that expired a minute ago", token, "token_expired");
}

static void wrong_claims(struct stage *stage)
{
	static const char hs256[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";
	const struct staging_options *o = stage->options;
	struct staging_options other = *o;
	struct person *person = stage_person(stage);
	long long now = (long long)time(NULL), exp = now + 600;
	const struct {
		const char *what, *header;
		char *claims;
	} rows[] = {
		{"no exp", hs256, text_format("{\"sub\":\"%s\"}", person->user)},
		{"exp a string", hs256, text_format("{\"sub\":\"%s\",\"exp\":\"%lld\"}", person->user, exp)},
		{"no sub", hs256, text_format("{\"exp\":%lld}", exp)},
		{"sub a number", hs256, text_format("{\"sub\":123456789012345678,\"exp\":%lld}", exp)},
		{"sub a list", hs256, text_format("{\"sub\":[\"%s\"],\"exp\":%lld}", person->user, exp)},
		{"user_id instead of sub", hs256, text_format("{\"user_id\":\"%s\",\"exp\":%lld}", person->user, exp)},
		{"not yet valid", hs256, text_format("{\"sub\":\"%s\",\"exp\":%lld,\"nbf\":%lld}", person->user, exp, now + 300)},
		{"RS256 over an HMAC", "{\"alg\":\"RS256\"}", text_format("{\"sub\":\"%s\",\"exp\":%lld}", person->user, exp)},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		expect_token(stage, rows[i].what, minter_sign(o, rows[i].header, rows[i].claims),
		             "token_invalid|issuer_mismatch|audience_mismatch");
		free(rows[i].claims);
	}
	other.secret = (char *)"another-secret-another-secret-another-secret";
	char why[64], *forged = minter_token(&other, person->user, strlen(person->user), 600, why, sizeof why);
	expect_token(stage, "a token signed with another secret", forged, "token_invalid");
}

/* A token in the URL opens nothing: the connection stays a stranger's. */
static void token_in_the_url(struct stage *stage)
{
	static const char ping[] = "{\"type\":\"ping\",\"id\":\"1\"}";
	struct person *person = stage_person(stage);
	char *target = text_format("/ws?token=%s&access_token=%s", person->token, person->token);
	struct ws_request request = {.endpoint = &stage->options->endpoints[0], .target = target, .subprotocols = "pinion.v1"};
	struct ws_client *ws = ws_connect(stage->loop, &request);
	uint64_t deadline = clock_us() + 15000000;
	bool sent = false;
	while (ws->state != WS_CLOSED && clock_us() < deadline) {
		stage_turn(stage);
		if (ws->state == WS_OPEN && !sent)
			ws_send_text(ws, ping, sizeof ping - 1);
		sent |= ws->state == WS_OPEN;
	}
	stage_check(stage, ws->response.status == 401 || ws->response.status == 400 || ws->close_code == 4401,
	            "a token in the URL: status %d, close %d", ws->response.status, ws->close_code);
	ws_free(ws);
	free(target);
}

void play_tokens(struct stage *stage)
{
	struct blob body = {0};
	char code[64];
	forged_and_bent(stage);
	expired(stage);
	if (stage->options->secret)
		wrong_claims(stage);
	int status = stage_get(stage, 0, "/v1/whoami", NULL, &body);
	problem_code(body.p, code);
	blob_free(&body);
	stage_check(stage, status == 401 && !strcmp(code, "token_missing"), "whoami without a token: %d %s", status, code);
	token_in_the_url(stage);
}
