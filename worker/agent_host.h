/*
 * agent_host.h - the worker's end of the agent host: start runs, speak with them, hear how they ended.
 *
 * An operations struct: the real one exec's pinion-agent-host and speaks proto/ over its control socket and each run's own
 * socketpair; the simulation runs agents in process. Callbacks run on the loop's thread, never inside a call of ours.
 */
#ifndef PINION_WORKER_AGENT_HOST_H
#define PINION_WORKER_AGENT_HOST_H

#include "common/err.h"
#include "common/loop.h"
#include "proto/messages.h"

struct agent_host;
struct agent_run; /* one confined process and its socket */

struct agent_limits {
	uint64_t memory_bytes, cpu_seconds, file_bytes;
	uint32_t descriptors;
};

struct run_exit {
	bool spawned;    /* false: it never ran (`why` says) */
	int exit_status; /* where signal is 0 */
	int signal;      /* SIGSEGV, SIGXCPU, SIGKILL, … */
	uint64_t cpu_ms, peak_rss_bytes;
	bool protocol_error; /* it broke the framing or a bound, and was killed for that */
	char why[160];       /* text for logs and agent_failed, may be empty */
};

struct agent_run_events {
	/* A message of the run's, decoded; views for this call. Order is the run's. Not called while paused. */
	void (*message)(void *ctx, const struct run_up *up);
	/* The last callback, exactly once: process reaped and socket drained (all messages it wrote came before).
	 * `run` is freed afterwards. */
	void (*ended)(void *ctx, const struct run_exit *exit);
};

struct agent_host_ops {
	/* Asks for a confined process. Never fails at once: trouble comes as ended{spawned false}. */
	struct agent_run *(*spawn)(struct agent_host *host, enum agent_kind kind, const struct agent_limits *limits,
	                           const struct agent_run_events *events, void *ctx);
	/* May be called right after spawn: bytes wait in the socketpair or in a queue. ERR_TOO_LARGE by codec bounds. */
	enum err (*send)(struct agent_run *run, const struct run_down *down);
	/* Backpressure: stop or go on reading the run's socket. */
	void (*pause)(struct agent_run *run, bool paused);
	/* SIGKILL. `ended` follows, unless the run is forgotten first. */
	void (*kill)(struct agent_run *run);
	/* Kill, and no more callbacks for it. */
	void (*forget)(struct agent_run *run);
	bool (*is_ready)(const struct agent_host *host, const char **why_not);
	/* The sandbox's properties in force, "files=landlock net=seccomp …", from the host's READY. */
	const char *(*properties)(const struct agent_host *host);
	void (*destroy)(struct agent_host *host); /* stops the host and all its runs */
};

struct agent_host {
	const struct agent_host_ops *ops;
};

struct loop_uv;

struct agent_host_config {
	const char *program;   /* path of pinion-agent-host; NULL: beside our own executable */
	const char *state_dir; /* scratch directories are made and wiped below it */
	uint32_t lease_ms;     /* the dead man's switch fires after half of this without a tick */
};

/* Starts the host by exec; must come before NNG starts and before any secret is read. A host that dies is started again;
 * its runs end. */
MUST_CHECK enum err agent_host_start(struct loop_uv *loop, const struct agent_host_config *config, struct agent_host **out,
                                     struct err_info *info);

#endif
