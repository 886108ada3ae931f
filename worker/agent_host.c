/*
 * agent_host.c - the real agent host: keeps a host process alive, ticks it, and matches its reports with runs.
 *
 *     STARTING ──READY──▶ READY ──died──▶ DOWN ──after a pause──▶ STARTING
 *         ╰───────────died or refused───────▶
 *
 * The pause doubles from 100 ms to 5 s, and is short again once a host has lived for 10 s.
 */
#include "worker/agent_host.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>
#include "common/arena.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "proto/codec.h"
#include "worker/agent_run.h"
#include "worker/host_process.h"

#define START_MS 10000
#define RETRY_LEAST_MS 100
#define RETRY_MOST_MS 5000
#define HEALTHY_MS 10000
#define DECODE_BYTES (8u << 20) /* a run's message of RUN_MESSAGE_MAX, decoded */

enum host_state { HOST_STATE_STARTING, HOST_STATE_READY, HOST_STATE_DOWN };

struct run_entry {
	uint64_t slot;
	struct agent_run *run;
	UT_hash_handle hh;
};

struct real_host {
	struct agent_host base;
	struct agent_run_owner owner;
	struct loop_uv *loop;
	char *program, *state_dir;
	uint32_t lease_ms;
	enum host_state state;
	struct host_process *process, *old; /* old: dead, to be stopped outside its callback */
	char why_not[200];
	char properties[512];
	struct timer tick, retry;
	struct task sweep;
	uint64_t started_ms, retry_ms, last_slot;
	struct run_entry *runs;
	struct arena arena;
};

static struct real_host *of_base(const struct agent_host *host)
{
	return (struct real_host *)((char *)host - offsetof(struct real_host, base));
}

static struct real_host *of_owner(struct agent_run_owner *owner)
{
	return (struct real_host *)((char *)owner - offsetof(struct real_host, owner));
}

static struct agent_run *find_run(struct real_host *host, uint64_t slot)
{
	struct run_entry *entry;

	HASH_FIND(hh, host->runs, &slot, sizeof(slot), entry);
	return entry ? entry->run : NULL;
}

static void tell(struct real_host *host, const struct host_command *command, int fd)
{
	if (host->process)
		host_process_send(host->process, command, fd);
	else if (fd >= 0)
		close(fd);
}

/* ---- what the process says ---- */

static void handle_ready(struct real_host *host, const struct host_report *report)
{
	size_t at = 0;

	host->properties[0] = 0;
	for (size_t i = 0; i < report->n_properties && at < sizeof(host->properties); i++)
		at += (size_t)snprintf(host->properties + at, sizeof(host->properties) - at, "%s" STR_FMT, i > 0 ? " " : "",
		                       STR_ARG(report->properties[i]));
	host->state = HOST_STATE_READY;
	host->why_not[0] = 0;
	log_info("agent_host", "ready", "sandbox", host->properties, NULL);
}

static void handle_exited(struct real_host *host, const struct host_report *report)
{
	struct agent_run *run = find_run(host, report->slot);

	if (report->slot == 0) /* the host itself: it refuses to start */
		snprintf(host->why_not, sizeof(host->why_not), "the agent host refuses to start: " STR_FMT, STR_ARG(report->why));
	else if (run)
		agent_run_exited(run, report);
}

static void on_report(void *ctx, const struct host_report *report)
{
	struct real_host *host = ctx;
	struct agent_run *run;

	switch (report->kind) {
	case HOST_READY:
		handle_ready(host, report);
		break;
	case HOST_SPAWNED:
		run = find_run(host, report->slot);
		if (run)
			agent_run_spawned(run);
		break;
	case HOST_EXITED:
		handle_exited(host, report);
		break;
	}
}

static void end_all_runs(struct real_host *host)
{
	struct host_report report = {.kind = HOST_EXITED, .why = str_c("agent host died")};
	struct run_entry *entry, *next;

	HASH_ITER (hh, host->runs, entry, next)
		agent_run_exited(entry->run, &report);
}

