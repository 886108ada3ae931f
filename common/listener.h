/*
 * listener.h - a listening TCP socket on our own loop, which never spins: not when descriptors run out, not when paused.
 *
 * With no descriptor left it accepts on a spare one and closes at once, so that clients learn it now and the backlog does not
 * keep the loop awake. Thread: the loop's.
 */
#ifndef PINION_COMMON_LISTENER_H
#define PINION_COMMON_LISTENER_H

#include <sys/socket.h>
#include "common/err.h"
#include "common/loop_uv.h"

struct listener;

enum listener_kind {
	LISTENER_ALONE,  /* a port in use is an error */
	LISTENER_SHARED, /* SO_REUSEPORT: several processes share a port */
};

/* The descriptor is the callee's: non-blocking, close-on-exec, TCP_NODELAY. */
typedef void (*listener_fn)(void *ctx, int fd, const struct sockaddr_storage *peer);

/* host: an address or a name (its first address); port 0: any. ERR_IO with why. */
MUST_CHECK enum err listener_create(struct loop_uv *loop, const char *host, uint16_t port, enum listener_kind kind,
                                    listener_fn on_accept, void *ctx, struct listener **out, struct err_info *info);
uint16_t listener_port(const struct listener *listener);
void listener_pause(struct listener *listener, uint32_t ms); /* the backlog waits */
/* No callback after this; freed on the loop. NULL is fine. */
void listener_close(struct listener *listener);

#endif
