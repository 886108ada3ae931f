#include "tests/lib/process.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/lib/util.h"

#define WATCHED_MAX 64

/* Ends that were reaped while another process was waited for. */
static struct {
	pid_t pid;
	int status;
} ends[WATCHED_MAX];

static pid_t watched[WATCHED_MAX];

void processes_adopt(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
}

static void watch(pid_t pid)
{
	for (size_t i = 0; i < WATCHED_MAX; i++)
		if (!watched[i]) {
			watched[i] = pid;
			return;
		}
	abort();
}

static void note_end(pid_t pid, int status)
{
	for (size_t i = 0; i < WATCHED_MAX; i++) {
		if (watched[i] != pid)
			continue;
		watched[i] = 0;
		for (size_t k = 0; k < WATCHED_MAX; k++)
			if (!ends[k].pid) {
				ends[k].pid = pid;
				ends[k].status = status;
				return;
			}
	}
}

static void reap(void)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		note_end(pid, status);
}

static void run_child(const struct process *p, const char *const *argv, pid_t parent)
{
	int log = open(p->log, O_WRONLY | O_CREAT | O_APPEND, 0600), nothing = open("/dev/null", O_RDONLY);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || log < 0 || nothing < 0)
		_exit(126);
	dup2(nothing, 0);
	dup2(log, 1);
	dup2(log, 2);
	signal(SIGPIPE, SIG_DFL);
	if (close_range(3, ~0u, 0) != 0)
		_exit(126);
	execvp(argv[0], (char *const *)argv);
	dprintf(2, "exec %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

void process_start(struct process *p, const char *const *argv)
{
	pid_t parent = getpid();
	fflush(NULL);
	p->pid = fork();
	if (p->pid < 0)
		abort();
	if (p->pid == 0)
		run_child(p, argv, parent);
	watch(p->pid);
}

bool process_has_ended(struct process *p)
{
	if (!p->pid)
		return true;
	reap();
	for (size_t i = 0; i < WATCHED_MAX; i++)
		if (ends[i].pid == p->pid) {
			p->status = ends[i].status;
			ends[i].pid = 0;
			p->pid = 0;
			return true;
		}
	return false;
}

bool process_wait(struct process *p, unsigned timeout_ms)
{
	uint64_t deadline = clock_ms() + timeout_ms;
	while (!process_has_ended(p)) {
		if (clock_ms() >= deadline)
			return false;
		pause_ms(5);
	}
	return true;
}

void process_kill(struct process *p)
{
	if (p->pid)
		kill(p->pid, SIGKILL);
	process_wait(p, 10000);
}

static void describe(pid_t pid, char *out, size_t n)
{
	char path[64], line[128] = "";
	snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
	FILE *f = fopen(path, "r");
	size_t used = strlen(out);
	if (f) {
		size_t got = fread(line, 1, sizeof line - 1, f);
		for (size_t i = 0; i + 1 < got; i++)
			if (!line[i])
				line[i] = ' ';
		fclose(f);
	}
	snprintf(out + used, n - used, "%s%d (%s)", used ? ", " : "", (int)pid, line);
}

size_t process_children(pid_t pid, pid_t *out, size_t n)
{
	char path[64];
	size_t count = 0;
	int child;
	snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
	FILE *f = fopen(path, "r");
	while (f && fscanf(f, "%d", &child) == 1) {
		if (count < n)
			out[count] = child;
		count++;
	}
	if (f)
		fclose(f);
	return count;
}

size_t processes_left(char *out, size_t n)
{
	pid_t pids[64];
	reap();
	size_t count = process_children(getpid(), pids, 64);
	for (size_t i = 0; out && i < count && i < 64; i++)
		describe(pids[i], out, n);
	return count;
}

size_t processes_settle(unsigned timeout_ms, char *out, size_t n)
{
	uint64_t deadline = clock_ms() + timeout_ms;
	size_t left;
	while ((left = processes_left(NULL, 0)) && clock_ms() < deadline)
		pause_ms(10);
	out[0] = 0;
	if (!left)
		return 0;
	processes_left(out, n);
	pid_t pids[64];
	while ((left = process_children(getpid(), pids, 64))) {
		for (size_t i = 0; i < left && i < 64; i++)
			kill(pids[i], SIGKILL);
		pause_ms(5);
		reap();
	}
	return 1;
}

long process_rss_kb(pid_t pid)
{
	char path[64], line[256];
	long kb = -1;
	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "r");
	while (f && kb < 0 && fgets(line, sizeof line, f))
		if (sscanf(line, "VmRSS: %ld", &kb) != 1)
			kb = -1;
	if (f)
		fclose(f);
	return kb;
}

long process_descriptors(pid_t pid)
{
	char path[64];
	long count = 0;
	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	DIR *d = opendir(path);
	if (!d)
		return -1;
	for (struct dirent *e; (e = readdir(d));)
		count += e->d_name[0] != '.';
	closedir(d);
	return count;
}

char process_state(pid_t pid)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	size_t n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	const char *p = n ? strrchr(text, ')') : NULL;
	return p && p[1] ? p[2] : 0;
}

unsigned short free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof a;
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		abort();
	close(fd);
	return ntohs(a.sin_port);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	return remove(path);
}

bool remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return access(path, F_OK) != 0;
}

char *read_whole_file(const char *path)
{
	struct blob text = {0};
	char chunk[8192];
	size_t n;
	FILE *f = fopen(path, "r");
	if (!f)
		return NULL;
	blob_add_c(&text, "");
	while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
		blob_add(&text, chunk, n);
	fclose(f);
	return text.p;
}

bool write_whole_file(const char *path, const char *text, unsigned mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return false;
	bool ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	return close(fd) == 0 && ok;
}
