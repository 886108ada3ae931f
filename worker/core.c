#include "worker/call.h"
#include "worker/core_private.h"
#include "worker/gateway_peer.h"
#include "worker/run.h"
#include "worker/user.h"

enum {
	GAP_MS = 1000,           /* we did not run for this long: our lease may have lapsed meanwhile */
	LAST_RELEASES_MS = 2000, /* after the deadline of a drain, for the store */
	STATE_USERS_MAX = 100,
};

/* ---- operations on the store ---- */

static void op_free(struct pending_op *pending)
{
	store_op_free(pending->op);
	free(pending);
}

static void on_op_done(struct store_op *op)
{
	struct pending_op *pending = op->ctx;
	struct core *core = pending->core;
	struct user *user = pending->user;
	if (!core) {
		if (pending->drop)
			pending->drop(pending->ctx);
		op_free(pending);
		return;
	}
	DL_DELETE(core->ops, pending);
	pending->done(pending);
	op_free(pending);
	user->pins--;
	core_sweep_soon(core);
}

struct pending_op *op_create(struct core *core, enum store_op_kind kind, struct user *user,
                             void (*done)(struct pending_op *pending), void *ctx)
{
	struct pending_op *pending = must_alloc(sizeof(*pending));
	pending->core = core;
	pending->user = user;
	pending->done = done;
	pending->ctx = ctx;
	pending->op = store_op_create(kind, &user->id, on_op_done, pending);
	if (!pending->op)
		abort();
	user->pins++;
	DL_APPEND(core->ops, pending);
	return pending;
}

void op_submit(struct pending_op *pending)
{
	store_submit(pending->core->parts.store, pending->op);
}

/* ---- turns ---- */

void core_sweep_soon(struct core *core)
{
	if (!core->destroying)
		task_defer(core->loop, &core->sweep);
}

void core_flush_soon(struct core *core)
{
	if (!core->destroying)
		task_defer(core->loop, &core->flush);
}

static void on_flush(struct task *task)
{
	peer_flush_all((struct core *)((char *)task - offsetof(struct core, flush)));
}

bool core_may_start(const struct core *core)
{
	struct agent_host *host = core->parts.host;
	return !core->draining && core->processes < core->config.max_runs && host->ops->is_ready(host, NULL);
}

/* One run each, in turn, so that a user with many can't keep the others waiting. */
void core_schedule(struct core *core)
{
	while (core->waiting && core_may_start(core)) {
		struct user *user = core->waiting;
		DL_DELETE2(core->waiting, user, wait_prev, wait_next);
		user->is_waiting = false;
		if (user->state == USER_OWNED && run_start_next(user)) {
			user->is_waiting = true;
			DL_APPEND2(core->waiting, user, wait_prev, wait_next);
		}
	}
}

static void check_drained(struct core *core)
{
	void (*done)(void *ctx) = core->drained;
	if (!core->draining || !done || core->users)
		return;
	core->drained = NULL;
	timer_cancel(core->loop, &core->drain);
	peer_flush_all(core);
	done(core->drained_ctx);
}

static void on_sweep(struct task *task)
{
	struct core *core = (struct core *)((char *)task - offsetof(struct core, sweep));
	run_forget_dismissed(core);
	user_settle_touched(core);
	core_schedule(core);
	run_free_ended(core);
	user_free_lost(core);
	check_drained(core);
}

/* Whoever may have taken our users while our lease did not hold, the store knows. */
static void watch_lease(struct core *core)
{
	uint64_t now = loop_now(core->loop);
	bool holds = lease_holds(core->parts.lease);
	bool had_gap = now - core->ticked_ms >= GAP_MS;
	core->ticked_ms = now;
	if (holds && (had_gap || !core->lease_held || core->verify_again))
		user_verify_all(core);
	core->lease_held = holds;
}

static void on_tick(struct timer *timer)
{
	struct core *core = (struct core *)((char *)timer - offsetof(struct core, tick));
	watch_lease(core);
	peer_beat_all(core);
	core_metrics_lives(core);
	core_sweep_soon(core);
	timer_set(core->loop, &core->tick, PEER_BEAT_MS);
}

static void on_request(void *ctx, request_token token, struct str message)
{
	struct core *core = ctx;
	if (loop_now(core->loop) - core->ticked_ms >= GAP_MS)
		watch_lease(core);
	call_handle(core, token, message);
}

/* ---- draining ---- */

static void on_drain_over(struct timer *timer)
{
	struct core *core = (struct core *)((char *)timer - offsetof(struct core, drain));
	struct user *user, *after;
	log_warn("worker", "drain_deadline", "users", LOG_U64(HASH_COUNT(core->users)), NULL);
	if (core->cut) { /* the store doesn't answer */
		HASH_ITER (hh, core->users, user, after)
			user_lose(user, "draining is over");
		return;
	}
	core->cut = true;
	HASH_ITER (hh, core->users, user, after) {
		run_lose_all(user);
		user_touch(user);
	}
	timer_set(core->loop, &core->drain, LAST_RELEASES_MS);
}

void core_drain(struct core *core, uint32_t deadline_ms, void (*done)(void *ctx), void *ctx)
{
	struct user *user, *after;
	if (core->draining)
		return;
	core->draining = true;
	core->drained = done;
	core->drained_ctx = ctx;
	log_info("worker", "draining", "users", LOG_U64(HASH_COUNT(core->users)), NULL);
	HASH_ITER (hh, core->users, user, after)
		user_touch(user);
	timer_set(core->loop, &core->drain, deadline_ms);
	core_sweep_soon(core);
}

