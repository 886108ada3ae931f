/*
 * worker_link_nng.c - struct worker_transport on NNG.
 *
 * One REQ socket a link, one context a request in flight (struct flight: a context and its asynchronous operation, pooled).
 * NNG's threads touch a flight only between flight_start and the letter that brings its end back to the loop; all else
 * belongs to the loop's thread. What NNG would do that we must not have:
 *
 *   - it resends requests: RESENDTIME is infinite, so a lost pipe ends its requests with NNG_ECONNRESET;
 *   - without a pipe it keeps requests for the next one: we refuse while down, and when the link goes down every call is
 *     answered at once and its flight cancelled (a flight without a call is one that NNG has yet to let go of);
 *   - a cancel between "sent" and "receiving" is lost: so `cancelled` is looked at again after receiving has begun.
 *
 * Letters come in the order of posting. So the last letter of a link, posted after its socket is closed and its operations
 * have ended, frees it. Publications are received one at a time and not at all while too many wait for the loop.
 *
 * Source: NNG 1.5.2, src/sp/protocol/reqrep0/req.c, src/core/{socket,pipe}.c.
 */
#include "gateway/worker_link.h"

#include <assert.h>
#include <nng/nng.h>
/* its protocols need it first */
#include <nng/protocol/pubsub0/sub.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/link_nng.h"
#include "common/list.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "proto/codec.h"

enum {
	IN_FLIGHT_MAX = 1024, /* contexts of a link */
	WAITING_MAX = 65536,  /* requests of a link that wait for a context; beyond: ERR_TIMEOUT */
	IDLE_KEPT = 64,       /* contexts kept for the next requests */
	BACKLOG_MAX = 4096,   /* publications waiting for the loop */
	BACKLOG_BYTES = 64 << 20,
};

struct flight {
	struct letter letter;
	struct flight *prev, *next; /* in link->busy or link->idle */
	struct worker_link *link;
	struct call *call; /* NULL: was answered, or idle */
	nng_ctx ctx;
	nng_aio *aio;
	bool sent;        /* NNG's: the operation under way is the receive */
	int result;       /* in the letter */
	nng_msg *message; /* in the letter: the reply */
	atomic_bool cancelled;
};

/* A request until it is answered. */
struct call {
	struct call *prev, *next; /* in one of the link's three lists */
	struct call **list;
	struct worker_link *link;
	uint64_t number;
	struct timer timer;
	enum err verdict;      /* when the timer fires */
	nng_msg *message;      /* while waiting for a flight */
	struct flight *flight; /* NULL: waiting, or refused */
};

struct worker_link {
	struct letter last; /* frees the link; its first member */
	struct worker_link *prev, *next;
	struct nng_transport *transport;
	const struct worker_link_events *events;
	void *ctx;
	nng_socket socket;
	bool up, closing;
	pthread_mutex_t gate;     /* between NNG's threads and the closing: NNG 1.5.2 panics when a context is used meanwhile */
	bool is_shut;             /* under the gate */
	uint32_t pipe, lost_pipe; /* ids; a pipe's end can be told before its beginning */
	struct call *waiting, *flying, *refused; /* for a flight; in one; for their timer only */
	struct flight *busy, *idle;
	size_t n_waiting, n_flights, n_idle;
};

struct pipe_letter {
	struct letter letter;
	struct worker_link *link;
	uint32_t pipe;
	bool added;
};

struct publication {
	struct letter letter;
	struct nng_transport *transport;
	nng_msg *message;
};

struct nng_transport {
	struct worker_transport base;
	struct loop_uv *loop;
	struct mailbox mailbox;
	struct link_tls_pem pem;
	struct worker_link *links;
	bool closing; /* no more callbacks but the last completions */
	nng_socket sub;
	nng_aio *sub_aio;
	pthread_mutex_t lock; /* of what follows */
	size_t backlog, backlog_bytes;
	bool paused; /* receiving goes on when the loop has caught up */
};

static struct nng_transport *of(struct worker_transport *base)
{
	return (struct nng_transport *)base; /* its first member */
}

static struct loop *loop_of(struct worker_link *link)
{
	return &link->transport->loop->loop;
}

/* ---- flights ---- */

static void on_flight_letter(struct letter *letter);

