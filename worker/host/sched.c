/* sched.c - see sched.h. */
#include "worker/host/sched.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BURST_US 50000 /* so much at once is nobody's harm; a usual run takes a few milliseconds in all */
#define EARNED_US_PER_MS 100

void sched_start(struct sched_credit *credit, uint64_t now_ms)
{
	*credit = (struct sched_credit){.left_us = BURST_US, .then_ms = now_ms};
}

static bool cpu_used(pid_t pid, uint64_t *used_us)
{
	struct timespec spent;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &spent) != 0)
		return false;
	*used_us = (uint64_t)spent.tv_sec * 1000000 + (uint64_t)spent.tv_nsec / 1000;
	return true;
}

/* The state is the letter behind the name in parentheses; 'R' runs or would like to. Unknown counts as runnable. */
static bool waits(pid_t pid)
{
	char path[32], text[256], *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	end = strrchr(text, ')');
	return end && end[1] == ' ' && end[2] != 'R';
}

static void move(struct sched_credit *credit, pid_t pid, bool idle)
{
	struct sched_param none = {0};

	if (sched_setscheduler(pid, idle ? SCHED_IDLE : SCHED_OTHER, &none) == 0)
		credit->idle = idle;
}

void sched_look(struct sched_credit *credit, pid_t pid, uint64_t now_ms)
{
	uint64_t used_us;

	if (!cpu_used(pid, &used_us))
		return;
	credit->left_us -= (int64_t)(used_us - credit->used_us);
	if (credit->left_us < BURST_US && waits(pid))
		credit->left_us += (int64_t)(now_ms - credit->then_ms) * EARNED_US_PER_MS;
	if (credit->left_us > BURST_US)
		credit->left_us = BURST_US;
	if (credit->left_us < -BURST_US) /* a debt is bounded, so that a run which has stopped spinning is back in a second */
		credit->left_us = -BURST_US;
	credit->used_us = used_us;
	credit->then_ms = now_ms;
	if (!credit->idle && credit->left_us < 0)
		move(credit, pid, true);
	else if (credit->idle && credit->left_us > 0)
		move(credit, pid, false);
}
