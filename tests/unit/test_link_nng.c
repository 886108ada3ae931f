/* Both ends of a link, the gateway's and the worker's, on NNG in one process. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include <nng/nng.h>
#include "common/loop_uv.h"
#include "gateway/worker_link.h"
#include "proto/codec.h"
#include "worker/gateway_link.h"

enum { DEADLINE_MS = 20000, ASKED_MAX = 4096, ANSWERS_MAX = 4096 };

struct answer {
	uint64_t number;
	enum err err;
	char text[32];
};

struct bench {
	uv_loop_t uv;
	struct loop_uv loop;
	char dir[64], requests_url[128], events_url[128];
	struct worker_transport *gateway;
	struct gateway_transport *worker;
	struct worker_link *link;
	struct gateway_pub *pub;
	/* what the gateway saw */
	unsigned ups, downs;
	bool up;
	struct answer answers[ANSWERS_MAX];
	size_t n_answers;
	uint64_t published, next_published;
	bool out_of_order;
	/* what the worker saw */
	request_token asked[ASKED_MAX];
	size_t n_asked;
	bool echo;
	size_t max_asked_bytes;
};

static void on_up(void *ctx)
{
	struct bench *b = ctx;

	assert_false(b->up);
	b->up = true;
	b->ups++;
}

static void on_down(void *ctx)
{
	struct bench *b = ctx;

	assert_true(b->up);
	b->up = false;
	b->downs++;
}

static void on_reply(void *ctx, uint64_t number, enum err err, struct str message)
{
	struct bench *b = ctx;
	struct answer *answer = &b->answers[b->n_answers++];

	assert_true(b->n_answers < ANSWERS_MAX);
	answer->number = number;
	answer->err = err;
	snprintf(answer->text, sizeof(answer->text), STR_FMT, STR_ARG(message));
}

static const struct worker_link_events link_events = {.up = on_up, .down = on_down, .reply = on_reply};

static void on_request(void *ctx, request_token token, struct str message)
{
	struct bench *b = ctx;

	assert_true(b->n_asked < ASKED_MAX);
	b->asked[b->n_asked++] = token;
	if (message.n > b->max_asked_bytes)
		b->max_asked_bytes = message.n;
	if (b->echo)
		b->worker->ops->reply(b->worker, token, message);
}

static void on_publication(void *ctx, struct str message)
{
	struct bench *b = ctx;
	uint64_t n;

	assert_int_equal(message.n, sizeof(n));
	memcpy(&n, message.p, sizeof(n));
	if (n < b->next_published)
		b->out_of_order = true;
	b->next_published = n + 1;
	b->published++;
}

/* Turns the loop until the condition holds; fails at the deadline. */
#define turn_until(b, condition)                                                           \
	do {                                                                               \
		uint64_t until_ = loop_now(&(b)->loop.loop) + DEADLINE_MS;                 \
		while (!(condition)) {                                                     \
			if (loop_now(&(b)->loop.loop) > until_)                            \
				fail_msg("not within %d ms: %s", DEADLINE_MS, #condition); \
			turn(b);                                                           \
		}                                                                          \
	} while (0)

static void on_tick(struct timer *timer)
{
}

/* One turn, of at most 10 ms. */
static void turn(struct bench *b)
{
	struct timer tick = {.fn = on_tick};

	timer_set(&b->loop.loop, &tick, 10);
	uv_run(&b->uv, UV_RUN_ONCE);
	timer_cancel(&b->loop.loop, &tick);
}

static void worker_start(struct bench *b)
{
	struct err_info info = {0};

	if (gateway_transport_nng_create(&b->loop, b->requests_url, NULL, true, 2048, &b->worker, &info) != ERR_OK)
		fail_msg("%s", info.text);
	b->worker->on_request = on_request;
	b->worker->ctx = b;
}

static void worker_stop(struct bench *b)
{
	b->worker->ops->destroy(b->worker);
	b->worker = NULL;
	b->pub = NULL;
}

static void gateway_start(struct bench *b)
{
	struct err_info info = {0};

	if (worker_transport_nng_create(&b->loop, b->events_url, NULL, &b->gateway, &info) != ERR_OK)
		fail_msg("%s", info.text);
	b->gateway->on_publication = on_publication;
	b->gateway->ctx = b;
	if (b->gateway->ops->link_open(b->gateway, b->requests_url, &link_events, b, &b->link, &info) != ERR_OK)
		fail_msg("%s", info.text);
}

/* Of the kernel's choice, free a moment ago. */
static unsigned free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t n = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &n), 0);
	close(fd);
	return ntohs(address.sin_port);
}

