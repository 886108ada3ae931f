/* codec_run.c - what worker and run say to each other. A run is hostile until proven otherwise. */
#include <stdlib.h>
#include "proto/codec_internal.h"

enum {
	JOURNAL_MAX = BATCH_ITEMS_MAX,
	USAGE_MAX = 4096,
	CLAIM_MAX = 256, /* a forged id may have any form */
};

/* ---- worker -> run ---- */

static void check_begin(struct check *check, const struct run_down *d)
{
	check_text(check, "begin.input", d->begin.input, COMMAND_INPUT_MAX);
	check_id(check, "begin.run_id", d->begin.run_id, true);
	check_id(check, "begin.thread_id", d->begin.thread_id, true);
	check_range(check, "begin.journal", d->begin.n_journal, 0, JOURNAL_MAX);
	for (size_t i = 0; i < d->begin.n_journal && !check->err; i++) {
		check_range(check, "journal.kind", d->begin.journal[i].kind, STEP_THINK, STEP_MARK);
		check_range(check, "journal.status", d->begin.journal[i].status, TOOL_OK, TOOL_IN_DOUBT);
		check_text(check, "journal.result", d->begin.journal[i].result, EVENT_BODY_MAX);
	}
}

static void check_run_down(struct check *check, const struct run_down *d)
{
	switch (d->kind) {
	case RUN_BEGIN:
		check_begin(check, d);
		return;
	case RUN_TOOL_GO:
		check_name(check, "tool_go.tool", d->tool_go.tool, false);
		check_text(check, "tool_go.arguments", d->tool_go.arguments, EVENT_BODY_MAX);
		return;
	case RUN_TOOL_RESULT:
		check_range(check, "tool_result.status", d->tool_result.status, TOOL_OK, TOOL_IN_DOUBT);
		check_text(check, "tool_result.result", d->tool_result.result, EVENT_BODY_MAX);
		return;
	case RUN_CANCEL:
		return;
	}
	check_fail(check, ERR_PROTOCOL, "run_down: no body that we know");
}

static void begin_fill(Pinion__V1__RunBegin *to, Pinion__V1__Step *steps, Pinion__V1__Step **pointers, const struct run_down *d)
{
	pinion__v1__run_begin__init(to);
	to->input = field_of(d->begin.input);
	to->attempt = d->begin.attempt;
	to->output_bytes = d->begin.output_bytes;
	to->run_id = field_of(d->begin.run_id);
	to->thread_id = field_of(d->begin.thread_id);
	to->n_journal = d->begin.n_journal;
	to->journal = pointers;
	for (size_t i = 0; i < d->begin.n_journal; i++) {
		pinion__v1__step__init(&steps[i]);
		steps[i].number = d->begin.journal[i].number;
		steps[i].kind = d->begin.journal[i].kind;
		steps[i].status = d->begin.journal[i].status;
		steps[i].result = field_of(d->begin.journal[i].result);
		pointers[i] = &steps[i];
	}
}

static enum err begin_pack(Pinion__V1__RunDown *to, const struct run_down *d, struct buf *out)
{
	Pinion__V1__RunBegin begin;
	Pinion__V1__Step *steps = malloc((d->begin.n_journal + 1) * sizeof(*steps));
	Pinion__V1__Step **pointers = malloc((d->begin.n_journal + 1) * sizeof(Pinion__V1__Step *));
	enum err err = ERR_NO_MEMORY;

	if (steps && pointers) {
		begin_fill(&begin, steps, pointers, d);
		to->begin = &begin;
		to->body_case = PINION__V1__RUN_DOWN__BODY_BEGIN;
		err = codec_pack(&to->base, RUN_MESSAGE_MAX, out);
	}
	free(steps);
	free(pointers);
	return err;
}

enum err run_down_encode(const struct run_down *d, struct buf *out)
{
	struct check check = {0};
	Pinion__V1__RunDown to = PINION__V1__RUN_DOWN__INIT;
	Pinion__V1__ToolGo go = PINION__V1__TOOL_GO__INIT;
	Pinion__V1__ToolResult result = PINION__V1__TOOL_RESULT__INIT;
	Pinion__V1__Cancel cancel = PINION__V1__CANCEL__INIT;

	check_run_down(&check, d);
	if (check.err)
		return check.err;
	switch (d->kind) {
	case RUN_BEGIN:
		return begin_pack(&to, d, out);
	case RUN_TOOL_GO:
		go.step = d->tool_go.step;
		go.tool = field_of(d->tool_go.tool);
		go.arguments = field_of(d->tool_go.arguments);
		to.tool_go = &go;
		to.body_case = PINION__V1__RUN_DOWN__BODY_TOOL_GO;
		break;
	case RUN_TOOL_RESULT:
		result.step = d->tool_result.step;
		result.status = d->tool_result.status;
		result.result = field_of(d->tool_result.result);
		to.tool_result = &result;
		to.body_case = PINION__V1__RUN_DOWN__BODY_TOOL_RESULT;
		break;
	case RUN_CANCEL:
		to.cancel = &cancel;
		to.body_case = PINION__V1__RUN_DOWN__BODY_CANCEL;
		break;
	}
	return codec_pack(&to.base, RUN_MESSAGE_MAX, out);
}

