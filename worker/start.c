/*
 * start.c - run.start: checked, looked up (idempotency key, thread), then accepted in one append with its key, its thread and the
 * user's message.
 *
 * Several commands with one key that arrive together: the first is carried out, the others are answered with it. Where a run
 * can start at once, agent_started is in the same append and the process is forked while that is committed.
 */
#include <inttypes.h>
#include "common/json.h"
#include "proto/codec.h"
#include "worker/command.h"
#include "worker/run.h"
#include "worker/user.h"

enum {
	KEY_AGE_MS = 24 * 3600 * 1000,
	TITLE_MAX = 80,
	EVENT_ROOM = 16 << 10, /* for what run_accepted holds beside input and metadata */
};

struct acceptance {
	struct call *call;
	struct run *run;
	size_t accepted_event;
};

/* ---- what it comes to ---- */

static uint64_t hash_add(uint64_t hash, struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		hash = (hash ^ (unsigned char)s.p[i]) * 1099511628211u;
	return (hash ^ 0xff) * 1099511628211u; /* never in UTF-8: keeps the parts apart */
}

static uint64_t hash_of(const struct command *command)
{
	uint64_t hash = hash_add(14695981039346656037u, command->input);
	hash = hash_add(hash, command->agent);
	hash = hash_add(hash, command->thread_id);
	return hash >> 1; /* stores keep signed numbers */
}

static void answer_ids(struct call *call, struct str run_id, struct str thread_id, uint64_t seq)
{
	struct buf out = {0};
	buf_printf(&out, "{\"run_id\":\"" STR_FMT "\",\"thread_id\":\"" STR_FMT "\",\"seq\":%" PRIu64 "}", STR_ARG(run_id),
	           STR_ARG(thread_id), seq);
	call_answer_fields(call, buf_str(&out));
	buf_finish(&out);
}

static struct call *next_follower(struct call *call)
{
	struct call *follower = call->followers;
	if (follower)
		LL_DELETE2(call->followers, follower, follow_next);
	return follower;
}

static void fail_all(struct call *call, enum err code, const char *text)
{
	struct call *follower;
	while ((follower = next_follower(call)) != NULL)
		call_fail(follower, code, text);
	call_fail(call, code, text);
}

static void answer_all(struct call *call, struct str run_id, struct str thread_id, uint64_t seq, uint64_t input_hash)
{
	struct call *follower;
	while ((follower = next_follower(call)) != NULL) {
		if (follower->input_hash == input_hash)
			answer_ids(follower, run_id, thread_id, seq);
		else
			call_fail(follower, ERR_CONFLICT, NULL);
	}
	if (call->input_hash == input_hash)
		answer_ids(call, run_id, thread_id, seq);
	else
		call_fail(call, ERR_CONFLICT, NULL);
}

/* ---- accepting ---- */

static void cancel_others(struct user *user, const struct run *but)
{
	struct run *run, *after;
	DL_FOREACH_SAFE (user->runs, run, after)
		if (run != but && id_eq(&run->thread_id, &but->thread_id))
			run_cancel(run, CANCEL_INTERRUPT);
}

static void on_accepted(struct append *append, enum err err)
{
	struct acceptance *acceptance = append->ctx;
	struct call *call = acceptance->call;
	struct run *run = acceptance->run;
	struct user *user = call->user;
	uint64_t seq = append_seq(append, acceptance->accepted_event);
	struct id run_id = run->id, thread_id = run->thread_id;
	if (err) {
		if (run->life == LIFE_ACCEPTING)
			run_discard(run);
		run_unpin(run);
		fail_all(call, err, NULL);
		return;
	}
	if (call->request.command.on_busy == ON_BUSY_INTERRUPT)
		cancel_others(user, run);
	run_on_accepted(run, seq, append_seq(append, append->n_events - 1));
	run_unpin(run);
	answer_all(call, id_str(&run_id), id_str(&thread_id), seq, call->input_hash);
}

