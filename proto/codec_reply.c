/* codec_reply.c - what workers answer and publish to gateways. */
#include <stdlib.h>
#include "proto/codec_internal.h"

static void check_page(struct check *check, const struct reply *r)
{
	check_range(check, "page.events", r->page.n_events, 0, BATCH_ITEMS_MAX);
	check_range(check, "page.open", r->page.n_open, 0, PAGE_OPEN_MAX);
	for (size_t i = 0; i < r->page.n_events && !check->err; i++)
		check_event(check, &r->page.events[i]);
	for (size_t i = 0; i < r->page.n_open && !check->err; i++)
		check_delta(check, &r->page.open[i]);
}

static void check_reply(struct check *check, const struct reply *r)
{
	check_name(check, "reply.worker_id", r->worker_id, false);
	check_text(check, "reply.text", r->text, TEXT_MAX);
	if (r->user_id.n)
		check_user(check, "reply.user_id", r->user_id);
	switch (r->kind) {
	case REQUEST_HELLO:
		check_text(check, "hello.worker_url", r->hello.worker_url, URL_MAX);
		return;
	case REQUEST_ATTACH:
		if (r->code != ERR_MOVED)
			return;
		check_text(check, "moved.worker_url", r->moved.worker_url, URL_MAX);
		check_name(check, "moved.worker_id", r->moved.worker_id, true);
		return;
	case REQUEST_COMMAND:
		check_text(check, "command.fields", r->command.fields, LINK_MESSAGE_MAX - (64 << 10));
		return;
	case REQUEST_REPLAY:
		check_page(check, r);
		return;
	case REQUEST_DETACH:
	case REQUEST_CREDIT: /* answered without a body */
		break;
	}
	check_range(check, "reply.kind", r->kind, 0, 0);
}

static void check_item(struct check *check, const struct item *item)
{
	check_user(check, "item.user_id", item->user_id);
	switch (item->kind) {
	case ITEM_EVENT:
		check_event(check, &item->event);
		return;
	case ITEM_DELTA:
		check_delta(check, &item->delta);
		return;
	case ITEM_HEAD:
	case ITEM_LOST:
		return;
	}
	check_fail(check, ERR_PROTOCOL, "item: no body that we know");
}

static void check_batch(struct check *check, const struct batch *b)
{
	check_name(check, "batch.worker_id", b->worker_id, false);
	check_name(check, "batch.gateway_incarnation", b->gateway_incarnation, false);
	check_range(check, "batch.items", b->n_items, 0, BATCH_ITEMS_MAX);
	for (size_t i = 0; i < b->n_items && !check->err; i++)
		check_item(check, &b->items[i]);
}

/* ---- encoding ---- */

union reply_body {
	Pinion__V1__HelloDone hello;
	Pinion__V1__Attached attached;
	Pinion__V1__Moved moved;
	Pinion__V1__CommandDone command;
};

/* One element of a page or batch, and where protobuf-c wants the pointer to it. */
union element {
	Pinion__V1__Event event;
	Pinion__V1__Delta delta;
	Pinion__V1__Head head;
	Pinion__V1__Lost lost;
};

struct elements {
	union element *bodies;
	void **pointers;
};

static bool elements_init(struct elements *elements, size_t n)
{
	elements->bodies = malloc((n + 1) * sizeof(*elements->bodies));
	elements->pointers = malloc((n + 1) * sizeof(*elements->pointers));
	return elements->bodies && elements->pointers;
}

static void elements_finish(struct elements *elements)
{
	free(elements->bodies);
	free(elements->pointers);
}

static void page_fill(Pinion__V1__Page *to, struct elements *elements, const struct reply *r)
{
	size_t n = r->page.n_events;

	pinion__v1__page__init(to);
	to->last_seq = r->page.last_seq;
	to->earliest_seq = r->page.earliest_seq;
	to->more = r->page.more;
	to->n_events = n;
	to->events = (Pinion__V1__Event **)elements->pointers;
	to->n_open = r->page.n_open;
	to->open = (Pinion__V1__Delta **)(elements->pointers + n);
	for (size_t i = 0; i < n; i++) {
		event_fill(&elements->bodies[i].event, &r->page.events[i]);
		elements->pointers[i] = &elements->bodies[i];
	}
	for (size_t i = 0; i < r->page.n_open; i++) {
		delta_fill(&elements->bodies[n + i].delta, &r->page.open[i]);
		elements->pointers[n + i] = &elements->bodies[n + i];
	}
}

