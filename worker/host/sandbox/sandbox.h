/*
 * sandbox.h - confines the calling process for good: resource limits, capabilities, Landlock, seccomp.
 *
 * What costs time and is the same for every run is prepared once by the host (struct sandbox); a forked child then enters
 * it before it has read a byte of its input. Every layer that the kernel has is used; what must hold is not looked up but
 * tried, by sandbox_check in a child that has entered. Fails closed: an error means that the child must exit.
 *
 * Known limit: Landlock governs what a path's content is used for, not stat(2): a run can learn that a path exists.
 *
 * Sources: landlock(7), seccomp(2), capabilities(7), setrlimit(2).
 */
#ifndef PINION_HOST_SANDBOX_H
#define PINION_HOST_SANDBOX_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/err.h"

/* With a sanitizer in the process, address space can't be limited and the runtime needs more system calls. */
#ifdef PINION_SANITIZED
#define SANDBOX_SANITIZED 1
#else
#define SANDBOX_SANITIZED 0
#endif

struct sandbox {
	int landlock_abi;
	int zoneinfo_fd, localtime_fd; /* O_PATH; -1 where the machine has none */
	struct sock_filter *filter;    /* owned */
	size_t n_filter;
	uint64_t base_vm; /* bytes of address space that a child has before its agent asks for any */
};

struct sandbox_limits {
	uint64_t memory_bytes, cpu_seconds, file_bytes;
	uint32_t descriptors;
};

/* In the host, once. ERR_CONFIG: the kernel lacks what isolation needs (says what). sandbox_finish takes a failed one too. */
MUST_CHECK enum err sandbox_init(struct sandbox *sandbox, struct err_info *info);
void sandbox_finish(struct sandbox *sandbox);

/* In the child: `scratch_fd` is the one directory that it may write in. Closes neither that nor anything else. */
MUST_CHECK enum err sandbox_enter(const struct sandbox *sandbox, const struct sandbox_limits *limits, int scratch_fd,
                                  struct err_info *info);

/* In a child that has entered: tries what must be denied. Appends a line for each thing that is not, "files: open /etc/passwd";
 * nothing appended means that it holds. `bystander` is a process that must be out of reach. */
void sandbox_check(int bystander, struct buf *out);

/* Calls add("files=landlock7") and so on, for all that is in force. */
void sandbox_describe(const struct sandbox *sandbox, void (*add)(void *ctx, const char *property), void *ctx);

#endif
