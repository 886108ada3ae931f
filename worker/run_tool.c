/*
 * run_tool.c - a tool call: journalled and shown before it starts, executed confined or here, its outcome committed before the
 * process learns of it.
 */
#include "common/json.h"
#include "worker/gateway_peer.h"
#include "worker/run.h"
#include "worker/tool/notes.h"
#include "worker/user.h"

enum { LEASE_LOOK_MS = 50 };

const char *tool_status_name(enum tool_status status)
{
	static const char *const names[] = {"ok", "error", "denied", "timeout", "cancelled", "in_doubt"};
	return names[status];
}

void tool_call_finish(struct tool_call *call)
{
	free(call->tool);
	free(call->arguments);
	*call = (struct tool_call){0};
}

/* ---- outcomes ---- */

/* Results that are too large become a string of their beginning. */
static bool cut(struct str result, struct buf *out)
{
	json_t *value;
	if (result.n <= TOOL_RESULT_MAX)
		return false;
	struct str text = result;
	if (json_parse(&value, result, NULL) != ERR_OK)
		value = NULL;
	if (json_is_string(value))
		text = str_of(json_string_value(value), json_string_length(value));
	json_write_string(out, json_escaped_prefix(text, TOOL_RESULT_MAX));
	json_decref(value);
	return true;
}

void run_put_tool_completed(struct run *run, struct append *append, enum tool_status status, struct str result, bool journal)
{
	struct tool_call *call = &run->call;
	struct append_event *event = run_event(run, append, "tool_completed");
	struct buf shorter = {0};
	bool is_cut = cut(result, &shorter);
	if (is_cut)
		result = buf_str(&shorter);
	event_string(&event->text, "tool_call_id", id_str(&call->id));
	event_string(&event->text, "tool", str_c(call->tool));
	event_string(&event->text, "status", str_c(tool_status_name(status)));
	event_json(&event->text, "result", result);
	event_number(&event->text, "duration_ms", call->started_ms ? loop_now(run->core->loop) - call->started_ms : 0);
	if (is_cut)
		event_bool(&event->text, "truncated", true);
	event_end(&event->text);
	if (journal) {
		struct journal_row *row = run_put_step(run, append, STEP_TOOL, true);
		row->step.number = call->step;
		row->step.status = status;
		row->step.result = append_copy(append, result.n ? result : str_c("null"));
		row->tool = append_copy(append, str_c(call->tool));
		row->tool_call_id = append_copy(append, id_str(&call->id));
		row->arguments = append_copy(append, str_c(call->arguments));
		row->started_ms = call->started_wall_ms;
	}
	call->open = false;
	buf_finish(&shorter);
}

static void on_outcome_committed(struct append *append, enum err err)
{
	struct run *run = append->ctx;
	/* The finished step is the last that the append put. */
	const struct step *step = &append->journal[append->n_journal - 1].step;
	if (!run_committed(run, append, err))
		return;
	struct run_down down = {.kind = RUN_TOOL_RESULT};
	down.tool_result.step = step->number;
	down.tool_result.status = step->status;
	down.tool_result.result = step->result;
	tool_call_finish(&run->call);
	if (run->process && run->core->parts.host->ops->send(run->process, &down) != ERR_OK)
		run_fail(run, "internal", true, "a tool's result could not be given to the agent");
}

void run_tool_finish(struct run *run, enum tool_status status, struct str result, const struct note_effect *note)
{
	struct append *append;
	timer_cancel(run->core->loop, &run->tool_timer);
	if (!run_count_output(run, result.n))
		return;
	append = run_append(run, on_outcome_committed);
	run_put_tool_completed(run, append, status, result, true);
	if (note) {
		append->effects.note.op = note->put ? NOTE_PUT : NOTE_DELETE;
		append->effects.note.key = append_copy(append, note->key);
		append->effects.note.value = append_copy(append, note->value);
	}
	run_commit(run, append);
}

static void finish_with_text(struct run *run, enum tool_status status, const char *text)
{
	struct buf result = {0};
	json_write_string(&result, str_c(text));
	run_tool_finish(run, status, buf_str(&result), NULL);
	buf_finish(&result);
}

