/*
 * sqlite_schema.c - the tables, and how older ones are brought forward.
 *
 * PRAGMA user_version holds the schema's number; migrations[i] leads from i to i+1. They only ever go forward: a program
 * refuses a store that is newer than itself. Tables with short rows are clustered by their key (WITHOUT ROWID); those with long
 * ones (bodies, inputs, texts) are kept in order of insertion with an index beside, so that an index page holds many keys and a
 * commit of many users' events touches few table pages. Source: https://www.sqlite.org/withoutrowid.html
 */
#include <stdio.h>
#include "worker/store/sqlite_internal.h"

#define APPLICATION_ID 0x50694e6e /* in the file's header: "PiNn" */

static const char *const migrations[] = {
	"CREATE TABLE workers("
	"id TEXT NOT NULL PRIMARY KEY, incarnation INTEGER NOT NULL, counter INTEGER NOT NULL, url TEXT NOT NULL, "
	"stopped INTEGER NOT NULL, boot_id TEXT NOT NULL, pid_namespace TEXT NOT NULL, pid INTEGER NOT NULL, "
	"start_time INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

	/* owner_id '': nobody. writes: raised by each write for the user, so that a commit can be recognised. */
	"CREATE TABLE users("
	"id TEXT NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL, earliest_seq INTEGER NOT NULL, "
	"writes INTEGER NOT NULL, owner_id TEXT NOT NULL, owner_incarnation INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

	/* body NULL: the event of a deleted thread. */
	"CREATE TABLE events("
	"user_id TEXT NOT NULL, seq INTEGER NOT NULL, thread_id TEXT NOT NULL, closes_message_id TEXT NOT NULL, "
	"voids_run_id TEXT NOT NULL, body TEXT) STRICT;"
	"CREATE UNIQUE INDEX events_by_seq ON events(user_id, seq);"

	/* first_seq: no event of the thread has a lower one. */
	"CREATE TABLE threads("
	"user_id TEXT NOT NULL, thread_id TEXT NOT NULL, title TEXT NOT NULL, created_ms INTEGER NOT NULL, "
	"updated_ms INTEGER NOT NULL, first_seq INTEGER NOT NULL, PRIMARY KEY(user_id, thread_id)) STRICT, WITHOUT ROWID;"
	"CREATE INDEX threads_by_update ON threads(user_id, updated_ms, thread_id);"

	"CREATE TABLE runs("
	"user_id TEXT NOT NULL, run_id TEXT NOT NULL, thread_id TEXT NOT NULL, agent TEXT NOT NULL, status INTEGER NOT NULL, "
	"attempt INTEGER NOT NULL, accepted_seq INTEGER NOT NULL, accepted_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, "
	"ended_ms INTEGER NOT NULL, client_id TEXT NOT NULL, cancel_by TEXT NOT NULL, input TEXT NOT NULL) STRICT;"
	"CREATE UNIQUE INDEX runs_by_id ON runs(user_id, run_id);"
	"CREATE INDEX runs_by_seq ON runs(user_id, accepted_seq);"
	"CREATE INDEX runs_by_thread ON runs(user_id, thread_id, accepted_seq);"
	"CREATE INDEX runs_open ON runs(user_id, thread_id, accepted_seq) WHERE status<3;"

	"CREATE TABLE messages("
	"user_id TEXT NOT NULL, thread_id TEXT NOT NULL, seq INTEGER NOT NULL, message_id TEXT NOT NULL, run_id TEXT NOT NULL, "
	"role TEXT NOT NULL, ts_ms INTEGER NOT NULL, text TEXT NOT NULL) STRICT;"
	"CREATE UNIQUE INDEX messages_by_seq ON messages(user_id, thread_id, seq);"

	"CREATE TABLE journal("
	"user_id TEXT NOT NULL, run_id TEXT NOT NULL, number INTEGER NOT NULL, kind INTEGER NOT NULL, status INTEGER NOT NULL, "
	"finished INTEGER NOT NULL, started_ms INTEGER NOT NULL, tool TEXT NOT NULL, tool_call_id TEXT NOT NULL, "
	"arguments TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY(user_id, run_id, number)) STRICT, WITHOUT ROWID;"

	"CREATE TABLE keys("
	"user_id TEXT NOT NULL, key TEXT NOT NULL, run_id TEXT NOT NULL, thread_id TEXT NOT NULL, seq INTEGER NOT NULL, "
	"input_hash INTEGER NOT NULL, created_ms INTEGER NOT NULL, PRIMARY KEY(user_id, key)) STRICT, WITHOUT ROWID;"

	"CREATE TABLE notes("
	"user_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(user_id, key)) STRICT, WITHOUT ROWID;",

	"CREATE INDEX keys_by_age ON keys(created_ms);",
};

enum { SCHEMA_VERSION = sizeof(migrations) / sizeof(migrations[0]) };

static enum err failed(sqlite3 *handle, struct err_info *info)
{
	return err_set(info, ERR_IO, "%s", sqlite3_errmsg(handle));
}

static enum err query_int(sqlite3 *handle, const char *sql, int *out, struct err_info *info)
{
	sqlite3_stmt *s = NULL;
	enum err err = ERR_OK;

	*out = 0;
	if (sqlite3_prepare_v2(handle, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
		err = failed(handle, info);
	else
		*out = sqlite3_column_int(s, 0);
	sqlite3_finalize(s);
	return err;
}

static enum err set_int(sqlite3 *handle, const char *pragma, int value, struct err_info *info)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "PRAGMA %s=%d", pragma, value);
	return sqlite3_exec(handle, sql, NULL, NULL, NULL) == SQLITE_OK ? ERR_OK : failed(handle, info);
}

/* A store of ours, or an empty file. */
static enum err check_ours(sqlite3 *handle, int version, struct err_info *info)
{
	int application, tables;
	enum err err = query_int(handle, "PRAGMA application_id", &application, info);

	if (!err)
		err = query_int(handle, "SELECT count(*) FROM sqlite_schema", &tables, info);
	if (err)
		return err;
	if (version == 0 ? tables != 0 : application != APPLICATION_ID)
		return err_set(info, ERR_IO, "it is a database of another program; choose another file");
	if (version > SCHEMA_VERSION)
		return err_set(info, ERR_IO, "its schema is version %d, this program's is %d: run a newer pinion-worker", version,
		               SCHEMA_VERSION);
	return ERR_OK;
}

static enum err migrate_in_transaction(sqlite3 *handle, struct err_info *info)
{
	int version;
	enum err err = query_int(handle, "PRAGMA user_version", &version, info);

	if (!err)
		err = check_ours(handle, version, info);
	if (err || version == SCHEMA_VERSION)
		return err;
	for (int i = version; i < SCHEMA_VERSION; i++) {
		if (sqlite3_exec(handle, migrations[i], NULL, NULL, NULL) != SQLITE_OK)
			return failed(handle, info);
	}
	err = set_int(handle, "application_id", APPLICATION_ID, info);
	if (!err)
		err = set_int(handle, "user_version", SCHEMA_VERSION, info);
	return err;
}

enum err sqlite_migrate(sqlite3 *handle, struct err_info *info)
{
	enum err err;

	if (sqlite3_exec(handle, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
		return failed(handle, info);
	err = migrate_in_transaction(handle, info);
	if (!err && sqlite3_exec(handle, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		err = failed(handle, info);
	if (err)
		(void)sqlite3_exec(handle, "ROLLBACK", NULL, NULL, NULL);
	return err;
}
