/*
 * query.h - thread.list, thread.history and run.list: read from the store, answered as JSON (docs/protocol.md).
 *
 * An answer that would become too large is asked for again with half as many rows; its cursor then continues from there.
 * Thread: the loop's.
 */
#ifndef PINION_WORKER_QUERY_H
#define PINION_WORKER_QUERY_H

#include "worker/call.h"

enum { QUERY_BYTES_MAX = 2 << 20 };

void query_handle(struct call *call);

#endif
