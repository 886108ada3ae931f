/* core_metrics.c - what the gateway's core counts. Refusals are counted by code. */
#include "gateway/core_private.h"

#define COUNTER(name, help) METRIC_INIT(METRIC_COUNTER, "pinion_gateway_" name, NULL, help)
#define GAUGE(name, help) METRIC_INIT(METRIC_GAUGE, "pinion_gateway_" name, NULL, help)

struct core_metrics metrics = {
	.sessions = GAUGE("connections", "WebSocket connections open now."),
	.feeds = GAUGE("users", "Users with connections here now, or a moment ago."),
	.events = COUNTER("events_delivered_total", "Events queued to connections."),
	.deltas = COUNTER("deltas_delivered_total", "Pieces of streamed text queued to connections."),
	.repairs = COUNTER("repairs_total", "Requests to the log for what a user's feed lacked."),
	.lagging = COUNTER("lagging_total", "Times that a connection began to catch up from the log."),
	.gaps = COUNTER("link_gaps_total", "Times that publications of a worker were found missing."),
	.attaches = COUNTER("attaches_total", "Users attached at their worker."),
	.reattaches = COUNTER("reattaches_total", "Times that a user's worker was lost and had to be found anew."),
	.commands = COUNTER("commands_total", "Commands accepted from clients."),
	.bad_messages = COUNTER("bad_worker_messages_total", "Messages of workers that were dropped as invalid."),
	.latency = METRIC_INIT(METRIC_HISTOGRAM, "pinion_gateway_command_seconds", NULL,
                               "From a client's command to its answer."),
};

#define REFUSAL(code_) \
	METRIC_INIT(METRIC_COUNTER, "pinion_gateway_refusals_total", "code=\"" code_ "\"", "Connections and messages refused.")

static struct metric refusals[ERR_COUNT_] = {
#define X(symbol, name, text) [symbol] = REFUSAL(name),
	ERR_LIST(X)
#undef X
};

void metrics_count_refusal(enum err code)
{
	metric_register(&refusals[code]); /* only those that happen are shown */
	metric_add(&refusals[code], 1);
}

void core_metrics_register(void)
{
	struct metric *all[] = {&metrics.sessions,   &metrics.feeds,    &metrics.events,       &metrics.deltas,
	                        &metrics.repairs,    &metrics.lagging,  &metrics.gaps,         &metrics.attaches,
	                        &metrics.reattaches, &metrics.commands, &metrics.bad_messages, &metrics.latency};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		metric_register(all[i]);
}
