/* Tokens right and wrong in every way that we know of, signed here with OpenSSL alone, so that cjose is checked by another hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/bytes.h"
#include "common/loop_uv.h"
#include "gateway/auth.h"

#define NOW 1700000000
#define USER "usr_4a8f9c2b1e5d"
#define SECRET "0123456789abcdef0123456789abcdef"

static char dir[] = "/tmp/test_auth_XXXXXX";
static char hs_path[64], jwks_path[64];
static EVP_PKEY *rsa, *rsa_other, *rsa_small, *ec;

/* ---- making tokens ---- */

static void base64url(struct buf *out, const void *data, size_t n)
{
	char *text = malloc(n * 4 / 3 + 8);
	int len = EVP_EncodeBlock((unsigned char *)text, data, (int)n);

	while (len > 0 && text[len - 1] == '=')
		len--;
	for (int i = 0; i < len; i++)
		text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	buf_append(out, text, (size_t)len);
	free(text);
}

static void sign_hmac(struct buf *out, const EVP_MD *md, const void *key, size_t n, struct str input)
{
	unsigned char mac[64];
	unsigned len = 0;

	HMAC(md, key, (int)n, (const unsigned char *)input.p, input.n, mac, &len);
	base64url(out, mac, len);
}

static void sign_pkey(struct buf *out, EVP_PKEY *key, struct str input)
{
	unsigned char raw[1024], fixed[64];
	size_t n = sizeof(raw);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	assert_int_equal(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key), 1);
	assert_int_equal(EVP_DigestSign(ctx, raw, &n, (const unsigned char *)input.p, input.n), 1);
	EVP_MD_CTX_free(ctx);
	if (EVP_PKEY_base_id(key) == EVP_PKEY_EC) {
		const unsigned char *p = raw;
		ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)n);

		BN_bn2binpad(ECDSA_SIG_get0_r(sig), fixed, 32);
		BN_bn2binpad(ECDSA_SIG_get0_s(sig), fixed + 32, 32);
		ECDSA_SIG_free(sig);
		base64url(out, fixed, 64);
	} else {
		base64url(out, raw, n);
	}
}

/* key NULL: HS256 with the secret */
static char *token(const char *header, const char *claims, EVP_PKEY *key)
{
	struct buf out = {0}, signature = {0};

	base64url(&out, header, strlen(header));
	buf_append_c(&out, ".");
	base64url(&out, claims, strlen(claims));
	if (key)
		sign_pkey(&signature, key, buf_str(&out));
	else
		sign_hmac(&signature, EVP_sha256(), SECRET, strlen(SECRET), buf_str(&out));
	buf_append_c(&out, ".");
	buf_append_str(&out, buf_str(&signature));
	buf_append(&out, "", 1);
	buf_finish(&signature);
	return out.p;
}

#define HS "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"
#define GOOD "{\"sub\":\"" USER "\",\"exp\":1700000600}"

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void put_param(struct buf *out, EVP_PKEY *key, const char *member, const char *param)
{
	BIGNUM *n = NULL;
	unsigned char raw[1024];
	int len;

	assert_int_equal(EVP_PKEY_get_bn_param(key, param, &n), 1);
	len = EVP_PKEY_base_id(key) == EVP_PKEY_EC ? BN_bn2binpad(n, raw, 32) : BN_bn2bin(n, raw);
	buf_printf(out, ",\"%s\":\"", member);
	base64url(out, raw, (size_t)len);
	buf_append_c(out, "\"");
	BN_free(n);
}

static void put_jwk(struct buf *out, EVP_PKEY *key, const char *extra)
{
	bool is_ec = EVP_PKEY_base_id(key) == EVP_PKEY_EC;

	buf_printf(out, "{\"kty\":\"%s\"", is_ec ? "EC" : "RSA");
	if (is_ec) {
		buf_append_c(out, ",\"crv\":\"P-256\"");
		put_param(out, key, "x", OSSL_PKEY_PARAM_EC_PUB_X);
		put_param(out, key, "y", OSSL_PKEY_PARAM_EC_PUB_Y);
	} else {
		put_param(out, key, "n", OSSL_PKEY_PARAM_RSA_N);
		put_param(out, key, "e", OSSL_PKEY_PARAM_RSA_E);
	}
	buf_printf(out, "%s}", extra);
}

