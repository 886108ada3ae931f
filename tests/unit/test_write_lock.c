/* test_write_lock.c - writers of several processes take turns, and none is left out. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "worker/store/write_lock.h"

enum { WRITERS = 3, TURNS = 500 };

/* Shared by the processes of one test. */
struct shared {
	_Atomic uint64_t turns; /* taken by all */
	_Atomic int inside, ready;
	_Atomic bool collided, go;
	_Atomic uint64_t worst_wait[WRITERS]; /* in turns of the others */
	_Atomic uint64_t taken[WRITERS];
};

static char directory[64], path[128];
static struct shared *shared;

static int set_up(void **state)
{
	strcpy(directory, "/tmp/write-lock-XXXXXX");
	if (!mkdtemp(directory))
		return -1;
	snprintf(path, sizeof(path), "%s/lock", directory);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED ? -1 : 0;
}

static int tear_down(void **state)
{
	munmap(shared, sizeof(*shared));
	unlink(path);
	return rmdir(directory);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct write_lock *open_lock(void)
{
	struct write_lock *lock;
	struct err_info info;

	assert_int_equal(write_lock_open(path, &lock, &info), ERR_OK);
	return lock;
}

static void wait_until(bool (*holds)(void))
{
	uint64_t deadline = now_ms() + 20000;

	while (!holds()) {
		assert_true(now_ms() < deadline);
		sched_yield();
	}
}

static bool all_ready(void)
{
	return shared->ready == WRITERS;
}

static bool one_inside(void)
{
	return shared->inside == 1;
}

static void take_turn(struct write_lock *lock, int me)
{
	const struct timespec commit = {.tv_nsec = 200000}; /* waits for a disk */
	uint64_t before = shared->turns, waited;

	if (write_lock_acquire(lock, 20000, NULL) != ERR_OK)
		_exit(2);
	waited = shared->turns - before;
	if (waited > shared->worst_wait[me])
		shared->worst_wait[me] = waited;
	if (atomic_fetch_add(&shared->inside, 1) != 0)
		shared->collided = true;
	shared->turns++;
	nanosleep(&commit, NULL);
	atomic_fetch_sub(&shared->inside, 1);
	write_lock_release(lock);
}

static void writer(int me)
{
	struct write_lock *lock = open_lock();

	shared->ready++;
	while (!shared->go)
		sched_yield();
	while (shared->turns < TURNS * WRITERS) {
		take_turn(lock, me);
		shared->taken[me]++;
	}
	write_lock_close(lock);
	_exit(0);
}

static void saturating_writers_share_evenly_and_never_meet(void **state)
{
	pid_t children[WRITERS];
	int status;

	for (int i = 0; i < WRITERS; i++) {
		children[i] = fork();
		if (children[i] == 0)
			writer(i);
	}
	wait_until(all_ready);
	shared->go = true;
	for (int i = 0; i < WRITERS; i++) {
		waitpid(children[i], &status, 0);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		print_message("writer %d: %lu turns, waited for at most %lu\n", i, (unsigned long)shared->taken[i],
		              (unsigned long)shared->worst_wait[i]);
	}
	assert_false(shared->collided);
	for (int i = 0; i < WRITERS; i++) {
		assert_in_range(shared->taken[i], TURNS * 8 / 10, TURNS * 12 / 10);
		assert_true(shared->worst_wait[i] <= 50); /* of 1,500; by polling it would be hundreds */
	}
}

static void a_dead_holder_leaves_the_lock(void **state)
{
	struct write_lock *lock = open_lock();
	pid_t child = fork();

	if (child == 0) {
		struct write_lock *own = open_lock();

		if (write_lock_acquire(own, 1000, NULL) == ERR_OK)
			shared->inside = 1;
		pause();
	}
	wait_until(one_inside);
	kill(child, SIGKILL);
	assert_int_equal(write_lock_acquire(lock, 10000, NULL), ERR_OK);
	waitpid(child, NULL, 0);
	write_lock_close(lock);
}

static void a_stopped_holder_is_ended(void **state)
{
	struct write_lock *lock = open_lock();
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct write_lock *own = open_lock();

		if (write_lock_acquire(own, 1000, NULL) == ERR_OK)
			shared->inside = 1;
		raise(SIGSTOP);
		_exit(0);
	}
	wait_until(one_inside);
	waitpid(child, &status, WUNTRACED);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(write_lock_acquire(lock, 10000, NULL), ERR_OK);
	waitpid(child, &status, 0);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
	write_lock_close(lock);
}

static void a_running_holder_is_waited_for_until_the_timeout(void **state)
{
	struct write_lock *holder = open_lock(), *waiter = open_lock();
	struct err_info info = {0};

	assert_int_equal(write_lock_acquire(holder, 0, NULL), ERR_OK);
	assert_int_equal(write_lock_acquire(waiter, 600, &info), ERR_TIMEOUT);
	assert_non_null(strstr(info.text, "keeps the store's write lock"));
	write_lock_release(holder);
	assert_int_equal(write_lock_acquire(waiter, 0, NULL), ERR_OK);
	write_lock_close(waiter);
	write_lock_close(holder);
}

static void the_file_is_for_its_owner_only(void **state)
{
	struct write_lock *lock = open_lock();
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	write_lock_close(lock);
	write_lock_close(NULL);
}

static void a_missing_directory_is_told(void **state)
{
	struct write_lock *lock;
	struct err_info info = {0};

	assert_int_equal(write_lock_open("/tmp/no-such-directory-here/lock", &lock, &info), ERR_IO);
	assert_non_null(strstr(info.text, "/tmp/no-such-directory-here/lock"));
	assert_null(lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_file_is_for_its_owner_only, set_up, tear_down),
		cmocka_unit_test(a_missing_directory_is_told),
		cmocka_unit_test_setup_teardown(saturating_writers_share_evenly_and_never_meet, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_dead_holder_leaves_the_lock, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_stopped_holder_is_ended, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_running_holder_is_waited_for_until_the_timeout, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
