/*
 * Who may come in, by ID: the lists of docs/protocol.md, and 100,000 random mutations of good IDs, which get one and the same
 * verdict from the grammar's function, over HTTP, at the upgrade, in band and at a refresh.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "common/ids.h"
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"
#include "tests/lib/token.h"

enum {
	MUTATIONS = 100000,
	SAMPLE = 2000,  /* for each way that needs a WebSocket */
	WAVE = 24,      /* at once: below the cap for unauthenticated ones of one address */
	CONNECTIONS = 8 /* HTTP connections side by side */
};

struct id_case {
	char bytes[96];
	size_t n;
	bool good;
};

static const char *const good_ids[] = {
	"usr_4a8f9c2b1e5d",
	"usr_000000000000",
	"usr_ffffffffffff",
	"0190a6f2-7c3e-7b1a-9c1d-2f3e4a5b6c7d",
	"550e8400-e29b-41d4-a716-446655440000",
	"123456789012345",
	"123456789012345678901",
	"000000000000001",
};

static const char *const good_e2e_ids[] = {
	"e2e-a",
	"e2e-0",
	"e2e-load.test_user-17",
	"e2e-012345678901234567890123456789012345678901234567890123456789",
};

/* Fifteen digits out of U+FF10 to U+FF19. */
#define FULL_WIDTH_DIGITS                                                                                                                      \
	"\xef\xbc\x91\xef\xbc\x92\xef\xbc\x93\xef\xbc\x94\xef\xbc\x95\xef\xbc\x96\xef\xbc\x97\xef\xbc\x98\xef\xbc\x99\xef\xbc\x90\xef\xbc\x91" \
	"\xef\xbc\x92\xef\xbc\x93\xef\xbc\x94\xef\xbc\x95"

static const char *const bad_ids[] = {
	"",
	" ",
	"   ",
	"none",
	"null",
	"default",
	"undefined",
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
	"\tusr_4a8f9c2b1e5d",
	"usr_4a8f9c2b1e5d\r\n",
	"USR_4a8f9c2b1e5d",
	"usr-4a8f9c2b1e5d",
	"usr_4a8f9c2b1e5d/",
	"usr_4a8f9c2b1e5d,usr_4a8f9c2b1e5e",
	"../usr_4a8f9c2b1e5d",
	"usr_4a8f9c2b1e5\xc3\xa9",
	"urn:uuid:550e8400-e29b-41d4-a716-446655440000",
	"{550e8400-e29b-41d4-a716-446655440000}",
	"550E8400-E29B-41D4-A716-446655440000",
	"550e8400e29b41d4a716446655440000",
	"00000000-0000-0000-0000-000000000000",
	"550e8400-e29b-41d4-a716-44665544000",
	"550e8400-e29b-41d4-a716-4466554400000",
	"550e8400-e29b-41d4-a7164-46655440000",
	"12345678901234",
	"1234567890123456789012",
	"-12345678901234",
	"+123456789012345",
	"12345678901234.5",
	"0x1234567890123",
	"\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4\xd9\xa5\xd9\xa6\xd9\xa7\xd9\xa8\xd9\xa9\xd9\xa0\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4\xd9\xa5",
	FULL_WIDTH_DIGITS,
	"e2e-",
	"e2e--a",
	"e2e-a-",
	"e2e-.a",
	"e2e-A",
	"e2e-a b",
	"e2e_a",
	"E2E-a",
	"e2e-0123456789012345678901234567890123456789012345678901234567890",
};

/* ---- the oracle: the grammar read anew, as patterns ---- */

/* 'h' a lower-case hex digit, 'd' an ASCII digit, '-' and others themselves. */
static bool matches(const char *pattern, const char *p, size_t n)
{
	if (strlen(pattern) != n)
		return false;
	for (size_t i = 0; i < n; i++) {
		const char *set = pattern[i] == 'h' ? "0123456789abcdef" : pattern[i] == 'd' ? "0123456789" : NULL;
		if (set ? !p[i] || !strchr(set, p[i]) : p[i] != pattern[i])
			return false;
	}
	return true;
}

