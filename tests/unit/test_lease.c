/* test_lease.c - when our own lease holds, and when a rival is dead: on a clock that the test turns, over a real store. */
#include "tests/unit/store_fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include "common/log.h"
#include "common/loop.h"
#include "worker/lease.h"
#include "worker/store/process.h"

enum { TTL = 2000 };

/* ---- a loop whose clock only moves when it is told to ---- */

struct fake_loop {
	struct loop loop;
	uint64_t now;
};

static uint64_t fake_now(struct loop *loop)
{
	return ((struct fake_loop *)loop)->now;
}

static void fake_arm(struct loop *loop, uint64_t due_ms)
{
}

static void fake_defer(struct loop *loop)
{
}

static const struct loop_ops fake_ops = {.now_ms = fake_now, .wall_ms = fake_now, .arm = fake_arm, .defer = fake_defer};

/* A worker: its lease on a loop and a connection of its own, so that each can stand still alone. */
struct party {
	struct fake_loop loop;
	struct store *store;
	struct lease *lease;
	unsigned fenced, began, ceased;
};

static void on_fenced(void *ctx)
{
	struct party *party = ctx;

	party->fenced++;
}

static void on_held(void *ctx, bool holds)
{
	struct party *party = ctx;

	if (holds)
		party->began++;
	else
		party->ceased++;
}

static void party_begin(struct party *party, struct fixture *f, const char *id, bool kill_stale)
{
	const struct lease_config config = {.worker_id = id, .url = "ipc:///run/worker", .ttl_ms = TTL, .kill_stale = kill_stale};
	const struct lease_events events = {.fenced = on_fenced, .held = on_held};

	memset(party, 0, sizeof(*party));
	party->store = fixture_open(f);
	loop_init(&party->loop.loop, &fake_ops);
	party->loop.now = 1000000;
	assert_int_equal(lease_create(&party->loop.loop, party->store, &config, &events, party, &party->lease, &f->info), ERR_OK);
}

static void party_end(struct party *party, bool mark_stopped)
{
	lease_destroy(party->lease, mark_stopped);
	store_close(party->store);
	loop_finish(&party->loop.loop);
}

static void turn(struct party *party)
{
	loop_run_timers(&party->loop.loop);
	while (store_pump(party->store))
		;
	loop_turn_end(&party->loop.loop);
}

/* `ms` pass, with the loop running. */
static void live(struct party *party, unsigned ms)
{
	turn(party);
	for (unsigned i = 0; i < ms; i += 50) {
		party->loop.now += 50;
		turn(party);
	}
}

static void live_both(struct party *a, struct party *b, unsigned ms)
{
	for (unsigned i = 0; i < ms; i += 50) {
		live(a, 50);
		live(b, 50);
	}
}

/* As an acquire that finds the user owned gives it. */
static struct worker_row row_of(struct fixture *f, struct party *viewer, const char *id, struct store_op **op)
{
	*op = store_op_create(STORE_ACQUIRE, &(struct user_id){.s = "usr_000000000001"}, NULL, NULL);
	(*op)->acquire.my_id = str_c("viewer");
	(*op)->acquire.my_incarnation = lease_incarnation(viewer->lease);
	assert_int_equal(store_execute(viewer->store, *op), ERR_MOVED);
	assert_true(str_eq_c((*op)->acquire.owner.id, id));
	return (*op)->acquire.owner;
}

static enum lease_verdict judge(struct fixture *f, struct party *viewer, const char *id)
{
	struct store_op *op;
	struct worker_row row = row_of(f, viewer, id, &op);
	enum lease_verdict verdict = lease_judge(viewer->lease, &row);

	store_op_free(op);
	return verdict;
}

static void own_user(struct party *party, const char *id)
{
	struct store_op *op = store_op_create(STORE_ACQUIRE, &(struct user_id){.s = "usr_000000000001"}, NULL, NULL);

	op->acquire.my_id = str_c(id);
	op->acquire.my_incarnation = lease_incarnation(party->lease);
	assert_int_equal(store_execute(party->store, op), ERR_OK);
	store_op_free(op);
}

static int set_up(void **state)
{
	static struct fixture fixture;

	fixture_directory(&fixture);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state)
{
	fixture_remove(*state);
	return 0;
}

/* ---- our own ---- */

static void it_holds_from_the_first_renewal_on(void **state)
{
	struct party a;

	party_begin(&a, *state, "a", true);
	assert_int_equal(lease_incarnation(a.lease), 1);
	assert_false(lease_holds(a.lease));
	turn(&a);
	assert_true(lease_holds(a.lease));
	live(&a, 10 * TTL);
	assert_true(lease_holds(a.lease));
	assert_int_equal(a.began, 1);
	assert_int_equal(a.ceased, 0);
	party_end(&a, true);
}