static enum err page_pack(Pinion__V1__Reply *to, const struct reply *r, struct buf *out)
{
	struct elements elements;
	Pinion__V1__Page page;
	enum err err = ERR_NO_MEMORY;

	if (elements_init(&elements, r->page.n_events + r->page.n_open)) {
		page_fill(&page, &elements, r);
		to->page = &page;
		to->body_case = PINION__V1__REPLY__BODY_PAGE;
		err = codec_pack(&to->base, LINK_MESSAGE_MAX, out);
	}
	elements_finish(&elements);
	return err;
}

static void hello_done_fill(Pinion__V1__Reply *to, union reply_body *body, const struct reply *r)
{
	pinion__v1__hello_done__init(&body->hello);
	body->hello.draining = r->hello.draining;
	body->hello.worker_url = field_of(r->hello.worker_url);
	to->hello = &body->hello;
	to->body_case = PINION__V1__REPLY__BODY_HELLO;
}

static void attached_fill(Pinion__V1__Reply *to, union reply_body *body, const struct reply *r)
{
	if (r->code == ERR_MOVED) {
		pinion__v1__moved__init(&body->moved);
		body->moved.worker_url = field_of(r->moved.worker_url);
		body->moved.incarnation = r->moved.incarnation;
		body->moved.worker_id = field_of(r->moved.worker_id);
		to->moved = &body->moved;
		to->body_case = PINION__V1__REPLY__BODY_MOVED;
		return;
	}
	pinion__v1__attached__init(&body->attached);
	body->attached.last_seq = r->attached.last_seq;
	body->attached.earliest_seq = r->attached.earliest_seq;
	to->attached = &body->attached;
	to->body_case = PINION__V1__REPLY__BODY_ATTACHED;
}

static void reply_fill(Pinion__V1__Reply *to, const struct reply *r)
{
	to->version = LINK_VERSION;
	to->number = r->number;
	to->worker_id = field_of(r->worker_id);
	to->worker_incarnation = r->worker_incarnation;
	to->code = r->code ? field_of(str_c(err_name(r->code))) : (field_t){0};
	to->text = field_of(r->text);
	to->retry_after_ms = r->retry_after_ms;
	to->user_id = field_of(r->user_id);
	to->epoch = r->epoch;
}

enum err reply_encode(const struct reply *r, struct buf *out)
{
	struct check check = {0};
	union reply_body body;
	Pinion__V1__Reply to = PINION__V1__REPLY__INIT;

	check_reply(&check, r);
	if (check.err)
		return check.err;
	reply_fill(&to, r);
	switch (r->kind) {
	case REQUEST_HELLO:
		hello_done_fill(&to, &body, r);
		break;
	case REQUEST_ATTACH:
		attached_fill(&to, &body, r);
		break;
	case REQUEST_COMMAND:
		pinion__v1__command_done__init(&body.command);
		body.command.fields = field_of(r->command.fields);
		to.command = &body.command;
		to.body_case = PINION__V1__REPLY__BODY_COMMAND;
		break;
	case REQUEST_REPLAY:
		return page_pack(&to, r, out);
	default: /* none */
		break;
	}
	return codec_pack(&to.base, LINK_MESSAGE_MAX, out);
}

static void item_fill(Pinion__V1__Item *to, union element *body, const struct item *item)
{
	pinion__v1__item__init(to);
	to->user_id = field_of(item->user_id);
	to->epoch = item->epoch;
	switch (item->kind) {
	case ITEM_EVENT:
		event_fill(&body->event, &item->event);
		to->event = &body->event;
		to->body_case = PINION__V1__ITEM__BODY_EVENT;
		break;
	case ITEM_DELTA:
		delta_fill(&body->delta, &item->delta);
		to->delta = &body->delta;
		to->body_case = PINION__V1__ITEM__BODY_DELTA;
		break;
	case ITEM_HEAD:
		pinion__v1__head__init(&body->head);
		body->head.last_seq = item->head.last_seq;
		to->head = &body->head;
		to->body_case = PINION__V1__ITEM__BODY_HEAD;
		break;
	case ITEM_LOST:
		pinion__v1__lost__init(&body->lost);
		to->lost = &body->lost;
		to->body_case = PINION__V1__ITEM__BODY_LOST;
		break;
	}
}