/* NNG's thread. False: the socket is closing. */
static bool flight_receive(struct flight *flight)
{
	struct worker_link *link = flight->link;
	bool is_open;

	pthread_mutex_lock(&link->gate);
	is_open = !link->is_shut;
	if (is_open)
		nng_ctx_recv(flight->ctx, flight->aio);
	pthread_mutex_unlock(&link->gate);
	if (is_open && atomic_load(&flight->cancelled))
		nng_aio_cancel(flight->aio);
	return is_open;
}

/* NNG's thread. */
static void on_flight_aio(void *arg)
{
	struct flight *flight = arg;
	nng_msg *unsent;

	flight->result = nng_aio_result(flight->aio);
	if (!flight->sent && flight->result == 0) {
		flight->sent = true;
		if (flight_receive(flight))
			return;
		flight->result = NNG_ECLOSED;
	}
	if (flight->result == 0) {
		flight->message = nng_aio_get_msg(flight->aio);
	} else if (!flight->sent && (unsent = nng_aio_get_msg(flight->aio))) {
		nng_msg_free(unsent);
		nng_aio_set_msg(flight->aio, NULL);
	}
	mailbox_post(&flight->link->transport->mailbox, &flight->letter);
}

static struct flight *flight_create(struct worker_link *link)
{
	struct flight *flight = calloc(1, sizeof(*flight));

	if (!flight)
		abort();
	flight->link = link;
	flight->letter.deliver = on_flight_letter;
	if (nng_ctx_open(&flight->ctx, link->socket) != 0) {
		free(flight);
		return NULL;
	}
	if (nng_aio_alloc(&flight->aio, on_flight_aio, flight) != 0) {
		nng_ctx_close(flight->ctx);
		free(flight);
		return NULL;
	}
	link->n_flights++;
	return flight;
}

/* NNG has nothing of it any more. Where the socket is closed, its contexts are too. */
static void flight_free(struct flight *flight)
{
	struct worker_link *link = flight->link;

	if (!link->closing)
		nng_ctx_close(flight->ctx);
	nng_aio_free(flight->aio); /* waits for the end of its callback */
	link->n_flights--;
	free(flight);
}

/* An idle one or a new one; NULL at the cap. */
static struct flight *flight_take(struct worker_link *link)
{
	struct flight *flight = link->idle;

	if (flight) {
		DL_DELETE(link->idle, flight);
		link->n_idle--;
		return flight;
	}
	return link->n_flights < IN_FLIGHT_MAX ? flight_create(link) : NULL;
}

static void flight_give_back(struct flight *flight)
{
	struct worker_link *link = flight->link;

	DL_DELETE(link->busy, flight);
	if (link->closing || link->n_idle >= IDLE_KEPT) {
		flight_free(flight);
		return;
	}
	DL_PREPEND(link->idle, flight);
	link->n_idle++;
}

static void flight_start(struct flight *flight, nng_msg *request)
{
	DL_APPEND(flight->link->busy, flight);
	flight->sent = false;
	atomic_store(&flight->cancelled, false);
	nng_aio_set_timeout(flight->aio, NNG_DURATION_INFINITE); /* the call's timer decides */
	nng_aio_set_msg(flight->aio, request);
	nng_ctx_send(flight->ctx, flight->aio);
}

/* ---- calls ---- */

static void call_list(struct call *call, struct call **list)
{
	if (call->list)
		DL_DELETE(*call->list, call);
	call->link->n_waiting -= call->list == &call->link->waiting;
	call->list = list;
	if (list)
		DL_APPEND(*list, call);
	call->link->n_waiting += list == &call->link->waiting;
}

/* Answers and frees. The callback may send requests and may close the link; the link itself stays until its last letter. */
static void call_finish(struct call *call, enum err err, struct str message)
{
	struct worker_link *link = call->link;
	uint64_t number = call->number;

	timer_cancel(loop_of(link), &call->timer);
	call_list(call, NULL);
	if (call->flight)
		call->flight->call = NULL;
	if (call->message)
		nng_msg_free(call->message);
	free(call);
	link->events->reply(link->ctx, number, err, message); /* once for each, also while closing: the caller counts on it */
}

/* Answers before NNG does. */
static void call_fail(struct call *call, enum err err)
{
	struct flight *flight = call->flight;

	if (flight) {
		atomic_store(&flight->cancelled, true);
		nng_aio_cancel(flight->aio);
	}
	call_finish(call, err, (struct str){0});
}

