/* test_gateway_core.c - sessions, feeds, links: one behaviour each, in the world of gateway_world.h. */
#include "tests/unit/gateway_world.h"

static struct w_user *alice(void)
{
	return &w->users[0];
}

static int begin(void **state)
{
	w_begin(1, 2);
	return 0;
}

static int begin_one_worker(void **state)
{
	w_begin(1, 1);
	return 0;
}

static int end(void **state)
{
	w_end();
	return 0;
}

/* ---- welcome, resume ---- */

static void welcome_says_what_the_log_has(void **state)
{
	w_commit(alice(), "run_accepted", "", NULL, NULL);
	w_commit(alice(), "agent_started", "", NULL, NULL);
	struct conn *c = c_open(0);
	w_run(100);
	assert_true(c->welcomed);
	assert_false(c->resumed);
	assert_int_equal(c->welcome_last, 2);
	assert_int_equal(c->welcome_earliest, 1);
	assert_string_equal(c->welcome_worker, w->workers[w->users[0].owner].id);
	assert_int_equal(c->events, 0);
	json_t *j = json_loads(c->last_frame, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(j, "protocol")), "pinion.v1");
	assert_string_equal(json_string_value(json_object_get(j, "user_id")), alice()->name);
	assert_int_equal(json_integer_value(json_object_get(j, "heartbeat_s")), 25);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "limits"), "queued_runs")), 64);
	json_decref(j);
}

