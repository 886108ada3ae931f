#include "gateway/program_config.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/log.h"
#include "proto/codec.h"
#include "gateway/edge.h"
#include "gateway/resolver.h"

#define AT(field) offsetof(struct gateway_options, field)
#define STRING(name, field, preset, value, help)                          \
	{                                                                 \
		name, OPTION_STRING, AT(field), preset, 0, 0, value, help \
	}
#define LIST(name, field, preset, value, help)                          \
	{                                                               \
		name, OPTION_LIST, AT(field), preset, 0, 0, value, help \
	}
#define BOOL(name, field, preset, help)                                \
	{                                                              \
		name, OPTION_BOOL, AT(field), preset, 0, 0, NULL, help \
	}
#define UINT(name, field, preset, min, max, value, help)                    \
	{                                                                   \
		name, OPTION_UINT, AT(field), preset, min, max, value, help \
	}
#define TOKEN_ONLY 2 /* options at the front that are the token command's alone */

static const struct option_def options[] = {
	STRING("user", user, NULL, "ID", "Whom the token is for: its sub."),
	UINT("ttl", ttl, "3600", 1, 315360000, "SECONDS", "How long it holds."),
	STRING("id", id, NULL, "NAME", "Stable name. Default: the host name."),
	STRING("listen", listen, "127.0.0.1:8080", "HOST:PORT", "Public HTTP and WebSocket."),
	STRING("admin", admin, "127.0.0.1:9080", "HOST:PORT", "Health, readiness, metrics, state."),
	STRING("events", events, "ipc:///run/pinion/gateway", "URL", "NNG URL at which workers' events are received."),
	STRING("advertise-events", advertise_events, NULL, "URL", "How workers reach --events, where that differs."),
	LIST("workers", workers, "ipc:///run/pinion/worker", "LIST",
             "NNG URLs of workers, or dns://NAME:PORT for every address of a name, looked up again every 5 s."),
	STRING("jwt-hs256-file", jwt_hs256_file, NULL, "FILE",
               "Secret of HS256 tokens: the file's bytes less trailing newlines, 32 at least."),
	STRING("jwks", jwks, NULL, "FILE-OR-URL", "Public keys of RS256 and ES256 tokens (JSON Web Key Set)."),
	STRING("issuer", issuer, NULL, "S", "What a token's iss must be. Default: not checked."),
	STRING("audience", audience, NULL, "S", "What a token's aud must hold. Default: not checked."),
	BOOL("allow-e2e-ids", allow_e2e_ids, NULL, "Also take user ids of the form e2e-NAME, for staging."),
	LIST("allow-origin", allow_origin, NULL, "LIST",
             "Origins whose pages may connect, besides our own: https://app.example.com; * for all."),
	STRING("tls-cert", tls_cert, NULL, "FILE", "Certificate chain (PEM) for https and wss."),
	STRING("tls-key", tls_key, NULL, "FILE", "Its key (PEM)."),
	STRING("link-ca", link_ca, NULL, "FILE", "CA of the links' certificates (tls+tcp://)."),
	STRING("link-cert", link_cert, NULL, "FILE", "Our certificate on links."),
	STRING("link-key", link_key, NULL, "FILE", "Our key on links."),
	BOOL("insecure-links", insecure_links, NULL,
             "Allow tcp:// links without TLS. Anyone who reaches the port can then act for every user."),
	BOOL("page", page, "true", "Serve the chat page at /."),
	UINT("message-bytes", message_bytes, "65536", 1024, 1 << 20, "N", "The longest message of a client."),
	UINT("messages-per-s", messages_per_s, "50", 1, 100000, "N", "Messages a second and connection, in the long run."),
	UINT("burst", burst, "200", 1, 100000, "N", "Messages that may come at once."),
	UINT("connections", connections, "8", 1, 10000, "N", "Connections of one user at this gateway."),
	UINT("active-runs", active_runs, "8", 1, 10000, "N", "Runs of one user at once."),
	UINT("queued-runs", queued_runs, "64", 0, 100000, "N", "Runs of one user that may wait."),
	UINT("heartbeat-s", heartbeat_s, "25", 1, 3600, "S", "A ping goes out so often; three without an answer close."),
	UINT("outbox-bytes", outbox_bytes, "262144", 65536, 64 << 20, "N",
             "What waits for a slow reader at most; the rest is read from the log later."),
	UINT("auth-wait-s", auth_wait_s, "10", 1, 300, "S", "How long a connection may stay unauthenticated."),
	UINT("unauthenticated-per-address", unauthenticated_per_address, "32", 1, 100000, "N",
             "Unauthenticated connections of one address."),
	UINT("max-connections", max_connections, "0", 0, 1000000, "N",
             "All connections; 0: as many as there are descriptors for."),
	UINT("connects-per-s", connects_per_s, "0", 0, 100000, "N", "New connections a second of one address; 0: no limit."),
	UINT("drain-seconds", drain_seconds, "10", 0, 3600, "S", "After SIGTERM, within what time connections are closed."),
	STRING("log-level", log_level, "info", "LEVEL", "debug, info, warn or error."),
	STRING("log-format", log_format, "text", "FORMAT", "text (key=value) or json."),
};