/* The first line of the input's text; the agent's name where there is none. */
static struct str title_of(const json_t *input, const struct run *run)
{
	struct str text = str_of(json_string_value(input), json_string_length(input));
	while (text.n > 0 && (unsigned char)*text.p <= ' ')
		text = str_of(text.p + 1, text.n - 1);
	for (size_t i = 0; i < text.n; i++)
		if (text.p[i] == '\n' || text.p[i] == '\r')
			text.n = i;
	text = utf8_prefix(text, TITLE_MAX);
	return text.n ? text : str_c(run->agent_name);
}

static void put_thread(struct call *call, struct run *run, struct append *append, const json_t *input)
{
	bool is_new = call->request.command.thread_id.n == 0;
	struct str title = is_new ? title_of(input, run) : call->title;
	append->thread = (struct thread_row){
		.thread_id = append_copy(append, id_str(&run->thread_id)),
		.title = append_copy(append, title),
		.created_ms = is_new ? run->accepted_ms : call->created_ms,
		.updated_ms = run->accepted_ms,
	};
	if (!is_new)
		return;
	struct append_event *event = append_event(append, "thread_created", NULL, &run->thread_id, run->accepted_ms);
	event_string(&event->text, "title", title);
	event_end(&event->text);
}

static void put_accepted(struct call *call, struct run *run, struct append *append)
{
	struct append_event *event = append_event(append, "run_accepted", &run->id, &run->thread_id, run->accepted_ms);
	event_string(&event->text, "agent", str_c(run->agent_name));
	event_json(&event->text, "input", str_c(run->input));
	event_string(&event->text, "request_id", str_c(run->client_id));
	if (call->request.command.metadata.n)
		event_json(&event->text, "metadata", call->request.command.metadata);
	event_end(&event->text);
}

/* What the user said is the thread's message. */
static void put_message(struct run *run, struct append *append, const json_t *input, size_t event)
{
	struct id message;
	struct str text = json_is_string(input) ? str_of(json_string_value(input), json_string_length(input)) : str_c(run->input);
	id_make(&message);
	append->message_events[append->n_messages] = event;
	append->messages[append->n_messages++] = (struct message_row){
		.message_id = append_copy(append, id_str(&message)),
		.run_id = append_copy(append, id_str(&run->id)),
		.thread_id = append_copy(append, id_str(&run->thread_id)),
		.role = str_c("user"),
		.text = append_copy(append, text),
		.ts_ms = run->accepted_ms,
	};
}

static void put_key(struct call *call, struct run *run, struct append *append)
{
	append->effects.key.key = append_copy(append, call->request.command.idempotency_key);
	append->effects.key.run_id = append_copy(append, id_str(&run->id));
	append->effects.key.thread_id = append_copy(append, id_str(&run->thread_id));
	append->effects.key.input_hash = call->input_hash;
	append->effects.key.created_ms = run->accepted_ms;
	append->effects.key.drop_before_ms = run->accepted_ms > KEY_AGE_MS ? run->accepted_ms - KEY_AGE_MS : 0;
}

static void put_started(struct run *run, struct append *append)
{
	struct append_event *event = append_event(append, "agent_started", &run->id, &run->thread_id, run->accepted_ms);
	event_string(&event->text, "agent", str_c(run->agent_name));
	event_number(&event->text, "attempt", run->attempt);
	event_end(&event->text);
}

static void put_row_of(struct append *append, const struct run *run, enum run_status status)
{
	struct append scratch = *append;
	run_put_row(run, &scratch, status, false);
	append->arena = scratch.arena;
	append->runs[append->n_runs++] = scratch.runs[0];
}