static void go_down(struct real_host *host)
{
	if (loop_now(&host->loop->loop) - host->started_ms >= HEALTHY_MS)
		host->retry_ms = RETRY_LEAST_MS;
	host->state = HOST_STATE_DOWN;
	timer_cancel(&host->loop->loop, &host->tick);
	timer_set(&host->loop->loop, &host->retry, host->retry_ms);
	host->retry_ms = host->retry_ms * 2 > RETRY_MOST_MS ? RETRY_MOST_MS : host->retry_ms * 2;
}

static void on_died(void *ctx, const char *why)
{
	struct real_host *host = ctx;

	if (host->state == HOST_STATE_READY || !host->why_not[0])
		snprintf(host->why_not, sizeof(host->why_not), "the agent host died: %s", why);
	log_error("agent_host", "died", "why", host->why_not, NULL);
	host->old = host->process;
	host->process = NULL;
	task_defer(&host->loop->loop, &host->sweep);
	end_all_runs(host);
	go_down(host);
}

static void on_sweep(struct task *task)
{
	struct real_host *host = (struct real_host *)((char *)task - offsetof(struct real_host, sweep));

	host_process_stop(host->old);
	host->old = NULL;
}

/* ---- the process's life ---- */

static const struct host_process_events process_events = {.report = on_report, .died = on_died};

static void send_tick(struct real_host *host)
{
	struct host_command command = {.kind = HOST_TICK, .lease_ms = host->lease_ms};

	/* Behind a full socket it would come late and say what is no longer so. */
	if (host->process && !host_process_is_congested(host->process))
		tell(host, &command, -1);
	timer_set(&host->loop->loop, &host->tick, host->lease_ms / 8 > 0 ? host->lease_ms / 8 : 1);
}

static void on_tick(struct timer *timer)
{
	send_tick((struct real_host *)((char *)timer - offsetof(struct real_host, tick)));
}

static enum err launch(struct real_host *host, struct err_info *info)
{
	enum err err;

	host->state = HOST_STATE_STARTING;
	snprintf(host->why_not, sizeof(host->why_not), "%s", "");
	host->started_ms = loop_now(&host->loop->loop);
	err = host_process_start(host->loop, host->program, host->state_dir, &process_events, host, &host->process, info);
	if (err == ERR_OK)
		send_tick(host);
	return err;
}

static void on_retry(struct timer *timer)
{
	struct real_host *host = (struct real_host *)((char *)timer - offsetof(struct real_host, retry));
	struct err_info info = {0};

	if (launch(host, &info) != ERR_OK) {
		snprintf(host->why_not, sizeof(host->why_not), "the agent host: %.150s", info.text);
		log_error("agent_host", "start_failed", "why", info.text, NULL);
		go_down(host);
	}
}

/* ---- operations ---- */

static void owner_kill(struct agent_run_owner *owner, uint64_t slot)
{
	struct host_command command = {.kind = HOST_KILL, .slot = slot};

	tell(of_owner(owner), &command, -1);
}

static void owner_gone(struct agent_run_owner *owner, struct agent_run *run)
{
	struct real_host *host = of_owner(owner);
	uint64_t slot = agent_run_slot(run);
	struct run_entry *entry;

	HASH_FIND(hh, host->runs, &slot, sizeof(slot), entry);
	if (!entry)
		return;
	HASH_DELETE(hh, host->runs, entry);
	free(entry);
}

static void add_run(struct real_host *host, uint64_t slot, struct agent_run *run)
{
	struct run_entry *entry = calloc(1, sizeof(*entry));

	if (!entry)
		abort();
	entry->slot = slot;
	entry->run = run;
	HASH_ADD(hh, host->runs, slot, sizeof(entry->slot), entry);
}

static bool host_is_ready(const struct agent_host *base, const char **why_not)
{
	const struct real_host *host = of_base(base);

	if (why_not)
		*why_not = host->why_not[0] ? host->why_not : "the agent host is starting";
	return host->state == HOST_STATE_READY;
}