static void it_ceases_three_quarters_of_the_ttl_after_the_last_success(void **state)
{
	struct party a;

	party_begin(&a, *state, "a", true);
	turn(&a);
	a.loop.now += TTL * 3 / 4 - 1;
	assert_true(lease_holds(a.lease));
	a.loop.now += 1;
	assert_false(lease_holds(a.lease)); /* before any timer ran: as after SIGCONT */
	loop_run_timers(&a.loop.loop);      /* the store does not answer */
	assert_int_equal(a.ceased, 1);
	turn(&a);
	assert_true(lease_holds(a.lease));
	assert_int_equal(a.began, 2);
	party_end(&a, true);
}

static void another_incarnation_of_our_name_fences_us(void **state)
{
	struct party a, successor;

	party_begin(&a, *state, "a", true);
	turn(&a);
	party_begin(&successor, *state, "a", true);
	assert_int_equal(lease_incarnation(successor.lease), 2);
	live(&a, TTL);
	assert_int_equal(a.fenced, 1);
	assert_int_equal(a.ceased, 1);
	assert_false(lease_holds(a.lease));
	live(&successor, TTL);
	assert_int_equal(successor.fenced, 0);
	party_end(&a, true); /* must not mark the successor as stopped */
	live(&successor, TTL);
	assert_int_equal(successor.fenced, 0);
	party_end(&successor, true);
}

static void it_can_be_destroyed_while_a_renewal_is_under_way(void **state)
{
	struct party a;

	party_begin(&a, *state, "a", true);
	loop_run_timers(&a.loop.loop); /* submitted, not executed */
	party_end(&a, true);
}

/* ---- rivals ---- */

static void a_rival_that_renews_is_alive_for_ever(void **state)
{
	struct party viewer, b;

	party_begin(&b, *state, "b", false);
	party_begin(&viewer, *state, "viewer", false);
	live(&b, 50);
	own_user(&b, "b");
	for (unsigned i = 0; i < 10; i++) {
		live_both(&viewer, &b, TTL / 2);
		assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	}
	party_end(&viewer, true);
	party_end(&b, true);
}

static void a_rival_whose_counter_stands_still_for_a_ttl_is_dead(void **state)
{
	struct party viewer, b;

	party_begin(&b, *state, "b", false);
	party_begin(&viewer, *state, "viewer", false);
	own_user(&b, "b");
	live_both(&viewer, &b, TTL);
	live(&viewer, TTL - 100);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	live(&viewer, TTL / 2 + 100);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_DEAD);
	live(&b, TTL / 4 + 50); /* it was only slow: it renews again, and is alive again */
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	party_end(&viewer, true);
	party_end(&b, true);
}

static void a_rival_first_seen_is_watched_for_a_full_ttl(void **state)
{
	struct party viewer, b;

	party_begin(&b, *state, "b", false);
	turn(&b);
	own_user(&b, "b"); /* and then never again */
	party_begin(&viewer, *state, "viewer", false);
	viewer.loop.now += 100 * TTL; /* another machine's clock says nothing */
	turn(&viewer);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	live(&viewer, TTL - 100);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	live(&viewer, TTL / 2 + 100);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_DEAD);
	party_end(&viewer, true);
	party_end(&b, true);
}

static void a_gap_in_our_own_renewals_restarts_the_watch(void **state)
{
	struct party viewer, b;

	party_begin(&b, *state, "b", false);
	party_begin(&viewer, *state, "viewer", false);
	own_user(&b, "b");
	live_both(&viewer, &b, TTL);
	live(&viewer, TTL / 2);     /* has seen its last counter */
	viewer.loop.now += 3 * TTL; /* we were stopped; so, perhaps, was everybody */
	turn(&viewer);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	live(&viewer, TTL - 100);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	live(&viewer, TTL / 2 + 100);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_DEAD);
	party_end(&viewer, true);
	party_end(&b, true);
}

static void a_rival_that_stopped_is_dead_at_once(void **state)
{
	struct party viewer, b;
	struct store_op *op;
	struct worker_row row;

	party_begin(&b, *state, "b", false);
	party_begin(&viewer, *state, "viewer", false);
	live_both(&viewer, &b, TTL);
	own_user(&b, "b");
	row = row_of(*state, &viewer, "b", &op);
	row.stopped = true;
	assert_int_equal(lease_judge(viewer.lease, &row), LEASE_DEAD);
	store_op_free(op);
	party_end(&viewer, true);
	party_end(&b, true);
}

static void an_incarnation_older_than_the_registered_one_is_dead(void **state)
{
	struct party viewer, b, successor;
	struct store_op *op;
	struct worker_row row;

	party_begin(&b, *state, "b", false);
	party_begin(&viewer, *state, "viewer", false);
	own_user(&b, "b");
	row = row_of(*state, &viewer, "b", &op);
	assert_int_equal(lease_judge(viewer.lease, &row), LEASE_ALIVE);
	party_begin(&successor, *state, "b", false);
	live(&viewer, TTL / 4 + 50);
	assert_int_equal(lease_judge(viewer.lease, &row), LEASE_DEAD);
	store_op_free(op);
	party_end(&viewer, true);
	party_end(&b, true);
	party_end(&successor, true);
}

