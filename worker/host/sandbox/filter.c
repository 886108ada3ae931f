/*
 * filter.c - which system calls a run can make, by seccomp.
 *
 * An allow-list; all else answers EPERM, so that a run which tries reports it instead of dying. No socket, process, thread,
 * signal to another, trace, mount, key, ring or executable page is on it. A system call of another architecture kills.
 *
 * The program is made once, by libseccomp, and loaded by each child as it is, but for one constant: a process may signal
 * itself only (abort needs it), and its own id is known only after the fork. PID_PLACEHOLDER stands for it in the program.
 */
#include "worker/host/sandbox/layers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PID_PLACEHOLDER 0x5ace0bedu /* beyond any process id: they end at 2^22 */

static const char *const allowed[] = {
	/* its socket and its files; Landlock says which */
	"read",
	"write",
	"readv",
	"writev",
	"pread64",
	"pwrite64",
	"close",
	"open",
	"openat",
	"fstat",
	"newfstatat",
	"lseek",
	"ftruncate",
	"fsync",
	"fdatasync",
	"getdents64",
	"dup",
	"dup2",
	"dup3",
	"poll",
	"ppoll",
	/* memory */
	"brk",
	"munmap",
	"mremap",
	"madvise",
	/* time */
	"clock_gettime",
	"clock_getres",
	"clock_nanosleep",
	"nanosleep",
	"gettimeofday",
	"time",
	"restart_syscall",
	/* itself */
	"getpid",
	"gettid",
	"getppid",
	"getuid",
	"geteuid",
	"getgid",
	"getegid",
	"getrandom",
	"rt_sigaction",
	"rt_sigprocmask",
	"rt_sigreturn",
	"sigaltstack",
	"futex",
	"sched_yield",
	"exit",
	"exit_group",
#if SANDBOX_SANITIZED
	"sched_getaffinity",
	"getrlimit",
	"prlimit64",
	"readlink",
	"prctl",
	"getrusage",
	"sysinfo",
#endif
};

static int allow_names(scmp_filter_ctx ctx)
{
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
		int nr = seccomp_syscall_resolve_name(allowed[i]);
		int rc = nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);

		/* A name that this architecture lacks (open, dup2, time on arm64) has a negative pseudo number: nothing to allow. */
		if (rc < 0 && nr >= 0)
			return rc;
	}
	return 0;
}

static int allow_with_conditions(scmp_filter_ctx ctx)
{
	/* Not F_SETOWN: it would send signals. */
	static const int fcntls[] = {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD, F_DUPFD_CLOEXEC};
	int rc;

	for (size_t i = 0; i < sizeof(fcntls) / sizeof(fcntls[0]); i++)
		if ((rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
		                           SCMP_A1(SCMP_CMP_EQ, (unsigned)fcntls[i], 0))) < 0)
			return rc;
	if ((rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0))) < 0)
		return rc;
	if ((rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0))) < 0)
		return rc;
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, PID_PLACEHOLDER, 0));
}

/* libseccomp 2.5 exports to a descriptor only. */
static enum err export(scmp_filter_ctx ctx, struct sock_filter **filter, size_t *n, struct err_info *info) {
	struct stat st; enum err err = ERR_OK; int fd = memfd_create("filter", MFD_CLOEXEC);

	if (fd < 0 || seccomp_export_bpf(ctx, fd) < 0 || fstat(fd, &st) < 0 ||
	    st.st_size <= 0){err = err_set_errno(info, ERR_INTERNAL, errno, "seccomp: export");}
else
{
	*filter = malloc((size_t)st.st_size);
	*n = (size_t)st.st_size / sizeof(**filter);
	if (!*filter || pread(fd, *filter, (size_t)st.st_size, 0) != st.st_size)
		err = err_set_errno(info, ERR_INTERNAL, errno, "seccomp: read back");
}
if (fd >= 0)
	close(fd);
return err;
}

enum err filter_build(struct sock_filter **filter, size_t *n, struct err_info *info)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	enum err err = ERR_OK;
	int rc;

	if (!ctx)
		return err_set(info, ERR_INTERNAL, "seccomp: no filter");
	if ((rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS)) < 0 ||
	    (rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2)) < 0 || (rc = allow_names(ctx)) < 0 ||
	    (rc = allow_with_conditions(ctx)) < 0)
		err = err_set_errno(info, ERR_INTERNAL, -rc, "seccomp: rules");
	if (err == ERR_OK)
		err = export(ctx, filter, n, info);
	seccomp_release(ctx);
	return err;
}

static size_t fill_in_pid(struct sock_filter *filter, size_t n)
{
	size_t found = 0;

	for (size_t i = 0; i < n; i++)
		if (BPF_CLASS(filter[i].code) == BPF_JMP && filter[i].k == PID_PLACEHOLDER) {
			filter[i].k = (uint32_t)getpid();
			found++;
		}
	return found;
}

enum err filter_enter(const struct sock_filter *filter, size_t n, struct err_info *info)
{
	struct sock_filter own[BPF_MAXINSNS];
	struct sock_fprog program = {.len = (unsigned short)n, .filter = own};

	if (n > BPF_MAXINSNS)
		return err_set(info, ERR_INTERNAL, "seccomp: the filter is too long");
	memcpy(own, filter, n * sizeof(own[0]));
	if (fill_in_pid(own, n) == 0)
		return err_set(info, ERR_INTERNAL, "seccomp: the filter has no place for the process id");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		return err_set_errno(info, ERR_INTERNAL, errno, "seccomp: load");
	return ERR_OK;
}
