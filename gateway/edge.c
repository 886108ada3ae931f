/*
 * The edge's outer life: its context in libwebsockets, its listener, its caps. Conversation is in ws_edge.c and http_edge.c.
 *
 * libwebsockets runs on our uv loop ("foreign loop"), with its vhost made apart from its context, so that errors show, and
 * with our own listener: its own spins when descriptors run out. Source: lws's READMEs "event-loops-intro", "event-libs".
 */
#include "gateway/edge_private.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/log.h"

#define HEADER_BYTES 16384    /* a token of 8 KiB and what else there is */
#define RX_BYTES 1024         /* 2.4 KB resident an idle connection; 4096 costs 5.7 */
#define TX_BYTES (256 * 1024) /* at least what one write packs */
#define EVICT_AFTER_MS 1000   /* an honest request is here well before */
#define PAUSE_MS 20

static struct metric connections = METRIC_INIT(METRIC_GAUGE, "pinion_gateway_sockets", NULL,
                                               "Sockets of the public port, upgraded or not.");
static struct metric accepted = METRIC_INIT(METRIC_COUNTER, "pinion_gateway_accepted_total", NULL,
                                            "Connections accepted at the public port.");
static struct metric cut =
	METRIC_INIT(METRIC_COUNTER, "pinion_gateway_cut_total", NULL,
                    "Connections closed unanswered, being above the hard cap or the oldest of too many silent ones.");

static struct lws_protocols protocols[] = {
	/* also serves HTTP; no header Sec-WebSocket-Protocol gives this one */
	{.name = "pinion.v1", .callback = ws_edge_callback, .rx_buffer_size = RX_BYTES, .tx_packet_size = TX_BYTES},
	{0},
};

static const lws_retry_bo_t no_pings; /* zeroed: lws sends none of its own */

/* ---- connections ---- */

static void format_peer(char out[INET6_ADDRSTRLEN], const struct sockaddr_storage *peer)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)peer;
	const struct sockaddr_in *four = (const struct sockaddr_in *)peer;

	if (peer->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
		inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], out, INET6_ADDRSTRLEN);
	else if (peer->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &six->sin6_addr, out, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET, &four->sin_addr, out, INET6_ADDRSTRLEN);
}

static void count(struct edge *edge, int change)
{
	edge->n_conns += (size_t)change;
	metric_set(&connections, (double)edge->n_conns);
}

static struct conn *conn_create(struct edge *edge, const struct sockaddr_storage *peer)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		abort();
	conn->edge = edge;
	conn->state = CONN_OPENING;
	conn->reading = true;
	conn->since_ms = conn->alive_ms = loop_now(&edge->loop->loop);
	conn->timer.fn = conn_on_timer;
	format_peer(conn->peer, peer);
	conn->older = edge->newest;
	if (edge->newest)
		edge->newest->newer = conn;
	else
		edge->oldest = conn;
	edge->newest = conn;
	edge->n_opening++;
	count(edge, 1);
	return conn;
}

void conn_leave_opening(struct conn *conn)
{
	struct edge *edge = conn->edge;

	if (conn->state != CONN_OPENING)
		return;
	*(conn->older ? &conn->older->newer : &edge->oldest) = conn->newer;
	*(conn->newer ? &conn->newer->older : &edge->newest) = conn->older;
	conn->older = conn->newer = NULL;
	edge->n_opening--;
	conn->state = CONN_GONE;
}

void conn_destroy(struct conn *conn)
{
	conn_leave_opening(conn);
	timer_cancel(&conn->edge->loop->loop, &conn->timer);
	count(conn->edge, -1);
	buf_finish(&conn->message);
	free(conn->upgrade);
	free(conn->reason);
	free(conn);
}

