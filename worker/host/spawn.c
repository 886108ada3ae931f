/* spawn.c - see spawn.h. */
#include "worker/host/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define FAILED_EXIT 125

static void fill_defaults(struct sandbox_limits *limits)
{
	if (limits->memory_bytes == 0)
		limits->memory_bytes = 256ull << 20;
	if (limits->cpu_seconds == 0)
		limits->cpu_seconds = 60;
	if (limits->file_bytes == 0)
		limits->file_bytes = 64ull << 20;
	if (limits->descriptors == 0)
		limits->descriptors = 64;
}

/* ---- in the child ---- */

static _Noreturn void give_up(int status_fd, const char *text)
{
	(void)!write(status_fd, text, strlen(text));
	_exit(FAILED_EXIT);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		(void)signal(s, SIG_DFL);
	/* A write past a limit, or to a worker that is gone, is an error to handle, not a death. */
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static int compare_ints(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Sorts `keep`, whose negative entries mean nothing. */
static bool close_all_but(int *keep, size_t n)
{
	unsigned from = 0;

	qsort(keep, n, sizeof(keep[0]), compare_ints);
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < 0)
			continue;
		if ((unsigned)keep[i] > from && close_range(from, (unsigned)keep[i] - 1, 0) < 0)
			return false;
		from = (unsigned)keep[i] + 1;
	}
	return close_range(from, ~0u, 0) == 0;
}

static bool stand_on_dev_null(void)
{
	int fd = open("/dev/null", O_RDWR);

	return fd >= 0 && dup2(fd, 0) == 0 && dup2(fd, 1) == 1 && dup2(fd, 2) == 2 && (fd <= 2 || close(fd) == 0);
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

static bool keep_socket_only(const struct sandbox *sandbox, int socket, int status_fd, int scratch_fd)
{
	close_if_open(sandbox->zoneinfo_fd);
	close_if_open(sandbox->localtime_fd);
	close(scratch_fd);
	close(status_fd);
	if (socket == RUN_SOCKET_FD)
		return true;
	return dup2(socket, RUN_SOCKET_FD) == RUN_SOCKET_FD && close(socket) == 0;
}

static _Noreturn void child_main(const struct sandbox *sandbox, const struct spawn *spawn, pid_t host, int scratch_fd,
                                 int status_fd)
{
	int keep[] = {0, 1, 2, spawn->socket, scratch_fd, status_fd, sandbox->zoneinfo_fd, sandbox->localtime_fd};
	struct err_info info = {0};
	char text[sizeof(info.text) + 16];

	reset_signals();
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || setpgid(0, 0) < 0)
		give_up(status_fd, "sandbox: could not be bound to the host");
	if (!stand_on_dev_null() || !close_all_but(keep, sizeof(keep) / sizeof(keep[0])) || fchdir(scratch_fd) < 0)
		give_up(status_fd, "sandbox: the descriptors could not be closed");
	if (!SANDBOX_SANITIZED && clearenv() != 0)
		give_up(status_fd, "sandbox: the environment could not be emptied");
	if (sandbox_enter(sandbox, &spawn->limits, scratch_fd, &info) != ERR_OK) {
		snprintf(text, sizeof(text), "sandbox: %s", info.text);
		give_up(status_fd, text);
	}
	/* The host died before the signal of its death was asked for: nobody is left to be told. */
	if (getppid() != host || write(status_fd, "+", 1) != 1)
		_exit(FAILED_EXIT);
	if (!keep_socket_only(sandbox, spawn->socket, status_fd, scratch_fd))
		_exit(FAILED_EXIT);
	spawn->body(spawn->kind);
	_exit(FAILED_EXIT);
}

/* ---- in the host ---- */

static enum err fork_child(const struct sandbox *sandbox, const struct spawn *spawn, int scratch_fd, struct spawned *out,
                           struct err_info *info)
{
	pid_t host = getpid();
	int status[2];

	if (pipe2(status, O_CLOEXEC) < 0)
		return err_set_errno(info, ERR_IO, errno, "pipe");
	out->pid = fork();
	if (out->pid == 0)
		child_main(sandbox, spawn, host, scratch_fd, status[1]);
	close(status[1]);
	if (out->pid < 0) {
		(void)err_set_errno(info, ERR_IO, errno, "fork");
		close(status[0]);
		return ERR_IO;
	}
	(void)fcntl(status[0], F_SETFL, O_NONBLOCK);
	out->status_fd = status[0];
	return ERR_OK;
}

enum err spawn_confined(const struct sandbox *sandbox, struct scratch *scratch, const struct spawn *spawn, struct spawned *out,
                        struct err_info *info)
{
	struct spawn filled = *spawn;
	int scratch_fd;
	enum err err;

	fill_defaults(&filled.limits);
	err = scratch_make(scratch, &out->dir, &scratch_fd, info);
	if (err != ERR_OK)
		return err;
	err = fork_child(sandbox, &filled, scratch_fd, out, info);
	close(scratch_fd);
	if (err != ERR_OK)
		scratch_wipe(scratch, &out->dir);
	return err;
}

enum spawn_status spawn_status_read(int status_fd, char *why, size_t n)
{
	ssize_t got = read(status_fd, why, n - 1);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return SPAWN_PENDING;
	if (got == 1 && why[0] == '+')
		return SPAWN_CONFINED;
	if (got > 0)
		why[got] = 0;
	else
		snprintf(why, n, "sandbox: the process died before it was confined");
	return SPAWN_FAILED;
}
