/*
 * host.c - the loop of the agent host.
 *
 * A run, by what the host knows of it:
 *
 *     spawn ──fork──▶ STARTING ──"+" on its pipe──▶ CONFINED ──reaped──▶ gone (EXITED is reported)
 *                         └─────anything else─────▶ REFUSED ──reaped──▶ gone (EXITED, without SPAWNED before, says why)
 *
 * Epoll events carry a slot number, not a pointer: a run that went within the same turn is simply not found.
 */
#include "worker/host/host.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uthash.h>
#include "common/log.h"
#include "worker/host/agent/agent.h"
#include "worker/host/control.h"
#include "worker/host/sched.h"
#include "worker/host/selftest.h"
#include "worker/host/spawn.h"

#define SWEEP_MS 10000 /* runs of a host that was killed may still have been dying when this one started */

enum run_state { RUN_STARTING, RUN_CONFINED, RUN_REFUSED };

struct host_run {
	uint64_t slot;
	enum run_state state;
	struct spawned process;
	struct sched_credit credit;
	bool killed;   /* by us: a SIGKILL needs no explanation */
	char why[160]; /* for the report */
	UT_hash_handle hh, by_pid;
};

enum host_phase { PHASE_SERVING, PHASE_STOPPING };

struct host {
	enum host_phase phase;
	struct control control;
	struct sandbox sandbox;
	struct scratch scratch;
	int epoll, signals;
	struct host_run *runs, *runs_by_pid;
	uint64_t deadline_ms; /* of the dead man's switch; 0: no tick came yet, or it has fired */
	bool fired;
	uint64_t sweep_ms; /* when next; 0: not again */
	uint64_t look_ms;
};

/* Tags of epoll events that are no slot's: slots count from 1. */
#define TAG_CONTROL UINT64_MAX
#define TAG_SIGNALS (UINT64_MAX - 1)

/* CLOCK_BOOTTIME goes on while the machine sleeps, and so do the leases that others watch. */
static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool watch(struct host *host, int op, int fd, uint64_t tag, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = tag};

	return epoll_ctl(host->epoll, op, fd, &event) == 0;
}

/* ---- starting a run ---- */

static void report_never_ran(struct host *host, uint64_t slot, const char *why)
{
	struct host_report report = {.kind = HOST_EXITED, .slot = slot, .why = str_c(why)};

	control_report(&host->control, &report);
}

static enum err start_run(struct host *host, const struct host_command *command, int socket, struct err_info *info)
{
	struct spawn spawn = {
		.limits = {command->memory_bytes, command->cpu_seconds, command->file_bytes, command->descriptors},
		.kind = command->agent,
		.socket = socket,
		.body = agent_main,
	};
	struct host_run *run;
	enum err err;

	if (socket < 0)
		return err_set(info, ERR_PROTOCOL, "no socket came with the command");
	if (host->fired)
		return err_set(info, ERR_TIMEOUT, "no tick");
	run = calloc(1, sizeof(*run));
	if (!run)
		return err_set(info, ERR_NO_MEMORY, NULL);
	err = spawn_confined(&host->sandbox, &host->scratch, &spawn, &run->process, info);
	if (err != ERR_OK) {
		free(run);
		return err;
	}
	run->slot = command->slot;
	sched_start(&run->credit, now_ms());
	HASH_ADD(hh, host->runs, slot, sizeof(run->slot), run);
	HASH_ADD(by_pid, host->runs_by_pid, process.pid, sizeof(run->process.pid), run);
	(void)watch(host, EPOLL_CTL_ADD, run->process.status_fd, run->slot, EPOLLIN);
	return ERR_OK;
}

static void handle_spawn(struct host *host, const struct host_command *command, int socket)
{
	struct err_info info = {0};

	if (start_run(host, command, socket, &info) != ERR_OK)
		report_never_ran(host, command->slot, info.text);
	if (socket >= 0)
		close(socket);
}

static void handle_status(struct host *host, struct host_run *run)
{
	struct host_report report = {.kind = HOST_SPAWNED, .slot = run->slot, .pid = (uint32_t)run->process.pid};
	char why[sizeof(run->why)];
	enum spawn_status status;

	if (run->state != RUN_STARTING)
		return;
	status = spawn_status_read(run->process.status_fd, why, sizeof(why));
	if (status == SPAWN_PENDING)
		return;
	close(run->process.status_fd); /* leaves the epoll set with it */
	if (status == SPAWN_CONFINED) {
		run->state = RUN_CONFINED;
		control_report(&host->control, &report);
	} else {
		run->state = RUN_REFUSED;
		if (!run->why[0] && !run->killed)
			snprintf(run->why, sizeof(run->why), "%s", why);
	}
}

