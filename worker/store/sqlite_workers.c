/* sqlite_workers.c - the workers table: incarnations, counters, who has stopped. */
#include "worker/store/sqlite_internal.h"

/* A process_identity's field, from a row that another worker wrote. */
static void copy_field(char *out, size_t size, struct str value)
{
	size_t n = value.n < size ? value.n : size - 1;

	if (n)
		memcpy(out, value.p, n);
	out[n] = 0;
}

enum err sqlite_worker_row(sqlite3_stmt *s, struct arena *arena, struct worker_row *row, struct err_info *info)
{
	enum err err = column_copy(s, 0, arena, &row->id, info);

	if (!err)
		err = column_copy(s, 3, arena, &row->url, info);
	row->incarnation = column_u64(s, 1);
	row->counter = column_u64(s, 2);
	row->stopped = column_u64(s, 4) != 0;
	copy_field(row->process.boot_id, sizeof(row->process.boot_id), column_view(s, 5));
	copy_field(row->process.pid_namespace, sizeof(row->process.pid_namespace), column_view(s, 6));
	row->process.pid = (uint32_t)column_u64(s, 7);
	row->process.start_time = column_u64(s, 8);
	return err;
}

enum err sqlite_worker_get(struct sqlite_db *db, struct str id, struct arena *arena, struct worker_row *row, bool *found,
                           struct err_info *info)
{
	sqlite3_stmt *s = db_statement(db, SQL_WORKER_GET);
	enum err err;

	memset(row, 0, sizeof(*row));
	bind_str(s, 1, id);
	err = db_step(db, s, found, info);
	if (!err && *found) {
		err = sqlite_worker_row(s, arena, row, info);
		db_reset(s);
	}
	return err;
}

enum err sqlite_register(struct sqlite_db *db, struct store_op *op)
{
	struct worker_row *me = &op->reg.me;
	sqlite3_stmt *s = db_statement(db, SQL_WORKER_REGISTER);
	bool row;
	enum err err;

	bind_str(s, 1, me->id);
	bind_str(s, 2, me->url);
	bind_str(s, 3, str_c(me->process.boot_id));
	bind_str(s, 4, str_c(me->process.pid_namespace));
	bind_u64(s, 5, me->process.pid);
	bind_u64(s, 6, me->process.start_time);
	err = db_step(db, s, &row, &op->info);
	if (err || !row)
		return err;
	me->incarnation = column_u64(s, 0);
	me->counter = column_u64(s, 1);
	return db_exec(db, s, &op->info);
}

/* One row or none is changed by a statement that names our incarnation. */
static enum err run_as_incarnation(struct sqlite_db *db, enum sqlite_statement which, struct store_op *op)
{
	sqlite3_stmt *s = db_statement(db, which);
	enum err err;

	bind_str(s, 1, op->renew.id);
	bind_u64(s, 2, op->renew.incarnation);
	err = db_exec(db, s, &op->info);
	if (!err && sqlite3_changes(db->handle) == 0)
		err = err_set(&op->info, ERR_FENCED, "another incarnation has taken the name of this worker");
	return err;
}

static enum err take_worker(sqlite3_stmt *s, struct store_op *op)
{
	struct worker_row *rows = array_room(&op->arena, op->renew.rows, op->renew.n_rows, sizeof(*rows));

	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->renew.rows = rows;
	return sqlite_worker_row(s, &op->arena, &rows[op->renew.n_rows++], &op->info);
}

enum err sqlite_renew(struct sqlite_db *db, struct store_op *op)
{
	enum err err = run_as_incarnation(db, SQL_WORKER_RENEW, op);

	op->renew.rows = NULL;
	op->renew.n_rows = 0;
	return err ? err : db_each(db, db_statement(db, SQL_WORKER_LIST), op, take_worker);
}

enum err sqlite_stopped(struct sqlite_db *db, struct store_op *op)
{
	return run_as_incarnation(db, SQL_WORKER_STOP, op);
}
