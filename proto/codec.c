/*
 * codec.c - packing, unpacking and checking, for all messages.
 *
 * protobuf-c unpacks into memory of an allocator; ours bumps the caller's arena and frees nothing. A hostile message of
 * n bytes could ask for many times n (a two-byte submessage becomes a whole struct), so each unpacking has a budget.
 */
#include <stdarg.h>
#include <stdio.h>
#include "common/ids.h"
#include "common/json.h"
#include "proto/codec_internal.h"

/* The most that an honest message needs: small steps of a journal come to 17 times their size. */
#define BUDGET_PER_BYTE 32
#define BUDGET_BASE (64u << 10)
#define BUDGET_MAX (32u << 20)

struct unpack {
	struct arena *arena;
	size_t budget;
	bool spent;
};

static void *unpack_alloc(void *ctx, size_t n)
{
	struct unpack *unpack = ctx;
	void *p = NULL;

	if (n <= unpack->budget)
		p = arena_alloc(unpack->arena, n ? n : 1);
	if (!p) {
		unpack->spent = true;
		return NULL;
	}
	unpack->budget -= n;
	return p;
}

static void unpack_free(void *ctx, void *p)
{
}

enum err codec_unpack(const ProtobufCMessageDescriptor *type, struct str in, size_t max, struct arena *arena, const void **out,
                      struct err_info *info)
{
	struct unpack unpack = {.arena = arena};
	ProtobufCAllocator allocator = {.alloc = unpack_alloc, .free = unpack_free, .allocator_data = &unpack};

	if (in.n > max)
		return err_set(info, ERR_PROTOCOL, "%s: %zu bytes, at most %zu", type->short_name, in.n, max);
	unpack.budget = in.n * BUDGET_PER_BYTE + BUDGET_BASE;
	if (unpack.budget > BUDGET_MAX)
		unpack.budget = BUDGET_MAX;
	*out = protobuf_c_message_unpack(type, &allocator, in.n, (const uint8_t *)in.p);
	if (*out)
		return ERR_OK;
	if (unpack.spent)
		return err_set(info, ERR_CAPACITY, "%s: %zu bytes unpack to too much", type->short_name, in.n);
	return err_set(info, ERR_PROTOCOL, "%s: not a protobuf message", type->short_name);
}

enum err codec_pack(const ProtobufCMessage *message, size_t max, struct buf *out)
{
	size_t n = protobuf_c_message_get_packed_size(message);

	if (n > max)
		return ERR_TOO_LARGE;
	out->n += protobuf_c_message_pack(message, (uint8_t *)buf_reserve(out, n));
	return ERR_OK;
}

enum err codec_version(uint32_t version, struct err_info *info)
{
	if (version == LINK_VERSION)
		return ERR_OK;
	return err_set(info, ERR_VERSION, "the peer speaks version %u of the link protocol, we speak version %d", version,
	               LINK_VERSION);
}

void *codec_array(struct arena *arena, size_t n, size_t size, struct err_info *info)
{
	void *p;

	if (n == 0)
		return NULL;
	p = arena_alloc(arena, n * size);
	if (!p)
		err_set(info, ERR_CAPACITY, "no room for %zu elements", n);
	return p;
}

/* ---- checks ---- */

void check_fail(struct check *check, enum err err, const char *fmt, ...)
{
	char text[200];
	va_list args;

	if (check->err)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	check->err = err_set(check->info, err, "%s", text);
}

void check_size(struct check *check, const char *field, struct str s, size_t max)
{
	if (s.n > max)
		check_fail(check, check->decoding ? ERR_PROTOCOL : ERR_TOO_LARGE, "%s: %zu bytes, at most %zu", field, s.n, max);
}

void check_text(struct check *check, const char *field, struct str s, size_t max)
{
	check_size(check, field, s, max);
	if (check->decoding && !check->err && !utf8_is_valid(s))
		check_fail(check, ERR_PROTOCOL, "%s: not UTF-8", field);
}

void check_name(struct check *check, const char *field, struct str s, bool optional)
{
	check_text(check, field, s, NAME_MAX_BYTES);
	if (!check->decoding || check->err)
		return;
	if (s.n == 0 && !optional)
		check_fail(check, ERR_PROTOCOL, "%s: missing", field);
	else if (s.n && memchr(s.p, 0, s.n))
		check_fail(check, ERR_PROTOCOL, "%s: holds a NUL", field);
}

void check_id(struct check *check, const char *field, struct str s, bool optional)
{
	struct id id;

	check_size(check, field, s, ID_LEN);
	if (!check->decoding || check->err || (s.n == 0 && optional))
		return;
	if (!id_parse(&id, s))
		check_fail(check, ERR_PROTOCOL, "%s: not an id of ours", field);
}

void check_user(struct check *check, const char *field, struct str s)
{
	struct user_id user;

	check_size(check, field, s, USER_ID_MAX);
	if (check->decoding && !check->err && user_id_parse(&user, s, USER_ID_E2E))
		check_fail(check, ERR_PROTOCOL, "%s: not a user id", field);
}

void check_range(struct check *check, const char *field, uint64_t value, uint64_t least, uint64_t most)
{
	if (value < least || value > most)
		check_fail(check, ERR_PROTOCOL, "%s: %llu is out of range", field, (unsigned long long)value);
}

/* ---- parts of more than one message ---- */

void check_event(struct check *check, const struct event *event)
{
	check_range(check, "event.seq", event->seq, 1, UINT64_MAX);
	check_text(check, "event.body", event->body, EVENT_BODY_MAX + 4096);
	check_id(check, "event.closes_message_id", event->closes_message_id, true);
	check_id(check, "event.voids_run_id", event->voids_run_id, true);
	if (event->body.n == 0)
		check_fail(check, ERR_PROTOCOL, "event.body: missing");
}

void check_delta(struct check *check, const struct delta *delta)
{
	check_id(check, "delta.run_id", delta->run_id, false);
	check_id(check, "delta.message_id", delta->message_id, false);
	check_text(check, "delta.text", delta->text, DELTA_TEXT_MAX);
}

void event_fill(Pinion__V1__Event *to, const struct event *event)
{
	pinion__v1__event__init(to);
	to->seq = event->seq;
	to->body = field_of(event->body);
	to->closes_message_id = field_of(event->closes_message_id);
	to->voids_run_id = field_of(event->voids_run_id);
}

void delta_fill(Pinion__V1__Delta *to, const struct delta *delta)
{
	pinion__v1__delta__init(to);
	to->run_id = field_of(delta->run_id);
	to->message_id = field_of(delta->message_id);
	to->after_seq = delta->after_seq;
	to->offset = delta->offset;
	to->text = field_of(delta->text);
}

struct event event_view(const Pinion__V1__Event *from)
{
	return (struct event){.seq = from->seq,
	                      .body = field_str(from->body),
	                      .closes_message_id = field_str(from->closes_message_id),
	                      .voids_run_id = field_str(from->voids_run_id)};
}

struct delta delta_view(const Pinion__V1__Delta *from)
{
	return (struct delta){.run_id = field_str(from->run_id),
	                      .message_id = field_str(from->message_id),
	                      .after_seq = from->after_seq,
	                      .offset = from->offset,
	                      .text = field_str(from->text)};
}
