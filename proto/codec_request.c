/* codec_request.c - what gateways ask of workers. */
#include "proto/codec_internal.h"

enum {
	CLIENT_ID_MAX = 64,
	IDEMPOTENCY_KEY_MAX = 256, /* 64 characters */
	METADATA_MAX = 16 << 10,
	NOTE_MAX = 4096,
};

static void check_command(struct check *check, const struct command *c)
{
	check_user(check, "command.user_id", c->user_id);
	check_range(check, "command.kind", c->kind, COMMAND_RUN_START, COMMAND_RUN_LIST);
	check_range(check, "command.on_busy", c->on_busy, ON_BUSY_ENQUEUE, ON_BUSY_INTERRUPT);
	check_text(check, "command.client_id", c->client_id, CLIENT_ID_MAX);
	check_text(check, "command.input", c->input, COMMAND_INPUT_MAX);
	check_name(check, "command.agent", c->agent, true);
	check_text(check, "command.idempotency_key", c->idempotency_key, IDEMPOTENCY_KEY_MAX);
	check_text(check, "command.metadata", c->metadata, METADATA_MAX);
	check_text(check, "command.note", c->note, NOTE_MAX);
	check_text(check, "command.title", c->title, TEXT_MAX);
	check_text(check, "command.before", c->before, TEXT_MAX);
	check_id(check, "command.run_id", c->run_id, c->kind != COMMAND_RUN_CANCEL && c->kind != COMMAND_TOOL_DECIDE);
	check_id(check, "command.tool_call_id", c->tool_call_id, c->kind != COMMAND_TOOL_DECIDE);
	check_id(check, "command.thread_id", c->thread_id,
	         c->kind != COMMAND_THREAD_HISTORY && c->kind != COMMAND_THREAD_RENAME && c->kind != COMMAND_THREAD_DELETE);
	if (check->decoding && c->client_id.n == 0)
		check_fail(check, ERR_PROTOCOL, "command.client_id: missing");
	if (check->decoding && c->kind == COMMAND_RUN_START && c->input.n == 0)
		check_fail(check, ERR_PROTOCOL, "command.input: missing");
}

static void check_replay(struct check *check, const struct request *r)
{
	check_user(check, "replay.user_id", r->replay.user_id);
	check_range(check, "replay.have", r->replay.n_have, 0, PAGE_OPEN_MAX);
	for (size_t i = 0; i < r->replay.n_have && !check->err; i++)
		check_id(check, "replay.have.message_id", r->replay.have[i].message_id, false);
}

static void check_request(struct check *check, const struct request *r)
{
	check_name(check, "request.gateway_id", r->gateway_id, false);
	check_name(check, "request.gateway_incarnation", r->gateway_incarnation, false);
	switch (r->kind) {
	case REQUEST_HELLO:
		check_text(check, "hello.events_url", r->hello.events_url, URL_MAX);
		if (check->decoding && (r->hello.events_url.n == 0 || memchr(r->hello.events_url.p, 0, r->hello.events_url.n)))
			check_fail(check, ERR_PROTOCOL, "hello.events_url: not a URL");
		return;
	case REQUEST_ATTACH:
		check_user(check, "attach.user_id", r->attach.user_id);
		check_name(check, "attach.suspect_worker_id", r->attach.suspect_worker_id, true);
		return;
	case REQUEST_DETACH:
		check_user(check, "detach.user_id", r->detach.user_id);
		return;
	case REQUEST_COMMAND:
		check_command(check, &r->command);
		return;
	case REQUEST_REPLAY:
		check_replay(check, r);
		return;
	case REQUEST_CREDIT:
		return;
	}
	check_fail(check, ERR_PROTOCOL, "request: no body that we know");
}

/* ---- encoding ---- */

union command_body {
	Pinion__V1__RunStart run_start;
	Pinion__V1__RunCancel run_cancel;
	Pinion__V1__ToolDecide tool_decide;
	Pinion__V1__ThreadList thread_list;
	Pinion__V1__ThreadHistory thread_history;
	Pinion__V1__ThreadRename thread_rename;
	Pinion__V1__ThreadDelete thread_delete;
	Pinion__V1__RunList run_list;
};

union request_body {
	Pinion__V1__Hello hello;
	Pinion__V1__Attach attach;
	Pinion__V1__Detach detach;
	Pinion__V1__Replay replay;
	Pinion__V1__Credit credit;
};

