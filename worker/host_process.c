/* host_process.c - see host_process.h. */
#include "worker/host_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/arena.h"
#include "proto/codec.h"

#define CONTROL_FD 3 /* where the host expects it */
#define KINDNESS_MS 2000

struct waiting_command {
	struct waiting_command *next;
	struct bytes *bytes;
	int fd;
};

enum process_state { PROCESS_LIVE, PROCESS_DEAD };

struct host_process {
	struct loop_uv *loop;
	struct host_process_events events;
	void *ctx;
	enum process_state state;
	bool stopped; /* no callbacks any more */
	pid_t pid;
	int pidfd, control;
	uv_poll_t control_poll, exit_poll;
	unsigned handles_open;
	struct waiting_command *first, **last;
	struct arena arena;
};

static void on_control(uv_poll_t *poll, int status, int events);

/* ---- sending ---- */

static void drop_first(struct host_process *process)
{
	struct waiting_command *command = process->first;

	process->first = command->next;
	if (!process->first)
		process->last = &process->first;
	if (command->fd >= 0)
		close(command->fd);
	bytes_unref(command->bytes);
	free(command);
}

/* False: the socket is full. What can't be sent at all is as good as sent: the death of the host is on its way. */
static bool send_now(struct host_process *process, struct str packet, int fd)
{
	char ancillary[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {(void *)packet.p, packet.n};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (fd >= 0) {
		struct cmsghdr *c;

		message.msg_control = ancillary;
		message.msg_controllen = sizeof(ancillary);
		c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	n = sendmsg(process->control, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n >= 0 || (errno != EAGAIN && errno != EINTR && errno != ENOBUFS && errno != ETOOMANYREFS);
}

static void watch_control(struct host_process *process)
{
	(void)uv_poll_start(&process->control_poll, UV_READABLE | (process->first ? UV_WRITABLE : 0), on_control);
}

static void flush(struct host_process *process)
{
	while (process->first && send_now(process, bytes_str(process->first->bytes), process->first->fd))
		drop_first(process);
}

static void keep(struct host_process *process, struct str packet, int fd)
{
	struct waiting_command *command = calloc(1, sizeof(*command));

	if (!command)
		abort();
	command->bytes = bytes_create(packet.p, packet.n);
	command->fd = fd;
	*process->last = command;
	process->last = &command->next;
	watch_control(process);
}

void host_process_send(struct host_process *process, const struct host_command *command, int fd)
{
	struct buf packet = {0};

	if (process->state == PROCESS_LIVE && host_command_encode(command, &packet) == ERR_OK &&
	    (process->first || !send_now(process, buf_str(&packet), fd))) {
		keep(process, buf_str(&packet), fd);
		fd = -1;
	}
	if (fd >= 0)
		close(fd);
	buf_finish(&packet);
}

bool host_process_is_congested(const struct host_process *process)
{
	return process->first != NULL;
}

/* ---- receiving ---- */

static void describe_end(int status, char *out, size_t n)
{
	if (WIFSIGNALED(status))
		snprintf(out, n, "killed by signal %d", WTERMSIG(status));
	else
		snprintf(out, n, "exited with status %d", WEXITSTATUS(status));
}

/* Kills what may be left of it, reaps it and tells: `why`, or else how it ended. */
static void handle_death(struct host_process *process, const char *why)
{
	char how[64];
	int status = 0;

	if (process->state == PROCESS_DEAD)
		return;
	process->state = PROCESS_DEAD;
	(void)kill(process->pid, SIGKILL); /* not reaped yet: the id is still its own */
	while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
		;
	(void)uv_poll_stop(&process->control_poll);
	(void)uv_poll_stop(&process->exit_poll);
	describe_end(status, how, sizeof(how));
	if (!process->stopped)
		process->events.died(process->ctx, why ? why : how);
}

/* All that is there. ERR_AGAIN: that was it; else the process is dead or has to die. */
static enum err receive(struct host_process *process, struct err_info *info)
{
	struct host_report report;
	char bytes[HOST_MESSAGE_MAX];
	enum err err;

	while (!process->stopped) {
		ssize_t n = recv(process->control, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return ERR_AGAIN;
		/* It died with a tick unread: said once, before the packets that it had sent (unix(7) leaves that open). */
		if (n < 0 && errno == ECONNRESET)
			continue;
		if (n <= 0)
			return err_set(info, ERR_DISCONNECTED, NULL);
		if ((size_t)n > sizeof(bytes))
			return err_set(info, ERR_PROTOCOL, "a report is too long");
		arena_reset(&process->arena);
		err = host_report_decode(&process->arena, &report, str_of(bytes, (size_t)n), info);
		if (err != ERR_OK)
			return err;
		process->events.report(process->ctx, &report);
	}
	return ERR_AGAIN;
}

static void receive_or_bury(struct host_process *process)
{
	struct err_info info = {0};

	enum err err = process->state == PROCESS_LIVE ? receive(process, &info) : ERR_AGAIN;

	if (err != ERR_AGAIN)
		handle_death(process, err == ERR_DISCONNECTED ? NULL : info.text);
}

static void on_control(uv_poll_t *poll, int status, int events)
{
	struct host_process *process = poll->data;

	if (status == 0 && (events & UV_WRITABLE)) {
		flush(process);
		if (!process->first)
			watch_control(process);
	}
	receive_or_bury(process);
}

/* What it reported before it died is read first. */
static void bury(struct host_process *process)
{
	struct err_info info = {0};

	if (process->state == PROCESS_LIVE) {
		(void)!receive(process, &info);
		handle_death(process, NULL);
	}
}

static void on_exit_seen(uv_poll_t *poll, int status, int events)
{
	bury(poll->data);
}

void host_process_wait(struct host_process *process, int timeout_ms)
{
	struct pollfd ready[] = {{.fd = process->control, .events = POLLIN}, {.fd = process->pidfd, .events = POLLIN}};

	if (process->state != PROCESS_LIVE || poll(ready, 2, timeout_ms) <= 0)
		return;
	if (ready[1].revents)
		bury(process);
	else
		receive_or_bury(process);
}

/* ---- starting ---- */

/* The sanitizers' options are all that a host may know of our environment, and only where there are sanitizers. */
static char **make_environment(char *out[], size_t n)
{
	size_t used = 0;

#ifdef PINION_SANITIZED
	for (char **e = environ; *e && used + 1 < n; e++)
		if (strncmp(*e, "ASAN_", 5) == 0 || strncmp(*e, "UBSAN_", 6) == 0 || strncmp(*e, "LSAN_", 5) == 0 ||
		    strncmp(*e, "TSAN_", 5) == 0)
			out[used++] = *e;
#endif
	out[used] = NULL;
	return out;
}

static int spawn(pid_t *pid, const char *program, const char *state_dir, int control)
{
	char *const args[] = {(char *)program, NULL};
	char *environment[8];
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int rc;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, 2, 1);
	posix_spawn_file_actions_adddup2(&actions, control, CONTROL_FD);
	posix_spawn_file_actions_addchdir_np(&actions, state_dir);
	rc = posix_spawn(pid, program, &actions, &attr, args, make_environment(environment, 8));
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

static enum err launch(struct host_process *process, const char *program, const char *state_dir, struct err_info *info)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(info, ERR_IO, errno, "control socket");
	rc = spawn(&process->pid, program, state_dir, pair[1]);
	close(pair[1]);
	process->control = pair[0];
	if (rc != 0)
		return err_set_errno(info, rc == ENOENT || rc == EACCES || rc == ENOTDIR ? ERR_CONFIG : ERR_IO, rc,
		                     "start %s in %s", program, state_dir);
	process->pidfd = pidfd_open(process->pid, 0);
	if (process->pidfd >= 0)
		return ERR_OK;
	(void)err_set_errno(info, ERR_IO, errno, "pidfd");
	(void)kill(process->pid, SIGKILL);
	(void)waitpid(process->pid, NULL, 0);
	return ERR_IO;
}

static void free_process(struct host_process *process)
{
	while (process->first)
		drop_first(process);
	if (process->control >= 0)
		close(process->control);
	if (process->pidfd >= 0)
		close(process->pidfd);
	arena_finish(&process->arena);
	free(process);
}

enum err host_process_start(struct loop_uv *loop, const char *program, const char *state_dir,
                            const struct host_process_events *events, void *ctx, struct host_process **out, struct err_info *info)
{
	struct host_process *process = calloc(1, sizeof(*process));
	enum err err;

	*out = NULL;
	if (!process)
		return err_set(info, ERR_NO_MEMORY, NULL);
	*process = (struct host_process){.loop = loop, .events = *events, .ctx = ctx, .pidfd = -1, .control = -1};
	process->last = &process->first;
	arena_init(&process->arena, 64 << 10);
	err = launch(process, program, state_dir, info);
	if (err != ERR_OK) {
		free_process(process);
		return err;
	}
	if (uv_poll_init(loop->uv, &process->control_poll, process->control) != 0 ||
	    uv_poll_init(loop->uv, &process->exit_poll, process->pidfd) != 0)
		abort(); /* only for descriptors that epoll does not take */
	process->handles_open = 2;
	process->control_poll.data = process->exit_poll.data = process;
	watch_control(process);
	(void)uv_poll_start(&process->exit_poll, UV_READABLE, on_exit_seen);
	*out = process;
	return ERR_OK;
}

/* ---- stopping ---- */

static void on_handle_closed(uv_handle_t *handle)
{
	struct host_process *process = handle->data;

	if (--process->handles_open == 0)
		free_process(process);
}

/* The end of the control socket tells a host to stop, whatever else it is doing. */
static void end_kindly(struct host_process *process)
{
	struct host_command stop = {.kind = HOST_STOP};
	struct pollfd gone = {.fd = process->pidfd, .events = POLLIN};

	host_process_send(process, &stop, -1);
	(void)shutdown(process->control, SHUT_WR);
	if (poll(&gone, 1, KINDNESS_MS) <= 0)
		(void)kill(process->pid, SIGKILL);
	handle_death(process, NULL);
}

void host_process_stop(struct host_process *process)
{
	if (!process || process->stopped)
		return;
	process->stopped = true;
	if (process->state == PROCESS_LIVE)
		end_kindly(process);
	uv_close((uv_handle_t *)&process->control_poll, on_handle_closed);
	uv_close((uv_handle_t *)&process->exit_poll, on_handle_closed);
}
