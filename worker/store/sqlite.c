/*
 * sqlite.c - the store in one SQLite file, shared by the workers of one machine.
 *
 * A batch comes sorted by user. Each user's operations keep their order: it is cut into stages, reads before the first write,
 * then writes, then reads behind them, and so on; a stage of writes is one transaction under the write lock, each operation in a
 * savepoint of its own, so that one that is fenced leaves the others whole. A stage of reads is one snapshot and takes no lock.
 * Nothing but the transaction happens under the lock: an acquired user's runs are loaded after it, and the write-ahead log is
 * checkpointed outside of it (only where others write so much that it never empties, under it).
 *
 * synchronous=FULL: a commit returns after the log was synced. Where COMMIT fails it may have happened all the same (the error
 * can come from a later step): then the rows of the users written are read back, each of which tells by its `writes`.
 * Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/lang_transaction.html
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "worker/store/sqlite_internal.h"

enum {
	LOCK_WAIT_MS = 5000,     /* for our turn to write, beyond: ERR_UNAVAILABLE */
	BUSY_WAIT_MS = 2000,     /* for a lock of SQLite's own: somebody writes who isn't a worker */
	OPEN_WAIT_MS = 30000,    /* for another worker's migration */
	CHECKPOINT_AT = 2000,    /* pages of write-ahead log: 8 MiB */
	CHECKPOINT_HARD = 16000, /* a log that never empties is checkpointed under the write lock */
	SETTLE_TRIES = 3,
};

static struct sqlite_db *of(struct store_backend *backend)
{
	return (struct sqlite_db *)backend; /* its first member */
}

static bool is_write(enum store_op_kind kind)
{
	switch (kind) {
	case STORE_REGISTER:
	case STORE_RENEW:
	case STORE_STOPPED:
	case STORE_ACQUIRE:
	case STORE_RELEASE:
	case STORE_APPEND:
		return true;
	default:
		return false;
	}
}

/* ---- reads ---- */

static enum err execute_read(struct sqlite_db *db, struct store_op *op)
{
	switch (op->kind) {
	case STORE_READ_EVENTS:
		return sqlite_read_events(db, op);
	case STORE_FIND_KEY:
		return sqlite_find_key(db, op);
	case STORE_FIND_RUN:
		return sqlite_find_run(db, op);
	case STORE_FIND_THREAD:
		return sqlite_find_thread(db, op);
	case STORE_LIST_THREADS:
		return sqlite_list_threads(db, op);
	case STORE_LIST_MESSAGES:
		return sqlite_list_messages(db, op);
	case STORE_LIST_RUNS:
		return sqlite_list_runs(db, op);
	case STORE_NOTE_READ:
		return sqlite_note_read(db, op);
	case STORE_ACQUIRE: /* committed: what is left of it */
		return sqlite_acquire_load(db, op);
	default:
		return err_set(&op->info, ERR_INTERNAL, "the store does not know operation %d", (int)op->kind);
	}
}

static void fail_all(struct store_op **ops, size_t n, enum err err, const struct err_info *info)
{
	for (size_t i = 0; i < n; i++) {
		ops[i]->err = err;
		ops[i]->info = *info;
	}
}

static void roll_back(struct sqlite_db *db)
{
	struct err_info ignored;

	if (!sqlite3_get_autocommit(db->handle) && db_run(db, SQL_ROLLBACK, &ignored) != ERR_OK)
		(void)ignored; /* the next BEGIN says it */
}

static void read_stage(struct sqlite_db *db, struct store_op **ops, size_t n)
{
	struct err_info info = {0};
	enum err err;

	if (n == 0)
		return;
	err = db_run(db, SQL_BEGIN_READ, &info);
	if (err) {
		fail_all(ops, n, err, &info);
		return;
	}
	for (size_t i = 0; i < n; i++)
		ops[i]->err = execute_read(db, ops[i]);
	roll_back(db);
}

/* ---- writes ---- */

static enum err execute_write(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect)
{
	switch (op->kind) {
	case STORE_REGISTER:
		return sqlite_register(db, op);
	case STORE_RENEW:
		return sqlite_renew(db, op);
	case STORE_STOPPED:
		return sqlite_stopped(db, op);
	case STORE_ACQUIRE:
		return sqlite_acquire(db, op, expect);
	case STORE_RELEASE:
		return sqlite_release(db, op, expect);
	default:
		return sqlite_append(db, op, expect);
	}
}

