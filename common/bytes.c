/* bytes.c - growing buffers and shared byte strings. */
#include "common/bytes.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BUF_LEAST 256

char *buf_reserve(struct buf *buf, size_t n)
{
	size_t need, cap;
	char *p;

	if (buf->cap - buf->n >= n && buf->p)
		return buf->p + buf->n;
	if (n > SIZE_MAX / 2 - buf->n)
		abort();
	need = buf->n + n;
	cap = buf->cap ? buf->cap : BUF_LEAST;
	while (cap < need)
		cap *= 2;
	p = realloc(buf->p, cap);
	if (!p)
		abort();
	buf->p = p;
	buf->cap = cap;
	return p + buf->n;
}

void buf_append(struct buf *buf, const void *p, size_t n)
{
	if (n == 0)
		return;
	memcpy(buf_reserve(buf, n), p, n);
	buf->n += n;
}

void buf_append_str(struct buf *buf, struct str s)
{
	buf_append(buf, s.p, s.n);
}

void buf_append_c(struct buf *buf, const char *z)
{
	buf_append(buf, z, strlen(z));
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
	va_list ap, again;
	size_t room;
	int n;

	buf_reserve(buf, 64);
	room = buf->cap - buf->n;
	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(buf->p + buf->n, room, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	if ((size_t)n >= room) {
		buf_reserve(buf, (size_t)n + 1);
		vsnprintf(buf->p + buf->n, (size_t)n + 1, fmt, again);
	}
	va_end(again);
	buf->n += (size_t)n;
}

void buf_consume(struct buf *buf, size_t n)
{
	assert(n <= buf->n);
	if (n == 0)
		return;
	buf->n -= n;
	memmove(buf->p, buf->p + n, buf->n);
}

void buf_clear(struct buf *buf)
{
	buf->n = 0;
}

void buf_finish(struct buf *buf)
{
	free(buf->p);
	*buf = (struct buf){0};
}

struct bytes *bytes_create(const void *p, size_t n)
{
	struct bytes *bytes;

	if (n > UINT32_MAX)
		abort();
	bytes = malloc(sizeof(*bytes) + n);
	if (!bytes)
		abort();
	bytes->refs = 1;
	bytes->n = (uint32_t)n;
	if (n)
		memcpy(bytes->p, p, n);
	return bytes;
}

struct bytes *bytes_ref(struct bytes *bytes)
{
	assert(bytes->refs > 0);
	bytes->refs++;
	return bytes;
}

void bytes_unref(struct bytes *bytes)
{
	if (!bytes)
		return;
	assert(bytes->refs > 0);
	if (--bytes->refs == 0)
		free(bytes);
}
