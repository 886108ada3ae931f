/* program.h - pinion-worker from its command line to its exit status, with a seam for tests. */
#ifndef PINION_WORKER_PROGRAM_H
#define PINION_WORKER_PROGRAM_H

#include "worker/gateway_link.h"

struct loop_uv;

/* NULL members are left out. */
struct worker_hooks {
	/* Given the transport just made, returns the one to use: itself, or one around it (which then owns it). */
	struct gateway_transport *(*wrap_transport)(struct gateway_transport *inner, struct loop_uv *loop);
};

/* Runs until it has drained. Exit status: 0 drained or checked, 1 could not start, 2 bad configuration, 3 fenced (another
 * worker of this name has started). hooks may be NULL. */
int worker_program(int argc, char **argv, const struct worker_hooks *hooks);

#endif
