#include "worker/run.h"

#include "common/state.h"
#include "worker/call.h"
#include "worker/gateway_peer.h"
#include "worker/recover.h"
#include "worker/user.h"

/* ---- states ---- */

#define BIT(life) (1u << (life))

static const char *const names[LIFE_COUNT_] = {
	[LIFE_NONE] = "none",         [LIFE_ACCEPTING] = "accepting", [LIFE_QUEUED] = "queued",
	[LIFE_STARTING] = "starting", [LIFE_RUNNING] = "running",     [LIFE_COMMITTING] = "committing",
	[LIFE_TOOL] = "tool",         [LIFE_FINISHING] = "finishing", [LIFE_ENDED] = "ended",
};

static const unsigned successors[LIFE_COUNT_] = {
	[LIFE_NONE] = BIT(LIFE_ACCEPTING) | BIT(LIFE_QUEUED),
	[LIFE_ACCEPTING] = BIT(LIFE_QUEUED) | BIT(LIFE_RUNNING) | BIT(LIFE_FINISHING) | BIT(LIFE_ENDED),
	[LIFE_QUEUED] = BIT(LIFE_STARTING) | BIT(LIFE_FINISHING) | BIT(LIFE_ENDED),
	[LIFE_STARTING] = BIT(LIFE_RUNNING) | BIT(LIFE_QUEUED) | BIT(LIFE_FINISHING) | BIT(LIFE_ENDED),
	[LIFE_RUNNING] = BIT(LIFE_COMMITTING) | BIT(LIFE_TOOL) | BIT(LIFE_QUEUED) | BIT(LIFE_FINISHING) | BIT(LIFE_ENDED),
	[LIFE_COMMITTING] = BIT(LIFE_RUNNING) | BIT(LIFE_QUEUED) | BIT(LIFE_FINISHING) | BIT(LIFE_ENDED),
	[LIFE_TOOL] = BIT(LIFE_COMMITTING) | BIT(LIFE_QUEUED) | BIT(LIFE_FINISHING) | BIT(LIFE_ENDED),
	[LIFE_FINISHING] = BIT(LIFE_ENDED),
	[LIFE_ENDED] = 0,
};

const char *run_life_name(enum run_life life)
{
	return names[life];
}

void run_move(struct run *run, enum run_life life)
{
	(void)state_may_follow(successors, run->life, life, "run");
	if (run->life != LIFE_NONE)
		run->core->lives[run->life]--;
	run->life = life;
	run->core->lives[life]++;
}

/* ---- the user's runs ---- */

static void on_limit(struct timer *timer)
{
	struct run *run = (struct run *)((char *)timer - offsetof(struct run, limit));
	run_fail(run, "timeout", false, "the run took longer than %u s", run->agent->run_seconds);
}

static void on_grace_over(struct timer *timer)
{
	run_dismiss((struct run *)((char *)timer - offsetof(struct run, grace)), false);
}

struct run *run_create(struct user *user, const struct agent_def *agent, struct str agent_name)
{
	struct run *run = must_alloc(sizeof(*run));
	run->core = user->core;
	run->user = user;
	run->agent = agent;
	run->agent_name = must_copy(agent_name);
	run->limit.fn = on_limit;
	run->grace.fn = on_grace_over;
	run->tool_timer.fn = run_tool_timer;
	DL_APPEND(user->runs, run);
	return run;
}

struct run *run_find(const struct user *user, struct str run_id)
{
	struct run *run;
	DL_FOREACH (user->runs, run)
		if (str_eq_c(run_id, run->id.s))
			return run;
	return NULL;
}

struct run *run_in_thread(const struct user *user, const struct id *thread)
{
	struct run *run;
	DL_FOREACH (user->runs, run)
		if (id_eq(&run->thread_id, thread))
			return run;
	return NULL;
}

bool run_is_active(const struct run *run)
{
	return run->life > LIFE_QUEUED || (run->life == LIFE_ACCEPTING && run->starts_at_once);
}

