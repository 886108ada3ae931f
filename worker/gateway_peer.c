#include "worker/gateway_peer.h"

#include "proto/codec.h"
#include "worker/call.h"
#include "worker/run.h"
#include "worker/user.h"

enum {
	ITEM_OVERHEAD = 256,
	JOIN_FROM = 32, /* items in a turn: fewer go out as they came */
	JOIN_BYTES = 16 << 10,
};

/* ---- batches ---- */

static bool has_credit(const struct gateway_peer *peer)
{
	return peer->number - peer->acked < PEER_BATCHES_MAX && peer->unacked_bytes + peer->queue_bytes < PEER_BYTES_MAX;
}

static uint32_t *size_of_batch(struct gateway_peer *peer, uint64_t number)
{
	return &peer->sizes[number % (PEER_BATCHES_MAX * 2)];
}

static struct str text_of(const struct outgoing *out)
{
	return out->joined.n ? buf_str(&out->joined) : bytes_str(out->bytes);
}

static struct item item_view(const struct outgoing *out)
{
	struct item item = {.user_id = user_id_str(&out->user), .epoch = out->epoch, .kind = out->kind};
	switch (out->kind) {
	case ITEM_EVENT:
		item.event = (struct event){
			.seq = out->seq,
			.body = bytes_str(out->bytes),
			.closes_message_id = id_str(&out->first),
			.voids_run_id = id_str(&out->second),
		};
		break;
	case ITEM_DELTA:
		item.delta = (struct delta){
			.run_id = id_str(&out->first),
			.message_id = id_str(&out->second),
			.after_seq = out->seq,
			.offset = out->offset,
			.text = text_of(out),
		};
		break;
	case ITEM_HEAD:
		item.head.last_seq = out->seq;
		break;
	case ITEM_LOST:
		break;
	}
	return item;
}

static void send_batch(struct gateway_peer *peer, uint64_t number, const struct item *items, size_t n)
{
	struct core *core = peer->core;
	struct batch batch = {
		.worker_id = str_c(core->worker_id),
		.worker_incarnation = core->incarnation,
		.gateway_incarnation = str_c(peer->incarnation),
		.number = number,
		.draining = core->draining,
		.items = items,
		.n_items = n,
	};
	struct buf out = {0};
	enum err err = batch_encode(&batch, &out);
	if (err == ERR_OK)
		core->parts.transport->ops->pub_send(peer->pub, buf_str(&out));
	else
		log_error("gateway", "batch_refused", "gateway", peer->gateway_id, "error", err_name(err), NULL);
	if (n > 0) {
		*size_of_batch(peer, number) = (uint32_t)out.n;
		peer->unacked_bytes += out.n;
		core_count(METRIC_BATCHES, 1);
		core_count(METRIC_ITEMS, (double)n);
	}
	buf_finish(&out);
}

/* How many of the queue's items from i on one batch takes. */
static size_t batch_length(const struct gateway_peer *peer, size_t i)
{
	size_t n = 0, bytes = 0;
	while (i + n < peer->n_queue && n < BATCH_ITEMS_MAX && bytes < LINK_BATCH_TARGET)
		bytes += text_of(&peer->queue[i + n++]).n + ITEM_OVERHEAD;
	return n;
}

static void queue_clear(struct gateway_peer *peer)
{
	for (size_t i = 0; i < peer->n_queue; i++) {
		bytes_unref(peer->queue[i].bytes);
		buf_finish(&peer->queue[i].joined);
	}
	peer->n_queue = 0;
	peer->queue_bytes = 0;
}

static void flush(struct gateway_peer *peer)
{
	if (peer->n_queue == 0)
		return;
	struct item *items = must_alloc(peer->n_queue * sizeof(*items));
	for (size_t i = 0; i < peer->n_queue; i++)
		items[i] = item_view(&peer->queue[i]);
	if (peer->number == peer->acked) /* it had nothing to say until now */
		peer->heard_ms = loop_now(peer->core->loop);
	for (size_t i = 0, n; peer->pub && i < peer->n_queue; i += n) {
		n = batch_length(peer, i);
		send_batch(peer, ++peer->number, items + i, n);
	}
	free(items);
	queue_clear(peer);
}

void peer_flush_all(struct core *core)
{
	struct gateway_peer *peer, *after;
	HASH_ITER (hh, core->peers, peer, after)
		flush(peer);
}

/* ---- the queue of a turn ---- */

