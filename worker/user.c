#include "worker/user.h"

#include "common/state.h"
#include "worker/command.h"
#include "worker/gateway_peer.h"
#include "worker/recover.h"
#include "worker/run.h"

/* ---- states ---- */

static const char *const names[] = {
	[USER_ACQUIRING] = "acquiring",
	[USER_OWNED] = "owned",
	[USER_RELEASING] = "releasing",
	[USER_LOST] = "lost",
};

static const unsigned successors[] = {
	[USER_ACQUIRING] = 1 << USER_OWNED | 1 << USER_LOST,
	[USER_OWNED] = 1 << USER_RELEASING | 1 << USER_LOST,
	/* back to owned: the store could not be asked */
	[USER_RELEASING] = 1 << USER_OWNED | 1 << USER_LOST,
	[USER_LOST] = 0,
};

const char *user_state_name(enum user_state state)
{
	return names[state];
}

/* The one place where a user's state, and with it its place in the core's table, changes. */
static void move(struct user *user, enum user_state state)
{
	struct core *core = user->core;
	(void)state_may_follow(successors, user->state, state, "user");
	user->state = state;
	if (state == USER_LOST) {
		HASH_DEL(core->users, user);
		DL_APPEND2(core->lost, user, lost_prev, lost_next);
		timer_cancel(core->loop, &user->idle);
		core_sweep_soon(core);
	}
	core_gauge(METRIC_USERS, HASH_COUNT(core->users));
}

struct user *user_find(struct core *core, struct str user_id)
{
	struct user_id id;
	struct user *user = NULL;
	if (user_id_parse(&id, user_id, USER_ID_E2E) == ERR_OK)
		HASH_FIND(hh, core->users, &id, sizeof(id), user);
	return user;
}

static void on_idle(struct timer *timer)
{
	struct user *user = (struct user *)((char *)timer - offsetof(struct user, idle));
	user->idle_over = true;
	user_touch(user);
}

static struct user *user_create(struct core *core, const struct user_id *id)
{
	struct user *user = must_alloc(sizeof(*user));
	user->core = core;
	user->id = *id;
	user->max_active = USER_MAX_ACTIVE;
	user->idle.fn = on_idle;
	ring_init(&user->ring, core->config.ring_bytes);
	append_queue_init(user);
	HASH_ADD(hh, core->users, id, sizeof(user->id), user);
	core_gauge(METRIC_USERS, HASH_COUNT(core->users));
	return user;
}

static void untouch(struct user *user)
{
	if (user->is_touched) {
		LL_DELETE2(user->core->touched, user, touch_next);
		user->is_touched = false;
	}
}

void user_free(struct user *user)
{
	struct core *core = user->core;
	while (user->attachments)
		peer_detach(user->attachments);
	run_free_all(user);
	append_queue_finish(user);
	ring_finish(&user->ring);
	timer_cancel(core->loop, &user->idle);
	if (user->is_waiting)
		DL_DELETE2(core->waiting, user, wait_prev, wait_next);
	untouch(user);
	if (user->state == USER_LOST)
		DL_DELETE2(core->lost, user, lost_prev, lost_next);
	else
		HASH_DEL(core->users, user);
	free(user);
}

void user_free_lost(struct core *core)
{
	struct user *user, *after;
	DL_FOREACH_SAFE2(core->lost, user, after, lost_next)
	if (user->pins == 0)
		user_free(user);
}

/* ---- attaching ---- */

static void wait_for_owner(struct user *user, struct call *call)
{
	DL_APPEND2(user->attaching, call, user_prev, user_next);
}

static struct call *next_attaching(struct user *user)
{
	struct call *call = user->attaching;
	if (call)
		DL_DELETE2(user->attaching, call, user_prev, user_next);
	return call;
}

static void answer_attached(struct user *user, struct call *call)
{
	struct reply reply = {.kind = REQUEST_ATTACH, .user_id = user_id_str(&user->id), .epoch = user->epoch};
	reply.attached.last_seq = user->last_seq;
	reply.attached.earliest_seq = user->earliest_seq;
	if (call->peer)
		peer_attach(call->peer, user, call->request.number);
	call_answer(call, &reply);
}

static void answer_all_attached(struct user *user)
{
	struct call *call;
	while ((call = next_attaching(user)) != NULL)
		answer_attached(user, call);
}

static void fail_all_attaching(struct user *user, enum err err, const char *text)
{
	struct call *call;
	while ((call = next_attaching(user)) != NULL)
		call_fail(call, err, text);
}

