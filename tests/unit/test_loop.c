#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/loop_uv.h"

#define TIMERS 500

/* A loop on a clock that the test sets. */
static struct fake {
	struct loop loop;
	uint64_t now, armed;
	unsigned deferred;
} fake;

static uint64_t fake_now(struct loop *loop)
{
	return fake.now;
}

static void fake_arm(struct loop *loop, uint64_t due_ms)
{
	fake.armed = due_ms;
}

static void fake_defer(struct loop *loop)
{
	fake.deferred++;
}

static const struct loop_ops fake_ops = {.now_ms = fake_now, .wall_ms = fake_now, .arm = fake_arm, .defer = fake_defer};

static int fake_setup(void **state)
{
	fake = (struct fake){.now = 1000, .armed = UINT64_MAX};
	loop_init(&fake.loop, &fake_ops);
	return 0;
}

static int fake_teardown(void **state)
{
	loop_finish(&fake.loop);
	return 0;
}

static uint64_t fired[TIMERS * 4];
static size_t n_fired;

static void on_fire(struct timer *timer)
{
	assert_false(timer_is_set(timer));
	assert_true(timer->due_ms <= fake.now);
	fired[n_fired++] = timer->due_ms;
}

/* Lets the clock jump from one due time to the next until nothing is set. */
static void run_all(void)
{
	while (fake.loop.heap_len > 0) {
		assert_true(fake.armed == fake.loop.heap[0]->due_ms);
		if (fake.armed > fake.now)
			fake.now = fake.armed;
		loop_run_timers(&fake.loop);
	}
	assert_true(fake.armed == UINT64_MAX);
}

static void timers_fire_once_in_order_of_their_time(void **state)
{
	static struct timer timers[TIMERS];
	unsigned x = 7;

	n_fired = 0;
	memset(timers, 0, sizeof(timers));
	for (int i = 0; i < TIMERS; i++) {
		x = x * 1103515245 + 12345;
		timers[i].fn = on_fire;
		timer_set(&fake.loop, &timers[i], x >> 16 & 1023);
	}
	run_all();
	assert_int_equal(n_fired, TIMERS);
	for (size_t i = 1; i < n_fired; i++)
		assert_true(fired[i - 1] <= fired[i]);
}

static void random_setting_and_cancelling_keeps_the_order(void **state)
{
	static struct timer timers[TIMERS];
	unsigned x = 99;
	size_t set = 0;

	n_fired = 0;
	memset(timers, 0, sizeof(timers));
	for (int i = 0; i < TIMERS * 8; i++) {
		struct timer *t = &timers[(x = x * 1103515245 + 12345) >> 16 & 255];

		t->fn = on_fire;
		if ((x >> 8 & 3) == 0)
			timer_cancel(&fake.loop, t);
		else
			timer_set(&fake.loop, t, x >> 20);
		assert_int_equal(timer_is_set(t), (x >> 8 & 3) != 0);
	}
	for (int i = 0; i < TIMERS; i++)
		set += timer_is_set(&timers[i]);
	assert_int_equal(set, fake.loop.heap_len);
	run_all();
	assert_int_equal(n_fired, set);
	for (size_t i = 1; i < n_fired; i++)
		assert_true(fired[i - 1] <= fired[i]);
}

static void timer_that_is_set_again_moves(void **state)
{
	struct timer timer = {.fn = on_fire};

	n_fired = 0;
	timer_set(&fake.loop, &timer, 10);
	assert_true(fake.armed == 1010);
	timer_set(&fake.loop, &timer, 50);
	assert_true(fake.armed == 1050);
	fake.now = 1049;
	loop_run_timers(&fake.loop);
	assert_int_equal(n_fired, 0);
	fake.now = 1050;
	loop_run_timers(&fake.loop);
	assert_int_equal(n_fired, 1);
	timer_cancel(&fake.loop, &timer);
}

static void farthest_future_does_not_wrap(void **state)
{
	struct timer timer = {.fn = on_fire};

	timer_set(&fake.loop, &timer, UINT64_MAX);
	assert_true(timer.due_ms > 1000);
	timer_cancel(&fake.loop, &timer);
	assert_true(fake.armed == UINT64_MAX);
}

static int again_runs;

static void on_again(struct timer *timer)
{
	again_runs++;
	timer_set(&fake.loop, timer, 0);
}

static void timer_that_sets_itself_does_not_hold_the_loop(void **state)
{
	struct timer timer = {.fn = on_again};

	again_runs = 0;
	timer_set(&fake.loop, &timer, 0);
	loop_run_timers(&fake.loop);
	assert_int_equal(again_runs, 1);
	assert_true(fake.armed == fake.now);
	timer_cancel(&fake.loop, &timer);
}

static void finish_forgets_timers_and_tasks(void **state)
{
	struct timer timer = {.fn = on_fire};
	struct task task = {0};

	n_fired = 0;
	timer_set(&fake.loop, &timer, 5);
	task_defer(&fake.loop, &task);
	loop_finish(&fake.loop);
	assert_false(timer_is_set(&timer));
	assert_false(task.queued);
	assert_int_equal(n_fired, 0);
}