static enum err in_savepoint(struct sqlite_db *db, struct store_op *op, struct sqlite_expect *expect)
{
	struct err_info ignored;
	enum err err = db_run(db, SQL_SAVEPOINT, &op->info);

	if (err)
		return err;
	err = execute_write(db, op, expect);
	if (err && !sqlite3_get_autocommit(db->handle) && db_run(db, SQL_SAVEPOINT_ROLLBACK, &ignored) != ERR_OK)
		roll_back(db); /* never keep half of an operation */
	if (!sqlite3_get_autocommit(db->handle) && db_run(db, SQL_SAVEPOINT_RELEASE, &ignored) != ERR_OK)
		roll_back(db);
	return err;
}

/* Those that succeeded so far did not after all. */
static void undo(struct store_op **ops, size_t n, const struct err_info *why)
{
	for (size_t i = 0; i < n; i++) {
		if (ops[i]->err)
			continue;
		ops[i]->err = err_set(&ops[i]->info, ERR_UNAVAILABLE, "%s", why->text);
	}
}

/* Executes each; false where the transaction is gone, with all that was done in it. */
static bool write_all(struct sqlite_db *db, struct store_op **ops, struct sqlite_expect *expects, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		ops[i]->err = in_savepoint(db, ops[i], &expects[i]);
		if (ops[i]->err)
			expects[i].checks = false;
		if (!sqlite3_get_autocommit(db->handle))
			continue;
		if (!ops[i]->err)
			ops[i]->err = err_set(&ops[i]->info, ERR_UNAVAILABLE, "sqlite: the transaction was rolled back");
		undo(ops, i, &ops[i]->info);
		for (size_t j = i + 1; j < n; j++)
			ops[j]->err = err_set(&ops[j]->info, ERR_UNAVAILABLE, "%s", ops[i]->info.text);
		return false;
	}
	return true;
}

static bool any_succeeded(struct store_op **ops, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!ops[i]->err)
			return true;
	}
	return false;
}

/* True where some user's row is as the transaction would have left it: then all of it was committed. */
static bool reads_as_committed(struct sqlite_db *db, struct store_op **ops, const struct sqlite_expect *expects, size_t n,
                               bool *known)
{
	*known = true;
	for (size_t i = 0; i < n; i++) {
		struct user_state user;
		struct err_info ignored;

		if (!expects[i].checks)
			continue;
		if (sqlite_user_get(db, user_id_str(&ops[i]->user), &ops[i]->arena, &user, &ignored) != ERR_OK) {
			*known = false;
			return false;
		}
		if (user.found && user.epoch == expects[i].epoch && user.last_seq == expects[i].last_seq &&
		    user.writes == expects[i].writes)
			return true;
	}
	return false;
}

/*
 * After a COMMIT that failed. An operation that is told to have failed although it was committed does no harm: its caller
 * repeats it and is fenced by the log's end.
 */
static void settle(struct sqlite_db *db, struct store_op **ops, const struct sqlite_expect *expects, size_t n,
                   struct err_info *why)
{
	bool known = false;

	roll_back(db);
	for (int i = 0; !known && i < SETTLE_TRIES; i++) {
		if (reads_as_committed(db, ops, expects, n, &known))
			return;
	}
	undo(ops, n, why);
}

static void write_locked(struct sqlite_db *db, struct store_op **ops, struct sqlite_expect *expects, size_t n)
{
	struct err_info info = {0};
	enum err err = db_run(db, SQL_BEGIN_WRITE, &info);

	if (err) {
		fail_all(ops, n, err, &info);
		return;
	}
	if (!write_all(db, ops, expects, n))
		return;
	if (!any_succeeded(ops, n))
		roll_back(db);
	else if (db_run(db, SQL_COMMIT, &info) != ERR_OK)
		settle(db, ops, expects, n, &info);
}

static void load_acquired(struct sqlite_db *db, struct store_op **ops, size_t n)
{
	struct store_op *one;

	for (size_t i = 0; i < n; i++) {
		one = ops[i];
		if (one->kind == STORE_ACQUIRE && !one->err)
			read_stage(db, &one, 1);
	}
}

