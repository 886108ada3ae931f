/*
 * gateway_link_nng.c - struct gateway_transport on NNG.
 *
 * One REP socket; each of its contexts goes round: receiving (NNG's), asked (the loop's, until the core has answered),
 * answering (NNG's), receiving again. A token names a context and the number of its round, so a stale one finds another round.
 * One PUB socket a gateway: with one for all, each gateway would receive what is for the others (SUB filters at its end).
 *
 * NNG's threads touch a context only while it is receiving or answering; all else belongs to the loop's thread.
 */
#include "worker/gateway_link.h"

#include <nng/nng.h>
/* its protocols need it first */
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/reqrep0/rep.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/link_nng.h"
#include "common/list.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "proto/codec.h"

#define CONTEXT_BITS 16 /* of a token; the rest is the round */

enum { ANSWER_TIMEOUT_MS = 5000 }; /* a gateway that does not read holds its contexts no longer */

enum round_state { ROUND_RECEIVING, ROUND_ASKED, ROUND_ANSWERING };

struct context {
	struct letter letter;
	struct nng_transport *transport;
	enum round_state state; /* handed over with the operation and the letter */
	uint64_t round;         /* odd while the core owes the answer */
	nng_ctx ctx;
	nng_aio *aio;
	nng_msg *request; /* in the letter; NULL: the socket is closed */
};

struct gateway_pub {
	struct gateway_pub *prev, *next;
	struct nng_transport *transport;
	nng_socket socket;
};

struct nng_transport {
	struct gateway_transport base;
	struct loop_uv *loop;
	struct mailbox mailbox;
	struct link_tls tls; /* copied paths, for link_url_check */
	struct link_tls_pem pem;
	bool insecure;
	bool closing;         /* no more callbacks */
	pthread_mutex_t gate; /* between NNG's threads and the closing: NNG 1.5.2 panics when a context is used meanwhile */
	bool is_shut;         /* under the gate */
	nng_socket rep;
	struct context *contexts;
	size_t n_contexts;
	struct gateway_pub *pubs;
};

static struct nng_transport *of(struct gateway_transport *base)
{
	return (struct nng_transport *)base; /* its first member */
}

/* ---- requests ---- */

static void context_receive(struct context *context)
{
	struct nng_transport *transport = context->transport;

	context->state = ROUND_RECEIVING;
	nng_aio_set_timeout(context->aio, NNG_DURATION_INFINITE);
	pthread_mutex_lock(&transport->gate);
	if (!transport->is_shut)
		nng_ctx_recv(context->ctx, context->aio);
	pthread_mutex_unlock(&transport->gate);
}

static void on_request_letter(struct letter *letter)
{
	struct context *context = (struct context *)letter; /* its first member */
	struct nng_transport *transport = context->transport;
	nng_msg *request = context->request;
	request_token token;

	context->request = NULL;
	context->round++;
	token = context->round << CONTEXT_BITS | (uint64_t)(context - transport->contexts);
	if (!transport->closing && transport->base.on_request)
		transport->base.on_request(transport->base.ctx, token, str_of(nng_msg_body(request), nng_msg_len(request)));
	nng_msg_free(request);
}

/* NNG's thread. */
static void on_context_aio(void *arg)
{
	struct context *context = arg;
	int result = nng_aio_result(context->aio);

	if (context->state == ROUND_ANSWERING) {
		if (result != 0 && nng_aio_get_msg(context->aio)) {
			nng_msg_free(nng_aio_get_msg(context->aio));
			nng_aio_set_msg(context->aio, NULL);
		}
		if (result != NNG_ECLOSED && result != NNG_ECANCELED)
			context_receive(context);
		return;
	}
	if (result != 0)
		return; /* the socket is closed */
	context->request = nng_aio_get_msg(context->aio);
	nng_aio_set_msg(context->aio, NULL);
	context->state = ROUND_ASKED;
	mailbox_post(&context->transport->mailbox, &context->letter);
}

