/*
 * test_store_faults.c - the store when things break: killed processes, full disks, commits of unknown outcome, other writers,
 * files that are not ours. Disk errors are injected by a thin layer over SQLite's own file layer (https://www.sqlite.org/vfs.html).
 */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define NAMED(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)

/* ---- a file layer that fails on demand ---- */

static int fail_sync, fail_write; /* the result code; 0: none */

struct faulty_file {
	sqlite3_file base;
	sqlite3_file *real; /* behind this struct in memory */
};

static sqlite3_file *real_of(sqlite3_file *file)
{
	return ((struct faulty_file *)file)->real;
}

#define FORWARD(name, params, args)                           \
	static int faulty_##name params                       \
	{                                                     \
		return real_of(file)->pMethods->x##name args; \
	}

FORWARD(Close, (sqlite3_file * file), (real_of(file)))
FORWARD(Read, (sqlite3_file * file, void *p, int n, sqlite3_int64 at), (real_of(file), p, n, at))
FORWARD(Truncate, (sqlite3_file * file, sqlite3_int64 size), (real_of(file), size))
FORWARD(FileSize, (sqlite3_file * file, sqlite3_int64 *size), (real_of(file), size))
FORWARD(Lock, (sqlite3_file * file, int lock), (real_of(file), lock))
FORWARD(Unlock, (sqlite3_file * file, int lock), (real_of(file), lock))
FORWARD(CheckReservedLock, (sqlite3_file * file, int *out), (real_of(file), out))
FORWARD(FileControl, (sqlite3_file * file, int op, void *arg), (real_of(file), op, arg))
FORWARD(SectorSize, (sqlite3_file * file), (real_of(file)))
FORWARD(DeviceCharacteristics, (sqlite3_file * file), (real_of(file)))
FORWARD(ShmMap, (sqlite3_file * file, int page, int size, int extend, void volatile **out),
        (real_of(file), page, size, extend, out))
FORWARD(ShmLock, (sqlite3_file * file, int at, int n, int flags), (real_of(file), at, n, flags))
FORWARD(ShmUnmap, (sqlite3_file * file, int drop), (real_of(file), drop))
FORWARD(Fetch, (sqlite3_file * file, sqlite3_int64 at, int n, void **out), (real_of(file), at, n, out))
FORWARD(Unfetch, (sqlite3_file * file, sqlite3_int64 at, void *p), (real_of(file), at, p))

static int faulty_Write(sqlite3_file *file, const void *p, int n, sqlite3_int64 at)
{
	return fail_write ? fail_write : real_of(file)->pMethods->xWrite(real_of(file), p, n, at);
}

static int faulty_Sync(sqlite3_file *file, int flags)
{
	return fail_sync ? fail_sync : real_of(file)->pMethods->xSync(real_of(file), flags);
}

static void faulty_ShmBarrier(sqlite3_file *file)
{
	real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static const sqlite3_io_methods faulty_methods = {
	.iVersion = 3,
	.xClose = faulty_Close,
	.xRead = faulty_Read,
	.xWrite = faulty_Write,
	.xTruncate = faulty_Truncate,
	.xSync = faulty_Sync,
	.xFileSize = faulty_FileSize,
	.xLock = faulty_Lock,
	.xUnlock = faulty_Unlock,
	.xCheckReservedLock = faulty_CheckReservedLock,
	.xFileControl = faulty_FileControl,
	.xSectorSize = faulty_SectorSize,
	.xDeviceCharacteristics = faulty_DeviceCharacteristics,
	.xShmMap = faulty_ShmMap,
	.xShmLock = faulty_ShmLock,
	.xShmBarrier = faulty_ShmBarrier,
	.xShmUnmap = faulty_ShmUnmap,
	.xFetch = faulty_Fetch,
	.xUnfetch = faulty_Unfetch,
};

static int faulty_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
	sqlite3_vfs *real = vfs->pAppData;
	struct faulty_file *own = (struct faulty_file *)file;
	int rc;

	own->real = (sqlite3_file *)(own + 1);
	rc = real->xOpen(real, name, own->real, flags, out_flags);
	own->base.pMethods = rc == SQLITE_OK ? &faulty_methods : NULL;
	return rc;
}