static struct agent_run *host_spawn(struct agent_host *base, enum agent_kind kind, const struct agent_limits *limits,
                                    const struct agent_run_events *events, void *ctx)
{
	struct real_host *host = of_base(base);
	struct host_command command = {
		.kind = HOST_SPAWN,
		.slot = ++host->last_slot,
		.agent = kind,
		.memory_bytes = limits->memory_bytes,
		.cpu_seconds = limits->cpu_seconds,
		.file_bytes = limits->file_bytes,
		.descriptors = limits->descriptors,
	};
	struct agent_run *run = NULL;
	struct err_info info = {0};
	const char *why_not = info.text;
	int run_end = -1;

	if (!host_is_ready(base, &why_not) ||
	    agent_run_create(&host->owner, command.slot, events, ctx, &run, &run_end, &info) != ERR_OK)
		run = agent_run_create_failed(&host->owner, command.slot, events, ctx, info.text[0] ? info.text : why_not);
	add_run(host, command.slot, run);
	if (run_end >= 0)
		tell(host, &command, run_end);
	return run;
}

static const char *host_properties(const struct agent_host *base)
{
	return of_base(base)->properties;
}

static void free_host(struct real_host *host)
{
	arena_finish(&host->arena);
	free(host->program);
	free(host->state_dir);
	free(host);
}

static void host_destroy(struct agent_host *base)
{
	struct real_host *host;
	struct run_entry *entry, *next;

	if (!base)
		return;
	host = of_base(base);
	HASH_ITER (hh, host->runs, entry, next)
		agent_run_destroy(entry->run);
	timer_cancel(&host->loop->loop, &host->tick);
	timer_cancel(&host->loop->loop, &host->retry);
	task_cancel(&host->loop->loop, &host->sweep);
	host_process_stop(host->old);
	host_process_stop(host->process);
	free_host(host);
}

static const struct agent_host_ops ops = {
	.spawn = host_spawn,
	.send = agent_run_send,
	.pause = agent_run_pause,
	.kill = agent_run_kill,
	.forget = agent_run_forget,
	.is_ready = host_is_ready,
	.properties = host_properties,
	.destroy = host_destroy,
};

/* ---- start ---- */

static char *program_beside_us(void)
{
	char path[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
	char *slash;

	path[n > 0 ? n : 0] = 0;
	slash = strrchr(path, '/');
	snprintf(slash ? slash + 1 : path, 32, "pinion-agent-host");
	return strdup(path);
}

/* A relative one would be looked for in the state directory. */
static char *program_path(const char *given)
{
	char *path;

	if (!given)
		return program_beside_us();
	path = realpath(given, NULL);
	return path ? path : strdup(given);
}

static enum err wait_until_ready(struct real_host *host, struct err_info *info)
{
	uint64_t end_ms = uv_hrtime() / 1000000 + START_MS, now_ms;

	while (host->state == HOST_STATE_STARTING && (now_ms = uv_hrtime() / 1000000) < end_ms)
		host_process_wait(host->process, (int)(end_ms - now_ms));
	if (host->state == HOST_STATE_READY)
		return ERR_OK;
	return err_set(info, ERR_CONFIG, "%s", host->why_not[0] ? host->why_not : "the agent host does not start in time");
}

enum err agent_host_start(struct loop_uv *loop, const struct agent_host_config *config, struct agent_host **out,
                          struct err_info *info)
{
	struct real_host *host = calloc(1, sizeof(*host));
	enum err err;

	*out = NULL;
	if (!host)
		return err_set(info, ERR_NO_MEMORY, NULL);
	*host = (struct real_host){.base = {.ops = &ops}, .loop = loop, .lease_ms = config->lease_ms, .retry_ms = RETRY_LEAST_MS};
	arena_init(&host->arena, DECODE_BYTES);
	host->owner = (struct agent_run_owner){.kill = owner_kill, .gone = owner_gone, .loop = loop, .arena = &host->arena};
	host->tick.fn = on_tick;
	host->retry.fn = on_retry;
	host->sweep.fn = on_sweep;
	host->program = program_path(config->program);
	host->state_dir = strdup(config->state_dir);
	if (mkdir(config->state_dir, 0700) < 0 && errno != EEXIST)
		err = err_set_errno(info, ERR_CONFIG, errno, "state directory %s", config->state_dir);
	else
		err = launch(host, info);
	if (err == ERR_OK)
		err = wait_until_ready(host, info);
	if (err == ERR_OK)
		*out = &host->base;
	else
		host_destroy(&host->base);
	return err;
}
