/*
 * codec_internal.h - what the codec's files share: packing, unpacking into an arena, and checks of bounds and forms.
 *
 * Each message has three functions in codec_*.c: check (the bounds, the same for both directions), an encoder that lays
 * protobuf-c structs over the message's own memory, and a decoder that lays the message over what was unpacked.
 */
#ifndef PINION_PROTO_CODEC_INTERNAL_H
#define PINION_PROTO_CODEC_INTERNAL_H

#include "pinion.pb-c.h"
#include "proto/codec.h"

typedef ProtobufCBinaryData field_t; /* of protobuf-c: bytes and their length */

static inline field_t field_of(struct str s)
{
	return (field_t){s.n, (uint8_t *)(uintptr_t)s.p};
}

static inline struct str field_str(field_t f)
{
	return (struct str){(const char *)f.data, f.len};
}

/* ---- checks; after the first that fails the others do nothing ---- */

struct check {
	struct err_info *info;
	bool decoding; /* forms are demanded of what comes in; sizes of both */
	enum err err;
};

void check_fail(struct check *check, enum err err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void check_size(struct check *check, const char *field, struct str s, size_t max);
void check_text(struct check *check, const char *field, struct str s, size_t max);    /* UTF-8 */
void check_name(struct check *check, const char *field, struct str s, bool optional); /* UTF-8, no NUL, NAME_MAX_BYTES */
void check_id(struct check *check, const char *field, struct str s, bool optional);   /* one that we issued */
void check_user(struct check *check, const char *field, struct str s);
void check_range(struct check *check, const char *field, uint64_t value, uint64_t least, uint64_t most);

/* ---- protobuf-c ---- */

/* Packs straight into out; ERR_TOO_LARGE beyond max, nothing appended. */
MUST_CHECK enum err codec_pack(const ProtobufCMessage *message, size_t max, struct buf *out);

/* Everything that is unpacked lies in the arena. ERR_PROTOCOL, or ERR_CAPACITY where the arena's limit or the multiple of
 * the message's size that an honest one can need is passed. */
MUST_CHECK enum err codec_unpack(const ProtobufCMessageDescriptor *type, struct str in, size_t max, struct arena *arena,
                                 const void **out, struct err_info *info);

/* ERR_VERSION with text naming both versions, or ERR_OK. */
MUST_CHECK enum err codec_version(uint32_t version, struct err_info *info);

/* n elements of the arena's; NULL with *info set where n is not 0 and there is no room. */
void *codec_array(struct arena *arena, size_t n, size_t size, struct err_info *info);

/* ---- parts of more than one message ---- */

void check_event(struct check *check, const struct event *event);
void check_delta(struct check *check, const struct delta *delta);
void event_fill(Pinion__V1__Event *to, const struct event *event);
void delta_fill(Pinion__V1__Delta *to, const struct delta *delta);
struct event event_view(const Pinion__V1__Event *from);
struct delta delta_view(const Pinion__V1__Delta *from);

#endif