/* ---- notes ---- */

static void on_note_read(struct pending_op *pending)
{
	struct run *run = pending->ctx;
	struct store_op *op = pending->op;
	struct notes_request request = {0};
	struct buf result = {0};
	if (run->life == LIFE_TOOL && run->call.open && notes_parse(&request, str_c(run->call.arguments), &result)) {
		struct note_effect gone = {.key = buf_str(&request.key)};
		bool deletes = request.op == NOTES_DELETE && op->note.found;
		if (request.op == NOTES_LIST)
			notes_list_result(&result, op->note.keys, op->note.n_keys);
		else if (request.op == NOTES_GET)
			notes_get_result(&result, &request, op->note.found, op->note.value);
		else
			notes_delete_result(&result, &request, op->note.found);
		if (op->err)
			finish_with_text(run, TOOL_ERROR, "the notes can't be read now");
		else
			run_tool_finish(run, TOOL_OK, buf_str(&result), deletes ? &gone : NULL);
	}
	notes_finish(&request);
	buf_finish(&result);
	run_unpin(run);
}

static void read_notes(struct run *run, const struct notes_request *request)
{
	struct pending_op *pending = op_create(run->core, STORE_NOTE_READ, run->user, on_note_read, run);
	pending->op->note.key = arena_copy(&pending->op->arena, buf_str(&request->key));
	run->pins++;
	op_submit(pending);
}

static void execute_notes(struct run *run)
{
	struct notes_request request;
	struct buf result = {0};
	if (!notes_parse(&request, str_c(run->call.arguments), &result)) {
		run_tool_finish(run, TOOL_ERROR, buf_str(&result), NULL);
	} else if (request.op == NOTES_PUT) {
		struct note_effect put = {.put = true, .key = buf_str(&request.key), .value = buf_str(&request.value)};
		notes_put_result(&result, &request);
		run_tool_finish(run, TOOL_OK, buf_str(&result), &put);
	} else {
		read_notes(run, &request);
	}
	notes_finish(&request);
	buf_finish(&result);
}

/* ---- executing ---- */

static void execute_confined(struct run *run)
{
	struct run_down down = {.kind = RUN_TOOL_GO};
	down.tool_go.step = run->call.step;
	down.tool_go.tool = str_c(run->call.tool);
	down.tool_go.arguments = str_c(run->call.arguments);
	timer_set(run->core->loop, &run->tool_timer, (uint64_t)run->agent->tool_seconds * 1000);
	if (run->process && run->core->parts.host->ops->send(run->process, &down) != ERR_OK)
		run_fail(run, "internal", true, "a tool call could not be given to the sandbox");
}

/* Nothing starts while we can't be sure that the user is still ours: then it waits here. */
void run_tool_execute(struct run *run)
{
	if (run->life == LIFE_RUNNING)
		run_move(run, LIFE_TOOL);
	if (!lease_holds(run->core->parts.lease)) {
		run->call.started_ms = 0;
		timer_set(run->core->loop, &run->tool_timer, LEASE_LOOK_MS);
		return;
	}
	run->call.started_ms = loop_now(run->core->loop);
	if (run->call.def->place == TOOL_WORKER)
		execute_notes(run);
	else
		execute_confined(run);
}

void run_tool_timer(struct timer *timer)
{
	struct run *run = (struct run *)((char *)timer - offsetof(struct run, tool_timer));
	if (run->life != LIFE_TOOL)
		return;
	if (run->call.started_ms == 0) {
		run_tool_execute(run);
		return;
	}
	run->call.has_timed_out = true;
	run_fail(run, "timeout", false, "the tool %s took longer than %u s", run->call.tool, run->agent->tool_seconds);
}

/* ---- calling ---- */

static bool is_allowed(const struct run *run, struct str tool)
{
	for (size_t i = 0; i < run->agent->tools.n; i++)
		if (str_eq_c(tool, run->agent->tools.items[i]))
			return tool_find(tool) != NULL;
	return false;
}

