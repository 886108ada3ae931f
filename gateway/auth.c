/*
 * Token verification. Sources: RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (JWT best current practices).
 *
 * What cjose 0.6 leaves unchecked is settled before its verify sees the token: three parts of base64url and nothing else, one
 * of our three algorithms, a key of that algorithm's own kind, the exact length of its signature, no `crit`. The header and
 * the payload are parsed by our strict JSON parser, so a duplicate "alg" or "sub" never has two readings.
 */
#include "gateway/auth.h"

#include <cjose/cjose.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/config.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "gateway/fetch.h"
#include "gateway/jwks.h"

#define TOKEN_BYTES_MAX 8192
#define SECRET_BYTES_MIN 32
#define SECRET_BYTES_MAX 4096
#define HS256_SIGNATURE_CHARS 43
#define KEYS_REFRESH_MS (5 * 60 * 1000)
#define KEYS_RETRY_MS 5000              /* after a failure, and between two refreshes that unknown keys ask for */
#define NUMERIC_DATE_MAX 253402300799.0 /* the end of the year 9999 */

struct auth {
	struct loop_uv *loop; /* NULL: keys don't refresh */
	cjose_jwk_t *secret;  /* NULL: no HS256 */
	struct jwks keys;
	char *jwks;          /* NULL: no RS256, ES256 */
	struct fetch *fetch; /* NULL: jwks is a file */
	struct timer refresh;
	uint64_t asked_ms; /* when a refresh was last begun */
	char *issuer, *audience;
	unsigned id_forms;
};

/* ---- keys ---- */

static char *copy_or_null(const char *text)
{
	return text ? strdup(text) : NULL;
}

static enum err read_secret(const char *path, cjose_jwk_t **out, struct err_info *info)
{
	char *secret = NULL;
	size_t n = 0;
	cjose_err err;
	enum err code = config_read_secret(path, SECRET_BYTES_MAX, &secret, &n, info);

	if (code != ERR_OK)
		return code;
	if (n < SECRET_BYTES_MIN)
		code = err_set(info, ERR_CONFIG, "%s: a secret of %zu bytes is too short, HS256 needs at least %d", path, n,
		               SECRET_BYTES_MIN);
	else if (!(*out = cjose_jwk_create_oct_spec((const uint8_t *)secret, n, &err)))
		code = err_set(info, ERR_CONFIG, "%s: the secret can't be used: %s", path, err.message);
	explicit_bzero(secret, n);
	free(secret);
	return code;
}

static enum err read_key_file(struct auth *auth, struct err_info *info)
{
	FILE *file = fopen(auth->jwks, "re");
	char *text;
	size_t n;
	enum err code;

	if (!file)
		return err_set_errno(info, ERR_CONFIG, errno, "%s", auth->jwks);
	text = malloc(JWKS_BYTES_MAX + 1);
	if (!text)
		abort();
	n = fread(text, 1, JWKS_BYTES_MAX + 1, file);
	code = ferror(file) ? err_set(info, ERR_CONFIG, "it can't be read") : jwks_parse(&auth->keys, str_of(text, n), info);
	if (code != ERR_OK)
		(void)err_wrap(info, "%s", auth->jwks);
	free(text);
	fclose(file);
	return code;
}

static void plan_refresh(struct auth *auth, uint64_t delay_ms)
{
	timer_set(&auth->loop->loop, &auth->refresh, delay_ms);
}

static void on_fetched(void *ctx, enum err err, struct str body, const char *why)
{
	struct auth *auth = ctx;
	struct err_info info = {0};

	if (err == ERR_OK)
		err = jwks_parse(&auth->keys, body, &info);
	else
		(void)err_set(&info, err, "%s", why);
	if (err != ERR_OK)
		log_warn("auth", "keys_refresh_failed", "why", info.text, "keys_held", LOG_U64(auth->keys.n), NULL);
	else
		log_info("auth", "keys_refreshed", "keys", LOG_U64(auth->keys.n), NULL);
	plan_refresh(auth, err == ERR_OK ? KEYS_REFRESH_MS : KEYS_RETRY_MS);
}

static void refresh_keys(struct auth *auth)
{
	struct err_info info = {0};

	auth->asked_ms = loop_now(&auth->loop->loop);
	if (auth->fetch) {
		fetch_start(auth->fetch, auth->jwks);
		return;
	}
	if (read_key_file(auth, &info) != ERR_OK)
		log_warn("auth", "keys_refresh_failed", "why", info.text, "keys_held", LOG_U64(auth->keys.n), NULL);
	plan_refresh(auth, KEYS_REFRESH_MS);
}

static void on_refresh(struct timer *timer)
{
	refresh_keys((struct auth *)((char *)timer - offsetof(struct auth, refresh)));
}