static void install_faults(void)
{
	static sqlite3_vfs faulty;
	sqlite3_vfs *real = sqlite3_vfs_find(NULL);

	faulty = *real; /* its other functions don't look at the files */
	faulty.zName = "faulty";
	faulty.szOsFile = real->szOsFile + (int)sizeof(struct faulty_file);
	faulty.pAppData = real;
	faulty.xOpen = faulty_open;
	sqlite3_vfs_register(&faulty, 1);
}

/* The connection that was opened last: to hook into its commits. */
static sqlite3 *last_opened;

static int remember_handle(sqlite3 *handle, char **error, const struct sqlite3_api_routines *api)
{
	last_opened = handle;
	return SQLITE_OK;
}

static int group_set_up(void **state)
{
	sqlite3_initialize();
	install_faults();
	return sqlite3_auto_extension((void (*)(void))remember_handle) == SQLITE_OK ? 0 : -1;
}

/* ---- errors of the disk ---- */

static void a_commit_that_could_not_be_synced_did_not_happen(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));

	fail_sync = SQLITE_IOERR_FSYNC;
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_UNAVAILABLE);
	fail_sync = 0;
	assert_int_equal(last_seq_of(f, &user, epoch), 0);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK);
}

static void a_full_disk_is_told_and_nothing_of_the_batch_happened(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));

	fail_write = SQLITE_FULL;
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_UNAVAILABLE);
	assert_non_null(strstr(f->info.text, "full"));
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_UNAVAILABLE);
	fail_write = 0;
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK);
	assert_int_equal(last_seq_of(f, &user, epoch), 1);
}

static int fail_after_commit(void *ctx, sqlite3 *handle, const char *name, int frames)
{
	return SQLITE_IOERR; /* COMMIT reports it, although all is committed */
}

static void a_commit_that_failed_but_happened_is_found_out(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t me = register_worker(f, "a"), epoch = acquire(f, &user, "a", me);
	struct store_op *op = append_op(&user, epoch, 2, NULL, 0);

	sqlite3_wal_hook(last_opened, fail_after_commit, NULL);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK);
	assert_int_equal(run_op(f, op), ERR_OK); /* without an event, too */
	store_op_free(op);
	assert_int_equal(acquire(f, &(struct user_id){.s = "usr_000000000002"}, "a", me), 1);
	assert_int_equal(last_seq_of(f, &user, epoch), 1);
	assert_int_equal(append_one(f, &user, epoch, 2, "{}"), ERR_OK);
}

static void a_limit_on_file_sizes_is_a_full_disk(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	struct rlimit before, tight;
	size_t size = 1 << 20;
	char *body = malloc(size);
	struct event event = {.body = str_of(body, size)};
	struct store_op *op = append_op(&user, epoch, 1, &event, 1);

	memset(body, 'x', size);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	tight = (struct rlimit){.rlim_cur = 512 << 10, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	assert_int_equal(run_op(f, op), ERR_UNAVAILABLE);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK); /* small things go on */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	op->append.first_seq = 2;
	assert_int_equal(run_op(f, op), ERR_OK);
	store_op_free(op);
	free(body);
}

/* ---- crashes ---- */

struct progress {
	_Atomic uint64_t acknowledged;
};

/* Appends events seq, seq+1, … as fast as it can, until it is killed. */
static void append_forever(struct fixture *f, const struct user_id *user, struct progress *progress)
{
	struct store *store = fixture_open(f);
	struct fixture own = *f;
	uint64_t epoch;

	own.store = store;
	epoch = acquire(&own, user, "child", register_worker(&own, "child"));
	for (uint64_t seq = last_seq_of(&own, user, epoch) + 1;; seq++) {
		char body[64];

		snprintf(body, sizeof(body), "{\"seq\":%lu}", (unsigned long)seq);
		if (append_one(&own, user, epoch, seq, body) != ERR_OK)
			_exit(1);
		progress->acknowledged = seq;
	}
}