/* NULL for a token that was answered, or that we never gave. */
static struct context *token_context(struct nng_transport *transport, request_token token)
{
	size_t i = token & ((1u << CONTEXT_BITS) - 1);
	uint64_t round = token >> CONTEXT_BITS;

	if (i >= transport->n_contexts || transport->contexts[i].round != round || round % 2 == 0)
		return NULL;
	return &transport->contexts[i];
}

static void transport_reply(struct gateway_transport *base, request_token token, struct str message)
{
	struct context *context = token_context(of(base), token);
	nng_msg *msg;

	if (!context || of(base)->closing)
		return;
	context->round++; /* the token is used up */
	if (message.n > LINK_MESSAGE_MAX) {
		log_error("link", "reply_too_large", "bytes", LOG_U64(message.n), NULL);
		context_receive(context); /* the gateway's request times out */
		return;
	}
	if (nng_msg_alloc(&msg, message.n) != 0)
		abort();
	if (message.n)
		memcpy(nng_msg_body(msg), message.p, message.n);
	context->state = ROUND_ANSWERING;
	nng_aio_set_timeout(context->aio, ANSWER_TIMEOUT_MS);
	nng_aio_set_msg(context->aio, msg);
	nng_ctx_send(context->ctx, context->aio);
}

/* ---- publications ---- */

static enum err pub_connect(struct gateway_pub *pub, const char *url, struct err_info *info)
{
	enum err err;
	int rv = nng_pub0_open(&pub->socket);

	if (rv != 0)
		return link_err(info, ERR_IO, rv, url);
	rv = nng_socket_set_int(pub->socket, NNG_OPT_SENDBUF, LINK_QUEUE_MAX);
	err = rv ? link_err(info, ERR_IO, rv, url) : link_dial(pub->socket, url, &pub->transport->pem, LINK_MESSAGE_MAX, info);
	if (err)
		nng_close(pub->socket);
	return err;
}

static enum err pub_open(struct gateway_transport *base, const char *url, struct gateway_pub **out, struct err_info *info)
{
	struct nng_transport *transport = of(base);
	struct gateway_pub *pub;
	enum err err = link_url_check(url, &transport->tls, transport->insecure, false, info);

	if (err)
		return err;
	pub = calloc(1, sizeof(*pub));
	if (!pub)
		return err_set(info, ERR_NO_MEMORY, NULL);
	pub->transport = transport;
	err = pub_connect(pub, url, info);
	if (err) {
		free(pub);
		return err;
	}
	DL_APPEND(transport->pubs, pub);
	*out = pub;
	return ERR_OK;
}

static void pub_send(struct gateway_pub *pub, struct str message)
{
	nng_msg *msg;
	int rv;

	if (message.n > LINK_MESSAGE_MAX) { /* the gateway would cut the link; the gap in the numbers shows */
		log_error("link", "publication_too_large", "bytes", LOG_U64(message.n), NULL);
		return;
	}
	if (nng_msg_alloc(&msg, message.n) != 0)
		abort();
	if (message.n)
		memcpy(nng_msg_body(msg), message.p, message.n);
	rv = nng_sendmsg(pub->socket, msg, NNG_FLAG_NONBLOCK);
	if (rv != 0) {
		log_warn("link", "publication_refused", "why", nng_strerror(rv), NULL);
		nng_msg_free(msg);
	}
}

static void pub_close(struct gateway_pub *pub)
{
	DL_DELETE(pub->transport->pubs, pub);
	if (!link_socket_close(pub->socket))
		log_warn("link", "close_given_up", "what", "publications", NULL);
	free(pub); /* no callback of the socket's names it */
}

/* ---- the transport ---- */

static void contexts_free(struct nng_transport *transport)
{
	for (size_t i = 0; i < transport->n_contexts; i++)
		nng_aio_free(transport->contexts[i].aio);
	free(transport->contexts);
}

