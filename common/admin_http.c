/*
 * admin_http.c - the admin port on libwebsockets.
 *
 * Source: libwebsockets 4.1.6, READMEs "event-loops-intro" and "http"; its own listener spins when descriptors run out. An
 * answer is one buffer: room for lws (LWS_PRE), then the body, written in pieces as the socket takes them. The context is
 * destroyed twice, before and after the loop has closed what lws had on it.
 */
#include "common/admin_http.h"

#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/config.h"
#include "common/listener.h"
#include "common/log.h"
#include "common/token_bucket.h"

enum {
	CONNECTIONS_MAX = 64,
	TIMEOUT_S = 10,
	WRITE_MAX = 16384,
	HEADERS_MAX = 1024,
};

struct admin_http {
	struct loop_uv *loop;
	const struct admin_path *paths;
	size_t n_paths;
	void *ctx;
	struct lws_context *context;
	struct lws_vhost *vhost;
	struct listener *listener;
	size_t connections;
	bool stopped;
};

/* Of a connection; lws owns it, zeroed at first. */
struct exchange {
	struct buf answer; /* LWS_PRE bytes, then the body */
	size_t sent;
};

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n);

static const struct lws_protocols protocols[] = {
	{.name = "admin", .callback = on_lws, .per_session_data_size = sizeof(struct exchange), .tx_packet_size = WRITE_MAX},
	{0},
};

/* ---- answers ---- */

static const char *status_title(unsigned status)
{
	switch (status) {
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	default:
		return "Internal Server Error";
	}
}

static const char *problem(struct buf *out, unsigned status)
{
	buf_printf(out, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u}\n", status_title(status), status);
	return "application/problem+json";
}

static bool is_method(struct lws *wsi, enum lws_token_indexes token)
{
	return lws_hdr_total_length(wsi, token) > 0;
}

static bool header_add(struct lws *wsi, const char *name, const char *value, uint8_t **p, uint8_t *end)
{
	return lws_add_http_header_by_name(wsi, (const uint8_t *)name, (const uint8_t *)value, (int)strlen(value), p, end) == 0;
}

/* Headers of an answer whose body has n bytes. */
static bool headers_write(struct lws *wsi, unsigned status, const char *type, size_t n)
{
	uint8_t memory[LWS_PRE + HEADERS_MAX], *start = memory + LWS_PRE, *p = start, *end = memory + sizeof(memory) - 1;

	if (lws_add_http_common_headers(wsi, status, type, n, &p, end) != 0)
		return false;
	if (!header_add(wsi, "cache-control:", "no-store", &p, end) ||
	    !header_add(wsi, "x-content-type-options:", "nosniff", &p, end))
		return false;
	if (status == 405 && !header_add(wsi, "allow:", "GET, HEAD", &p, end))
		return false;
	return lws_finalize_write_http_header(wsi, start, &p, end) == 0;
}

static unsigned answer_fill(struct admin_http *admin, struct str path, bool allowed, struct buf *out, const char **type)
{
	const struct admin_path *page = NULL;

	for (size_t i = 0; i < admin->n_paths; i++) {
		if (str_eq_c(path, admin->paths[i].path))
			page = &admin->paths[i];
	}
	if (!page) {
		*type = problem(out, 404);
		return 404;
	}
	if (!allowed) {
		*type = problem(out, 405);
		return 405;
	}
	*type = page->type;
	return page->handle(admin->ctx, out);
}

/* Done with a request: 0 to wait for the next one, -1 to close. */
static int exchange_end(struct lws *wsi, struct exchange *exchange)
{
	buf_finish(&exchange->answer);
	exchange->answer = (struct buf){0};
	exchange->sent = 0;
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int handle_request(struct admin_http *admin, struct lws *wsi, struct exchange *exchange, struct str path)
{
	static const char room[LWS_PRE];
	bool get = is_method(wsi, WSI_TOKEN_GET_URI), head = is_method(wsi, WSI_TOKEN_HEAD_URI);
	const char *type;
	unsigned status;

	buf_clear(&exchange->answer);
	exchange->sent = 0;
	buf_append(&exchange->answer, room, LWS_PRE);
	status = answer_fill(admin, path, get || head, &exchange->answer, &type);
	lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, TIMEOUT_S);
	if (!headers_write(wsi, status, type, exchange->answer.n - LWS_PRE))
		return -1;
	if (head)
		return exchange_end(wsi, exchange);
	lws_callback_on_writable(wsi);
	return 0;
}

