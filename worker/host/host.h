/*
 * host.h - the agent host: forks confined runs for its worker, watches over them, reaps them.
 *
 * One thread, one epoll loop. Its worker speaks to it over one control socket (proto/messages.h, "worker <-> agent host"),
 * on which no byte of a user's ever comes: so a child inherits nothing of another user. It is also
 * - the dead man's switch: without a tick for half a lease it kills all runs, for its worker may have been overtaken;
 * - the scheduler (sched.h) and the reaper.
 * When the worker is gone (end of the control socket) or says stop, it kills all runs, wipes their scratch and returns.
 */
#ifndef PINION_HOST_HOST_H
#define PINION_HOST_HOST_H

#define HOST_CONTROL_FD 3

/* Serves the worker at control_fd (a SOCK_SEQPACKET socket) from the current directory, which is the state directory.
 * Returns the program's exit status: 0, or 1 where the sandbox does not hold here (the worker is told why). */
int host_serve(int control_fd);

#endif
