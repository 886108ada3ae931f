/*
 * sqlite_internal.h - what the files of the SQLite backend share: the connection with its prepared statements, binding and
 * reading of columns, and the operations by concern. Private to worker/store/sqlite*.c and their test.
 */
#ifndef PINION_WORKER_STORE_SQLITE_INTERNAL_H
#define PINION_WORKER_STORE_SQLITE_INTERNAL_H

#include <sqlite3.h>
#include "worker/store/store.h"
#include "worker/store/write_lock.h"

enum sqlite_statement {
	SQL_BEGIN_READ,
	SQL_BEGIN_WRITE,
	SQL_COMMIT,
	SQL_ROLLBACK,
	SQL_SAVEPOINT,
	SQL_SAVEPOINT_ROLLBACK,
	SQL_SAVEPOINT_RELEASE,

	SQL_WORKER_REGISTER,
	SQL_WORKER_RENEW,
	SQL_WORKER_STOP,
	SQL_WORKER_LIST,
	SQL_WORKER_GET,

	SQL_USER_GET,
	SQL_USER_INSERT,
	SQL_USER_GRANT,
	SQL_USER_RELEASE,
	SQL_USER_ADVANCE,

	SQL_EVENT_INSERT,
	SQL_EVENTS_READ,
	SQL_EVENTS_ERASE_THREAD,

	SQL_THREAD_PUT,
	SQL_THREAD_FIRST_SEQ,
	SQL_THREAD_DELETE,
	SQL_THREAD_DELETE_MESSAGES,
	SQL_THREAD_DELETE_JOURNAL,
	SQL_THREAD_DELETE_RUNS,
	SQL_THREAD_FIND,
	SQL_THREADS_LIST,

	SQL_RUN_PUT,
	SQL_RUN_FIND,
	SQL_RUNS_OPEN,
	SQL_RUNS_OPEN_IN_THREAD,
	SQL_RUNS_LIST,
	SQL_RUNS_LIST_IN_THREAD,

	SQL_MESSAGE_INSERT,
	SQL_THREAD_TOUCH,
	SQL_MESSAGES_LIST,

	SQL_JOURNAL_PUT,
	SQL_JOURNAL_DROP,
	SQL_JOURNAL_OF_RUN,

	SQL_KEY_PUT,
	SQL_KEY_FIND,
	SQL_KEYS_DROP,

	SQL_NOTE_PUT,
	SQL_NOTE_DELETE,
	SQL_NOTE_GET,
	SQL_NOTE_LIST,

	SQL_COUNT
};

struct sqlite_db {
	struct store_backend backend; /* first: the two are one object */
	sqlite3 *handle;
	sqlite3_stmt *statements[SQL_COUNT]; /* prepared at first use */
	struct write_lock *write_lock;
	int wal_frames; /* length of the write-ahead log after our last commit */
};

/* What users' rows must say where a write was committed; how a COMMIT of unknown outcome is told. */
struct sqlite_expect {
	bool checks; /* false: this op leaves nothing to look at */
	uint64_t epoch, last_seq, writes;
};

/* ---- sqlite_db.c: statements, columns, errors ---- */

const char *sqlite_text_of(enum sqlite_statement which); /* the SQL */

/* The statement, ready to be bound; NULL on trouble, which db_exec and db_step then report. */
sqlite3_stmt *db_statement(struct sqlite_db *db, enum sqlite_statement which);
void bind_str(sqlite3_stmt *s, int at, struct str value); /* must live until the statement is reset */
void bind_u64(sqlite3_stmt *s, int at, uint64_t value);
uint64_t column_u64(sqlite3_stmt *s, int at);
struct str column_view(sqlite3_stmt *s, int at); /* until the next step */
/* ERR_NO_MEMORY where the arena is at its limit. */
MUST_CHECK enum err column_copy(sqlite3_stmt *s, int at, struct arena *arena, struct str *out, struct err_info *info);