/* A token names a key that we don't have: the issuer may have rotated. True where a newer set is already here. */
static bool refresh_for_unknown_key(struct auth *auth)
{
	if (!auth->loop || loop_now(&auth->loop->loop) - auth->asked_ms < KEYS_RETRY_MS)
		return false;
	refresh_keys(auth);
	return auth->fetch == NULL;
}

static bool is_url(const char *text)
{
	return strstr(text, "://") != NULL;
}

static enum err open_keys(struct auth *auth, const char *jwks, struct err_info *info)
{
	auth->jwks = copy_or_null(jwks);
	if (!is_url(jwks)) {
		enum err code = read_key_file(auth, info);

		if (code == ERR_OK && auth->loop) {
			auth->asked_ms = loop_now(&auth->loop->loop);
			plan_refresh(auth, KEYS_REFRESH_MS);
		}
		return code;
	}
	if (!fetch_url_is_valid(jwks))
		return err_set(info, ERR_CONFIG, "jwks: %s is neither a file nor an http or https URL", jwks);
	if (!auth->loop)
		return ERR_OK;
	if (strncasecmp(jwks, "http:", 5) == 0)
		log_warn("auth", "keys_over_plain_http", "url", jwks, NULL);
	auth->fetch = fetch_create(auth->loop, on_fetched, auth);
	refresh_keys(auth);
	return ERR_OK;
}

enum err auth_create(struct loop_uv *loop, const struct auth_config *config, struct auth **out, struct err_info *info)
{
	struct auth *auth;
	enum err code = ERR_OK;

	*out = NULL;
	if (!config->hs256_file && !config->jwks)
		return err_set(info, ERR_CONFIG,
		               "no key to verify tokens with: give --jwt-hs256-file FILE (a secret of at least %d "
		               "bytes) or --jwks FILE-OR-URL",
		               SECRET_BYTES_MIN);
	auth = calloc(1, sizeof(*auth));
	if (!auth)
		abort();
	auth->loop = loop;
	auth->refresh.fn = on_refresh;
	auth->issuer = copy_or_null(config->issuer);
	auth->audience = copy_or_null(config->audience);
	auth->id_forms = config->id_forms;
	if (config->hs256_file)
		code = read_secret(config->hs256_file, &auth->secret, info);
	if (code == ERR_OK && config->jwks)
		code = open_keys(auth, config->jwks, info);
	if (code != ERR_OK) {
		auth_destroy(auth);
		return code;
	}
	*out = auth;
	return ERR_OK;
}

bool auth_is_ready(const struct auth *auth)
{
	return auth->secret || auth->keys.n > 0;
}

void auth_destroy(struct auth *auth)
{
	if (!auth)
		return;
	fetch_destroy(auth->fetch);
	if (auth->loop)
		timer_cancel(&auth->loop->loop, &auth->refresh);
	jwks_finish(&auth->keys);
	if (auth->secret)
		cjose_jwk_release(auth->secret);
	free(auth->jwks);
	free(auth->issuer);
	free(auth->audience);
	free(auth);
}

/* ---- the token's text ---- */

struct parts {
	struct str header, payload, signature; /* base64url text */
};

static int base64url_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Strict: no padding, no other byte, no stray bits in the last character. */
static bool base64url_decode(struct buf *out, struct str text)
{
	uint32_t bits = 0;
	unsigned held = 0;

	if (text.n % 4 == 1)
		return false;
	for (size_t i = 0; i < text.n; i++) {
		int value = base64url_value(text.p[i]);
		char byte;

		if (value < 0)
			return false;
		bits = bits << 6 | (uint32_t)value;
		held += 6;
		if (held < 8)
			continue;
		held -= 8;
		byte = (char)(bits >> held);
		buf_append(out, &byte, 1);
	}
	return (bits & ((1u << held) - 1)) == 0;
}

static bool is_base64url(struct str text)
{
	for (size_t i = 0; i < text.n; i++)
		if (base64url_value(text.p[i]) < 0)
			return false;
	return text.n > 0;
}

static bool split(struct str token, struct parts *out)
{
	const char *first = memchr(token.p, '.', token.n), *second, *end = token.p + token.n;

	if (!first)
		return false;
	second = memchr(first + 1, '.', (size_t)(end - first - 1));
	if (!second)
		return false;
	out->header = str_of(token.p, (size_t)(first - token.p));
	out->payload = str_of(first + 1, (size_t)(second - first - 1));
	out->signature = str_of(second + 1, (size_t)(end - second - 1));
	return is_base64url(out->header) && is_base64url(out->payload) && is_base64url(out->signature);
}