static void on_call_timer(struct timer *timer)
{
	struct call *call = (struct call *)((char *)timer - offsetof(struct call, timer));

	call_fail(call, call->verdict);
}

static struct call *call_create(struct worker_link *link, uint64_t number, uint32_t timeout_ms, enum err verdict)
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call)
		abort();
	call->link = link;
	call->number = number;
	call->verdict = verdict;
	call->timer.fn = on_call_timer;
	timer_set(loop_of(link), &call->timer, timeout_ms);
	return call;
}

/* Gives waiting calls the flights that are free. */
static void link_pump(struct worker_link *link)
{
	struct flight *flight;

	while (link->waiting && link->up && !link->closing && (flight = flight_take(link))) {
		struct call *call = link->waiting;
		nng_msg *request = call->message;

		call_list(call, &link->flying);
		call->message = NULL;
		call->flight = flight;
		flight->call = call;
		flight_start(flight, request);
	}
}

static void on_flight_letter(struct letter *letter)
{
	struct flight *flight = (struct flight *)letter; /* its first member */
	struct worker_link *link = flight->link;
	struct call *call = flight->call;
	nng_msg *reply = flight->message;
	int result = flight->result;

	flight->message = NULL;
	flight->call = NULL;
	if (call)
		call->flight = NULL;
	flight_give_back(flight);
	if (call && reply)
		call_finish(call, ERR_OK, str_of(nng_msg_body(reply), nng_msg_len(reply)));
	else if (call)
		call_finish(call, result == NNG_ECLOSED || link->closing ? ERR_CANCELLED : ERR_DISCONNECTED, (struct str){0});
	if (reply)
		nng_msg_free(reply);
	link_pump(link);
}

static enum err refusal(const struct worker_link *link, struct str message)
{
	if (link->closing)
		return ERR_CANCELLED;
	if (message.n > LINK_MESSAGE_MAX)
		return ERR_TOO_LARGE; /* the peer would cut the link */
	if (!link->up)
		return ERR_DISCONNECTED;
	if (link->n_waiting >= WAITING_MAX)
		return ERR_TIMEOUT;
	return ERR_OK;
}

static void request_send(struct worker_link *link, uint64_t number, struct str message, uint32_t timeout_ms)
{
	enum err refused = refusal(link, message);
	struct call *call = call_create(link, number, refused ? 0 : timeout_ms, refused ? refused : ERR_TIMEOUT);

	if (refused) {
		call_list(call, &link->refused);
		return;
	}
	if (nng_msg_alloc(&call->message, message.n) != 0)
		abort();
	if (message.n)
		memcpy(nng_msg_body(call->message), message.p, message.n);
	call_list(call, &link->waiting);
	link_pump(link);
}

/* ---- links ---- */

static void link_down(struct worker_link *link)
{
	link->lost_pipe = link->pipe;
	link->pipe = 0;
	link->up = false;
	while (link->flying && !link->closing)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the one freed has left the list */
		call_fail(link->flying, ERR_DISCONNECTED);
	while (link->waiting && !link->closing)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the one freed has left the list */
		call_fail(link->waiting, ERR_DISCONNECTED);
	if (!link->closing && !link->transport->closing)
		link->events->down(link->ctx);
}

static void link_up(struct worker_link *link, uint32_t pipe)
{
	if (link->up)
		link_down(link);
	if (link->closing)
		return;
	link->up = true;
	link->pipe = pipe;
	if (!link->transport->closing)
		link->events->up(link->ctx);
}

static void on_pipe_letter(struct letter *letter)
{
	struct pipe_letter *event = (struct pipe_letter *)letter; /* its first member */
	struct worker_link *link = event->link;

	if (event->added) {
		if (!link->closing && event->pipe != link->lost_pipe)
			link_up(link, event->pipe);
	} else if (link->up && event->pipe == link->pipe) {
		link_down(link);
	} else {
		link->lost_pipe = event->pipe;
	}
	free(event);
}

