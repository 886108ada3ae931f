/*
 * check.c - tries what a run must not be able to do, from inside.
 *
 * Each line says which property does not hold and what was possible. Only the attempt counts: a kernel that accepts a
 * ruleset and a filter and then does not enforce them is noticed here.
 */
#include "worker/host/sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void check_opens(struct buf *out)
{
	static const char *const paths[] = {"/",  "/etc/passwd", "/proc/self/environ", "/proc/1/status", "/dev/null",
	                                    "..", "/tmp"};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			buf_printf(out, "files: open %s\n", paths[i]);
			close(fd);
		}
	}
}

static void check_creation(struct buf *out)
{
	int fd = open("other", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0) {
		buf_append_c(out, "files: create a file\n");
		close(fd);
	}
}

static void check_network(struct buf *out)
{
	static const struct {
		int family, type;
		const char *name;
	} kinds[] = {{AF_INET, SOCK_STREAM, "TCP"},
	             {AF_INET6, SOCK_DGRAM, "UDP"},
	             {AF_UNIX, SOCK_STREAM, "unix"},
	             {AF_NETLINK, SOCK_RAW, "netlink"}};
	int pair[2];

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		int fd = socket(kinds[i].family, kinds[i].type | SOCK_CLOEXEC, 0);

		if (fd >= 0) {
			buf_printf(out, "net: a %s socket\n", kinds[i].name);
			close(fd);
		}
	}
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0)
		buf_append_c(out, "net: a socket pair\n");
}

static void check_processes(int bystander, struct buf *out)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)&byte, 1};
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	if (child > 0) {
		buf_append_c(out, "processes: fork\n");
		(void)waitpid(child, NULL, 0);
	}
	if (kill(bystander, 0) == 0 || syscall(SYS_tgkill, bystander, bystander, 0) == 0)
		buf_append_c(out, "signals: reach another process\n");
	if (ptrace(PTRACE_SEIZE, bystander, NULL, NULL) == 0)
		buf_append_c(out, "processes: trace another one\n");
	if (process_vm_readv(bystander, &here, 1, &there, 1, 0) >= 0)
		buf_append_c(out, "processes: read another one's memory\n");
	/* Would not come back if it were possible: the host sees that no verdict arrives. */
	(void)execve("/bin/true", (char *const[]){"true", NULL}, (char *const[]){NULL});
}

static void check_memory(struct buf *out)
{
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
		buf_append_c(out, "processes: an executable page\n");
}

void sandbox_check(int bystander, struct buf *out)
{
	check_opens(out);
	check_creation(out);
	check_network(out);
	check_processes(bystander, out);
	check_memory(out);
}