static bool all_of(const char *set, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!p[i] || !strchr(set, p[i]))
			return false;
	return true;
}

static bool oracle_e2e(const char *p, size_t n)
{
	static const char edge[] = "abcdefghijklmnopqrstuvwxyz0123456789", inner[] = "abcdefghijklmnopqrstuvwxyz0123456789_.-";
	return n >= 5 && n <= 64 && memcmp(p, "e2e-", 4) == 0 && all_of(inner, p + 4, n - 4) && all_of(edge, p + 4, 1) &&
	       all_of(edge, p + n - 1, 1);
}

static bool oracle(const char *p, size_t n, bool e2e)
{
	if (n >= 15 && n <= 21 && all_of("0123456789", p, n))
		return true;
	if (matches("hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", p, n))
		return memcmp(p, "00000000-0000-0000-0000-000000000000", n) != 0;
	return matches("usr_hhhhhhhhhhhh", p, n) || (e2e && oracle_e2e(p, n));
}

/* ---- mutations ---- */

static void mutate_once(struct random *r, struct id_case *c)
{
	static const char *const pieces[] = {
		"\n",       " ",    "\t",   "_",         "-", ".", "A", "F",   "g",  "0",  "9",    "\xd9\xa3", "\xef\xbc\x95",
		"\xc3\xa9", "usr_", "e2e-", "urn:uuid:", "{", "}", "/", "%00", "\"", "\\", "\x7f", "\x01"};
	size_t at = (size_t)random_below(r, c->n + 1);
	const char *piece = pieces[random_below(r, sizeof pieces / sizeof *pieces)];
	size_t len = strlen(piece);
	switch (random_below(r, 7)) {
	case 0: /* put something in */
		if (c->n + len > 90)
			return;
		memmove(c->bytes + at + len, c->bytes + at, c->n - at);
		memcpy(c->bytes + at, piece, len);
		c->n += len;
		return;
	case 1: /* take one out */
		if (at < c->n) {
			memmove(c->bytes + at, c->bytes + at + 1, c->n - at - 1);
			c->n--;
		}
		return;
	case 2: /* another hex digit: often still good */
		if (at < c->n)
			c->bytes[at] = "0123456789abcdef"[random_below(r, 16)];
		return;
	case 3: /* any byte at all */
		if (at < c->n)
			c->bytes[at] = (char)random_next(r);
		return;
	case 4: /* the other case */
		if (at < c->n)
			c->bytes[at] ^= 0x20;
		return;
	case 5: /* swap */
		if (at + 1 < c->n) {
			char swapped = c->bytes[at];
			c->bytes[at] = c->bytes[at + 1];
			c->bytes[at + 1] = swapped;
		}
		return;
	default: /* double or cut the tail */
		if (random_below(r, 2) && c->n && c->n < 90) {
			c->bytes[c->n] = c->bytes[c->n - 1];
			c->n++;
		} else {
			c->n = at;
		}
	}
}

static void mutate(struct random *r, struct id_case *c, bool e2e)
{
	size_t n_good = sizeof good_ids / sizeof *good_ids, n_e2e = sizeof good_e2e_ids / sizeof *good_e2e_ids;
	size_t pick = (size_t)random_below(r, n_good + n_e2e);
	const char *base = pick < n_good ? good_ids[pick] : good_e2e_ids[pick - n_good];
	c->n = strlen(base);
	memcpy(c->bytes, base, c->n);
	for (uint64_t k = 1 + random_below(r, 3); k; k--)
		mutate_once(r, c);
	c->good = oracle(c->bytes, c->n, e2e);
}

static struct id_case *make_cases(size_t n, bool e2e)
{
	struct random r = {random_seed()};
	struct id_case *cases = calloc(n, sizeof *cases);
	size_t good = 0;
	for (size_t i = 0; i < n; i++) {
		mutate(&r, &cases[i], e2e);
		good += cases[i].good;
	}
	print_message("%zu mutations, of which %zu are good IDs\n", n, good);
	return cases;
}

/* Not expressible in a token's payload: it is no JSON text then, and the token is what is refused. */
static bool is_json_text(const struct id_case *c)
{
	return text_is_utf8(c->bytes, c->n) && !memchr(c->bytes, 0, c->n);
}