static void check_log(struct fixture *f, const struct user_id *user, uint64_t acknowledged)
{
	uint64_t parent = register_worker(f, "parent"), epoch, last_seq;
	struct store_op *op = acquire_op(user, "parent", parent);

	register_worker(f, "child"); /* the one that was killed is replaced */
	assert_int_equal(run_op(f, op), ERR_OK);
	epoch = op->acquire.epoch;
	last_seq = op->acquire.last_seq;
	store_op_free(op);
	assert_true(last_seq == acknowledged || last_seq == acknowledged + 1);
	op = read_op(user, epoch, 1, UINT32_MAX);
	assert_int_equal(run_op(f, op), ERR_OK);
	assert_int_equal(op->read.n, last_seq);
	for (size_t i = 0; i < op->read.n; i++) {
		char body[64];

		snprintf(body, sizeof(body), "{\"seq\":%lu}", (unsigned long)(i + 1));
		assert_str(op->read.events[i].body, body);
	}
	store_op_free(op);
	assert_int_equal(stop_worker(f, "parent", parent), ERR_OK); /* the next child may have him */
}

static void what_was_acknowledged_survives_kill_9(void **state)
{
	struct fixture f;
	struct user_id user = user_number(1);
	struct progress *progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	fixture_directory(&f);
	for (unsigned round = 0; round < 5; round++) {
		uint64_t goal = progress->acknowledged + 50 + round * 7;
		pid_t child = fork();

		if (child == 0)
			append_forever(&f, &user, progress);
		while (progress->acknowledged < goal)
			assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		f.store = fixture_open(&f);
		check_log(&f, &user, progress->acknowledged);
		store_close(f.store);
	}
	munmap(progress, 4096);
	fixture_remove(&f);
}

/* ---- several processes on one file ---- */

static void two_workers_on_one_file_do_not_lose_an_append(void **state)
{
	enum { EACH = 200 };
	struct fixture f;
	pid_t children[2];
	int status;

	fixture_directory(&f); /* both create and migrate it */
	for (unsigned i = 0; i < 2; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			struct user_id user = user_number(i);
			const char *name = i ? "b" : "a";
			uint64_t epoch;

			f.store = fixture_open(&f);
			epoch = acquire(&f, &user, name, register_worker(&f, name));
			for (uint64_t seq = 1; seq <= EACH; seq++) {
				if (append_one(&f, &user, epoch, seq, "{}") != ERR_OK)
					_exit(1);
			}
			store_close(f.store);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		waitpid(children[i], &status, 0);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	f.store = fixture_open(&f);
	for (unsigned i = 0; i < 2; i++) {
		struct user_id user = user_number(i);

		assert_int_equal(last_seq_of(&f, &user, 1), EACH);
	}
	store_close(f.store);
	fixture_remove(&f);
}

static void a_second_store_on_the_file_fences_the_first(void **state)
{
	struct fixture *f = *state, second = *f;
	struct user_id user = user_number(1);
	uint64_t a = register_worker(f, "a"), epoch = acquire(f, &user, "a", a);

	second.store = fixture_open(f);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK);
	register_worker(&second, "a"); /* the same name: the first incarnation is dead */
	assert_int_equal(acquire(&second, &user, "a", a + 1), epoch + 1);
	assert_int_equal(append_one(f, &user, epoch, 2, "{}"), ERR_FENCED);
	assert_int_equal(append_one(&second, &user, epoch + 1, 2, "{}"), ERR_OK);
	store_close(second.store);
}

