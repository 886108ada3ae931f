/*
 * command.h - a client's commands: bound to their user, put in order where they touch one thread, carried out, answered.
 *
 * Commands that change an existing thread (run.start in it, rename, delete) are carried out one at a time per thread, so
 * that none sees what another is about to change. Thread: the loop's.
 */
#ifndef PINION_WORKER_COMMAND_H
#define PINION_WORKER_COMMAND_H

#include "worker/call.h"

/* Answers a REQUEST_COMMAND; ERR_FENCED where the user is not owned here under the command's epoch. */
void command_handle(struct call *call);

/* Pins the user to the call; it is listed as under way until command_unlist. */
void command_bind(struct call *call, struct user *user);
/* Undoes command_bind and lets a command that waited for this one go on. Harmless where there was no bind. */
void command_unlist(struct call *call);
/* Those of a lost user that wait for other commands: ERR_FENCED. The rest ends with its store operation. */
void command_fail_waiting(struct user *user);

/* run.start: start.c. */
void start_handle(struct call *call);

/* The thread a command names; zeroed for none, or for what is no ID of ours. */
struct id command_thread(const struct call *call);

#endif