static struct bench *bench_create(const char *scheme)
{
	struct bench *b = calloc(1, sizeof(*b));

	assert_int_equal(uv_loop_init(&b->uv), 0);
	loop_uv_init(&b->loop, &b->uv);
	snprintf(b->dir, sizeof(b->dir), "/tmp/pinion-link-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	if (!strcmp(scheme, "ipc")) {
		snprintf(b->requests_url, sizeof(b->requests_url), "ipc://%s/worker", b->dir);
		snprintf(b->events_url, sizeof(b->events_url), "ipc://%s/gateway", b->dir);
	} else {
		snprintf(b->requests_url, sizeof(b->requests_url), "tcp://127.0.0.1:%u", free_port());
		snprintf(b->events_url, sizeof(b->events_url), "tcp://127.0.0.1:%u", free_port());
	}
	b->echo = true;
	return b;
}

/* Up, so that no test ends in the middle of a handshake. */
static int bench_setup(void **state, const char *scheme)
{
	struct bench *b = bench_create(scheme);

	worker_start(b);
	gateway_start(b);
	turn_until(b, b->up);
	*state = b;
	return 0;
}

static int ipc_setup(void **state)
{
	return bench_setup(state, "ipc");
}

static int tcp_setup(void **state)
{
	return bench_setup(state, "tcp");
}

static int teardown(void **state)
{
	struct bench *b = *state;

	if (b->gateway)
		b->gateway->ops->destroy(b->gateway);
	if (b->worker)
		b->worker->ops->destroy(b->worker);
	loop_uv_close(&b->loop);
	uv_run(&b->uv, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->uv), 0);
	assert_int_equal(rmdir(b->dir), 0); /* no socket is left */
	free(b);
	return 0;
}

static void send_text(struct bench *b, uint64_t number, const char *text, uint32_t timeout_ms)
{
	b->gateway->ops->request_send(b->link, number, str_c(text), timeout_ms);
}

static void publish_number(struct bench *b, uint64_t n)
{
	b->worker->ops->pub_send(b->pub, str_of((const char *)&n, sizeof(n)));
}

/* PUB drops what it sends before it is connected. */
static void pub_connect(struct bench *b)
{
	struct err_info info = {0};
	uint64_t seen = b->published;

	if (b->worker->ops->pub_open(b->worker, b->events_url, &b->pub, &info) != ERR_OK)
		fail_msg("%s", info.text);
	turn_until(b, (publish_number(b, 0), b->published > seen));
	for (int quiet = 0; quiet < 5; quiet++) { /* the ones still under way */
		seen = b->published;
		turn(b);
		if (seen != b->published)
			quiet = 0;
	}
	b->published = 0;
	b->next_published = 0;
	b->out_of_order = false;
}

/* ---- requests ---- */

static void requests_come_back_answered(void **state)
{
	struct bench *b = *state;

	for (uint64_t i = 1; i <= 3000; i++) {
		char text[32];

		snprintf(text, sizeof(text), "request %d", (int)i);
		send_text(b, i, text, DEADLINE_MS);
	}
	turn_until(b, b->n_answers == 3000);
	for (size_t i = 0; i < 3000; i++) {
		char text[32];

		snprintf(text, sizeof(text), "request %d", (int)b->answers[i].number);
		assert_int_equal(b->answers[i].err, ERR_OK);
		assert_string_equal(b->answers[i].text, text);
	}
}

static void a_request_while_down_is_refused_and_not_kept(void **state)
{
	struct bench *b = *state;

	worker_stop(b);
	turn_until(b, !b->up);
	send_text(b, 1, "lost", DEADLINE_MS);
	assert_int_equal(b->n_answers, 0); /* never inside the call */
	turn_until(b, b->n_answers == 1);
	assert_int_equal(b->answers[0].err, ERR_DISCONNECTED);
	worker_start(b);
	turn_until(b, b->up);
	send_text(b, 2, "next", DEADLINE_MS);
	turn_until(b, b->n_answers == 2);
	assert_string_equal(b->answers[1].text, "next");
	assert_int_equal(b->n_asked, 1); /* the first was never heard */
}

