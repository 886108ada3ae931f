/* The rules of the public port, and what its answers look like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include "gateway/http_request.h"

static bool allowed(const char *origin, const char *host, bool tls, const char *list)
{
	char *items[] = {(char *)list};
	struct string_list one = {items, list ? 1 : 0};

	return origin_is_allowed(str_c(origin), str_c(host), tls, &one);
}

static void pages_of_the_same_host_may_connect(void **state)
{
	assert_true(allowed("http://localhost:8080", "localhost:8080", false, NULL));
	assert_true(allowed("http://LOCALHOST:8080", "localhost:8080", false, NULL));
	assert_true(allowed("http://example.com", "example.com", false, NULL));
	assert_true(allowed("http://example.com", "example.com:80", false, NULL));
	assert_true(allowed("https://example.com", "example.com", false, NULL));
	assert_true(allowed("https://example.com", "example.com:443", true, NULL));
	assert_true(allowed("http://[::1]:8080", "[::1]:8080", false, NULL));
	assert_true(allowed("http://[::1]", "[::1]", false, NULL));
}

static void pages_of_other_hosts_may_not(void **state)
{
	static const char *const others[] = {
		"http://evil.com",
		"http://localhost:8081",
		"http://localhost",
		"http://localhost:8080.evil.com",
		"http://evil.com:8080",
		"null",
		"",
		"localhost:8080",
		"ws://localhost:8080",
		"http://localhost:8080/",
		"http://a@localhost:8080",
		"file://",
		"http://localhost:8080:8080",
		"http://localhost:",
		"http://:8080",
		"http://localhost:99999",
		"http://localhost:808O",
	};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (allowed(others[i], "localhost:8080", false, NULL))
			fail_msg("%s", others[i]);
	assert_false(allowed("http://example.com", "example.com", true, NULL)); /* plain page, TLS gateway */
	assert_false(allowed("http://example.com", "", false, NULL));
}

static void pages_in_the_list_may_connect(void **state)
{
	assert_true(allowed("https://app.example.com", "localhost:8080", false, "https://app.example.com"));
	assert_true(allowed("https://app.example.com:443", "localhost:8080", false, "https://app.example.com"));
	assert_true(allowed("https://anything", "localhost:8080", true, "*"));
	assert_true(allowed("null", "localhost:8080", true, "null"));
	assert_false(allowed("http://app.example.com", "localhost:8080", false, "https://app.example.com"));
	assert_false(allowed("https://app.example.com.evil.com", "localhost:8080", false, "https://app.example.com"));
	assert_false(allowed("https://xapp.example.com", "localhost:8080", false, "https://app.example.com"));
	assert_false(allowed("null", "localhost:8080", false, "https://app.example.com"));
}

static void our_subprotocol_is_found_wherever_it_can_be_read(void **state)
{
	char list[200];

	assert_int_equal(subprotocol_offer(str_c("")), OFFER_NONE);
	assert_int_equal(subprotocol_offer(str_c("pinion.v1")), OFFER_OURS);
	assert_int_equal(subprotocol_offer(str_c("chat, pinion.v1")), OFFER_OURS);
	assert_int_equal(subprotocol_offer(str_c("chat,pinion.v1 ,x")), OFFER_OURS);
	assert_int_equal(subprotocol_offer(str_c("chat")), OFFER_OTHERS);
	assert_int_equal(subprotocol_offer(str_c("pinion.v11")), OFFER_OTHERS);
	assert_int_equal(subprotocol_offer(str_c("PINION.V1")), OFFER_OTHERS);
	assert_int_equal(subprotocol_offer(str_c("pinion.v2, pinion")), OFFER_OTHERS);
	assert_int_equal(subprotocol_offer(str_c("chat room")), OFFER_MALFORMED);
	/* ours first, then a list that was cut at the limit */
	snprintf(list, sizeof(list), "pinion.v1, %0*d", SUBPROTOCOL_LIST_MAX - 11, 7);
	assert_int_equal(strlen(list), SUBPROTOCOL_LIST_MAX);
	assert_int_equal(subprotocol_offer(str_c(list)), OFFER_OURS);
	/* ours behind a name that is too long to be copied */
	snprintf(list, sizeof(list), "%0*d, pinion.v1", SUBPROTOCOL_NAME_MAX, 7);
	assert_int_equal(subprotocol_offer(str_c(list)), OFFER_OURS);
	snprintf(list, sizeof(list), "%0*d, pinion.v1", SUBPROTOCOL_NAME_MAX + 1, 7);
	assert_int_equal(subprotocol_offer(str_c(list)), OFFER_UNREACHED);
	/* the limit cuts pinion.v1 out of what may have been pinion.v10 */
	snprintf(list, sizeof(list), "a%0*d,b%0*d,pinion.v1", 57, 7, 56, 7);
	assert_int_equal(strlen(list), SUBPROTOCOL_LIST_MAX);
	assert_int_equal(subprotocol_offer(str_c(list)), OFFER_UNREACHED);
	snprintf(list, sizeof(list), "a%0*d,b%0*d,pinion.v1", 56, 7, 56, 7);
	assert_int_equal(subprotocol_offer(str_c(list)), OFFER_OURS);
}