static char trace[64];

static void note(char c)
{
	size_t n = strlen(trace);

	assert_true(n + 1 < sizeof(trace));
	trace[n] = c;
	trace[n + 1] = 0;
}

static struct task task_a, task_b, task_c;

static void run_a(struct task *task)
{
	note('a');
}

static void run_b(struct task *task)
{
	note('b');
	if (strlen(trace) < 4)
		task_defer(&fake.loop, &task_b);
	task_cancel(&fake.loop, &task_c);
}

static void run_c(struct task *task)
{
	note('c');
}

static void tasks_run_once_in_order_with_those_they_add(void **state)
{
	trace[0] = 0;
	task_a = (struct task){.fn = run_a};
	task_b = (struct task){.fn = run_b};
	task_c = (struct task){.fn = run_c};
	task_defer(&fake.loop, &task_a);
	task_defer(&fake.loop, &task_b);
	task_defer(&fake.loop, &task_a);
	task_defer(&fake.loop, &task_c);
	assert_int_equal(fake.deferred, 1);
	loop_turn_end(&fake.loop);
	assert_string_equal(trace, "abbb");
	loop_turn_end(&fake.loop);
	assert_string_equal(trace, "abbb");
}

static void cancelled_task_does_not_run_and_the_queue_goes_on(void **state)
{
	trace[0] = 0;
	task_a = (struct task){.fn = run_a};
	task_c = (struct task){.fn = run_c};
	task_defer(&fake.loop, &task_a);
	task_defer(&fake.loop, &task_c);
	task_cancel(&fake.loop, &task_c);
	task_cancel(&fake.loop, &task_c);
	task_defer(&fake.loop, &task_c);
	task_cancel(&fake.loop, &task_a);
	loop_turn_end(&fake.loop);
	assert_string_equal(trace, "c");
}

/* The production loop. */
static struct real {
	uv_loop_t uv;
	struct loop_uv loop;
	struct mailbox mailbox;
	struct timer timer, late;
	struct task task;
	uv_timer_t uv_timer;
	uv_async_t async;
	uv_prepare_t prepare;
	pthread_t thread;
	uint64_t started;
	unsigned letters, hops;
} real;

static void on_late(struct timer *timer)
{
	fail_msg("the loop blocked although work was queued");
}

static int real_setup(void **state)
{
	memset(&real, 0, sizeof(real));
	trace[0] = 0;
	uv_loop_init(&real.uv);
	loop_uv_init(&real.loop, &real.uv);
	real.late.fn = on_late;
	timer_set(&real.loop.loop, &real.late, 20000);
	return 0;
}

static int real_teardown(void **state)
{
	loop_uv_close(&real.loop);
	loop_uv_close(&real.loop);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&real.uv), 0);
	return 0;
}

static void done(struct task *task)
{
	note('d');
	timer_cancel(&real.loop.loop, &real.late);
	uv_stop(&real.uv);
}

static void defer_done(void)
{
	note('x');
	real.task.fn = done;
	task_defer(&real.loop.loop, &real.task);
}

static void on_timer(struct timer *timer)
{
	assert_true(loop_now(&real.loop.loop) >= timer->due_ms);
	defer_done();
}

static void work_deferred_by_a_loop_timer_runs_without_blocking(void **state)
{
	real.timer.fn = on_timer;
	timer_set(&real.loop.loop, &real.timer, 5);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_string_equal(trace, "xd");
}

static void on_uv_timer(uv_timer_t *handle)
{
	defer_done();
	uv_close((uv_handle_t *)handle, NULL);
}

static void work_deferred_by_a_uv_timer_runs_without_blocking(void **state)
{
	uv_timer_init(&real.uv, &real.uv_timer);
	uv_timer_start(&real.uv_timer, on_uv_timer, 5, 0);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_string_equal(trace, "xd");
}

static void on_async_closed(uv_handle_t *handle)
{
	defer_done();
}

static void on_async(uv_async_t *handle)
{
	uv_close((uv_handle_t *)handle, on_async_closed);
}

static void work_deferred_by_a_close_callback_runs_without_blocking(void **state)
{
	uv_async_init(&real.uv, &real.async, on_async);
	uv_async_send(&real.async);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_string_equal(trace, "xd");
}

static void work_deferred_before_the_loop_runs_is_served(void **state)
{
	defer_done();
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_string_equal(trace, "xd");
}

static void loop_that_has_nothing_to_do_returns(void **state)
{
	timer_cancel(&real.loop.loop, &real.late);
	assert_int_equal(uv_run(&real.uv, UV_RUN_DEFAULT), 0);
}

static void on_idle_end(struct timer *timer)
{
	uv_stop(&real.uv);
}

static void on_prepare(uv_prepare_t *handle)
{
	real.hops++;
}