static void write_stage(struct sqlite_db *db, struct store_op **ops, struct sqlite_expect *expects, size_t n)
{
	struct err_info info = {0};

	if (n == 0)
		return;
	if (write_lock_acquire(db->write_lock, LOCK_WAIT_MS, &info) != ERR_OK) {
		fail_all(ops, n, ERR_UNAVAILABLE, &info);
		return;
	}
	memset(expects, 0, n * sizeof(*expects));
	write_locked(db, ops, expects, n);
	write_lock_release(db->write_lock);
	load_acquired(db, ops, n);
}

/* ---- checkpoints ---- */

static int on_wal(void *ctx, sqlite3 *handle, const char *name, int frames)
{
	struct sqlite_db *db = ctx;

	db->wal_frames = frames;
	return SQLITE_OK;
}

/* One that fails is tried again after the next commit: the log only grows. */
static void checkpoint(struct sqlite_db *db)
{
	struct err_info ignored;
	bool hard = db->wal_frames >= CHECKPOINT_HARD;

	if (db->wal_frames < CHECKPOINT_AT)
		return;
	db->wal_frames = 0; /* the next commit tells it anew */
	(void)sqlite3_wal_checkpoint_v2(db->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	if (!hard || write_lock_acquire(db->write_lock, LOCK_WAIT_MS, &ignored) != ERR_OK)
		return;
	/* What came in since; the next writer then starts the log anew. */
	(void)sqlite3_wal_checkpoint_v2(db->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	write_lock_release(db->write_lock);
}

/* ---- batches ---- */

/* Reads have even numbers, writes odd ones; each user's grow. Returns the highest. */
static unsigned number_stages(struct store_op **ops, unsigned *stages, size_t n)
{
	unsigned stage = 0, highest = 0;

	for (size_t i = 0; i < n; i++) {
		if (i == 0 || !user_id_eq(&ops[i]->user, &ops[i - 1]->user))
			stage = 0;
		if (is_write(ops[i]->kind) != (stage % 2 == 1))
			stage++;
		stages[i] = stage;
		if (stage > highest)
			highest = stage;
	}
	return highest;
}

struct batch_memory {
	struct store_op **chosen;
	unsigned *stages;
	struct sqlite_expect *expects;
};

static void execute_stages(struct sqlite_db *db, struct store_op **ops, size_t n, struct batch_memory *memory)
{
	unsigned highest = number_stages(ops, memory->stages, n);

	for (unsigned stage = 0; stage <= highest; stage++) {
		size_t chosen = 0;

		for (size_t i = 0; i < n; i++) {
			if (memory->stages[i] == stage)
				memory->chosen[chosen++] = ops[i];
		}
		if (stage % 2 == 0)
			read_stage(db, memory->chosen, chosen);
		else
			write_stage(db, memory->chosen, memory->expects, chosen);
	}
}

static void sqlite_execute(struct store_backend *backend, struct store_op **ops, size_t n)
{
	struct sqlite_db *db = of(backend);
	struct batch_memory memory = {
		.chosen = calloc(n, sizeof(*memory.chosen)),
		.stages = calloc(n, sizeof(*memory.stages)),
		.expects = calloc(n, sizeof(*memory.expects)),
	};
	struct err_info info;

	for (size_t i = 0; i < n; i++) {
		ops[i]->err = ERR_OK;
		memset(&ops[i]->info, 0, sizeof(ops[i]->info));
	}
	if (memory.chosen && memory.stages && memory.expects)
		execute_stages(db, ops, n, &memory);
	else
		fail_all(ops, n, err_set(&info, ERR_NO_MEMORY, NULL), &info);
	free(memory.chosen);
	free(memory.stages);
	free(memory.expects);
	checkpoint(db);
}

static void sqlite_close_backend(struct store_backend *backend)
{
	struct sqlite_db *db = of(backend);

	for (size_t i = 0; i < SQL_COUNT; i++)
		(void)sqlite3_finalize(db->statements[i]);
	(void)sqlite3_close(db->handle);
	write_lock_close(db->write_lock);
	free(db);
}

static const struct store_backend_ops sqlite_ops = {.execute = sqlite_execute, .close = sqlite_close_backend};

/* ---- opening ---- */

static bool is_remote(const char *directory)
{
	struct statfs fs;

	if (statfs(directory, &fs) != 0)
		return false;
	return fs.f_type == NFS_SUPER_MAGIC || fs.f_type == 0xff534d42 /* CIFS */ || fs.f_type == 0xfe534d42 /* SMB2 */;
}

static enum err check_directory(const char *path, struct err_info *info)
{
	char copy[PATH_MAX];
	const char *directory;
	struct stat st;

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy) - 8)
		return err_set(info, ERR_IO, "the path is too long");
	directory = dirname(copy);
	if (stat(directory, &st) != 0)
		return err_set_errno(info, ERR_IO, errno, "the directory %s; create it with mode 0700", directory);
	if (!S_ISDIR(st.st_mode))
		return err_set(info, ERR_IO, "%s is not a directory", directory);
	if (is_remote(directory))
		return err_set(info, ERR_IO, "%s is on a network file system, which can't lock as SQLite needs; use a local one",
		               directory);
	return ERR_OK;
}

