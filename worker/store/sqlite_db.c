/* sqlite_db.c - the statements' text, and the few calls of SQLite's that all operations are made of. */
#include "worker/store/sqlite_internal.h"

#define RUN_COLUMNS "run_id,thread_id,agent,status,attempt,accepted_seq,accepted_ms,started_ms,ended_ms,client_id,cancel_by"
#define OPEN "status<3" /* as the partial index runs_open has it, or it is not used */
#define ACTIVE_RUN                                                                                       \
	"(SELECT r.run_id FROM runs r WHERE r.user_id=t.user_id AND r.thread_id=t.thread_id AND r." OPEN \
	" ORDER BY r.status DESC,r.accepted_seq LIMIT 1)"

static const char *const texts[SQL_COUNT] = {
	[SQL_BEGIN_READ] = "BEGIN",
	[SQL_BEGIN_WRITE] = "BEGIN IMMEDIATE",
	[SQL_COMMIT] = "COMMIT",
	[SQL_ROLLBACK] = "ROLLBACK",
	[SQL_SAVEPOINT] = "SAVEPOINT op",
	[SQL_SAVEPOINT_ROLLBACK] = "ROLLBACK TO op",
	[SQL_SAVEPOINT_RELEASE] = "RELEASE op",

	[SQL_WORKER_REGISTER] =
		"INSERT INTO workers(id,incarnation,counter,url,stopped,boot_id,pid_namespace,pid,start_time) "
		"VALUES(?1,1,1,?2,0,?3,?4,?5,?6) ON CONFLICT(id) DO UPDATE SET incarnation=incarnation+1,counter=1,"
		"url=excluded.url,stopped=0,boot_id=excluded.boot_id,pid_namespace=excluded.pid_namespace,pid=excluded.pid,"
		"start_time=excluded.start_time RETURNING incarnation,counter",
	[SQL_WORKER_RENEW] = "UPDATE workers SET counter=counter+1 WHERE id=?1 AND incarnation=?2 AND stopped=0",
	[SQL_WORKER_STOP] = "UPDATE workers SET stopped=1 WHERE id=?1 AND incarnation=?2",
	[SQL_WORKER_LIST] = "SELECT id,incarnation,counter,url,stopped,boot_id,pid_namespace,pid,start_time FROM workers",
	[SQL_WORKER_GET] =
		"SELECT id,incarnation,counter,url,stopped,boot_id,pid_namespace,pid,start_time FROM workers WHERE id=?1",

	[SQL_USER_GET] = "SELECT epoch,last_seq,earliest_seq,writes,owner_id,owner_incarnation FROM users WHERE id=?1",
	[SQL_USER_INSERT] = "INSERT INTO users(id,epoch,last_seq,earliest_seq,writes,owner_id,owner_incarnation) "
			    "VALUES(?1,1,0,1,1,?2,?3)",
	[SQL_USER_GRANT] = "UPDATE users SET epoch=epoch+1,writes=writes+1,owner_id=?2,owner_incarnation=?3 WHERE id=?1",
	[SQL_USER_RELEASE] = "UPDATE users SET owner_id='',owner_incarnation=0,writes=writes+1 "
			     "WHERE id=?1 AND epoch=?2 AND owner_id<>'' RETURNING last_seq,writes",
	[SQL_USER_ADVANCE] = "UPDATE users SET last_seq=last_seq+?2,writes=writes+1 WHERE id=?1 AND epoch=?3 AND last_seq=?4 "
			     "RETURNING writes",

	[SQL_EVENT_INSERT] =
		"INSERT INTO events(user_id,seq,thread_id,closes_message_id,voids_run_id,body) VALUES(?1,?2,?3,?4,?5,?6)",
	[SQL_EVENTS_READ] =
		"SELECT seq,body,closes_message_id,voids_run_id FROM events WHERE user_id=?1 AND seq>=?2 ORDER BY seq",
	[SQL_EVENTS_ERASE_THREAD] = "UPDATE events SET body=NULL,closes_message_id='',voids_run_id='' "
				    "WHERE user_id=?1 AND seq>=?2 AND seq<?3 AND thread_id=?4",

	[SQL_THREAD_PUT] =
		"INSERT INTO threads(user_id,thread_id,title,created_ms,updated_ms,first_seq) VALUES(?1,?2,?3,?4,?5,?6) "
		"ON CONFLICT(user_id,thread_id) DO UPDATE SET title=excluded.title,"
		"updated_ms=max(updated_ms,excluded.updated_ms)",
	[SQL_THREAD_TOUCH] = "UPDATE threads SET updated_ms=?3 WHERE user_id=?1 AND thread_id=?2 AND updated_ms<?3",
	[SQL_THREAD_FIRST_SEQ] = "SELECT first_seq FROM threads WHERE user_id=?1 AND thread_id=?2",
	[SQL_THREAD_DELETE] = "DELETE FROM threads WHERE user_id=?1 AND thread_id=?2",
	[SQL_THREAD_DELETE_MESSAGES] = "DELETE FROM messages WHERE user_id=?1 AND thread_id=?2",
	[SQL_THREAD_DELETE_JOURNAL] = "DELETE FROM journal WHERE user_id=?1 AND run_id IN "
				      "(SELECT run_id FROM runs WHERE user_id=?1 AND thread_id=?2)",
	[SQL_THREAD_DELETE_RUNS] = "DELETE FROM runs WHERE user_id=?1 AND thread_id=?2",
	[SQL_THREAD_FIND] = "SELECT t.thread_id,t.title,t.created_ms,t.updated_ms," ACTIVE_RUN
			    " FROM threads t WHERE t.user_id=?1 AND t.thread_id=?2",
	[SQL_THREADS_LIST] = "SELECT t.thread_id,t.title,t.created_ms,t.updated_ms," ACTIVE_RUN
			     " FROM threads t WHERE t.user_id=?1 AND (t.updated_ms,t.thread_id)<(?2,?3) "
			     "ORDER BY t.updated_ms DESC,t.thread_id DESC LIMIT ?4",

	[SQL_RUN_PUT] = "INSERT INTO runs(user_id," RUN_COLUMNS ",input) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13) "
			"ON CONFLICT(user_id,run_id) DO UPDATE SET status=excluded.status,attempt=excluded.attempt,"
			"started_ms=excluded.started_ms,ended_ms=excluded.ended_ms,cancel_by=excluded.cancel_by",
	[SQL_RUN_FIND] = "SELECT " RUN_COLUMNS ",input FROM runs WHERE user_id=?1 AND run_id=?2",
	/* Unasked, the planner takes runs_by_seq for its order, and reads every run there was. */
	[SQL_RUNS_OPEN] = "SELECT " RUN_COLUMNS ",input FROM runs INDEXED BY runs_open WHERE user_id=?1 AND " OPEN
			  " ORDER BY accepted_seq",
	[SQL_RUNS_OPEN_IN_THREAD] = "SELECT " RUN_COLUMNS " FROM runs WHERE user_id=?1 AND thread_id=?2 AND " OPEN
				    " ORDER BY accepted_seq",
	[SQL_RUNS_LIST] = "SELECT " RUN_COLUMNS
			  " FROM runs WHERE user_id=?1 AND accepted_seq<?2 ORDER BY accepted_seq DESC LIMIT ?3",
	[SQL_RUNS_LIST_IN_THREAD] = "SELECT " RUN_COLUMNS " FROM runs WHERE user_id=?1 AND accepted_seq<?2 AND thread_id=?4 "
				    "ORDER BY accepted_seq DESC LIMIT ?3",

	[SQL_MESSAGE_INSERT] = "INSERT INTO messages(user_id,thread_id,seq,message_id,run_id,role,ts_ms,text) "
			       "VALUES(?1,?2,?3,?4,?5,?6,?7,?8)",
	[SQL_MESSAGES_LIST] = "SELECT seq,message_id,run_id,role,ts_ms,text FROM messages "
			      "WHERE user_id=?1 AND thread_id=?2 AND seq<?3 ORDER BY seq DESC LIMIT ?4",

	[SQL_JOURNAL_PUT] = "INSERT INTO journal(user_id,run_id,number,kind,status,finished,started_ms,tool,tool_call_id,"
			    "arguments,result) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11) "
			    "ON CONFLICT(user_id,run_id,number) DO UPDATE SET status=excluded.status,"
			    "finished=excluded.finished,result=excluded.result",
	[SQL_JOURNAL_DROP] = "DELETE FROM journal WHERE user_id=?1 AND run_id=?2",
	[SQL_JOURNAL_OF_RUN] = "SELECT number,kind,status,finished,started_ms,tool,tool_call_id,arguments,result,run_id "
			       "FROM journal WHERE user_id=?1 AND run_id=?2 ORDER BY number",

	[SQL_KEY_PUT] = "INSERT INTO keys(user_id,key,run_id,thread_id,seq,input_hash,created_ms) VALUES(?1,?2,?3,?4,?5,?6,?7) "
			"ON CONFLICT(user_id,key) DO UPDATE SET run_id=excluded.run_id,thread_id=excluded.thread_id,"
			"seq=excluded.seq,input_hash=excluded.input_hash,created_ms=excluded.created_ms",
	[SQL_KEY_FIND] = "SELECT run_id,thread_id,seq,input_hash FROM keys WHERE user_id=?1 AND key=?2 AND created_ms>=?3",

	/* A few with each that comes: there are never many, and no commit pays for all. */
	[SQL_KEYS_DROP] = "DELETE FROM keys WHERE (user_id,key) IN (SELECT user_id,key FROM keys INDEXED BY keys_by_age "
			  "WHERE created_ms<?1 ORDER BY created_ms LIMIT 4)",

	[SQL_NOTE_PUT] = "INSERT INTO notes(user_id,key,value) VALUES(?1,?2,?3) "
			 "ON CONFLICT(user_id,key) DO UPDATE SET value=excluded.value",
	[SQL_NOTE_DELETE] = "DELETE FROM notes WHERE user_id=?1 AND key=?2",
	[SQL_NOTE_GET] = "SELECT value FROM notes WHERE user_id=?1 AND key=?2",
	[SQL_NOTE_LIST] = "SELECT key FROM notes WHERE user_id=?1 ORDER BY key",
};