static enum err items_pack(Pinion__V1__Batch *to, const struct batch *b, struct buf *out)
{
	struct elements elements;
	Pinion__V1__Item *items = malloc((b->n_items + 1) * sizeof(*items));
	enum err err = ERR_NO_MEMORY;

	if (elements_init(&elements, b->n_items) && items) {
		for (size_t i = 0; i < b->n_items; i++) {
			item_fill(&items[i], &elements.bodies[i], &b->items[i]);
			elements.pointers[i] = &items[i];
		}
		to->n_items = b->n_items;
		to->items = (Pinion__V1__Item **)elements.pointers;
		err = codec_pack(&to->base, LINK_MESSAGE_MAX, out);
	}
	elements_finish(&elements);
	free(items);
	return err;
}

enum err batch_encode(const struct batch *b, struct buf *out)
{
	struct check check = {0};
	Pinion__V1__Batch to = PINION__V1__BATCH__INIT;

	check_batch(&check, b);
	if (check.err)
		return check.err;
	to.version = LINK_VERSION;
	to.worker_id = field_of(b->worker_id);
	to.worker_incarnation = b->worker_incarnation;
	to.gateway_incarnation = field_of(b->gateway_incarnation);
	to.number = b->number;
	to.draining = b->draining;
	return items_pack(&to, b, out);
}

/* ---- decoding ---- */

static enum err page_view(struct arena *arena, struct reply *out, const Pinion__V1__Page *from, struct err_info *info)
{
	struct event *events;
	struct delta *open;

	out->kind = REQUEST_REPLAY;
	out->page.last_seq = from->last_seq;
	out->page.earliest_seq = from->earliest_seq;
	out->page.more = from->more;
	if (from->n_events > BATCH_ITEMS_MAX || from->n_open > PAGE_OPEN_MAX)
		return err_set(info, ERR_PROTOCOL, "page: %zu events and %zu open messages, at most %d and %d", from->n_events,
		               from->n_open, BATCH_ITEMS_MAX, PAGE_OPEN_MAX);
	events = codec_array(arena, from->n_events, sizeof(*events), info);
	open = codec_array(arena, from->n_open, sizeof(*open), info);
	if ((from->n_events && !events) || (from->n_open && !open))
		return ERR_CAPACITY;
	for (size_t i = 0; i < from->n_events; i++)
		events[i] = event_view(from->events[i]);
	for (size_t i = 0; i < from->n_open; i++)
		open[i] = delta_view(from->open[i]);
	out->page.events = events;
	out->page.n_events = from->n_events;
	out->page.open = open;
	out->page.n_open = from->n_open;
	return ERR_OK;
}

static enum err moved_view(struct reply *out, const Pinion__V1__Moved *from, struct err_info *info)
{
	if (out->code != ERR_MOVED)
		return err_set(info, ERR_PROTOCOL, "reply: says where to, but not moved");
	out->kind = REQUEST_ATTACH;
	out->moved.worker_url = field_str(from->worker_url);
	out->moved.incarnation = from->incarnation;
	out->moved.worker_id = field_str(from->worker_id);
	return ERR_OK;
}

static enum err attached_view(struct reply *out, const Pinion__V1__Attached *from, struct err_info *info)
{
	if (out->code == ERR_MOVED)
		return err_set(info, ERR_PROTOCOL, "reply: moved, and attached");
	out->kind = REQUEST_ATTACH;
	out->attached.last_seq = from->last_seq;
	out->attached.earliest_seq = from->earliest_seq;
	return ERR_OK;
}