const struct config_spec gateway_spec = {
	.program = "pinion-gateway",
	.summary = "Terminates WebSockets, authenticates users, and relays between them and the workers that own them.",
	.epilog = "Examples:\n"
		  "  pinion-gateway --listen 0.0.0.0:8080 --jwt-hs256-file jwt.key --workers ipc:///run/pinion/worker-0\n"
		  "  pinion-gateway token --user usr_4a8f9c2b1e5d --jwt-hs256-file jwt.key\n"
		  "\n"
		  "SIGTERM drains: connections are told to reconnect (1012). A second one stops at once.\n",
	.options = options + TOKEN_ONLY,
	.n_options = sizeof(options) / sizeof(options[0]) - TOKEN_ONLY,
};

const struct config_spec gateway_token_spec = {
	.program = "pinion-gateway token",
	.summary = "Prints a token that is signed with the gateway's HS256 secret, for development and tests.",
	.epilog = "Example:\n"
		  "  pinion-gateway token --user usr_4a8f9c2b1e5d --ttl 600 --jwt-hs256-file jwt.key\n"
		  "\n"
		  "It takes the gateway's own options and --config FILE; only the secret, --issuer and --audience matter.\n",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

struct auth_config gateway_auth_config(const struct gateway_options *o)
{
	return (struct auth_config){
		.hs256_file = o->jwt_hs256_file,
		.jwks = o->jwks,
		.issuer = o->issuer,
		.audience = o->audience,
		.id_forms = o->allow_e2e_ids ? USER_ID_E2E : 0,
	};
}

struct link_tls gateway_link_tls(const struct gateway_options *o)
{
	return (struct link_tls){o->link_ca, o->link_cert, o->link_key};
}

static enum err check_logging(struct gateway_options *o, struct err_info *info)
{
	enum log_level level;
	enum log_format format;
	char name[256] = "";

	if (!o->id) {
		if (gethostname(name, sizeof(name) - 1) < 0 || !name[0])
			return err_set_errno(info, ERR_CONFIG, errno, "no host name: give --id");
		o->id = strdup(name);
	}
	if (strlen(o->id) > NAME_MAX_BYTES)
		return err_set(info, ERR_CONFIG, "--id: 1 to %d bytes", NAME_MAX_BYTES);
	if (!log_level_parse(o->log_level, &level))
		return err_set(info, ERR_CONFIG, "--log-level %s: say debug, info, warn or error", o->log_level);
	if (!log_format_parse(o->log_format, &format))
		return err_set(info, ERR_CONFIG, "--log-format %s: say text or json", o->log_format);
	log_init(level, format, "gateway", o->id);
	return ERR_OK;
}

static enum err check_address(const char *flag, const char *text, struct err_info *info)
{
	char host[256];
	uint16_t port;
	enum err code = config_host_port(text, host, sizeof(host), &port, info);

	if (code != ERR_OK)
		(void)err_wrap(info, "%s", flag);
	return code;
}

static bool is_wildcard(const char *url)
{
	const char *host = strstr(url, "://");

	return host &&
	       (strncmp(host, "://0.0.0.0:", 11) == 0 || strncmp(host, "://[::]:", 8) == 0 || strncmp(host, "://*:", 5) == 0);
}

static enum err check_events(const struct gateway_options *o, struct err_info *info)
{
	const struct link_tls tls = gateway_link_tls(o);
	enum err code = link_url_check(o->events, &tls, o->insecure_links, true, info);

	if (code != ERR_OK)
		(void)err_wrap(info, "--events");
	else if (!o->advertise_events && is_wildcard(o->events))
		code = err_set(info, ERR_CONFIG, "--events %s names no address that workers can reach: give --advertise-events",
		               o->events);
	else if (o->advertise_events && is_wildcard(o->advertise_events))
		code = err_set(info, ERR_CONFIG, "--advertise-events %s names no address that workers can reach",
		               o->advertise_events);
	return code;
}

static enum err check_workers(const struct gateway_options *o, struct err_info *info)
{
	const struct link_tls tls = gateway_link_tls(o);
	enum err code = resolver_check(&o->workers, info);

	if (code == ERR_OK && o->workers.n == 0)
		code = err_set(info, ERR_CONFIG, "--workers: name one at least");
	for (size_t i = 0; i < o->workers.n && code == ERR_OK; i++) {
		const char *url = o->workers.items[i];

		if (!resolver_is_dns(url))
			code = link_url_check(url, &tls, o->insecure_links, false, info);
		else if (!o->link_ca && !o->insecure_links)
			code = err_set(info, ERR_CONFIG,
			               "%s: links without encryption are refused: give --link-ca, --link-cert and "
			               "--link-key, or --insecure-links on a network that you trust",
			               url);
		if (code != ERR_OK)
			(void)err_wrap(info, "--workers");
	}
	return code;
}

static enum err check_link_files(const struct gateway_options *o, struct err_info *info)
{
	int given = (o->link_ca != NULL) + (o->link_cert != NULL) + (o->link_key != NULL);

	return given == 0 || given == 3 ? ERR_OK : err_set(info, ERR_CONFIG, "--link-ca, --link-cert and --link-key go together");
}

static enum err check_tls(const struct gateway_options *o, struct err_info *info)
{
	if (!o->tls_cert != !o->tls_key)
		return err_set(info, ERR_CONFIG, "--tls-cert and --tls-key go together");
	return o->tls_cert ? tls_files_check(o->tls_cert, o->tls_key, info) : ERR_OK;
}

static enum err check_keys(const struct gateway_options *o, struct err_info *info)
{
	const struct auth_config config = gateway_auth_config(o);
	struct auth *auth = NULL;
	enum err code = auth_create(NULL, &config, &auth, info);

	auth_destroy(auth);
	return code;
}

enum err gateway_options_check(struct gateway_options *o, struct err_info *info)
{
	enum err code = check_logging(o, info);

	if (code == ERR_OK)
		code = check_address("--listen", o->listen, info);
	if (code == ERR_OK)
		code = check_address("--admin", o->admin, info);
	if (code == ERR_OK)
		code = check_keys(o, info);
	if (code == ERR_OK)
		code = check_tls(o, info);
	if (code == ERR_OK)
		code = check_link_files(o, info);
	if (code == ERR_OK)
		code = check_events(o, info);
	if (code == ERR_OK)
		code = check_workers(o, info);
	return code;
}