static void write_jwks(EVP_PKEY *rsa_key, const char *rsa_extra, EVP_PKEY *ec_key, const char *ec_extra)
{
	struct buf out = {0};

	buf_append_c(&out, "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\",\"kid\":\"okp\"},"
	                   "{\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\",\"kid\":\"oct\"},42,");
	put_jwk(&out, rsa_key, rsa_extra);
	buf_append_c(&out, ",");
	put_jwk(&out, ec_key, ec_extra);
	buf_append_c(&out, "]}");
	buf_append(&out, "", 1);
	write_file(jwks_path, out.p);
	buf_finish(&out);
}

/* ---- checking them ---- */

static struct auth *make_auth(struct loop_uv *loop, const char *hs, const char *jwks, const char *issuer, const char *audience)
{
	struct auth *auth = NULL;
	struct err_info info = {0};
	struct auth_config config = {.hs256_file = hs, .jwks = jwks, .issuer = issuer, .audience = audience};
	enum err code = auth_create(loop, &config, &auth, &info);

	if (code != ERR_OK)
		print_error("%s\n", info.text);
	assert_int_equal(code, ERR_OK);
	assert_true(auth_is_ready(auth));
	return auth;
}

static enum err verify(struct auth *auth, const char *text)
{
	struct identity identity;
	struct err_info info = {0};
	enum err code = auth_verify(auth, str_c(text), NOW, &identity, &info);

	if (code == ERR_OK) {
		assert_string_equal(identity.user.s, USER);
	} else {
		assert_string_equal(identity.user.s, "");
		assert_int_equal(info.code, code);
		assert_true(info.text[0]);
	}
	return code;
}

static enum err verify_free(struct auth *auth, char *text)
{
	/* at the very end of an allocation, so that a sanitizer sees a read beyond it */
	size_t n = strlen(text);
	char *exact = malloc(n ? n : 1);
	struct identity identity;
	enum err code;

	memcpy(exact, text, n); /* NOLINT(bugprone-not-null-terminated-result): that is the point */
	code = auth_verify(auth, str_of(exact, n), NOW, &identity, NULL);
	assert_int_equal(verify(auth, text), code);
	free(exact);
	free(text);
	return code;
}

static enum err claims(struct auth *auth, const char *text)
{
	return verify_free(auth, token(HS, text, NULL));
}

static void a_good_hs256_token_holds(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	struct identity identity;
	char *text = token(HS, GOOD, NULL);

	assert_int_equal(auth_verify(auth, str_c(text), NOW, &identity, NULL), ERR_OK);
	assert_string_equal(identity.user.s, USER);
	assert_int_equal(identity.expires_s, 1700000600);
	free(text);
	auth_destroy(auth);
}

