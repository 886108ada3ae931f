/*
 * faulty_gateway_main.c - pinion-gateway on bad links: publications that arrive are lost, doubled and late; requests are
 * doubled, late, or lost, or their replies are.
 *
 * A lost request or reply shows to the gateway as ERR_TIMEOUT after a short while: the outcome is unknown, as it would be.
 * Each request goes to the inner transport under a number of ours, so that the doubled one has its own.
 */
#include <stdlib.h>
#include <uthash.h>
#include <utlist.h>
#include "common/loop_uv.h"
#include "gateway/program.h"
#include "tests/lib/faults.h"

struct wrapper {
	struct worker_transport base; /* what the gateway sees */
	struct worker_transport *inner;
	struct faults faults;
	uint64_t next_number;
	struct worker_link *links; /* that are not freed yet */
};

struct flight { /* one request_send to the inner transport */
	uint64_t inner;
	uint64_t outer;
	bool mute; /* the copy of a doubled one, or its reply is lost */
	UT_hash_handle hh;
};

struct worker_link {
	struct wrapper *wrapper;
	struct worker_link *inner;
	const struct worker_link_events *events;
	void *ctx;
	struct flight *flights;
	uint32_t timeout_ms; /* of requests that are sent late: the last one's */
	bool closing;
	struct timer sweep;
	struct worker_link *prev, *next;
};

/* ---- publications ---- */

static void deliver_late(void *ctx, uint64_t number, struct str message)
{
	struct wrapper *w = ctx;
	if (w->base.on_publication)
		w->base.on_publication(w->base.ctx, message);
}

static void on_publication(void *ctx, struct str message)
{
	struct wrapper *w = ctx;
	enum fate fate = faults_draw(&w->faults, &w->faults.publications);
	if (fate == FATE_LOST || !w->base.on_publication)
		return;
	if (fate == FATE_LATE)
		return faults_hold(&w->faults, faults_delay(&w->faults), w, 0, message, deliver_late);
	w->base.on_publication(w->base.ctx, message);
	if (fate == FATE_DOUBLED)
		w->base.on_publication(w->base.ctx, message);
}

/* ---- requests ---- */

static void on_up(void *ctx)
{
	struct worker_link *l = ctx;
	if (!l->closing)
		l->events->up(l->ctx);
}

static void give_up(void *ctx, uint64_t number)
{
	struct worker_link *l = ctx;
	l->events->reply(l->ctx, number, ERR_DISCONNECTED, (struct str){0});
}

static void on_down(void *ctx)
{
	struct worker_link *l = ctx;
	if (l->closing)
		return;
	faults_forget(&l->wrapper->faults, l, give_up); /* the contract: all in flight is completed before `down` */
	l->events->down(l->ctx);
}

static void sweep_soon(struct worker_link *l)
{
	if (l->closing && !l->flights)
		timer_set(l->wrapper->faults.loop, &l->sweep, 0);
}

static void time_out(void *ctx, uint64_t number, struct str message)
{
	struct worker_link *l = ctx;
	l->events->reply(l->ctx, number, ERR_TIMEOUT, (struct str){0});
}

static void on_reply(void *ctx, uint64_t number, enum err code, struct str message)
{
	struct worker_link *l = ctx;
	struct flight *f;
	HASH_FIND(hh, l->flights, &number, sizeof number, f);
	if (!f)
		abort();
	HASH_DEL(l->flights, f);
	uint64_t outer = f->outer;
	bool mute = f->mute;
	free(f);
	if (!mute)
		l->events->reply(l->ctx, outer, code, message);
	sweep_soon(l);
}

static const struct worker_link_events link_events = {.up = on_up, .down = on_down, .reply = on_reply};

