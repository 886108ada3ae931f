/*
 * What is answered at the public port before, or instead of, a WebSocket. libwebsockets closes the connection after each answer:
 * its keep-alive path has corners (a second request with an unknown Upgrade) that are not worth the saving.
 */
#include "gateway/edge_private.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include "common/json.h"
#include "common/log.h"
#include "gateway/answer.h"
#include "gateway/http_request.h"
#include "gateway/page.h"

#define PAGE_POLICY                                                                                                                    \
	"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " \
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n"

#define REFUSAL_CODES(X)                                          \
	X(ERR_UNSUPPORTED_SUBPROTOCOL, "unsupported_subprotocol") \
	X(ERR_BAD_REQUEST, "bad_request")                         \
	X(ERR_TOKEN_MISSING, "token_missing")                     \
	X(ERR_TOKEN_INVALID, "token_invalid")                     \
	X(ERR_TOKEN_EXPIRED, "token_expired")                     \
	X(ERR_ISSUER_MISMATCH, "issuer_mismatch")                 \
	X(ERR_AUDIENCE_MISMATCH, "audience_mismatch")             \
	X(ERR_INVALID_USER_ID, "invalid_user_id")                 \
	X(ERR_ORIGIN_NOT_ALLOWED, "origin_not_allowed")           \
	X(ERR_NOT_FOUND, "not_found")                             \
	X(ERR_TOO_MANY_CONNECTIONS, "too_many_connections")       \
	X(ERR_RATE_LIMITED, "rate_limited")                       \
	X(ERR_NO_WORKER, "no_worker")                             \
	X(ERR_DRAINING, "draining")                               \
	X(ERR_OVERLOADED, "overloaded")

static struct metric refusals[ERR_COUNT_] = {
#define X(symbol, name)                                                                                   \
	[symbol] = METRIC_INIT(METRIC_COUNTER, "pinion_gateway_http_refusals_total", "code=\"" name "\"", \
	                       "Requests refused at the public port, by code."),
	REFUSAL_CODES(X)
#undef X
};

void http_edge_init(struct edge *edge)
{
	for (size_t i = 0; i < ERR_COUNT_; i++)
		if (refusals[i].name)
			metric_register(&refusals[i]);
}

/* ---- reading the request ---- */

/* A header's whole value; several of one name come joined by commas. Empty where there is none. The caller frees p. */
static struct str header(struct conn *conn, enum lws_token_indexes which)
{
	int n = lws_hdr_total_length(conn->wsi, which);
	char *text = malloc((size_t)(n > 0 ? n : 0) + 1);

	if (!text)
		abort();
	if (n > 0)
		n = lws_hdr_copy(conn->wsi, text, n + 1, which);
	return str_of(text, n > 0 ? (size_t)n : 0);
}

static void header_free(struct str value)
{
	free((char *)value.p);
}

struct target {
	int method; /* LWSHUMETH_… */
	struct str path;
};

static struct target target_of(struct conn *conn)
{
	char *path = NULL;
	int n = 0, method = lws_http_get_uri_and_method(conn->wsi, &path, &n);

	return (struct target){method, str_of(path, method >= 0 && n > 0 ? (size_t)n : 0)};
}

/* ---- answering ---- */

static void begin_answer(struct edge *edge)
{
	static const char room[LWS_PRE];

	buf_clear(&edge->out);
	buf_append(&edge->out, room, sizeof(room));
}