static const char *printable(const struct id_case *c)
{
	static char out[400];
	size_t at = 0;
	for (size_t i = 0; i < c->n; i++)
		at += (size_t)snprintf(out + at, sizeof out - at, (c->bytes[i] > ' ' && c->bytes[i] < 127) ? "%c" : "\\x%02x",
		                       (unsigned char)c->bytes[i]);
	return out;
}

static void expect(const struct id_case *c, const char *way, bool accepted, const char *code)
{
	const char *wanted = is_json_text(c) ? "invalid_user_id" : "token_invalid";
	if (accepted != c->good)
		fail_msg("\"%s\" was %s by %s (%s)", printable(c), accepted ? "accepted" : "refused", way, code);
	if (!accepted && strcmp(code, wanted) != 0)
		fail_msg("\"%s\" was refused by %s with %s, not %s", printable(c), way, code, wanted);
}

/* ---- the ways in ---- */

static void send_whoami(struct http_conn *conn, const struct id_case *c)
{
	char *token = token_make_n(c->bytes, c->n, 600);
	char *request = text_format("GET /v1/whoami HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n\r\n", token);
	if (!http_conn_send(conn, request, strlen(request)))
		fail_msg("can't send to port %u", conn->port);
	free(request);
	free(token);
}

static void check_whoami(struct http_conn *conn, const struct id_case *c)
{
	struct http_response r = {0};
	char code[64], type[64];
	http_conn_read(conn, &r, false, 10000 * patience());
	if (!r.status)
		fail_msg("whoami of \"%s\": %s", printable(c), r.trouble);
	http_problem_code(&r, code, sizeof code);
	expect(c, "whoami", r.status == 200, code);
	http_header(&r, "content-type", type, sizeof type);
	if (r.status == 200) {
		json_t *body = json_loadb(r.body.p, r.body.n, 0, NULL);
		assert_int_equal(json_string_length(json_object_get(body, "expires_at")), strlen("2026-01-01T00:00:00.000Z"));
		assert_int_equal(json_string_length(json_object_get(body, "user_id")), c->n);
		assert_memory_equal(chat_text_of(body, "user_id"), c->bytes, c->n);
		json_decref(body);
	} else {
		assert_int_equal(r.status, is_json_text(c) ? 403 : 401);
		assert_string_equal(type, "application/problem+json");
	}
	http_response_finish(&r);
}

static void whoami_all(uint16_t port, const struct id_case *cases, size_t n)
{
	struct http_conn conns[CONNECTIONS];
	unsigned connects = 0;
	uint64_t begin = clock_ms();
	for (size_t k = 0; k < CONNECTIONS; k++)
		http_conn_init(&conns[k], port);
	for (size_t i = 0; i < n; i += CONNECTIONS) {
		for (size_t k = 0; k < CONNECTIONS && i + k < n; k++)
			send_whoami(&conns[k], &cases[i + k]);
		for (size_t k = 0; k < CONNECTIONS && i + k < n; k++)
			check_whoami(&conns[k], &cases[i + k]);
	}
	for (size_t k = 0; k < CONNECTIONS; k++) {
		connects += conns[k].connects;
		http_conn_finish(&conns[k]);
	}
	print_message("whoami: %zu requests in %llu ms over %u connections\n", n, (unsigned long long)(clock_ms() - begin),
	              connects);
}

struct wave {
	struct ws_loop *loop;
	const struct id_case *cases[WAVE];
	struct ws_client *clients[WAVE];
	struct chat *chats[WAVE];
	size_t n;
};

static bool upgrades_decided(void *ctx)
{
	struct wave *w = ctx;
	for (size_t i = 0; i < w->n; i++)
		if (w->clients[i]->state != WS_OPEN && w->clients[i]->state != WS_CLOSED)
			return false;
	return true;
}

