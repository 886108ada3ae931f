/*
 * lease.c - raising our counter, watching everybody else's.
 *
 * Our own lease is counted from when a renewal was submitted, a rival's silence from when its counter was first seen at that
 * value: both err to the side of letting go early and taking over late. A rival is stale once a read that was submitted a full
 * ttl after that first sight still showed the same value. Where our own renewals had a gap (we were stopped, or the store could
 * not be written) nobody's silence before it counts: it may have been ours.
 * After Gray & Cheriton, "Leases" (1989); nothing compares clocks of two machines.
 */
#include "worker/lease.h"

#include <stdlib.h>
#include "common/log.h"
#include "worker/store/process.h"

enum {
	KILL_WAIT_MS = 2,      /* for a killed process to end, on the loop; later judgements look again */
	KILL_GIVE_UP_MS = 500, /* beyond, the fence of the epoch has to do */
};

/* A rival, as the store last showed it. Rows of workers stay, so this list only grows with them. */
struct watch {
	char *id;
	uint64_t incarnation, counter;
	uint64_t since_ms;  /* on our clock: this counter was seen from here on, with our renewals unbroken */
	uint64_t killed_ms; /* 0: not yet, in this incarnation */
};

struct lease {
	struct loop *loop;
	struct store *store;
	char *worker_id;
	uint64_t incarnation;
	uint32_t ttl_ms;
	bool kill_stale;
	struct lease_events events;
	void *ctx;

	struct timer renew_timer, expiry_timer;
	struct renewal *under_way;
	bool holds, fenced;
	uint64_t renewed_ms; /* when the last successful renewal was submitted */
	uint64_t told_ms;    /* when it came back */
	bool unbroken;       /* no renewal failed since */

	struct watch *watches;
	size_t n_watches;
};

/* Outlives the lease where it has to. */
struct renewal {
	struct lease *lease; /* NULL: destroyed */
	uint64_t submitted_ms;
};

/* ---- watching ---- */

static struct watch *watch_of(struct lease *lease, struct str id)
{
	for (size_t i = 0; i < lease->n_watches; i++) {
		if (str_eq_c(id, lease->watches[i].id))
			return &lease->watches[i];
	}
	return NULL;
}

static struct watch *watch_add(struct lease *lease, struct str id)
{
	struct watch *grown = realloc(lease->watches, (lease->n_watches + 1) * sizeof(*grown));
	char *copy = strndup(id.n ? id.p : "", id.n);

	if (!grown || !copy)
		abort(); /* a few bytes a worker */
	lease->watches = grown;
	grown[lease->n_watches] = (struct watch){.id = copy};
	return &grown[lease->n_watches++];
}

/* A row that was just read: what changed was alive until now. Rows that are older than what was seen are ignored. */
static struct watch *observe(struct lease *lease, const struct worker_row *row)
{
	struct watch *watch = watch_of(lease, row->id);
	bool is_new = !watch;

	if (is_new)
		watch = watch_add(lease, row->id);
	if (is_new || row->incarnation > watch->incarnation ||
	    (row->incarnation == watch->incarnation && row->counter > watch->counter)) {
		if (row->incarnation != watch->incarnation)
			watch->killed_ms = 0;
		watch->incarnation = row->incarnation;
		watch->counter = row->counter;
		watch->since_ms = loop_now(lease->loop);
	}
	return watch;
}

static void restart_watches(struct lease *lease)
{
	for (size_t i = 0; i < lease->n_watches; i++)
		lease->watches[i].since_ms = loop_now(lease->loop);
}

static bool is_stale(const struct lease *lease, const struct watch *watch)
{
	return lease->unbroken && lease->renewed_ms >= watch->since_ms + lease->ttl_ms;
}

/* ---- our own lease ---- */

static uint64_t own_ms(const struct lease *lease)
{
	return (uint64_t)lease->ttl_ms * 3 / 4;
}