static size_t count(const struct user *user, bool active)
{
	const struct run *run;
	size_t n = 0;
	DL_FOREACH (user->runs, run)
		n += run_is_active(run) == active;
	return n;
}

size_t run_count_active(const struct user *user)
{
	return count(user, true);
}

size_t run_count_queued(const struct user *user)
{
	return count(user, false);
}

bool run_any_active(const struct user *user)
{
	return run_count_active(user) > 0;
}

bool run_has_open_message(const struct run *run)
{
	return run->life != LIFE_FINISHING && !id_is_none(&run->message.id);
}

/* ---- turns ---- */

static bool is_first_of_thread(const struct user *user, const struct run *run)
{
	return run_in_thread(user, &run->thread_id) == run;
}

static struct run *next_to_start(const struct user *user)
{
	struct run *run;
	if (run_count_active(user) >= user->max_active)
		return NULL;
	DL_FOREACH (user->runs, run)
		if (run->life == LIFE_QUEUED && !run->reloading && is_first_of_thread(user, run))
			return run;
	return NULL;
}

void run_schedule(struct user *user)
{
	if (user->is_waiting || user->state != USER_OWNED || !next_to_start(user))
		return;
	user->is_waiting = true;
	DL_APPEND2(user->core->waiting, user, wait_prev, wait_next);
	core_sweep_soon(user->core);
}

bool run_may_start_at_once(const struct user *user)
{
	return core_may_start(user->core) && !user->core->waiting && run_count_active(user) < user->max_active;
}

static void on_started(struct append *append, enum err err)
{
	struct run *run = append->ctx;
	if (run_committed(run, append, err))
		run_begin(run);
}

static void start(struct run *run)
{
	struct append *append;
	run->attempt++;
	run_move(run, LIFE_STARTING);
	if (!run->agent) {
		run_fail(run, "internal", false, "the agent \"%s\" is no longer offered", run->agent_name);
		return;
	}
	if (run->attempt > RUN_ATTEMPTS_MAX) {
		run_fail(run, "worker_lost", true, "the run was lost %u times", run->attempt - 1);
		return;
	}
	run_spawn(run);
	append = run_append(run, on_started);
	if (run->started_ms == 0)
		run->started_ms = loop_wall(run->core->loop);
	if (run->recovery) {
		recover_put_events(run, append);
	} else {
		struct append_event *event = run_event(run, append, "agent_started");
		event_string(&event->text, "agent", str_c(run->agent_name));
		event_number(&event->text, "attempt", run->attempt);
		event_end(&event->text);
	}
	run_put_row(run, append, RUN_ACTIVE, false);
	append_submit(run->user, append);
}

bool run_start_next(struct user *user)
{
	struct run *run = next_to_start(user);
	if (run)
		start(run);
	return next_to_start(user) != NULL;
}

/* ---- the process ---- */

static void on_message(void *ctx, const struct run_up *up)
{
	struct run *run = ctx;
	if (!run->dismissing && run->life != LIFE_FINISHING && run->life != LIFE_ENDED)
		run_on_message(run, up);
}

static void forgotten(struct run *run)
{
	struct core *core = run->core;
	if (run->dismissing)
		DL_DELETE2(core->dismissed, run, dismiss_prev, dismiss_next);
	run->dismissing = false;
	run->process = NULL;
	timer_cancel(core->loop, &run->grace);
	core->processes--;
	core_sweep_soon(core);
}

static void on_ended(void *ctx, const struct run_exit *ended)
{
	struct run *run = ctx;
	bool is_wanted = !run->dismissing;
	forgotten(run);
	run->exited = true;
	run->exit = *ended;
	if (is_wanted && run->life != LIFE_ACCEPTING && run->life != LIFE_STARTING)
		run_on_exit(run, ended);
}

void run_spawn(struct run *run)
{
	static const struct agent_run_events events = {.message = on_message, .ended = on_ended};
	const struct agent_limits limits = {
		.memory_bytes = (uint64_t)run->agent->memory_mb << 20,
		.cpu_seconds = run->agent->cpu_seconds,
		.file_bytes = RUN_FILE_BYTES,
		.descriptors = RUN_DESCRIPTORS,
	};
	struct agent_host *host = run->core->parts.host;
	run->core->processes++;
	run->exited = run->is_paused = false;
	run->process = host->ops->spawn(host, run->agent->kind, &limits, &events, run);
}