static enum err take(struct query *query, const char *argument)
{
	struct err_info info = {0};
	enum err code = query_take(query, str_c(argument), &info);

	assert_true(code == ERR_OK || info.text[0]);
	return code;
}

static void a_query_names_where_to_resume(void **state)
{
	static const char *const bad[] = {
		"last_seq",
		"last_seq=",
		"last_seq=-1",
		"last_seq=+1",
		"last_seq=1.0",
		"last_seq=0x1",
		"last_seq= 1",
		"last_seq=1 ",
		"last_seq=9007199254740993",
		"last_seq=99999999999999999999",
		"last_seq=1e3",
		"last_seq=NaN",
	};
	struct query query = {0};

	assert_int_equal(take(&query, "other=1"), ERR_OK);
	assert_int_equal(take(&query, ""), ERR_OK);
	assert_int_equal(take(&query, "last_seqs=x"), ERR_OK);
	assert_false(query.has_last_seq);
	assert_int_equal(take(&query, "last_seq=0"), ERR_OK);
	assert_true(query.has_last_seq);
	assert_int_equal(query.last_seq, 0);
	assert_int_equal(take(&query, "last_seq=0"), ERR_BAD_REQUEST);
	query = (struct query){0};
	assert_int_equal(take(&query, "last_seq=9007199254740992"), ERR_OK);
	assert_true(query.last_seq == 1ull << 53);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		query = (struct query){0};
		if (take(&query, bad[i]) != ERR_BAD_REQUEST || query.has_last_seq)
			fail_msg("%s", bad[i]);
	}
}

static void a_token_in_the_query_is_refused(void **state)
{
	struct query query = {0};

	assert_int_equal(take(&query, "token=abc"), ERR_BAD_REQUEST);
	assert_int_equal(take(&query, "token"), ERR_BAD_REQUEST);
	assert_int_equal(take(&query, "access_token=abc"), ERR_BAD_REQUEST);
}

static void only_one_bearer_token_is_taken(void **state)
{
	struct str out;

	assert_int_equal(bearer_token(str_c("Bearer abc.def"), &out, NULL), ERR_OK);
	assert_true(str_eq_c(out, "abc.def"));
	assert_int_equal(bearer_token(str_c("bearer   abc "), &out, NULL), ERR_OK);
	assert_true(str_eq_c(out, "abc"));
	assert_int_equal(bearer_token(str_c("Bearer a,Bearer b"), &out, NULL), ERR_BAD_REQUEST);
	assert_int_equal(bearer_token(str_c("Basic abc"), &out, NULL), ERR_TOKEN_INVALID);
	assert_int_equal(bearer_token(str_c("Bearer"), &out, NULL), ERR_TOKEN_INVALID);
	assert_int_equal(bearer_token(str_c("Bearer "), &out, NULL), ERR_TOKEN_INVALID);
	assert_int_equal(bearer_token(str_c("Bearerabc"), &out, NULL), ERR_TOKEN_INVALID);
	assert_int_equal(bearer_token(str_c(""), &out, NULL), ERR_TOKEN_INVALID);
}

static void handshake_headers_are_checked(void **state)
{
	assert_true(header_has_token(str_c("Upgrade"), "upgrade"));
	assert_true(header_has_token(str_c("keep-alive, Upgrade"), "upgrade"));
	assert_false(header_has_token(str_c("keep-alive"), "upgrade"));
	assert_false(header_has_token(str_c("upgraded"), "upgrade"));
	assert_false(header_has_token(str_c(""), "upgrade"));
	assert_true(websocket_key_is_valid(str_c("dGhlIHNhbXBsZSBub25jZQ==")));
	assert_false(websocket_key_is_valid(str_c("dGhlIHNhbXBsZSBub25jZQ=")));
	assert_false(websocket_key_is_valid(str_c("dGhlIHNhbXBsZSBub25jZ===")));
	assert_false(websocket_key_is_valid(str_c("dGhlIHNhbXBsZSBub25j\r\n==")));
	assert_false(websocket_key_is_valid(str_c("")));
}

