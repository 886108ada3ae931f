/*
 * replay.h - pages of a user's log and of the text of open messages: how gateways catch up and repair.
 *
 * Served from the ring in memory where it holds the first event asked for, otherwise from the store. Thread: the loop's.
 */
#ifndef PINION_WORKER_REPLAY_H
#define PINION_WORKER_REPLAY_H

#include "worker/call.h"

/* Answers a REQUEST_REPLAY; ERR_FENCED where the user is not owned here under the epoch, or not attached by the asker. */
void replay_handle(struct call *call);

#endif