static void mark_dirty(struct attachment *attachment)
{
	struct gateway_peer *peer = attachment->peer;
	if (attachment->dirty)
		return;
	if (!peer->dirty) {
		peer->stalls++;
		core_count(METRIC_CREDIT_STALLS, 1);
	}
	attachment->dirty = true;
	DL_APPEND2(peer->dirty, attachment, dirty_prev, dirty_next);
}

static void clear_dirty(struct attachment *attachment)
{
	if (!attachment->dirty)
		return;
	attachment->dirty = false;
	DL_DELETE2(attachment->peer->dirty, attachment, dirty_prev, dirty_next);
}

/* Takes over the caller's reference to out->bytes. */
static void enqueue(struct gateway_peer *peer, const struct outgoing *out)
{
	if (peer->n_queue == peer->cap_queue) {
		peer->cap_queue = peer->cap_queue ? peer->cap_queue * 2 : 64;
		peer->queue = realloc(peer->queue, peer->cap_queue * sizeof(*peer->queue));
		if (!peer->queue)
			abort();
	}
	peer->queue[peer->n_queue++] = *out;
	peer->queue_bytes += bytes_str(out->bytes).n + ITEM_OVERHEAD;
	core_flush_soon(peer->core);
}

/* Text that goes on where the queue's last item ended, in a turn that has much to say, becomes a part of that item. */
static bool join(struct gateway_peer *peer, const struct outgoing *out)
{
	struct outgoing *last = peer->n_queue >= JOIN_FROM ? &peer->queue[peer->n_queue - 1] : NULL;
	if (!last || out->kind != ITEM_DELTA || last->kind != ITEM_DELTA || !id_eq(&out->second, &last->second) ||
	    !user_id_eq(&out->user, &last->user) || out->epoch != last->epoch || out->seq != last->seq)
		return false;
	struct str before = text_of(last), more = bytes_str(out->bytes);
	if (before.n == 0 || out->offset != last->offset + before.n || before.n + more.n > JOIN_BYTES)
		return false;
	if (!last->joined.n)
		buf_append_str(&last->joined, before);
	buf_append_str(&last->joined, more);
	peer->queue_bytes += more.n;
	return true;
}

static void publish(struct user *user, struct outgoing *out)
{
	struct attachment *attachment;
	out->user = user->id;
	out->epoch = user->epoch;
	DL_FOREACH2(user->attachments, attachment, user_next)
	{
		if (!has_credit(attachment->peer)) {
			mark_dirty(attachment);
			continue;
		}
		if (join(attachment->peer, out))
			continue;
		if (out->bytes)
			bytes_ref(out->bytes);
		enqueue(attachment->peer, out);
	}
}

void publish_event(struct user *user, const struct logged *event)
{
	publish(user, &(struct outgoing){
			      .kind = ITEM_EVENT,
			      .seq = event->seq,
			      .bytes = event->body,
			      .first = event->closes,
			      .second = event->voids,
		      });
}

void publish_delta(struct user *user, const struct id *run, const struct id *message, uint64_t after_seq, uint64_t offset,
                   struct str text)
{
	if (!user->attachments)
		return;
	struct bytes *bytes = bytes_create(text.p, text.n);
	publish(user, &(struct outgoing){
			      .kind = ITEM_DELTA,
			      .seq = after_seq,
			      .offset = offset,
			      .bytes = bytes,
			      .first = *run,
			      .second = *message,
		      });
	bytes_unref(bytes);
}

/* Whatever the credit: a gateway that misses it would stay attached to nobody. */
void publish_lost(struct user *user)
{
	struct attachment *attachment;
	struct outgoing out = {.user = user->id, .epoch = user->epoch, .kind = ITEM_LOST};
	DL_FOREACH2(user->attachments, attachment, user_next)
	enqueue(attachment->peer, &out);
}

/* ---- credit ---- */

/* What the gateway missed of this user shows by a number, and by the length of each open message. */
static void send_head(struct attachment *attachment)
{
	struct user *user = attachment->user;
	struct run *run;
	enqueue(attachment->peer,
	        &(struct outgoing){.user = user->id, .epoch = user->epoch, .kind = ITEM_HEAD, .seq = user->last_seq});
	DL_FOREACH (user->runs, run) {
		if (run->message.text.n == 0)
			continue;
		struct outgoing out = {
			.user = user->id,
			.epoch = user->epoch,
			.kind = ITEM_DELTA,
			.seq = run->message.after_seq,
			.offset = run->message.text.n,
			.bytes = bytes_create(NULL, 0),
			.first = run->id,
			.second = run->message.id,
		};
		enqueue(attachment->peer, &out);
	}
}