static void algorithms_other_than_the_keys_own_are_refused(void **state)
{
	static const char *const algs[] = {"none",  "None",  "HS512", "HS384", "RS256", "ES256",
	                                   "RS512", "PS256", "EdDSA", "hs256", ""};
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	char header[64];

	for (size_t i = 0; i < sizeof(algs) / sizeof(algs[0]); i++) {
		snprintf(header, sizeof(header), "{\"alg\":\"%s\"}", algs[i]);
		assert_int_equal(verify_free(auth, token(header, GOOD, NULL)), ERR_TOKEN_INVALID);
	}
	assert_int_equal(verify_free(auth, token("{}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":256}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":null}", GOOD, NULL)), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void a_true_hs512_signature_is_refused(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	struct buf out = {0}, signature = {0};
	const char *header = "{\"alg\":\"HS512\"}";

	base64url(&out, header, strlen(header));
	buf_append_c(&out, ".");
	base64url(&out, GOOD, strlen(GOOD));
	sign_hmac(&signature, EVP_sha512(), SECRET, strlen(SECRET), buf_str(&out));
	buf_append_c(&out, ".");
	buf_append_str(&out, buf_str(&signature));
	buf_append(&out, "", 1);
	buf_finish(&signature);
	assert_int_equal(verify_free(auth, out.p), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void the_secret_must_be_the_one_that_signed(void **state)
{
	char other[64];
	struct auth *auth;

	snprintf(other, sizeof(other), "%s/other", dir);
	write_file(other, "another secret of more than 32 bytes in all\n");
	auth = make_auth(NULL, other, NULL, NULL, NULL);
	assert_int_equal(verify_free(auth, token(HS, GOOD, NULL)), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void a_public_key_is_no_hmac_secret(void **state)
{
	struct auth *auth;

	write_jwks(rsa, ",\"kid\":\"r1\"", ec, ",\"kid\":\"e1\"");
	auth = make_auth(NULL, NULL, jwks_path, NULL, NULL);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"HS256\",\"kid\":\"r1\"}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"HS256\",\"kid\":\"oct\"}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, NULL)), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void a_cut_or_changed_signature_is_refused(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	char *good = token(HS, GOOD, NULL);
	size_t n = strlen(good);

	for (size_t cut = 1; cut <= 44; cut++) {
		char *shorter = strdup(good);

		shorter[n - cut] = 0;
		assert_int_equal(verify_free(auth, shorter), ERR_TOKEN_INVALID);
	}
	for (size_t more = 1; more <= 44; more++) {
		char *longer = malloc(n + more + 1);

		memcpy(longer, good, n);
		memset(longer + n, 'A', more);
		longer[n + more] = 0;
		assert_int_equal(verify_free(auth, longer), ERR_TOKEN_INVALID);
	}
	for (size_t i = 0; i < n; i++) {
		char *changed = strdup(good);

		changed[i] = changed[i] == 'A' ? 'B' : 'A';
		/* the last character carries four bits: two of its values read alike, so it is checked below */
		if (i + 1 < n)
			assert_int_equal(verify_free(auth, changed), ERR_TOKEN_INVALID);
		else
			free(changed);
	}
	free(good);
	auth_destroy(auth);
}

static void malformed_texts_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		".",
		"..",
		"...",
		"....",
		"a",
		"a.b",
		"a.b.c",
		"a.b.c.d.e",
		"Bearer x",
		" ",
		"eyJhbGciOiJub25lIn0.e30.",
		"!!!.???.###",
		"eyJhbGciOiJIUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	};
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	char *good = token(HS, GOOD, NULL), *text;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(verify_free(auth, strdup(bad[i])), ERR_TOKEN_INVALID);
	assert_true(asprintf(&text, "%s.", good) > 0);
	assert_int_equal(verify_free(auth, text), ERR_TOKEN_INVALID);
	assert_true(asprintf(&text, "%s.AAAA.AAAA", good) > 0); /* five parts: a JWE */
	assert_int_equal(verify_free(auth, text), ERR_TOKEN_INVALID);
	assert_true(asprintf(&text, " %s", good) > 0);
	assert_int_equal(verify_free(auth, text), ERR_TOKEN_INVALID);
	assert_true(asprintf(&text, "%s\n", good) > 0);
	assert_int_equal(verify_free(auth, text), ERR_TOKEN_INVALID);
	free(good);
	auth_destroy(auth);
}

static void a_nul_in_the_text_is_refused(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	char *good = token(HS, GOOD, NULL);
	struct identity identity;

	assert_int_equal(auth_verify(auth, str_of(good, strlen(good) + 1), NOW, &identity, NULL), ERR_TOKEN_INVALID);
	assert_int_equal(auth_verify(auth, str_of(NULL, 0), NOW, &identity, NULL), ERR_TOKEN_INVALID);
	free(good);
	auth_destroy(auth);
}

static void a_huge_token_is_refused_and_one_below_the_cap_holds(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	char pad[9000], *text;

	memset(pad, 'x', sizeof(pad));
	pad[5000] = 0;
	assert_true(asprintf(&text, "{\"sub\":\"" USER "\",\"exp\":1700000600,\"pad\":\"%s\"}", pad) > 0);
	assert_int_equal(claims(auth, text), ERR_OK);
	free(text);
	pad[5000] = 'x';
	pad[8999] = 0;
	assert_true(asprintf(&text, "{\"sub\":\"" USER "\",\"exp\":1700000600,\"pad\":\"%s\"}", pad) > 0);
	assert_int_equal(claims(auth, text), ERR_TOKEN_INVALID);
	free(text);
	auth_destroy(auth);
}

static void critical_headers_are_refused(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);

	assert_int_equal(verify_free(auth, token("{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}", GOOD, NULL)),
	                 ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"HS256\",\"crit\":[\"x\"],\"x\":1}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"HS256\",\"crit\":[]}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"HS256\",\"kid\":7}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"none\",\"alg\":\"HS256\"}", GOOD, NULL)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("[]", GOOD, NULL)), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void times_hold_within_the_leeway_and_no_further(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	static const struct {
		const char *claims;
		enum err expected;
	} cases[] = {
		{"\"exp\":1700000000", ERR_OK},
		{"\"exp\":1699999971", ERR_OK},
		{"\"exp\":1699999970", ERR_TOKEN_EXPIRED},
		{"\"exp\":1699999971.9", ERR_OK},
		{"\"exp\":0", ERR_TOKEN_EXPIRED},
		{"\"exp\":-1", ERR_TOKEN_EXPIRED},
		{"\"exp\":\"1700000600\"", ERR_TOKEN_INVALID},
		{"\"exp\":null", ERR_TOKEN_INVALID},
		{"\"exp\":true", ERR_TOKEN_INVALID},
		{"\"exp\":1e300", ERR_TOKEN_INVALID},
		{"\"exp\":9223372036854775807", ERR_TOKEN_INVALID},
		{"\"x\":1", ERR_TOKEN_INVALID},
		{"\"exp\":1700000600,\"nbf\":1700000030", ERR_OK},
		{"\"exp\":1700000600,\"nbf\":1700000031", ERR_TOKEN_INVALID},
		{"\"exp\":1700000600,\"nbf\":\"0\"", ERR_TOKEN_INVALID},
		{"\"exp\":1700000600,\"iat\":1700000030", ERR_OK},
		{"\"exp\":1700000600,\"iat\":1700000031", ERR_TOKEN_INVALID},
		{"\"exp\":1700000600,\"iat\":[]", ERR_TOKEN_INVALID},
	};
	char text[200];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(text, sizeof(text), "{\"sub\":\"" USER "\",%s}", cases[i].claims);
		if (claims(auth, text) != cases[i].expected)
			fail_msg("%s", cases[i].claims);
	}
	auth_destroy(auth);
}

static void issuer_and_audience_must_be_the_configured_ones(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, "https://issuer", "pinion");
	static const struct {
		const char *claims;
		enum err expected;
	} cases[] = {
		{"\"iss\":\"https://issuer\",\"aud\":\"pinion\"", ERR_OK},
		{"\"iss\":\"https://issuer\",\"aud\":[\"other\",\"pinion\"]", ERR_OK},
		{"\"iss\":\"https://issuer\",\"aud\":[\"other\"]", ERR_AUDIENCE_MISMATCH},
		{"\"iss\":\"https://issuer\",\"aud\":[]", ERR_AUDIENCE_MISMATCH},
		{"\"iss\":\"https://issuer\",\"aud\":{\"pinion\":1}", ERR_AUDIENCE_MISMATCH},
		{"\"iss\":\"https://issuer\"", ERR_AUDIENCE_MISMATCH},
		{"\"iss\":\"https://issuer/\",\"aud\":\"pinion\"", ERR_ISSUER_MISMATCH},
		{"\"iss\":[\"https://issuer\"],\"aud\":\"pinion\"", ERR_ISSUER_MISMATCH},
		{"\"aud\":\"pinion\"", ERR_ISSUER_MISMATCH},
	};
	char text[200];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(text, sizeof(text), "{\"sub\":\"" USER "\",\"exp\":1700000600,%s}", cases[i].claims);
		if (claims(auth, text) != cases[i].expected)
			fail_msg("%s", cases[i].claims);
	}
	auth_destroy(auth);
}