/* NNG's thread. */
static void on_pipe(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct worker_link *link = arg;
	struct pipe_letter *event = calloc(1, sizeof(*event));

	if (!event)
		abort();
	event->letter.deliver = on_pipe_letter;
	event->link = link;
	event->pipe = (uint32_t)nng_pipe_id(pipe);
	event->added = ev == NNG_PIPE_EV_ADD_POST;
	mailbox_post(&link->transport->mailbox, &event->letter);
}

static enum err link_connect(struct worker_link *link, const char *url, struct err_info *info)
{
	enum err err = ERR_OK;
	int rv = nng_req0_open(&link->socket);

	if (rv != 0)
		return link_err(info, ERR_IO, rv, url);
	if ((rv = nng_socket_set_ms(link->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE)) != 0 ||
	    (rv = nng_pipe_notify(link->socket, NNG_PIPE_EV_ADD_POST, on_pipe, link)) != 0 ||
	    (rv = nng_pipe_notify(link->socket, NNG_PIPE_EV_REM_POST, on_pipe, link)) != 0)
		err = link_err(info, ERR_IO, rv, url);
	if (!err)
		err = link_dial(link->socket, url, &link->transport->pem, LINK_MESSAGE_MAX, info);
	if (err)
		nng_close(link->socket);
	return err;
}

static enum err link_open(struct worker_transport *base, const char *url, const struct worker_link_events *events, void *ctx,
                          struct worker_link **out, struct err_info *info)
{
	struct nng_transport *transport = of(base);
	struct worker_link *link = calloc(1, sizeof(*link));
	enum err err;

	if (!link)
		return err_set(info, ERR_NO_MEMORY, NULL);
	link->transport = transport;
	link->events = events;
	link->ctx = ctx;
	pthread_mutex_init(&link->gate, NULL);
	err = link_connect(link, url, info);
	if (err) {
		pthread_mutex_destroy(&link->gate);
		free(link);
		return err;
	}
	DL_APPEND(transport->links, link);
	*out = link;
	return ERR_OK;
}

/* All that NNG had has come back before this. */
static void on_last_letter(struct letter *letter)
{
	struct worker_link *link = (struct worker_link *)letter; /* its first member */
	struct call **lists[] = {&link->flying, &link->waiting, &link->refused};
	struct flight *flight, *next;

	assert(!link->busy);
	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		while (*lists[i])
			/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the one freed has left the list */
			call_finish(*lists[i], ERR_CANCELLED, (struct str){0});
	}
	DL_FOREACH_SAFE (link->idle, flight, next) {
		flight_free(flight);
	}
	pthread_mutex_destroy(&link->gate);
	free(link);
}

static void calls_stop_timers(struct worker_link *link, struct call *list)
{
	struct call *call;

	DL_FOREACH (list, call) {
		timer_cancel(loop_of(link), &call->timer);
	}
}

static void link_close(struct worker_link *link)
{
	struct flight *flight;

	if (link->closing)
		return;
	link->closing = true;
	link->up = false;
	DL_DELETE(link->transport->links, link);
	calls_stop_timers(link, link->waiting);
	calls_stop_timers(link, link->flying);
	calls_stop_timers(link, link->refused);
	pthread_mutex_lock(&link->gate);
	link->is_shut = true;
	pthread_mutex_unlock(&link->gate);
	nng_pipe_notify(link->socket, NNG_PIPE_EV_ADD_POST, NULL, NULL); /* should closing be given up */
	nng_pipe_notify(link->socket, NNG_PIPE_EV_REM_POST, NULL, NULL);
	if (!link_socket_close(link->socket))
		log_warn("link", "close_given_up", "what", "requests", NULL);
	DL_FOREACH (link->busy, flight) {
		nng_aio_stop(flight->aio); /* its letter is posted when this returns */
	}
	link->last.deliver = on_last_letter;
	mailbox_post(&link->transport->mailbox, &link->last);
}

/* ---- publications ---- */

static void publications_receive(struct nng_transport *transport)
{
	nng_recv_aio(transport->sub, transport->sub_aio);
}

/* The loop has taken one. */
static void publications_taken(struct nng_transport *transport, size_t bytes)
{
	bool resume;

	pthread_mutex_lock(&transport->lock);
	transport->backlog--;
	transport->backlog_bytes -= bytes;
	resume = transport->paused && transport->backlog <= BACKLOG_MAX / 2 && transport->backlog_bytes <= BACKLOG_BYTES / 2;
	if (resume)
		transport->paused = false;
	pthread_mutex_unlock(&transport->lock);
	if (resume && !transport->closing)
		publications_receive(transport);
}