static void heal(struct gateway_peer *peer)
{
	while (peer->dirty && has_credit(peer)) {
		struct attachment *attachment = peer->dirty;
		clear_dirty(attachment);
		send_head(attachment);
		run_credit_changed(attachment->user);
	}
}

void peer_credit(struct gateway_peer *peer, uint64_t received)
{
	if (received > peer->number)
		received = peer->number;
	while (peer->acked < received) {
		peer->acked++;
		uint32_t *size = size_of_batch(peer, peer->acked);
		peer->unacked_bytes -= *size < peer->unacked_bytes ? *size : peer->unacked_bytes;
		*size = 0;
	}
	heal(peer);
}

static bool is_silent(const struct gateway_peer *peer, uint64_t ms)
{
	return loop_now(peer->core->loop) - peer->heard_ms >= ms;
}

bool peer_user_is_stalled(const struct user *user)
{
	const struct attachment *attachment;
	DL_FOREACH2(user->attachments, attachment, user_next)
	if (attachment->dirty && !is_silent(attachment->peer, PEER_SILENT_MS))
		return true;
	return false;
}

/* ---- attachments ---- */

struct attachment *peer_attachment(const struct gateway_peer *peer, const struct user *user)
{
	struct attachment *attachment;
	DL_FOREACH2(user->attachments, attachment, user_next)
	if (attachment->peer == peer)
		return attachment;
	return NULL;
}

void peer_attach(struct gateway_peer *peer, struct user *user, uint64_t number)
{
	struct attachment *attachment = peer_attachment(peer, user);
	if (!attachment) {
		attachment = must_alloc(sizeof(*attachment));
		attachment->peer = peer;
		attachment->user = user;
		DL_APPEND2(peer->attachments, attachment, peer_prev, peer_next);
		DL_APPEND2(user->attachments, attachment, user_prev, user_next);
		peer->n_attachments++;
	}
	if (attachment->number < number)
		attachment->number = number;
	user_touch(user);
}

void peer_detach(struct attachment *attachment)
{
	struct user *user = attachment->user;
	clear_dirty(attachment);
	DL_DELETE2(attachment->peer->attachments, attachment, peer_prev, peer_next);
	DL_DELETE2(user->attachments, attachment, user_prev, user_next);
	attachment->peer->n_attachments--;
	free(attachment);
	run_credit_changed(user);
	user_touch(user);
}

static void detach_all(struct gateway_peer *peer)
{
	while (peer->attachments)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the one freed has left the list */
		peer_detach(peer->attachments);
}

/* ---- beats ---- */

static void close_dead(struct gateway_peer *peer)
{
	log_warn("gateway", "dead", "gateway", peer->gateway_id, "unacknowledged", LOG_U64(peer->number - peer->acked), NULL);
	detach_all(peer);
	queue_clear(peer);
	peer->core->parts.transport->ops->pub_close(peer->pub);
	peer->pub = NULL;
	peer->dead_ms = loop_now(peer->core->loop);
}

static void beat(struct gateway_peer *peer)
{
	if (!peer->pub) {
		if (loop_now(peer->core->loop) - peer->dead_ms >= PEER_FORGET_MS)
			peer_destroy(peer);
		return;
	}
	if (peer->number > peer->acked && is_silent(peer, PEER_DEAD_MS)) {
		close_dead(peer);
		return;
	}
	if (peer->dirty && is_silent(peer, PEER_SILENT_MS)) {
		struct attachment *attachment;
		DL_FOREACH2(peer->dirty, attachment, dirty_next)
		run_credit_changed(attachment->user);
	}
	flush(peer);
	send_batch(peer, peer->number, NULL, 0);
}

void peer_beat_all(struct core *core)
{
	struct gateway_peer *peer, *after;
	HASH_ITER (hh, core->peers, peer, after)
		beat(peer);
}

/* ---- answers already given ---- */

static void answered_free(struct gateway_peer *peer, struct answered *answered)
{
	HASH_DEL(peer->by_number, answered);
	DL_DELETE(peer->oldest, answered);
	peer->n_answered--;
	bytes_unref(answered->reply);
	free(answered);
}

static void forget_old_answers(struct gateway_peer *peer)
{
	uint64_t now = loop_now(peer->core->loop);
	struct answered *answered, *after;
	DL_FOREACH_SAFE (peer->oldest, answered, after) {
		if (peer->n_answered <= PEER_REPLIES_MAX && now - answered->at_ms < PEER_REPLIES_MS)
			break;
		if (!answered->call)
			answered_free(peer, answered);
	}
}

struct answered *peer_answered(struct gateway_peer *peer, uint64_t number)
{
	struct answered *answered;
	HASH_FIND(hh, peer->by_number, &number, sizeof(number), answered);
	return answered;
}