static void send_answer(struct conn *conn)
{
	struct edge *edge = conn->edge;
	size_t n = edge->out.n - LWS_PRE;
	int room = (int)n;

	if (n > 16384) /* so that it all fits and the connection can be closed behind it */
		setsockopt(lws_get_socket_fd(conn->wsi), SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (lws_write(conn->wsi, (unsigned char *)edge->out.p + LWS_PRE, n, LWS_WRITE_HTTP) < 0)
		log_debug("edge", "answer_not_sent", "peer", conn->peer, NULL);
}

static void log_refusal(struct conn *conn, enum err code, unsigned status, const char *detail)
{
	struct edge *edge = conn->edge;

	if (refusals[code].name)
		metric_add(&refusals[code], 1);
	if (token_bucket_take(&edge->log_budget, 1, loop_now(&edge->loop->loop)))
		log_info("edge", "refused", "peer", conn->peer, "status", LOG_U64(status), "code", err_name(code), "why",
		         detail && detail[0] ? detail : err_text(code), NULL);
}

static void refuse_as(struct conn *conn, enum err code, unsigned status, const char *detail, unsigned retry_after_s,
                      const char *extra)
{
	log_refusal(conn, code, status, detail);
	begin_answer(conn->edge);
	http_refusal_write(&conn->edge->out, code, status, detail, retry_after_s, extra,
	                   target_of(conn).method == LWSHUMETH_HEAD);
	send_answer(conn);
}

static void refuse(struct conn *conn, const struct err_info *why, unsigned retry_after_s)
{
	unsigned status = http_status_of(why->code);

	/* a refusal that is ours tells nobody more than that */
	if (status == 500)
		log_error("edge", "refused_internal", "code", err_name(why->code), "why", why->text, NULL);
	refuse_as(conn, status == 500 ? ERR_INTERNAL : why->code, status, status == 500 ? NULL : why->text,
	          status == 503 && !retry_after_s ? 1 : retry_after_s, NULL);
}

/* ---- who is it ---- */

static enum err identify(struct conn *conn, struct str authorization, struct identity *out, struct err_info *info)
{
	struct edge *edge = conn->edge;
	struct str token;
	enum err code = bearer_token(authorization, &token, info);

	if (code != ERR_OK)
		return code;
	if (!auth_is_ready(edge->auth))
		return err_set(info, ERR_OVERLOADED, "the keys that tokens are verified with are not here yet");
	return auth_verify(edge->auth, token, (int64_t)(loop_wall(&edge->loop->loop) / 1000), out, info);
}

/* ---- the upgrade ---- */

static enum err bad(struct err_info *info, const char *what)
{
	return err_set(info, ERR_BAD_REQUEST, "%s", what);
}

static enum err check_one_host(struct conn *conn, struct err_info *info)
{
	struct str host = header(conn, WSI_TOKEN_HOST);
	bool one = host.n > 0 && !memchr(host.p, ',', host.n);

	header_free(host);
	return one ? ERR_OK : bad(info, "one Host header is needed");
}

static enum err check_handshake(struct conn *conn, struct err_info *info)
{
	struct str version = header(conn, WSI_TOKEN_VERSION), key = header(conn, WSI_TOKEN_KEY);
	struct str http = header(conn, WSI_TOKEN_HTTP), connection = header(conn, WSI_TOKEN_CONNECTION);
	enum err code = check_one_host(conn, info);

	if (code == ERR_OK && !str_eq_c(http, "HTTP/1.1"))
		code = bad(info, "a WebSocket needs HTTP/1.1");
	/* lws copies the header into 128 bytes and drops the socket beyond */
	if (code == ERR_OK && (connection.n > 126 || !header_has_token(connection, "upgrade")))
		code = bad(info, "a WebSocket needs Connection: Upgrade");
	if (code == ERR_OK && !str_eq_c(version, "13"))
		code = bad(info, "WebSocket version 13 is spoken here");
	if (code == ERR_OK && !websocket_key_is_valid(key))
		code = bad(info, "Sec-WebSocket-Key is no base64 of 16 bytes");
	header_free(version);
	header_free(key);
	header_free(http);
	header_free(connection);
	return code;
}

static enum err check_subprotocol(struct conn *conn, struct err_info *info)
{
	struct str list = header(conn, WSI_TOKEN_PROTOCOL);
	enum offer offer = subprotocol_offer(list);

	header_free(list);
	switch (offer) {
	case OFFER_NONE:
	case OFFER_OURS:
		return ERR_OK;
	case OFFER_MALFORMED:
		return bad(info, "Sec-WebSocket-Protocol is no list of names");
	case OFFER_UNREACHED:
		return err_set(info, ERR_UNSUPPORTED_SUBPROTOCOL,
		               "offer pinion.v1 first: it is looked for in the first %d bytes, and not behind "
		               "a name of more than %d",
		               SUBPROTOCOL_LIST_MAX, SUBPROTOCOL_NAME_MAX);
	default:
		return err_set(info, ERR_UNSUPPORTED_SUBPROTOCOL, NULL);
	}
}

static enum err check_origin(struct conn *conn, struct err_info *info)
{
	const struct edge_config *config = &conn->edge->config;
	struct str origin = header(conn, WSI_TOKEN_ORIGIN), host = header(conn, WSI_TOKEN_HOST);
	bool fine = origin.n == 0 || origin_is_allowed(origin, host, config->tls_cert != NULL, &config->allow_origin);

	header_free(origin);
	header_free(host);
	return fine ? ERR_OK : err_set(info, ERR_ORIGIN_NOT_ALLOWED, NULL);
}

static enum err read_query(struct conn *conn, struct upgrade *upgrade, struct err_info *info)
{
	struct query query = {0};
	int all = lws_hdr_total_length(conn->wsi, WSI_TOKEN_HTTP_URI_ARGS), n;
	char *argument;
	enum err code = ERR_OK;

	if (all <= 0)
		return ERR_OK;
	argument = malloc((size_t)all + 1);
	if (!argument)
		abort();
	for (int i = 0; code == ERR_OK; i++) {
		n = lws_hdr_copy_fragment(conn->wsi, argument, all + 1, WSI_TOKEN_HTTP_URI_ARGS, i);
		if (n < 0)
			break;
		code = query_take(&query, str_of(argument, (size_t)n), info);
	}
	free(argument);
	upgrade->has_last_seq = query.has_last_seq;
	upgrade->last_seq = query.last_seq;
	return code;
}

static enum err read_identity(struct conn *conn, struct upgrade *upgrade, struct err_info *info)
{
	struct str authorization = header(conn, WSI_TOKEN_HTTP_AUTHORIZATION);
	enum err code = ERR_OK;

	if (authorization.n) {
		code = identify(conn, authorization, &upgrade->identity, info);
		upgrade->has_identity = code == ERR_OK;
	}
	header_free(authorization);
	return code;
}

static enum err decide(struct conn *conn, struct upgrade *upgrade, unsigned *retry_after_s, struct err_info *info)
{
	enum err code = check_handshake(conn, info);

	if (code == ERR_OK)
		code = check_origin(conn, info);
	if (code == ERR_OK)
		code = check_subprotocol(conn, info);
	if (code == ERR_OK)
		code = read_query(conn, upgrade, info);
	if (code == ERR_OK)
		code = read_identity(conn, upgrade, info);
	if (code == ERR_OK)
		code = session_admit(conn->edge->core, upgrade->has_identity ? &upgrade->identity : NULL, conn->peer,
		                     retry_after_s, info);
	if (code != ERR_OK && info->code != code)
		return err_set(info, code, NULL);
	return code;
}

static bool refused_at_accept(struct conn *conn)
{
	if (conn->refusal == ERR_OK)
		return false;
	refuse_as(conn, conn->refusal, http_status_of(conn->refusal), NULL, conn->retry_after_s, NULL);
	return true;
}

bool http_edge_upgrade(struct conn *conn)
{
	struct target target = target_of(conn);
	struct err_info info = {0};
	unsigned retry_after_s = 0;

	if (refused_at_accept(conn))
		return false;
	if (!str_eq_c(target.path, "/ws")) {
		refuse_as(conn, ERR_NOT_FOUND, 404, "WebSockets are at /ws", 0, NULL);
		return false;
	}
	if (target.method != LWSHUMETH_GET) {
		refuse_as(conn, ERR_BAD_REQUEST, 405, "a WebSocket is opened by GET", 0, "Allow: GET\r\n");
		return false;
	}
	conn->upgrade = calloc(1, sizeof(*conn->upgrade));
	if (!conn->upgrade)
		abort();
	if (decide(conn, conn->upgrade, &retry_after_s, &info) != ERR_OK) {
		refuse(conn, &info, retry_after_s);
		return false;
	}
	return true;
}

/* ---- other requests ---- */

static void answer_whoami(struct conn *conn, bool head)
{
	struct str authorization = header(conn, WSI_TOKEN_HTTP_AUTHORIZATION);
	struct identity identity = {0};
	struct err_info info = {0};
	struct buf body = {0};
	char ts[TIMESTAMP_MAX];
	enum err code;

	if (authorization.n == 0)
		code = err_set(&info, ERR_TOKEN_MISSING, NULL);
	else
		code = identify(conn, authorization, &identity, &info);
	header_free(authorization);
	if (code != ERR_OK) {
		refuse(conn, &info, 0);
		return;
	}
	buf_printf(&body, "{\"user_id\":\"%s\",\"expires_at\":\"%s\"}", identity.user.s,
	           answer_timestamp(ts, (uint64_t)(identity.expires_s > 0 ? identity.expires_s : 0) * 1000));
	begin_answer(conn->edge);
	http_reply_write(&conn->edge->out, &(struct http_reply){.status = 200,
	                                                        .content_type = "application/json",
	                                                        .body = buf_str(&body),
	                                                        .head = head,
	                                                        .extra = "Cache-Control: no-store\r\n"});
	send_answer(conn);
	buf_finish(&body);
}

static const char *content_type_of(const char *name)
{
	static const struct {
		const char *suffix, *type;
	} types[] = {
		{".html", "text/html; charset=utf-8"},
		{".js", "text/javascript; charset=utf-8"},
		{".css", "text/css; charset=utf-8"},
		{".svg", "image/svg+xml"},
		{".png", "image/png"},
		{".ico", "image/x-icon"},
		{".json", "application/json"},
		{".webmanifest", "application/manifest+json"},
	};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot && i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(dot, types[i].suffix) == 0)
			return types[i].type;
	return "application/octet-stream";
}

