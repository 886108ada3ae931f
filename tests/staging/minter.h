/*
 * minter.h - tokens for the users that the scenarios make: signed here with the secret, or printed by the operator's command.
 * Texts are the caller's to free.
 */
#ifndef PINION_STAGING_MINTER_H
#define PINION_STAGING_MINTER_H

#include <stddef.h>
#include <stdint.h>
#include "tests/staging/options.h"

enum { TOKEN_TTL_S = 7200 };

/* For a sub of any bytes. NULL, with why, where it can't be made. */
char *minter_token(const struct staging_options *options, const char *sub, size_t n, int64_t ttl_s, char *why, size_t why_n);
/* With the secret only: any header and claims. */
char *minter_sign(const struct staging_options *options, const char *header, const char *payload);

#endif