/* The JSON object of one part; NULL where it is none. The caller's. */
static json_t *decode_object(struct str part)
{
	struct buf text = {0};
	json_t *value = NULL;

	if (base64url_decode(&text, part) && json_parse(&value, buf_str(&text), NULL) == ERR_OK && !json_is_object(value)) {
		json_decref(value);
		value = NULL;
	}
	buf_finish(&text);
	return value;
}

/* ---- the signature ---- */

static bool signature_holds(struct str token, const cjose_jwk_t *key)
{
	cjose_err err;
	cjose_jws_t *jws = cjose_jws_import(token.p, token.n, &err);
	bool holds = jws && cjose_jws_verify(jws, key, &err);

	cjose_jws_release(jws);
	return holds;
}

enum outcome { HOLDS, FAILS, KEY_UNKNOWN };

/* Keys without a kid are candidates for every token; a token without a kid tries all of its algorithm. */
static enum outcome try_keys(const struct auth *auth, struct str token, struct str signature, enum jwk_alg alg, const char *kid)
{
	enum outcome outcome = KEY_UNKNOWN;

	for (size_t i = 0; i < auth->keys.n; i++) {
		const struct jwk *jwk = &auth->keys.keys[i];

		if (jwk->alg != alg || (kid && jwk->kid && strcmp(kid, jwk->kid) != 0))
			continue;
		if (jwk->signature_chars == signature.n && signature_holds(token, jwk->key))
			return HOLDS;
		if (!kid || jwk->kid)
			outcome = FAILS;
	}
	return outcome;
}

static enum err check_signature(struct auth *auth, struct str token, const struct parts *parts, const json_t *header,
                                struct err_info *info)
{
	const char *alg = json_string_value(json_object_get(header, "alg"));
	const json_t *kid = json_object_get(header, "kid");
	enum outcome outcome;
	enum jwk_alg wanted;

	if (json_object_get(header, "crit"))
		return err_set(info, ERR_TOKEN_INVALID, "the token's header has crit, none of which is known here");
	if (json_object_get(header, "b64") || (kid && !json_is_string(kid)))
		return err_set(info, ERR_TOKEN_INVALID, "the token's header is not valid");
	if (alg && auth->secret && strcmp(alg, "HS256") == 0) {
		if (parts->signature.n != HS256_SIGNATURE_CHARS || !signature_holds(token, auth->secret))
			return err_set(info, ERR_TOKEN_INVALID, "the token's signature does not hold");
		return ERR_OK;
	}
	if (!alg || !auth->jwks || (strcmp(alg, "RS256") != 0 && strcmp(alg, "ES256") != 0))
		return err_set(info, ERR_TOKEN_INVALID, "the token's alg is not that of a configured key");
	wanted = alg[0] == 'R' ? JWK_RS256 : JWK_ES256;
	outcome = try_keys(auth, token, parts->signature, wanted, json_string_value(kid));
	if (outcome == KEY_UNKNOWN && refresh_for_unknown_key(auth))
		outcome = try_keys(auth, token, parts->signature, wanted, json_string_value(kid));
	if (outcome == KEY_UNKNOWN)
		return err_set(info, ERR_TOKEN_INVALID, "the token is signed with a key that is not known here");
	return outcome == HOLDS ? ERR_OK : err_set(info, ERR_TOKEN_INVALID, "the token's signature does not hold");
}

/* ---- the claims ---- */

/* A NumericDate (RFC 7519, section 2), cut to whole seconds. False where it is no such number. */
static bool numeric_date(const json_t *value, int64_t *out)
{
	double n;

	if (!json_is_number(value))
		return false;
	n = json_number_value(value);
	if (!isfinite(n) || n < -NUMERIC_DATE_MAX || n > NUMERIC_DATE_MAX)
		return false;
	*out = json_is_integer(value) ? json_integer_value(value) : (int64_t)floor(n);
	return true;
}

static enum err check_times(const json_t *claims, int64_t now_s, int64_t *expires_s, struct err_info *info)
{
	const json_t *nbf = json_object_get(claims, "nbf"), *iat = json_object_get(claims, "iat");
	int64_t t;

	if (!numeric_date(json_object_get(claims, "exp"), expires_s))
		return err_set(info, ERR_TOKEN_INVALID, "the token has no exp, or one that is no date");
	if (now_s >= *expires_s + AUTH_LEEWAY_S)
		return err_set(info, ERR_TOKEN_EXPIRED, NULL);
	if (nbf && !numeric_date(nbf, &t))
		return err_set(info, ERR_TOKEN_INVALID, "the token's nbf is no date");
	if (nbf && t > now_s + AUTH_LEEWAY_S)
		return err_set(info, ERR_TOKEN_INVALID, "the token is not valid yet (nbf)");
	if (iat && !numeric_date(iat, &t))
		return err_set(info, ERR_TOKEN_INVALID, "the token's iat is no date");
	if (iat && t > now_s + AUTH_LEEWAY_S)
		return err_set(info, ERR_TOKEN_INVALID, "the token was issued in the future (iat)");
	return ERR_OK;
}