static void a_sub_that_is_no_string_is_invalid(void **state)
{
	static const char *const subs[] = {"42", "null", "true", "[]", "{}", "1.5", "\"\\u0000\"", "\"usr_4a8f9c2b1e5d\\u0000\""};
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	char text[200];

	for (size_t i = 0; i < sizeof(subs) / sizeof(subs[0]); i++) {
		snprintf(text, sizeof(text), "{\"sub\":%s,\"exp\":1700000600}", subs[i]);
		assert_int_equal(claims(auth, text), ERR_TOKEN_INVALID);
	}
	assert_int_equal(claims(auth, "{\"exp\":1700000600}"), ERR_TOKEN_INVALID);
	assert_int_equal(claims(auth, "{\"sub\":\"usr_aaaaaaaaaaaa\",\"sub\":\"" USER "\",\"exp\":1700000600}"),
	                 ERR_TOKEN_INVALID);
	assert_int_equal(claims(auth, "[]"), ERR_TOKEN_INVALID);
	assert_int_equal(claims(auth, "{"), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void user_ids_outside_the_grammar_are_refused(void **state)
{
	static const char *const ids[] = {
		"test_user_123",
		"concurrent_user_99",
		"usr_4A8F9C2B1E5D",
		"usr_4a8f9c2b1e5",
		"usr_4a8f9c2b1e5d\\n",
		"urn:uuid:0b1f3f9e-3c1f-4b43-9f7e-0d1c7a3f6a11",
		"{0b1f3f9e-3c1f-4b43-9f7e-0d1c7a3f6a11}",
		"00000000-0000-0000-0000-000000000000",
		"",
		" ",
		"none",
		"null",
		"default",
		"e2e-tester",
		"１２３４５６７８９０１２３４５６",
	};
	struct auth *auth = make_auth(NULL, hs_path, NULL, NULL, NULL);
	struct auth_config config = {.hs256_file = hs_path, .id_forms = USER_ID_E2E};
	struct identity identity;
	char text[200], *staging;

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		snprintf(text, sizeof(text), "{\"sub\":\"%s\",\"exp\":1700000600}", ids[i]);
		if (claims(auth, text) != ERR_INVALID_USER_ID)
			fail_msg("%s", ids[i]);
	}
	auth_destroy(auth);
	assert_int_equal(auth_create(NULL, &config, &auth, NULL), ERR_OK);
	staging = token(HS, "{\"sub\":\"e2e-tester\",\"exp\":1700000600}", NULL);
	assert_int_equal(auth_verify(auth, str_c(staging), NOW, &identity, NULL), ERR_OK);
	assert_string_equal(identity.user.s, "e2e-tester");
	free(staging);
	auth_destroy(auth);
}

static void rs256_and_es256_hold_with_their_own_keys(void **state)
{
	struct auth *auth;

	write_jwks(rsa, ",\"kid\":\"r1\",\"use\":\"sig\",\"alg\":\"RS256\"", ec, ",\"kid\":\"e1\"");
	auth = make_auth(NULL, NULL, jwks_path, NULL, NULL);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa)), ERR_OK);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\"}", GOOD, rsa)), ERR_OK);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"ES256\",\"kid\":\"e1\"}", GOOD, ec)), ERR_OK);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"ES256\"}", GOOD, ec)), ERR_OK);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa_other)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"ES256\",\"kid\":\"r1\"}", GOOD, ec)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"e1\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"ES256\",\"kid\":\"e1\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, ec)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token(HS, GOOD, NULL)), ERR_TOKEN_INVALID);
	auth_destroy(auth);
}