/* That the others are to be interrupted is durable with the acceptance, whoever carries it out. */
static void put_interrupts(struct user *user, struct run *but, struct append *append)
{
	struct run *run;
	struct run_row *rows = arena_alloc(&append->arena, (run_count_queued(user) + run_count_active(user)) * sizeof(*rows));
	if (!rows)
		abort();
	rows[0] = append->runs[0];
	append->runs = rows;
	DL_FOREACH (user->runs, run) {
		bool is_open = run->life != LIFE_ACCEPTING && run->life != LIFE_FINISHING;
		if (run == but || !is_open || !id_eq(&run->thread_id, &but->thread_id))
			continue;
		enum cancel_by before = run->cancel_by;
		run->cancel_by = CANCEL_INTERRUPT;
		put_row_of(append, run, run->started_ms ? RUN_ACTIVE : RUN_QUEUED);
		run->cancel_by = before;
	}
}

static struct run *make_run(struct call *call, const struct agent_def *agent)
{
	const struct command *command = &call->request.command;
	struct run *run = run_create(call->user, agent, str_c(agent->name));
	id_make(&run->id);
	if (command->thread_id.n)
		run->thread_id = command_thread(call);
	else
		id_make(&run->thread_id);
	run->input = must_copy(command->input);
	run->client_id = must_copy(command->client_id);
	run->accepted_ms = loop_wall(call->core->loop);
	return run;
}

static void accept(struct call *call, const struct agent_def *agent, const json_t *input, bool at_once)
{
	struct user *user = call->user;
	struct run *run = make_run(call, agent);
	struct append *append = append_create(on_accepted, NULL);
	struct acceptance *acceptance = append->ctx = arena_alloc(&append->arena, sizeof(*acceptance));
	if (!acceptance)
		abort();
	*acceptance = (struct acceptance){.call = call, .run = run};
	run->starts_at_once = at_once;
	run_move(run, LIFE_ACCEPTING);
	if (at_once) {
		run->attempt = 1;
		run->started_ms = run->accepted_ms;
	}
	put_thread(call, run, append, input);
	acceptance->accepted_event = append->run_event = append->n_events;
	append->numbers_run = true;
	put_accepted(call, run, append);
	put_message(run, append, input, acceptance->accepted_event);
	if (at_once)
		put_started(run, append);
	if (call->request.command.idempotency_key.n)
		put_key(call, run, append);
	run_put_row(run, append, at_once ? RUN_ACTIVE : RUN_QUEUED, true);
	if (call->request.command.on_busy == ON_BUSY_INTERRUPT)
		put_interrupts(user, run, append);
	run->pins++;
	if (at_once)
		run_spawn(run);
	append_submit(user, append);
}

/* Everything is known that decides it. */
static void decide(struct call *call)
{
	const struct command *command = &call->request.command;
	struct user *user = call->user;
	const struct agent_def *agent = agents_find(call->core->parts.agents, command->agent);
	struct id thread = command_thread(call);
	struct run *other = command->thread_id.n ? run_in_thread(user, &thread) : NULL;
	json_t *input;
	if (!agent || json_parse(&input, command->input, NULL) != ERR_OK) {
		fail_all(call, ERR_INTERNAL, NULL);
		return;
	}
	user->max_active = command->max_active ? command->max_active : user->max_active;
	bool at_once = !other && run_may_start_at_once(user);
	if (other && command->on_busy == ON_BUSY_REJECT)
		fail_all(call, ERR_BUSY, NULL);
	else if (!at_once && command->max_queued && run_count_queued(user) >= command->max_queued)
		fail_all(call, ERR_QUEUE_FULL, NULL);
	else
		accept(call, agent, input, at_once);
	json_decref(input);
}

/* ---- looking up ---- */

static void on_all_read(struct call *call)
{
	if (call->user->state != USER_OWNED)
		fail_all(call, ERR_FENCED, NULL);
	else if (call->read_err)
		fail_all(call, call->read_err == ERR_FENCED ? ERR_FENCED : ERR_UNAVAILABLE, NULL);
	else if (call->key_found)
		answer_all(call, id_str(&call->first.run_id), id_str(&call->first.thread_id), call->first.seq,
		           call->first.input_hash);
	else if (call->request.command.thread_id.n && !call->thread_found)
		fail_all(call, ERR_NOT_FOUND, NULL);
	else
		decide(call);
}

