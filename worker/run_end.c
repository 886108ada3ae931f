/* run_end.c - how runs end: each in exactly one terminal event, the last of its events. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include "common/json.h"
#include "proto/codec.h"
#include "worker/call.h"
#include "worker/recover.h"
#include "worker/run.h"
#include "worker/user.h"

enum { USAGE_MAX = 4096 };

const char *cancel_by_name(enum cancel_by by)
{
	static const char *const names[] = {"", "user", "interrupt", "operator"};
	return names[by];
}

enum cancel_by cancel_by_from(struct str name)
{
	for (enum cancel_by by = CANCEL_USER; by <= CANCEL_OPERATOR; by++)
		if (str_eq_c(name, cancel_by_name(by)))
			return by;
	return CANCEL_NONE;
}

static void on_terminal(struct append *append, enum err err)
{
	struct run *run = append->ctx;
	if (err == ERR_OK && run->life == LIFE_FINISHING) {
		log_info("run", "ended", "user", run->user->id.s, "run", run->id.s, "status",
		         run->ended_as == RUN_COMPLETED ? "completed"
		         : run->ended_as == RUN_FAILED  ? "failed"
		                                        : "cancelled",
		         NULL);
		run_retire(run, run->ended_as == RUN_CANCELLED ? ERR_OK : ERR_NOT_ACTIVE);
	}
	run_unpin(run);
}

/* Everything that must come before the terminal event. */
static struct append *begin_end(struct run *run, enum tool_status tool, const char *tool_text)
{
	struct append *append = run_append(run, on_terminal);
	/* What the lost attempt streamed is not known here, and can't be closed: clients are told that it is void. */
	if (run->lost && run->life == LIFE_QUEUED)
		run->attempt++;
	recover_put_loss(run, append);
	if (!id_is_none(&run->message.id) && run->message.text.n > 0)
		run_close_message(run, append);
	if (run->redo.tool) { /* shown by an earlier attempt, and not come to again */
		tool_call_finish(&run->call);
		run->call = run->redo;
		run->call.open = true;
		run->redo = (struct tool_call){0};
	}
	if (run->call.open) {
		struct buf result = {0};
		json_write_string(&result, str_c(tool_text));
		run_put_tool_completed(run, append, tool, buf_str(&result), false);
		buf_finish(&result);
	}
	return append;
}

static void finish_end(struct run *run, struct append *append, enum run_status status)
{
	static const enum core_metric metrics[] = {
		[RUN_COMPLETED] = METRIC_RUNS_COMPLETED,
		[RUN_FAILED] = METRIC_RUNS_FAILED,
		[RUN_CANCELLED] = METRIC_RUNS_CANCELLED,
	};
	core_count(metrics[status], 1);
	run->ended_as = status;
	run_put_row(run, append, status, false);
	append->effects.journal_drop_run = append_copy(append, id_str(&run->id));
	append->events[append->n_events - 1].voids = run->id;
	timer_cancel(run->core->loop, &run->limit);
	timer_cancel(run->core->loop, &run->tool_timer);
	/* What it still says is thrown away, and its end is found by reading. */
	run->wait_commit = run->wait_credit = false;
	run_apply_pause(run);
	run_move(run, LIFE_FINISHING);
	append_submit(run->user, append);
}

static bool is_over(const struct run *run)
{
	return run->life == LIFE_FINISHING || run->life == LIFE_ENDED;
}

static uint64_t duration(const struct run *run)
{
	uint64_t now = loop_wall(run->core->loop);
	return now > run->started_ms ? now - run->started_ms : 0;
}

static bool is_json(struct str text, bool must_be_object)
{
	json_t *value;
	if (json_parse(&value, text, NULL) != ERR_OK)
		return false;
	bool ok = !must_be_object || json_is_object(value);
	json_decref(value);
	return ok;
}

void run_complete(struct run *run, struct str output, struct str usage)
{
	if (is_over(run))
		return;
	if (output.n && !is_json(output, false)) {
		run_fail(run, "agent_error", false, "the agent's output is not JSON");
		return;
	}
	struct append *append = begin_end(run, TOOL_CANCELLED, "the run ended before the call");
	struct append_event *event = run_event(run, append, "agent_completed");
	bool is_cut = output.n > FIELD_ESCAPED_MAX;
	if (is_cut)
		event_string(&event->text, "output", json_escaped_prefix(output, FIELD_ESCAPED_MAX));
	else
		event_json(&event->text, "output", output);
	event_json(&event->text, "usage", usage.n && usage.n <= USAGE_MAX && is_json(usage, true) ? usage : str_c("{}"));
	event_number(&event->text, "duration_ms", duration(run));
	if (is_cut)
		event_bool(&event->text, "truncated", true);
	event_end(&event->text);
	run_dismiss(run, true);
	finish_end(run, append, RUN_COMPLETED);
}

