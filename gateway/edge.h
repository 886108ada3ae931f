/*
 * edge.h - the public port: HTTP, the page, WebSockets. The only place that knows libwebsockets.
 *
 * Every connection is bounded from its first byte: 10 s to say what it wants, a cap on connections that have not said it, a cap
 * on all, and heartbeats afterwards. Refusals are whole HTTP answers. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_EDGE_H
#define PINION_GATEWAY_EDGE_H

#include "common/config.h"
#include "common/err.h"
#include "common/loop_uv.h"
#include "gateway/auth.h"
#include "gateway/core.h"

struct edge;

struct edge_config {
	const char *host;
	uint16_t port;                   /* 0: any free one, see edge_port */
	const char *tls_cert, *tls_key;  /* PEM files; both or none */
	struct string_list allow_origin; /* a view */
	bool page;
	uint32_t message_bytes;
	uint32_t heartbeat_s;
	uint32_t max_connections; /* beyond it: 503; somewhat further: accepted and closed */
	uint32_t connects_per_s;  /* per address; 0: no limit */
};

/* Listens at once. ERR_CONFIG: the certificate and key don't go together; ERR_IO: the address can't be had; *out is set even
 * then, to be closed and destroyed. Strings of the config, core and auth are the caller's and outlive the edge. */
MUST_CHECK enum err edge_create(struct loop_uv *loop, const struct edge_config *config, struct core *core, struct auth *auth,
                                struct edge **out, struct err_info *info);
uint16_t edge_port(const struct edge *edge);
size_t edge_connections(const struct edge *edge);

/* Closes the listening socket; what is connected stays. Idempotent. */
void edge_stop_accepting(struct edge *edge);

/* Cuts every connection (their sessions are told) and begins to close; then run the uv loop until it returns, then
 * edge_destroy, then uv_loop_close. NULL is fine in both. */
void edge_close(struct edge *edge);
void edge_destroy(struct edge *edge);

/* ERR_CONFIG where the two files are not a usable pair. */
MUST_CHECK enum err tls_files_check(const char *cert, const char *key, struct err_info *info);

#endif
