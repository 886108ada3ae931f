/*
 * spawn.h - forks one confined process.
 *
 * The child holds no descriptor but its socket (3) and /dev/null (0, 1, 2), no environment, and is in its own scratch
 * directory; it has entered the sandbox before `body` runs, and never returns from it. It says so on a pipe: one '+' when
 * it is confined, or a text that says why it is not; it exits then without having run.
 *
 * It gets a process group of its own, so that a terminal's Ctrl-C does not reach it, but no session: with a session the
 * kernel would give it its own autogroup, in which SCHED_IDLE yields to nobody (sched(7), "The autogroup feature").
 */
#ifndef PINION_HOST_SPAWN_H
#define PINION_HOST_SPAWN_H

#include <sys/types.h>
#include "proto/messages.h"
#include "worker/host/sandbox/sandbox.h"
#include "worker/host/scratch.h"

#define RUN_SOCKET_FD 3

struct spawn {
	struct sandbox_limits limits; /* a zero is replaced by the default that protocol.md states */
	enum agent_kind kind;
	int socket; /* stays the caller's */
	void (*body)(enum agent_kind kind);
};

struct spawned {
	pid_t pid;
	int status_fd;          /* the pipe's reading end, non-blocking; the caller closes it */
	struct scratch_dir dir; /* the caller wipes it once the process is gone */
};

/* ERR_IO with why; nothing is left behind then. */
MUST_CHECK enum err spawn_confined(const struct sandbox *sandbox, struct scratch *scratch, const struct spawn *spawn,
                                   struct spawned *out, struct err_info *info);

enum spawn_status { SPAWN_PENDING, SPAWN_CONFINED, SPAWN_FAILED };

/* Reads what the child said so far. SPAWN_FAILED with why in `why` (n bytes), also where it died before it said a thing. */
enum spawn_status spawn_status_read(int status_fd, char *why, size_t n);

#endif
