/* run_output.c - what a run's process says: thoughts, text, marks, its end. Nothing of it is trusted. */
#include <inttypes.h>
#include <stdio.h>
#include "common/json.h"
#include "proto/codec.h"
#include "worker/gateway_peer.h"
#include "worker/run.h"
#include "worker/user.h"

/* ---- checks ---- */

static bool is_of_this_run(const struct run *run, const struct run_up *up)
{
	bool user = up->claimed_user_id.n == 0 || str_eq_c(up->claimed_user_id, run->user->id.s);
	return user && (up->claimed_run_id.n == 0 || str_eq_c(up->claimed_run_id, run->id.s));
}

static bool is_text(struct str text)
{
	return utf8_is_valid(text) && (text.n == 0 || !memchr(text.p, 0, text.n));
}

bool run_count_output(struct run *run, size_t bytes)
{
	run->output_bytes += bytes;
	if (run->output_bytes <= run->agent->output_bytes)
		return true;
	run_fail(run, "output_limit", false, "the agent put out more than %" PRIu64 " bytes", run->agent->output_bytes);
	return false;
}

/* False: the run has been failed. */
static bool begin_step(struct run *run, uint32_t step)
{
	if (run->text_step) {
		run_fail(run, "agent_error", false, "step %u begins before the message of step %u has ended", step,
		         run->text_step);
		return false;
	}
	if (step <= run->step) {
		run_fail(run, "agent_error", false, "step %u comes after step %u", step, run->step);
		return false;
	}
	if (step > run->agent->steps) {
		run_fail(run, "budget_exceeded", false, "the agent took more than %u steps", run->agent->steps);
		return false;
	}
	run->step = step;
	run->closed_bytes = 0;
	return true;
}

/* ---- thoughts and marks ---- */

static void on_step_committed(struct append *append, enum err err)
{
	(void)run_committed(append->ctx, append, err);
}

static void handle_think(struct run *run, const struct run_up *up)
{
	if (!is_text(up->text)) {
		run_fail(run, "agent_error", false, "a thought is not UTF-8 text");
		return;
	}
	if (!begin_step(run, up->step) || !run_count_output(run, up->text.n))
		return;
	struct append *append = run_append(run, on_step_committed);
	struct append_event *event = run_event(run, append, "agent_thinking");
	struct str text = json_escaped_prefix(up->text, FIELD_ESCAPED_MAX);
	event_number(&event->text, "step", up->step);
	if (text.n)
		event_string(&event->text, "text", text);
	if (text.n < up->text.n)
		event_bool(&event->text, "truncated", true);
	event_end(&event->text);
	run_put_step(run, append, STEP_THINK, true);
	run_commit(run, append);
}

static void handle_mark(struct run *run, const struct run_up *up)
{
	json_t *value;
	if (up->result.n > TOOL_RESULT_MAX || (up->result.n && json_parse(&value, up->result, NULL) != ERR_OK)) {
		run_fail(run, "agent_error", false, "the value of step %u is not JSON, or too large", up->step);
		return;
	}
	if (up->result.n)
		json_decref(value);
	if (!begin_step(run, up->step) || !run_count_output(run, up->result.n))
		return;
	struct append *append = run_append(run, on_step_committed);
	run_put_step(run, append, STEP_MARK, true)->step.result = append_copy(append, up->result);
	run_commit(run, append);
}

/* ---- text ---- */

static void open_message(struct run *run)
{
	id_make(&run->message.id);
	buf_clear(&run->message.text);
	run->message.escaped = 0;
	run->message.after_seq = run->last_seq;
}

static void put_message(struct run *run, struct append *append, struct str text)
{
	struct append_event *event = run_event(run, append, "agent_message");
	size_t index = append->n_events - 1;
	event_string(&event->text, "message_id", id_str(&run->message.id));
	event_string(&event->text, "role", str_c("assistant"));
	event_string(&event->text, "text", text);
	event_end(&event->text);
	event->closes = run->message.id;
	append->message_events[append->n_messages] = index;
	append->messages[append->n_messages++] = (struct message_row){
		.message_id = append_copy(append, id_str(&run->message.id)),
		.run_id = append_copy(append, id_str(&run->id)),
		.thread_id = append_copy(append, id_str(&run->thread_id)),
		.role = str_c("assistant"),
		.text = append_copy(append, text),
		.ts_ms = loop_wall(run->core->loop),
	};
}

void run_close_message(struct run *run, struct append *append)
{
	put_message(run, append, buf_str(&run->message.text));
	run->message.id = (struct id){0};
	buf_finish(&run->message.text);
}

static void drain_text(struct run *run);

static void on_full_message_committed(struct append *append, enum err err)
{
	struct run *run = append->ctx;
	if (run_committed(run, append, err))
		drain_text(run);
}