static void event_reaches_every_tab_once(void **state)
{
	struct conn *a = c_open(0), *b = c_open(0), *other = c_open(1);
	w_run(100);
	for (int i = 0; i < 5; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(a->events, 5);
	assert_int_equal(b->events, 5);
	assert_int_equal(other->events, 0);
}

static void resume_gets_exactly_what_is_behind_last_seq(void **state)
{
	for (int i = 0; i < 10; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	struct conn *c = c_resume(0, 4);
	w_run(100);
	assert_true(c->resumed);
	assert_int_equal(c->events, 6);
	assert_int_equal(c->cursor, 10);
	struct conn *whole = c_resume(0, 0);
	w_run(100);
	assert_true(whole->resumed);
	assert_int_equal(whole->events, 10);
}

static void resume_outside_of_what_is_kept_is_not_resumed(void **state)
{
	for (int i = 0; i < 10; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	alice()->earliest = 5;
	struct conn *before = c_resume(0, 3), *first = c_resume(0, 4), *last = c_resume(0, 10), *beyond = c_resume(0, 11);
	w_run(300);
	assert_false(before->resumed);
	assert_int_equal(before->events, 0);
	assert_true(first->resumed);
	assert_int_equal(first->events, 6);
	assert_true(last->resumed);
	assert_true(beyond->welcomed);
	assert_false(beyond->resumed);
	assert_int_equal(beyond->welcome_last, 10);
}

static void resume_beyond_what_this_gateway_knows_asks_the_log(void **state)
{
	c_open(0);
	w_run(100);
	w->lose = 1000; /* the gateway hears nothing of these */
	for (int i = 0; i < 3; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 0;
	struct conn *c = c_resume(0, 2);
	w_run(100);
	assert_true(c->resumed);
	assert_int_equal(c->events, 1);
	assert_int_equal(c->cursor, 3);
}

static void reader_behind_retention_is_told_to_start_anew(void **state)
{
	struct conn *c = c_open(0);
	w->config.outbox_bytes = 1000;
	w_run(100);
	c->stalled = true;
	for (int i = 0; i < 200; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	alice()->earliest = 150;
	c->stalled = false;
	w_run(500);
	assert_int_equal(c->close_code, CLOSE_TRY_LATER);
	assert_string_equal(c->reason, "behind_retention");
}

static void events_that_left_the_log_unseen_close_those_who_lack_them(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	for (int i = 0; i < 5; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	alice()->earliest = 4;
	w->lose = 0;
	w_run(500);
	assert_int_equal(c->close_code, CLOSE_TRY_LATER);
	assert_string_equal(c->reason, "behind_retention");
	struct conn *next = c_resume(0, 3);
	w_run(50);
	assert_true(next->resumed);
	assert_int_equal(next->events, 2);
}

/* ---- exactly next ---- */

static void publish_event(uint64_t seq, uint64_t epoch)
{
	struct item item = {.user_id = str_c(alice()->name),
	                    .epoch = epoch,
	                    .kind = ITEM_EVENT,
	                    .event = w_event_view(alice(), seq)};

	w_publish(&w->workers[alice()->owner], &item, 1);
}

static void lost_publication_is_fetched_from_the_log(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 1000;
	w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 0;
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(50);
	assert_int_equal(c->events, 3);
}

static void lost_tail_shows_by_the_next_beat(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 0;
	assert_int_equal(c->events, 0);
	w_run(300);
	assert_int_equal(c->events, 1);
}

static void doubled_and_reordered_events_come_once_in_order(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	for (int i = 0; i < 4; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 0;
	uint64_t epoch = alice()->epoch;
	publish_event(2, epoch);
	publish_event(1, epoch);
	publish_event(1, epoch);
	publish_event(4, epoch);
	publish_event(3, epoch);
	publish_event(2, epoch);
	w_run(300);
	assert_int_equal(c->events, 4);
}

static void item_of_a_lower_epoch_is_dropped(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 0;
	w->workers[alice()->owner].number--; /* so that no beat gives it away */
	publish_event(1, alice()->epoch - 1);
	w_run(5);
	assert_int_equal(c->events, 0);
	publish_event(1, alice()->epoch);
	w_run(5);
	assert_int_equal(c->events, 1);
}

static void item_of_a_higher_epoch_attaches_anew(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	unsigned before = w->workers[alice()->owner].attaches;
	w_commit(alice(), "tick", "", NULL, NULL);
	alice()->epoch++;
	publish_event(1, alice()->epoch);
	w_run(200);
	assert_int_equal(w->workers[alice()->owner].attaches, before + 1);
	assert_int_equal(c->events, 1);
}

/* The worker that was overtaken has not noticed, and would take the user's tabs in again. */
static void owner_of_a_lower_epoch_is_not_gone_back_to(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	w_commit(alice(), "tick", "", NULL, NULL);
	publish_event(1, alice()->epoch + 1);
	w_run(200);
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(200);
	assert_int_equal(c->events, 1);
	alice()->epoch++;
	w_run(2000);
	assert_int_equal(c->events, 2);
}

static void head_makes_the_gateway_ask(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	w_commit(alice(), "tick", "", NULL, NULL);
	w->lose = 0;
	w->workers[alice()->owner].number--;
	struct item item = {.kind = ITEM_HEAD, .head.last_seq = 1};
	w_publish_item(alice(), &item);
	w_run(5);
	assert_int_equal(c->events, 1);
}

static void head_of_nothing_is_asked_once(void **state)
{
	c_open(0);
	w_run(100);
	unsigned before = w->workers[alice()->owner].replays;
	struct item item = {.kind = ITEM_HEAD, .head.last_seq = 1000};
	w_publish_item(alice(), &item);
	w_run(3000);
	assert_in_range(w->workers[alice()->owner].replays - before, 1, 3);
}

static void publication_that_is_garbage_is_dropped(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->transport.on_publication(w->transport.ctx, str_c("\xff\xff\xff garbage"));
	w->transport.on_publication(w->transport.ctx, (struct str){0});
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(c->events, 1);
}

/* ---- text ---- */

static void streamed_text_joins_to_the_message(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w_commit(alice(), "agent_started", "", NULL, NULL);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "Gr\xc3\xbc\xc3\x9f ");
	w_stream(alice(), m, "Gott");
	w_run(10);
	assert_int_equal(c->deltas, 2);
	w_message_close(alice(), m);
	w_run(10);
	assert_int_equal(c->events, 2);
	assert_int_equal(c_text(c, m->id)->text.n, 11);
	assert_true(c_text(c, m->id)->closed);
}

static void new_connection_gets_open_messages_from_their_start(void **state)
{
	struct conn *first = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "one ");
	w_stream(alice(), m, "two ");
	w_run(10);
	struct conn *c = c_open(0);
	w_run(10);
	assert_int_equal(c->deltas, 1);
	w_stream(alice(), m, "three");
	w_run(10);
	assert_int_equal(c_text(c, m->id)->text.n, 13);
	assert_int_equal(c_text(first, m->id)->text.n, 13);
}

static void open_message_is_learnt_at_attach(void **state)
{
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "said before anyone came");
	alice()->owner = 0;
	alice()->epoch = 1;
	struct conn *c = c_open(0);
	w_run(100);
	assert_int_equal(c_text(c, m->id)->text.n, m->text.n);
}

static void lost_delta_is_fetched_by_offset(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "a");
	w->lose = 1000;
	w_stream(alice(), m, "b");
	w->lose = 0;
	w_stream(alice(), m, "c");
	w_run(20);
	assert_int_equal(c_text(c, m->id)->text.n, 3);
}

static void overlapping_and_doubled_deltas_are_cut(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "abcdef");
	w_run(5);
	buf_append_c(&m->text, "ghi");
	m->after[6] = m->after[7] = m->after[8] = alice()->last;
	w_publish_delta(alice(), m, 0, str_of(m->text.p, 6));
	w_publish_delta(alice(), m, 3, str_of(m->text.p + 3, 6));
	w_run(5);
	assert_int_equal(c_text(c, m->id)->text.n, 9);
	assert_int_equal(c->deltas, 2);
}

static void missing_rest_comes_before_the_closing_event(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "seen ");
	w->lose = 1000;
	w_stream(alice(), m, "and lost");
	w->lose = 0;
	w->workers[alice()->owner].number--;
	w_message_close(alice(), m);
	w_run(20);
	assert_int_equal(c->events, 1);
	assert_int_equal(c->deltas, 2);
	assert_int_equal(c_text(c, m->id)->text.n, 13);
}

static void message_that_nothing_was_seen_of_comes_without_deltas(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w->lose = 1000;
	w_stream(alice(), m, "lost");
	w->lose = 0;
	w->workers[alice()->owner].number--;
	w_message_close(alice(), m);
	w_run(20);
	assert_int_equal(c->events, 1);
	assert_int_equal(c->deltas, 0);
}

static void message_whose_end_is_being_committed_keeps_what_was_shown(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "seen ");
	w_run(5);
	m->open = false; /* the log lists it no more, and has no event of it yet */
	struct item item = {.kind = ITEM_HEAD, .head.last_seq = alice()->last};
	w_publish_item(alice(), &item);
	w_run(50);
	w->lose = 1000;
	w_stream(alice(), m, "and lost");
	w->lose = 0;
	w_message_close(alice(), m);
	w_run(50);
	assert_int_equal(c->events, 1);
	assert_int_equal(c_text(c, m->id)->text.n, 13);
	unsigned before = w->workers[alice()->owner].replays;
	w_run(3000);
	assert_int_equal(w->workers[alice()->owner].replays, before);
}

static void text_waits_for_the_event_it_comes_after(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	w_commit(alice(), "agent_started", "", NULL, NULL);
	w->lose = 0;
	w->workers[alice()->owner].number--;
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "early"); /* the connection checks that the event came before */
	w_run(20);
	assert_int_equal(c->events, 1);
	assert_int_equal(c->deltas, 1);
}

