/* layers.h - the parts of sandbox.c: each one kernel mechanism. For sandbox.c only. */
#ifndef PINION_HOST_LAYERS_H
#define PINION_HOST_LAYERS_H

#include "worker/host/sandbox/sandbox.h"

/* Resource limits, capabilities, no_new_privs. privileges_bound is the host's part. */
MUST_CHECK enum err privileges_bound(struct err_info *info);
MUST_CHECK enum err limits_enter(const struct sandbox *sandbox, const struct sandbox_limits *limits, struct err_info *info);
MUST_CHECK enum err privileges_drop(struct err_info *info);

/* 0 where the kernel has no Landlock or has it off. */
int landlock_probe(void);
MUST_CHECK enum err landlock_enter(const struct sandbox *sandbox, int scratch_fd, struct err_info *info);
#define LANDLOCK_ABI_NET 4
#define LANDLOCK_ABI_SCOPE 6

MUST_CHECK enum err filter_build(struct sock_filter **filter, size_t *n, struct err_info *info);
MUST_CHECK enum err filter_enter(const struct sock_filter *filter, size_t n, struct err_info *info);

#endif