static void keys_for_other_uses_or_too_small_are_not_used(void **state)
{
	struct auth *auth = NULL;
	struct auth_config config = {.jwks = jwks_path};
	struct err_info info;

	write_jwks(rsa, ",\"use\":\"enc\"", ec, "");
	auth = make_auth(NULL, NULL, jwks_path, NULL, NULL);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	auth_destroy(auth);
	write_jwks(rsa_small, "", ec, ",\"alg\":\"ES384\"");
	assert_int_equal(auth_create(NULL, &config, &auth, &info), ERR_CONFIG);
	assert_null(auth);
}

static void both_kinds_of_key_work_side_by_side(void **state)
{
	struct auth *auth;

	write_jwks(rsa, ",\"kid\":\"r1\"", ec, ",\"kid\":\"e1\"");
	auth = make_auth(NULL, hs_path, jwks_path, NULL, NULL);
	assert_int_equal(verify_free(auth, token(HS, GOOD, NULL)), ERR_OK);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa)), ERR_OK);
	auth_destroy(auth);
}

static struct loop_uv loop;
static uint64_t skip_ms;
static const struct loop_ops *real_ops;
static struct loop_ops skipping_ops;

static uint64_t skipping_now(struct loop *base)
{
	return real_ops->now_ms(base) + skip_ms;
}

