/*
 * gateway_link.h - how a worker hears gateways and publishes to them.
 *
 * An operations struct: the real one is on NNG (one REP socket with many contexts; one PUB socket per gateway, dialled to
 * it, so that each gateway receives only what is for it). Callbacks run on the loop's thread. Nothing here forks: the agent
 * host must have been started before create.
 */
#ifndef PINION_WORKER_GATEWAY_LINK_H
#define PINION_WORKER_GATEWAY_LINK_H

#include "common/bytes.h"
#include "common/err.h"
#include "common/link_url.h"

struct gateway_transport;
struct gateway_pub; /* the publishing end to one gateway */

/* Names a request until it is answered; a stale or repeated token is ignored. */
typedef uint64_t request_token;

struct gateway_transport_ops {
	/* Answers a request, exactly once for each on_request. */
	void (*reply)(struct gateway_transport *t, request_token token, struct str message);
	/* Dials the gateway's events URL and redials until closed. ERR_CONFIG for a malformed or forbidden URL. */
	enum err (*pub_open)(struct gateway_transport *t, const char *url, struct gateway_pub **out, struct err_info *info);
	/* Never blocks. Delivery is not promised: the numbering in the message shows what was lost. */
	void (*pub_send)(struct gateway_pub *pub, struct str message);
	void (*pub_close)(struct gateway_pub *pub);
	void (*destroy)(struct gateway_transport *t);
};

struct gateway_transport {
	const struct gateway_transport_ops *ops;
	void (*on_request)(void *ctx, request_token token, struct str message); /* message: a view, for this call */
	void *ctx;
};

struct loop_uv;
/* Listens on url at once. `insecure`: gateways may be dialled at tcp:// (link_url_check). `contexts`: how many requests can
 * be under way (more wait in their pipes). */
MUST_CHECK enum err gateway_transport_nng_create(struct loop_uv *loop, const char *url, const struct link_tls *tls, bool insecure,
                                                 unsigned contexts, struct gateway_transport **out, struct err_info *info);

#endif