/* ---- what it is doing ---- */

bool core_is_ready(const struct core *core, struct err_info *why_not)
{
	struct agent_host *host = core->parts.host;
	const char *why = NULL;
	if (core->draining)
		err_set(why_not, ERR_DRAINING, "draining");
	else if (!lease_holds(core->parts.lease))
		err_set(why_not, ERR_UNAVAILABLE, "the lease does not hold: the store does not answer in time");
	else if (!host->ops->is_ready(host, &why))
		err_set(why_not, ERR_UNAVAILABLE, "%s", why ? why : "the agent host is not ready");
	else
		return true;
	return false;
}

static json_t *run_counts(const struct core *core)
{
	json_t *runs = json_object();
	for (size_t i = LIFE_ACCEPTING; i < LIFE_ENDED; i++)
		json_object_set_new(runs, run_life_name((enum run_life)i), json_integer((json_int_t)core->lives[i]));
	return runs;
}

static json_t *user_state(const struct user *user)
{
	json_t *runs = json_array();
	const struct run *run;
	DL_FOREACH (user->runs, run)
		json_array_append_new(runs, json_pack("{s:s, s:s, s:s}", "run_id", run->id.s, "agent", run->agent_name, "state",
		                                      run_life_name(run->life)));
	return json_pack("{s:s, s:s, s:I, s:I, s:o}", "user_id", user->id.s, "state", user_state_name(user->state), "epoch",
	                 (json_int_t)user->epoch, "last_seq", (json_int_t)user->last_seq, "runs", runs);
}

static json_t *peer_state(const struct gateway_peer *peer)
{
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I}", "gateway_id", peer->gateway_id, "incarnation",
	                 peer->incarnation, "alive", peer->pub != NULL, "last_batch", (json_int_t)peer->number, "acknowledged",
	                 (json_int_t)peer->acked, "unacknowledged_bytes", (json_int_t)peer->unacked_bytes, "users",
	                 (json_int_t)peer->n_attachments, "stalls", (json_int_t)peer->stalls);
}

json_t *core_state(const struct core *core)
{
	struct agent_host *host = core->parts.host;
	const char *properties = host->ops->properties(host);
	json_t *users = json_array(), *gateways = json_array();
	struct user *user, *after_user;
	struct gateway_peer *peer, *after_peer;
	HASH_ITER (hh, core->users, user, after_user) {
		if (json_array_size(users) == STATE_USERS_MAX)
			break;
		json_array_append_new(users, user_state(user));
	}
	HASH_ITER (hh, core->peers, peer, after_peer)
		json_array_append_new(gateways, peer_state(peer));
	return json_pack("{s:s, s:s, s:I, s:b, s:b, s:I, s:o, s:I, s:o, s:o, s:s}", "worker_id", core->worker_id, "url",
	                 core->url, "incarnation", (json_int_t)core->incarnation, "lease_holds", lease_holds(core->parts.lease),
	                 "draining", core->draining, "users_owned", (json_int_t)HASH_COUNT(core->users), "runs", run_counts(core),
	                 "run_processes", (json_int_t)core->processes, "users", users, "gateways", gateways, "sandbox",
	                 properties ? properties : "");
}

/* ---- coming and going ---- */

static uint32_t or_default(uint32_t value, uint32_t preset)
{
	return value ? value : preset;
}

struct core *core_create(const struct core_parts *parts, const struct core_config *config)
{
	struct core *core = must_alloc(sizeof(*core));
	core->parts = *parts;
	core->loop = parts->loop;
	core->worker_id = must_copy(str_c(config->worker_id));
	core->url = must_copy(str_c(config->url));
	core->config = (struct core_config){
		.worker_id = core->worker_id,
		.url = core->url,
		.max_users = or_default(config->max_users, 20000),
		.max_runs = or_default(config->max_runs, 256),
		.ring_bytes = or_default(config->ring_bytes, 65536),
		.idle_user_s = or_default(config->idle_user_s, 300),
	};
	core->incarnation = lease_incarnation(parts->lease);
	core->flush.fn = on_flush;
	core->sweep.fn = on_sweep;
	core->tick.fn = on_tick;
	core->drain.fn = on_drain_over;
	core->ticked_ms = loop_now(core->loop);
	core->lease_held = true;
	core_metrics_register();
	parts->transport->on_request = on_request;
	parts->transport->ctx = core;
	timer_set(core->loop, &core->tick, PEER_BEAT_MS);
	return core;
}

static void drop_ops(struct core *core)
{
	while (core->ops) {
		struct pending_op *pending = core->ops;
		DL_DELETE(core->ops, pending);
		pending->core = NULL; /* freed when the store is done with it */
	}
}

static void ignore_request(void *ctx, request_token token, struct str message)
{
}

void core_destroy(struct core *core)
{
	struct user *user, *after_user;
	struct gateway_peer *peer, *after_peer;
	if (!core)
		return;
	core->destroying = true;
	core->parts.transport->on_request = ignore_request;
	call_fail_all(core);
	drop_ops(core);
	HASH_ITER (hh, core->users, user, after_user)
		user_free(user);
	DL_FOREACH_SAFE2(core->lost, user, after_user, lost_next)
	user_free(user);
	run_free_ended(core);
	HASH_ITER (hh, core->peers, peer, after_peer)
		peer_destroy(peer);
	timer_cancel(core->loop, &core->tick);
	timer_cancel(core->loop, &core->drain);
	task_cancel(core->loop, &core->flush);
	task_cancel(core->loop, &core->sweep);
	free(core->worker_id);
	free(core->url);
	free(core);
}