static const struct page_file *find_page(struct str path)
{
	struct str name = path.n == 1 ? str_c("index.html") : str_of(path.p + 1, path.n - 1);

	for (size_t i = 0; i < page_file_count; i++)
		if (str_eq_c(name, page_files[i].name))
			return &page_files[i];
	return NULL;
}

static void answer_page(struct conn *conn, const struct page_file *file, bool head)
{
	struct str known = header(conn, WSI_TOKEN_HTTP_IF_NONE_MATCH);
	struct http_reply reply = {.status = 200, .content_type = content_type_of(file->name), .head = head};
	struct buf extra = {0};

	reply.body = str_of((const char *)file->p, file->n);
	buf_printf(&extra, PAGE_POLICY "ETag: %s\r\n", file->etag);
	buf_append(&extra, "", 1);
	reply.extra = extra.p;
	if (known.n && memmem(known.p, known.n, file->etag, strlen(file->etag))) {
		reply.status = 304;
		reply.head = true;
	}
	begin_answer(conn->edge);
	http_reply_write(&conn->edge->out, &reply);
	send_answer(conn);
	buf_finish(&extra);
	header_free(known);
}

void http_edge_respond(struct conn *conn)
{
	struct target target = target_of(conn);
	bool head = target.method == LWSHUMETH_HEAD, get = target.method == LWSHUMETH_GET || head;
	const struct page_file *file = conn->edge->config.page && target.path.n && target.path.p[0] == '/'
	                                       ? find_page(target.path)
	                                       : NULL;
	bool whoami = str_eq_c(target.path, "/v1/whoami"), ws = str_eq_c(target.path, "/ws");
	struct err_info info = {0};

	if (refused_at_accept(conn))
		return;
	if (!file && !whoami && !ws)
		refuse_as(conn, ERR_NOT_FOUND, 404, "there is nothing here", 0, NULL);
	else if (!get)
		refuse_as(conn, ERR_BAD_REQUEST, 405, "only GET and HEAD are answered here", 0, "Allow: GET, HEAD\r\n");
	else if (check_one_host(conn, &info) != ERR_OK)
		refuse(conn, &info, 0);
	else if (ws)
		refuse_as(conn, ERR_BAD_REQUEST, 400, "this is a WebSocket: the request has no Upgrade: websocket", 0,
		          "Upgrade: websocket\r\n");
	else if (whoami)
		answer_whoami(conn, head);
	else
		answer_page(conn, file, head);
}