static enum err reply_view(struct arena *arena, struct reply *out, const Pinion__V1__Reply *from, struct err_info *info)
{
	switch (from->body_case) {
	case PINION__V1__REPLY__BODY__NOT_SET:
		return ERR_OK;
	case PINION__V1__REPLY__BODY_HELLO:
		out->kind = REQUEST_HELLO;
		out->hello.draining = from->hello->draining;
		out->hello.worker_url = field_str(from->hello->worker_url);
		return ERR_OK;
	case PINION__V1__REPLY__BODY_ATTACHED:
		return attached_view(out, from->attached, info);
	case PINION__V1__REPLY__BODY_MOVED:
		return moved_view(out, from->moved, info);
	case PINION__V1__REPLY__BODY_COMMAND:
		out->kind = REQUEST_COMMAND;
		out->command.fields = field_str(from->command->fields);
		return ERR_OK;
	case PINION__V1__REPLY__BODY_PAGE:
		return page_view(arena, out, from->page, info);
	default:
		return err_set(info, ERR_PROTOCOL, "reply: no body that we know");
	}
}

enum err reply_decode(struct arena *arena, struct reply *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const Pinion__V1__Reply *from;
	const void *unpacked;
	enum err err;

	*out = (struct reply){0};
	err = codec_unpack(&pinion__v1__reply__descriptor, in, LINK_MESSAGE_MAX, arena, &unpacked, info);
	if (err)
		return err;
	from = unpacked;
	out->version = from->version;
	out->number = from->number;
	out->worker_id = field_str(from->worker_id);
	out->worker_incarnation = from->worker_incarnation;
	out->code = err_from_name(field_str(from->code));
	out->text = field_str(from->text);
	out->retry_after_ms = from->retry_after_ms;
	out->user_id = field_str(from->user_id);
	out->epoch = from->epoch;
	err = codec_version(from->version, info);
	if (!err)
		err = reply_view(arena, out, from, info);
	if (err)
		return err;
	check_reply(&check, out);
	return check.err;
}

static void item_view(struct item *out, const Pinion__V1__Item *from)
{
	out->user_id = field_str(from->user_id);
	out->epoch = from->epoch;
	switch (from->body_case) {
	case PINION__V1__ITEM__BODY_EVENT:
		out->kind = ITEM_EVENT;
		out->event = event_view(from->event);
		break;
	case PINION__V1__ITEM__BODY_DELTA:
		out->kind = ITEM_DELTA;
		out->delta = delta_view(from->delta);
		break;
	case PINION__V1__ITEM__BODY_HEAD:
		out->kind = ITEM_HEAD;
		out->head.last_seq = from->head->last_seq;
		break;
	case PINION__V1__ITEM__BODY_LOST:
		out->kind = ITEM_LOST;
		break;
	default: /* kind 0: check_item refuses it */
		break;
	}
}

static enum err items_view(struct arena *arena, struct batch *out, const Pinion__V1__Batch *from, struct err_info *info)
{
	struct item *items;

	if (from->n_items > BATCH_ITEMS_MAX)
		return err_set(info, ERR_PROTOCOL, "batch.items: %zu of them, at most %d", from->n_items, BATCH_ITEMS_MAX);
	items = codec_array(arena, from->n_items, sizeof(*items), info);
	if (from->n_items && !items)
		return ERR_CAPACITY;
	for (size_t i = 0; i < from->n_items; i++)
		item_view(&items[i], from->items[i]);
	out->items = items;
	out->n_items = from->n_items;
	return ERR_OK;
}

enum err batch_decode(struct arena *arena, struct batch *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const Pinion__V1__Batch *from;
	const void *unpacked;
	enum err err;

	*out = (struct batch){0};
	err = codec_unpack(&pinion__v1__batch__descriptor, in, LINK_MESSAGE_MAX, arena, &unpacked, info);
	if (err)
		return err;
	from = unpacked;
	out->version = from->version;
	out->worker_id = field_str(from->worker_id);
	out->worker_incarnation = from->worker_incarnation;
	out->gateway_incarnation = field_str(from->gateway_incarnation);
	out->number = from->number;
	out->draining = from->draining;
	err = codec_version(from->version, info);
	if (!err)
		err = items_view(arena, out, from, info);
	if (err)
		return err;
	check_batch(&check, out);
	return check.err;
}
