/* selftest.c - see selftest.h. */
#include "worker/host/selftest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "worker/host/spawn.h"

#define PATIENCE_MS 10000
#define VERDICT_END "end\n"

/* In the child. Its parent, the host, is the process that it must not reach. */
static void probe(enum agent_kind kind)
{
	struct buf verdict = {0};

	sandbox_check(getppid(), &verdict);
	buf_append_c(&verdict, VERDICT_END);
	(void)!write(RUN_SOCKET_FD, verdict.p, verdict.n);
	_exit(0);
}

/* Until end of file, which the child's death brings at the latest. */
static void read_verdict(int fd, char *out, size_t n)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	size_t have = 0;

	while (have + 1 < n && poll(&ready, 1, PATIENCE_MS) > 0) {
		ssize_t got = read(fd, out + have, n - 1 - have);

		if (got <= 0)
			break;
		have += (size_t)got;
	}
	out[have] = 0;
}

static enum err judge(int status_fd, char *verdict, struct err_info *info)
{
	char why[160];
	size_t n = strlen(verdict), end = strlen(VERDICT_END);

	if (spawn_status_read(status_fd, why, sizeof(why)) != SPAWN_CONFINED)
		return err_set(info, ERR_CONFIG, "%s", why);
	if (n < end || strcmp(verdict + n - end, VERDICT_END) != 0)
		return err_set(info, ERR_CONFIG, "the sandbox's self-test died half-way: %s", verdict);
	verdict[n - end] = 0;
	if (!verdict[0])
		return ERR_OK;
	for (char *p = verdict; *p; p++)
		if (*p == '\n')
			*p = p[1] ? ',' : 0;
	return err_set(info, ERR_CONFIG, "the sandbox does not hold here: %s", verdict);
}

enum err selftest_run(const struct sandbox *sandbox, struct scratch *scratch, struct err_info *info)
{
	struct spawn spawn = {.body = probe, .kind = AGENT_SCRIPT};
	struct spawned child;
	char verdict[512];
	int pair[2];
	enum err err;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(info, ERR_INTERNAL, errno, "self-test");
	spawn.socket = pair[1];
	err = spawn_confined(sandbox, scratch, &spawn, &child, info);
	close(pair[1]);
	if (err == ERR_OK) {
		read_verdict(pair[0], verdict, sizeof(verdict));
		(void)kill(child.pid, SIGKILL);
		(void)waitpid(child.pid, NULL, 0);
		err = judge(child.status_fd, verdict, info);
		close(child.status_fd);
		scratch_wipe(scratch, &child.dir);
	}
	close(pair[0]);
	return err;
}