const char *sqlite_text_of(enum sqlite_statement which)
{
	return texts[which];
}

enum err db_error(struct sqlite_db *db, int rc, struct err_info *info)
{
	enum err err;

	switch (rc & 0xff) {
	case SQLITE_FULL:
	case SQLITE_READONLY:
	case SQLITE_IOERR:
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
	case SQLITE_ABORT:
	case SQLITE_INTERRUPT:
		err = ERR_UNAVAILABLE;
		break;
	case SQLITE_NOMEM:
		err = ERR_NO_MEMORY;
		break;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		err = ERR_IO;
		break;
	default:
		err = ERR_INTERNAL;
	}
	return err_set(info, err, "sqlite: %s (%d)", sqlite3_errmsg(db->handle), rc);
}

sqlite3_stmt *db_statement(struct sqlite_db *db, enum sqlite_statement which)
{
	if (!db->statements[which])
		(void)sqlite3_prepare_v3(db->handle, texts[which], -1, SQLITE_PREPARE_PERSISTENT, &db->statements[which], NULL);
	return db->statements[which];
}

void bind_str(sqlite3_stmt *s, int at, struct str value)
{
	if (s)
		(void)sqlite3_bind_text64(s, at, value.n ? value.p : "", value.n, SQLITE_STATIC, SQLITE_UTF8);
}