static void delta_of_a_closed_message_is_ignored(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "all of it");
	w_message_close(alice(), m);
	w_run(5);
	w_publish_delta(alice(), m, 0, buf_str(&m->text));
	w_run(50);
	assert_int_equal(c->deltas, 1);
}

static void delta_of_a_message_closed_long_ago_is_ignored(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *first = w_message_open(alice(), NULL);
	w_stream(alice(), first, "all of it");
	w_message_close(alice(), first);
	for (int i = 0; i < 100; i++) {
		struct w_message *m = w_message_open(alice(), NULL);
		w_stream(alice(), m, "x");
		w_message_close(alice(), m);
	}
	w_run(5);
	w_publish_delta(alice(), first, 0, buf_str(&first->text));
	w_run(50);
	assert_int_equal(c->deltas, 101);
	assert_int_equal(c->events, 101);
	unsigned before = w->workers[alice()->owner].replays;
	w_run(3000);
	assert_int_equal(w->workers[alice()->owner].replays, before); /* the log was asked once, and believed */
}

static void recovered_run_voids_its_text(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "half a sen");
	w_void_run(alice(), m->run);
	struct w_message *again = w_message_open(alice(), m->run);
	w_stream(alice(), again, "a whole one");
	w_run(5);
	assert_int_equal(c_text(c, again->id)->text.n, 11);
	assert_true(c_text(c, m->id)->closed);
}

/* ---- slow readers ---- */

static void slow_reader_is_bounded_and_gets_all_in_order(void **state)
{
	w->config.outbox_bytes = 4096;
	struct conn *slow = c_open(0), *fast = c_open(0);
	struct buf held = {0};
	w_run(100);
	slow->stalled = true;
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "begins ");
	for (int i = 0; i < 1000; i++) {
		w_commit(alice(), "tick", "\"more\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"", NULL, NULL);
		if (i % 10 == 0)
			w_stream(alice(), m, "and goes on ");
	}
	w_message_close(alice(), m);
	struct w_message *open = w_message_open(alice(), NULL);
	w_stream(alice(), open, "still open");
	w_run(100);
	assert_int_equal(fast->events, 1001);
	assert_true(session_fill(slow->session, &held, SIZE_MAX) == false || held.n > 0);
	assert_true(held.n <= 4096 + 200);
	buf_append_str(&slow->raw, buf_str(&held));
	buf_finish(&held);
	c_parse(slow);
	slow->stalled = false;
	slow->wanted = true;
	w_run(2000);
	assert_int_equal(slow->events, 1001);
	assert_int_equal(c_text(slow, m->id)->text.n, m->text.n);
	assert_int_equal(c_text(slow, open->id)->text.n, 10);
}

