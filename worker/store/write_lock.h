/*
 * write_lock.h - whose turn it is to write, fairly among the processes that share one SQLite file.
 *
 * SQLite lets writers poll with growing pauses: whoever commits without a break keeps the others out (with three saturating
 * writers one waited 2.7 s). So writers line up here first, and SQLite's own lock is then free when they ask for it.
 *
 * The line is a CLH queue lock made of the lock file's bytes, each locked by an open file description (fcntl(2), F_OFD_SETLKW):
 * a writer draws a ticket (under the byte QUEUE, for a moment), locks the ticket's byte, and waits for the byte of the ticket
 * before; then it locks the byte TURN, which alone excludes. So turns come in order of arrival, whoever is scheduled when. (Two
 * bytes alone are not fair: a freed byte goes to whoever asks first, not to whoever waits.) The kernel drops a dead process's
 * locks: who dies in the line is passed over, and who waits longer than PATIENCE_MS for the one before goes on to ask for TURN.
 *
 * A process that is stopped while it holds TURN or QUEUE would keep everybody from renewing a lease, and so from judging it.
 * Holders leave a record behind; a waiter that finds the same holder stopped, on this machine, at three looks in a row ends it by
 * SIGKILL. A holder that is slow but running is waited for.
 *
 * Hold it for one commit only, never across anything else that can wait. Thread: one at a time.
 * Source: T. Craig, "Building FIFO and priority-queueing spin locks from atomic swap" (1993), for the line.
 */
#ifndef PINION_WORKER_STORE_WRITE_LOCK_H
#define PINION_WORKER_STORE_WRITE_LOCK_H

#include <stdint.h>
#include "common/err.h"

struct write_lock;

/* Opens the lock file, creating it with mode 0600. ERR_IO. The caller's until write_lock_close. */
MUST_CHECK enum err write_lock_open(const char *path, struct write_lock **out, struct err_info *info);

/* ERR_TIMEOUT after about timeout_ms (who holds it is in info), ERR_IO. */
MUST_CHECK enum err write_lock_acquire(struct write_lock *lock, uint32_t timeout_ms, struct err_info *info);
void write_lock_release(struct write_lock *lock);

/* NULL is fine. Releases what is held. */
void write_lock_close(struct write_lock *lock);

#endif
