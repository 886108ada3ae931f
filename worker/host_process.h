/*
 * host_process.h - one incarnation of the agent host's process, as its worker sees it: the child and the control socket.
 *
 * The process is exec'ed with an empty environment, its own process group, and nothing but the control socket, /dev/null as
 * input and the worker's stderr. Thread: the loop's.
 */
#ifndef PINION_WORKER_HOST_PROCESS_H
#define PINION_WORKER_HOST_PROCESS_H

#include "common/err.h"
#include "common/loop_uv.h"
#include "proto/messages.h"

struct host_process;

struct host_process_events {
	void (*report)(void *ctx, const struct host_report *report);
	/* It is gone and reaped, or broke the protocol and was killed. The last callback; then host_process_stop. */
	void (*died)(void *ctx, const char *why);
};

/* ERR_CONFIG: there is no such program or directory; ERR_IO: something else failed. */
MUST_CHECK enum err host_process_start(struct loop_uv *loop, const char *program, const char *state_dir,
                                       const struct host_process_events *events, void *ctx, struct host_process **out,
                                       struct err_info *info);

/* Sends in order, later where the socket is full. `fd`, if any, goes with the command; it is closed once it is sent, or
 * will not be. */
void host_process_send(struct host_process *process, const struct host_command *command, int fd);
bool host_process_is_congested(const struct host_process *process);

/* Blocks until something was reported, it died, or the time is up; for start-up, before the loop runs. */
void host_process_wait(struct host_process *process, int timeout_ms);

/* Ends the process, at first kindly (blocks up to 2 s, then SIGKILL), and frees; no callbacks any more. NULL is fine. */
void host_process_stop(struct host_process *process);

#endif