static void page_with_a_hole_is_not_delivered(void **state)
{
	for (int i = 0; i < 10; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w->holes = true;
	struct conn *c = c_resume(0, 0);
	w_run(1000);
	assert_true(c->welcomed);
	assert_int_equal(c->events, 0);
	w->holes = false;
	w_run(2000);
	assert_int_equal(c->events, 10);
}

static void slow_reader_goes_on_live_afterwards(void **state)
{
	w->config.outbox_bytes = 2048;
	struct conn *c = c_open(0);
	w_run(100);
	c->stalled = true;
	for (int i = 0; i < 100; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	c->stalled = false;
	w_run(500);
	unsigned before = w->workers[alice()->owner].replays;
	for (int i = 0; i < 5; i++) {
		w_commit(alice(), "tick", "", NULL, NULL);
		w_run(5);
	}
	assert_int_equal(c->events, 105);
	assert_int_equal(w->workers[alice()->owner].replays, before);
}

static void event_larger_than_the_outbox_is_delivered(void **state)
{
	w->config.outbox_bytes = 1000;
	struct conn *c = c_open(0);
	char more[5000];
	w_run(100);
	snprintf(more, sizeof(more), "\"more\":\"%04000d\"", 0);
	for (int i = 0; i < 3; i++)
		w_commit(alice(), "tick", more, NULL, NULL);
	w_run(1000);
	assert_int_equal(c->events, 3);
}

static void large_open_text_comes_in_pieces(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_message *m = w_message_open(alice(), NULL);
	for (int i = 0; i < 4; i++) {
		char text[1001];
		memset(text, 'a' + i, 1000);
		text[1000] = 0;
		w_stream(alice(), m, text);
	}
	w->config.outbox_bytes = 8000;
	struct conn *late = c_open(0);
	w_run(1000);
	assert_int_equal(c_text(c, m->id)->text.n, 4000);
	assert_int_equal(c_text(late, m->id)->text.n, 4000);
}

static void reader_of_no_answers_may_ask_no_more(void **state)
{
	w->config.outbox_bytes = 1000;
	struct conn *c = c_open(0);
	w_run(100);
	c->stalled = true;
	for (int i = 0; i < 30; i++)
		c_send(c, "{\"type\":\"ping\",\"id\":\"p%d\"}", i);
	assert_true(c->reading_off);
	c->stalled = false;
	w_run(10);
	assert_false(c->reading_off);
	assert_int_equal(c->n_answers, 30);
}

/* ---- owners ---- */

static void moved_is_followed_to_the_owner(void **state)
{
	for (int i = 0; i < USERS; i++) {
		w->users[i].owner = i % 2;
		w->users[i].epoch = 7;
	}
	for (int i = 0; i < USERS; i++)
		c_open(i);
	w_run(100);
	for (int i = 0; i < USERS; i++)
		assert_int_equal(w->users[i].epoch, 7);
	for (size_t i = 0; i < USERS; i++)
		assert_string_equal(w->conns[i].welcome_worker, w->workers[i % 2].id);
}

static void full_worker_passes_on_to_the_next(void **state)
{
	w->workers[0].attach_code = ERR_FULL;
	for (int i = 0; i < USERS; i++)
		c_open(i);
	w_run(100);
	for (size_t i = 0; i < USERS; i++)
		assert_string_equal(w->conns[i].welcome_worker, "worker-1");
}

static void users_spread_over_the_workers_and_stay(void **state)
{
	unsigned n[2] = {0};
	for (int i = 0; i < USERS; i++)
		c_open(i);
	w_run(100);
	for (int i = 0; i < USERS; i++)
		n[w->users[i].owner]++;
	assert_true(n[0] + n[1] == USERS);
	for (int i = 0; i < USERS; i++) {
		struct conn *again = c_open(i);
		w_run(20);
		assert_string_equal(again->welcome_worker, w->conns[i].welcome_worker);
	}
}

static void draining_worker_gets_no_new_user(void **state)
{
	w->workers[0].draining = true;
	w_run(300); /* a beat says so */
	for (int i = 0; i < USERS; i++)
		c_open(i);
	w_run(100);
	assert_int_equal(w->workers[0].attaches, 0);
	w->workers[1].draining = true;
	w_run(300);
	assert_false(core_is_ready(w->core, NULL));
}

static void no_owner_in_time_is_unavailable(void **state)
{
	w->workers[0].attach_code = w->workers[1].attach_code = ERR_FULL;
	struct conn *c = c_open(0);
	w_run(4900);
	assert_int_equal(c->close_code, 0);
	assert_int_equal(c->frames, 0);
	w_run(200);
	assert_int_equal(c->close_code, CLOSE_TRY_LATER);
	assert_int_equal(c_count(c, "null unavailable"), 1);
	assert_false(c->welcomed);
}

static void messages_before_the_welcome_are_answered_after_it(void **state)
{
	w->workers[0].attach_code = w->workers[1].attach_code = ERR_FULL;
	struct conn *c = c_open(0);
	c_send(c, "{\"type\":\"ping\",\"id\":\"p\"}");
	c_send(c, "{\"type\":\"thread.list\",\"id\":\"l\"}");
	w_run(1000);
	assert_int_equal(c->frames, 0);
	w->workers[0].attach_code = w->workers[1].attach_code = ERR_OK;
	w_run(2000); /* the first frame is the welcome: c_on_frame checks */
	assert_true(c->welcomed);
	assert_int_equal(c_count(c, "p pong"), 1);
	assert_int_equal(c_count(c, "l ack"), 1);
}

static void killed_worker_is_left_without_a_gap(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	int owner = alice()->owner;
	struct w_message *m = w_message_open(alice(), NULL);
	w_stream(alice(), m, "cut o");
	w_run(5);
	w_kill(owner);
	w_run(100);
	assert_int_equal(alice()->owner, !owner);
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(c->events, 2); /* run_recovered, tick */
	assert_int_equal(c->close_code, 0);
}

static void silent_worker_is_suspected(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	int owner = alice()->owner;
	w->workers[owner].mute = true;
	w_run(1200);
	assert_int_equal(alice()->owner, owner);
	w_run(1000);
	assert_int_equal(alice()->owner, !owner);
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(c->events, 1);
}

static void restarted_worker_is_greeted_and_attached_again(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	w_kill(alice()->owner);
	w_revive(alice()->owner);
	w_run(500);
	assert_true(w_owner_attached(0));
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(c->events, 1);
}

static void worker_that_forgot_us_is_greeted_again(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	struct w_worker *owner = &w->workers[alice()->owner];
	unsigned before = owner->hellos;
	owner->knows = false;
	owner->attached[0] = false;
	c_send(c, "{\"type\":\"run.start\",\"id\":\"r\",\"input\":\"x\"}");
	w_run(500);
	assert_true(owner->hellos > before);
	assert_int_equal(c_count(c, "r ack"), 1);
	assert_int_equal(w->executed, 1);
	assert_int_equal(c->events, 1);
}

static void established_connection_waits_half_a_minute_for_an_owner(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	w_kill(0);
	w_run(29000);
	assert_int_equal(c->close_code, 0);
	w_run(1500);
	assert_int_equal(c->close_code, CLOSE_TRY_LATER);
}

static void released_user_is_attached_again(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	int owner = alice()->owner;
	struct item item = {.kind = ITEM_LOST};
	w_publish_item(alice(), &item);
	w_take_over(alice(), !owner);
	w_run(500);
	assert_true(w_owner_attached(0));
	assert_int_equal(alice()->owner, !owner);
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(c->events, 1);
}

static void last_connection_detaches_after_a_while(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	c_finish(c);
	w_run(4000);
	assert_true(w_owner_attached(0));
	c = c_open(0); /* back soon: nothing was asked anew */
	w_run(20);
	assert_true(c->welcomed);
	assert_int_equal(w->workers[alice()->owner].attaches, 1);
	c_finish(c);
	w_run(6000);
	assert_false(w_owner_attached(0));
	c = c_open(0);
	w_run(20);
	assert_true(c->welcomed);
	assert_true(w_owner_attached(0));
}

static void connection_during_a_detach_attaches_after_it(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	c_finish(c);
	w_run(4999);
	w->delay = 500;
	w_run(2);
	assert_true(w_owner_attached(0)); /* the request is still on its way: an attach now would overtake it */
	w->delay = 0;
	c = c_open(0);
	w_run(1000);
	assert_true(c->welcomed);
	assert_true(w_owner_attached(0));
}

static void publication_for_nobody_is_answered_by_a_detach(void **state)
{
	c_open(1);
	w_run(100);
	int owner = w->users[1].owner;
	alice()->owner = owner;
	alice()->epoch = 3;
	w->workers[owner].attached[0] = true;
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(20);
	assert_false(w->workers[owner].attached[0]);
	struct conn *c = c_open(0);
	w_run(20);
	assert_true(c->welcomed);
}

static void credit_is_given_and_given_again(void **state)
{
	c_open(0);
	w_run(100);
	struct w_worker *owner = &w->workers[alice()->owner];
	for (int i = 0; i < 200; i++)
		w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_true(owner->credit >= 64);
	w_run(300);
	assert_int_equal(owner->credit, 200);
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(5);
	w->lose = 1000; /* the credit for it gets lost */
	w_run(1200);
	assert_int_equal(owner->credit, 200);
	w->lose = 0;
	w_run(2000);
	assert_int_equal(owner->credit, 201);
}

static void unlisted_worker_is_closed_when_unused(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	int owner = alice()->owner;
	core_set_workers(w->core, &w_urls[!owner], 1);
	w_run(50);
	assert_non_null(w_link_of(owner)); /* somebody is attached there */
	c_finish(c);
	w_run(6000);
	assert_null(w_link_of(owner));
	core_set_workers(w->core, w_urls, 2);
	w_run(50);
	assert_non_null(w_link_of(owner));
}

/* ---- commands ---- */

static void command_is_answered_by_its_worker(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	c_send(c, "{\"type\":\"run.start\",\"id\":\"r1\",\"input\":{\"steps\":[]}}");
	c_send(c, "{\"type\":\"ping\",\"id\":\"p1\"}");
	w_run(20);
	assert_string_equal(c->answers[0], "p1 pong"); /* at once, whatever is under way */
	assert_string_equal(c->answers[1], "r1 ack");
	assert_int_equal(c->events, 1);
}

static void commands_are_executed_one_at_a_time_in_order(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->delay = 30;
	for (int i = 0; i < 20; i++)
		c_send(c, "{\"type\":\"thread.list\",\"id\":\"c%d\"}", i);
	w_run(3000);
	assert_int_equal(c->n_answers, 20);
	for (int i = 0; i < 20; i++) {
		char want[32];
		snprintf(want, sizeof(want), "c%d ack", i);
		assert_string_equal(c->answers[i], want);
	}
}

static void too_many_waiting_commands_are_overloaded(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->delay = 30;
	for (int i = 0; i < 70; i++)
		c_send(c, "{\"type\":\"thread.list\",\"id\":\"c%d\"}", i);
	w_run(9000);
	assert_int_equal(c->n_answers, 70);
	assert_int_equal(c_count(c, "c64 ack"), 1);
	assert_int_equal(c_count(c, "c65 overloaded"), 1);
}

static void command_is_answered_once_when_its_worker_dies(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	int owner = alice()->owner;
	w->delay = 30;
	c_send(c, "{\"type\":\"run.start\",\"id\":\"r\",\"input\":\"x\"}");
	w_run(5);
	w_kill(owner);
	w_run(2000);
	assert_int_equal(c->n_answers, 1);
	assert_int_equal(c_count(c, "r ack"), 1);
	assert_int_equal(w->executed, 1);
}

static void repeated_run_start_starts_one_run(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 600;
	for (int i = 0; i < 5; i++) {
		c_send(c, "{\"type\":\"run.start\",\"id\":\"r%d\",\"input\":\"x\"}", i);
		w_run(9000);
	}
	w->lose = 0;
	w_run(12000);
	assert_int_equal(c->n_answers, 5);
	assert_true(w->executed <= 5);
	assert_int_equal(c->events, w->executed);
}

static void unanswered_command_is_unavailable_at_its_deadline(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	w->lose = 1000;
	c_send(c, "{\"type\":\"thread.list\",\"id\":\"a\"}");
	w_run(9900);
	assert_int_equal(c->n_answers, 0);
	w_run(200);
	assert_int_equal(c_count(c, "a unavailable"), 1);
	w->lose = 0;
	w_run(12000);
	c_send(c, "{\"type\":\"thread.list\",\"id\":\"b\"}");
	w_run(3000);
	assert_int_equal(c->n_answers, 2);
	assert_int_equal(c_count(c, "b ack"), 1);
}

static void command_of_a_fenced_worker_goes_to_the_next_owner(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	w_take_over(alice(), !alice()->owner);
	c_send(c, "{\"type\":\"run.start\",\"id\":\"r\",\"input\":\"x\"}");
	w_run(1000);
	assert_int_equal(c->n_answers, 1);
	assert_int_equal(c_count(c, "r ack"), 1);
	assert_int_equal(c->events, 1);
}

static void command_fenced_by_its_own_worker_is_sent_anew(void **state)
{
	struct conn *c = c_open(0);
	w_run(2000);
	w_take_over(alice(), alice()->owner);
	c_send(c, "{\"type\":\"run.start\",\"id\":\"r\",\"input\":\"x\"}");
	w_run(1000);
	assert_int_equal(c_count(c, "r ack"), 1);
	assert_int_equal(c->events, 1);
}

static void worker_errors_are_told_as_the_protocol_names_them(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	struct w_worker *owner = &w->workers[alice()->owner];
	owner->command_code = ERR_QUEUE_FULL;
	c_send(c, "{\"type\":\"run.start\",\"id\":\"a\",\"input\":\"x\"}");
	w_run(10);
	owner->command_code = ERR_IO;
	c_send(c, "{\"type\":\"run.start\",\"id\":\"b\",\"input\":\"x\"}");
	w_run(10);
	assert_int_equal(c_count(c, "a queue_full"), 1);
	assert_int_equal(c_count(c, "b internal"), 1);
}

static void impossible_ids_never_reach_a_worker(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	c_send(c, "{\"type\":\"run.cancel\",\"id\":\"a\",\"run_id\":\"nonsense\"}");
	w_run(10);
	assert_int_equal(c_count(c, "a not_found"), 1);
	assert_int_equal(w->workers[alice()->owner].commands, 0);
}

/* ---- the door ---- */

static void in_band_auth_is_answered_by_the_welcome(void **state)
{
	struct conn *c = c_open_unauthenticated();
	w_run(100);
	assert_int_equal(c->frames, 0);
	c_send(c, "{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\"}");
	w_run(100);
	assert_true(c->welcomed);
	c_send(c, "{\"type\":\"auth\",\"id\":\"b\",\"token\":\"t\"}");
	w_run(10);
	assert_int_equal(c_count(c, "b invalid_message"), 1);
	assert_int_equal(c->close_code, 0);
}

static void refused_by(const char *message, enum err verify_code, const char *answer, int close_code)
{
	struct conn *c = c_open_unauthenticated();
	w->verify_code = verify_code;
	session_on_text(c->session, str_c(message));
	w_run(10);
	assert_int_equal(c->n_answers, 1);
	assert_string_equal(c->answers[0], answer);
	assert_int_equal(c->close_code, close_code);
	w->verify_code = ERR_OK;
	c_finish(c);
}

static void unauthenticated_connection_can_do_nothing_else(void **state)
{
	static const char auth[] = "{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\"}";

	refused_by("{\"type\":\"ping\",\"id\":\"p\"}", ERR_OK, "p token_missing", CLOSE_UNAUTHENTICATED);
	refused_by("nonsense", ERR_OK, "null token_missing", CLOSE_UNAUTHENTICATED);
	refused_by("{\"type\":\"auth\",\"id\":\"a\"}", ERR_OK, "a invalid_message", CLOSE_UNAUTHENTICATED);
	refused_by("{\"type\":\"auth\",\"id\":\"a\",\"token\":5}", ERR_OK, "a invalid_message", CLOSE_UNAUTHENTICATED);
	refused_by(auth, ERR_TOKEN_INVALID, "a token_invalid", CLOSE_UNAUTHENTICATED);
	refused_by(auth, ERR_TOKEN_EXPIRED, "a token_expired", CLOSE_UNAUTHENTICATED);
	refused_by(auth, ERR_ISSUER_MISMATCH, "a issuer_mismatch", CLOSE_UNAUTHENTICATED);
	refused_by(auth, ERR_INVALID_USER_ID, "a invalid_user_id", CLOSE_IDENTITY);
	refused_by("{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\",\"user_id\":\"usr_ffffffffffff\"}", ERR_OK, "a forbidden",
	           CLOSE_IDENTITY);
	refused_by("{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\",\"user_id\":5}", ERR_OK, "a forbidden", CLOSE_IDENTITY);
	struct conn *c = c_open_unauthenticated();
	session_on_text(c->session, str_c("\xff\xfe"));
	w_run(10);
	assert_int_equal(c->close_code, CLOSE_BAD_UTF8);
	assert_int_equal(c->n_answers, 0);
}

static void auth_that_does_not_come_in_time_is_refused(void **state)
{
	struct conn *c = c_open_unauthenticated();
	w_run(9900);
	assert_int_equal(c->close_code, 0);
	w_run(200);
	assert_int_equal(c->close_code, CLOSE_UNAUTHENTICATED);
	assert_int_equal(c_count(c, "null token_missing"), 1);
}

static void unauthenticated_connections_of_an_address_are_few(void **state)
{
	unsigned retry;
	struct conn *a = c_open_unauthenticated();
	c_open_unauthenticated();
	assert_int_equal(session_admit(w->core, NULL, "127.0.0.1", &retry, NULL), ERR_TOO_MANY_CONNECTIONS);
	assert_true(retry > 0);
	assert_int_equal(session_admit(w->core, NULL, "127.0.0.2", &retry, NULL), ERR_OK);
	struct conn *beyond = c_open_unauthenticated();
	w_run(1);
	assert_int_equal(beyond->close_code, CLOSE_TRY_LATER);
	c_send(a, "{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\"}");
	assert_int_equal(session_admit(w->core, NULL, "127.0.0.1", &retry, NULL), ERR_OK);
}

static void connections_of_a_user_are_capped(void **state)
{
	struct identity identity = {.expires_s = w->verify_expires};
	unsigned retry = 0;
	struct conn *c[8];
	assert_int_equal(user_id_parse(&identity.user, str_c(alice()->name), 0), ERR_OK);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(session_admit(w->core, &identity, "127.0.0.1", &retry, NULL), ERR_OK);
		c[i] = c_open(0);
	}
	w_run(100);
	assert_int_equal(session_admit(w->core, &identity, "127.0.0.1", &retry, NULL), ERR_TOO_MANY_CONNECTIONS);
	struct conn *beyond = c_open(0);
	struct conn *in_band = c_open_unauthenticated();
	c_send(in_band, "{\"type\":\"auth\",\"id\":\"a\",\"token\":\"t\"}");
	w_run(10);
	assert_int_equal(beyond->close_code, CLOSE_TRY_LATER);
	assert_int_equal(c_count(beyond, "null too_many_connections"), 1);
	assert_int_equal(in_band->close_code, CLOSE_TRY_LATER);
	assert_int_equal(c_count(in_band, "a too_many_connections"), 1);
	c_finish(c[3]);
	assert_int_equal(session_admit(w->core, &identity, "127.0.0.1", &retry, NULL), ERR_OK);
}

static void admission_says_why_not(void **state)
{
	unsigned retry = 0;
	w_kill(0);
	w_kill(1);
	w_run(10);
	assert_int_equal(session_admit(w->core, NULL, "127.0.0.1", &retry, NULL), ERR_NO_WORKER);
	assert_true(retry > 0);
	w_revive(0);
	w_run(50);
	assert_int_equal(session_admit(w->core, NULL, "127.0.0.1", &retry, NULL), ERR_OK);
	core_drain(w->core, 0, NULL, NULL);
	assert_int_equal(session_admit(w->core, NULL, "127.0.0.1", &retry, NULL), ERR_DRAINING);
}

static void refresh_moves_the_expiry_of_the_same_user_only(void **state)
{
	int64_t now = (int64_t)(w_wall_ms(NULL) / 1000);
	w->verify_expires = now + 60;
	struct conn *c = c_open(0);
	w_run(50000);
	w->verify_expires = now + 300;
	c_send(c, "{\"type\":\"auth.refresh\",\"id\":\"a\",\"token\":\"t\"}");
	w_run(60000);
	assert_int_equal(c_count(c, "a ack"), 1);
	assert_int_equal(c->close_code, 0);
	w->verify_code = ERR_TOKEN_EXPIRED;
	c_send(c, "{\"type\":\"auth.refresh\",\"id\":\"b\",\"token\":\"t\"}");
	w_run(10);
	assert_int_equal(c_count(c, "b token_expired"), 1);
	assert_int_equal(c->close_code, 0);
	w->verify_code = ERR_OK;
	strcpy(w->verify_user, w->users[1].name);
	c_send(c, "{\"type\":\"auth.refresh\",\"id\":\"c\",\"token\":\"t\"}");
	w_run(10);
	assert_int_equal(c_count(c, "c forbidden"), 1);
	assert_int_equal(c->close_code, CLOSE_IDENTITY);
}

static void expired_token_closes_after_the_leeway(void **state)
{
	w->verify_expires = (int64_t)(w_wall_ms(NULL) / 1000) + 10;
	struct conn *c = c_open(0);
	w_run(39000);
	assert_int_equal(c->close_code, 0);
	w_run(2000);
	assert_int_equal(c->close_code, CLOSE_UNAUTHENTICATED);
	assert_string_equal(c->reason, "token_expired");
}

/* ---- limits ---- */

static void messages_past_the_rate_are_refused(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	for (int i = 0; i < 210; i++)
		c_send(c, "{\"type\":\"ping\",\"id\":\"x\"}");
	w_run(10);
	assert_int_equal(c_count(c, "x pong"), 200);
	assert_int_equal(c_count(c, "x rate_limited"), 10);
	assert_int_equal(c->close_code, 0);
	w_run(1000);
	for (int i = 0; i < 50; i++)
		c_send(c, "{\"type\":\"ping\",\"id\":\"y\"}");
	w_run(10);
	assert_int_equal(c_count(c, "y pong"), 50);
}

static void abuse_of_the_rate_is_sent_away(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	for (int i = 0; i < 400; i++)
		c_send(c, "{\"type\":\"ping\",\"id\":\"x\"}");
	assert_int_equal(c->close_code, 0);
	c_send(c, "{\"type\":\"ping\",\"id\":\"x\"}");
	assert_int_equal(c->close_code, CLOSE_ABUSE);
}

static void pause_forgives(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	for (int k = 0; k < 3; k++) {
		for (int i = 0; i < 380; i++)
			c_send(c, "{\"type\":\"ping\",\"id\":\"x\"}");
		w_run(11000);
	}
	assert_int_equal(c->close_code, 0);
}

static void broken_messages_are_answered_with_null_id(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	c_send(c, "{");
	c_send(c, "[]");
	c_send(c, "{\"type\":\"ping\"}");
	c_send(c, "{\"type\":\"ping\",\"id\":\"a\",\"id\":\"b\"}");
	w_run(10);
	assert_int_equal(c_count(c, "null invalid_message"), 4);
	assert_int_equal(c->close_code, 0);
	c_send(c, "\x80");
	assert_int_equal(c->close_code, CLOSE_BAD_UTF8);
}

static void message_over_the_limit_closes(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	char *big = calloc(1, 65538);
	memset(big, ' ', 65537);
	session_on_text(c->session, str_of(big, 65537));
	free(big);
	assert_int_equal(c->close_code, CLOSE_TOO_LARGE);
}

/* ---- the end ---- */

static void count_drained(void *ctx)
{
	++*(int *)ctx;
}

static void drain_closes_all_spread_over_time(void **state)
{
	int done = 0;
	for (int i = 0; i < 20; i++)
		c_open(i % USERS);
	w_run(100);
	core_drain(w->core, 1000, count_drained, &done);
	unsigned early = 0, late = 0;
	w_run(300);
	for (int i = 0; i < 20; i++)
		early += w->conns[i].close_code == CLOSE_DRAINING;
	assert_in_range(early, 1, 12);
	w_run(900);
	for (int i = 0; i < 20; i++)
		late += w->conns[i].close_code == CLOSE_DRAINING;
	assert_int_equal(late, 20);
	assert_int_equal(done, 0);
	for (int i = 0; i < 20; i++)
		c_finish(&w->conns[i]);
	w_run(10);
	assert_int_equal(done, 1);
	assert_false(core_is_ready(w->core, NULL));
}

static void drain_of_an_empty_gateway_is_done_at_once(void **state)
{
	int done = 0;
	core_drain(w->core, 1000, count_drained, &done);
	w_run(10);
	assert_int_equal(done, 1);
}

static void state_shows_workers_users_and_sessions(void **state)
{
	c_open(0);
	c_open(1);
	w_run(100);
	json_t *j = core_state(w->core);
	assert_non_null(j);
	assert_int_equal(json_array_size(json_object_get(j, "workers")), 2);
	assert_true(json_is_true(json_object_get(json_array_get(json_object_get(j, "workers"), 0), "ready")));
	assert_int_equal(json_integer_value(json_object_get(j, "users")), 2);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "sessions"), "live")), 2);
	assert_string_equal(json_string_value(
				    json_object_get(json_object_get(json_object_get(j, "pins"), alice()->name), "worker")),
	                    w->workers[alice()->owner].id);
	json_decref(j);
}

