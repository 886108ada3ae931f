/*
 * worker_link.h - how a gateway reaches workers: requests to each, publications from all.
 *
 * An operations struct: the real one is on NNG (REQ per worker with resending off, one SUB listener); tests put a lossy
 * one around it and the simulation has its own. All callbacks run on the loop's thread, never inside a call of ours.
 * Messages are opaque bytes here (proto/codec.h). Errors: by callback.
 */
#ifndef PINION_GATEWAY_WORKER_LINK_H
#define PINION_GATEWAY_WORKER_LINK_H

#include "common/bytes.h"
#include "common/err.h"
#include "common/link_url.h"

struct worker_transport;
struct worker_link; /* one per worker URL; redials by itself until closed */

struct worker_link_events {
	void (*up)(void *ctx);   /* connected (again): nothing that was in flight before is still under way */
	void (*down)(void *ctx); /* the peer is gone; every request in flight has been completed with ERR_DISCONNECTED */
	/* Each request_send is completed exactly once: ERR_OK and the reply's bytes (a view, for this call), or
	 * ERR_DISCONNECTED (the outcome at the worker is unknown), ERR_TIMEOUT (likewise), ERR_CANCELLED (link closed). */
	void (*reply)(void *ctx, uint64_t number, enum err err, struct str message);
};

struct worker_transport_ops {
	/* Starts dialling; URL: ipc://…, tcp://…, tls+tcp://…. A malformed URL: ERR_CONFIG. */
	enum err (*link_open)(struct worker_transport *t, const char *url, const struct worker_link_events *events, void *ctx,
	                      struct worker_link **out, struct err_info *info);
	/* Sends a request; number is the caller's, unique per link among those in flight. */
	void (*request_send)(struct worker_link *link, uint64_t number, struct str message, uint32_t timeout_ms);
	/* Completes what is in flight with ERR_CANCELLED (on the loop, soon), then frees. No callback after those. */
	void (*link_close)(struct worker_link *link);
	/* Closes every link too: each completion still comes, before this returns. */
	void (*destroy)(struct worker_transport *t);
};

struct worker_transport {
	const struct worker_transport_ops *ops;
	/* Each publication that arrives on the events URL, from whichever worker: a view, for this call. */
	void (*on_publication)(void *ctx, struct str message);
	void *ctx;
};

struct loop_uv;

/* The NNG transport: listens on events_url at once (ERR_IO where that can't be done, e.g. the address is in use). */
MUST_CHECK enum err worker_transport_nng_create(struct loop_uv *loop, const char *events_url, const struct link_tls *tls,
                                                struct worker_transport **out, struct err_info *info);

#endif