static void run_start_fill(Pinion__V1__RunStart *to, const struct command *c)
{
	pinion__v1__run_start__init(to);
	to->input = field_of(c->input);
	to->agent = field_of(c->agent);
	to->thread_id = field_of(c->thread_id);
	to->idempotency_key = field_of(c->idempotency_key);
	to->on_busy = c->on_busy;
	to->metadata = field_of(c->metadata);
	to->max_active = c->max_active;
	to->max_queued = c->max_queued;
}

static void tool_decide_fill(Pinion__V1__ToolDecide *to, const struct command *c)
{
	pinion__v1__tool_decide__init(to);
	to->run_id = field_of(c->run_id);
	to->tool_call_id = field_of(c->tool_call_id);
	to->allow = c->allow;
	to->note = field_of(c->note);
}

static void thread_history_fill(Pinion__V1__ThreadHistory *to, const struct command *c)
{
	pinion__v1__thread_history__init(to);
	to->thread_id = field_of(c->thread_id);
	to->limit = c->limit;
	to->before = field_of(c->before);
}

static void run_list_fill(Pinion__V1__RunList *to, const struct command *c)
{
	pinion__v1__run_list__init(to);
	to->thread_id = field_of(c->thread_id);
	to->limit = c->limit;
	to->before = field_of(c->before);
}

static void command_fill(Pinion__V1__Command *to, union command_body *body, const struct command *c)
{
	pinion__v1__command__init(to);
	to->user_id = field_of(c->user_id);
	to->epoch = c->epoch;
	to->client_id = field_of(c->client_id);
	switch (c->kind) {
	case COMMAND_RUN_START:
		run_start_fill(&body->run_start, c);
		to->run_start = &body->run_start;
		to->body_case = PINION__V1__COMMAND__BODY_RUN_START;
		break;
	case COMMAND_RUN_CANCEL:
		pinion__v1__run_cancel__init(&body->run_cancel);
		body->run_cancel.run_id = field_of(c->run_id);
		to->run_cancel = &body->run_cancel;
		to->body_case = PINION__V1__COMMAND__BODY_RUN_CANCEL;
		break;
	case COMMAND_TOOL_DECIDE:
		tool_decide_fill(&body->tool_decide, c);
		to->tool_decide = &body->tool_decide;
		to->body_case = PINION__V1__COMMAND__BODY_TOOL_DECIDE;
		break;
	case COMMAND_THREAD_LIST:
		pinion__v1__thread_list__init(&body->thread_list);
		body->thread_list.limit = c->limit;
		body->thread_list.before = field_of(c->before);
		to->thread_list = &body->thread_list;
		to->body_case = PINION__V1__COMMAND__BODY_THREAD_LIST;
		break;
	case COMMAND_THREAD_HISTORY:
		thread_history_fill(&body->thread_history, c);
		to->thread_history = &body->thread_history;
		to->body_case = PINION__V1__COMMAND__BODY_THREAD_HISTORY;
		break;
	case COMMAND_THREAD_RENAME:
		pinion__v1__thread_rename__init(&body->thread_rename);
		body->thread_rename.thread_id = field_of(c->thread_id);
		body->thread_rename.title = field_of(c->title);
		to->thread_rename = &body->thread_rename;
		to->body_case = PINION__V1__COMMAND__BODY_THREAD_RENAME;
		break;
	case COMMAND_THREAD_DELETE:
		pinion__v1__thread_delete__init(&body->thread_delete);
		body->thread_delete.thread_id = field_of(c->thread_id);
		to->thread_delete = &body->thread_delete;
		to->body_case = PINION__V1__COMMAND__BODY_THREAD_DELETE;
		break;
	case COMMAND_RUN_LIST:
		run_list_fill(&body->run_list, c);
		to->run_list = &body->run_list;
		to->body_case = PINION__V1__COMMAND__BODY_RUN_LIST;
		break;
	}
}

/* The open messages that the gateway has; at most PAGE_OPEN_MAX by check_replay. */
struct have_memory {
	Pinion__V1__Have have[PAGE_OPEN_MAX];
	Pinion__V1__Have *pointers[PAGE_OPEN_MAX];
};

static void replay_fill(Pinion__V1__Replay *to, struct have_memory *memory, const struct request *r)
{
	pinion__v1__replay__init(to);
	to->user_id = field_of(r->replay.user_id);
	to->epoch = r->replay.epoch;
	to->from_seq = r->replay.from_seq;
	to->max_bytes = r->replay.max_bytes;
	to->with_open = r->replay.with_open;
	to->n_have = r->replay.n_have;
	to->have = memory->pointers;
	for (size_t i = 0; i < r->replay.n_have; i++) {
		memory->pointers[i] = &memory->have[i];
		pinion__v1__have__init(&memory->have[i]);
		memory->have[i].message_id = field_of(r->replay.have[i].message_id);
		memory->have[i].offset = r->replay.have[i].offset;
	}
}