static uint64_t period_ms(const struct lease *lease)
{
	return lease->ttl_ms / 4;
}

static void set_holds(struct lease *lease, bool holds)
{
	if (lease->holds == holds)
		return;
	lease->holds = holds;
	if (lease->events.held)
		lease->events.held(lease->ctx, holds);
}

static void on_expiry(struct timer *timer)
{
	struct lease *lease = (struct lease *)((char *)timer - offsetof(struct lease, expiry_timer));
	uint64_t until = lease->renewed_ms + own_ms(lease), now = loop_now(lease->loop);

	if (now < until)
		timer_set(lease->loop, &lease->expiry_timer, until - now);
	else
		set_holds(lease, false);
}

static void renewed(struct lease *lease, struct store_op *op, uint64_t submitted_ms)
{
	uint64_t now = loop_now(lease->loop), until = submitted_ms + own_ms(lease);
	bool gap = !lease->unbroken || now - lease->told_ms > lease->ttl_ms / 2;

	lease->renewed_ms = submitted_ms;
	lease->told_ms = now;
	for (size_t i = 0; i < op->renew.n_rows; i++)
		(void)observe(lease, &op->renew.rows[i]);
	if (gap)
		restart_watches(lease);
	lease->unbroken = true;
	timer_set(lease->loop, &lease->expiry_timer, until > now ? until - now : 0);
	set_holds(lease, now < until);
}

static void fence(struct lease *lease)
{
	lease->fenced = true;
	timer_cancel(lease->loop, &lease->expiry_timer);
	set_holds(lease, false);
	log_error("lease", "fenced", "worker", lease->worker_id, "incarnation", LOG_U64(lease->incarnation), NULL);
	if (lease->events.fenced)
		lease->events.fenced(lease->ctx);
}

static void on_renewed(struct store_op *op)
{
	struct renewal *renewal = op->ctx;
	struct lease *lease = renewal->lease;
	uint64_t submitted_ms = renewal->submitted_ms, due;

	free(renewal);
	if (!lease) {
		store_op_free(op);
		return;
	}
	lease->under_way = NULL;
	if (op->err == ERR_FENCED) {
		store_op_free(op);
		fence(lease);
		return;
	}
	due = submitted_ms + period_ms(lease);
	if (op->err) {
		log_warn("lease", "renewal_failed", "worker", lease->worker_id, "error", op->info.text, NULL);
		lease->unbroken = false;
		due = loop_now(lease->loop) + period_ms(lease) / 2;
	}
	timer_set(lease->loop, &lease->renew_timer, due > loop_now(lease->loop) ? due - loop_now(lease->loop) : 0);
	if (!op->err)
		renewed(lease, op, submitted_ms);
	store_op_free(op);
}

static void on_renewal_due(struct timer *timer)
{
	struct lease *lease = (struct lease *)((char *)timer - offsetof(struct lease, renew_timer));
	struct renewal *renewal = calloc(1, sizeof(*renewal));
	struct store_op *op;

	if (!renewal)
		abort();
	*renewal = (struct renewal){lease, loop_now(lease->loop)};
	op = store_op_create(STORE_RENEW, NULL, on_renewed, renewal);
	op->renew.id = arena_copy(&op->arena, str_c(lease->worker_id));
	op->renew.incarnation = lease->incarnation;
	lease->under_way = renewal;
	store_submit(lease->store, op);
}

/* ---- judging ---- */

/* The process of a stale rival is ended first, where we can: it may hold the store's lock, or a tool may still run. */
static enum lease_verdict end_stale(struct lease *lease, struct watch *watch, const struct worker_row *row)
{
	uint64_t now = loop_now(lease->loop);
	enum process_state state;

