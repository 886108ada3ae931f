/*
 * lease.h - are we alive, and is a rival dead? Judged by watching counters on our own monotonic clock only.
 *
 * We raise our counter in the store every ttl/4 and read everybody's in the same operation. A rival is dead where its row says
 * stopped or names another incarnation, where its process on this machine is gone (same boot ID and PID namespace), or where
 * its counter stood still for a full ttl during which our own renewals succeeded. Before a takeover from a stale one on this
 * machine its process is killed by pidfd. Our own lease holds while the last success was less than 3/4 ttl ago.
 */
#ifndef PINION_WORKER_LEASE_H
#define PINION_WORKER_LEASE_H

#include "common/loop.h"
#include "worker/store/store.h"

struct lease;

enum lease_verdict { LEASE_ALIVE, LEASE_DEAD };

struct lease_config {
	const char *worker_id;
	const char *url;
	uint32_t ttl_ms; /* 2000 */
	bool kill_stale; /* SIGKILL a stale process on this machine; false only in tests of the fence itself */
};

struct lease_events {
	void (*fenced)(void *ctx);           /* another incarnation has our name: stop everything, exit */
	void (*held)(void *ctx, bool holds); /* our own lease began or ceased to hold */
};

/* Registers synchronously (start-up). The first renewal is due at once. */
MUST_CHECK enum err lease_create(struct loop *loop, struct store *store, const struct lease_config *config,
                                 const struct lease_events *events, void *ctx, struct lease **out, struct err_info *info);
uint64_t lease_incarnation(const struct lease *lease);
bool lease_holds(const struct lease *lease);
/* `row` as the store has just given it (ERR_MOVED of an acquire). DEAD may kill first; then acquire over it. */
enum lease_verdict lease_judge(struct lease *lease, const struct worker_row *row);
/* Marks us stopped in the store (synchronously) and frees. */
void lease_destroy(struct lease *lease, bool mark_stopped);

#endif