/* Asked anew, from the beginning: the answer has changed meanwhile. */
static void attach_all_again(struct core *core, struct call *calls)
{
	while (calls) {
		struct call *call = calls;
		DL_DELETE2(calls, call, user_prev, user_next);
		user_attach(core, call);
	}
}

static void answer_moved(struct user *user, const struct worker_row *owner)
{
	struct call *call;
	while ((call = next_attaching(user)) != NULL) {
		struct reply reply = {.kind = REQUEST_ATTACH, .code = ERR_MOVED, .text = str_c(err_text(ERR_MOVED))};
		reply.moved.worker_url = owner->url;
		reply.moved.worker_id = owner->id;
		reply.moved.incarnation = owner->incarnation;
		call_answer(call, &reply);
	}
}

static void acquire(struct user *user, const struct worker_row *over);

static void on_granted(struct user *user, struct store_op *op)
{
	move(user, USER_OWNED);
	user->epoch = op->acquire.epoch;
	user->last_seq = op->acquire.last_seq;
	user->earliest_seq = op->acquire.earliest_seq;
	log_info("user", "owned", "user", user->id.s, "epoch", LOG_U64(user->epoch), "last_seq", LOG_U64(user->last_seq),
	         "open_runs", LOG_U64(op->acquire.n_open_runs), NULL);
	recover_runs(user, op);
	answer_all_attached(user);
	user_touch(user);
}

static void refuse(struct user *user, enum err err, const char *text)
{
	fail_all_attaching(user, err, text);
	move(user, USER_LOST);
}

static void on_acquired(struct pending_op *pending)
{
	struct user *user = pending->user;
	struct store_op *op = pending->op;
	struct worker_row *owner = &op->acquire.owner;
	if (user->state != USER_ACQUIRING) {
		return;
	} else if (op->err == ERR_OK) {
		on_granted(user, op);
	} else if (op->err == ERR_MOVED && lease_judge(user->core->parts.lease, owner) == LEASE_DEAD &&
	           !(str_eq(op->acquire.over_id, owner->id) && op->acquire.over_incarnation == owner->incarnation)) {
		log_info("user", "take_over", "user", user->id.s, NULL);
		acquire(user, owner);
	} else if (op->err == ERR_MOVED) {
		answer_moved(user, owner);
		move(user, USER_LOST);
	} else {
		log_warn("user", "acquire_failed", "user", user->id.s, "error", err_name(op->err), "detail", op->info.text, NULL);
		refuse(user, ERR_UNAVAILABLE, op->info.text);
	}
}

static struct pending_op *acquire_op(struct user *user, void (*done)(struct pending_op *))
{
	struct pending_op *pending = op_create(user->core, STORE_ACQUIRE, user, done, NULL);
	pending->op->acquire.my_id = arena_copy(&pending->op->arena, str_c(user->core->worker_id));
	pending->op->acquire.my_incarnation = user->core->incarnation;
	return pending;
}

static void acquire(struct user *user, const struct worker_row *over)
{
	struct pending_op *pending = acquire_op(user, on_acquired);
	if (over) {
		pending->op->acquire.over_id = arena_copy(&pending->op->arena, over->id);
		pending->op->acquire.over_incarnation = over->incarnation;
	}
	op_submit(pending);
}

static enum err may_take_users(const struct core *core)
{
	if (core->draining)
		return ERR_DRAINING;
	if (!lease_holds(core->parts.lease))
		return ERR_UNAVAILABLE;
	return HASH_COUNT(core->users) >= core->config.max_users ? ERR_FULL : ERR_OK;
}

void user_attach(struct core *core, struct call *call)
{
	struct user_id id;
	struct user *user;
	if (user_id_parse(&id, call->request.attach.user_id, USER_ID_E2E)) {
		call_fail(call, ERR_INVALID_USER_ID, NULL);
		return;
	}
	HASH_FIND(hh, core->users, &id, sizeof(id), user);
	if (user && user->state == USER_OWNED && !lease_holds(core->parts.lease)) {
		call_fail(call, ERR_UNAVAILABLE, "the lease does not hold"); /* the user may be another's by now */
		return;
	}
	if (user && user->state == USER_OWNED && !user->verifying) {
		answer_attached(user, call);
		return;
	}
	if (user) {
		wait_for_owner(user, call);
		return;
	}
	enum err err = may_take_users(core);
	if (err) {
		call_fail(call, err, NULL);
		return;
	}
	user = user_create(core, &id);
	wait_for_owner(user, call);
	acquire(user, NULL);
}