	if (!lease->kill_stale || (watch->killed_ms && now - watch->killed_ms >= KILL_GIVE_UP_MS))
		return LEASE_DEAD;
	state = process_kill(&row->process, KILL_WAIT_MS);
	if (state == PROCESS_ELSEWHERE)
		return LEASE_DEAD;
	if (!watch->killed_ms) {
		watch->killed_ms = now;
		log_warn("lease", "stale_rival_killed", "rival", watch->id, "process", LOG_U64(row->process.pid), NULL);
	}
	return state == PROCESS_GONE ? LEASE_DEAD : LEASE_ALIVE;
}

enum lease_verdict lease_judge(struct lease *lease, const struct worker_row *row)
{
	struct watch *watch;

	if (str_eq_c(row->id, lease->worker_id))
		return row->incarnation == lease->incarnation ? LEASE_ALIVE : LEASE_DEAD;
	if (row->stopped)
		return LEASE_DEAD;
	watch = observe(lease, row);
	if (row->incarnation < watch->incarnation)
		return LEASE_DEAD; /* another bears the name now */
	if (process_look(&row->process) == PROCESS_GONE)
		return LEASE_DEAD;
	return is_stale(lease, watch) ? end_stale(lease, watch, row) : LEASE_ALIVE;
}

/* ---- life ---- */

static enum err register_us(struct lease *lease, const char *url, struct err_info *info)
{
	struct store_op *op = store_op_create(STORE_REGISTER, NULL, NULL, NULL);
	struct worker_row *me = &op->reg.me;
	enum err err;

	me->id = str_c(lease->worker_id);
	me->url = str_c(url);
	process_self(&me->process);
	err = store_execute(lease->store, op);
	if (err && info)
		*info = op->info;
	lease->incarnation = me->incarnation;
	store_op_free(op);
	return err;
}

static void free_lease(struct lease *lease)
{
	for (size_t i = 0; i < lease->n_watches; i++)
		free(lease->watches[i].id);
	free(lease->watches);
	free(lease->worker_id);
	free(lease);
}

enum err lease_create(struct loop *loop, struct store *store, const struct lease_config *config,
                      const struct lease_events *events, void *ctx, struct lease **out, struct err_info *info)
{
	struct lease *lease = calloc(1, sizeof(*lease));
	enum err err;

	*out = NULL;
	if (!lease)
		return err_set(info, ERR_NO_MEMORY, NULL);
	lease->loop = loop;
	lease->store = store;
	lease->ttl_ms = config->ttl_ms;
	lease->kill_stale = config->kill_stale;
	lease->events = *events;
	lease->ctx = ctx;
	lease->renew_timer.fn = on_renewal_due;
	lease->expiry_timer.fn = on_expiry;
	lease->worker_id = strdup(config->worker_id);
	err = lease->worker_id ? register_us(lease, config->url, info) : err_set(info, ERR_NO_MEMORY, NULL);
	if (err) {
		free_lease(lease);
		return err;
	}
	timer_set(loop, &lease->renew_timer, 0);
	*out = lease;
	return ERR_OK;
}

uint64_t lease_incarnation(const struct lease *lease)
{
	return lease->incarnation;
}

bool lease_holds(const struct lease *lease)
{
	return lease->holds && loop_now(lease->loop) < lease->renewed_ms + own_ms(lease);
}

static void mark_us_stopped(struct lease *lease)
{
	struct store_op *op = store_op_create(STORE_STOPPED, NULL, NULL, NULL);

	op->renew.id = str_c(lease->worker_id);
	op->renew.incarnation = lease->incarnation;
	if (store_execute(lease->store, op) != ERR_OK)
		log_warn("lease", "not_marked_stopped", "worker", lease->worker_id, "error", op->info.text, NULL);
	store_op_free(op);
}

void lease_destroy(struct lease *lease, bool mark_stopped)
{
	if (!lease)
		return;
	timer_cancel(lease->loop, &lease->renew_timer);
	timer_cancel(lease->loop, &lease->expiry_timer);
	if (lease->under_way)
		lease->under_way->lease = NULL;
	if (mark_stopped && !lease->fenced)
		mark_us_stopped(lease);
	free_lease(lease);
}
