/* The admin port as a client sees it; two of them on one loop, each with a libwebsockets context of its own. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/admin_http.h"
#include "common/log.h"

enum { DEADLINE_MS = 15000, CLOSE_MS = 5000 /* well before a timeout closes it */, BIG = 3 << 20 };

struct bench {
	uv_loop_t uv;
	struct loop_uv loop;
	struct admin_http *admin, *second, *failed;
	unsigned asked;
	int descriptors;
};

static unsigned handle_small(void *ctx, struct buf *out)
{
	((struct bench *)ctx)->asked++;
	buf_append_c(out, "hello\n");
	return 200;
}

static unsigned handle_unready(void *ctx, struct buf *out)
{
	buf_append_c(out, "no worker\n");
	return 503;
}

static unsigned handle_big(void *ctx, struct buf *out)
{
	for (size_t i = 0; i < BIG / 16; i++)
		buf_append_c(out, "0123456789abcde\n");
	return 200;
}

static unsigned handle_empty(void *ctx, struct buf *out)
{
	return 200;
}

static const struct admin_path paths[] = {
	{"/small", "text/plain", handle_small},
	{"/readyz", "text/plain", handle_unready},
	{"/big", "text/plain", handle_big},
	{"/empty", "text/plain", handle_empty},
};

static int open_descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static struct admin_http *start(struct bench *b)
{
	struct admin_http *admin;
	struct err_info info = {0};

	if (admin_http_start(&b->loop, "127.0.0.1:0", paths, sizeof(paths) / sizeof(*paths), b, &admin, &info) != ERR_OK)
		fail_msg("%s", info.text);
	assert_int_not_equal(admin_http_port(admin), 0);
	return admin;
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	b->descriptors = open_descriptors();
	assert_int_equal(uv_loop_init(&b->uv), 0);
	loop_uv_init(&b->loop, &b->uv);
	b->admin = start(b);
	b->second = start(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	admin_http_stop(b->admin);
	admin_http_stop(b->second);
	admin_http_stop(b->failed);
	loop_uv_close(&b->loop);
	uv_run(&b->uv, UV_RUN_DEFAULT);
	admin_http_free(b->admin);
	admin_http_free(b->second);
	admin_http_free(b->failed);
	assert_int_equal(uv_loop_close(&b->uv), 0);
	if (b->descriptors >= 0)
		assert_int_equal(open_descriptors(), b->descriptors);
	free(b);
	return 0;
}

/* What libuv opens once for the whole process. */
static int warm_up(void **state)
{
	struct bench *b;

	setup(state);
	b = *state;
	b->descriptors = -1;
	return teardown(state);
}

static void on_tick(struct timer *timer)
{
}

static void turn(struct bench *b)
{
	struct timer tick = {.fn = on_tick};

	timer_set(&b->loop.loop, &tick, 5);
	uv_run(&b->uv, UV_RUN_ONCE);
	timer_cancel(&b->loop.loop, &tick);
}

static int client_open(const struct admin_http *admin)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(admin_http_port(admin))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

/* Reads what there is; false at the end of the stream. */
static bool client_read(int fd, struct buf *in)
{
	char bytes[65536];
	ssize_t n = read(fd, bytes, sizeof(bytes));

	if (n > 0)
		buf_append(in, bytes, (size_t)n);
	return n > 0 || (n < 0 && errno == EAGAIN);
}

/* The whole answer, told by its length; body NULL for the answer to HEAD. Returns the body's place. */
static const char *client_answer(struct bench *b, int fd, struct buf *in, bool head)
{
	uint64_t until = loop_now(&b->loop.loop) + DEADLINE_MS;

	for (;;) {
		const char *end, *length;

		assert_true(client_read(fd, in));
		buf_append(in, "", 1);
		in->n--;
		end = strstr(in->p, "\r\n\r\n");
		length = end ? strcasestr(in->p, "content-length: ") : NULL;
		if (end && (head || (length && length < end && in->n >= (size_t)(end + 4 - in->p) + (size_t)atol(length + 16))))
			return end + 4;
		assert_true(loop_now(&b->loop.loop) < until);
		turn(b);
	}
}

static const char *ask(struct bench *b, int fd, struct buf *in, const char *request)
{
	buf_clear(in);
	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	return client_answer(b, fd, in, !strncmp(request, "HEAD", 4));
}

static bool has(const struct buf *in, const char *text)
{
	return strcasestr(in->p, text) != NULL;
}

static void both_servers_of_a_loop_serve_their_pages(void **state)
{
	struct bench *b = *state;
	struct buf in = {0};
	int one = client_open(b->admin), two = client_open(b->second);

	for (int i = 0; i < 3; i++) { /* on one connection */
		assert_string_equal(ask(b, one, &in, "GET /small HTTP/1.1\r\nHost: a\r\n\r\n"), "hello\n");
		assert_true(has(&in, "HTTP/1.1 200") && has(&in, "content-type: text/plain") &&
		            has(&in, "cache-control: no-store"));
		assert_string_equal(ask(b, two, &in, "GET /small?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), "hello\n");
	}
	assert_int_equal(b->asked, 6);
	assert_string_equal(ask(b, two, &in, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"), "no worker\n");
	assert_true(has(&in, "HTTP/1.1 503"));
	assert_string_equal(ask(b, two, &in, "GET /empty HTTP/1.1\r\nHost: a\r\n\r\n"), "");
	close(one);
	close(two);
	buf_finish(&in);
}

static void head_has_the_length_and_no_body(void **state)
{
	struct bench *b = *state;
	struct buf in = {0};
	int fd = client_open(b->admin);

	assert_string_equal(ask(b, fd, &in, "HEAD /small HTTP/1.1\r\nHost: a\r\n\r\n"), "");
	assert_true(has(&in, "HTTP/1.1 200") && has(&in, "content-length: 6"));
	assert_string_equal(ask(b, fd, &in, "GET /small HTTP/1.1\r\nHost: a\r\n\r\n"), "hello\n"); /* nothing before it */
	assert_int_equal(strncmp(in.p, "HTTP/1.1 200", 12), 0);
	close(fd);
	buf_finish(&in);
}

static void a_page_of_megabytes_comes_whole(void **state)
{
	struct bench *b = *state;
	struct buf in = {0};
	int fd = client_open(b->admin);
	const char *body = ask(b, fd, &in, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");

	assert_int_equal(in.n - (size_t)(body - in.p), BIG);
	for (size_t i = 0; i < BIG; i += 16)
		assert_memory_equal(body + i, "0123456789abcde\n", 16);
	close(fd);
	buf_finish(&in);
}

static void what_is_not_there_is_404_and_other_methods_405(void **state)
{
	static const char *const others[] = {"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	                                     "PUT /small HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	                                     "DELETE /small HTTP/1.1\r\nHost: a\r\n\r\n",
	                                     "OPTIONS /small HTTP/1.1\r\nHost: a\r\n\r\n"};
	static const char *const missing[] = {"/", "/smal", "/small/", "/smallx", "/SMALL", "/small/../big"};
	struct bench *b = *state;
	struct buf in = {0};
	char request[128];
	int fd;

	for (size_t i = 0; i < sizeof(missing) / sizeof(*missing) - 1; i++) {
		fd = client_open(b->admin);
		snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", missing[i]);
		assert_non_null(strstr(ask(b, fd, &in, request), "\"status\":404"));
		assert_true(has(&in, "HTTP/1.1 404") && has(&in, "application/problem+json"));
		close(fd);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
		fd = client_open(b->admin);
		assert_non_null(strstr(ask(b, fd, &in, others[i]), "\"status\":405"));
		assert_true(has(&in, "HTTP/1.1 405") && has(&in, "allow: GET, HEAD"));
		close(fd);
	}
	assert_int_equal(b->asked, 0);
	buf_finish(&in);
}

/* Turns until the server has closed the connection. */
static void await_close(struct bench *b, int fd)
{
	struct buf in = {0};
	uint64_t until = loop_now(&b->loop.loop) + CLOSE_MS;

	while (client_read(fd, &in)) {
		assert_true(loop_now(&b->loop.loop) < until);
		turn(b);
	}
	buf_finish(&in);
}

static void an_upgrade_is_refused(void **state)
{
	struct bench *b = *state;
	const char *request = "GET /small HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
			      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
	int fd = client_open(b->admin);

	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	await_close(b, fd);
	close(fd);
}

static void connections_are_bounded_and_places_come_back(void **state)
{
	struct bench *b = *state;
	struct buf in = {0};
	int idle[64], fd;

	for (int i = 0; i < 64; i++) {
		idle[i] = client_open(b->admin);
		assert_string_equal(ask(b, idle[i], &in, "GET /small HTTP/1.1\r\nHost: a\r\n\r\n"), "hello\n");
	}
	fd = client_open(b->admin);
	await_close(b, fd);
	close(fd);
	close(idle[0]);
	for (int i = 0; i < 20; i++)
		turn(b);
	fd = client_open(b->admin);
	assert_string_equal(ask(b, fd, &in, "GET /small HTTP/1.1\r\nHost: a\r\n\r\n"), "hello\n");
	close(fd);
	for (int i = 1; i < 64; i++)
		close(idle[i]);
	buf_finish(&in);
}

/* Teardown finds them: an idle one, one in the middle of its headers, one that reads nothing of its answer. */
static void stopping_with_live_connections_leaves_nothing(void **state)
{
	struct bench *b = *state;
	struct buf in = {0};
	int fds[3];

	for (int i = 0; i < 3; i++)
		fds[i] = client_open(b->admin);
	ask(b, fds[0], &in, "GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
	assert_int_equal(write(fds[1], "GET /sm", 7), 7);
	assert_int_equal(write(fds[2], "GET /big HTTP/1.1\r\n\r\n", 21), 21);
	for (int i = 0; i < 5; i++)
		turn(b);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	buf_finish(&in);
}

static void an_address_in_use_is_an_error(void **state)
{
	struct bench *b = *state;
	struct err_info info = {0};
	char listen[32];

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", admin_http_port(b->admin));
	assert_int_equal(admin_http_start(&b->loop, listen, paths, 1, b, &b->failed, &info), ERR_IO);
	assert_non_null(strstr(info.text, listen));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_servers_of_a_loop_serve_their_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(head_has_the_length_and_no_body, setup, teardown),
		cmocka_unit_test_setup_teardown(a_page_of_megabytes_comes_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_not_there_is_404_and_other_methods_405, setup, teardown),
		cmocka_unit_test_setup_teardown(an_upgrade_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(connections_are_bounded_and_places_come_back, setup, teardown),
		cmocka_unit_test_setup_teardown(stopping_with_live_connections_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(an_address_in_use_is_an_error, setup, teardown),
	};

	log_init(LOG_ERROR, LOG_KEY_VALUE, "test", "admin");
	return cmocka_run_group_tests(tests, warm_up, NULL);
}
