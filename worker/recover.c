#include "worker/recover.h"

#include "common/json.h"
#include "worker/run.h"
#include "worker/user.h"

void recovery_free(struct run *run)
{
	if (!run->recovery)
		return;
	arena_finish(&run->recovery->arena);
	free(run->recovery->steps);
	free(run->recovery);
	run->recovery = NULL;
}

/* ---- reading the journal ---- */

static void take_unfinished_call(struct run *run, const struct journal_row *row)
{
	tool_call_finish(&run->call);
	run->call = (struct tool_call){
		.open = true,
		.step = row->step.number,
		.tool = must_copy(row->tool),
		.arguments = must_copy(row->arguments),
		.def = tool_find(row->tool),
		.started_wall_ms = row->started_ms,
	};
	if (!id_parse(&run->call.id, row->tool_call_id))
		id_make(&run->call.id);
}

static uint64_t number_of(struct str text)
{
	uint64_t n = 0;
	for (size_t i = 0; i < text.n && text.p[i] >= '0' && text.p[i] <= '9'; i++)
		n = n * 10 + (uint64_t)(text.p[i] - '0');
	return n;
}

static void take_step(struct run *run, const struct journal_row *row)
{
	struct recovery *recovery = run->recovery;
	if (row->finished) {
		struct step *step = &recovery->steps[recovery->n_steps++];
		*step = row->step;
		step->result = arena_copy(&recovery->arena, row->step.result);
		if (step->number > run->step)
			run->step = step->number;
	} else if (row->step.kind == STEP_TOOL) {
		take_unfinished_call(run, row);
	} else if (row->step.kind == STEP_MESSAGE) {
		run->skip_step = row->step.number;
		run->skip_bytes = number_of(row->step.result);
	}
}

static void take_journal(struct run *run, const struct store_op *op)
{
	recovery_free(run);
	run->recovery = must_alloc(sizeof(*run->recovery));
	/* One more for the call that may turn out to be in doubt. */
	run->recovery->steps = must_alloc((op->acquire.n_journal + 1) * sizeof(struct step));
	run->step = 0;
	for (size_t i = 0; i < op->acquire.n_journal; i++)
		if (str_eq_c(op->acquire.journal[i].run_id, run->id.s))
			take_step(run, &op->acquire.journal[i]);
	core_count(METRIC_RUNS_RECOVERED, 1);
}

static void recover_one(struct user *user, const struct store_op *op, const struct run_row *row)
{
	const struct agents *agents = user->core->parts.agents;
	const struct agent_def *agent = row->agent.n ? agents_find(agents, row->agent) : NULL;
	struct run *run = run_create(user, agent, row->agent);
	if (!id_parse(&run->id, row->run_id) || !id_parse(&run->thread_id, row->thread_id))
		log_error("run", "bad_id", "user", user->id.s, NULL);
	run->input = must_copy(row->input);
	run->client_id = must_copy(row->client_id);
	run->accepted_seq = row->accepted_seq;
	run->accepted_ms = row->accepted_ms;
	run->started_ms = row->started_ms;
	run->attempt = row->attempt;
	run->last_seq = user->last_seq;
	run->cancel_by = cancel_by_from(row->cancel_by);
	run_move(run, LIFE_QUEUED);
	if (row->status == RUN_ACTIVE) {
		run->lost = "worker_lost";
		take_journal(run, op);
	}
}

void recover_runs(struct user *user, const struct store_op *op)
{
	struct run *run, *after;
	for (size_t i = 0; i < op->acquire.n_open_runs; i++)
		recover_one(user, op, &op->acquire.open_runs[i]);
	DL_FOREACH_SAFE (user->runs, run, after)
		if (run->cancel_by)
			run_cancelled(run);
}

/* ---- the next attempt ---- */

static void put_in_doubt(struct run *run, struct append *append)
{
	struct str text = str_c("\"the worker was lost while the tool was executing: whether it took effect is not known\"");
	struct recovery *recovery = run->recovery;
	struct step *step = &recovery->steps[recovery->n_steps++];
	*step = (struct step){.number = run->call.step,
	                      .kind = STEP_TOOL,
	                      .status = TOOL_IN_DOUBT,
	                      .result = arena_copy(&recovery->arena, text)};
	if (run->step < run->call.step)
		run->step = run->call.step;
	run_put_tool_completed(run, append, TOOL_IN_DOUBT, text, true);
}

void recover_put_loss(struct run *run, struct append *append)
{
	if (!run->lost)
		return;
	struct append_event *event = run_event(run, append, "run_recovered");
	event_number(&event->text, "attempt", run->attempt);
	event_string(&event->text, "reason", str_c(run->lost));
	event_end(&event->text);
	event->voids = run->id;
	run->lost = NULL;
}

void recover_put_events(struct run *run, struct append *append)
{
	recover_put_loss(run, append);
	struct append_event *event = run_event(run, append, "agent_started");
	event_string(&event->text, "agent", str_c(run->agent_name));
	event_number(&event->text, "attempt", run->attempt);
	event_end(&event->text);
	if (!run->call.open)
		return;
	/* What may be repeated is repeated when the agent comes to it again; its tool_executing was shown. */
	if (run->call.def && (run->call.def->idempotent || run->call.def->place == TOOL_WORKER)) {
		tool_call_finish(&run->redo);
		run->redo = run->call;
		run->call = (struct tool_call){0};
	} else {
		put_in_doubt(run, append);
		tool_call_finish(&run->call);
	}
}

/* ---- the same worker, another process ---- */

static void on_reloaded(struct pending_op *pending)
{
	struct run *run = pending->ctx;
	struct store_op *op = pending->op;
	run->reloading = false;
	if (run->life == LIFE_QUEUED && op->err == ERR_OK && op->acquire.epoch == run->user->epoch) {
		take_journal(run, op);
		user_touch(run->user);
		if (run->cancel_by)
			run_cancelled(run);
	} else if (run->life == LIFE_QUEUED && run->cancel_by) {
		run_cancelled(run);
	} else if (run->life == LIFE_QUEUED) {
		run_fail(run, "internal", true, "the agent host was lost, and the journal could not be read");
	}
	run_unpin(run);
}

/* Out of what this attempt had in hand; the journal holds what counts. */
static void put_aside(struct run *run)
{
	timer_cancel(run->core->loop, &run->limit);
	timer_cancel(run->core->loop, &run->tool_timer);
	run->message.id = (struct id){0};
	buf_finish(&run->message.text);
	buf_finish(&run->rest);
	run->text_step = 0;
	run->closed_bytes = run->skip_bytes = 0;
	run->wait_commit = run->wait_credit = false;
	run->output_bytes = 0;
	run->lost = "agent_host_lost";
	tool_call_finish(&run->call);
	tool_call_finish(&run->redo);
	run_move(run, LIFE_QUEUED);
}

bool recover_reload(struct run *run)
{
	struct user *user = run->user;
	if (!run->reloading) {
		if (run->attempt >= RUN_ATTEMPTS_MAX)
			return false;
		run->reloading = true;
		put_aside(run);
	}
	if (run->pins > 0 || run->life != LIFE_QUEUED)
		return true;
	struct pending_op *pending = op_create(run->core, STORE_ACQUIRE, user, on_reloaded, run);
	pending->op->acquire.my_id = arena_copy(&pending->op->arena, str_c(run->core->worker_id));
	pending->op->acquire.my_incarnation = run->core->incarnation;
	run->pins++;
	op_submit(pending);
	return true;
}
