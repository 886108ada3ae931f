/*
 * jwks.h - the public keys of a JSON Web Key Set (RFC 7517) that tokens may be signed with: RSA (RS256), EC P-256 (ES256).
 *
 * Entries that we can't use (another kty, another use, too small, private) are skipped, as RFC 7517 section 5 asks.
 * Thread: one.
 */
#ifndef PINION_GATEWAY_JWKS_H
#define PINION_GATEWAY_JWKS_H

#include <cjose/cjose.h>
#include "common/err.h"

enum jwk_alg { JWK_RS256, JWK_ES256 };

struct jwk {
	cjose_jwk_t *key;
	enum jwk_alg alg;
	size_t signature_chars; /* of the base64url text, exactly */
	char *kid;              /* NULL: none given */
};

struct jwks {
	struct jwk *keys;
	size_t n, cap;
};

#define JWKS_KEYS_MAX 64
#define JWKS_BYTES_MAX (256 * 1024)

/* Replaces what `set` (zeroed or parsed before) holds; on an error it keeps what it has. ERR_CONFIG: not a key set, or no
 * usable key in it. */
MUST_CHECK enum err jwks_parse(struct jwks *set, struct str text, struct err_info *info);
void jwks_finish(struct jwks *set);

#endif
