/* sqlite_append.c - one append: the compare-and-swap on the user, the events, and what happens to the tables with them. */
#include "worker/store/sqlite_internal.h"

/* Why the compare-and-swap found nothing to change. */
static enum err tell_fence(struct sqlite_db *db, struct store_op *op)
{
	struct user_state user;
	enum err err = sqlite_user_get(db, user_id_str(&op->user), &op->arena, &user, &op->info);

	if (err)
		return err;
	if (!user.found)
		return err_set(&op->info, ERR_FENCED, "there is no such user");
	if (user.epoch != op->append.epoch)
		return err_set(&op->info, ERR_FENCED, "the user is at epoch %llu, not %llu", (unsigned long long)user.epoch,
		               (unsigned long long)op->append.epoch);
	return err_set(&op->info, ERR_FENCED, "the log ends at %llu, not %llu", (unsigned long long)user.last_seq,
	               (unsigned long long)op->append.first_seq - 1);
}

static enum err advance(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect)
{
	sqlite3_stmt *s = db_statement(db, SQL_USER_ADVANCE);
	bool row;
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, op->append.n);
	bind_u64(s, 3, op->append.epoch);
	bind_u64(s, 4, op->append.first_seq - 1);
	err = db_step(db, s, &row, &op->info);
	if (err)
		return err;
	if (!row)
		return tell_fence(db, op);
	*expect = (struct sqlite_expect){true, op->append.epoch, op->append.first_seq - 1 + op->append.n, column_u64(s, 0)};
	return db_exec(db, s, &op->info);
}

static enum err insert_event(struct sqlite_db *db, struct store_op *op, size_t i)
{
	sqlite3_stmt *s = db_statement(db, SQL_EVENT_INSERT);
	const struct event *event = &op->append.events[i];

	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, op->append.first_seq + i);
	bind_str(s, 3, op->append.threads ? op->append.threads[i] : str_of(NULL, 0));
	bind_str(s, 4, event->closes_message_id);
	bind_str(s, 5, event->voids_run_id);
	bind_str(s, 6, event->body);
	return db_exec(db, s, &op->info);
}

static enum err put_thread(struct sqlite_db *db, struct store_op *op, const struct thread_row *thread)
{
	sqlite3_stmt *s = db_statement(db, SQL_THREAD_PUT);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, thread->thread_id);
	bind_str(s, 3, thread->title);
	bind_u64(s, 4, thread->created_ms);
	bind_u64(s, 5, thread->updated_ms);
	bind_u64(s, 6, op->append.first_seq);
	return db_exec(db, s, &op->info);
}

static enum err put_run(struct sqlite_db *db, struct store_op *op, const struct run_row *run)
{
	sqlite3_stmt *s = db_statement(db, SQL_RUN_PUT);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, run->run_id);
	bind_str(s, 3, run->thread_id);
	bind_str(s, 4, run->agent);
	bind_u64(s, 5, run->status);
	bind_u64(s, 6, run->attempt);
	bind_u64(s, 7, run->accepted_seq);
	bind_u64(s, 8, run->accepted_ms);
	bind_u64(s, 9, run->started_ms);
	bind_u64(s, 10, run->ended_ms);
	bind_str(s, 11, run->client_id);
	bind_str(s, 12, run->cancel_by);
	bind_str(s, 13, run->input);
	return db_exec(db, s, &op->info);
}

static enum err insert_message(struct sqlite_db *db, struct store_op *op, const struct message_row *message)
{
	sqlite3_stmt *s = db_statement(db, SQL_MESSAGE_INSERT);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, message->thread_id);
	bind_u64(s, 3, message->seq);
	bind_str(s, 4, message->message_id);
	bind_str(s, 5, message->run_id);
	bind_str(s, 6, message->role);
	bind_u64(s, 7, message->ts_ms);
	bind_str(s, 8, message->text);
	return db_exec(db, s, &op->info);
}

static enum err touch_thread(struct sqlite_db *db, struct store_op *op, const struct message_row *message)
{
	sqlite3_stmt *s = db_statement(db, SQL_THREAD_TOUCH);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, message->thread_id);
	bind_u64(s, 3, message->ts_ms);
	return db_exec(db, s, &op->info);
}

static enum err put_step(struct sqlite_db *db, struct store_op *op, const struct journal_row *row)
{
	sqlite3_stmt *s = db_statement(db, SQL_JOURNAL_PUT);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, row->run_id);
	bind_u64(s, 3, row->step.number);
	bind_u64(s, 4, row->step.kind);
	bind_u64(s, 5, row->step.status);
	bind_u64(s, 6, row->finished);
	bind_u64(s, 7, row->started_ms);
	bind_str(s, 8, row->tool);
	bind_str(s, 9, row->tool_call_id);
	bind_str(s, 10, row->arguments);
	bind_str(s, 11, row->step.result);
	return db_exec(db, s, &op->info);
}