static bool is_string(const json_t *value, const char *expected)
{
	return json_is_string(value) && strcmp(json_string_value(value), expected) == 0;
}

static bool audience_has(const json_t *aud, const char *expected)
{
	const json_t *one;
	size_t i;

	json_array_foreach(aud, i, one) if (is_string(one, expected)) return true;
	return is_string(aud, expected);
}

static enum err check_claims(const struct auth *auth, const json_t *claims, int64_t now_s, struct identity *out,
                             struct err_info *info)
{
	const json_t *sub = json_object_get(claims, "sub");
	enum err code = check_times(claims, now_s, &out->expires_s, info);

	if (code != ERR_OK)
		return code;
	if (auth->issuer && !is_string(json_object_get(claims, "iss"), auth->issuer))
		return err_set(info, ERR_ISSUER_MISMATCH, NULL);
	if (auth->audience && !audience_has(json_object_get(claims, "aud"), auth->audience))
		return err_set(info, ERR_AUDIENCE_MISMATCH, NULL);
	if (!json_is_string(sub))
		return err_set(info, ERR_TOKEN_INVALID, "the token has no sub, or one that is no string");
	code = user_id_parse(&out->user, str_of(json_string_value(sub), json_string_length(sub)), auth->id_forms);
	return code == ERR_OK ? ERR_OK : err_set(info, ERR_INVALID_USER_ID, NULL);
}

enum err auth_verify(struct auth *auth, struct str token, int64_t now_s, struct identity *out, struct err_info *info)
{
	json_t *header = NULL, *claims = NULL;
	struct parts parts;
	enum err code;

	*out = (struct identity){0};
	if (token.n == 0)
		return err_set(info, ERR_TOKEN_INVALID, "the token is empty");
	if (token.n > TOKEN_BYTES_MAX)
		return err_set(info, ERR_TOKEN_INVALID, "the token is longer than %d bytes", TOKEN_BYTES_MAX);
	if (!split(token, &parts) || !(header = decode_object(parts.header)) || !(claims = decode_object(parts.payload)))
		code = err_set(info, ERR_TOKEN_INVALID,
		               "the token is not three parts of base64url with a JSON object in the first two");
	else
		code = check_signature(auth, token, &parts, header, info);
	if (code == ERR_OK)
		code = check_claims(auth, claims, now_s, out, info);
	if (code != ERR_OK)
		*out = (struct identity){0};
	json_decref(header);
	json_decref(claims);
	return code;
}

/* ---- making one ---- */

static enum err sign(const cjose_jwk_t *secret, const char *claims, char **out, struct err_info *info)
{
	cjose_err err;
	cjose_header_t *header = cjose_header_new(&err);
	cjose_jws_t *jws = NULL;
	const char *compact = NULL;
	enum err code = ERR_OK;

	if (header && cjose_header_set(header, "alg", "HS256", &err) && cjose_header_set(header, "typ", "JWT", &err))
		jws = cjose_jws_sign(secret, header, (const uint8_t *)claims, strlen(claims), &err);
	if (jws && cjose_jws_export(jws, &compact, &err))
		*out = strdup(compact);
	else
		code = err_set(info, ERR_INTERNAL, "the token can't be signed: %s", err.message);
	cjose_jws_release(jws);
	cjose_header_release(header);
	return code;
}

enum err auth_mint(const char *hs256_file, const char *sub, int64_t now_s, int64_t ttl_s, const char *issuer,
                   const char *audience, char **out, struct err_info *info)
{
	cjose_jwk_t *secret = NULL;
	struct buf text = {0};
	json_t *claims;
	enum err code = read_secret(hs256_file, &secret, info);

	*out = NULL;
	if (code != ERR_OK)
		return code;
	claims = json_pack("{s:s, s:I, s:I}", "sub", sub, "iat", (json_int_t)now_s, "exp", (json_int_t)now_s + (json_int_t)ttl_s);
	if (claims && issuer)
		json_object_set_new(claims, "iss", json_string(issuer));
	if (claims && audience)
		json_object_set_new(claims, "aud", json_string(audience));
	if (claims) {
		json_write(&text, claims);
		buf_append(&text, "", 1);
		code = sign(secret, text.p, out, info);
	} else {
		code = err_set(info, ERR_CONFIG, "the user id is not valid UTF-8");
	}
	json_decref(claims);
	buf_finish(&text);
	cjose_jwk_release(secret);
	return code;
}
