/*
 * recover.h - the runs that a user's earlier owner left open, taken up from the store's rows and journal.
 *
 * A queued run stays queued. An active one goes on with attempt + 1 after its last journalled step: finished steps are given to the
 * process; a tool call without an outcome is executed again where that is safe (idempotent, or a tool of the worker's, whose
 * effect is committed with its outcome) and is in_doubt otherwise. Thread: the loop's.
 */
#ifndef PINION_WORKER_RECOVER_H
#define PINION_WORKER_RECOVER_H

#include "worker/core_private.h"

struct append;

/* Takes up all open runs that a granted acquire brought. */
void recover_runs(struct user *user, const struct store_op *op);
/* run_recovered, agent_started and perhaps an in_doubt outcome, for the attempt that is about to start. */
void recover_put_events(struct run *run, struct append *append);
/* run_recovered, where the attempt before was lost and clients have not been told: its open messages are void. */
void recover_put_loss(struct run *run, struct append *append);
/* The agent host died under the run: reads its journal and goes on. False where it can't be gone on with. */
bool recover_reload(struct run *run);
void recovery_free(struct run *run);

#endif