static void we_are_alive_to_ourselves_and_never_killed(void **state)
{
	struct party viewer, b;
	struct worker_row row = {.id = str_c("viewer"), .incarnation = 1};

	party_begin(&b, *state, "b", true); /* in this very process */
	party_begin(&viewer, *state, "viewer", true);
	assert_int_equal(lease_judge(viewer.lease, &row), LEASE_ALIVE);
	row.incarnation = 0;
	assert_int_equal(lease_judge(viewer.lease, &row), LEASE_DEAD);
	own_user(&b, "b");
	live(&viewer, 2 * TTL);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_DEAD); /* by its counter; and here we are */
	party_end(&viewer, true);
	party_end(&b, true);
}

/* ---- processes ---- */

/* A child that registers as b, owns the user, and then stops itself. */
static pid_t stopped_rival(struct fixture *f)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct party b;

		party_begin(&b, f, "b", true);
		turn(&b);
		own_user(&b, "b");
		store_close(b.store); /* what a stopped process holds is another test's */
		raise(SIGSTOP);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, WUNTRACED), child);
	assert_true(WIFSTOPPED(status));
	return child;
}

static void wait_for_death(struct fixture *f, struct party *viewer)
{
	struct timespec now, begin;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (judge(f, viewer, "b") != LEASE_DEAD) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		assert_true(now.tv_sec - begin.tv_sec < 10);
	}
}

static void a_stale_process_of_this_machine_is_killed_first(void **state)
{
	pid_t child = stopped_rival(*state);
	struct party viewer;
	int status;

	party_begin(&viewer, *state, "viewer", true);
	live(&viewer, TTL / 2);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_ALIVE);
	assert_int_equal(waitpid(child, &status, WNOHANG), 0); /* not before it is stale */
	live(&viewer, TTL);
	wait_for_death(*state, &viewer);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
	party_end(&viewer, true);
}

static void a_process_that_is_gone_is_dead_at_once(void **state)
{
	pid_t child = stopped_rival(*state);
	struct party viewer;

	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	party_begin(&viewer, *state, "viewer", true);
	assert_int_equal(judge(*state, &viewer, "b"), LEASE_DEAD);
	party_end(&viewer, true);
}

static void a_process_elsewhere_is_only_watched(void **state)
{
	pid_t child = stopped_rival(*state);
	struct party viewer;
	struct store_op *op;
	struct worker_row row;

	party_begin(&viewer, *state, "viewer", true);
	row = row_of(*state, &viewer, "b", &op);
	row.process.boot_id[0] ^= 1; /* the same PID on another machine */
	live(&viewer, 2 * TTL);
	assert_int_equal(lease_judge(viewer.lease, &row), LEASE_DEAD);
	assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
	store_op_free(op);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	party_end(&viewer, true);
}

static void a_pid_used_again_is_not_taken_for_the_process(void **state)
{
	struct process_identity self;

	process_self(&self);
	assert_int_equal(process_look(&self), PROCESS_RUNNING);
	assert_int_equal(process_kill(&self, 0), PROCESS_ELSEWHERE); /* and here we are */
	self.start_time++;
	assert_int_equal(process_look(&self), PROCESS_GONE);
	assert_int_equal(process_kill(&self, 0), PROCESS_GONE);
	self.start_time--;
	self.pid_namespace[0] ^= 1;
	assert_int_equal(process_look(&self), PROCESS_ELSEWHERE);
}

int main(void)
{
#define NAMED(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		NAMED(it_holds_from_the_first_renewal_on),
		NAMED(it_ceases_three_quarters_of_the_ttl_after_the_last_success),
		NAMED(another_incarnation_of_our_name_fences_us),
		NAMED(it_can_be_destroyed_while_a_renewal_is_under_way),
		NAMED(a_rival_that_renews_is_alive_for_ever),
		NAMED(a_rival_whose_counter_stands_still_for_a_ttl_is_dead),
		NAMED(a_rival_first_seen_is_watched_for_a_full_ttl),
		NAMED(a_gap_in_our_own_renewals_restarts_the_watch),
		NAMED(a_rival_that_stopped_is_dead_at_once),
		NAMED(an_incarnation_older_than_the_registered_one_is_dead),
		NAMED(we_are_alive_to_ourselves_and_never_killed),
		NAMED(a_stale_process_of_this_machine_is_killed_first),
		NAMED(a_process_that_is_gone_is_dead_at_once),
		NAMED(a_process_elsewhere_is_only_watched),
		cmocka_unit_test(a_pid_used_again_is_not_taken_for_the_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
