#include "gateway/jwks.h"

#include <stdlib.h>
#include "common/json.h"

#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 8192

/* base64url without padding: RFC 7515, appendix C */
static size_t base64url_chars(size_t bytes)
{
	return (bytes * 4 + 2) / 3;
}

static bool string_is(const json_t *object, const char *name, const char *expected)
{
	const json_t *value = json_object_get(object, name);
	return !value || (json_is_string(value) && strcmp(json_string_value(value), expected) == 0);
}

static bool may_verify(const json_t *entry)
{
	const json_t *ops = json_object_get(entry, "key_ops"), *op;
	size_t i;

	if (!string_is(entry, "use", "sig"))
		return false;
	if (!ops)
		return true;
	json_array_foreach(ops, i, op) if (json_is_string(op) && strcmp(json_string_value(op), "verify") == 0) return true;
	return false;
}

/* The members of the public key alone: a private one that someone published is nothing we want in memory. */
static json_t *public_part(const json_t *entry)
{
	static const char *const names[] = {"kty", "n", "e", "crv", "x", "y"};
	json_t *out = json_object();

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		json_t *value = json_object_get(entry, names[i]);

		if (value)
			json_object_set(out, names[i], value);
	}
	return out;
}

static bool judge_key(struct jwk *jwk, const json_t *entry)
{
	cjose_err err;
	size_t bits = cjose_jwk_get_keysize(jwk->key, &err);

	switch (cjose_jwk_get_kty(jwk->key, &err)) {
	case CJOSE_JWK_KTY_RSA:
		jwk->alg = JWK_RS256;
		jwk->signature_chars = base64url_chars((bits + 7) / 8);
		return bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX && string_is(entry, "alg", "RS256");
	case CJOSE_JWK_KTY_EC:
		jwk->alg = JWK_ES256;
		jwk->signature_chars = base64url_chars(64);
		return cjose_jwk_EC_get_curve(jwk->key, &err) == CJOSE_JWK_EC_P_256 && string_is(entry, "alg", "ES256");
	default:
		return false;
	}
}

/* False for an entry that is not for us. */
static bool import_entry(struct jwk *jwk, const json_t *entry)
{
	const char *kty = json_string_value(json_object_get(entry, "kty"));
	const json_t *kid = json_object_get(entry, "kid");
	json_t *public;
	cjose_err err;

	memset(jwk, 0, sizeof(*jwk));
	if (!kty || (strcmp(kty, "RSA") != 0 && strcmp(kty, "EC") != 0) || !may_verify(entry) || (kid && !json_is_string(kid)))
		return false;
	public = public_part(entry);
	jwk->key = cjose_jwk_import_json((cjose_header_t *)public, &err);
	json_decref(public);
	if (!jwk->key)
		return false;
	if (!judge_key(jwk, entry)) {
		cjose_jwk_release(jwk->key);
		return false;
	}
	if (kid)
		jwk->kid = strdup(json_string_value(kid));
	return true;
}

static void add_entry(struct jwks *set, const json_t *entry)
{
	if (set->n == set->cap) {
		set->cap = set->cap ? set->cap * 2 : 4;
		set->keys = realloc(set->keys, set->cap * sizeof(*set->keys));
		if (!set->keys)
			abort();
	}
	if (import_entry(&set->keys[set->n], entry))
		set->n++;
}

enum err jwks_parse(struct jwks *set, struct str text, struct err_info *info)
{
	struct jwks fresh = {0};
	json_t *root = NULL;
	const json_t *keys, *entry;
	size_t i;

	if (text.n > JWKS_BYTES_MAX)
		return err_set(info, ERR_CONFIG, "a key set of %zu bytes is too large", text.n);
	if (json_parse(&root, text, info) != ERR_OK) {
		if (info)
			info->code = ERR_CONFIG;
		(void)err_wrap(info, "not a key set");
		return ERR_CONFIG;
	}
	keys = json_object_get(root, "keys");
	if (!json_is_array(keys)) {
		json_decref(root);
		return err_set(info, ERR_CONFIG, "not a key set: it has no array \"keys\"");
	}
	json_array_foreach(keys, i, entry) if (json_is_object(entry) && fresh.n < JWKS_KEYS_MAX) add_entry(&fresh, entry);
	json_decref(root);
	if (fresh.n == 0) {
		jwks_finish(&fresh);
		return err_set(info, ERR_CONFIG, "the key set holds no usable key (RSA of 2048 bits or more, or EC P-256)");
	}
	jwks_finish(set);
	*set = fresh;
	return ERR_OK;
}

void jwks_finish(struct jwks *set)
{
	for (size_t i = 0; i < set->n; i++) {
		cjose_jwk_release(set->keys[i].key);
		free(set->keys[i].kid);
	}
	free(set->keys);
	*set = (struct jwks){0};
}