void run_dismiss(struct run *run, bool with_grace)
{
	if (!run->process || run->dismissing)
		return;
	if (with_grace) {
		timer_set(run->core->loop, &run->grace, RUN_CANCEL_GRACE_MS);
		return;
	}
	run->dismissing = true;
	DL_APPEND2(run->core->dismissed, run, dismiss_prev, dismiss_next);
	core_sweep_soon(run->core);
}

void run_forget_dismissed(struct core *core)
{
	while (core->dismissed) {
		struct run *run = core->dismissed;
		struct agent_run *process = run->process;
		forgotten(run);
		core->parts.host->ops->forget(process);
	}
}

static enum err send_begin(struct run *run)
{
	struct run_down down = {.kind = RUN_BEGIN};
	down.begin.input = str_c(run->input);
	down.begin.attempt = run->attempt;
	down.begin.output_bytes = run->agent->output_bytes;
	down.begin.run_id = id_str(&run->id);
	down.begin.thread_id = id_str(&run->thread_id);
	if (run->recovery) {
		down.begin.journal = run->recovery->steps;
		down.begin.n_journal = run->recovery->n_steps;
	}
	return run->core->parts.host->ops->send(run->process, &down);
}

void run_begin(struct run *run)
{
	if (run->exited || !run->process) {
		run_on_exit(run, &run->exit);
		return;
	}
	if (send_begin(run) != ERR_OK) {
		run_fail(run, "worker_lost", true, "what the run had done before is too much to go on from");
		return;
	}
	recovery_free(run);
	core_count(METRIC_RUNS_STARTED, 1);
	timer_set(run->core->loop, &run->limit, (uint64_t)run->agent->run_seconds * 1000);
}

void run_apply_pause(struct run *run)
{
	bool pause = run->wait_commit || run->wait_credit;
	if (!run->process || run->dismissing || pause == run->is_paused)
		return;
	run->is_paused = pause;
	run->core->parts.host->ops->pause(run->process, pause);
}

/* ---- commits ---- */

void run_unpin(struct run *run)
{
	run->pins--;
	if (run->pins > 0)
		return;
	if (run->life == LIFE_ENDED)
		core_sweep_soon(run->core);
	else if (run->reloading)
		recover_reload(run);
}

struct append *run_append(struct run *run, void (*done)(struct append *append, enum err err))
{
	struct append *append = append_create(done, run);
	append->retry = true;
	run->pins++;
	return append;
}

void run_commit(struct run *run, struct append *append)
{
	run_move(run, LIFE_COMMITTING);
	run->wait_commit = true;
	run_apply_pause(run);
	append_submit(run->user, append);
}

bool run_committed(struct run *run, const struct append *append, enum err err)
{
	bool goes_on = err == ERR_OK && (run->life == LIFE_COMMITTING || run->life == LIFE_STARTING);
	if (err == ERR_OK && append->n_events > 0)
		run->last_seq = append_seq(append, append->n_events - 1);
	if (goes_on) {
		run_move(run, LIFE_RUNNING);
		run->wait_commit = false;
		run_publish_stalled(run);
		run_apply_pause(run);
	}
	run_unpin(run);
	return goes_on;
}

void run_publish_stalled(struct run *run)
{
	if (run->wait_credit || !peer_user_is_stalled(run->user))
		return;
	run->wait_credit = true;
	run_apply_pause(run);
}

void run_credit_changed(struct user *user)
{
	struct run *run;
	if (!user->runs || peer_user_is_stalled(user))
		return;
	DL_FOREACH (user->runs, run) {
		run->wait_credit = false;
		run_apply_pause(run);
	}
}

struct append_event *run_event(struct run *run, struct append *append, const char *type)
{
	return append_event(append, type, &run->id, &run->thread_id, loop_wall(run->core->loop));
}

