#include "worker/command.h"

#include "worker/gateway_peer.h"
#include "worker/query.h"
#include "worker/run.h"
#include "worker/user.h"

/* ---- one user's commands ---- */

struct id command_thread(const struct call *call)
{
	struct id id;
	if (!id_parse(&id, call->request.command.thread_id))
		return (struct id){0};
	return id;
}

static bool is_command(const struct call *call, enum command_kind kind)
{
	return call->request.kind == REQUEST_COMMAND && call->request.command.kind == kind;
}

/* Whether it changes, or depends on, what its thread is. */
static bool needs_its_thread(const struct call *call)
{
	return is_command(call, COMMAND_THREAD_RENAME) || is_command(call, COMMAND_THREAD_DELETE) ||
	       (is_command(call, COMMAND_RUN_START) && call->request.command.thread_id.n > 0);
}

void command_bind(struct call *call, struct user *user)
{
	call->user = user;
	user->pins++;
	user->n_calls++;
	DL_APPEND2(user->calls, call, user_prev, user_next);
}

static bool must_wait(const struct call *call)
{
	const struct call *other;
	if (!needs_its_thread(call))
		return false;
	DL_FOREACH2(call->user->calls, other, user_next)
	{
		if (other == call)
			return false;
		if (!other->is_follower && needs_its_thread(other) &&
		    str_eq(other->request.command.thread_id, call->request.command.thread_id))
			return true;
	}
	return false;
}

static void carry_out(struct call *call);

/* The first that waited for what is done now; the next follows when that one ends. */
static void wake_next(struct user *user)
{
	struct call *call;
	DL_FOREACH2(user->calls, call, user_next)
	{
		if (!call->waits || must_wait(call))
			continue;
		call->waits = false;
		carry_out(call);
		return;
	}
}

void command_unlist(struct call *call)
{
	struct user *user = call->user;
	if (!user)
		return;
	DL_DELETE2(user->calls, call, user_prev, user_next);
	user->n_calls--;
	call->user = NULL;
	if (!call->core->destroying && user->state == USER_OWNED && needs_its_thread(call))
		wake_next(user);
	user->pins--;
	if (!call->core->destroying)
		user_touch(user);
}

void command_fail_waiting(struct user *user)
{
	struct call *call, *after;
	DL_FOREACH_SAFE2(user->calls, call, after, user_next)
	if (call->waits)
		call_fail(call, ERR_FENCED, NULL);
}

/* ---- cancel, decide ---- */

static void on_run_found(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	struct store_op *op = pending->op;
	struct run *run;
	if (pending->user->state != USER_OWNED)
		call_fail(call, ERR_FENCED, NULL);
	else if (op->err)
		call_fail(call, ERR_UNAVAILABLE, op->info.text);
	else if ((run = run_find(pending->user, call->request.command.run_id)) != NULL)
		run_cancel_by_call(run, call);
	else
		call_fail(call, op->find_run.found ? ERR_NOT_ACTIVE : ERR_NOT_FOUND, NULL);
}

static void handle_cancel(struct call *call)
{
	struct str run_id = call->request.command.run_id;
	struct run *run = run_find(call->user, run_id);
	if (run) {
		run_cancel_by_call(run, call);
		return;
	}
	struct pending_op *pending = op_create(call->core, STORE_FIND_RUN, call->user, on_run_found, call);
	pending->op->find_run.run_id = arena_copy(&pending->op->arena, run_id);
	op_submit(pending);
}

/* No tool waits for an approval in this version: a call that is known is not one that could be decided. */
static void handle_decide(struct call *call)
{
	struct run *run = run_find(call->user, call->request.command.run_id);
	bool is_known = run && run->call.open && str_eq_c(call->request.command.tool_call_id, run->call.id.s);
	if (is_known)
		call_fail(call, ERR_NOT_ACTIVE, "this tool call does not wait for a decision");
	else
		call_fail(call, ERR_NOT_FOUND, NULL);
}