/* ---- ending a run ---- */

/* It is our child and not reaped, so that its id is still its own. */
static void kill_run(struct host_run *run, const char *why)
{
	run->killed = true;
	if (!run->why[0])
		snprintf(run->why, sizeof(run->why), "%s", why);
	(void)kill(run->process.pid, SIGKILL);
}

static void kill_all(struct host *host, const char *why)
{
	struct host_run *run, *next;

	HASH_ITER (hh, host->runs, run, next)
		kill_run(run, why);
}

static uint64_t used_ms(const struct rusage *usage)
{
	return (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000 +
	       (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1000;
}

static void handle_exit(struct host *host, struct host_run *run, int status, const struct rusage *usage)
{
	struct host_report report = {
		.kind = HOST_EXITED,
		.slot = run->slot,
		.exit_status = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 0,
		.signal = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0,
		.cpu_ms = used_ms(usage),
		.peak_rss_bytes = (uint64_t)usage->ru_maxrss * 1024,
	};

	handle_status(host, run); /* may not have been read yet */
	if (report.signal == SIGKILL && !run->killed && !run->why[0])
		snprintf(run->why, sizeof(run->why), "killed from outside, perhaps for lack of memory");
	report.why = str_c(run->why);
	HASH_DELETE(hh, host->runs, run);
	HASH_DELETE(by_pid, host->runs_by_pid, run);
	scratch_wipe(&host->scratch, &run->process.dir);
	control_report(&host->control, &report);
	free(run);
}

static void reap(struct host *host)
{
	struct signalfd_siginfo seen;
	struct host_run *run;
	struct rusage usage;
	int status;
	pid_t pid;

	while (read(host->signals, &seen, sizeof(seen)) > 0)
		;
	while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
		HASH_FIND(by_pid, host->runs_by_pid, &pid, sizeof(pid), run);
		if (run)
			handle_exit(host, run, status, &usage);
	}
}

/* ---- the worker ---- */

static void stop(struct host *host, const char *why)
{
	host->phase = PHASE_STOPPING;
	(void)epoll_ctl(host->epoll, EPOLL_CTL_DEL, host->control.fd, NULL);
	kill_all(host, why);
}

static void handle_tick(struct host *host, uint64_t lease_ms)
{
	host->deadline_ms = now_ms() + lease_ms / 2;
	host->fired = false;
}

static struct host_run *find_run(struct host *host, uint64_t slot)
{
	struct host_run *run;

	HASH_FIND(hh, host->runs, &slot, sizeof(slot), run);
	return run;
}

static void handle_command(struct host *host, const struct host_command *command, int socket)
{
	struct host_run *run;

	switch (command->kind) {
	case HOST_SPAWN:
		handle_spawn(host, command, socket);
		return;
	case HOST_KILL:
		run = find_run(host, command->slot);
		if (run)
			kill_run(run, "");
		break;
	case HOST_TICK:
		handle_tick(host, command->lease_ms);
		break;
	case HOST_STOP:
		stop(host, "");
		break;
	}
	if (socket >= 0)
		close(socket);
}

static void handle_control(struct host *host)
{
	struct host_command command;
	struct err_info info = {0};
	int socket;
	enum err err;

	control_flush(&host->control);
	while (host->phase == PHASE_SERVING && (err = control_receive(&host->control, &command, &socket, &info)) != ERR_AGAIN) {
		if (err == ERR_OK) {
			handle_command(host, &command, socket);
			continue;
		}
		if (err != ERR_DISCONNECTED)
			log_error("agent_host", "bad_command", "why", info.text, NULL);
		stop(host, "the worker is gone");
	}
}

/* ---- time ---- */

/* Called after all commands that have come were handled: a tick that waited while we did not run still counts. */
static void check_deadline(struct host *host, uint64_t now)
{
	if (host->deadline_ms == 0 || now < host->deadline_ms)
		return;
	host->deadline_ms = 0;
	host->fired = true;
	if (host->runs)
		log_error("agent_host", "no_tick", "runs_killed", LOG_U64(HASH_COUNT(host->runs)), NULL);
	kill_all(host, "no tick");
}

static void look_at_runs(struct host *host, uint64_t now)
{
	struct host_run *run, *next;

	if (now < host->look_ms)
		return;
	host->look_ms = now + SCHED_LOOK_MS;
	HASH_ITER (hh, host->runs, run, next)
		sched_look(&run->credit, run->process.pid, now);
}

static void check_time(struct host *host)
{
	uint64_t now = now_ms();

	check_deadline(host, now);
	if (host->runs)
		look_at_runs(host, now);
	if (host->sweep_ms && now >= host->sweep_ms) {
		host->sweep_ms = 0;
		scratch_sweep(&host->scratch);
	}
}

static void sooner(uint64_t *when, uint64_t other)
{
	if (other && other < *when)
		*when = other;
}

static int wait_ms(const struct host *host)
{
	uint64_t now = now_ms(), when = now + 60000;

	sooner(&when, host->deadline_ms);
	sooner(&when, host->sweep_ms);
	if (host->runs)
		sooner(&when, host->look_ms);
	return when > now ? (int)(when - now) : 0;
}

/* ---- the loop ---- */

static void turn(struct host *host)
{
	struct epoll_event events[64];
	struct host_run *run;
	int n;

	if (host->phase == PHASE_SERVING)
		(void)watch(host, EPOLL_CTL_MOD, host->control.fd, TAG_CONTROL,
		            EPOLLIN | (control_has_waiting(&host->control) ? EPOLLOUT : 0));
	n = epoll_wait(host->epoll, events, 64, wait_ms(host));
	for (int i = 0; i < n; i++) {
		uint64_t tag = events[i].data.u64;

		if (tag == TAG_CONTROL)
			handle_control(host);
		else if (tag == TAG_SIGNALS)
			reap(host);
		else if ((run = find_run(host, tag)))
			handle_status(host, run);
	}
	if (host->phase == PHASE_SERVING)
		handle_control(host); /* a tick may have come during this turn */
	check_time(host);
}

struct property_list {
	char text[HOST_PROPERTIES_MAX][48];
	struct str views[HOST_PROPERTIES_MAX];
	size_t n;
};

static void add_property(void *ctx, const char *property)
{
	struct property_list *list = ctx;

	if (list->n == HOST_PROPERTIES_MAX)
		return;
	snprintf(list->text[list->n], sizeof(list->text[0]), "%s", property);
	list->views[list->n] = str_c(list->text[list->n]);
	list->n++;
}

static void report_ready(struct host *host)
{
	struct property_list list = {.n = 0};
	struct host_report report = {.kind = HOST_READY};

	sandbox_describe(&host->sandbox, add_property, &list);
	report.properties = list.views;
	report.n_properties = list.n;
	control_report(&host->control, &report);
}

static enum err open_signals(struct host *host, struct err_info *info)
{
	sigset_t set;

	/* The worker decides when to end: it closes the control socket. */
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGTERM, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	host->epoll = epoll_create1(EPOLL_CLOEXEC);
	host->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (host->epoll < 0 || host->signals < 0 || !watch(host, EPOLL_CTL_ADD, host->signals, TAG_SIGNALS, EPOLLIN) ||
	    !watch(host, EPOLL_CTL_ADD, host->control.fd, TAG_CONTROL, EPOLLIN))
		return err_set_errno(info, ERR_INTERNAL, errno, "event loop");
	return ERR_OK;
}

static enum err open_host(struct host *host, int control_fd, struct err_info *info)
{
	enum err err;

	*host = (struct host){.epoll = -1,
	                      .signals = -1,
	                      .sandbox = {.zoneinfo_fd = -1, .localtime_fd = -1},
	                      .scratch = {-1, -1, ""}};
	control_init(&host->control, control_fd);
	err = open_signals(host, info);
	if (err == ERR_OK)
		err = scratch_open(&host->scratch, info);
	if (err == ERR_OK)
		err = sandbox_init(&host->sandbox, info);
	if (err == ERR_OK)
		err = selftest_run(&host->sandbox, &host->scratch, info);
	return err;
}

static void close_host(struct host *host)
{
	sandbox_finish(&host->sandbox);
	scratch_close(&host->scratch);
	if (host->signals >= 0)
		close(host->signals);
	if (host->epoll >= 0)
		close(host->epoll);
	control_finish(&host->control);
}

int host_serve(int control_fd)
{
	struct err_info info = {0};
	struct host host;
	enum err err = open_host(&host, control_fd, &info);

	if (err == ERR_OK) {
		scratch_sweep(&host.scratch);
		host.sweep_ms = now_ms() + SWEEP_MS;
		report_ready(&host);
		while (host.phase == PHASE_SERVING || host.runs)
			turn(&host);
	} else {
		log_error("agent_host", "refused_to_start", "why", info.text, NULL);
		report_never_ran(&host, 0, info.text); /* slot 0 is the host itself */
	}
	close_host(&host);
	return err == ERR_OK ? 0 : 1;
}