static void a_writer_that_is_no_worker_is_waited_for_then_unavailable(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	sqlite3 *other;

	assert_int_equal(sqlite3_open(f->path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_UNAVAILABLE);
	assert_int_equal(last_seq_of(f, &user, epoch), 0); /* reads go on */
	assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(append_one(f, &user, epoch, 1, "{}"), ERR_OK);
	sqlite3_close(other);
}

/* ---- files ---- */

static void run_sql(const char *path, const char *sql)
{
	sqlite3 *handle;

	assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
	assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(handle);
}

static void assert_refused(struct fixture *f, const char *why)
{
	struct store_backend *backend;

	assert_int_equal(store_sqlite_open(f->path, &backend, &f->info), ERR_IO);
	assert_null(backend);
	assert_non_null(strstr(f->info.text, f->path));
	if (!strstr(f->info.text, why))
		fail_msg("\"%s\" does not say \"%s\"", f->info.text, why);
}

static void a_newer_schema_is_refused_and_left_alone(void **state)
{
	struct fixture f;

	fixture_directory(&f);
	store_close(fixture_open(&f));
	run_sql(f.path, "PRAGMA user_version=1000");
	assert_refused(&f, "newer");
	run_sql(f.path, "PRAGMA user_version=2");
	store_close(fixture_open(&f)); /* as before */
	fixture_remove(&f);
}

static void files_that_are_not_ours_are_refused(void **state)
{
	struct fixture f;
	FILE *file;

	fixture_directory(&f);
	run_sql(f.path, "CREATE TABLE recipes(name TEXT)");
	assert_refused(&f, "another program");
	unlink(f.path);
	file = fopen(f.path, "w");
	fputs("these are notes, not a database, and long enough to be taken for one if nobody looked at its first bytes at all",
	      file);
	fclose(file);
	assert_refused(&f, "not a database");
	fixture_remove(&f);
}

static void files_are_for_their_owner_only(void **state)
{
	struct fixture *f = *state;
	static const char *const suffixes[] = {"", "-wal", "-shm", "-lock"};
	char name[160];
	struct stat st;

	register_worker(f, "a");
	for (size_t i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%s%s", f->path, suffixes[i]);
		assert_int_equal(stat(name, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
}

static void the_write_ahead_log_is_checkpointed(void **state)
{
	struct fixture *f = *state;
	struct user_id user = user_number(1);
	uint64_t epoch = acquire(f, &user, "a", register_worker(f, "a"));
	size_t size = 900 << 10;
	char *body = malloc(size), name[160];
	struct event event = {.body = str_of(body, size)};
	struct stat st;

	memset(body, 'x', size);
	for (uint64_t seq = 1; seq <= 60; seq++) {
		struct store_op *op = append_op(&user, epoch, seq, &event, 1);

		assert_int_equal(run_op(f, op), ERR_OK);
		store_op_free(op);
	}
	snprintf(name, sizeof(name), "%s-wal", f->path);
	assert_int_equal(stat(name, &st), 0);
	assert_true(st.st_size < 16 << 20); /* of 54 MiB that went through it */
	free(body);
}

/* ---- how fast, for information ---- */

static unsigned appended;

static void count(struct store_op *op)
{
	assert_int_equal(op->err, ERR_OK);
	appended++;
	store_op_free(op);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void measure(struct fixture *f, unsigned users, unsigned batches)
{
	uint64_t me = register_worker(f, "a");
	struct event event = {
		.body = str_c("{\"type\":\"agent_thinking\",\"seq\":1234,\"run_id\":\"00000000-0000-4000-8000-000000000000\","
	                      "\"thread_id\":\"00000000-0000-4000-8000-000000000000\",\"text\":\"about as long as most\"}")};
	double begin;

	for (unsigned u = 0; u < users; u++) {
		struct user_id user = user_number(u);

		acquire(f, &user, "a", me);
	}
	begin = seconds();
	appended = 0;
	for (unsigned b = 0; b < batches; b++) {
		for (unsigned u = 0; u < users; u++) {
			struct user_id user = user_number(u);
			struct store_op *op = append_op(&user, 1, b + 1, &event, 1);

			op->done = count;
			store_submit(f->store, op);
		}
		store_pump(f->store);
	}
	assert_int_equal(appended, users * batches);
	print_message("%u user(s) a batch: %.0f appends/s\n", users, users * batches / (seconds() - begin));
}

static void appends_per_second_alone(void **state)
{
	measure(*state, 1, 300);
}

static void appends_per_second_of_100_users(void **state)
{
	measure(*state, 100, 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		NAMED(a_commit_that_could_not_be_synced_did_not_happen),
		NAMED(a_full_disk_is_told_and_nothing_of_the_batch_happened),
		NAMED(a_commit_that_failed_but_happened_is_found_out),
		NAMED(a_limit_on_file_sizes_is_a_full_disk),
		cmocka_unit_test(what_was_acknowledged_survives_kill_9),
		cmocka_unit_test(two_workers_on_one_file_do_not_lose_an_append),
		NAMED(a_second_store_on_the_file_fences_the_first),
		NAMED(a_writer_that_is_no_worker_is_waited_for_then_unavailable),
		cmocka_unit_test(a_newer_schema_is_refused_and_left_alone),
		cmocka_unit_test(files_that_are_not_ours_are_refused),
		NAMED(files_are_for_their_owner_only),
		NAMED(the_write_ahead_log_is_checkpointed),
		NAMED(appends_per_second_alone),
		NAMED(appends_per_second_of_100_users),
	};

	return cmocka_run_group_tests(tests, group_set_up, NULL);
}
