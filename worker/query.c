#include "worker/query.h"

#include <inttypes.h>
#include "common/json.h"
#include "worker/event.h"
#include "worker/user.h"

/* ---- printing ---- */

static void print_string(struct buf *out, const char *key, struct str value)
{
	if (out->n > 0 && out->p[out->n - 1] != '{')
		buf_append_c(out, ",");
	buf_printf(out, "\"%s\":", key);
	json_write_string(out, value);
}

static void print_time(struct buf *out, const char *key, uint64_t unix_ms)
{
	char ts[TS_LEN + 1];
	ts_print(ts, unix_ms);
	print_string(out, key, str_c(ts));
}

static const char *status_name(enum run_status status)
{
	switch (status) {
	case RUN_QUEUED:
		return "queued";
	case RUN_ACTIVE:
		return "active";
	case RUN_COMPLETED:
		return "completed";
	case RUN_FAILED:
		return "failed";
	case RUN_CANCELLED:
		return "cancelled";
	}
	return "unknown";
}

static void print_run(struct buf *out, const struct run_row *row)
{
	buf_append_c(out, "{");
	print_string(out, "run_id", row->run_id);
	print_string(out, "thread_id", row->thread_id);
	print_string(out, "agent", row->agent);
	print_string(out, "status", str_c(status_name(row->status)));
	if (row->started_ms)
		print_time(out, "started_at", row->started_ms);
	if (row->ended_ms)
		print_time(out, "ended_at", row->ended_ms);
	buf_append_c(out, "}");
}

static void print_runs(struct buf *out, const struct run_row *rows, size_t n)
{
	buf_append_c(out, "\"runs\":[");
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			buf_append_c(out, ",");
		print_run(out, &rows[i]);
	}
	buf_append_c(out, "]");
}

static void print_thread(struct buf *out, const struct thread_row *row)
{
	buf_append_c(out, "{");
	print_string(out, "thread_id", row->thread_id);
	print_string(out, "title", row->title);
	print_time(out, "created_at", row->created_ms);
	print_time(out, "updated_at", row->updated_ms);
	if (row->active_run_id.n)
		print_string(out, "active_run_id", row->active_run_id);
	buf_append_c(out, "}");
}

static void print_message(struct buf *out, const struct message_row *row)
{
	buf_append_c(out, "{");
	print_string(out, "message_id", row->message_id);
	print_string(out, "run_id", row->run_id);
	print_string(out, "role", row->role);
	print_string(out, "text", row->text);
	buf_printf(out, ",\"seq\":%" PRIu64, row->seq);
	print_time(out, "ts", row->ts_ms);
	buf_append_c(out, "}");
}

static void print_next(struct buf *out, struct str next)
{
	if (next.n)
		print_string(out, "next", next);
	buf_append_c(out, "}");
}

static void print_threads_answer(struct buf *out, const struct store_op *op)
{
	buf_append_c(out, "{\"threads\":[");
	for (size_t i = 0; i < op->list_threads.n; i++) {
		if (i > 0)
			buf_append_c(out, ",");
		print_thread(out, &op->list_threads.rows[i]);
	}
	buf_append_c(out, "]");
	print_next(out, op->list_threads.next);
}

static void print_history_answer(struct buf *out, const struct store_op *op)
{
	buf_append_c(out, "{\"messages\":[");
	for (size_t i = 0; i < op->list_messages.n; i++) {
		if (i > 0)
			buf_append_c(out, ",");
		print_message(out, &op->list_messages.rows[i]);
	}
	buf_append_c(out, "],");
	print_runs(out, op->list_messages.open_runs, op->list_messages.n_open_runs);
	buf_printf(out, ",\"as_of_seq\":%" PRIu64, op->list_messages.as_of_seq);
	print_next(out, op->list_messages.next);
}

static void print_runs_answer(struct buf *out, const struct store_op *op)
{
	buf_append_c(out, "{");
	print_runs(out, op->list_runs.rows, op->list_runs.n);
	print_next(out, op->list_runs.next);
}

/* ---- asking ---- */

static void ask(struct call *call);

static void print_answer(struct buf *out, const struct store_op *op)
{
	if (op->kind == STORE_LIST_THREADS)
		print_threads_answer(out, op);
	else if (op->kind == STORE_LIST_MESSAGES)
		print_history_answer(out, op);
	else
		print_runs_answer(out, op);
}

static enum err error_for_client(enum err err)
{
	return err == ERR_NOT_FOUND || err == ERR_INVALID_MESSAGE || err == ERR_FENCED ? err : ERR_UNAVAILABLE;
}

static void on_listed(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	struct store_op *op = pending->op;
	struct buf out = {0};
	if (op->err == ERR_FENCED)
		user_lose(pending->user, "a read was fenced");
	if (pending->user->state != USER_OWNED) {
		call_fail(call, ERR_FENCED, NULL);
		return;
	}
	if (op->err) {
		call_fail(call, error_for_client(op->err), op->info.text[0] ? op->info.text : NULL);
		return;
	}
	print_answer(&out, op);
	if (out.n > QUERY_BYTES_MAX && call->limit > 1) {
		call->limit /= 2;
		ask(call);
	} else {
		call_answer_fields(call, buf_str(&out));
	}
	buf_finish(&out);
}

static void ask(struct call *call)
{
	const struct command *command = &call->request.command;
	struct pending_op *pending;
	switch (command->kind) {
	case COMMAND_THREAD_LIST:
		pending = op_create(call->core, STORE_LIST_THREADS, call->user, on_listed, call);
		pending->op->list_threads.limit = call->limit;
		pending->op->list_threads.before = arena_copy(&pending->op->arena, command->before);
		break;
	case COMMAND_THREAD_HISTORY:
		pending = op_create(call->core, STORE_LIST_MESSAGES, call->user, on_listed, call);
		pending->op->list_messages.thread_id = arena_copy(&pending->op->arena, command->thread_id);
		pending->op->list_messages.limit = call->limit;
		pending->op->list_messages.before = arena_copy(&pending->op->arena, command->before);
		break;
	default:
		pending = op_create(call->core, STORE_LIST_RUNS, call->user, on_listed, call);
		pending->op->list_runs.thread_id = arena_copy(&pending->op->arena, command->thread_id);
		pending->op->list_runs.limit = call->limit;
		pending->op->list_runs.before = arena_copy(&pending->op->arena, command->before);
		break;
	}
	op_submit(pending);
}

static void on_thread_checked(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	if (pending->user->state != USER_OWNED)
		call_fail(call, ERR_FENCED, NULL);
	else if (pending->op->err)
		call_fail(call, ERR_UNAVAILABLE, pending->op->info.text);
	else if (!pending->op->find_thread.found)
		call_fail(call, ERR_NOT_FOUND, NULL);
	else
		ask(call);
}

void query_handle(struct call *call)
{
	const struct command *command = &call->request.command;
	call->limit = command->limit ? command->limit : 50;
	if (command->kind != COMMAND_RUN_LIST || command->thread_id.n == 0) {
		ask(call);
		return;
	}
	/* A list would be empty for a thread that isn't theirs, where the answer is not_found. */
	struct pending_op *pending = op_create(call->core, STORE_FIND_THREAD, call->user, on_thread_checked, call);
	pending->op->find_thread.thread_id = arena_copy(&pending->op->arena, command->thread_id);
	op_submit(pending);
}