static void a_lost_worker_ends_what_is_in_flight(void **state)
{
	struct bench *b = *state;

	b->echo = false;
	for (uint64_t i = 1; i <= 1500; i++) /* more than the contexts of a link */
		send_text(b, i, "never answered", DEADLINE_MS);
	turn_until(b, b->n_asked >= 1024);
	worker_stop(b);
	turn_until(b, !b->up);
	assert_int_equal(b->n_answers, 1500); /* all before `down` */
	for (size_t i = 0; i < 1500; i++)
		assert_int_equal(b->answers[i].err, ERR_DISCONNECTED);
	b->n_asked = 0;
	worker_start(b);
	turn_until(b, b->up);
	b->echo = true;
	send_text(b, 2000, "again", DEADLINE_MS);
	turn_until(b, b->n_answers == 1501);
	assert_string_equal(b->answers[1500].text, "again");
	assert_int_equal(b->n_asked, 1); /* nothing was resent */
	assert_int_equal(b->ups, 2);
	assert_int_equal(b->downs, 1);
}

static void a_slow_answer_times_out_and_comes_to_nobody_later(void **state)
{
	struct bench *b = *state;
	uint64_t started;

	b->echo = false;
	started = loop_now(&b->loop.loop);
	send_text(b, 1, "slow", 50);
	turn_until(b, b->n_answers == 1);
	assert_int_equal(b->answers[0].err, ERR_TIMEOUT);
	assert_true(loop_now(&b->loop.loop) - started >= 50);
	turn_until(b, b->n_asked == 1);
	b->worker->ops->reply(b->worker, b->asked[0], str_c("too late"));
	b->echo = true;
	send_text(b, 2, "quick", DEADLINE_MS);
	turn_until(b, b->n_answers == 2);
	assert_int_equal(b->answers[1].number, 2);
	assert_string_equal(b->answers[1].text, "quick");
}

static void waiting_for_a_context_counts_for_the_timeout(void **state)
{
	struct bench *b = *state;

	b->echo = false;
	for (uint64_t i = 1; i <= 1024; i++)
		send_text(b, i, "holds a context", DEADLINE_MS);
	send_text(b, 2000, "waits", 50);
	turn_until(b, b->n_answers == 1);
	assert_int_equal(b->answers[0].number, 2000);
	assert_int_equal(b->answers[0].err, ERR_TIMEOUT);
}

static void stale_and_repeated_tokens_are_ignored(void **state)
{
	struct bench *b = *state;

	b->echo = false;
	for (request_token token = 0; token < 4096; token++)
		b->worker->ops->reply(b->worker, token, str_c("never asked"));
	send_text(b, 1, "one", DEADLINE_MS);
	turn_until(b, b->n_asked == 1);
	b->worker->ops->reply(b->worker, b->asked[0] + 1, str_c("wrong"));
	b->worker->ops->reply(b->worker, b->asked[0] + (1u << 16), str_c("wrong"));
	b->worker->ops->reply(b->worker, b->asked[0], str_c("right"));
	b->worker->ops->reply(b->worker, b->asked[0], str_c("wrong"));
	turn_until(b, b->n_answers == 1);
	assert_string_equal(b->answers[0].text, "right");
	send_text(b, 2, "two", DEADLINE_MS);
	turn_until(b, b->n_asked == 2);
	b->worker->ops->reply(b->worker, b->asked[0], str_c("wrong"));
	b->worker->ops->reply(b->worker, b->asked[1], str_c("right"));
	turn_until(b, b->n_answers == 2);
	assert_string_equal(b->answers[1].text, "right");
}

static void oversize_messages_are_refused_before_sending(void **state)
{
	struct bench *b = *state;
	char *big = calloc(1, LINK_MESSAGE_MAX + 1);

	b->gateway->ops->request_send(b->link, 1, str_of(big, LINK_MESSAGE_MAX + 1), DEADLINE_MS);
	turn_until(b, b->n_answers == 1);
	assert_int_equal(b->answers[0].err, ERR_TOO_LARGE);
	assert_int_equal(b->n_asked, 0);
	/* the largest passes: NNG's own header, which its bound counts too, is allowed for */
	b->gateway->ops->request_send(b->link, 2, str_of(big, LINK_MESSAGE_MAX), DEADLINE_MS);
	turn_until(b, b->n_answers == 2);
	assert_int_equal(b->answers[1].err, ERR_OK);
	assert_int_equal(b->max_asked_bytes, LINK_MESSAGE_MAX);
	assert_int_equal(b->downs, 0);
	free(big);
}

static void closing_a_link_cancels_its_requests(void **state)
{
	struct bench *b = *state;

	b->echo = false;
	for (uint64_t i = 1; i <= 1100; i++)
		send_text(b, i, "never answered", DEADLINE_MS);
	turn_until(b, b->n_asked >= 100);
	b->gateway->ops->link_close(b->link);
	assert_int_equal(b->n_answers, 0);
	turn_until(b, b->n_answers == 1100);
	for (size_t i = 0; i < 1100; i++)
		assert_int_equal(b->answers[i].err, ERR_CANCELLED);
}

