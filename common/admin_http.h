/*
 * admin_http.h - the admin port: a table of pages, GET and HEAD only, for health checks, metrics and operators.
 *
 * It has a libwebsockets context of its own beside any other on the loop, a listener of its own that never spins, at most 64
 * connections (beyond: accepted and closed) and 10 s for each. Handlers run on the loop's thread and answer at once.
 */
#ifndef PINION_COMMON_ADMIN_HTTP_H
#define PINION_COMMON_ADMIN_HTTP_H

#include "common/bytes.h"
#include "common/err.h"
#include "common/loop_uv.h"

struct admin_http;

struct admin_path {
	const char *path; /* "/livez": exactly this */
	const char *type; /* content type */
	/* Appends the body; returns the HTTP status: 200, 503. */
	unsigned (*handle)(void *ctx, struct buf *out);
};

/* Listens at "HOST:PORT" at once (port 0: any free one). The table and ctx outlive the server. ERR_CONFIG: no HOST:PORT;
 * ERR_IO: the address can't be had; *out is set even then, to be stopped and freed. */
MUST_CHECK enum err admin_http_start(struct loop_uv *loop, const char *listen, const struct admin_path *paths, size_t n_paths,
                                     void *ctx, struct admin_http **out, struct err_info *info);
uint16_t admin_http_port(const struct admin_http *admin);

/* No handler runs after this. Then run the uv loop until it returns, then admin_http_free, then uv_loop_close. NULL is fine in
 * both. */
void admin_http_stop(struct admin_http *admin);
void admin_http_free(struct admin_http *admin);

#endif
