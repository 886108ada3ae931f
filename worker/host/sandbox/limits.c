/*
 * limits.c - resource limits and privileges.
 *
 * RLIMIT_NPROC is not among them: it does nothing for root and couples all runs that share a uid. Processes are denied by
 * the seccomp filter instead. file_bytes bounds the one file that a run can write (spawn.h), hence all of them.
 */
#include "worker/host/sandbox/layers.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static enum err limit(const char *name, int which, uint64_t soft, uint64_t hard, struct err_info *info)
{
	struct rlimit value = {soft, hard};

	if (setrlimit(which, &value) == 0)
		return ERR_OK;
	return err_set_errno(info, ERR_INTERNAL, errno, "limit %s", name);
}

enum err limits_enter(const struct sandbox *sandbox, const struct sandbox_limits *limits, struct err_info *info)
{
	uint64_t memory = sandbox->base_vm + limits->memory_bytes;
	enum err err;

	if (!SANDBOX_SANITIZED && (err = limit("memory", RLIMIT_AS, memory, memory, info)) != ERR_OK)
		return err;
	/* SIGXCPU first, SIGKILL a second later. */
	if ((err = limit("cpu", RLIMIT_CPU, limits->cpu_seconds, limits->cpu_seconds + 1, info)) != ERR_OK)
		return err;
	if ((err = limit("file size", RLIMIT_FSIZE, limits->file_bytes, limits->file_bytes, info)) != ERR_OK)
		return err;
	if ((err = limit("descriptors", RLIMIT_NOFILE, limits->descriptors, limits->descriptors, info)) != ERR_OK)
		return err;
	if ((err = limit("core", RLIMIT_CORE, 0, 0, info)) != ERR_OK)
		return err;
	return limit("locked memory", RLIMIT_MEMLOCK, 0, 0, info);
}

/* Bounds only what an exec could gain, and the host does none: dropped there once, for all its children. EPERM: one who has
 * no capabilities to begin with. */
enum err privileges_bound(struct err_info *info)
{
	for (unsigned long cap = 0; cap < 64; cap++) {
		int held = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);

		if (held < 0) /* past the last capability of this kernel */
			break;
		if (held && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			return err_set_errno(info, ERR_INTERNAL, errno, "capability bounding set");
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return err_set_errno(info, ERR_INTERNAL, errno, "ambient capabilities");
	return ERR_OK;
}

enum err privileges_drop(struct err_info *info)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set_errno(info, ERR_INTERNAL, errno, "no_new_privs");
	if (syscall(SYS_capset, &header, none) < 0)
		return err_set_errno(info, ERR_INTERNAL, errno, "capabilities");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set_errno(info, ERR_INTERNAL, errno, "dumpable");
	return ERR_OK;
}
