/* sqlite_users.c - the users table: to whom a user is granted, and what the new owner needs to go on. */
#include "worker/store/sqlite_internal.h"

enum err sqlite_user_get(struct sqlite_db *db, struct str user, struct arena *arena, struct user_state *out,
                         struct err_info *info)
{
	sqlite3_stmt *s = db_statement(db, SQL_USER_GET);
	enum err err;

	memset(out, 0, sizeof(*out));
	bind_str(s, 1, user);
	err = db_step(db, s, &out->found, info);
	if (err || !out->found)
		return err;
	out->epoch = column_u64(s, 0);
	out->last_seq = column_u64(s, 1);
	out->earliest_seq = column_u64(s, 2);
	out->writes = column_u64(s, 3);
	err = column_copy(s, 4, arena, &out->owner_id, info);
	out->owner_incarnation = column_u64(s, 5);
	db_reset(s);
	return err;
}

/* Ours must be the incarnation registered under our name. */
static enum err check_ourselves(struct sqlite_db *db, struct store_op *op)
{
	struct worker_row me;
	bool found;
	enum err err = sqlite_worker_get(db, op->acquire.my_id, &op->arena, &me, &found, &op->info);

	if (!err && (!found || me.incarnation != op->acquire.my_incarnation || me.stopped))
		err = err_set(&op->info, ERR_FENCED, "another incarnation has taken the name of this worker");
	return err;
}

/* May he be taken from his owner, who is not us? ERR_MOVED and the owner otherwise. */
static enum err check_owner(struct sqlite_db *db, struct store_op *op, const struct user_state *user)
{
	struct worker_row owner;
	bool found;
	enum err err = sqlite_worker_get(db, user->owner_id, &op->arena, &owner, &found, &op->info);

	if (err || !found || owner.incarnation != user->owner_incarnation || owner.stopped)
		return err; /* the owner has ended: whoever bears its name now is another */
	if (str_eq(user->owner_id, op->acquire.over_id) && user->owner_incarnation == op->acquire.over_incarnation)
		return ERR_OK;
	op->acquire.owner = owner;
	return err_set(&op->info, ERR_MOVED, NULL);
}

static enum err write_grant(struct sqlite_db *db, struct store_op *op, enum sqlite_statement which)
{
	sqlite3_stmt *s = db_statement(db, which);

	bind_str(s, 1, user_id_str(&op->user));
	bind_str(s, 2, op->acquire.my_id);
	bind_u64(s, 3, op->acquire.my_incarnation);
	return db_exec(db, s, &op->info);
}

static void granted(struct store_op *op, const struct user_state *user, struct sqlite_expect *expect)
{
	op->acquire.epoch = user->epoch;
	op->acquire.last_seq = user->last_seq;
	op->acquire.earliest_seq = user->earliest_seq;
	*expect = (struct sqlite_expect){true, user->epoch, user->last_seq, user->writes};
}

enum err sqlite_acquire(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect)
{
	struct user_state user;
	enum err err = check_ourselves(db, op);

	if (!err)
		err = sqlite_user_get(db, user_id_str(&op->user), &op->arena, &user, &op->info);
	if (err)
		return err;
	op->acquire.was_new = !user.found;
	if (!user.found) {
		user.epoch = user.earliest_seq = user.writes = 1;
		err = write_grant(db, op, SQL_USER_INSERT);
	} else if (!str_eq(user.owner_id, op->acquire.my_id) || user.owner_incarnation != op->acquire.my_incarnation) {
		if (user.owner_id.n)
			err = check_owner(db, op, &user);
		if (!err)
			err = write_grant(db, op, SQL_USER_GRANT);
		user.epoch++;
		user.writes++;
	}
	if (!err)
		granted(op, &user, expect);
	return err;
}

static enum err take_step(sqlite3_stmt *s, struct store_op *op)
{
	struct journal_row *rows = array_room(&op->arena, op->acquire.journal, op->acquire.n_journal, sizeof(*rows)), *row;
	enum err err;

	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->acquire.journal = rows;
	row = &rows[op->acquire.n_journal++];
	*row = (struct journal_row){.finished = column_u64(s, 3) != 0, .started_ms = column_u64(s, 4)};
	row->step.number = (uint32_t)column_u64(s, 0);
	row->step.kind = (enum step_kind)column_u64(s, 1);
	row->step.status = (enum tool_status)column_u64(s, 2);
	err = column_copy(s, 5, &op->arena, &row->tool, &op->info);
	if (!err)
		err = column_copy(s, 6, &op->arena, &row->tool_call_id, &op->info);
	if (!err)
		err = column_copy(s, 7, &op->arena, &row->arguments, &op->info);
	if (!err)
		err = column_copy(s, 8, &op->arena, &row->step.result, &op->info);
	if (!err)
		err = column_copy(s, 9, &op->arena, &row->run_id, &op->info);
	return err;
}

static enum err take_open_run(sqlite3_stmt *s, struct store_op *op)
{
	struct run_row *rows = array_room(&op->arena, op->acquire.open_runs, op->acquire.n_open_runs, sizeof(*rows));

	if (!rows)
		return err_set(&op->info, ERR_NO_MEMORY, NULL);
	op->acquire.open_runs = rows;
	return sqlite_run_row(s, &op->arena, true, &rows[op->acquire.n_open_runs++], &op->info);
}

enum err sqlite_acquire_load(struct sqlite_db *db, struct store_op *op)
{
	sqlite3_stmt *s = db_statement(db, SQL_RUNS_OPEN);
	enum err err;

	op->acquire.open_runs = NULL;
	op->acquire.journal = NULL;
	op->acquire.n_open_runs = op->acquire.n_journal = 0;
	bind_str(s, 1, user_id_str(&op->user));
	err = db_each(db, s, op, take_open_run);
	for (size_t i = 0; !err && i < op->acquire.n_open_runs; i++) {
		if (op->acquire.open_runs[i].status != RUN_ACTIVE)
			continue;
		s = db_statement(db, SQL_JOURNAL_OF_RUN);
		bind_str(s, 1, user_id_str(&op->user));
		bind_str(s, 2, op->acquire.open_runs[i].run_id);
		err = db_each(db, s, op, take_step);
	}
	return err;
}

enum err sqlite_release(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect)
{
	sqlite3_stmt *s = db_statement(db, SQL_USER_RELEASE);
	bool row;
	enum err err;

	bind_str(s, 1, user_id_str(&op->user));
	bind_u64(s, 2, op->release.epoch);
	err = db_step(db, s, &row, &op->info);
	if (!err && !row)
		err = err_set(&op->info, ERR_FENCED, "the user is not ours under epoch %llu",
		              (unsigned long long)op->release.epoch);
	if (err)
		return err;
	*expect = (struct sqlite_expect){true, op->release.epoch, column_u64(s, 0), column_u64(s, 1)};
	return db_exec(db, s, &op->info);
}
