#include "tests/lib/faults.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

struct held {
	struct timer timer;
	struct held *prev, *next;
	struct faults *faults;
	void *ctx;
	uint64_t number;
	struct blob message;
	void (*deliver)(void *ctx, uint64_t number, struct str message);
};

static uint32_t setting(const char *text, const char *name, uint32_t preset)
{
	size_t n = strlen(name);
	for (const char *at = text; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (!strncmp(at, name, n) && at[n] == '=')
			return (uint32_t)strtoul(at + n + 1, NULL, 0);
	return preset;
}

void faults_init(struct faults *f, struct loop *loop)
{
	const char *text = getenv("PINION_FAULTS");
	*f = (struct faults){.loop = loop};
	/* two programs with one seed shall not fail in step */
	f->random.state = setting(text, "seed", 1) + (uint64_t)getpid() * 0x9e3779b9u;
	f->lost = setting(text, "lost", 0);
	f->doubled = setting(text, "doubled", 0);
	f->late = setting(text, "late", 0);
	f->late_ms = setting(text, "late_ms", 30);
}

static void held_free(struct held *h)
{
	timer_cancel(h->faults->loop, &h->timer);
	DL_DELETE(h->faults->held, h);
	blob_free(&h->message);
	free(h);
}

static void tell(const char *what, const struct fault_counts *c)
{
	fprintf(stderr, " %s %llu lost %llu doubled %llu late %llu", what, (unsigned long long)c->all,
	        (unsigned long long)c->lost, (unsigned long long)c->doubled, (unsigned long long)c->late);
}

void faults_finish(struct faults *f, const char *who)
{
	while (f->held)
		held_free(f->held);
	fprintf(stderr, "faults: %s", who);
	tell("publications", &f->publications);
	tell("requests", &f->requests);
	fputc('\n', stderr);
}

enum fate faults_draw(struct faults *f, struct fault_counts *c)
{
	uint64_t x = random_below(&f->random, 1000);
	c->all++;
	if (x < f->lost)
		return c->lost++, FATE_LOST;
	if (x < f->lost + f->doubled)
		return c->doubled++, FATE_DOUBLED;
	if (x < f->lost + f->doubled + f->late)
		return c->late++, FATE_LATE;
	return FATE_PASSES;
}

uint32_t faults_delay(struct faults *f)
{
	return 1 + (uint32_t)random_below(&f->random, f->late_ms ? f->late_ms : 1);
}

static void on_due(struct timer *timer)
{
	struct held *h = (struct held *)((char *)timer - offsetof(struct held, timer));
	struct blob message = h->message;
	void *ctx = h->ctx;
	uint64_t number = h->number;
	void (*deliver)(void *, uint64_t, struct str) = h->deliver;
	h->message = (struct blob){0};
	held_free(h);
	deliver(ctx, number, str_of(message.p, message.n));
	blob_free(&message);
}

void faults_hold(struct faults *f, uint32_t delay_ms, void *ctx, uint64_t number, struct str message,
                 void (*deliver)(void *ctx, uint64_t number, struct str message))
{
	struct held *h = calloc(1, sizeof *h);
	if (!h)
		abort();
	*h = (struct held){.timer.fn = on_due, .faults = f, .ctx = ctx, .number = number, .deliver = deliver};
	blob_add(&h->message, message.p, message.n);
	DL_APPEND(f->held, h);
	timer_set(f->loop, &h->timer, delay_ms);
}

void faults_forget(struct faults *f, void *ctx, void (*gone)(void *ctx, uint64_t number))
{
	struct held *h, *tmp;
	DL_FOREACH_SAFE (f->held, h, tmp) {
		if (h->ctx != ctx)
			continue;
		uint64_t number = h->number;
		held_free(h);
		if (gone)
			gone(ctx, number);
	}
}