static void judge(struct conn *conn)
{
	struct edge *edge = conn->edge;
	uint64_t wait_ms;

	if (edge->n_conns > edge->config.max_connections) {
		conn->refusal = ERR_OVERLOADED;
		conn->retry_after_s = 5;
	} else if (edge->rate && !address_rate_take(edge->rate, conn->peer, conn->since_ms, &wait_ms)) {
		conn->refusal = ERR_RATE_LIMITED;
		conn->retry_after_s = (unsigned)(wait_ms / 1000) + 1;
	}
}

/* Makes room among those that have said nothing yet. */
static void bound_opening(struct edge *edge)
{
	uint64_t now_ms = loop_now(&edge->loop->loop);
	struct conn *oldest;

	if (edge->n_opening < OPENING_MAX)
		return;
	if (now_ms - edge->oldest->since_ms < EVICT_AFTER_MS) {
		listener_pause(edge->listener, PAUSE_MS);
		return;
	}
	metric_add(&cut, 1);
	oldest = edge->oldest;
	conn_leave_opening(oldest);
	conn_kill(oldest);
}

void edge_adopt(void *ctx, int fd, const struct sockaddr_storage *peer)
{
	struct edge *edge = ctx;
	struct conn *conn;
	lws_adopt_desc_t desc = {.vh = edge->vhost,
	                         .type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP | LWS_ADOPT_ALLOW_SSL,
	                         .fd.sockfd = fd};

	if (edge->n_conns >= (size_t)edge->config.max_connections + HARD_EXTRA) {
		metric_add(&cut, 1);
		close(fd);
		return;
	}
	bound_opening(edge);
	metric_add(&accepted, 1);
	conn = conn_create(edge, peer);
	judge(conn);
	timer_set(&edge->loop->loop, &conn->timer, OPENING_MS);
	desc.opaque = conn;
	edge->wsi_created = false;
	/* where it fails after having made the wsi, that one's destruction frees the connection */
	if (!lws_adopt_descriptor_vhost_via_info(&desc) && !edge->wsi_created)
		conn_destroy(conn);
}

/* ---- the context ---- */

static struct token_bucket lws_budget; /* lines a second from lws: the library's log knows no context */
static struct loop *lws_clock;

static void on_lws_log(int level, const char *line)
{
	char text[256];

	if (!lws_clock || !token_bucket_take(&lws_budget, 1, loop_now(lws_clock)))
		return;
	snprintf(text, sizeof(text), "%s", line);
	text[strcspn(text, "\n")] = 0;
	log_warn("lws", "message", "text", text, NULL);
}

static enum err open_context(struct edge *edge, struct err_info *info)
{
	void *loops[] = {edge->loop->uv};
	struct lws_context_creation_info context = {
		.port = CONTEXT_PORT_NO_LISTEN_SERVER,
		.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
	                   LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME |
	                   (edge->config.tls_cert ? LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT : 0),
		.foreign_loops = loops,
		.pcontext = &edge->context,
		.max_http_header_data2 = HEADER_BYTES,
		.token_limits = &edge->token_limits,
		.timeout_secs = OPENING_MS / 1000,
		.gid = (gid_t)-1,
		.uid = (uid_t)-1,
	};

	edge->token_limits.token_limit[WSI_TOKEN_PROTOCOL] = 126; /* SUBPROTOCOL_LIST_MAX */
	edge->context = lws_create_context(&context);
	return edge->context ? ERR_OK
	                     : err_set(info, ERR_INTERNAL, "libwebsockets does not start (is its libuv plugin installed?)");
}

static enum err open_vhost(struct edge *edge, struct err_info *info)
{
	struct lws_context_creation_info vhost = {
		.port = CONTEXT_PORT_NO_LISTEN_SERVER,
		.vhost_name = "public",
		.protocols = protocols,
		.retry_and_idle_policy = &no_pings,
		.timeout_secs_ah_idle = OPENING_MS / 1000,
		.keepalive_timeout = OPENING_MS / 1000,
		.options = edge->config.tls_cert ? LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT : 0,
		.ssl_cert_filepath = edge->config.tls_cert,
		.ssl_private_key_filepath = edge->config.tls_key,
		.ssl_options_set = SSL_OP_NO_SSLv3 | SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 | SSL_OP_NO_RENEGOTIATION |
	                           SSL_OP_NO_COMPRESSION,
		.alpn = "http/1.1",
		.user = edge,
	};

