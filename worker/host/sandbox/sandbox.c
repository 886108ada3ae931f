/* sandbox.c - the layers in their order, what is prepared once, and what is said about it. */
#include "worker/host/sandbox/layers.h"

#include <fcntl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_path(const char *path)
{
	return open(path, O_PATH | O_CLOEXEC);
}

/* The first field of statm is the size of the address space in pages (proc(5)). */
static uint64_t address_space(void)
{
	char text[64];
	ssize_t n;
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 64ull << 20; /* no /proc here: about what the program and its libraries take */
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	return strtoull(text, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

enum err sandbox_init(struct sandbox *sandbox, struct err_info *info)
{
	enum err err;

	*sandbox = (struct sandbox){.zoneinfo_fd = -1, .localtime_fd = -1};
	sandbox->landlock_abi = landlock_probe();
	if (sandbox->landlock_abi == 0)
		return err_set(
			info, ERR_CONFIG,
			"files: this kernel has no Landlock, or has it off (needed: Linux 5.13 with CONFIG_SECURITY_LANDLOCK and "
			"\"landlock\" in lsm=)");
	sandbox->zoneinfo_fd = open_path("/usr/share/zoneinfo");
	sandbox->localtime_fd = open_path("/etc/localtime");
	sandbox->base_vm = address_space();
	err = privileges_bound(info);
	return err == ERR_OK ? filter_build(&sandbox->filter, &sandbox->n_filter, info) : err;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void sandbox_finish(struct sandbox *sandbox)
{
	close_if_open(sandbox->zoneinfo_fd);
	close_if_open(sandbox->localtime_fd);
	free(sandbox->filter);
	*sandbox = (struct sandbox){.zoneinfo_fd = -1, .localtime_fd = -1};
}

/* seccomp last: the layers before need system calls that it denies. */
enum err sandbox_enter(const struct sandbox *sandbox, const struct sandbox_limits *limits, int scratch_fd, struct err_info *info)
{
	enum err err = limits_enter(sandbox, limits, info);

	if (err == ERR_OK)
		err = privileges_drop(info);
	if (err == ERR_OK)
		err = landlock_enter(sandbox, scratch_fd, info);
	if (err == ERR_OK)
		err = filter_enter(sandbox->filter, sandbox->n_filter, info);
	return err;
}

void sandbox_describe(const struct sandbox *sandbox, void (*add)(void *ctx, const char *property), void *ctx)
{
	char files[32];

	snprintf(files, sizeof(files), "files=landlock%d", sandbox->landlock_abi);
	add(ctx, files);
	add(ctx, sandbox->landlock_abi >= LANDLOCK_ABI_NET ? "net=seccomp+landlock" : "net=seccomp");
	add(ctx, sandbox->landlock_abi >= LANDLOCK_ABI_SCOPE ? "signals=seccomp+landlock" : "signals=seccomp");
	add(ctx, "processes=seccomp");
	add(ctx, "privileges=none");
	add(ctx, "cpu=rlimit+sched_idle");
	add(ctx, SANDBOX_SANITIZED ? "memory=unlimited(sanitizer)" : "memory=rlimit");
	add(ctx, "disk=rlimit");
	add(ctx, "descriptors=rlimit");
}
