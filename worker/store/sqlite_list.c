/*
 * sqlite_list.c - lists in pages.
 *
 * A page asks for one row more than the limit, to know whether there is a next one. Cursors name the last row shown by its sort
 * key: "t<updated_ms>.<thread_id>", "m<seq>", "r<seq>". They are opaque to clients and checked on their way in; they carry no
 * authority: the user is always part of the query.
 */
#include <inttypes.h>
#include <stdio.h>
#include "worker/store/sqlite_internal.h"

/* Texts of one page of messages; a page ends before it, but has at least one. */
enum { LIST_TEXT_MAX = 2 << 20 };

/* ---- cursors ---- */

/* Reads "<letter><number>" and leaves what comes behind. */
static bool read_number(struct str *in, char letter, uint64_t *out)
{
	size_t i = 1;

	*out = 0;
	if (in->n < 2 || in->p[0] != letter)
		return false;
	for (; i < in->n && in->p[i] >= '0' && in->p[i] <= '9'; i++) {
		if (i > 18) /* 18 digits are within an int64_t */
			return false;
		*out = *out * 10 + (uint64_t)(in->p[i] - '0');
	}
	*in = str_of(in->p + i, in->n - i);
	return i > 1;
}

static enum err bad_cursor(struct store_op *op)
{
	return err_set(&op->info, ERR_INVALID_MESSAGE, "before is not a cursor of this list");
}

/* No cursor: above all numbers. */
static enum err seq_cursor(struct store_op *op, struct str cursor, char letter, uint64_t *out)
{
	*out = INT64_MAX;
	if (cursor.n && (!read_number(&cursor, letter, out) || cursor.n))
		return bad_cursor(op);
	return ERR_OK;
}

static enum err thread_cursor(struct store_op *op, struct str cursor, uint64_t *updated_ms, struct str *thread_id)
{
	*updated_ms = INT64_MAX;
	*thread_id = str_of(NULL, 0);
	if (!cursor.n)
		return ERR_OK;
	if (!read_number(&cursor, 't', updated_ms) || cursor.n < 2 || cursor.n > 1 + ID_LEN || cursor.p[0] != '.')
		return bad_cursor(op);
	*thread_id = str_of(cursor.p + 1, cursor.n - 1);
	return ERR_OK;
}

static enum err set_next(struct store_op *op, struct str *next, const char *text)
{
	*next = arena_copy(&op->arena, str_c(text));
	return next->p ? ERR_OK : err_set(&op->info, ERR_NO_MEMORY, NULL);
}

static enum err set_next_seq(struct store_op *op, struct str *next, char letter, uint64_t seq)
{
	char text[32];

	snprintf(text, sizeof(text), "%c%" PRIu64, letter, seq);
	return set_next(op, next, text);
}

/* ---- threads ---- */

static enum err take_thread(sqlite3_stmt *s, struct store_op *op)
{
	struct thread_row *rows = array_room(&op->arena, op->list_threads.rows, op->list_threads.n, sizeof(*rows));

	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->list_threads.rows = rows;
	return sqlite_thread_row(s, &op->arena, &rows[op->list_threads.n++], &op->info);
}

enum err sqlite_list_threads(struct sqlite_db *db, struct store_op *op)
{
	uint64_t updated_ms;
	struct str thread_id;
	const struct thread_row *last;
	char text[96];
	sqlite3_stmt *s;
	enum err err = thread_cursor(op, op->list_threads.before, &updated_ms, &thread_id);

	op->list_threads.rows = NULL;
	op->list_threads.n = 0;
	op->list_threads.next = str_of(NULL, 0);
	if (err)
		return err;
	s = db_statement(db, SQL_THREADS_LIST);
	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, updated_ms);
	bind_str(s, 3, thread_id);
	bind_u64(s, 4, (uint64_t)op->list_threads.limit + 1);
	err = db_each(db, s, op, take_thread);
	if (err || op->list_threads.n <= op->list_threads.limit)
		return err;
	op->list_threads.n = op->list_threads.limit;
	if (!op->list_threads.n)
		return ERR_OK;
	last = &op->list_threads.rows[op->list_threads.n - 1];
	snprintf(text, sizeof(text), "t%" PRIu64 "." STR_FMT, last->updated_ms, STR_ARG(last->thread_id));
	return set_next(op, &op->list_threads.next, text);
}

/* ---- messages ---- */

static enum err fill_message(sqlite3_stmt *s, struct store_op *op, struct message_row *row)
{
	enum err err = column_copy(s, 1, &op->arena, &row->message_id, &op->info);

	row->seq = column_u64(s, 0);
	row->thread_id = op->list_messages.thread_id;
	row->ts_ms = column_u64(s, 4);
	if (!err)
		err = column_copy(s, 2, &op->arena, &row->run_id, &op->info);
	if (!err)
		err = column_copy(s, 3, &op->arena, &row->role, &op->info);
	if (!err)
		err = column_copy(s, 5, &op->arena, &row->text, &op->info);
	return err;
}

