/*
 * landlock.c - which files, ports and processes a run can reach, by Landlock.
 *
 * Everything that the kernel's version of Landlock can deny is denied, but for: reading the time zone database, and reading
 * and writing the file in the run's own scratch directory. There it can make nothing new, so that its disk is bounded by
 * the size of that file.
 *
 * The constants are spelled out here since the headers of a supported system may be older than its kernel. Source:
 * landlock(7), include/uapi/linux/landlock.h.
 */
#include "worker/host/sandbox/layers.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

#define CREATE_VERSION 1u
#define RULE_PATH_BENEATH 1

#define FS_WRITE_FILE (1ull << 1)
#define FS_READ_FILE (1ull << 2)
#define FS_READ_DIR (1ull << 3)
#define FS_ABI_1 ((1ull << 13) - 1)
#define FS_REFER (1ull << 13)     /* ABI 2 */
#define FS_TRUNCATE (1ull << 14)  /* ABI 3 */
#define FS_IOCTL_DEV (1ull << 15) /* ABI 5 */
#define NET_BIND_TCP (1ull << 0)
#define NET_CONNECT_TCP (1ull << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ull << 0)
#define SCOPE_SIGNAL (1ull << 1)

struct ruleset_attr {
	uint64_t handled_fs, handled_net, scoped;
};

struct path_attr {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));

int landlock_probe(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);

	return abi > 0 ? (int)abi : 0;
}

static uint64_t fs_rights(int abi)
{
	return FS_ABI_1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) | (abi >= 5 ? FS_IOCTL_DEV : 0);
}

static int create_ruleset(int abi)
{
	struct ruleset_attr attr = {.handled_fs = fs_rights(abi)};
	size_t size = sizeof(attr.handled_fs);

	if (abi >= LANDLOCK_ABI_NET) {
		attr.handled_net = NET_BIND_TCP | NET_CONNECT_TCP;
		size += sizeof(attr.handled_net);
	}
	if (abi >= LANDLOCK_ABI_SCOPE) {
		attr.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
		size += sizeof(attr.scoped);
	}
	return (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
}

static enum err allow(int ruleset, int fd, uint64_t rights, const char *what, struct err_info *info)
{
	struct path_attr attr = {rights, fd};

	if (fd < 0 || syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &attr, 0) == 0)
		return ERR_OK;
	return err_set_errno(info, ERR_INTERNAL, errno, "landlock: rule for %s", what);
}

static enum err allow_all(const struct sandbox *sandbox, int ruleset, int scratch_fd, struct err_info *info)
{
	uint64_t write = FS_READ_FILE | FS_READ_DIR | FS_WRITE_FILE | (fs_rights(sandbox->landlock_abi) & FS_TRUNCATE);
	enum err err;

	if ((err = allow(ruleset, sandbox->zoneinfo_fd, FS_READ_FILE | FS_READ_DIR, "the time zones", info)) != ERR_OK)
		return err;
	if ((err = allow(ruleset, sandbox->localtime_fd, FS_READ_FILE, "the local time zone", info)) != ERR_OK)
		return err;
	return allow(ruleset, scratch_fd, write, "the scratch directory", info);
}

enum err landlock_enter(const struct sandbox *sandbox, int scratch_fd, struct err_info *info)
{
	int ruleset = create_ruleset(sandbox->landlock_abi);
	enum err err;

	if (ruleset < 0)
		return err_set_errno(info, ERR_INTERNAL, errno, "landlock: ruleset");
	err = allow_all(sandbox, ruleset, scratch_fd, info);
	if (err == ERR_OK && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		err = err_set_errno(info, ERR_INTERNAL, errno, "landlock: restrict");
	close(ruleset);
	return err;
}