/* The message is as long as an event can be: it is closed, and the text goes on in another. How much of the step's text is
 * thereby durable goes into the journal, so that a later attempt does not say it again. */
static void close_full_message(struct run *run)
{
	struct append *append = run_append(run, on_full_message_committed);
	struct journal_row *row;
	char number[24];
	run->closed_bytes += run->message.text.n;
	run_close_message(run, append);
	snprintf(number, sizeof(number), "%" PRIu64, run->closed_bytes);
	row = run_put_step(run, append, STEP_MESSAGE, false);
	row->step.result = append_copy(append, str_c(number));
	run_commit(run, append);
}

/* Publishes what waits, as far as messages need not be closed on the way. */
static void drain_text(struct run *run)
{
	size_t done = 0;
	while (run->life == LIFE_RUNNING && done < run->rest.n) {
		struct str piece = utf8_prefix(str_of(run->rest.p + done, run->rest.n - done), DELTA_TEXT_MAX);
		size_t escaped = json_escaped_size(piece);
		struct open_message *message = &run->message;
		if (id_is_none(&message->id))
			open_message(run);
		if (message->text.n > 0 &&
		    (message->text.n + piece.n > MESSAGE_TEXT_MAX || message->escaped + escaped > MESSAGE_ESCAPED_MAX)) {
			close_full_message(run);
			break;
		}
		publish_delta(run->user, &run->id, &message->id, message->after_seq, message->text.n, piece);
		buf_append_str(&message->text, piece);
		message->escaped += escaped;
		done += piece.n;
	}
	buf_consume(&run->rest, done);
	if (run->life == LIFE_RUNNING)
		run_publish_stalled(run);
}

/* What an earlier attempt has closed of this step's text is not said again. */
static struct str skip_known(struct run *run, struct str text)
{
	if (run->skip_step != run->step || run->skip_bytes == 0)
		return text;
	size_t n = text.n < run->skip_bytes ? text.n : (size_t)run->skip_bytes;
	run->skip_bytes -= n;
	run->closed_bytes += n;
	return str_of(text.p + n, text.n - n);
}

static void handle_text(struct run *run, const struct run_up *up)
{
	if (!is_text(up->text)) {
		run_fail(run, "agent_error", false, "what the agent says is not UTF-8 text");
		return;
	}
	if (run->text_step != up->step && !begin_step(run, up->step))
		return;
	run->text_step = up->step;
	if (!run_count_output(run, up->text.n))
		return;
	buf_append_str(&run->rest, skip_known(run, up->text));
	drain_text(run);
}

static void handle_message_end(struct run *run, const struct run_up *up)
{
	if (run->text_step != up->step && !begin_step(run, up->step))
		return;
	run->text_step = 0;
	struct append *append = run_append(run, on_step_committed);
	if (id_is_none(&run->message.id) && run->closed_bytes == 0)
		open_message(run);
	if (!id_is_none(&run->message.id))
		run_close_message(run, append);
	run_put_step(run, append, STEP_MESSAGE, true);
	run_commit(run, append);
}

/* ---- all of it ---- */

static void handle_fail(struct run *run, const struct run_up *up)
{
	run_fail(run, "agent_error", up->retryable, STR_FMT, STR_ARG(up->text));
}

/* While a confined tool is under way the process may say only how it went. */
static bool is_in_turn(const struct run *run, const struct run_up *up)
{
	if (run->life == LIFE_TOOL)
		return up->kind == RUN_TOOL_OUTCOME || up->kind == RUN_FAIL;
	return run->life == LIFE_RUNNING && up->kind != RUN_TOOL_OUTCOME;
}

void run_on_message(struct run *run, const struct run_up *up)
{
	if (!is_of_this_run(run, up)) {
		run_fail(run, "denied", false, "the agent sent a message in the name of another user or run");
		return;
	}
	if (!is_in_turn(run, up)) {
		run_fail(run, "agent_error", false, "the agent sent a message out of turn");
		return;
	}
	switch (up->kind) {
	case RUN_THINK:
		handle_think(run, up);
		break;
	case RUN_TOOL_CALL:
		if (begin_step(run, up->step))
			run_on_tool_call(run, up);
		break;
	case RUN_TOOL_OUTCOME:
		run_on_tool_outcome(run, up);
		break;
	case RUN_TEXT:
		handle_text(run, up);
		break;
	case RUN_MESSAGE_END:
		handle_message_end(run, up);
		break;
	case RUN_MARK:
		handle_mark(run, up);
		break;
	case RUN_DONE:
		run_complete(run, up->output, up->usage);
		break;
	case RUN_FAIL:
		handle_fail(run, up);
		break;
	}
}
