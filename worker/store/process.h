/*
 * process.h - which process is this one, is that one on this machine still there, and how to end it.
 *
 * A process is known by boot ID, PID namespace, PID and start time, so that a PID used again is not mistaken for it. Whoever
 * runs under another boot ID or PID namespace is elsewhere: nothing is said about him, and nothing done to him.
 * Thread: any. Source: proc(5), pidfd_open(2), pid_namespaces(7).
 */
#ifndef PINION_WORKER_STORE_PROCESS_H
#define PINION_WORKER_STORE_PROCESS_H

#include "worker/store/store.h"

enum process_state {
	PROCESS_ELSEWHERE, /* another machine or PID namespace, or it can't be told */
	PROCESS_GONE,      /* it has ended: its files and locks are closed */
	PROCESS_RUNNING,
	PROCESS_STOPPED, /* by SIGSTOP or a debugger */
};

/* Fields that can't be found out stay empty: then everybody is elsewhere. */
void process_self(struct process_identity *out);

enum process_state process_look(const struct process_identity *who);

/* SIGKILL, after the identity was checked on the very process that the signal goes to; then waits up to wait_ms for its end.
 * PROCESS_GONE where it has ended, PROCESS_ELSEWHERE where no signal was sent (one elsewhere, one we may not signal, ourselves),
 * otherwise what it was: it is on its way. */
enum process_state process_kill(const struct process_identity *who, int wait_ms);

#endif
