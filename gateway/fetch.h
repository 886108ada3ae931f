/*
 * fetch.h - one document by HTTP(S), in the background: libcurl's multi interface on our uv loop.
 *
 * At most one transfer at a time per fetcher. 5 s in all, FETCH_BYTES_MAX, http and https only, a redirect never leaves
 * https for http. Source: libcurl's "multi_socket" interface. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_FETCH_H
#define PINION_GATEWAY_FETCH_H

#include <stdbool.h>
#include "common/err.h"
#include "common/loop_uv.h"

#define FETCH_BYTES_MAX (256 * 1024)
#define FETCH_TIMEOUT_MS 5000

struct fetch;

/* done: ERR_OK and the body (a view, for this call), or ERR_UNAVAILABLE with why. Never called inside fetch_start. */
struct fetch *fetch_create(struct loop_uv *loop, void (*done)(void *ctx, enum err err, struct str body, const char *why),
                           void *ctx);
bool fetch_url_is_valid(const char *url);               /* http://… or https://… with a host */
void fetch_start(struct fetch *fetch, const char *url); /* nothing where one is under way */
bool fetch_is_busy(const struct fetch *fetch);
/* No callback after this. Handles close on the loop: run it once more before it goes. */
void fetch_destroy(struct fetch *fetch);

#endif