void run_put_row(const struct run *run, struct append *append, enum run_status status, bool with_input)
{
	struct run_row *row = arena_alloc(&append->arena, sizeof(*row));
	if (!row)
		abort();
	*row = (struct run_row){
		.run_id = append_copy(append, id_str(&run->id)),
		.thread_id = append_copy(append, id_str(&run->thread_id)),
		.agent = append_copy(append, str_c(run->agent_name)),
		.status = status,
		.attempt = run->attempt,
		.accepted_seq = run->accepted_seq,
		.accepted_ms = run->accepted_ms,
		.started_ms = run->started_ms,
		.client_id = append_copy(append, str_c(run->client_id)),
		.cancel_by = str_c(cancel_by_name(run->cancel_by)),
	};
	if (status > RUN_ACTIVE)
		row->ended_ms = loop_wall(run->core->loop);
	if (with_input)
		row->input = append_copy(append, str_c(run->input));
	append->runs = row;
	append->n_runs = 1;
}

struct journal_row *run_put_step(struct run *run, struct append *append, enum step_kind kind, bool finished)
{
	struct journal_row *row = &append->journal[append->n_journal++];
	*row = (struct journal_row){
		.run_id = append_copy(append, id_str(&run->id)),
		.step = {.number = run->step, .kind = kind},
		.finished = finished,
		.started_ms = loop_wall(run->core->loop),
	};
	return row;
}

/* ---- the beginning and the end ---- */

void run_on_accepted(struct run *run, uint64_t accepted_seq, uint64_t last_seq)
{
	run->accepted_seq = accepted_seq;
	run->last_seq = last_seq;
	if (run->life != LIFE_ACCEPTING)
		return;
	run_move(run, run->starts_at_once ? LIFE_RUNNING : LIFE_QUEUED);
	if (run->cancel_by)
		run_cancelled(run);
	else if (run->starts_at_once)
		run_begin(run);
	user_touch(run->user);
}

void run_retire(struct run *run, enum err cancel_answer)
{
	struct core *core = run->core;
	struct call *call;
	timer_cancel(core->loop, &run->limit);
	timer_cancel(core->loop, &run->tool_timer);
	run_move(run, LIFE_ENDED);
	core->lives[LIFE_ENDED]--;
	DL_DELETE(run->user->runs, run);
	DL_APPEND(core->ended, run);
	user_touch(run->user);
	core_sweep_soon(core);
	while ((call = run->cancelling) != NULL) {
		LL_DELETE2(run->cancelling, call, follow_next);
		if (cancel_answer == ERR_OK)
			call_answer_fields(call, str_c("{}"));
		else
			call_fail(call, cancel_answer, NULL);
	}
}

void run_discard(struct run *run)
{
	run_dismiss(run, false);
	run_retire(run, ERR_UNAVAILABLE);
}

void run_lose_all(struct user *user)
{
	while (user->runs) {
		struct run *run = user->runs;
		run_dismiss(run, false);
		run_retire(run, ERR_FENCED);
	}
}

static void run_free(struct run *run)
{
	struct core *core = run->core;
	if (run->process) {
		struct agent_run *process = run->process;
		forgotten(run);
		core->parts.host->ops->forget(process);
	}
	timer_cancel(core->loop, &run->limit);
	timer_cancel(core->loop, &run->tool_timer);
	recovery_free(run);
	buf_finish(&run->message.text);
	buf_finish(&run->rest);
	tool_call_finish(&run->call);
	tool_call_finish(&run->redo);
	free(run->agent_name);
	free(run->input);
	free(run->client_id);
	free(run);
}

void run_free_ended(struct core *core)
{
	struct run *run, *after;
	DL_FOREACH_SAFE (core->ended, run, after) {
		if ((run->pins > 0 || run->process) && !core->destroying)
			continue;
		DL_DELETE(core->ended, run);
		run_free(run);
	}
}

void run_free_all(struct user *user)
{
	struct run *run, *after;
	DL_FOREACH_SAFE (user->runs, run, after) {
		DL_DELETE(user->runs, run);
		run_free(run);
	}
}