static void destroying_the_transport_cancels_what_is_in_flight(void **state)
{
	struct bench *b = *state;

	b->echo = false;
	for (uint64_t i = 1; i <= 1100; i++)
		send_text(b, i, "never answered", DEADLINE_MS);
	b->gateway->ops->destroy(b->gateway);
	b->gateway = NULL;
	assert_int_equal(b->n_answers, 1100);
	for (size_t i = 0; i < 1100; i++)
		assert_int_equal(b->answers[i].err, ERR_CANCELLED);
	for (int i = 0; i < 5; i++)
		turn(b);
	assert_int_equal(b->n_answers, 1100);
	assert_int_equal(b->downs, 0);
}

/* ---- publications ---- */

static void publications_arrive_all_and_in_order(void **state)
{
	struct bench *b = *state;
	uint64_t sent = 0;

	pub_connect(b);
	while (sent < 10000) { /* never more under way than the queue takes */
		for (int i = 0; i < 500; i++)
			publish_number(b, sent++);
		turn_until(b, b->published + 4000 >= sent);
	}
	turn_until(b, b->published == 10000);
	assert_false(b->out_of_order);
	assert_true(b->next_published == 10000);
}

/* Receiving pauses meanwhile and goes on when the loop has caught up. */
static void a_burst_beyond_the_backlog_comes_whole_and_in_order(void **state)
{
	struct bench *b = *state;

	pub_connect(b);
	for (uint64_t i = 0; i < 8000; i++) /* the loop stands still meanwhile */
		publish_number(b, i);
	turn_until(b, b->next_published == 8000);
	assert_int_equal(b->published, 8000);
	assert_false(b->out_of_order);
}

static void a_publisher_finds_a_gateway_that_comes_back(void **state)
{
	struct bench *b = *state;

	pub_connect(b);
	b->gateway->ops->destroy(b->gateway);
	b->up = false;
	gateway_start(b);
	turn_until(b, (publish_number(b, 7), b->published > 0 && b->up));
}

static void malformed_and_forbidden_urls_are_errors(void **state)
{
	struct bench *b = *state;
	struct worker_link *link;
	struct gateway_pub *pub;
	struct err_info info = {0};

	assert_int_equal(b->gateway->ops->link_open(b->gateway, "carrier-pigeon://x", &link_events, b, &link, &info), ERR_CONFIG);
	assert_int_equal(b->gateway->ops->link_open(b->gateway, "tls+tcp://127.0.0.1:1", &link_events, b, &link, &info),
	                 ERR_CONFIG);
	assert_int_equal(b->worker->ops->pub_open(b->worker, "http://127.0.0.1:1", &pub, &info), ERR_CONFIG);
	assert_int_equal(b->worker->ops->pub_open(b->worker, "ipc:///nonexistent/x", &pub, &info), ERR_CONFIG);
}

static void an_address_in_use_is_an_error(void **state)
{
	struct bench *b = *state;
	struct gateway_transport *worker;
	struct worker_transport *gateway;
	struct err_info info = {0};

	assert_int_equal(gateway_transport_nng_create(&b->loop, b->requests_url, NULL, true, 1, &worker, &info), ERR_IO);
	assert_non_null(strstr(info.text, b->requests_url));
	assert_int_equal(worker_transport_nng_create(&b->loop, b->events_url, NULL, &gateway, &info), ERR_IO);
}

#define link_test(name)                                       \
	{#name "_ipc", name, ipc_setup, teardown, NULL},      \
	{                                                     \
#name "_tcp", name, tcp_setup, teardown, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		link_test(requests_come_back_answered),
		link_test(a_request_while_down_is_refused_and_not_kept),
		link_test(a_lost_worker_ends_what_is_in_flight),
		link_test(a_slow_answer_times_out_and_comes_to_nobody_later),
		link_test(waiting_for_a_context_counts_for_the_timeout),
		link_test(stale_and_repeated_tokens_are_ignored),
		link_test(oversize_messages_are_refused_before_sending),
		link_test(closing_a_link_cancels_its_requests),
		link_test(destroying_the_transport_cancels_what_is_in_flight),
		link_test(publications_arrive_all_and_in_order),
		link_test(a_burst_beyond_the_backlog_comes_whole_and_in_order),
		link_test(a_publisher_finds_a_gateway_that_comes_back),
		link_test(malformed_and_forbidden_urls_are_errors),
		link_test(an_address_in_use_is_an_error),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	nng_fini();
	return failed;
}