static void on_publication_letter(struct letter *letter)
{
	struct publication *publication = (struct publication *)letter; /* its first member */
	struct nng_transport *transport = publication->transport;
	nng_msg *message = publication->message;
	size_t n = nng_msg_len(message);

	free(publication);
	if (!transport->closing && transport->base.on_publication)
		transport->base.on_publication(transport->base.ctx, str_of(nng_msg_body(message), n));
	nng_msg_free(message);
	publications_taken(transport, n);
}

/* NNG's thread. */
static void on_publication_aio(void *arg)
{
	struct nng_transport *transport = arg;
	struct publication *publication;
	bool go_on;

	if (nng_aio_result(transport->sub_aio) != 0)
		return; /* the socket is closed */
	publication = calloc(1, sizeof(*publication));
	if (!publication)
		abort();
	publication->letter.deliver = on_publication_letter;
	publication->transport = transport;
	publication->message = nng_aio_get_msg(transport->sub_aio);
	pthread_mutex_lock(&transport->lock);
	transport->backlog++;
	transport->backlog_bytes += nng_msg_len(publication->message);
	go_on = transport->backlog < BACKLOG_MAX && transport->backlog_bytes < BACKLOG_BYTES;
	transport->paused = !go_on;
	pthread_mutex_unlock(&transport->lock);
	mailbox_post(&transport->mailbox, &publication->letter);
	if (go_on)
		publications_receive(transport);
}

static enum err publications_listen(struct nng_transport *transport, const char *url, struct err_info *info)
{
	enum err err;
	int rv = nng_sub0_open(&transport->sub);

	if (rv != 0)
		return link_err(info, ERR_IO, rv, url);
	if ((rv = nng_socket_set_int(transport->sub, NNG_OPT_RECVBUF, LINK_QUEUE_MAX)) != 0 ||
	    (rv = nng_socket_set(transport->sub, NNG_OPT_SUB_SUBSCRIBE, "", 0)) != 0 ||
	    (rv = nng_aio_alloc(&transport->sub_aio, on_publication_aio, transport)) != 0)
		err = link_err(info, ERR_IO, rv, url);
	else
		err = link_listen(transport->sub, url, &transport->pem, LINK_MESSAGE_MAX, info);
	if (err) {
		nng_close(transport->sub);
		nng_aio_free(transport->sub_aio);
	}
	return err;
}

/* ---- the transport ---- */

static void transport_destroy(struct worker_transport *base)
{
	struct nng_transport *transport = of(base);
	struct worker_link *link, *next;

	transport->closing = true;
	DL_FOREACH_SAFE (transport->links, link, next) {
		link_close(link);
	}
	if (!link_socket_close(transport->sub))
		log_warn("link", "close_given_up", "what", "publications", NULL);
	nng_aio_stop(transport->sub_aio);
	mailbox_close(&transport->mailbox); /* delivers, and so frees, what is left */
	nng_aio_free(transport->sub_aio);
	link_tls_finish(&transport->pem);
	pthread_mutex_destroy(&transport->lock);
	link_free_closed(transport->loop->uv, transport);
}

static const struct worker_transport_ops nng_ops = {
	.link_open = link_open,
	.request_send = request_send,
	.link_close = link_close,
	.destroy = transport_destroy,
};

enum err worker_transport_nng_create(struct loop_uv *loop, const char *events_url, const struct link_tls *tls,
                                     struct worker_transport **out, struct err_info *info)
{
	struct nng_transport *transport = calloc(1, sizeof(*transport));
	enum err err;

	if (!transport)
		return err_set(info, ERR_NO_MEMORY, NULL);
	transport->base.ops = &nng_ops;
	transport->loop = loop;
	err = link_tls_load(&transport->pem, tls, info);
	if (!err)
		err = publications_listen(transport, events_url, info);
	if (err) {
		link_tls_finish(&transport->pem);
		free(transport);
		return err;
	}
	pthread_mutex_init(&transport->lock, NULL);
	mailbox_init(&transport->mailbox, loop->uv);
	publications_receive(transport);
	*out = &transport->base;
	return ERR_OK;
}