static void loop_sleeps_once_its_tasks_are_done(void **state)
{
	uv_prepare_init(&real.uv, &real.prepare);
	uv_prepare_start(&real.prepare, on_prepare);
	real.task.fn = run_a;
	task_defer(&real.loop.loop, &real.task);
	real.timer.fn = on_idle_end;
	timer_set(&real.loop.loop, &real.timer, 50);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_string_equal(trace, "a");
	assert_in_range(real.hops, 1, 10);
	timer_cancel(&real.loop.loop, &real.late);
	uv_close((uv_handle_t *)&real.prepare, NULL);
}

#define LETTERS 20000

struct numbered {
	struct letter letter;
	unsigned number;
};

static void on_letter(struct letter *letter)
{
	struct numbered *n = (struct numbered *)letter;

	assert_int_equal(n->number, real.letters);
	real.letters++;
	free(n);
	if (real.letters == LETTERS)
		defer_done();
}

static void *poster(void *arg)
{
	for (unsigned i = 0; i < LETTERS; i++) {
		struct numbered *n = malloc(sizeof(*n));

		*n = (struct numbered){.letter.deliver = on_letter, .number = i};
		mailbox_post(&real.mailbox, &n->letter);
	}
	return NULL;
}

static void letters_of_another_thread_arrive_all_and_in_order(void **state)
{
	mailbox_init(&real.mailbox, &real.uv);
	assert_int_equal(pthread_create(&real.thread, NULL, poster, NULL), 0);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	pthread_join(real.thread, NULL);
	assert_int_equal(real.letters, LETTERS);
	mailbox_close(&real.mailbox);
}

static void on_slow_letter(struct letter *letter)
{
	uint64_t end = uv_hrtime() + 2000000;

	while (uv_hrtime() < end)
		;
	on_letter(letter);
}

static void on_between(struct timer *timer)
{
	real.hops += real.letters > 0 && real.letters < 100;
}

/* Each is 2 ms of work: whoever else waits for the loop must not wait for all of them. */
static void a_mailbox_full_of_work_does_not_keep_the_loop_from_others(void **state)
{
	mailbox_init(&real.mailbox, &real.uv);
	for (unsigned i = 0; i < 100; i++) {
		struct numbered *n = malloc(sizeof(*n));

		*n = (struct numbered){.letter.deliver = on_slow_letter, .number = i};
		mailbox_post(&real.mailbox, &n->letter);
	}
	real.timer.fn = on_between;
	timer_set(&real.loop.loop, &real.timer, 20);
	while (real.letters < 100)
		uv_run(&real.uv, UV_RUN_ONCE);
	mailbox_close(&real.mailbox);
	assert_int_equal(real.hops, 1);
}

static void closing_a_mailbox_delivers_what_is_left(void **state)
{
	mailbox_init(&real.mailbox, &real.uv);
	poster(NULL);
	assert_int_equal(real.letters, 0);
	mailbox_close(&real.mailbox);
	assert_int_equal(real.letters, LETTERS);
	mailbox_close(&real.mailbox);
	uv_run(&real.uv, UV_RUN_DEFAULT);
}

static struct letter closing;

static void on_closing_letter(struct letter *letter)
{
	mailbox_close(&real.mailbox);
	defer_done();
}

static void letter_may_close_its_mailbox(void **state)
{
	mailbox_init(&real.mailbox, &real.uv);
	closing.deliver = on_closing_letter;
	mailbox_post(&real.mailbox, &closing);
	uv_run(&real.uv, UV_RUN_DEFAULT);
	assert_string_equal(trace, "xd");
}

static void clocks_are_of_this_time(void **state)
{
	uint64_t before = loop_now(&real.loop.loop);

	assert_true(loop_now(&real.loop.loop) >= before);
	assert_true(loop_wall(&real.loop.loop) > UINT64_C(1600000000000));
}

#define FAKE(test) cmocka_unit_test_setup_teardown(test, fake_setup, fake_teardown)
#define REAL(test) cmocka_unit_test_setup_teardown(test, real_setup, real_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAKE(timers_fire_once_in_order_of_their_time),
		FAKE(random_setting_and_cancelling_keeps_the_order),
		FAKE(timer_that_is_set_again_moves),
		FAKE(farthest_future_does_not_wrap),
		FAKE(timer_that_sets_itself_does_not_hold_the_loop),
		FAKE(finish_forgets_timers_and_tasks),
		FAKE(tasks_run_once_in_order_with_those_they_add),
		FAKE(cancelled_task_does_not_run_and_the_queue_goes_on),
		REAL(work_deferred_by_a_loop_timer_runs_without_blocking),
		REAL(work_deferred_by_a_uv_timer_runs_without_blocking),
		REAL(work_deferred_by_a_close_callback_runs_without_blocking),
		REAL(work_deferred_before_the_loop_runs_is_served),
		REAL(loop_that_has_nothing_to_do_returns),
		REAL(loop_sleeps_once_its_tasks_are_done),
		REAL(letters_of_another_thread_arrive_all_and_in_order),
		REAL(a_mailbox_full_of_work_does_not_keep_the_loop_from_others),
		REAL(closing_a_mailbox_delivers_what_is_left),
		REAL(letter_may_close_its_mailbox),
		REAL(clocks_are_of_this_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
