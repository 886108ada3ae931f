#include "worker/replay.h"

#include "common/json.h"
#include "proto/codec.h"
#include "worker/command.h"
#include "worker/gateway_peer.h"
#include "worker/run.h"
#include "worker/user.h"

enum { PAGE_BYTES_LEAST = 1024, PAGE_BYTES_MOST = 2 << 20, PAGE_EVENTS_MAX = 4096 };

struct page {
	struct call *call;
	const struct event *events;
	size_t n_events, bytes, max_bytes;
};

static uint64_t have_offset(const struct call *call, const struct run *run)
{
	for (size_t i = 0; i < call->request.replay.n_have; i++)
		if (str_eq_c(call->request.replay.have[i].message_id, run->message.id.s))
			return call->request.replay.have[i].offset;
	return 0;
}

/* The next piece of an open message's text; empty where the gateway has it all or the page is full. */
static struct str open_piece(const struct page *page, const struct run *run, uint64_t offset)
{
	struct str text = buf_str(&run->message.text);
	size_t room = page->bytes < page->max_bytes ? page->max_bytes - page->bytes : 0;
	/* The least piece keeps a page of many events from standing still. */
	if (room < PAGE_BYTES_LEAST)
		room = page->n_events == 0 && page->bytes == 0 ? PAGE_BYTES_LEAST : 0;
	if (room > DELTA_TEXT_MAX)
		room = DELTA_TEXT_MAX;
	return utf8_prefix(str_of(text.p + offset, text.n - offset), room);
}

static bool add_open(struct page *page, const struct run *run, struct delta *delta)
{
	size_t have = run->message.text.n;
	uint64_t offset = have_offset(page->call, run);
	if (offset > have)
		offset = 0;
	struct str piece = open_piece(page, run, offset);
	*delta = (struct delta){
		.run_id = id_str(&run->id),
		.message_id = id_str(&run->message.id),
		.after_seq = run->message.after_seq,
		.offset = offset,
		.text = piece,
	};
	page->bytes += piece.n;
	return offset + piece.n < have;
}

static void answer(struct page *page)
{
	struct call *call = page->call;
	struct user *user = call->user;
	uint64_t from = call->request.replay.from_seq;
	uint64_t reached = page->n_events ? page->events[page->n_events - 1].seq : from > 0 ? from - 1 : 0;
	struct delta *open = must_alloc(PAGE_OPEN_MAX * sizeof(*open));
	struct reply reply = {.kind = REQUEST_REPLAY};
	reply.page.events = page->events;
	reply.page.n_events = page->n_events;
	reply.page.last_seq = user->last_seq;
	reply.page.earliest_seq = user->earliest_seq;
	reply.page.more = reached < user->last_seq;
	if (call->request.replay.with_open && !reply.page.more) {
		const struct run *run;
		DL_FOREACH (user->runs, run)
			if (run_has_open_message(run) && reply.page.n_open < PAGE_OPEN_MAX &&
			    add_open(page, run, &open[reply.page.n_open++]))
				reply.page.more = true;
		reply.page.open = open;
	}
	call_answer(call, &reply);
	free(open);
}

static void answer_from_ring(struct page *page)
{
	struct user *user = page->call->user;
	uint64_t seq = page->call->request.replay.from_seq;
	uint64_t left = seq <= user->last_seq ? user->last_seq - seq + 1 : 0;
	size_t room = left < PAGE_EVENTS_MAX ? (size_t)left : PAGE_EVENTS_MAX;
	struct event *events = must_alloc((room ? room : 1) * sizeof(*events));
	const struct logged *logged;
	while (page->n_events < room && (logged = ring_at(&user->ring, seq)) != NULL) {
		if (page->n_events > 0 && page->bytes + logged->body->n > page->max_bytes)
			break;
		events[page->n_events++] = logged_event(logged);
		page->bytes += logged->body->n;
		seq++;
	}
	page->events = events;
	answer(page);
	free(events);
}

static size_t page_limit(const struct call *call)
{
	size_t max = call->request.replay.max_bytes;
	return max < PAGE_BYTES_LEAST ? PAGE_BYTES_LEAST : max > PAGE_BYTES_MOST ? PAGE_BYTES_MOST : max;
}

static void on_read(struct pending_op *pending)
{
	struct call *call = pending->ctx;
	struct user *user = pending->user;
	struct store_op *op = pending->op;
	if (op->err == ERR_FENCED)
		user_lose(user, "a read was fenced");
	if (user->state != USER_OWNED) {
		call_fail(call, ERR_FENCED, NULL);
	} else if (op->err) {
		call_fail(call, ERR_UNAVAILABLE, op->info.text);
	} else {
		struct page page = {.call = call,
		                    .events = op->read.events,
		                    .n_events = op->read.n,
		                    .max_bytes = page_limit(call)};
		user->earliest_seq = op->read.earliest_seq;
		for (size_t i = 0; i < op->read.n; i++)
			page.bytes += op->read.events[i].body.n;
		answer(&page);
	}
	user_touch(user);
}

static void read_store(struct call *call)
{
	struct pending_op *pending = op_create(call->core, STORE_READ_EVENTS, call->user, on_read, call);
	pending->op->read.epoch = call->user->epoch;
	pending->op->read.from_seq = call->request.replay.from_seq;
	pending->op->read.max_bytes = (uint32_t)page_limit(call);
	core_count(METRIC_REPLAYS_STORE, 1);
	op_submit(pending);
}

void replay_handle(struct call *call)
{
	struct user *user = user_find(call->core, call->request.replay.user_id);
	if (!user || user->state != USER_OWNED || user->epoch != call->request.replay.epoch ||
	    !peer_attachment(call->peer, user)) {
		call_fail(call, ERR_FENCED, "the user is not attached here under this epoch");
		return;
	}
	command_bind(call, user);
	if (call->request.replay.from_seq > user->last_seq || ring_at(&user->ring, call->request.replay.from_seq)) {
		struct page page = {.call = call, .max_bytes = page_limit(call)};
		core_count(METRIC_REPLAYS_RING, 1);
		answer_from_ring(&page);
	} else {
		read_store(call);
	}
}
