/*
 * agent_run.h - one run as its worker sees it: the socket to the confined process, and what is known of its end.
 *
 *     ASKED ──SPAWNED──▶ ALIVE ──EXITED──▶ GONE      the process, as the agent host reports it
 *        ╰──────────────EXITED────────────▶ GONE
 *     OPEN ──end of file──▶ DRAINED                  the socket
 *
 * `ended` is called once both are through and every message that came before has been delivered; a paused run waits with
 * its last messages until it is no longer paused. All callbacks come from the loop, never from inside a call.
 */
#ifndef PINION_WORKER_AGENT_RUN_H
#define PINION_WORKER_AGENT_RUN_H

#include "common/arena.h"
#include "common/loop_uv.h"
#include "worker/agent_host.h"

/* What a run needs of the one who owns it. */
struct agent_run_owner {
	void (*kill)(struct agent_run_owner *owner, uint64_t slot);
	/* It is being freed: forget it now. */
	void (*gone)(struct agent_run_owner *owner, struct agent_run *run);
	struct loop_uv *loop;
	struct arena *arena; /* for decoding; reset at each message */
};

/* *run_end is the confined process's end of the socket, the caller's. ERR_IO: no socket (out of descriptors). */
MUST_CHECK enum err agent_run_create(struct agent_run_owner *owner, uint64_t slot, const struct agent_run_events *events,
                                     void *ctx, struct agent_run **out, int *run_end, struct err_info *info);
/* One that never gets a process: `ended` comes soon, with why. */
struct agent_run *agent_run_create_failed(struct agent_run_owner *owner, uint64_t slot, const struct agent_run_events *events,
                                          void *ctx, const char *why);

/* At once and without a word. Not from a callback of the run's: that is what agent_run_forget is for. */
void agent_run_destroy(struct agent_run *run);

uint64_t agent_run_slot(const struct agent_run *run);
void agent_run_spawned(struct agent_run *run);
/* The process is gone; `why` may be empty. */
void agent_run_exited(struct agent_run *run, const struct host_report *report);

/* The operations of agent_host.h. */
enum err agent_run_send(struct agent_run *run, const struct run_down *down);
void agent_run_pause(struct agent_run *run, bool paused);
void agent_run_kill(struct agent_run *run);
void agent_run_forget(struct agent_run *run);

#endif
