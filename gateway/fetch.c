#include "gateway/fetch.h"

#include <curl/curl.h>
#include <stdlib.h>
#include "common/bytes.h"

struct fetch {
	struct loop_uv *loop;
	CURLM *multi;
	CURL *easy; /* NULL: idle */
	struct timer timer;
	struct buf body;
	char why[CURL_ERROR_SIZE];
	void (*done)(void *ctx, enum err err, struct str body, const char *why);
	void *ctx;
};

struct watch {
	uv_poll_t poll;
	struct fetch *fetch;
	curl_socket_t fd;
};

static void finish_transfer(struct fetch *fetch, CURLcode code)
{
	struct buf body = fetch->body;
	long status = 0;
	char why[CURL_ERROR_SIZE + 64];

	curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_multi_remove_handle(fetch->multi, fetch->easy);
	curl_easy_cleanup(fetch->easy);
	fetch->easy = NULL;
	fetch->body = (struct buf){0};
	if (code == CURLE_OK && status == 200) {
		fetch->done(fetch->ctx, ERR_OK, buf_str(&body), NULL);
	} else {
		if (code == CURLE_OK)
			snprintf(why, sizeof(why), "status %ld", status);
		else
			snprintf(why, sizeof(why), "%s", fetch->why[0] ? fetch->why : curl_easy_strerror(code));
		fetch->done(fetch->ctx, ERR_UNAVAILABLE, (struct str){0}, why);
	}
	buf_finish(&body);
}

static void collect(struct fetch *fetch)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(fetch->multi, &left)))
		if (message->msg == CURLMSG_DONE) {
			/* done may start another transfer or destroy the fetcher: take one, then leave */
			finish_transfer(fetch, message->data.result);
			return;
		}
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct watch *watch = poll->data;
	struct fetch *fetch = watch->fetch;
	int running, flags = 0;

	if (status < 0)
		flags = CURL_CSELECT_ERR;
	if (events & UV_READABLE)
		flags |= CURL_CSELECT_IN;
	if (events & UV_WRITABLE)
		flags |= CURL_CSELECT_OUT;
	curl_multi_socket_action(fetch->multi, watch->fd, flags, &running);
	collect(fetch);
}

static void on_timer(struct timer *timer)
{
	struct fetch *fetch = (struct fetch *)((char *)timer - offsetof(struct fetch, timer));
	int running;

	curl_multi_socket_action(fetch->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	collect(fetch);
}

static int handle_timeout(CURLM *multi, long ms, void *ctx)
{
	struct fetch *fetch = ctx;

	if (ms < 0)
		timer_cancel(&fetch->loop->loop, &fetch->timer);
	else
		timer_set(&fetch->loop->loop, &fetch->timer, (uint64_t)ms);
	return 0;
}

static void on_watch_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static struct watch *watch_create(struct fetch *fetch, curl_socket_t fd)
{
	struct watch *watch = calloc(1, sizeof(*watch));

	if (!watch)
		abort();
	watch->fetch = fetch;
	watch->fd = fd;
	if (uv_poll_init_socket(fetch->loop->uv, &watch->poll, fd) != 0) {
		free(watch);
		return NULL;
	}
	watch->poll.data = watch;
	curl_multi_assign(fetch->multi, fd, watch);
	return watch;
}

static int handle_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *assigned)
{
	struct fetch *fetch = ctx;
	struct watch *watch = assigned;
	int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);

	if (what == CURL_POLL_REMOVE) {
		if (watch) {
			uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
			curl_multi_assign(fetch->multi, fd, NULL);
		}
		return 0;
	}
	if (!watch)
		watch = watch_create(fetch, fd);
	return watch ? uv_poll_start(&watch->poll, events, on_poll) : -1;
}

static size_t handle_body(char *data, size_t size, size_t n, void *ctx)
{
	struct fetch *fetch = ctx;

	if (fetch->body.n + size * n > FETCH_BYTES_MAX) {
		snprintf(fetch->why, sizeof(fetch->why), "the answer is larger than %d bytes", FETCH_BYTES_MAX);
		return 0;
	}
	buf_append(&fetch->body, data, size * n);
	return size * n;
}

struct fetch *fetch_create(struct loop_uv *loop, void (*done)(void *ctx, enum err err, struct str body, const char *why),
                           void *ctx)
{
	struct fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		abort();
	curl_global_init(CURL_GLOBAL_DEFAULT);
	fetch->loop = loop;
	fetch->done = done;
	fetch->ctx = ctx;
	fetch->timer.fn = on_timer;
	fetch->multi = curl_multi_init();
	if (!fetch->multi)
		abort();
	curl_multi_setopt(fetch->multi, CURLMOPT_SOCKETFUNCTION, handle_socket);
	curl_multi_setopt(fetch->multi, CURLMOPT_SOCKETDATA, fetch);
	curl_multi_setopt(fetch->multi, CURLMOPT_TIMERFUNCTION, handle_timeout);
	curl_multi_setopt(fetch->multi, CURLMOPT_TIMERDATA, fetch);
	curl_multi_setopt(fetch->multi, CURLMOPT_MAXCONNECTS, 0L);
	return fetch;
}

bool fetch_url_is_valid(const char *url)
{
	CURLU *parsed = curl_url();
	char *scheme = NULL, *host = NULL;
	bool ok = parsed && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
	          curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	          curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK && host[0] &&
	          (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);

	curl_free(scheme);
	curl_free(host);
	curl_url_cleanup(parsed);
	return ok;
}

void fetch_start(struct fetch *fetch, const char *url)
{
	CURL *easy;

	if (fetch->easy || !(easy = curl_easy_init()))
		return;
	fetch->easy = easy;
	fetch->why[0] = 0;
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, strncasecmp(url, "https:", 6) == 0 ? "https" : "http,https");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 3L);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)FETCH_TIMEOUT_MS);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->why);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, handle_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
	if (curl_multi_add_handle(fetch->multi, easy) != CURLM_OK) {
		curl_easy_cleanup(easy);
		fetch->easy = NULL;
	}
}

bool fetch_is_busy(const struct fetch *fetch)
{
	return fetch->easy != NULL;
}

void fetch_destroy(struct fetch *fetch)
{
	if (!fetch)
		return;
	if (fetch->easy) {
		curl_multi_remove_handle(fetch->multi, fetch->easy);
		curl_easy_cleanup(fetch->easy);
	}
	curl_multi_cleanup(fetch->multi);
	timer_cancel(&fetch->loop->loop, &fetch->timer);
	buf_finish(&fetch->body);
	free(fetch);
	curl_global_cleanup();
}
