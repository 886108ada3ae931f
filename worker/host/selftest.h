/*
 * selftest.h - proves at start-up that the sandbox holds here: a confined child tries what must be denied.
 */
#ifndef PINION_HOST_SELFTEST_H
#define PINION_HOST_SELFTEST_H

#include "worker/host/sandbox/sandbox.h"
#include "worker/host/scratch.h"

/* Blocks for as long as one child takes, at most 10 s. ERR_CONFIG: something was possible that must not be ("files: open
 * /etc/passwd"), or the child could not be confined. */
MUST_CHECK enum err selftest_run(const struct sandbox *sandbox, struct scratch *scratch, struct err_info *info);

#endif
