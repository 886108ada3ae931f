/*
 * bytes.h - growing buffers (struct buf) and immutable shared byte strings (struct bytes, reference-counted).
 * Thread: a buf belongs to one; bytes are counted without atomics and belong to one thread too.
 */
#ifndef PINION_COMMON_BYTES_H
#define PINION_COMMON_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include "common/str.h"

struct buf {
	char *p;
	size_t n, cap;
};

/* Zeroed is a valid empty buf. Allocation failure aborts: callers bound sizes before they append. */
void buf_append(struct buf *buf, const void *p, size_t n);
void buf_append_str(struct buf *buf, struct str s);
void buf_append_c(struct buf *buf, const char *z);
void buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *buf_reserve(struct buf *buf, size_t n); /* room for n more bytes; the caller then adds to buf->n */
void buf_consume(struct buf *buf, size_t n);  /* drops n bytes at the front */
void buf_clear(struct buf *buf);              /* keeps the memory */
void buf_finish(struct buf *buf);
static inline struct str buf_str(const struct buf *buf)
{
	return (struct str){buf->p, buf->n};
}

struct bytes {
	uint32_t refs;
	uint32_t n;
	char p[];
};

struct bytes *bytes_create(const void *p, size_t n); /* one reference, the caller's */
struct bytes *bytes_ref(struct bytes *bytes);
void bytes_unref(struct bytes *bytes); /* NULL is fine */
static inline struct str bytes_str(const struct bytes *b)
{
	return (struct str){b ? b->p : NULL, b ? b->n : 0};
}

#endif