static enum err begin_view(struct arena *arena, struct run_down *out, const Pinion__V1__RunBegin *from, struct err_info *info)
{
	struct step *journal;

	out->kind = RUN_BEGIN;
	out->begin.input = field_str(from->input);
	out->begin.attempt = from->attempt;
	out->begin.output_bytes = from->output_bytes;
	out->begin.run_id = field_str(from->run_id);
	out->begin.thread_id = field_str(from->thread_id);
	if (from->n_journal > JOURNAL_MAX)
		return err_set(info, ERR_PROTOCOL, "begin.journal: %zu steps, at most %d", from->n_journal, JOURNAL_MAX);
	journal = codec_array(arena, from->n_journal, sizeof(*journal), info);
	if (from->n_journal && !journal)
		return ERR_CAPACITY;
	for (size_t i = 0; i < from->n_journal; i++) {
		journal[i].number = from->journal[i]->number;
		journal[i].kind = from->journal[i]->kind;
		journal[i].status = from->journal[i]->status;
		journal[i].result = field_str(from->journal[i]->result);
	}
	out->begin.journal = journal;
	out->begin.n_journal = from->n_journal;
	return ERR_OK;
}

static enum err run_down_view(struct arena *arena, struct run_down *out, const Pinion__V1__RunDown *from, struct err_info *info)
{
	switch (from->body_case) {
	case PINION__V1__RUN_DOWN__BODY_BEGIN:
		return begin_view(arena, out, from->begin, info);
	case PINION__V1__RUN_DOWN__BODY_TOOL_GO:
		out->kind = RUN_TOOL_GO;
		out->tool_go.step = from->tool_go->step;
		out->tool_go.tool = field_str(from->tool_go->tool);
		out->tool_go.arguments = field_str(from->tool_go->arguments);
		return ERR_OK;
	case PINION__V1__RUN_DOWN__BODY_TOOL_RESULT:
		out->kind = RUN_TOOL_RESULT;
		out->tool_result.step = from->tool_result->step;
		out->tool_result.status = from->tool_result->status;
		out->tool_result.result = field_str(from->tool_result->result);
		return ERR_OK;
	case PINION__V1__RUN_DOWN__BODY_CANCEL:
		out->kind = RUN_CANCEL;
		return ERR_OK;
	default: /* kind 0: refused by the check */
		return ERR_OK;
	}
}

enum err run_down_decode(struct arena *arena, struct run_down *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const void *unpacked;
	enum err err;

	*out = (struct run_down){0};
	err = codec_unpack(&pinion__v1__run_down__descriptor, in, RUN_MESSAGE_MAX, arena, &unpacked, info);
	if (!err)
		err = run_down_view(arena, out, unpacked, info);
	if (err)
		return err;
	check_run_down(&check, out);
	return check.err;
}

/* ---- run -> worker ---- */

static void check_run_up(struct check *check, const struct run_up *u)
{
	check_range(check, "run_up.kind", u->kind, RUN_THINK, RUN_FAIL);
	check_text(check, "run_up.claimed_user_id", u->claimed_user_id, CLAIM_MAX);
	check_text(check, "run_up.claimed_run_id", u->claimed_run_id, CLAIM_MAX);
	check_text(check, "run_up.text", u->text, EVENT_BODY_MAX);
	check_name(check, "run_up.tool", u->tool, u->kind != RUN_TOOL_CALL);
	check_text(check, "run_up.arguments", u->arguments, EVENT_BODY_MAX);
	check_range(check, "run_up.status", u->status, TOOL_OK, TOOL_IN_DOUBT);
	check_text(check, "run_up.result", u->result, EVENT_BODY_MAX);
	check_text(check, "run_up.output", u->output, EVENT_BODY_MAX);
	check_text(check, "run_up.usage", u->usage, USAGE_MAX);
}

union run_up_body {
	Pinion__V1__Think think;
	Pinion__V1__ToolCall tool_call;
	Pinion__V1__ToolOutcome tool_outcome;
	Pinion__V1__Text text;
	Pinion__V1__MessageEnd message_end;
	Pinion__V1__Mark mark;
	Pinion__V1__Done done;
	Pinion__V1__Fail fail;
};

static void run_up_tool_fill(Pinion__V1__RunUp *to, union run_up_body *body, const struct run_up *u)
{
	if (u->kind == RUN_TOOL_CALL) {
		pinion__v1__tool_call__init(&body->tool_call);
		body->tool_call.tool = field_of(u->tool);
		body->tool_call.arguments = field_of(u->arguments);
		to->tool_call = &body->tool_call;
		to->body_case = PINION__V1__RUN_UP__BODY_TOOL_CALL;
		return;
	}
	pinion__v1__tool_outcome__init(&body->tool_outcome);
	body->tool_outcome.status = u->status;
	body->tool_outcome.result = field_of(u->result);
	to->tool_outcome = &body->tool_outcome;
	to->body_case = PINION__V1__RUN_UP__BODY_TOOL_OUTCOME;
}