static void put_failed(struct run *run, const char *code, bool retryable, struct str message, enum tool_status tool)
{
	struct append *append = begin_end(run, tool, "the run failed while the tool was executing");
	struct append_event *event = run_event(run, append, "agent_failed");
	event_string(&event->text, "code", str_c(code));
	event_string(&event->text, "message", message);
	event_bool(&event->text, "retryable", retryable);
	event_end(&event->text);
	run_dismiss(run, false);
	finish_end(run, append, RUN_FAILED);
}

void run_fail(struct run *run, const char *code, bool retryable, const char *fmt, ...)
{
	char text[TEXT_MAX + 64];
	va_list args;
	if (is_over(run))
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	log_warn("run", "failed", "user", run->user->id.s, "run", run->id.s, "code", code, NULL);
	enum tool_status tool = run->call.has_timed_out                      ? TOOL_TIMEOUT
	                        : run->call.def && run->call.def->idempotent ? TOOL_ERROR
	                                                                     : TOOL_IN_DOUBT;
	/* Formatting may have cut a character; printing turns what is left of it into U+FFFD. */
	put_failed(run, code, retryable, str_of(text, strnlen(text, TEXT_MAX)), tool);
}

void run_cancelled(struct run *run)
{
	if (is_over(run))
		return;
	struct append *append = begin_end(run, TOOL_CANCELLED, "the run was cancelled");
	struct append_event *event = run_event(run, append, "agent_cancelled");
	event_string(&event->text, "by", str_c(cancel_by_name(run->cancel_by)));
	event_end(&event->text);
	if (run->process && !run->exited) {
		struct run_down down = {.kind = RUN_CANCEL};
		/* Where it can't be told, it is killed all the same. */
		(void)run->core->parts.host->ops->send(run->process, &down);
	}
	run_dismiss(run, true);
	finish_end(run, append, RUN_CANCELLED);
}

void run_cancel(struct run *run, enum cancel_by by)
{
	if (is_over(run))
		return;
	if (!run->cancel_by)
		run->cancel_by = by;
	if (run->life != LIFE_ACCEPTING && !run->reloading)
		run_cancelled(run);
}

void run_cancel_by_call(struct run *run, struct call *call)
{
	LL_APPEND2(run->cancelling, call, follow_next);
	run_cancel(run, CANCEL_USER);
}

/* ---- what an exit means ---- */

static bool is_host_lost(const struct run_exit *ended)
{
	return strstr(ended->why, "agent host died") || strstr(ended->why, "no tick");
}

static bool is_out_of_memory(const struct run *run, const struct run_exit *ended)
{
	uint64_t limit = (uint64_t)run->agent->memory_mb << 20;
	if (strstr(ended->why, "memory"))
		return true;
	bool by_signal = ended->signal == SIGKILL || ended->signal == SIGSEGV || ended->signal == SIGABRT ||
	                 ended->signal == SIGBUS;
	return by_signal && limit > 0 && ended->peak_rss_bytes >= limit - limit / 8;
}

static void fail_by_exit(struct run *run, const struct run_exit *ended)
{
	if (!ended->spawned && !ended->protocol_error)
		run_fail(run, "internal", true, "the run could not be started: %s", ended->why[0] ? ended->why : "no process");
	else if (ended->protocol_error)
		run_fail(run, "agent_error", false, "the agent broke the protocol: %s", ended->why);
	else if (is_out_of_memory(run, ended))
		run_fail(run, "memory_limit", false, "the agent used more than %u MiB of memory", run->agent->memory_mb);
	else if (ended->signal == SIGXCPU)
		run_fail(run, "budget_exceeded", false, "the agent used more than %u s of CPU time", run->agent->cpu_seconds);
	else if (ended->signal)
		run_fail(run, "agent_crashed", false, "the agent was killed by signal %d (%s)%s%s", ended->signal,
		         strsignal(ended->signal), ended->why[0] ? ": " : "", ended->why);
	else
		run_fail(run, "agent_crashed", false, "the agent exited with status %d before it was done%s%s",
		         ended->exit_status, ended->why[0] ? ": " : "", ended->why);
}

void run_on_exit(struct run *run, const struct run_exit *ended)
{
	if (is_over(run))
		return;
	if (run->cancel_by)
		run_cancelled(run);
	else if (!is_host_lost(ended) || !recover_reload(run))
		fail_by_exit(run, ended);
}
