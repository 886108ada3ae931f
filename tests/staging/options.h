/*
 * options.h - what the operator asked for: the flags of pinion-staging, checked.
 */
#ifndef PINION_STAGING_OPTIONS_H
#define PINION_STAGING_OPTIONS_H

#include "common/config.h"
#include "tests/lib/endpoint.h"

enum { URLS_MAX = 32 };

struct staging_options {
	/* as given */
	struct string_list url, scenario;
	char *ca, *jwt_hs256_file, *token_command, *issuer, *audience, *duration;
	char *agent, *other_agent, *timeout_agent, *chaos, *chaos_drain;
	char *junit, *json, *tap;
	uint64_t users, timeout_s;
	bool list;

	/* what follows from it */
	struct endpoint endpoints[URLS_MAX];
	unsigned n_endpoints;
	uint64_t duration_ms;
	char *secret; /* NULL: tokens come from token_command */
};

/* Fills `options` (zeroed) and returns as config_load does; CONFIG_BAD was explained on stderr. */
enum config_verdict staging_options_load(struct staging_options *options, int argc, char **argv);
void staging_options_free(struct staging_options *options);

#endif