static json_t *refusal(enum err code, const char *detail, unsigned retry, bool head, char **text)
{
	struct buf out = {0};
	json_t *body = NULL;
	char *at;

	http_refusal_write(&out, code, http_status_of(code), detail, retry, NULL, head);
	buf_append(&out, "", 1);
	at = strstr(out.p, "\r\n\r\n");
	assert_non_null(at);
	if (!head) {
		body = json_loads(at + 4, 0, NULL);
		assert_non_null(body);
	} else {
		assert_string_equal(at, "\r\n\r\n");
	}
	*text = out.p;
	return body;
}

static void a_refusal_is_a_whole_response_that_says_why(void **state)
{
	char *text;
	json_t *body = refusal(ERR_TOO_MANY_CONNECTIONS, "8 \"already\"", 7, false, &text);

	assert_int_equal(strncmp(text, "HTTP/1.1 429 Too Many Requests\r\n", 32), 0);
	assert_non_null(strstr(text, "\r\nRetry-After: 7\r\n"));
	assert_non_null(strstr(text, "\r\nConnection: close\r\n"));
	assert_non_null(strstr(text, "\r\nContent-Type: application/problem+json\r\n"));
	assert_null(strstr(text, "WWW-Authenticate"));
	assert_string_equal(json_string_value(json_object_get(body, "type")), "about:blank");
	assert_string_equal(json_string_value(json_object_get(body, "code")), "too_many_connections");
	assert_string_equal(json_string_value(json_object_get(body, "detail")), "8 \"already\"");
	assert_int_equal(json_integer_value(json_object_get(body, "status")), 429);
	json_decref(body);
	free(text);

	body = refusal(ERR_TOKEN_EXPIRED, NULL, 0, false, &text);
	assert_non_null(strstr(text, "\r\nWWW-Authenticate: Bearer "));
	assert_null(strstr(text, "Retry-After"));
	assert_string_equal(json_string_value(json_object_get(body, "code")), "token_expired");
	json_decref(body);
	free(text);

	assert_null(refusal(ERR_NOT_FOUND, NULL, 0, true, &text));
	free(text);
}

static void each_code_has_its_status(void **state)
{
	assert_int_equal(http_status_of(ERR_UNSUPPORTED_SUBPROTOCOL), 400);
	assert_int_equal(http_status_of(ERR_BAD_REQUEST), 400);
	assert_int_equal(http_status_of(ERR_TOKEN_MISSING), 401);
	assert_int_equal(http_status_of(ERR_TOKEN_INVALID), 401);
	assert_int_equal(http_status_of(ERR_TOKEN_EXPIRED), 401);
	assert_int_equal(http_status_of(ERR_ISSUER_MISMATCH), 401);
	assert_int_equal(http_status_of(ERR_AUDIENCE_MISMATCH), 401);
	assert_int_equal(http_status_of(ERR_INVALID_USER_ID), 403);
	assert_int_equal(http_status_of(ERR_ORIGIN_NOT_ALLOWED), 403);
	assert_int_equal(http_status_of(ERR_TOO_MANY_CONNECTIONS), 429);
	assert_int_equal(http_status_of(ERR_RATE_LIMITED), 429);
	assert_int_equal(http_status_of(ERR_NO_WORKER), 503);
	assert_int_equal(http_status_of(ERR_DRAINING), 503);
	assert_int_equal(http_status_of(ERR_OVERLOADED), 503);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_of_the_same_host_may_connect),
		cmocka_unit_test(pages_of_other_hosts_may_not),
		cmocka_unit_test(pages_in_the_list_may_connect),
		cmocka_unit_test(our_subprotocol_is_found_wherever_it_can_be_read),
		cmocka_unit_test(a_query_names_where_to_resume),
		cmocka_unit_test(a_token_in_the_query_is_refused),
		cmocka_unit_test(only_one_bearer_token_is_taken),
		cmocka_unit_test(handshake_headers_are_checked),
		cmocka_unit_test(a_refusal_is_a_whole_response_that_says_why),
		cmocka_unit_test(each_code_has_its_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
