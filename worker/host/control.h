/*
 * control.h - the host's end of the control socket: commands in, each with the descriptor that came with it; reports out.
 *
 * SOCK_SEQPACKET: one message a packet. Never blocks: a worker that is stopped must not stop the host, whose dead man's
 * switch is there for that very case. Reports that don't go out wait in order; there are at most two a run.
 */
#ifndef PINION_HOST_CONTROL_H
#define PINION_HOST_CONTROL_H

#include "common/arena.h"
#include "proto/messages.h"

struct waiting_report;

struct control {
	int fd;
	struct arena arena;
	struct waiting_report *first, **last;
};

void control_init(struct control *control, int fd);
void control_finish(struct control *control); /* closes the socket */

/* The next command; *socket is the descriptor that came with it, the caller's from here on, or -1. ERR_AGAIN: none now;
 * ERR_DISCONNECTED: the worker is gone; ERR_PROTOCOL: it is not ours. The command views the arena until the next call. */
MUST_CHECK enum err control_receive(struct control *control, struct host_command *out, int *socket, struct err_info *info);

/* Sends, or keeps for control_flush where the socket is full. A worker that is gone is noticed by control_receive. */
void control_report(struct control *control, const struct host_report *report);
void control_flush(struct control *control);
bool control_has_waiting(const struct control *control);

#endif