/* Only where it isn't there: closing a descriptor of a file that this process has open already would drop its locks. */
static enum err create_file(const char *path, struct err_info *info)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 && errno != EEXIST)
		return err_set_errno(info, ERR_IO, errno, "can't create it");
	if (fd >= 0)
		close(fd);
	return ERR_OK;
}

static enum err set_pragmas(sqlite3 *handle, struct err_info *info)
{
	sqlite3_stmt *s = NULL;
	bool is_wal;

	(void)sqlite3_busy_timeout(handle, BUSY_WAIT_MS);
	if (sqlite3_prepare_v2(handle, "PRAGMA journal_mode=WAL", -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW) {
		sqlite3_finalize(s);
		return err_set(info, ERR_IO, "%s", sqlite3_errmsg(handle));
	}
	is_wal = str_eq_c(column_view(s, 0), "wal");
	sqlite3_finalize(s);
	if (!is_wal)
		return err_set(info, ERR_IO, "this file system can't hold SQLite's write-ahead log");
	if (sqlite3_exec(handle,
	                 "PRAGMA synchronous=FULL; PRAGMA foreign_keys=OFF; PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY;"
	                 "PRAGMA cache_size=-16384; PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=67108864;",
	                 NULL, NULL, NULL) != SQLITE_OK)
		return err_set(info, ERR_IO, "%s", sqlite3_errmsg(handle));
	return ERR_OK;
}

static enum err open_handle(struct sqlite_db *db, const char *path, struct err_info *info)
{
	char full[PATH_MAX]; /* with a slash in it: no "file:" URI, no ":memory:" */
	enum err err = create_file(path, info);
	int rc;

	if (err)
		return err;
	snprintf(full, sizeof(full), "%s%s", strchr(path, '/') ? "" : "./", path);
	rc = sqlite3_open_v2(full, &db->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc != SQLITE_OK)
		return err_set(info, ERR_IO, "%s", db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc));
	err = set_pragmas(db->handle, info);
	if (!err)
		err = sqlite_migrate(db->handle, info);
	(void)sqlite3_wal_hook(db->handle, on_wal, db);
	return err;
}

/* Workers that start together take turns: one creates or migrates, the others find it done. */
static enum err open_all(struct sqlite_db *db, const char *path, struct err_info *info)
{
	char lock_path[PATH_MAX];
	enum err err = check_directory(path, info);

	if (err)
		return err;
	snprintf(lock_path, sizeof(lock_path), "%.*s-lock", PATH_MAX - 8, path);
	err = write_lock_open(lock_path, &db->write_lock, info);
	if (!err)
		err = write_lock_acquire(db->write_lock, OPEN_WAIT_MS, info);
	if (err)
		return err;
	err = open_handle(db, path, info);
	write_lock_release(db->write_lock);
	return err;
}

enum err store_sqlite_open(const char *path, struct store_backend **out, struct err_info *info)
{
	struct sqlite_db *db = calloc(1, sizeof(*db));
	enum err err;

	*out = NULL;
	if (!db)
		return err_set(info, ERR_NO_MEMORY, NULL);
	db->backend.ops = &sqlite_ops;
	err = open_all(db, path, info);
	if (err) {
		sqlite_close_backend(&db->backend);
		if (info)
			info->code = ERR_IO;
		(void)err_wrap(info, "the store %s", path);
		return ERR_IO;
	}
	*out = &db->backend;
	return ERR_OK;
}