static void close_is_idempotent_and_quiet_afterwards(void **state)
{
	struct conn *c = c_open(0);
	w_run(100);
	session_on_violation(c->session, CLOSE_BINARY, "binary frame");
	session_on_violation(c->session, CLOSE_TOO_LARGE, "later");
	assert_int_equal(c->close_code, CLOSE_BINARY);
	c_send(c, "{\"type\":\"ping\",\"id\":\"x\"}");
	w_commit(alice(), "tick", "", NULL, NULL);
	w_run(10);
	assert_int_equal(c->n_answers, 0);
	assert_int_equal(c->events, 0);
	assert_true(session_is_flushed(c->session));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(welcome_says_what_the_log_has),
		TEST(event_reaches_every_tab_once),
		TEST(resume_gets_exactly_what_is_behind_last_seq),
		TEST(resume_outside_of_what_is_kept_is_not_resumed),
		TEST(resume_beyond_what_this_gateway_knows_asks_the_log),
		TEST(reader_behind_retention_is_told_to_start_anew),
		TEST(events_that_left_the_log_unseen_close_those_who_lack_them),
		TEST(lost_publication_is_fetched_from_the_log),
		TEST(lost_tail_shows_by_the_next_beat),
		TEST(doubled_and_reordered_events_come_once_in_order),
		TEST(item_of_a_lower_epoch_is_dropped),
		TEST(item_of_a_higher_epoch_attaches_anew),
		TEST(owner_of_a_lower_epoch_is_not_gone_back_to),
		TEST(head_makes_the_gateway_ask),
		TEST(head_of_nothing_is_asked_once),
		TEST(publication_that_is_garbage_is_dropped),
		TEST(streamed_text_joins_to_the_message),
		TEST(new_connection_gets_open_messages_from_their_start),
		TEST(open_message_is_learnt_at_attach),
		TEST(lost_delta_is_fetched_by_offset),
		TEST(overlapping_and_doubled_deltas_are_cut),
		TEST(missing_rest_comes_before_the_closing_event),
		TEST(message_that_nothing_was_seen_of_comes_without_deltas),
		TEST(message_whose_end_is_being_committed_keeps_what_was_shown),
		TEST(text_waits_for_the_event_it_comes_after),
		TEST(delta_of_a_closed_message_is_ignored),
		TEST(delta_of_a_message_closed_long_ago_is_ignored),
		TEST(recovered_run_voids_its_text),
		TEST(slow_reader_is_bounded_and_gets_all_in_order),
		TEST(page_with_a_hole_is_not_delivered),
		TEST(slow_reader_goes_on_live_afterwards),
		TEST(event_larger_than_the_outbox_is_delivered),
		TEST(large_open_text_comes_in_pieces),
		TEST(reader_of_no_answers_may_ask_no_more),
		TEST(moved_is_followed_to_the_owner),
		TEST(full_worker_passes_on_to_the_next),
		TEST(users_spread_over_the_workers_and_stay),
		TEST(draining_worker_gets_no_new_user),
		TEST(no_owner_in_time_is_unavailable),
		TEST(messages_before_the_welcome_are_answered_after_it),
		TEST(killed_worker_is_left_without_a_gap),
		TEST(silent_worker_is_suspected),
		TEST(restarted_worker_is_greeted_and_attached_again),
		cmocka_unit_test_setup_teardown(worker_that_forgot_us_is_greeted_again, begin_one_worker, end),
		cmocka_unit_test_setup_teardown(established_connection_waits_half_a_minute_for_an_owner, begin_one_worker, end),
		TEST(released_user_is_attached_again),
		TEST(last_connection_detaches_after_a_while),
		TEST(connection_during_a_detach_attaches_after_it),
		TEST(publication_for_nobody_is_answered_by_a_detach),
		TEST(credit_is_given_and_given_again),
		TEST(unlisted_worker_is_closed_when_unused),
		TEST(command_is_answered_by_its_worker),
		TEST(commands_are_executed_one_at_a_time_in_order),
		TEST(too_many_waiting_commands_are_overloaded),
		TEST(command_is_answered_once_when_its_worker_dies),
		TEST(repeated_run_start_starts_one_run),
		TEST(unanswered_command_is_unavailable_at_its_deadline),
		TEST(command_of_a_fenced_worker_goes_to_the_next_owner),
		TEST(command_fenced_by_its_own_worker_is_sent_anew),
		TEST(worker_errors_are_told_as_the_protocol_names_them),
		TEST(impossible_ids_never_reach_a_worker),
		TEST(in_band_auth_is_answered_by_the_welcome),
		TEST(unauthenticated_connection_can_do_nothing_else),
		TEST(auth_that_does_not_come_in_time_is_refused),
		TEST(unauthenticated_connections_of_an_address_are_few),
		TEST(connections_of_a_user_are_capped),
		TEST(admission_says_why_not),
		TEST(refresh_moves_the_expiry_of_the_same_user_only),
		TEST(expired_token_closes_after_the_leeway),
		TEST(messages_past_the_rate_are_refused),
		TEST(abuse_of_the_rate_is_sent_away),
		TEST(pause_forgives),
		TEST(broken_messages_are_answered_with_null_id),
		TEST(message_over_the_limit_closes),
		TEST(drain_closes_all_spread_over_time),
		TEST(drain_of_an_empty_gateway_is_done_at_once),
		TEST(state_shows_workers_users_and_sessions),
		TEST(close_is_idempotent_and_quiet_afterwards),
	};

	log_init(LOG_ERROR, LOG_KEY_VALUE, "gateway", "test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