static enum err replay_pack(Pinion__V1__Request *to, union request_body *body, const struct request *r, struct buf *out)
{
	struct have_memory memory;

	replay_fill(&body->replay, &memory, r);
	to->replay = &body->replay;
	to->body_case = PINION__V1__REQUEST__BODY_REPLAY;
	return codec_pack(&to->base, LINK_MESSAGE_MAX, out);
}

static enum err command_pack(Pinion__V1__Request *to, const struct command *c, struct buf *out)
{
	union command_body body;
	Pinion__V1__Command command;

	command_fill(&command, &body, c);
	to->command = &command;
	to->body_case = PINION__V1__REQUEST__BODY_COMMAND;
	return codec_pack(&to->base, LINK_MESSAGE_MAX, out);
}

static void attach_fill(Pinion__V1__Attach *to, const struct request *r)
{
	pinion__v1__attach__init(to);
	to->user_id = field_of(r->attach.user_id);
	to->suspect_worker_id = field_of(r->attach.suspect_worker_id);
	to->suspect_incarnation = r->attach.suspect_incarnation;
}

static void detach_fill(Pinion__V1__Detach *to, const struct request *r)
{
	pinion__v1__detach__init(to);
	to->user_id = field_of(r->detach.user_id);
	to->epoch = r->detach.epoch;
}

enum err request_encode(const struct request *r, struct buf *out)
{
	struct check check = {0};
	union request_body body;
	Pinion__V1__Request to = PINION__V1__REQUEST__INIT;

	check_request(&check, r);
	if (check.err)
		return check.err;
	to.version = LINK_VERSION;
	to.gateway_id = field_of(r->gateway_id);
	to.gateway_incarnation = field_of(r->gateway_incarnation);
	to.number = r->number;
	switch (r->kind) {
	case REQUEST_HELLO:
		pinion__v1__hello__init(&body.hello);
		body.hello.events_url = field_of(r->hello.events_url);
		to.hello = &body.hello;
		to.body_case = PINION__V1__REQUEST__BODY_HELLO;
		break;
	case REQUEST_ATTACH:
		attach_fill(&body.attach, r);
		to.attach = &body.attach;
		to.body_case = PINION__V1__REQUEST__BODY_ATTACH;
		break;
	case REQUEST_DETACH:
		detach_fill(&body.detach, r);
		to.detach = &body.detach;
		to.body_case = PINION__V1__REQUEST__BODY_DETACH;
		break;
	case REQUEST_CREDIT:
		pinion__v1__credit__init(&body.credit);
		body.credit.received = r->credit.received;
		to.credit = &body.credit;
		to.body_case = PINION__V1__REQUEST__BODY_CREDIT;
		break;
	case REQUEST_COMMAND:
		return command_pack(&to, &r->command, out);
	case REQUEST_REPLAY:
		return replay_pack(&to, &body, r, out);
	}
	return codec_pack(&to.base, LINK_MESSAGE_MAX, out);
}

/* ---- decoding ---- */

static void run_start_view(struct command *out, const Pinion__V1__RunStart *from)
{
	out->kind = COMMAND_RUN_START;
	out->input = field_str(from->input);
	out->agent = field_str(from->agent);
	out->thread_id = field_str(from->thread_id);
	out->idempotency_key = field_str(from->idempotency_key);
	out->on_busy = from->on_busy;
	out->metadata = field_str(from->metadata);
	out->max_active = from->max_active;
	out->max_queued = from->max_queued;
}

static void tool_decide_view(struct command *out, const Pinion__V1__ToolDecide *from)
{
	out->kind = COMMAND_TOOL_DECIDE;
	out->run_id = field_str(from->run_id);
	out->tool_call_id = field_str(from->tool_call_id);
	out->allow = from->allow;
	out->note = field_str(from->note);
}

static void list_view(struct command *out, enum command_kind kind, field_t thread_id, uint32_t limit, field_t before)
{
	out->kind = kind;
	out->thread_id = field_str(thread_id);
	out->limit = limit;
	out->before = field_str(before);
}