static void transport_free(struct nng_transport *transport)
{
	pthread_mutex_destroy(&transport->gate);
	free((char *)(uintptr_t)transport->tls.ca_file);
	free((char *)(uintptr_t)transport->tls.cert_file);
	free((char *)(uintptr_t)transport->tls.key_file);
	link_tls_finish(&transport->pem);
}

static void transport_destroy(struct gateway_transport *base)
{
	struct nng_transport *transport = of(base);

	transport->closing = true;
	while (transport->pubs)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the one freed has left the list */
		pub_close(transport->pubs);
	pthread_mutex_lock(&transport->gate);
	transport->is_shut = true;
	pthread_mutex_unlock(&transport->gate);
	if (!link_socket_close(transport->rep))
		log_warn("link", "close_given_up", "what", "requests", NULL);
	for (size_t i = 0; i < transport->n_contexts; i++)
		nng_aio_stop(transport->contexts[i].aio);
	mailbox_close(&transport->mailbox); /* frees the requests that are left */
	contexts_free(transport);
	transport_free(transport);
	link_free_closed(transport->loop->uv, transport);
}

static const struct gateway_transport_ops nng_ops = {
	.reply = transport_reply,
	.pub_open = pub_open,
	.pub_send = pub_send,
	.pub_close = pub_close,
	.destroy = transport_destroy,
};

static int contexts_create(struct nng_transport *transport, unsigned n)
{
	transport->contexts = calloc(n, sizeof(*transport->contexts));
	if (!transport->contexts)
		return NNG_ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct context *context = &transport->contexts[i];
		int rv = nng_ctx_open(&context->ctx, transport->rep);

		if (rv == 0)
			rv = nng_aio_alloc(&context->aio, on_context_aio, context);
		if (rv != 0)
			return rv;
		context->transport = transport;
		context->letter.deliver = on_request_letter;
		transport->n_contexts++;
	}
	return 0;
}

static enum err requests_listen(struct nng_transport *transport, const char *url, unsigned contexts, struct err_info *info)
{
	enum err err;
	int rv = nng_rep0_open(&transport->rep);

	if (rv != 0)
		return link_err(info, ERR_IO, rv, url);
	rv = contexts_create(transport, contexts);
	err = rv ? link_err(info, ERR_NO_MEMORY, rv, url)
	         : link_listen(transport->rep, url, &transport->pem, LINK_MESSAGE_MAX, info);
	if (err) {
		nng_close(transport->rep);
		contexts_free(transport);
	}
	return err;
}

static char *copy_path(const char *path)
{
	return path ? strdup(path) : NULL;
}

enum err gateway_transport_nng_create(struct loop_uv *loop, const char *url, const struct link_tls *tls, bool insecure,
                                      unsigned contexts, struct gateway_transport **out, struct err_info *info)
{
	struct nng_transport *transport = calloc(1, sizeof(*transport));
	enum err err;

	if (!transport)
		return err_set(info, ERR_NO_MEMORY, NULL);
	transport->base.ops = &nng_ops;
	transport->loop = loop;
	transport->insecure = insecure;
	pthread_mutex_init(&transport->gate, NULL);
	if (tls)
		transport->tls = (struct link_tls){copy_path(tls->ca_file), copy_path(tls->cert_file), copy_path(tls->key_file)};
	if (contexts < 1)
		contexts = 1;
	if (contexts > 1u << CONTEXT_BITS)
		contexts = 1u << CONTEXT_BITS;
	err = link_tls_load(&transport->pem, tls, info);
	if (!err)
		err = requests_listen(transport, url, contexts, info);
	if (err) {
		transport_free(transport);
		free(transport);
		return err;
	}
	mailbox_init(&transport->mailbox, loop->uv);
	for (size_t i = 0; i < transport->n_contexts; i++)
		context_receive(&transport->contexts[i]);
	*out = &transport->base;
	return ERR_OK;
}