static void on_call_committed(struct append *append, enum err err)
{
	struct run *run = append->ctx;
	if (run_committed(run, append, err))
		run_tool_execute(run);
}

static void put_tool_executing(struct run *run, struct append *append)
{
	struct tool_call *call = &run->call;
	struct append_event *event = run_event(run, append, "tool_executing");
	event_string(&event->text, "tool_call_id", id_str(&call->id));
	event_string(&event->text, "tool", str_c(call->tool));
	event_json(&event->text, "arguments", str_c(call->arguments));
	event_end(&event->text);
	call->open = true;
}

static void commit_call(struct run *run)
{
	struct append *append = run_append(run, on_call_committed);
	put_tool_executing(run, append);
	struct journal_row *row = run_put_step(run, append, STEP_TOOL, false);
	row->tool = append_copy(append, str_c(run->call.tool));
	row->tool_call_id = append_copy(append, id_str(&run->call.id));
	row->arguments = append_copy(append, str_c(run->call.arguments));
	row->started_ms = run->call.started_wall_ms;
	run_commit(run, append);
}

static void commit_denied(struct run *run)
{
	struct append *append = run_append(run, on_outcome_committed);
	put_tool_executing(run, append);
	run_put_tool_completed(run, append, TOOL_DENIED, str_c("\"this agent may not use a tool of this name\""), true);
	run_commit(run, append);
}

static bool arguments_are_valid(struct str arguments)
{
	json_t *value;
	if (arguments.n > TOOL_ARGUMENTS_MAX || json_parse(&value, arguments, NULL) != ERR_OK)
		return false;
	bool ok = json_is_object(value);
	json_decref(value);
	return ok;
}

/* The call that was under way when an earlier attempt was lost: shown already, only executed again. */
static bool go_on_with_call(struct run *run, const struct run_up *up)
{
	struct tool_call *redo = &run->redo;
	if (!redo->def || redo->step != up->step)
		return false;
	if (!str_eq_c(up->tool, redo->tool)) {
		run_fail(run, "agent_error", false, "step %u was a call of %s before, and is one of another tool now", up->step,
		         redo->tool);
		return true;
	}
	tool_call_finish(&run->call);
	run->call = *redo;
	*redo = (struct tool_call){0};
	run->call.open = true;
	run_tool_execute(run);
	return true;
}

void run_on_tool_call(struct run *run, const struct run_up *up)
{
	struct str arguments = up->arguments.n ? up->arguments : str_c("{}");
	if (go_on_with_call(run, up))
		return;
	if (up->tool.n == 0 || !utf8_is_valid(up->tool) || memchr(up->tool.p, 0, up->tool.n) || !arguments_are_valid(arguments)) {
		run_fail(run, "agent_error", false,
		         "the tool call of step %u is not valid: its arguments must be a JSON object of at most %d bytes",
		         up->step, TOOL_ARGUMENTS_MAX);
		return;
	}
	if (!run_count_output(run, arguments.n))
		return;
	tool_call_finish(&run->call);
	run->call = (struct tool_call){
		.step = up->step,
		.tool = must_copy(up->tool),
		.arguments = must_copy(arguments),
		.def = tool_find(up->tool),
		.started_wall_ms = loop_wall(run->core->loop),
	};
	id_make(&run->call.id);
	if (is_allowed(run, up->tool))
		commit_call(run);
	else
		commit_denied(run);
}

void run_on_tool_outcome(struct run *run, const struct run_up *up)
{
	json_t *value;
	if (run->call.def->place != TOOL_CONFINED || run->call.started_ms == 0 || up->step != run->call.step) {
		run_fail(run, "agent_error", false, "the agent told the outcome of a call that it was not given");
		return;
	}
	if (json_parse(&value, up->result, NULL) != ERR_OK) {
		run_fail(run, "agent_error", false, "the result of the tool %s is not JSON", run->call.tool);
		return;
	}
	json_decref(value);
	bool is_plain = up->status == TOOL_OK || up->status == TOOL_TIMEOUT;
	run_tool_finish(run, is_plain ? up->status : TOOL_ERROR, up->result, NULL);
}