static void command_view(struct command *out, const Pinion__V1__Command *from)
{
	out->user_id = field_str(from->user_id);
	out->epoch = from->epoch;
	out->client_id = field_str(from->client_id);
	switch (from->body_case) {
	case PINION__V1__COMMAND__BODY_RUN_START:
		run_start_view(out, from->run_start);
		break;
	case PINION__V1__COMMAND__BODY_RUN_CANCEL:
		out->kind = COMMAND_RUN_CANCEL;
		out->run_id = field_str(from->run_cancel->run_id);
		break;
	case PINION__V1__COMMAND__BODY_TOOL_DECIDE:
		tool_decide_view(out, from->tool_decide);
		break;
	case PINION__V1__COMMAND__BODY_THREAD_LIST:
		list_view(out, COMMAND_THREAD_LIST, (field_t){0}, from->thread_list->limit, from->thread_list->before);
		break;
	case PINION__V1__COMMAND__BODY_THREAD_HISTORY:
		list_view(out, COMMAND_THREAD_HISTORY, from->thread_history->thread_id, from->thread_history->limit,
		          from->thread_history->before);
		break;
	case PINION__V1__COMMAND__BODY_THREAD_RENAME:
		out->kind = COMMAND_THREAD_RENAME;
		out->thread_id = field_str(from->thread_rename->thread_id);
		out->title = field_str(from->thread_rename->title);
		break;
	case PINION__V1__COMMAND__BODY_THREAD_DELETE:
		out->kind = COMMAND_THREAD_DELETE;
		out->thread_id = field_str(from->thread_delete->thread_id);
		break;
	case PINION__V1__COMMAND__BODY_RUN_LIST:
		list_view(out, COMMAND_RUN_LIST, from->run_list->thread_id, from->run_list->limit, from->run_list->before);
		break;
	default: /* kind 0: check_command refuses it */
		break;
	}
}

static enum err replay_view(struct arena *arena, struct request *out, const Pinion__V1__Replay *from, struct err_info *info)
{
	struct have *have;

	out->kind = REQUEST_REPLAY;
	out->replay.user_id = field_str(from->user_id);
	out->replay.epoch = from->epoch;
	out->replay.from_seq = from->from_seq;
	out->replay.max_bytes = from->max_bytes;
	out->replay.with_open = from->with_open;
	if (from->n_have > PAGE_OPEN_MAX)
		return err_set(info, ERR_PROTOCOL, "replay.have: %zu of them, at most %d", from->n_have, PAGE_OPEN_MAX);
	have = codec_array(arena, from->n_have, sizeof(*have), info);
	if (from->n_have && !have)
		return ERR_CAPACITY;
	for (size_t i = 0; i < from->n_have; i++)
		have[i] = (struct have){field_str(from->have[i]->message_id), from->have[i]->offset};
	out->replay.have = have;
	out->replay.n_have = from->n_have;
	return ERR_OK;
}

static enum err request_view(struct arena *arena, struct request *out, const Pinion__V1__Request *from, struct err_info *info)
{
	switch (from->body_case) {
	case PINION__V1__REQUEST__BODY_HELLO:
		out->kind = REQUEST_HELLO;
		out->hello.events_url = field_str(from->hello->events_url);
		break;
	case PINION__V1__REQUEST__BODY_ATTACH:
		out->kind = REQUEST_ATTACH;
		out->attach.user_id = field_str(from->attach->user_id);
		out->attach.suspect_worker_id = field_str(from->attach->suspect_worker_id);
		out->attach.suspect_incarnation = from->attach->suspect_incarnation;
		break;
	case PINION__V1__REQUEST__BODY_DETACH:
		out->kind = REQUEST_DETACH;
		out->detach.user_id = field_str(from->detach->user_id);
		out->detach.epoch = from->detach->epoch;
		break;
	case PINION__V1__REQUEST__BODY_COMMAND:
		out->kind = REQUEST_COMMAND;
		command_view(&out->command, from->command);
		break;
	case PINION__V1__REQUEST__BODY_REPLAY:
		return replay_view(arena, out, from->replay, info);
	case PINION__V1__REQUEST__BODY_CREDIT:
		out->kind = REQUEST_CREDIT;
		out->credit.received = from->credit->received;
		break;
	default: /* kind 0: check_request refuses it */
		break;
	}
	return ERR_OK;
}

enum err request_decode(struct arena *arena, struct request *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const Pinion__V1__Request *from;
	const void *unpacked;
	enum err err;

	*out = (struct request){0};
	err = codec_unpack(&pinion__v1__request__descriptor, in, LINK_MESSAGE_MAX, arena, &unpacked, info);
	if (err)
		return err;
	from = unpacked;
	out->version = from->version;
	out->gateway_id = field_str(from->gateway_id);
	out->gateway_incarnation = field_str(from->gateway_incarnation);
	out->number = from->number;
	err = codec_version(from->version, info);
	if (!err)
		err = request_view(arena, out, from, info);
	if (err)
		return err;
	check_request(&check, out);
	return check.err;
}
