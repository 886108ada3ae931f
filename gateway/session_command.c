/*
 * session_command.c - a session's commands, one at a time and in order, each answered once.
 *
 * The head of the line is sent to the user's owner. Where its outcome is unknown (the link was lost, no reply in time) it
 * is sent again under the same request number, so that the same worker answers what it answered before; where the worker
 * refused it without carrying it out (fenced, moved), under a new one once the feed is attached again. A run.start
 * without an idempotency key is given one here, so that sending it again can't start a second run, whoever gets it.
 */
#include <stdlib.h>
#include "common/log.h"
#include "gateway/answer.h"
#include "gateway/feed.h"

enum {
	COMMANDS_MAX = 64, /* that wait behind the head */
	COMMAND_BYTES_MAX = 512 << 10,
	TRY_MS = 1500,
	RETRY_AFTER_MS = 1000,
};

static void command_free(struct waiting_command *command)
{
	client_message_finish(&command->message);
	free(command);
}

static void command_pop(struct session *session)
{
	struct waiting_command *head = session->commands;

	call_abandon(&session->command_call);
	timer_cancel(session->core->loop, &session->command_timer);
	DL_DELETE(session->commands, head);
	session->n_commands--;
	session->command_bytes -= head->size;
	command_free(head);
}

static void command_watch_head(struct session *session)
{
	const struct waiting_command *head = session->commands;
	uint64_t now = loop_now(session->core->loop);

	if (!head || timer_is_set(&session->command_timer))
		return;
	uint64_t end = head->arrived_ms + session->core->config->command_timeout_ms;
	timer_set(session->core->loop, &session->command_timer, end > now ? end - now : 0);
}

/* The head's one answer; on to the next. */
static void command_answer(struct session *session, struct bytes *frame)
{
	metric_observe(&metrics.latency, (double)(loop_now(session->core->loop) - session->commands->arrived_ms) / 1000);
	command_pop(session);
	session_queue(session, frame);
	command_watch_head(session);
	command_next(session);
}

static void command_fail(struct session *session, enum err code, struct str why, uint32_t retry_after_ms)
{
	struct str id = session->commands->message.id;
	enum err told = err_for_client(code);

	if (told != code)
		why = (struct str){0};
	if (told == ERR_UNAVAILABLE && !retry_after_ms)
		retry_after_ms = RETRY_AFTER_MS;
	command_answer(session, answer_error(core_text(session->core), id, told, why, retry_after_ms));
}

static void on_command_timer(struct timer *timer)
{
	struct session *session = CONTAINER_OF(timer, struct session, command_timer);

	if (session->commands)
		command_fail(session, ERR_UNAVAILABLE, (struct str){0}, RETRY_AFTER_MS);
}

/* Not carried out, and this worker won't: the feed finds out who will. */
static void command_misdirected(struct session *session, enum err code)
{
	session->commands->number = 0;
	feed_reattach(session->feed, err_name(code));
	command_next(session);
}

static void on_command(void *owner, enum err err, const struct reply *reply)
{
	struct session *session = owner;

	session->command_call = NULL;
	if (err == ERR_PROTOCOL) {
		command_fail(session, ERR_INTERNAL, (struct str){0}, 0);
		return;
	}
	if (err) {
		command_next(session);
		return;
	}
	if (reply->code == ERR_FENCED || reply->code == ERR_MOVED) {
		command_misdirected(session, reply->code);
		return;
	}
	if (reply->code != ERR_OK) {
		command_fail(session, reply->code, reply->text, reply->retry_after_ms);
		return;
	}
	struct str fields = reply->kind == REQUEST_COMMAND ? reply->command.fields : str_c("?");
	struct bytes *frame = NULL;
	if (str_eq(reply->user_id, user_id_str(&session->feed->user)))
		frame = answer_ack(core_text(session->core), session->commands->message.id, fields);
	if (frame) {
		command_answer(session, frame);
		return;
	}
	metric_add(&metrics.bad_messages, 1);
	log_error("session", "bad_command_reply", "connection", session->id.s, NULL);
	command_fail(session, ERR_INTERNAL, (struct str){0}, 0);
}

void command_next(struct session *session)
{
	struct waiting_command *head = session->commands;
	struct feed *feed = session->feed;

	if (!head || session->command_call || !session_is_welcomed(session) || feed->state != FEED_ATTACHED)
		return;
	if (session->outbox.bytes >= session->core->config->outbox_bytes)
		return; /* it reads no answers: no more work for it now */
	struct request request = {.kind = REQUEST_COMMAND, .command = head->message.command};
	request.command.user_id = user_id_str(&feed->user);
	request.command.epoch = feed->epoch;
	request.command.max_active = session->core->config->active_runs;
	request.command.max_queued = session->core->config->queued_runs;
	session->command_call = peer_call(feed->peer, &request, head->number, TRY_MS, on_command, session);
	if (session->command_call)
		head->number = session->command_call->number;
	else
		command_fail(session, ERR_TOO_LARGE, (struct str){0}, 0);
}

void command_recall(struct session *session)
{
	call_abandon(&session->command_call);
}

void command_drop_all(struct session *session)
{
	while (session->commands)
		command_pop(session);
}

/* "\x01" and a UUID, which no client's key can be. */
static void command_give_key(struct client_message *m)
{
	char key[1 + ID_LEN + 1] = "\x01";
	struct id id;

	if (m->command.kind != COMMAND_RUN_START || m->command.idempotency_key.n)
		return;
	id_make(&id);
	memcpy(key + 1, id.s, ID_LEN);
	m->command.idempotency_key = arena_copy(&m->arena, str_of(key, 1 + ID_LEN));
	if (!m->command.idempotency_key.p)
		abort();
}

void command_accept(struct session *session, struct client_message *message)
{
	size_t size = message->arena.used;

	metric_add(&metrics.commands, 1);
	if (session->n_commands > COMMANDS_MAX || (session->commands && session->command_bytes + size > COMMAND_BYTES_MAX)) {
		session_answer_error(session, message->id, ERR_OVERLOADED, "too many messages wait for their answer",
		                     RETRY_AFTER_MS);
		return;
	}
	struct waiting_command *command = calloc(1, sizeof(*command));
	if (!command)
		abort();
	command_give_key(message);
	command->message = *message;
	*message = (struct client_message){0};
	command->arrived_ms = loop_now(session->core->loop);
	command->size = size;
	DL_APPEND(session->commands, command);
	session->n_commands++;
	session->command_bytes += size;
	command_watch_head(session);
	command_next(session);
}

void command_init(struct session *session)
{
	session->command_timer.fn = on_command_timer;
}