static void read_done(struct call *call, const struct store_op *op)
{
	if (op->err)
		call->read_err = op->err;
	if (--call->reads_open == 0)
		on_all_read(call);
}

static void on_key_read(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	const struct store_op *op = pending->op;
	if (op->err == ERR_OK && op->find_key.found) {
		call->key_found = id_parse(&call->first.run_id, op->find_key.run_id) &&
		                  id_parse(&call->first.thread_id, op->find_key.thread_id);
		call->first.seq = op->find_key.seq;
		call->first.input_hash = op->find_key.input_hash;
	}
	read_done(call, op);
}

static void on_thread_read(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	const struct store_op *op = pending->op;
	call->thread_found = op->err == ERR_OK && op->find_thread.found;
	if (call->thread_found) {
		call->title = arena_copy(&call->arena, op->find_thread.row.title);
		call->created_ms = op->find_thread.row.created_ms;
	}
	read_done(call, op);
}

static void look_up(struct call *call)
{
	const struct command *command = &call->request.command;
	struct pending_op *key = NULL, *thread = NULL;
	if (command->idempotency_key.n) {
		uint64_t now = loop_wall(call->core->loop);
		key = op_create(call->core, STORE_FIND_KEY, call->user, on_key_read, call);
		key->op->find_key.key = arena_copy(&key->op->arena, command->idempotency_key);
		key->op->find_key.not_before_ms = now > KEY_AGE_MS ? now - KEY_AGE_MS : 0;
	}
	if (command->thread_id.n) {
		thread = op_create(call->core, STORE_FIND_THREAD, call->user, on_thread_read, call);
		thread->op->find_thread.thread_id = arena_copy(&thread->op->arena, command->thread_id);
	}
	call->reads_open = (key != NULL) + (thread != NULL);
	if (call->reads_open == 0) {
		decide(call);
		return;
	}
	if (key)
		op_submit(key);
	if (thread)
		op_submit(thread);
}

/* ---- the beginning ---- */

static enum err check(const struct call *call)
{
	const struct command *command = &call->request.command;
	struct id thread = command_thread(call);
	json_t *input;
	if (command->input.n + command->metadata.n > EVENT_BODY_MAX - EVENT_ROOM)
		return ERR_TOO_LARGE;
	if (json_parse(&input, command->input, NULL) != ERR_OK)
		return ERR_INVALID_MESSAGE;
	bool is_input = json_is_string(input) || json_is_object(input);
	json_decref(input);
	if (!is_input)
		return ERR_INVALID_MESSAGE;
	if (!agents_find(call->core->parts.agents, command->agent))
		return ERR_UNKNOWN_AGENT;
	return command->thread_id.n && id_is_none(&thread) ? ERR_NOT_FOUND : ERR_OK;
}

static struct call *leader_of(const struct call *call)
{
	struct call *other;
	struct str key = call->request.command.idempotency_key;
	DL_FOREACH2(call->user->calls, other, user_next)
	{
		const struct command *command = &other->request.command;
		if (other != call && !other->is_follower && other->request.kind == REQUEST_COMMAND &&
		    command->kind == COMMAND_RUN_START && !other->waits && str_eq(command->idempotency_key, key))
			return other;
	}
	return NULL;
}

void start_handle(struct call *call)
{
	enum err err = check(call);
	if (err) {
		call_fail(call, err, NULL);
		return;
	}
	call->input_hash = hash_of(&call->request.command);
	struct call *leader = call->request.command.idempotency_key.n ? leader_of(call) : NULL;
	if (leader) {
		call->is_follower = true;
		LL_APPEND2(leader->followers, call, follow_next);
		return;
	}
	look_up(call);
}