void bind_u64(sqlite3_stmt *s, int at, uint64_t value)
{
	if (s)
		(void)sqlite3_bind_int64(s, at, (sqlite3_int64)value);
}

uint64_t column_u64(sqlite3_stmt *s, int at)
{
	return (uint64_t)sqlite3_column_int64(s, at);
}

struct str column_view(sqlite3_stmt *s, int at)
{
	const char *p = (const char *)sqlite3_column_text(s, at);

	return str_of(p, p ? (size_t)sqlite3_column_bytes(s, at) : 0);
}

enum err column_copy(sqlite3_stmt *s, int at, struct arena *arena, struct str *out, struct err_info *info)
{
	*out = arena_copy(arena, column_view(s, at));
	return out->p ? ERR_OK : err_set(info, ERR_NO_MEMORY, NULL);
}

void db_reset(sqlite3_stmt *s)
{
	(void)sqlite3_reset(s);
	(void)sqlite3_clear_bindings(s);
}

enum err db_step(struct sqlite_db *db, sqlite3_stmt *s, bool *row, struct err_info *info)
{
	int rc = s ? sqlite3_step(s) : sqlite3_extended_errcode(db->handle);
	enum err err = ERR_OK;

	*row = s && rc == SQLITE_ROW;
	if (*row)
		return ERR_OK;
	if (!s || rc != SQLITE_DONE)
		err = db_error(db, rc, info);
	if (s)
		db_reset(s);
	return err;
}

enum err db_exec(struct sqlite_db *db, sqlite3_stmt *s, struct err_info *info)
{
	bool row;
	enum err err;

	do
		err = db_step(db, s, &row, info);
	while (!err && row);
	return err;
}

enum err db_each(struct sqlite_db *db, sqlite3_stmt *s, struct store_op *op, take_row take)
{
	bool row;
	enum err err;

	while (!(err = db_step(db, s, &row, &op->info)) && row) {
		err = take(s, op);
		if (err) {
			db_reset(s);
			return err == ERR_AGAIN ? ERR_OK : err;
		}
	}
	return err;
}

enum err db_run(struct sqlite_db *db, enum sqlite_statement which, struct err_info *info)
{
	return db_exec(db, db_statement(db, which), info);
}

void *array_room(struct arena *arena, void *items, size_t n, size_t size)
{
	void *grown;

	if ((n & (n - 1)) != 0) /* it grows at the powers of two: the count alone tells when */
		return items;
	grown = arena_alloc(arena, (n ? 2 * n : 1) * size);
	if (grown && n)
		memcpy(grown, items, n * size);
	return grown;
}
