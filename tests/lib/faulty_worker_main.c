/*
 * faulty_worker_main.c - pinion-worker on bad links: its publications are lost, doubled and late; requests reach it late.
 * A reply is never touched here: each request is answered exactly once (the faulty gateway loses replies).
 */
#include <stdlib.h>
#include "common/loop_uv.h"
#include "tests/lib/faults.h"
#include "worker/program.h"

struct wrapper {
	struct gateway_transport base; /* what the worker sees */
	struct gateway_transport *inner;
	struct faults faults;
};

static struct wrapper *the_wrapper; /* a process has one transport; pub_send isn't given it */

static void on_late_request(void *ctx, uint64_t token, struct str message)
{
	struct wrapper *w = ctx;
	w->base.on_request(w->base.ctx, token, message);
}

static void on_request(void *ctx, request_token token, struct str message)
{
	struct wrapper *w = ctx;
	/* none is lost or doubled: a token must be answered once */
	if (faults_draw(&w->faults, &w->faults.requests) == FATE_LATE)
		faults_hold(&w->faults, faults_delay(&w->faults), w, token, message, on_late_request);
	else
		w->base.on_request(w->base.ctx, token, message);
}

static void wrapper_reply(struct gateway_transport *t, request_token token, struct str message)
{
	struct wrapper *w = (struct wrapper *)t;
	w->inner->ops->reply(w->inner, token, message);
}

static enum err wrapper_pub_open(struct gateway_transport *t, const char *url, struct gateway_pub **out, struct err_info *info)
{
	struct wrapper *w = (struct wrapper *)t;
	return w->inner->ops->pub_open(w->inner, url, out, info);
}

static void send_late(void *ctx, uint64_t number, struct str message)
{
	the_wrapper->inner->ops->pub_send(ctx, message);
}

static void wrapper_pub_send(struct gateway_pub *pub, struct str message)
{
	struct faults *f = &the_wrapper->faults;
	enum fate fate = faults_draw(f, &f->publications);
	if (fate == FATE_LOST)
		return;
	if (fate == FATE_LATE)
		return faults_hold(f, faults_delay(f), pub, 0, message, send_late);
	the_wrapper->inner->ops->pub_send(pub, message);
	if (fate == FATE_DOUBLED)
		the_wrapper->inner->ops->pub_send(pub, message);
}

static void wrapper_pub_close(struct gateway_pub *pub)
{
	faults_forget(&the_wrapper->faults, pub, NULL);
	the_wrapper->inner->ops->pub_close(pub);
}

static void wrapper_destroy(struct gateway_transport *t)
{
	struct wrapper *w = (struct wrapper *)t;
	faults_finish(&w->faults, "worker");
	w->inner->ops->destroy(w->inner);
	free(w);
}

static const struct gateway_transport_ops wrapper_ops = {
	.reply = wrapper_reply,
	.pub_open = wrapper_pub_open,
	.pub_send = wrapper_pub_send,
	.pub_close = wrapper_pub_close,
	.destroy = wrapper_destroy,
};

static struct gateway_transport *wrap(struct gateway_transport *inner, struct loop_uv *loop)
{
	struct wrapper *w = calloc(1, sizeof *w);
	if (!w)
		abort();
	w->base.ops = &wrapper_ops;
	w->inner = inner;
	inner->on_request = on_request;
	inner->ctx = w;
	faults_init(&w->faults, &loop->loop);
	the_wrapper = w;
	return &w->base;
}

int main(int argc, char **argv)
{
	const struct worker_hooks hooks = {.wrap_transport = wrap};
	return worker_program(argc, argv, &hooks);
}
