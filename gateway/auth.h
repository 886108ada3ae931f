/*
 * auth.h - who a token says the user is. JWS compact tokens (RFC 7515, 7519) verified by cjose with the configured keys.
 *
 * alg comes only from the configured key's own kind: HS256 for the secret file; RS256, ES256 for a JWKS (RFC 7517). What
 * cjose does not check is checked here first: alg against the key, the signature's length, crit, key size.
 * JWKS by URL are fetched in the background by libcurl (timeout, size cap), cached, refreshed; an unknown kid asks for a
 * refresh, at most every few seconds. Verification is synchronous (2 to 70 µs). Thread: the loop's.
 */
#ifndef PINION_GATEWAY_AUTH_H
#define PINION_GATEWAY_AUTH_H

#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"
#include "common/ids.h"

struct auth;
struct loop_uv;

struct auth_config {
	const char *hs256_file;        /* at least 32 bytes of secret */
	const char *jwks;              /* a file's path or an http(s) URL; either this or hs256_file, or both */
	const char *issuer, *audience; /* NULL: not checked */
	unsigned id_forms;             /* user_id_parse's `extra` */
};

struct identity {
	struct user_id user;
	int64_t expires_s; /* Unix time of `exp`, without leeway */
};

#define AUTH_LEEWAY_S 30

/* ERR_CONFIG without any key, or with a bad one. A JWKS URL that can't be reached now is no error: auth_is_ready says. */
MUST_CHECK enum err auth_create(struct loop_uv *loop, const struct auth_config *config, struct auth **out, struct err_info *info);
bool auth_is_ready(const struct auth *auth);
void auth_destroy(struct auth *auth);

/* ERR_TOKEN_INVALID, ERR_TOKEN_EXPIRED, ERR_ISSUER_MISMATCH, ERR_AUDIENCE_MISMATCH, ERR_INVALID_USER_ID. The info's text is
 * for the client: it says what is wrong and holds nothing of the token. */
MUST_CHECK enum err auth_verify(struct auth *auth, struct str token, int64_t now_s, struct identity *out, struct err_info *info);

/* `pinion-gateway token`: a development token of the HS256 secret, NUL-terminated, the caller frees. */
MUST_CHECK enum err auth_mint(const char *hs256_file, const char *sub, int64_t now_s, int64_t ttl_s, const char *issuer,
                              const char *audience, char **out, struct err_info *info);

#endif
