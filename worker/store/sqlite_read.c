/* sqlite_read.c - pages of the log, and single things looked up: an idempotency key, a run, a thread, a note. */
#include <inttypes.h>
#include <stdio.h>
#include "worker/store/sqlite_internal.h"

/* ---- events ---- */

static enum err deleted_body(struct store_op *op, struct event *event)
{
	char body[64];

	snprintf(body, sizeof(body), "{\"type\":\"deleted\",\"seq\":%" PRIu64 "}", event->seq);
	event->body = arena_copy(&op->arena, str_c(body));
	return event->body.p ? ERR_OK : err_set(&op->info, ERR_NO_MEMORY, NULL);
}

static enum err fill_event(sqlite3_stmt *s, struct store_op *op, struct event *event)
{
	enum err err;

	*event = (struct event){.seq = column_u64(s, 0)};
	if (sqlite3_column_type(s, 1) == SQLITE_NULL)
		return deleted_body(op, event);
	err = column_copy(s, 1, &op->arena, &event->body, &op->info);
	if (!err)
		err = column_copy(s, 2, &op->arena, &event->closes_message_id, &op->info);
	if (!err)
		err = column_copy(s, 3, &op->arena, &event->voids_run_id, &op->info);
	return err;
}

/* The first comes whatever its size; max_bytes then counts down. */
static enum err take_event(sqlite3_stmt *s, struct store_op *op)
{
	size_t size = (size_t)sqlite3_column_bytes(s, 1);
	struct event *events;

	if (op->read.n && op->read.bytes + size > op->read.max_bytes)
		return ERR_AGAIN;
	events = array_room(&op->arena, op->read.events, op->read.n, sizeof(*events));
	if (!events)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->read.events = events;
	op->read.bytes += size;
	return fill_event(s, op, &events[op->read.n++]);
}

enum err sqlite_read_events(struct sqlite_db *db, struct store_op *op)
{
	struct user_state user;
	sqlite3_stmt *s;
	enum err err = sqlite_user_get(db, user_id_str(&op->user), &op->arena, &user, &op->info);

	op->read.events = NULL;
	op->read.n = op->read.bytes = 0;
	if (err)
		return err;
	if (!user.found || user.epoch != op->read.epoch)
		return err_set(&op->info, ERR_FENCED, "the user is at epoch %" PRIu64 ", not %" PRIu64, user.epoch,
		               op->read.epoch);
	op->read.earliest_seq = user.earliest_seq;
	op->read.last_seq = user.last_seq;
	s = db_statement(db, SQL_EVENTS_READ);
	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, op->read.from_seq);
	return db_each(db, s, op, take_event);
}

/* ---- single things ---- */

enum err sqlite_run_row(sqlite3_stmt *s, struct arena *arena, bool with_input, struct run_row *row, struct err_info *info)
{
	const struct {
		int column;
		struct str *field;
	} strings[] = {
		{0, &row->run_id},    {1, &row->thread_id},  {2, &row->agent},
		{9, &row->client_id}, {10, &row->cancel_by}, {11, &row->input},
	};
	size_t n = sizeof(strings) / sizeof(strings[0]) - (with_input ? 0 : 1);
	enum err err = ERR_OK;

	*row = (struct run_row){
		.status = (enum run_status)column_u64(s, 3),
		.attempt = (uint32_t)column_u64(s, 4),
		.accepted_seq = column_u64(s, 5),
		.accepted_ms = column_u64(s, 6),
		.started_ms = column_u64(s, 7),
		.ended_ms = column_u64(s, 8),
	};
	for (size_t i = 0; !err && i < n; i++)
		err = column_copy(s, strings[i].column, arena, strings[i].field, info);
	return err;
}

enum err sqlite_thread_row(sqlite3_stmt *s, struct arena *arena, struct thread_row *row, struct err_info *info)
{
	enum err err;

	*row = (struct thread_row){.created_ms = column_u64(s, 2), .updated_ms = column_u64(s, 3)};
	err = column_copy(s, 0, arena, &row->thread_id, info);
	if (!err)
		err = column_copy(s, 1, arena, &row->title, info);
	if (!err)
		err = column_copy(s, 4, arena, &row->active_run_id, info); /* NULL: empty */
	return err;
}

/* A statement whose parameters are the user and one id. */
static sqlite3_stmt *find(struct sqlite_db *db, struct store_op *op, enum sqlite_statement which, struct str id)
{
	sqlite3_stmt *s = db_statement(db, which);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, id);
	return s;
}

static enum err take_key(sqlite3_stmt *s, struct store_op *op)
{
	enum err err = column_copy(s, 0, &op->arena, &op->find_key.run_id, &op->info);

	if (!err)
		err = column_copy(s, 1, &op->arena, &op->find_key.thread_id, &op->info);
	op->find_key.seq = column_u64(s, 2);
	op->find_key.input_hash = column_u64(s, 3);
	op->find_key.found = !err;
	return err;
}

enum err sqlite_find_key(struct sqlite_db *db, struct store_op *op)
{
	sqlite3_stmt *s = find(db, op, SQL_KEY_FIND, op->find_key.key);

	bind_u64(s, 3, op->find_key.not_before_ms);
	op->find_key.found = false;
	return db_each(db, s, op, take_key);
}

static enum err take_run(sqlite3_stmt *s, struct store_op *op)
{
	op->find_run.found = true;
	return sqlite_run_row(s, &op->arena, true, &op->find_run.row, &op->info);
}

enum err sqlite_find_run(struct sqlite_db *db, struct store_op *op)
{
	op->find_run.found = false;
	return db_each(db, find(db, op, SQL_RUN_FIND, op->find_run.run_id), op, take_run);
}

static enum err take_thread(sqlite3_stmt *s, struct store_op *op)
{
	op->find_thread.found = true;
	return sqlite_thread_row(s, &op->arena, &op->find_thread.row, &op->info);
}

enum err sqlite_find_thread(struct sqlite_db *db, struct store_op *op)
{
	op->find_thread.found = false;
	return db_each(db, find(db, op, SQL_THREAD_FIND, op->find_thread.thread_id), op, take_thread);
}

static enum err take_note(sqlite3_stmt *s, struct store_op *op)
{
	op->note.found = true;
	return column_copy(s, 0, &op->arena, &op->note.value, &op->info);
}

static enum err take_note_key(sqlite3_stmt *s, struct store_op *op)
{
	struct str *keys = array_room(&op->arena, op->note.keys, op->note.n_keys, sizeof(*keys));

	if (!keys)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->note.keys = keys;
	return column_copy(s, 0, &op->arena, &keys[op->note.n_keys++], &op->info);
}

enum err sqlite_note_read(struct sqlite_db *db, struct store_op *op)
{
	sqlite3_stmt *s;

	op->note.found = false;
	op->note.keys = NULL;
	op->note.n_keys = 0;
	if (op->note.key.n)
		return db_each(db, find(db, op, SQL_NOTE_GET, op->note.key), op, take_note);
	s = db_statement(db, SQL_NOTE_LIST);
	bind_str(s, 1, user_id_str(&op->user));
	return db_each(db, s, op, take_note_key);
}
