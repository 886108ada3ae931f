#include "worker/store/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <unistd.h>

/* A small file's text; empty where it can't be read. */
static void read_text(const char *path, char *out, size_t n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, out, n - 1);

	out[got > 0 ? got : 0] = 0;
	if (fd >= 0)
		close(fd);
}

/* State letter and start time (fields 3 and 22) of /proc/PID/stat. The name in between may hold anything: look behind its
 * last parenthesis. */
static bool read_stat(uint32_t pid, char *state, uint64_t *start_time)
{
	char path[40], line[1024];
	const char *p;

	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/stat", pid);
	read_text(path, line, sizeof(line));
	p = strrchr(line, ')');
	if (!p || p[1] != ' ' || !p[2])
		return false;
	p += 2;
	*state = *p;
	for (int field = 3; field < 22; field++) {
		p = strchr(p, ' ');
		if (!p)
			return false;
		p++;
	}
	*start_time = strtoull(p, NULL, 10);
	return true;
}

void process_self(struct process_identity *out)
{
	char state;
	ssize_t n;

	memset(out, 0, sizeof(*out));
	out->pid = (uint32_t)getpid();
	read_text("/proc/sys/kernel/random/boot_id", out->boot_id, sizeof(out->boot_id));
	out->boot_id[strcspn(out->boot_id, "\n")] = 0;
	n = readlink("/proc/self/ns/pid", out->pid_namespace, sizeof(out->pid_namespace) - 1);
	out->pid_namespace[n > 0 ? n : 0] = 0;
	if (!read_stat(out->pid, &state, &out->start_time))
		out->start_time = 0;
}

static bool is_here(const struct process_identity *who)
{
	struct process_identity self;

	process_self(&self);
	return who->pid && who->start_time && self.start_time && self.boot_id[0] && self.pid_namespace[0] &&
	       strcmp(who->boot_id, self.boot_id) == 0 && strcmp(who->pid_namespace, self.pid_namespace) == 0;
}

static bool has_ended(int pidfd, int wait_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int n;

	do
		n = poll(&p, 1, wait_ms);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

/* Opens the process, then checks that it is the one meant: from then on the descriptor can't come to mean another. */
static enum process_state open_checked(const struct process_identity *who, int *pidfd)
{
	uint64_t start_time;
	char state;

	*pidfd = -1;
	if (!is_here(who))
		return PROCESS_ELSEWHERE;
	*pidfd = pidfd_open((pid_t)who->pid, 0);
	if (*pidfd < 0) /* EINVAL, ENOENT: the number is a thread's of another process now */
		return errno == ESRCH || errno == EINVAL || errno == ENOENT ? PROCESS_GONE : PROCESS_ELSEWHERE;
	if (!read_stat(who->pid, &state, &start_time)) /* reaped meanwhile, or hidden from us */
		return has_ended(*pidfd, 0) ? PROCESS_GONE : PROCESS_ELSEWHERE;
	if (start_time != who->start_time || has_ended(*pidfd, 0))
		return PROCESS_GONE;
	return state == 'T' || state == 't' ? PROCESS_STOPPED : PROCESS_RUNNING;
}

enum process_state process_look(const struct process_identity *who)
{
	int pidfd;
	enum process_state state = open_checked(who, &pidfd);

	if (pidfd >= 0)
		close(pidfd);
	return state;
}

enum process_state process_kill(const struct process_identity *who, int wait_ms)
{
	int pidfd;
	enum process_state state = open_checked(who, &pidfd);

	if (state == PROCESS_RUNNING || state == PROCESS_STOPPED) {
		if (who->pid == (uint32_t)getpid() || pidfd_send_signal(pidfd, SIGKILL, NULL, 0) != 0)
			state = PROCESS_ELSEWHERE;
		else if (has_ended(pidfd, wait_ms))
			state = PROCESS_GONE;
	}
	if (pidfd >= 0)
		close(pidfd);
	return state;
}