/* *row tells whether there is one; where there is none, or an error, the statement is reset. */
MUST_CHECK enum err db_step(struct sqlite_db *db, sqlite3_stmt *s, bool *row, struct err_info *info);
void db_reset(sqlite3_stmt *s); /* after the last row that is wanted */
/* Steps to the end. */
MUST_CHECK enum err db_exec(struct sqlite_db *db, sqlite3_stmt *s, struct err_info *info);
MUST_CHECK enum err db_run(struct sqlite_db *db, enum sqlite_statement which, struct err_info *info); /* without parameters */

/* Hands each row to `take` (a view for that call), until the end, its error, or its ERR_AGAIN: "enough", which is no error. */
typedef enum err (*take_row)(sqlite3_stmt *s, struct store_op *op);
MUST_CHECK enum err db_each(struct sqlite_db *db, sqlite3_stmt *s, struct store_op *op, take_row take);

/* Our error for SQLite's, with its message. */
enum err db_error(struct sqlite_db *db, int rc, struct err_info *info);

/* The array (n elements in use, all added by way of this) with room for one more; NULL where the arena is at its limit. */
void *array_room(struct arena *arena, void *items, size_t n, size_t size);

/* ---- sqlite_schema.c ---- */

/* Creates the tables or brings them forward to this program's version, in one transaction; under the write lock. */
MUST_CHECK enum err sqlite_migrate(sqlite3 *handle, struct err_info *info);

/* ---- sqlite_workers.c ---- */

/* From the columns of SQL_WORKER_GET and its like. */
MUST_CHECK enum err sqlite_worker_row(sqlite3_stmt *s, struct arena *arena, struct worker_row *row, struct err_info *info);
MUST_CHECK enum err sqlite_worker_get(struct sqlite_db *db, struct str id, struct arena *arena, struct worker_row *row,
                                      bool *found, struct err_info *info);
enum err sqlite_register(struct sqlite_db *db, struct store_op *op);
enum err sqlite_renew(struct sqlite_db *db, struct store_op *op);
enum err sqlite_stopped(struct sqlite_db *db, struct store_op *op);

/* ---- sqlite_users.c ---- */

struct user_state {
	bool found;
	uint64_t epoch, last_seq, earliest_seq, writes;
	struct str owner_id; /* empty: none; a copy in the arena given */
	uint64_t owner_incarnation;
};
MUST_CHECK enum err sqlite_user_get(struct sqlite_db *db, struct str user, struct arena *arena, struct user_state *out,
                                    struct err_info *info);
enum err sqlite_acquire(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect);
enum err sqlite_acquire_load(struct sqlite_db *db, struct store_op *op); /* after its commit: open runs and journal */
enum err sqlite_release(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect);

/* ---- sqlite_append.c ---- */

enum err sqlite_append(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect);

/* ---- sqlite_read.c, sqlite_list.c ---- */

/* From the columns of SQL_RUN_FIND and its like. */
MUST_CHECK enum err sqlite_run_row(sqlite3_stmt *s, struct arena *arena, bool with_input, struct run_row *row,
                                   struct err_info *info);
/* From those of SQL_THREAD_FIND and its like. */
MUST_CHECK enum err sqlite_thread_row(sqlite3_stmt *s, struct arena *arena, struct thread_row *row, struct err_info *info);

enum err sqlite_read_events(struct sqlite_db *db, struct store_op *op);
enum err sqlite_find_key(struct sqlite_db *db, struct store_op *op);
enum err sqlite_find_run(struct sqlite_db *db, struct store_op *op);
enum err sqlite_find_thread(struct sqlite_db *db, struct store_op *op);
enum err sqlite_note_read(struct sqlite_db *db, struct store_op *op);
enum err sqlite_list_threads(struct sqlite_db *db, struct store_op *op);
enum err sqlite_list_messages(struct sqlite_db *db, struct store_op *op);
enum err sqlite_list_runs(struct sqlite_db *db, struct store_op *op);

#endif