static void skipping_arm(struct loop *base, uint64_t due_ms)
{
	real_ops->arm(base, due_ms == UINT64_MAX ? due_ms : due_ms > skip_ms ? due_ms - skip_ms : 0);
}

/* The real loop, whose clock can be put forward by skip_ms. */
static void make_loop(uv_loop_t *uv)
{
	uv_loop_init(uv);
	loop_uv_init(&loop, uv);
	real_ops = loop.loop.ops;
	skipping_ops = *real_ops;
	skipping_ops.now_ms = skipping_now;
	skipping_ops.arm = skipping_arm;
	loop.loop.ops = &skipping_ops;
	skip_ms = 100000;
}

static void drop_loop(uv_loop_t *uv)
{
	loop.loop.ops = real_ops;
	loop_uv_close(&loop);
	uv_run(uv, UV_RUN_DEFAULT);
	loop_finish(&loop.loop);
	assert_int_equal(uv_loop_close(uv), 0);
}

static void an_unknown_kid_brings_in_rotated_keys_but_not_at_every_token(void **state)
{
	uv_loop_t uv;
	struct auth *auth;

	make_loop(&uv);
	write_jwks(rsa, ",\"kid\":\"r1\"", ec, ",\"kid\":\"e1\"");
	auth = make_auth(&loop, NULL, jwks_path, NULL, NULL);
	write_jwks(rsa_other, ",\"kid\":\"r2\"", ec, ",\"kid\":\"e1\"");
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa_other)), ERR_TOKEN_INVALID);
	skip_ms += 5001;
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa_other)), ERR_OK);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	write_file(jwks_path, "broken");
	skip_ms += 5001;
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r9\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa_other)), ERR_OK);
	auth_destroy(auth);
	drop_loop(&uv);
}

/* ---- keys by URL: a server of one canned answer on this very loop ---- */

struct server {
	uv_tcp_t listener, client;
	struct buf answer;
	unsigned served;
	uv_write_t write;
	char inbox[2048];
};

static void on_inbox(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
	struct server *server = handle->data;

	*out = uv_buf_init(server->inbox, sizeof(server->inbox));
}

static void on_written(uv_write_t *write, int status)
{
	uv_close((uv_handle_t *)write->handle, NULL);
}

static void on_request(uv_stream_t *stream, ssize_t n, const uv_buf_t *data)
{
	struct server *server = stream->data;
	uv_buf_t out = uv_buf_init(server->answer.p, (unsigned)server->answer.n);

	if (n <= 0)
		return;
	uv_read_stop(stream);
	server->served++;
	uv_write(&server->write, stream, &out, 1, on_written);
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct server *server = listener->data;

	uv_tcp_init(listener->loop, &server->client);
	server->client.data = server;
	assert_int_equal(uv_accept(listener, (uv_stream_t *)&server->client), 0);
	uv_read_start((uv_stream_t *)&server->client, on_inbox, on_request);
}