static enum err put_key(struct sqlite_db *db, struct store_op *op)
{
	const struct append_effects *effects = &op->append.effects;
	sqlite3_stmt *s = db_statement(db, SQL_KEY_PUT);
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, effects->key.key);
	bind_str(s, 3, effects->key.run_id);
	bind_str(s, 4, effects->key.thread_id);
	bind_u64(s, 5, effects->key.seq);
	bind_u64(s, 6, effects->key.input_hash);
	bind_u64(s, 7, effects->key.created_ms);
	err = db_exec(db, s, &op->info);
	if (err)
		return err;
	s = db_statement(db, SQL_KEYS_DROP);
	bind_u64(s, 1, effects->key.drop_before_ms);
	return db_exec(db, s, &op->info);
}

static enum err change_note(struct sqlite_db *db, struct store_op *op)
{
	struct append_effects *effects = &op->append.effects;
	bool put = effects->note.op == NOTE_PUT;
	sqlite3_stmt *s = db_statement(db, put ? SQL_NOTE_PUT : SQL_NOTE_DELETE);
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, effects->note.key);
	if (put)
		bind_str(s, 3, effects->note.value);
	err = db_exec(db, s, &op->info);
	effects->note_deleted = !err && !put && sqlite3_changes(db->handle) > 0;
	return err;
}

static enum err run_for(struct sqlite_db *db, struct store_op *op, enum sqlite_statement which, struct str id)
{
	sqlite3_stmt *s = db_statement(db, which);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, id);
	return db_exec(db, s, &op->info);
}

/* Only what was logged before: the events of this append are of the deletion itself. */
static enum err erase_events(struct sqlite_db *db, struct store_op *op, struct str thread_id, uint64_t first_seq)
{
	sqlite3_stmt *s = db_statement(db, SQL_EVENTS_ERASE_THREAD);

	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, first_seq);
	bind_u64(s, 3, op->append.first_seq);
	bind_str(s, 4, thread_id);
	return db_exec(db, s, &op->info);
}

static enum err delete_thread(struct sqlite_db *db, struct store_op *op, struct str thread_id)
{
	static const enum sqlite_statement in_order[] = {
		SQL_THREAD_DELETE_MESSAGES,
		SQL_THREAD_DELETE_JOURNAL, /* asks the runs which */
		SQL_THREAD_DELETE_RUNS,
		SQL_THREAD_DELETE,
	};
	sqlite3_stmt *s = db_statement(db, SQL_THREAD_FIRST_SEQ);
	uint64_t first_seq;
	bool found;
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, thread_id);
	err = db_step(db, s, &found, &op->info);
	if (err || !found)
		return err;
	first_seq = column_u64(s, 0);
	db_reset(s);
	err = erase_events(db, op, thread_id, first_seq);
	for (size_t i = 0; !err && i < sizeof(in_order) / sizeof(in_order[0]); i++)
		err = run_for(db, op, in_order[i], thread_id);
	return err;
}

static enum err put_rows(struct sqlite_db *db, struct store_op *op)
{
	const struct append_effects *effects = &op->append.effects;
	enum err err = ERR_OK;

	for (size_t i = 0; !err && i < effects->n_threads_put; i++)
		err = put_thread(db, op, &effects->threads_put[i]);
	for (size_t i = 0; !err && i < effects->n_runs_put; i++)
		err = put_run(db, op, &effects->runs_put[i]);
	for (size_t i = 0; !err && i < effects->n_messages; i++) {
		err = insert_message(db, op, &effects->messages[i]);
		if (!err)
			err = touch_thread(db, op, &effects->messages[i]);
	}
	for (size_t i = 0; !err && i < effects->n_journal_put; i++)
		err = put_step(db, op, &effects->journal_put[i]);
	return err;
}

static enum err apply_effects(struct sqlite_db *db, struct store_op *op)
{
	struct append_effects *effects = &op->append.effects;
	enum err err = ERR_OK;

	effects->note_deleted = false;
	if (effects->thread_deleted.n)
		err = delete_thread(db, op, effects->thread_deleted);
	if (!err)
		err = put_rows(db, op);
	if (!err && effects->journal_drop_run.n)
		err = run_for(db, op, SQL_JOURNAL_DROP, effects->journal_drop_run);
	if (!err && effects->key.key.n)
		err = put_key(db, op);
	if (!err && effects->note.op != NOTE_NONE)
		err = change_note(db, op);
	return err;
}

enum err sqlite_append(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect)
{
	enum err err;

	if (op->append.first_seq == 0)
		return err_set(&op->info, ERR_INTERNAL, "events are numbered from 1");
	err = advance(db, op, expect);
	for (size_t i = 0; !err && i < op->append.n; i++)
		err = insert_event(db, op, i);
	return err ? err : apply_effects(db, op);
}
