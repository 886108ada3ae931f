#include "common/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/log.h"
#include "common/metrics.h"

#define BACKLOG 4096
#define ACCEPTS_PER_TURN 64
#define PAUSE_MS 100 /* after an error that waiting may cure */

struct listener {
	uv_poll_t poll;
	struct loop_uv *loop;
	struct timer resume;
	int fd, spare; /* spare: kept open to be given up when descriptors run out; -1: not got back yet */
	listener_fn on_accept;
	void *ctx;
	bool closing;
};

static struct metric accept_failures = METRIC_INIT(METRIC_COUNTER, "pinion_accept_failures_total", NULL,
                                                   "Connections that could not be accepted for want of a descriptor or memory.");

static int open_spare(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* EMFILE, ENFILE: true where one waiting connection could be let go. */
static bool let_one_go(struct listener *listener)
{
	int fd;

	if (listener->spare < 0)
		return false;
	close(listener->spare);
	fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	listener->spare = open_spare();
	metric_add(&accept_failures, 1);
	return fd >= 0;
}

static bool accept_one(struct listener *listener)
{
	struct sockaddr_storage peer;
	socklen_t n = sizeof(peer);
	int one = 1, fd = accept4(listener->fd, (struct sockaddr *)&peer, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		listener->on_accept(listener->ctx, fd, &peer);
		return true;
	}
	switch (errno) {
	case EAGAIN:
		return false;
	case EMFILE:
	case ENFILE:
		if (let_one_go(listener))
			return true;
		listener_pause(listener, PAUSE_MS);
		return false;
	case ENOMEM:
	case ENOBUFS:
		metric_add(&accept_failures, 1);
		listener_pause(listener, PAUSE_MS);
		return false;
	case EBADF:
	case EINVAL:
	case ENOTSOCK:
		log_error("listener", "accept_failed", "why", strerror(errno), NULL);
		listener_pause(listener, PAUSE_MS);
		return false;
	default: /* the connection's own: ECONNABORTED, EPROTO, EPERM, network errors (accept(2)) */
		return true;
	}
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct listener *listener = poll->data;

	if (listener->spare < 0)
		listener->spare = open_spare();
	for (int i = 0; i < ACCEPTS_PER_TURN; i++)
		if (listener->closing || timer_is_set(&listener->resume) || !accept_one(listener))
			return;
}

static void on_resume(struct timer *timer)
{
	struct listener *listener = (struct listener *)((char *)timer - offsetof(struct listener, resume));

	uv_poll_start(&listener->poll, UV_READABLE, on_readable);
}

void listener_pause(struct listener *listener, uint32_t ms)
{
	if (listener->closing)
		return;
	uv_poll_stop(&listener->poll);
	timer_set(&listener->loop->loop, &listener->resume, ms);
}

static int open_socket(const struct addrinfo *at, enum listener_kind kind)
{
	int one = 1, zero = 0, saved, fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (kind == LISTENER_SHARED)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (at->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

static enum err open_address(const char *host, uint16_t port, enum listener_kind kind, int *fd, struct err_info *info)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
			*found = NULL;
	char service[8];
	int failed;

	snprintf(service, sizeof(service), "%u", port);
	failed = getaddrinfo(host[0] ? host : NULL, service, &hints, &found);
	if (failed)
		return err_set(info, ERR_IO, "%s: %s", host, gai_strerror(failed));
	*fd = open_socket(found, kind);
	freeaddrinfo(found);
	return *fd >= 0 ? ERR_OK : err_set_errno(info, ERR_IO, errno, "can't listen at %s:%u", host, port);
}

enum err listener_create(struct loop_uv *loop, const char *host, uint16_t port, enum listener_kind kind, listener_fn on_accept,
                         void *ctx, struct listener **out, struct err_info *info)
{
	struct listener *listener;
	int fd = -1;
	enum err code = open_address(host, port, kind, &fd, info);

	*out = NULL;
	if (code != ERR_OK)
		return code;
	listener = calloc(1, sizeof(*listener));
	if (!listener)
		abort();
	listener->loop = loop;
	listener->fd = fd;
	listener->spare = open_spare();
	listener->on_accept = on_accept;
	listener->ctx = ctx;
	listener->resume.fn = on_resume;
	metric_register(&accept_failures);
	if (uv_poll_init(loop->uv, &listener->poll, fd) != 0) {
		close(fd);
		close(listener->spare);
		free(listener);
		return err_set(info, ERR_IO, "the loop does not take the listening socket");
	}
	listener->poll.data = listener;
	uv_poll_start(&listener->poll, UV_READABLE, on_readable);
	*out = listener;
	return ERR_OK;
}

uint16_t listener_port(const struct listener *listener)
{
	union {
		struct sockaddr any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
	} at = {.six = {0}};
	socklen_t n = sizeof(at);

	if (getsockname(listener->fd, &at.any, &n) != 0)
		return 0;
	return ntohs(at.any.sa_family == AF_INET6 ? at.six.sin6_port : at.four.sin_port);
}

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void listener_close(struct listener *listener)
{
	if (!listener || listener->closing)
		return;
	listener->closing = true;
	timer_cancel(&listener->loop->loop, &listener->resume);
	uv_close((uv_handle_t *)&listener->poll, on_closed);
	close(listener->fd);
	if (listener->spare >= 0)
		close(listener->spare);
	listener->fd = listener->spare = -1;
}