static int serve(struct server *server, uv_loop_t *uv)
{
	struct sockaddr_in at;
	int n = sizeof(at);

	uv_tcp_init(uv, &server->listener);
	server->listener.data = server;
	uv_ip4_addr("127.0.0.1", 0, &at);
	assert_int_equal(uv_tcp_bind(&server->listener, (struct sockaddr *)&at, 0), 0);
	assert_int_equal(uv_listen((uv_stream_t *)&server->listener, 16, on_connection), 0);
	uv_tcp_getsockname(&server->listener, (struct sockaddr *)&at, &n);
	return ntohs(at.sin_port);
}

static void put_answer(struct server *server, const char *status)
{
	char body[8192];
	FILE *file = fopen(jwks_path, "r");
	size_t n = fread(body, 1, sizeof(body), file);

	fclose(file);
	buf_clear(&server->answer);
	buf_printf(&server->answer, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, n);
	buf_append(&server->answer, body, n);
}

static void on_deadline(uv_timer_t *timer)
{
	fail_msg("the keys did not come in time");
}

static void keys_by_url_come_in_the_background_and_stay_when_the_url_fails(void **state)
{
	uv_loop_t uv;
	uv_timer_t deadline;
	struct auth *auth;
	struct server server = {0};
	struct auth_config config = {0};
	char url[64];

	unsetenv("http_proxy");
	make_loop(&uv);
	uv_timer_init(&uv, &deadline);
	uv_timer_start(&deadline, on_deadline, 20000, 0);
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/keys", serve(&server, &uv));
	write_jwks(rsa, ",\"kid\":\"r1\"", ec, ",\"kid\":\"e1\"");
	put_answer(&server, "200 OK");
	config.jwks = url;
	assert_int_equal(auth_create(&loop, &config, &auth, NULL), ERR_OK);
	assert_false(auth_is_ready(auth));
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa)), ERR_TOKEN_INVALID);
	while (!auth_is_ready(auth))
		uv_run(&uv, UV_RUN_ONCE);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa)), ERR_OK);

	/* an error's body is not a key set, whatever it holds */
	write_jwks(rsa_other, ",\"kid\":\"r2\"", ec, ",\"kid\":\"e1\"");
	put_answer(&server, "500 Oops");
	skip_ms += 5001;
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa_other)), ERR_TOKEN_INVALID);
	while (server.served < 3) {
		skip_ms += 10;
		uv_run(&uv, UV_RUN_NOWAIT);
	}
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa_other)), ERR_TOKEN_INVALID);
	assert_int_equal(verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, rsa)), ERR_OK);

	put_answer(&server, "200 OK");
	do {
		skip_ms += 10;
		uv_run(&uv, UV_RUN_NOWAIT);
	} while (verify_free(auth, token("{\"alg\":\"RS256\",\"kid\":\"r2\"}", GOOD, rsa_other)) != ERR_OK);
	auth_destroy(auth);
	uv_close((uv_handle_t *)&server.listener, NULL);
	uv_close((uv_handle_t *)&deadline, NULL);
	drop_loop(&uv);
	buf_finish(&server.answer);
}

static void configurations_without_a_good_key_are_refused(void **state)
{
	struct auth *auth;
	struct err_info info = {0};
	char path[64];

	assert_int_equal(auth_create(NULL, &(struct auth_config){0}, &auth, &info), ERR_CONFIG);
	assert_non_null(strstr(info.text, "--jwt-hs256-file"));
	snprintf(path, sizeof(path), "%s/short", dir);
	write_file(path, "0123456789abcdef0123456789abcde\n\n");
	assert_int_equal(auth_create(NULL, &(struct auth_config){.hs256_file = path}, &auth, &info), ERR_CONFIG);
	assert_int_equal(auth_create(NULL, &(struct auth_config){.hs256_file = "/nonexistent"}, &auth, &info), ERR_CONFIG);
	assert_int_equal(auth_create(NULL, &(struct auth_config){.jwks = "/nonexistent"}, &auth, &info), ERR_CONFIG);
	assert_int_equal(auth_create(NULL, &(struct auth_config){.jwks = "ftp://host/keys"}, &auth, &info), ERR_CONFIG);
	assert_int_equal(auth_create(NULL, &(struct auth_config){.jwks = "file:///etc/passwd"}, &auth, &info), ERR_CONFIG);
	assert_int_equal(auth_create(NULL, &(struct auth_config){.jwks = "http://"}, &auth, &info), ERR_CONFIG);
	write_file(path, "{\"keys\":[]}");
	assert_int_equal(auth_create(NULL, &(struct auth_config){.jwks = path}, &auth, &info), ERR_CONFIG);
}