	edge->vhost = lws_create_vhost(edge->context, &vhost);
	return edge->vhost ? ERR_OK : err_set(info, ERR_CONFIG, "libwebsockets does not take the TLS settings");
}

static const char *tls_why(void)
{
	const char *why = ERR_reason_error_string(ERR_peek_last_error());

	ERR_clear_error();
	return why ? why : "unknown";
}

enum err tls_files_check(const char *cert, const char *key, struct err_info *info)
{
	SSL_CTX *scratch = SSL_CTX_new(TLS_server_method());
	enum err code = ERR_OK;

	if (!scratch)
		return err_set(info, ERR_INTERNAL, "OpenSSL does not start: %s", tls_why());
	if (SSL_CTX_use_certificate_chain_file(scratch, cert) != 1)
		code = err_set(info, ERR_CONFIG, "tls-cert %s: %s", cert, tls_why());
	else if (SSL_CTX_use_PrivateKey_file(scratch, key, SSL_FILETYPE_PEM) != 1)
		code = err_set(info, ERR_CONFIG, "tls-key %s: %s", key, tls_why());
	else if (SSL_CTX_check_private_key(scratch) != 1)
		code = err_set(info, ERR_CONFIG, "tls-cert %s and tls-key %s don't go together: %s", cert, key, tls_why());
	SSL_CTX_free(scratch);
	return code;
}

static enum err open_all(struct edge *edge, struct err_info *info)
{
	enum err code = ERR_OK;

	if (edge->config.tls_cert)
		code = tls_files_check(edge->config.tls_cert, edge->config.tls_key, info);
	if (code == ERR_OK)
		code = open_context(edge, info);
	if (code == ERR_OK)
		code = open_vhost(edge, info);
	if (code == ERR_OK)
		code = listener_create(edge->loop, edge->config.host, edge->config.port, LISTENER_SHARED, edge_adopt, edge,
		                       &edge->listener, info);
	if (code == ERR_OK)
		edge->port = listener_port(edge->listener);
	return code;
}

enum err edge_create(struct loop_uv *loop, const struct edge_config *config, struct core *core, struct auth *auth,
                     struct edge **out, struct err_info *info)
{
	struct edge *edge = calloc(1, sizeof(*edge));
	enum err code;

	if (!edge)
		abort();
	edge->loop = loop;
	edge->config = *config;
	edge->core = core;
	edge->auth = auth;
	if (config->connects_per_s)
		edge->rate = address_rate_create(config->connects_per_s);
	token_bucket_init(&edge->log_budget, 10, 50, loop_now(&loop->loop));
	token_bucket_init(&lws_budget, 5, 20, loop_now(&loop->loop));
	lws_clock = &loop->loop;
	lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
	metric_register(&connections);
	metric_register(&accepted);
	metric_register(&cut);
	http_edge_init(edge);
	code = open_all(edge, info);
	*out = edge; /* also where it failed: closing runs on the loop */
	return code;
}

uint16_t edge_port(const struct edge *edge)
{
	return edge->port;
}

size_t edge_connections(const struct edge *edge)
{
	return edge->n_conns;
}

void edge_stop_accepting(struct edge *edge)
{
	if (!edge)
		return;
	listener_close(edge->listener);
	edge->listener = NULL;
}

void edge_close(struct edge *edge)
{
	if (!edge)
		return;
	edge_stop_accepting(edge);
	if (edge->context)
		lws_context_destroy(edge->context); /* begins: handles close on the loop */
}

void edge_destroy(struct edge *edge)
{
	if (!edge)
		return;
	if (edge->context)
		lws_context_destroy(edge->context); /* ends */
	address_rate_destroy(edge->rate);
	buf_finish(&edge->out);
	lws_clock = NULL;
	free(edge);
}
