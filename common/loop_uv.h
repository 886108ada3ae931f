/* loop_uv.h - the production loop: struct loop on libuv, and a mailbox through which other threads wake it. */
#ifndef PINION_COMMON_LOOP_UV_H
#define PINION_COMMON_LOOP_UV_H

#include <pthread.h>
#include <uv.h>
#include "common/loop.h"

struct loop_uv {
	struct loop loop;
	uv_loop_t *uv;
	uv_timer_t timer;
	uv_check_t turn;   /* after poll: end of turn */
	uv_idle_t pending; /* keeps poll from blocking while tasks are queued */
};

/* uv is the caller's and outlives it. */
void loop_uv_init(struct loop_uv *loop, uv_loop_t *uv);
/* Starts closing the handles; run the uv loop until it returns before freeing. */
void loop_uv_close(struct loop_uv *loop);

/* Posted from any thread, delivered on the loop's thread in order of posting, many per wake-up. */
struct letter {
	struct letter *next;
	void (*deliver)(struct letter *letter);
};

struct mailbox {
	pthread_mutex_t lock;
	struct letter *first, **last;
	uv_async_t wake;
	bool closed;
};

void mailbox_init(struct mailbox *mailbox, uv_loop_t *uv);
/* The letter is the receiver's from here on. Never blocks for long; never fails. */
void mailbox_post(struct mailbox *mailbox, struct letter *letter);
/* Delivers what is left (deliver runs), then closes the handle. After it nobody may post. */
void mailbox_close(struct mailbox *mailbox);

#endif