static void wave_upgrade(struct wave *w, uint16_t port)
{
	char code[64];
	for (size_t i = 0; i < w->n; i++) {
		char *token = token_make_n(w->cases[i]->bytes, w->cases[i]->n, 600), *bearer = text_format("Bearer %s", token);
		struct ws_request request = {.port = port, .authorization = bearer, .subprotocols = "pinion.v1"};
		w->clients[i] = ws_connect(w->loop, &request);
		free(bearer);
		free(token);
	}
	assert_true(ws_loop_until(w->loop, upgrades_decided, w, 15000));
	for (size_t i = 0; i < w->n; i++) {
		http_problem_code(&w->clients[i]->response, code, sizeof code);
		expect(w->cases[i], "the upgrade", w->clients[i]->response.status == 101, code);
		assert_string_equal(w->clients[i]->violation, "");
		ws_free(w->clients[i]);
	}
}

static bool welcomes_decided(void *ctx)
{
	struct wave *w = ctx;
	for (size_t i = 0; i < w->n; i++)
		if (!w->chats[i]->welcome && w->chats[i]->ws->state != WS_CLOSED)
			return false;
	return true;
}

static void wave_auth(struct wave *w, uint16_t port)
{
	for (size_t i = 0; i < w->n; i++) {
		char *token = token_make_n(w->cases[i]->bytes, w->cases[i]->n, 600);
		struct chat_args args = {.port = port, .token = token, .in_band = true};
		w->chats[i] = chat_open(w->loop, &args);
		free(token);
	}
	assert_true(ws_loop_until(w->loop, welcomes_decided, w, 15000));
	for (size_t i = 0; i < w->n; i++) {
		struct chat *c = w->chats[i];
		char id[24];
		snprintf(id, sizeof id, "%s-auth", c->tag);
		const char *code = chat_answer(c, id) ? chat_code(chat_answer(c, id)) : "no answer";
		expect(w->cases[i], "auth", c->welcome != NULL, code);
		if (!c->welcome)
			assert_int_equal(c->ws->close_code, is_json_text(w->cases[i]) ? 4403 : 4401);
		chat_check(c);
		chat_free(c);
	}
}

static bool refreshes_decided(void *ctx)
{
	struct wave *w = ctx;
	for (size_t i = 0; i < w->n; i++)
		if (w->chats[i]->ws->state != WS_CLOSED && !HASH_COUNT(w->chats[i]->answers))
			return false;
	return true;
}

/* A good one refreshes its own connection; a bad one tries on the connection of a user made for it. */
static void wave_refresh(struct wave *w, uint16_t port, size_t number)
{
	char ids[WAVE][32];
	for (size_t i = 0; i < w->n; i++) {
		char user[32];
		snprintf(user, sizeof user, "usr_%012zx", i);
		char *token = w->cases[i]->good ? token_make_n(w->cases[i]->bytes, w->cases[i]->n, 600) : token_make(user, 600);
		struct chat_args args = {.port = port, .token = token};
		w->chats[i] = chat_open(w->loop, &args);
		free(token);
	}
	assert_true(ws_loop_until(w->loop, welcomes_decided, w, 15000));
	for (size_t i = 0; i < w->n; i++) {
		assert_non_null(w->chats[i]->welcome);
		char *token = token_make_n(w->cases[i]->bytes, w->cases[i]->n, 900);
		snprintf(ids[i], sizeof ids[i], "%s",
		         chat_send(w->chats[i], json_pack("{s:s,s:s}", "type", "auth.refresh", "token", token)));
		free(token);
	}
	assert_true(ws_loop_until(w->loop, refreshes_decided, w, 15000));
	for (size_t i = 0; i < w->n; i++) {
		json_t *answer = chat_answer(w->chats[i], ids[i]);
		assert_non_null(answer);
		bool accepted = !strcmp(chat_text_of(answer, "type"), "ack");
		expect(w->cases[i], "auth.refresh", accepted, chat_code(answer));
		if (w->chats[i]->ws->close_code)
			assert_in_range(w->chats[i]->ws->close_code, 4401, 4403);
		chat_check(w->chats[i]);
		chat_free(w->chats[i]);
	}
}