static void run_up_end_fill(Pinion__V1__RunUp *to, union run_up_body *body, const struct run_up *u)
{
	if (u->kind == RUN_DONE) {
		pinion__v1__done__init(&body->done);
		body->done.output = field_of(u->output);
		body->done.usage = field_of(u->usage);
		to->done = &body->done;
		to->body_case = PINION__V1__RUN_UP__BODY_DONE;
		return;
	}
	pinion__v1__fail__init(&body->fail);
	body->fail.text = field_of(u->text);
	body->fail.retryable = u->retryable;
	to->fail = &body->fail;
	to->body_case = PINION__V1__RUN_UP__BODY_FAIL;
}

static void run_up_fill(Pinion__V1__RunUp *to, union run_up_body *body, const struct run_up *u)
{
	switch (u->kind) {
	case RUN_THINK:
		pinion__v1__think__init(&body->think);
		body->think.text = field_of(u->text);
		to->think = &body->think;
		to->body_case = PINION__V1__RUN_UP__BODY_THINK;
		break;
	case RUN_TOOL_CALL:
	case RUN_TOOL_OUTCOME:
		run_up_tool_fill(to, body, u);
		break;
	case RUN_TEXT:
		pinion__v1__text__init(&body->text);
		body->text.text = field_of(u->text);
		to->text = &body->text;
		to->body_case = PINION__V1__RUN_UP__BODY_TEXT;
		break;
	case RUN_MESSAGE_END:
		pinion__v1__message_end__init(&body->message_end);
		to->message_end = &body->message_end;
		to->body_case = PINION__V1__RUN_UP__BODY_MESSAGE_END;
		break;
	case RUN_MARK:
		pinion__v1__mark__init(&body->mark);
		body->mark.result = field_of(u->result);
		to->mark = &body->mark;
		to->body_case = PINION__V1__RUN_UP__BODY_MARK;
		break;
	case RUN_DONE:
	case RUN_FAIL:
		run_up_end_fill(to, body, u);
		break;
	}
}

enum err run_up_encode(const struct run_up *u, struct buf *out)
{
	struct check check = {0};
	Pinion__V1__RunUp to = PINION__V1__RUN_UP__INIT;
	union run_up_body body;

	check_run_up(&check, u);
	if (check.err)
		return check.err;
	to.step = u->step;
	to.claimed_user_id = field_of(u->claimed_user_id);
	to.claimed_run_id = field_of(u->claimed_run_id);
	run_up_fill(&to, &body, u);
	return codec_pack(&to.base, RUN_MESSAGE_MAX, out);
}

static void run_up_view(struct run_up *out, const Pinion__V1__RunUp *from)
{
	out->step = from->step;
	out->claimed_user_id = field_str(from->claimed_user_id);
	out->claimed_run_id = field_str(from->claimed_run_id);
	switch (from->body_case) {
	case PINION__V1__RUN_UP__BODY_THINK:
		out->kind = RUN_THINK;
		out->text = field_str(from->think->text);
		break;
	case PINION__V1__RUN_UP__BODY_TOOL_CALL:
		out->kind = RUN_TOOL_CALL;
		out->tool = field_str(from->tool_call->tool);
		out->arguments = field_str(from->tool_call->arguments);
		break;
	case PINION__V1__RUN_UP__BODY_TOOL_OUTCOME:
		out->kind = RUN_TOOL_OUTCOME;
		out->status = from->tool_outcome->status;
		out->result = field_str(from->tool_outcome->result);
		break;
	case PINION__V1__RUN_UP__BODY_TEXT:
		out->kind = RUN_TEXT;
		out->text = field_str(from->text->text);
		break;
	case PINION__V1__RUN_UP__BODY_MESSAGE_END:
		out->kind = RUN_MESSAGE_END;
		break;
	case PINION__V1__RUN_UP__BODY_MARK:
		out->kind = RUN_MARK;
		out->result = field_str(from->mark->result);
		break;
	case PINION__V1__RUN_UP__BODY_DONE:
		out->kind = RUN_DONE;
		out->output = field_str(from->done->output);
		out->usage = field_str(from->done->usage);
		break;
	case PINION__V1__RUN_UP__BODY_FAIL:
		out->kind = RUN_FAIL;
		out->text = field_str(from->fail->text);
		out->retryable = from->fail->retryable;
		break;
	default: /* kind 0: refused by the check */
		break;
	}
}

enum err run_up_decode(struct arena *arena, struct run_up *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const void *unpacked;
	enum err err;

	*out = (struct run_up){0};
	err = codec_unpack(&pinion__v1__run_up__descriptor, in, RUN_MESSAGE_MAX, arena, &unpacked, info);
	if (err)
		return err;
	run_up_view(out, unpacked);
	check_run_up(&check, out);
	return check.err;
}