static void fly(struct worker_link *l, uint64_t outer, struct str message, bool mute)
{
	struct flight *f = calloc(1, sizeof *f);
	if (!f)
		abort();
	f->inner = ++l->wrapper->next_number;
	f->outer = outer;
	f->mute = mute;
	HASH_ADD(hh, l->flights, inner, sizeof f->inner, f);
	l->wrapper->inner->ops->request_send(l->inner, f->inner, message, l->timeout_ms);
}

static void fly_late(void *ctx, uint64_t number, struct str message)
{
	fly(ctx, number, message, false);
}

static void link_request_send(struct worker_link *l, uint64_t number, struct str message, uint32_t timeout_ms)
{
	struct faults *faults = &l->wrapper->faults;
	l->timeout_ms = timeout_ms;
	switch (faults_draw(faults, &faults->requests)) {
	case FATE_LATE:
		faults_hold(faults, faults_delay(faults), l, number, message, fly_late);
		return;
	case FATE_LOST: /* the request, or the reply of one that was carried out */
		if (random_below(&faults->random, 2))
			fly(l, number, message, true);
		faults_hold(faults, 20 + faults_delay(faults), l, number, (struct str){0}, time_out);
		return;
	case FATE_DOUBLED:
		fly(l, number, message, true);
		fly(l, number, message, false);
		return;
	case FATE_PASSES:
		fly(l, number, message, false);
	}
}

static void cancel(void *ctx, uint64_t number)
{
	struct worker_link *l = ctx;
	l->events->reply(l->ctx, number, ERR_CANCELLED, (struct str){0});
}

/* Completes what we hold, then, once the inner link has completed the rest, frees. */
static void link_sweep(struct worker_link *l)
{
	faults_forget(&l->wrapper->faults, l, cancel);
	if (l->flights)
		return;
	timer_cancel(l->wrapper->faults.loop, &l->sweep);
	DL_DELETE(l->wrapper->links, l);
	free(l);
}

static void on_sweep(struct timer *timer)
{
	link_sweep((struct worker_link *)((char *)timer - offsetof(struct worker_link, sweep)));
}

static void link_close(struct worker_link *l)
{
	l->closing = true;
	l->wrapper->inner->ops->link_close(l->inner);
	timer_set(l->wrapper->faults.loop, &l->sweep, 0);
}

static enum err link_open(struct worker_transport *t, const char *url, const struct worker_link_events *events, void *ctx,
                          struct worker_link **out, struct err_info *info)
{
	struct wrapper *w = (struct wrapper *)t;
	struct worker_link *l = calloc(1, sizeof *l);
	if (!l)
		abort();
	l->wrapper = w;
	l->events = events;
	l->ctx = ctx;
	l->sweep.fn = on_sweep;
	enum err code = w->inner->ops->link_open(w->inner, url, &link_events, l, &l->inner, info);
	if (code != ERR_OK) {
		free(l);
		return code;
	}
	DL_APPEND(w->links, l);
	*out = l;
	return ERR_OK;
}

static void wrapper_destroy(struct worker_transport *t)
{
	struct wrapper *w = (struct wrapper *)t;
	struct worker_link *l, *next;
	w->inner->ops->destroy(w->inner); /* completes all that is in flight */
	DL_FOREACH_SAFE (w->links, l, next)
		link_sweep(l);
	faults_finish(&w->faults, "gateway");
	free(w);
}

static const struct worker_transport_ops wrapper_ops = {
	.link_open = link_open,
	.request_send = link_request_send,
	.link_close = link_close,
	.destroy = wrapper_destroy,
};

static struct worker_transport *wrap(struct worker_transport *inner, struct loop_uv *loop)
{
	struct wrapper *w = calloc(1, sizeof *w);
	if (!w)
		abort();
	w->base.ops = &wrapper_ops;
	w->inner = inner;
	inner->on_publication = on_publication;
	inner->ctx = w;
	faults_init(&w->faults, &loop->loop);
	return &w->base;
}

int main(int argc, char **argv)
{
	const struct gateway_hooks hooks = {.wrap_transport = wrap};
	return gateway_program(argc, argv, &hooks);
}
