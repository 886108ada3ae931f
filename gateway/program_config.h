/* program_config.h - pinion-gateway's options: what they are, and what is checked before anything starts. */
#ifndef PINION_GATEWAY_PROGRAM_CONFIG_H
#define PINION_GATEWAY_PROGRAM_CONFIG_H

#include "common/config.h"
#include "common/link_url.h"
#include "gateway/auth.h"

struct gateway_options {
	char *id, *listen, *admin, *events, *advertise_events;
	struct string_list workers, allow_origin;
	char *jwt_hs256_file, *jwks, *issuer, *audience;
	char *tls_cert, *tls_key, *link_ca, *link_cert, *link_key;
	bool insecure_links, allow_e2e_ids, page;
	uint64_t message_bytes, messages_per_s, burst, connections, active_runs, queued_runs, heartbeat_s, outbox_bytes,
		auth_wait_s;
	uint64_t unauthenticated_per_address, max_connections, connects_per_s, drain_seconds;
	char *log_level, *log_format;
	/* of `pinion-gateway token` alone */
	char *user;
	uint64_t ttl;
};

extern const struct config_spec gateway_spec;       /* pinion-gateway */
extern const struct config_spec gateway_token_spec; /* pinion-gateway token */

struct auth_config gateway_auth_config(const struct gateway_options *options);
struct link_tls gateway_link_tls(const struct gateway_options *options);

/* Everything that can be told without opening a port or asking the network, the files included. Starts logging. */
MUST_CHECK enum err gateway_options_check(struct gateway_options *options, struct err_info *info);

#endif
