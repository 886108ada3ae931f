/* program.h - pinion-gateway from its command line to its exit status, with a seam for tests. */
#ifndef PINION_GATEWAY_PROGRAM_H
#define PINION_GATEWAY_PROGRAM_H

#include "gateway/worker_link.h"

struct loop_uv;

/* NULL members are left out. */
struct gateway_hooks {
	/* Given the transport just made, returns the one to use: itself, or one around it (which then owns it). */
	struct worker_transport *(*wrap_transport)(struct worker_transport *inner, struct loop_uv *loop);
};

/* Runs until it has drained. Exit status: 0 drained or checked, 1 could not start, 2 bad configuration. hooks may be NULL. */
int gateway_program(int argc, char **argv, const struct gateway_hooks *hooks);

#endif
