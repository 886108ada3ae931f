#include "worker/call.h"

#include "common/json.h"
#include "proto/codec.h"
#include "worker/command.h"
#include "worker/gateway_peer.h"
#include "worker/replay.h"
#include "worker/user.h"

enum { CALL_ARENA_MAX = 4 * LINK_MESSAGE_MAX };

static struct call *call_create(struct core *core, request_token token)
{
	struct call *call = must_alloc(sizeof(*call));
	call->core = core;
	arena_init(&call->arena, CALL_ARENA_MAX);
	call->tokens = must_alloc(sizeof(*call->tokens));
	call->tokens[0] = token;
	call->n_tokens = 1;
	DL_APPEND(core->calls, call);
	return call;
}

static void call_free(struct call *call)
{
	DL_DELETE(call->core->calls, call);
	arena_finish(&call->arena);
	free(call->tokens);
	free(call);
}

static struct str user_of(const struct request *request)
{
	switch (request->kind) {
	case REQUEST_ATTACH:
		return request->attach.user_id;
	case REQUEST_DETACH:
		return request->detach.user_id;
	case REQUEST_COMMAND:
		return request->command.user_id;
	case REQUEST_REPLAY:
		return request->replay.user_id;
	case REQUEST_HELLO:
	case REQUEST_CREDIT:
		break;
	}
	return str_c("");
}

/* Whether a duplicate must get the same reply: everything else may be executed again. */
static bool changes_something(const struct request *request)
{
	if (request->kind != REQUEST_COMMAND)
		return false;
	switch (request->command.kind) {
	case COMMAND_RUN_START:
	case COMMAND_RUN_CANCEL:
	case COMMAND_TOOL_DECIDE:
	case COMMAND_THREAD_RENAME:
	case COMMAND_THREAD_DELETE:
		return true;
	default:
		return false;
	}
}

static void encode(struct call *call, struct reply *reply, struct buf *out)
{
	if (reply_encode(reply, out) == ERR_OK)
		return;
	struct reply plain = {
		.number = reply->number,
		.worker_id = reply->worker_id,
		.worker_incarnation = reply->worker_incarnation,
		.user_id = reply->user_id,
		.epoch = reply->epoch,
		.code = ERR_INTERNAL,
		.text = str_c("the answer is too large"),
	};
	log_error("worker", "reply_refused", "user", call->user ? call->user->id.s : "", NULL);
	if (reply_encode(&plain, out) != ERR_OK)
		abort();
}

void call_answer(struct call *call, struct reply *reply)
{
	struct core *core = call->core;
	struct gateway_transport *transport = core->parts.transport;
	struct buf out = {0};

	reply->number = call->request.number;
	reply->worker_id = str_c(core->worker_id);
	reply->worker_incarnation = core->incarnation;
	if (reply->user_id.n == 0)
		reply->user_id = user_of(&call->request);
	if (reply->epoch == 0 && call->user)
		reply->epoch = call->user->epoch;
	reply->text = utf8_prefix(reply->text, TEXT_MAX);
	encode(call, reply, &out);
	for (size_t i = 0; i < call->n_tokens; i++)
		transport->ops->reply(transport, call->tokens[i], buf_str(&out));
	/* What left the outcome open, or will be otherwise once the gateway has attached anew, is not the answer for ever. */
	bool keep = changes_something(&call->request) && reply->code != ERR_FENCED && reply->code != ERR_DISCONNECTED &&
	            reply->code != ERR_UNAVAILABLE;
	if (call->peer)
		peer_remember_reply(call->peer, call, buf_str(&out), keep);
	buf_finish(&out);
	command_unlist(call);
	call_free(call);
}

void call_answer_fields(struct call *call, struct str fields)
{
	struct reply reply = {.kind = REQUEST_COMMAND, .command.fields = fields};
	call_answer(call, &reply);
}

void call_fail(struct call *call, enum err code, const char *text)
{
	struct reply reply = {.code = code, .text = str_c(text ? text : err_text(code))};
	if (code == ERR_UNAVAILABLE || code == ERR_DRAINING || code == ERR_OVERLOADED || code == ERR_FULL)
		reply.retry_after_ms = 1000;
	call_answer(call, &reply);
}

void call_fail_all(struct core *core)
{
	while (core->calls)
		call_fail(core->calls, ERR_DISCONNECTED, "the worker stops");
}

static void handle_hello(struct call *call)
{
	struct core *core = call->core;
	const struct request *request = &call->request;
	struct err_info info = {0};
	enum err err = peer_hello(core, request->gateway_id, request->gateway_incarnation, request->hello.events_url, &info);
	if (err) {
		call_fail(call, err, info.text);
		return;
	}
	struct reply reply = {.kind = REQUEST_HELLO, .hello = {.draining = core->draining, .worker_url = str_c(core->url)}};
	call_answer(call, &reply);
}

static void handle_credit(struct call *call)
{
	struct reply reply = {.code = ERR_OK};
	peer_credit(call->peer, call->request.credit.received);
	call_answer(call, &reply);
}

/* True where the request was one that is under way or answered already. */
static bool handle_duplicate(struct call *call)
{
	struct gateway_transport *transport = call->core->parts.transport;
	struct answered *answered = peer_answered(call->peer, call->request.number);
	if (!answered)
		return false;
	request_token token = call->tokens[0];
	if (answered->call) {
		struct call *first = answered->call;
		first->tokens = realloc(first->tokens, (first->n_tokens + 1) * sizeof(*first->tokens));
		if (!first->tokens)
			abort();
		first->tokens[first->n_tokens++] = token;
	} else {
		transport->ops->reply(transport, token, bytes_str(answered->reply));
	}
	call_free(call);
	return true;
}

static void dispatch(struct call *call)
{
	switch (call->request.kind) {
	case REQUEST_HELLO:
		handle_hello(call);
		break;
	case REQUEST_CREDIT:
		handle_credit(call);
		break;
	case REQUEST_ATTACH:
		user_attach(call->core, call);
		break;
	case REQUEST_DETACH:
		user_detach(call);
		break;
	case REQUEST_COMMAND:
		command_handle(call);
		break;
	case REQUEST_REPLAY:
		replay_handle(call);
		break;
	}
}

void call_handle(struct core *core, request_token token, struct str message)
{
	struct call *call = call_create(core, token);
	struct err_info info = {0};
	enum err err = request_decode(&call->arena, &call->request, message, &info);
	if (err) {
		log_warn("gateway", "bad_request", "error", err_name(err), "detail", info.text, NULL);
		call->request = (struct request){.kind = REQUEST_CREDIT};
		call_fail(call, err, info.text);
		return;
	}
	if (call->request.kind != REQUEST_HELLO) {
		call->peer = peer_find(core, call->request.gateway_id, call->request.gateway_incarnation);
		if (!call->peer) {
			call_fail(call, ERR_DISCONNECTED, "say hello first");
			return;
		}
		if (handle_duplicate(call))
			return;
		if (call->request.kind == REQUEST_COMMAND)
			peer_remember_call(call->peer, call);
	}
	dispatch(call);
}