/* ---- threads ---- */

static void on_changed(struct append *append, enum err err)
{
	struct call *call = append->ctx;
	if (err)
		call_fail(call, err, NULL);
	else
		call_answer_fields(call, str_c("{}"));
}

static struct append_event *thread_event(struct call *call, struct append *append, const char *type, struct str title)
{
	struct id thread = command_thread(call);
	struct append_event *event = append_event(append, type, NULL, &thread, loop_wall(call->core->loop));
	event_string(&event->text, "title", title);
	event_end(&event->text);
	return event;
}

static void rename_thread(struct call *call, const struct thread_row *row)
{
	struct append *append = append_create(on_changed, call);
	struct str title = call->request.command.title;
	thread_event(call, append, "thread_renamed", title);
	append->thread = (struct thread_row){
		.thread_id = append_copy(append, row->thread_id),
		.title = append_copy(append, title),
		.created_ms = row->created_ms,
		.updated_ms = loop_wall(call->core->loop),
	};
	append_submit(call->user, append);
}

static void delete_thread(struct call *call, const struct thread_row *row)
{
	struct append *append = append_create(on_changed, call);
	thread_event(call, append, "thread_deleted", row->title);
	append->effects.thread_deleted = append_copy(append, row->thread_id);
	append->deletes_thread = command_thread(call);
	append_submit(call->user, append);
}

static void on_thread_found(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	struct store_op *op = pending->op;
	struct id thread = command_thread(call);
	bool deletes = is_command(call, COMMAND_THREAD_DELETE);
	if (pending->user->state != USER_OWNED)
		call_fail(call, ERR_FENCED, NULL);
	else if (op->err)
		call_fail(call, ERR_UNAVAILABLE, op->info.text);
	else if (!op->find_thread.found)
		call_fail(call, ERR_NOT_FOUND, NULL);
	else if (deletes && run_in_thread(pending->user, &thread))
		call_fail(call, ERR_BUSY, NULL);
	else if (deletes)
		delete_thread(call, &op->find_thread.row);
	else
		rename_thread(call, &op->find_thread.row);
}

static void handle_thread(struct call *call)
{
	struct id thread = command_thread(call);
	if (id_is_none(&thread)) {
		call_fail(call, ERR_NOT_FOUND, NULL);
		return;
	}
	struct pending_op *pending = op_create(call->core, STORE_FIND_THREAD, call->user, on_thread_found, call);
	pending->op->find_thread.thread_id = arena_copy(&pending->op->arena, id_str(&thread));
	op_submit(pending);
}

/* ---- all of them ---- */

static void carry_out(struct call *call)
{
	switch (call->request.command.kind) {
	case COMMAND_RUN_START:
		start_handle(call);
		break;
	case COMMAND_RUN_CANCEL:
		handle_cancel(call);
		break;
	case COMMAND_TOOL_DECIDE:
		handle_decide(call);
		break;
	case COMMAND_THREAD_RENAME:
	case COMMAND_THREAD_DELETE:
		handle_thread(call);
		break;
	case COMMAND_THREAD_LIST:
	case COMMAND_THREAD_HISTORY:
	case COMMAND_RUN_LIST:
		query_handle(call);
		break;
	}
}

void command_handle(struct call *call)
{
	const struct command *command = &call->request.command;
	struct user *user = user_find(call->core, command->user_id);
	if (!user || user->state != USER_OWNED || user->epoch != command->epoch || !peer_attachment(call->peer, user)) {
		call_fail(call, ERR_FENCED, "the user is not attached here under this epoch");
		return;
	}
	if (user->n_calls >= USER_CALLS_MAX) {
		call_fail(call, ERR_OVERLOADED, NULL);
		return;
	}
	command_bind(call, user);
	call->waits = must_wait(call);
	if (!call->waits)
		carry_out(call);
}