static void a_minted_token_holds(void **state)
{
	struct auth *auth = make_auth(NULL, hs_path, NULL, "me", "you");
	struct identity identity;
	char *text;

	assert_int_equal(auth_mint(hs_path, USER, NOW, 60, "me", "you", &text, NULL), ERR_OK);
	assert_int_equal(auth_verify(auth, str_c(text), NOW, &identity, NULL), ERR_OK);
	assert_int_equal(identity.expires_s, NOW + 60);
	assert_int_equal(auth_verify(auth, str_c(text), NOW + 89, &identity, NULL), ERR_OK);
	assert_int_equal(auth_verify(auth, str_c(text), NOW + 90, &identity, NULL), ERR_TOKEN_EXPIRED);
	free(text);
	auth_destroy(auth);
}

static int set_up(void **state)
{
	assert_non_null(mkdtemp(dir));
	snprintf(hs_path, sizeof(hs_path), "%s/jwt.key", dir);
	snprintf(jwks_path, sizeof(jwks_path), "%s/jwks.json", dir);
	write_file(hs_path, SECRET "\n");
	rsa = EVP_RSA_gen(2048);
	rsa_other = EVP_RSA_gen(2048);
	rsa_small = EVP_RSA_gen(1024);
	ec = EVP_EC_gen("P-256");
	return rsa && rsa_other && rsa_small && ec ? 0 : -1;
}

static int tear_down(void **state)
{
	static const char *const names[] = {"jwt.key", "jwks.json", "other", "short"};
	char path[64];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	EVP_PKEY_free(rsa);
	EVP_PKEY_free(rsa_other);
	EVP_PKEY_free(rsa_small);
	EVP_PKEY_free(ec);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_hs256_token_holds),
		cmocka_unit_test(algorithms_other_than_the_keys_own_are_refused),
		cmocka_unit_test(a_true_hs512_signature_is_refused),
		cmocka_unit_test(the_secret_must_be_the_one_that_signed),
		cmocka_unit_test(a_public_key_is_no_hmac_secret),
		cmocka_unit_test(a_cut_or_changed_signature_is_refused),
		cmocka_unit_test(malformed_texts_are_refused),
		cmocka_unit_test(a_nul_in_the_text_is_refused),
		cmocka_unit_test(a_huge_token_is_refused_and_one_below_the_cap_holds),
		cmocka_unit_test(critical_headers_are_refused),
		cmocka_unit_test(times_hold_within_the_leeway_and_no_further),
		cmocka_unit_test(issuer_and_audience_must_be_the_configured_ones),
		cmocka_unit_test(a_sub_that_is_no_string_is_invalid),
		cmocka_unit_test(user_ids_outside_the_grammar_are_refused),
		cmocka_unit_test(rs256_and_es256_hold_with_their_own_keys),
		cmocka_unit_test(keys_for_other_uses_or_too_small_are_not_used),
		cmocka_unit_test(both_kinds_of_key_work_side_by_side),
		cmocka_unit_test(an_unknown_kid_brings_in_rotated_keys_but_not_at_every_token),
		cmocka_unit_test(keys_by_url_come_in_the_background_and_stay_when_the_url_fails),
		cmocka_unit_test(configurations_without_a_good_key_are_refused),
		cmocka_unit_test(a_minted_token_holds),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