void peer_remember_call(struct gateway_peer *peer, struct call *call)
{
	struct answered *answered = must_alloc(sizeof(*answered));
	forget_old_answers(peer);
	answered->number = call->request.number;
	answered->call = call;
	answered->at_ms = loop_now(peer->core->loop);
	HASH_ADD(hh, peer->by_number, number, sizeof(answered->number), answered);
	DL_APPEND(peer->oldest, answered);
	peer->n_answered++;
}

void peer_remember_reply(struct gateway_peer *peer, struct call *call, struct str reply, bool keep)
{
	struct answered *answered = peer_answered(peer, call->request.number);
	if (!answered || answered->call != call)
		return;
	answered->call = NULL;
	if (keep)
		answered->reply = bytes_create(reply.p, reply.n);
	else
		answered_free(peer, answered);
}

/* ---- coming and going ---- */

static struct gateway_peer *by_id(struct core *core, struct str gateway_id)
{
	struct gateway_peer *peer;
	HASH_FIND(hh, core->peers, gateway_id.p, gateway_id.n, peer);
	return peer;
}

struct gateway_peer *peer_find(struct core *core, struct str gateway_id, struct str incarnation)
{
	struct gateway_peer *peer = by_id(core, gateway_id);
	if (!peer || !peer->pub || !str_eq_c(incarnation, peer->incarnation))
		return NULL;
	peer->heard_ms = loop_now(core->loop);
	return peer;
}

/* The same incarnation again: its link was down. What was under way on it has arrived or is lost, and shows by a gap. */
static enum err hello_again(struct gateway_peer *peer, struct str events_url, struct err_info *info)
{
	const struct gateway_transport_ops *ops = peer->core->parts.transport->ops;
	peer->heard_ms = loop_now(peer->core->loop);
	if (!peer->pub || !str_eq_c(events_url, peer->events_url)) {
		struct gateway_pub *pub;
		char *url = must_copy(events_url);
		enum err err = ops->pub_open(peer->core->parts.transport, url, &pub, info);
		if (err) {
			free(url);
			return err;
		}
		if (peer->pub)
			ops->pub_close(peer->pub);
		peer->pub = pub;
		peer->number++;
		free(peer->events_url);
		peer->events_url = url;
	}
	peer_credit(peer, peer->number);
	return ERR_OK;
}

/* Where the next incarnation has the same address, the socket goes on: it is dialling there already. */
static struct gateway_pub *take_pub(struct gateway_peer *peer)
{
	struct gateway_pub *pub = peer->pub;

	peer->pub = NULL;
	return pub;
}

enum err peer_hello(struct core *core, struct str gateway_id, struct str incarnation, struct str events_url,
                    struct err_info *info)
{
	struct gateway_peer *peer = by_id(core, gateway_id);
	if (peer && str_eq_c(incarnation, peer->incarnation))
		return hello_again(peer, events_url, info);
	char *url = must_copy(events_url);
	struct gateway_pub *pub = peer && str_eq_c(events_url, peer->events_url) ? take_pub(peer) : NULL;
	enum err err = pub ? ERR_OK : core->parts.transport->ops->pub_open(core->parts.transport, url, &pub, info);
	if (err) {
		free(url);
		return err;
	}
	if (peer)
		peer_destroy(peer);
	peer = must_alloc(sizeof(*peer));
	peer->core = core;
	peer->gateway_id = must_copy(gateway_id);
	peer->incarnation = must_copy(incarnation);
	peer->events_url = url;
	peer->pub = pub;
	peer->heard_ms = loop_now(core->loop);
	HASH_ADD_KEYPTR(hh, core->peers, peer->gateway_id, gateway_id.n, peer);
	log_info("gateway", "hello", "gateway", peer->gateway_id, "incarnation", peer->incarnation, NULL);
	return ERR_OK;
}

void peer_destroy(struct gateway_peer *peer)
{
	struct core *core = peer->core;
	struct call *call;
	detach_all(peer);
	DL_FOREACH (core->calls, call)
		if (call->peer == peer)
			call->peer = NULL;
	while (peer->oldest)
		answered_free(peer, peer->oldest);
	queue_clear(peer);
	free(peer->queue);
	if (peer->pub)
		core->parts.transport->ops->pub_close(peer->pub);
	HASH_DEL(core->peers, peer);
	log_info("gateway", "gone", "gateway", peer->gateway_id, "incarnation", peer->incarnation, NULL);
	free(peer->gateway_id);
	free(peer->incarnation);
	free(peer->events_url);
	free(peer);
}
