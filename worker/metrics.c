/* metrics.c - what the worker's core counts (common/metrics.h). */
#include "worker/core_private.h"

#define COUNTER(name, help) METRIC_INIT(METRIC_COUNTER, "pinion_worker_" name, NULL, help)
#define GAUGE(name, help) METRIC_INIT(METRIC_GAUGE, "pinion_worker_" name, NULL, help)

static const double commit_bounds[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5};

static struct metric metrics[METRIC_COUNT_] = {
	[METRIC_USERS] = GAUGE("users", "Users owned or being acquired."),
	[METRIC_USERS_FENCED] = COUNTER("users_lost_total", "Users lost to another worker."),
	[METRIC_APPENDS] = COUNTER("appends_total", "Appends committed."),
	[METRIC_APPEND_FAILURES] = COUNTER("append_failures_total", "Appends that the store could not do."),
	[METRIC_EVENTS] = COUNTER("events_total", "Events committed."),
	[METRIC_COMMIT_SECONDS] =
		{
			.name = "pinion_worker_commit_seconds",
			.help = "From the submission of an append to its commit.",
			.kind = METRIC_HISTOGRAM,
			.bounds = commit_bounds,
			.n_bounds = sizeof(commit_bounds) / sizeof(commit_bounds[0]),
		},
	[METRIC_BATCHES] = COUNTER("batches_total", "Batches published to gateways."),
	[METRIC_ITEMS] = COUNTER("items_total", "Items published to gateways."),
	[METRIC_CREDIT_STALLS] = COUNTER("credit_stalls_total", "Times that a gateway ran out of credit."),
	[METRIC_REPLAYS_RING] = COUNTER("replays_from_memory_total", "Pages of a log answered from memory."),
	[METRIC_REPLAYS_STORE] = COUNTER("replays_from_store_total", "Pages of a log read from the store."),
	[METRIC_RUNS_STARTED] = COUNTER("runs_started_total", "Attempts of runs begun."),
	[METRIC_RUNS_RECOVERED] = COUNTER("runs_recovered_total", "Runs taken up from a journal."),
	[METRIC_RUNS_COMPLETED] = METRIC_INIT(METRIC_COUNTER, "pinion_worker_runs_ended_total", "status=\"completed\"",
                                              "Runs ended."),
	[METRIC_RUNS_FAILED] = METRIC_INIT(METRIC_COUNTER, "pinion_worker_runs_ended_total", "status=\"failed\"", "Runs ended."),
	[METRIC_RUNS_CANCELLED] = METRIC_INIT(METRIC_COUNTER, "pinion_worker_runs_ended_total", "status=\"cancelled\"",
                                              "Runs ended."),
};

#define LIFE(life_, name_) [life_] = METRIC_INIT(METRIC_GAUGE, "pinion_worker_runs", "state=\"" name_ "\"", "Open runs by state.")

static struct metric lives[LIFE_ENDED] = {
	LIFE(LIFE_ACCEPTING, "accepting"), LIFE(LIFE_QUEUED, "queued"),         LIFE(LIFE_STARTING, "starting"),
	LIFE(LIFE_RUNNING, "running"),     LIFE(LIFE_COMMITTING, "committing"), LIFE(LIFE_TOOL, "tool"),
	LIFE(LIFE_FINISHING, "finishing"),
};

static struct metric processes = GAUGE("run_processes", "Confined processes.");

void core_metrics_register(void)
{
	for (size_t i = 0; i < METRIC_COUNT_; i++)
		metric_register(&metrics[i]);
	for (size_t i = LIFE_ACCEPTING; i < LIFE_ENDED; i++)
		metric_register(&lives[i]);
	metric_register(&processes);
}

void core_metrics_lives(const struct core *core)
{
	for (size_t i = LIFE_ACCEPTING; i < LIFE_ENDED; i++)
		metric_set(&lives[i], (double)core->lives[i]);
	metric_set(&processes, (double)core->processes);
}

void core_count(enum core_metric metric, double n)
{
	metric_add(&metrics[metric], n);
}

void core_gauge(enum core_metric metric, double value)
{
	metric_set(&metrics[metric], value);
}

void core_observe(enum core_metric metric, double seconds)
{
	metric_observe(&metrics[metric], seconds);
}