static int handle_writeable(struct lws *wsi, struct exchange *exchange)
{
	size_t n = exchange->answer.n > LWS_PRE ? exchange->answer.n - LWS_PRE - exchange->sent : 0;
	bool last = n <= WRITE_MAX;

	if (exchange->answer.n == 0)
		return 0;
	if (!last)
		n = WRITE_MAX;
	if (lws_write(wsi, (uint8_t *)exchange->answer.p + LWS_PRE + exchange->sent, n,
	              last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < 0)
		return -1;
	exchange->sent += n;
	if (last)
		return exchange_end(wsi, exchange);
	lws_callback_on_writable(wsi);
	return 0;
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n)
{
	struct exchange *exchange = user;
	struct lws_vhost *vhost = lws_get_vhost(wsi);
	struct admin_http *admin = vhost ? lws_vhost_user(vhost) : NULL;

	if (!admin)
		return 0;
	switch (reason) {
	case LWS_CALLBACK_WSI_CREATE:
		admin->connections++;
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		admin->connections--;
		return 0;
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
		return -1;
	case LWS_CALLBACK_HTTP:
		return admin->stopped ? -1 : handle_request(admin, wsi, exchange, str_of(in, n));
	case LWS_CALLBACK_HTTP_WRITEABLE:
		return handle_writeable(wsi, exchange);
	case LWS_CALLBACK_CLOSED_HTTP:
	case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
		if (exchange)
			buf_finish(&exchange->answer);
		return 0;
	default:
		return 0;
	}
}

/* ---- the listener ---- */

static void on_accept(void *ctx, int fd, const struct sockaddr_storage *peer)
{
	struct admin_http *admin = ctx;

	if (admin->connections >= CONNECTIONS_MAX)
		close(fd);
	else
		lws_adopt_socket_vhost(admin->vhost, fd); /* closes it where it fails */
}

static enum err listener_open(struct admin_http *admin, const char *listen, struct err_info *info)
{
	char host[256];
	uint16_t port;
	enum err err = config_host_port(listen, host, sizeof(host), &port, info);

	if (err)
		return err;
	err = listener_create(admin->loop, host, port, LISTENER_ALONE, on_accept, admin, &admin->listener, info);
	return err ? err_wrap(info, "admin %s", listen) : ERR_OK;
}

/* ---- the server ---- */

static struct token_bucket lws_lines; /* lws logs for the whole process, without a context */

static void on_lws_log(int level, const char *line)
{
	char text[256];
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!token_bucket_take(&lws_lines, 1, (uint64_t)now.tv_sec * 1000))
		return;
	snprintf(text, sizeof(text), "%s", line);
	text[strcspn(text, "\n")] = 0;
	log_warn("lws", "message", "text", text, NULL);
}

static enum err context_open(struct admin_http *admin, struct err_info *info)
{
	void *loops[] = {admin->loop->uv};
	struct lws_context_creation_info context = {
		.port = CONTEXT_PORT_NO_LISTEN_SERVER,
		.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
	                   LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME,
		.foreign_loops = loops,
		.pcontext = &admin->context,
		.max_http_header_data2 = 8192,
		.max_http_header_pool2 = CONNECTIONS_MAX,
		.timeout_secs = TIMEOUT_S,
		.gid = (gid_t)-1,
		.uid = (uid_t)-1,
	};
	struct lws_context_creation_info vhost = {
		.port = CONTEXT_PORT_NO_LISTEN_SERVER,
		.vhost_name = "admin",
		.protocols = protocols,
		.timeout_secs_ah_idle = TIMEOUT_S,
		.keepalive_timeout = TIMEOUT_S,
		.user = admin,
	};

	admin->context = lws_create_context(&context);
	if (!admin->context)
		return err_set(info, ERR_IO, "libwebsockets does not start (is its libuv plugin installed?)");
	admin->vhost = lws_create_vhost(admin->context, &vhost);
	return admin->vhost ? ERR_OK : err_set(info, ERR_IO, "libwebsockets makes no vhost for the admin port");
}

enum err admin_http_start(struct loop_uv *loop, const char *listen, const struct admin_path *paths, size_t n_paths, void *ctx,
                          struct admin_http **out, struct err_info *info)
{
	struct admin_http *admin = calloc(1, sizeof(*admin));
	enum err err;

	if (!admin)
		abort();
	admin->loop = loop;
	admin->paths = paths;
	admin->n_paths = n_paths;
	admin->ctx = ctx;
	token_bucket_init(&lws_lines, 5, 20, 0);
	lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
	err = context_open(admin, info);
	if (!err)
		err = listener_open(admin, listen, info);
	*out = admin; /* also where it failed: closing runs on the loop */
	return err;
}

uint16_t admin_http_port(const struct admin_http *admin)
{
	return listener_port(admin->listener);
}

void admin_http_stop(struct admin_http *admin)
{
	if (!admin || admin->stopped)
		return;
	admin->stopped = true;
	listener_close(admin->listener);
	if (admin->context)
		lws_context_destroy(admin->context); /* begins: its handles close on the loop */
}

void admin_http_free(struct admin_http *admin)
{
	if (!admin)
		return;
	if (admin->context)
		lws_context_destroy(admin->context); /* ends */
	free(admin);
}