static void in_waves(struct cluster *cluster, uint16_t port, const struct id_case *cases, size_t n)
{
	uint64_t times[4] = {clock_ms()};
	struct wave w = {.loop = cluster->loop};
	for (int way = 0; way < 3; way++) {
		for (size_t i = 0; i < n; i += w.n) {
			w.n = n - i < WAVE ? n - i : WAVE;
			for (size_t k = 0; k < w.n; k++)
				w.cases[k] = &cases[i + k];
			if (way == 0)
				wave_upgrade(&w, port);
			else if (way == 1)
				wave_auth(&w, port);
			else
				wave_refresh(&w, port, i);
		}
		times[way + 1] = clock_ms();
	}
	print_message("%zu IDs each: upgrade %llu ms, auth %llu ms, auth.refresh %llu ms\n", n,
	              (unsigned long long)(times[1] - times[0]), (unsigned long long)(times[2] - times[1]),
	              (unsigned long long)(times[3] - times[2]));
}

/* ---- tests ---- */

static size_t list_cases(struct id_case *out, bool e2e)
{
	size_t n = 0;
	const struct {
		const char *const *ids;
		size_t n;
		bool good;
	} lists[] = {
		{good_ids, sizeof good_ids / sizeof *good_ids, true},
		{good_e2e_ids, sizeof good_e2e_ids / sizeof *good_e2e_ids, e2e},
		{bad_ids, sizeof bad_ids / sizeof *bad_ids, false},
	};
	for (size_t l = 0; l < 3; l++)
		for (size_t i = 0; i < lists[l].n; i++) {
			out[n].n = strlen(lists[l].ids[i]);
			memcpy(out[n].bytes, lists[l].ids[i], out[n].n);
			out[n].good = lists[l].good;
			assert_int_equal(oracle(out[n].bytes, out[n].n, e2e), out[n].good);
			n++;
		}
	return n;
}

static void every_way_gives_the_lists_verdict(void **state)
{
	struct cluster *c = *state;
	struct id_case cases[128] = {0};
	for (unsigned g = 0; g < 2; g++) { /* gateway 1 allows e2e- IDs */
		size_t n = list_cases(cases, g == 1);
		whoami_all(cluster_port(c, g), cases, n);
		in_waves(c, cluster_port(c, g), cases, n);
		memset(cases, 0, sizeof cases);
	}
	cluster_passed(c);
}

static void grammar_function_agrees_on_mutations(void **state)
{
	for (int e2e = 0; e2e < 2; e2e++) {
		struct id_case *cases = make_cases(MUTATIONS, e2e);
		for (size_t i = 0; i < MUTATIONS; i++) {
			struct user_id out;
			bool ok = user_id_parse(&out, str_of(cases[i].bytes, cases[i].n), e2e ? USER_ID_E2E : 0) == ERR_OK;
			if (ok != cases[i].good)
				fail_msg("user_id_parse of \"%s\" gives %d", printable(&cases[i]), ok);
			assert_int_equal(strlen(out.s), ok ? cases[i].n : 0);
		}
		free(cases);
	}
}

static void mutations_get_one_verdict_everywhere(void **state)
{
	struct cluster *c = *state;
	struct id_case *cases = make_cases(MUTATIONS, true);
	whoami_all(cluster_port(c, 1), cases, MUTATIONS / (patience() > 1 ? 5 : 1));
	in_waves(c, cluster_port(c, 1), cases, SAMPLE / (patience() > 1 ? 5 : 1));
	free(cases);
	cluster_passed(c);
}

static int set_up(void **state)
{
	static const char *const e2e[] = {"--allow-e2e-ids", NULL};
	struct cluster_args args = {.gateways = 1, .workers = 2};
	struct cluster *c = cluster_start(&args);
	*state = c;
	c->args.gateways = 2;
	c->args.gateway_args = e2e;
	cluster_start_gateway(c, 1, true);
	cluster_wait_workers(c, 1, 2);
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
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grammar_function_agrees_on_mutations),
		cmocka_unit_test_setup_teardown(every_way_gives_the_lists_verdict, set_up, tear_down),
		cmocka_unit_test_setup_teardown(mutations_get_one_verdict_everywhere, set_up, tear_down),
	};
	return cmocka_run_group_tests_name("ids", tests, NULL, NULL);
}