/* Newest first; ends the page at the limit or when it is full, leaving the cursor for the next. */
static enum err take_message(sqlite3_stmt *s, struct store_op *op)
{
	size_t n = op->list_messages.n, size = (size_t)sqlite3_column_bytes(s, 5);
	struct message_row *rows = op->list_messages.rows;
	enum err err;

	if (n >= op->list_messages.limit || (n && op->list_messages.bytes + size > LIST_TEXT_MAX)) {
		err = n ? set_next_seq(op, &op->list_messages.next, 'm', rows[n - 1].seq) : ERR_OK;
		return err ? err : ERR_AGAIN;
	}
	rows = array_room(&op->arena, rows, n, sizeof(*rows));
	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->list_messages.rows = rows;
	op->list_messages.n++;
	op->list_messages.bytes += size;
	return fill_message(s, op, &rows[n]);
}

static void reverse(struct message_row *rows, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		struct message_row swap = rows[i];

		rows[i] = rows[n - 1 - i];
		rows[n - 1 - i] = swap;
	}
}

static enum err take_open_run(sqlite3_stmt *s, struct store_op *op)
{
	struct run_row *rows = array_room(&op->arena, op->list_messages.open_runs, op->list_messages.n_open_runs, sizeof(*rows));

	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->list_messages.open_runs = rows;
	return sqlite_run_row(s, &op->arena, false, &rows[op->list_messages.n_open_runs++], &op->info);
}

static enum err check_thread(struct sqlite_db *db, struct store_op *op)
{
	sqlite3_stmt *s = db_statement(db, SQL_THREAD_FIRST_SEQ);
	bool found;
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, op->list_messages.thread_id);
	err = db_step(db, s, &found, &op->info);
	if (!err && found)
		db_reset(s);
	return !err && !found ? err_set(&op->info, ERR_NOT_FOUND, NULL) : err;
}

static enum err read_messages(struct sqlite_db *db, struct store_op *op, uint64_t before)
{
	sqlite3_stmt *s = db_statement(db, SQL_MESSAGES_LIST);
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, op->list_messages.thread_id);
	bind_u64(s, 3, before);
	bind_u64(s, 4, (uint64_t)op->list_messages.limit + 1);
	err = db_each(db, s, op, take_message);
	reverse(op->list_messages.rows, op->list_messages.n);
	return err;
}

static enum err read_open_runs(struct sqlite_db *db, struct store_op *op)
{
	sqlite3_stmt *s = db_statement(db, SQL_RUNS_OPEN_IN_THREAD);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, op->list_messages.thread_id);
	return db_each(db, s, op, take_open_run);
}

enum err sqlite_list_messages(struct sqlite_db *db, struct store_op *op)
{
	struct user_state user;
	uint64_t before;
	enum err err = seq_cursor(op, op->list_messages.before, 'm', &before);

	op->list_messages.rows = NULL;
	op->list_messages.open_runs = NULL;
	op->list_messages.n = op->list_messages.n_open_runs = op->list_messages.bytes = 0;
	op->list_messages.next = str_of(NULL, 0);
	if (!err)
		err = check_thread(db, op);
	if (!err)
		err = read_messages(db, op, before);
	if (!err)
		err = read_open_runs(db, op);
	if (!err)
		err = sqlite_user_get(db, user_id_str(&op->user), &op->arena, &user, &op->info);
	if (!err)
		op->list_messages.as_of_seq = user.last_seq;
	return err;
}

/* ---- runs ---- */

static enum err take_run(sqlite3_stmt *s, struct store_op *op)
{
	struct run_row *rows = array_room(&op->arena, op->list_runs.rows, op->list_runs.n, sizeof(*rows));

	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->list_runs.rows = rows;
	return sqlite_run_row(s, &op->arena, false, &rows[op->list_runs.n++], &op->info);
}

enum err sqlite_list_runs(struct sqlite_db *db, struct store_op *op)
{
	bool in_thread = op->list_runs.thread_id.n > 0;
	uint64_t before;
	sqlite3_stmt *s;
	enum err err = seq_cursor(op, op->list_runs.before, 'r', &before);

	op->list_runs.rows = NULL;
	op->list_runs.n = 0;
	op->list_runs.next = str_of(NULL, 0);
	if (err)
		return err;
	s = db_statement(db, in_thread ? SQL_RUNS_LIST_IN_THREAD : SQL_RUNS_LIST);
	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, before);
	bind_u64(s, 3, (uint64_t)op->list_runs.limit + 1);
	if (in_thread)
		bind_str(s, 4, op->list_runs.thread_id);
	err = db_each(db, s, op, take_run);
	if (err || op->list_runs.n <= op->list_runs.limit)
		return err;
	op->list_runs.n = op->list_runs.limit;
	if (!op->list_runs.n)
		return ERR_OK;
	return set_next_seq(op, &op->list_runs.next, 'r', op->list_runs.rows[op->list_runs.n - 1].accepted_seq);
}
