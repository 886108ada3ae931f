/*
 * token.h - JSON Web Tokens for tests: right ones and wrong ones, signed by OpenSSL's HMAC without any JOSE library.
 * Source: RFC 7515 (compact serialization), RFC 7519. Texts returned are the caller's to free.
 */
#ifndef PINION_TESTS_LIB_TOKEN_H
#define PINION_TESTS_LIB_TOKEN_H

#include <stddef.h>
#include <stdint.h>

#define TOKEN_SECRET "0123456789abcdef0123456789abcdef-of-the-tests"

/* A good token: HS256 with TOKEN_SECRET, sub, iat now, exp now + ttl_s. sub may hold any bytes (n of them). */
char *token_make(const char *sub, int64_t ttl_s);
char *token_make_n(const char *sub, size_t n, int64_t ttl_s);

/* Signs any header and payload texts; bits 256, 384 or 512; secret NULL: an empty signature. */
char *token_sign(const char *header, const char *payload, int bits, const char *secret);

/* base64url without padding. */
char *token_base64(const void *p, size_t n);

#endif