void user_detach(struct call *call)
{
	struct user *user = user_find(call->core, call->request.detach.user_id);
	struct attachment *attachment = user ? peer_attachment(call->peer, user) : NULL;
	struct reply reply = {.code = ERR_OK};
	if (attachment && attachment->number < call->request.number)
		peer_detach(attachment);
	call_answer(call, &reply);
}

/* ---- losing ---- */

void user_lose(struct user *user, const char *why)
{
	struct core *core = user->core;
	if (user->state == USER_LOST)
		return;
	log_warn("user", "lost", "user", user->id.s, "epoch", LOG_U64(user->epoch), "state", user_state_name(user->state), "why",
	         why, NULL);
	core_count(METRIC_USERS_FENCED, 1);
	move(user, USER_LOST);
	publish_lost(user);
	while (user->attachments)
		peer_detach(user->attachments);
	run_lose_all(user);
	append_fail_waiting(user, ERR_FENCED);
	command_fail_waiting(user);
	struct call *attaching = user->attaching;
	user->attaching = NULL;
	attach_all_again(core, attaching);
}

/* ---- verifying ---- */

static void on_verified(struct pending_op *pending)
{
	struct user *user = pending->user;
	struct store_op *op = pending->op;
	enum err err = op->err;
	if (user->state != USER_OWNED)
		return;
	user->verifying = err && err != ERR_MOVED && err != ERR_FENCED;
	if (user->verifying) {
		user->verify_again = user->core->verify_again = true;
		fail_all_attaching(user, ERR_UNAVAILABLE, op->info.text);
	} else if (err == ERR_OK && op->acquire.epoch == user->epoch) {
		answer_all_attached(user);
	} else {
		user_lose(user, "overtaken while our lease did not hold");
	}
}

void user_verify_all(struct core *core)
{
	struct user *user, *after;
	core->verify_again = false;
	HASH_ITER (hh, core->users, user, after) {
		if (user->state != USER_OWNED || (user->verifying && !user->verify_again))
			continue;
		user->verifying = true;
		user->verify_again = false;
		op_submit(acquire_op(user, on_verified));
	}
}

/* ---- giving back ---- */

static void on_released(struct pending_op *pending)
{
	struct user *user = pending->user;
	struct core *core = user->core;
	enum err err = pending->op->err;
	if (user->state != USER_RELEASING)
		return;
	if (err != ERR_OK && err != ERR_FENCED) {
		log_warn("user", "release_failed", "user", user->id.s, "error", err_name(err), "detail", pending->op->info.text,
		         NULL);
		move(user, USER_OWNED);
		user->idle_over = false;
		answer_all_attached(user);
		return;
	}
	log_info("user", "released", "user", user->id.s, "epoch", LOG_U64(user->epoch), NULL);
	struct call *attaching = user->attaching;
	user->attaching = NULL;
	publish_lost(user);
	while (user->attachments)
		peer_detach(user->attachments);
	run_lose_all(user);
	move(user, USER_LOST);
	attach_all_again(core, attaching);
}

static void release(struct user *user)
{
	struct pending_op *pending = op_create(user->core, STORE_RELEASE, user, on_released, NULL);
	pending->op->release.epoch = user->epoch;
	move(user, USER_RELEASING);
	timer_cancel(user->core->loop, &user->idle);
	op_submit(pending);
}

static bool is_busy(const struct user *user)
{
	return user->calls || user->attaching || user->verifying || !append_queue_is_empty(&user->log);
}

static void settle(struct user *user)
{
	struct core *core = user->core;
	if (user->state != USER_OWNED)
		return;
	run_schedule(user);
	if (is_busy(user))
		return;
	if (core->draining && !run_any_active(user)) {
		release(user);
		return;
	}
	if (user->attachments || user->runs) {
		timer_cancel(core->loop, &user->idle);
		user->idle_over = false;
	} else if (user->idle_over) {
		release(user);
	} else if (!timer_is_set(&user->idle)) {
		timer_set(core->loop, &user->idle, (uint64_t)core->config.idle_user_s * 1000);
	}
}

void user_touch(struct user *user)
{
	if (user->is_touched)
		return;
	user->is_touched = true;
	LL_PREPEND2(user->core->touched, user, touch_next);
	core_sweep_soon(user->core);
}

void user_settle_touched(struct core *core)
{
	while (core->touched) {
		struct user *user = core->touched;
		untouch(user);
		settle(user);
	}
}
