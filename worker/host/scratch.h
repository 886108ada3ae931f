/*
 * scratch.h - the runs' scratch directories: made, wiped, and those of a host that died cleaned up.
 *
 *   <state dir>/runs/host-<random>/<random>/data
 *
 * A run can write `data` and make nothing else, so that wiping is two calls and its disk is bounded. A host holds flock(2)
 * on its own directory for as long as it lives: one without the lock belonged to a host that is gone.
 */
#ifndef PINION_HOST_SCRATCH_H
#define PINION_HOST_SCRATCH_H

#include "common/err.h"

#define SCRATCH_NAME_LEN 16

struct scratch {
	int runs_fd, own_fd; /* -1: none */
	char own_name[8 + SCRATCH_NAME_LEN];
};

struct scratch_dir {
	char name[SCRATCH_NAME_LEN + 1];
};

/* Makes runs/ below the current directory and the host's own one in it. scratch_close takes a failed one too, and removes
 * what is empty. */
MUST_CHECK enum err scratch_open(struct scratch *scratch, struct err_info *info);
void scratch_close(struct scratch *scratch);

/* A new directory with its empty file; *fd is the caller's to close. */
MUST_CHECK enum err scratch_make(struct scratch *scratch, struct scratch_dir *dir, int *fd, struct err_info *info);
void scratch_wipe(struct scratch *scratch, const struct scratch_dir *dir);

/* Wipes what hosts that are gone have left. */
void scratch_sweep(struct scratch *scratch);

#endif
