/* frame.c - length-prefixed frames on a run's stream socket (codec.h). */
#include <assert.h>
#include "proto/codec.h"

enum { FRAME_HEADER = 4 };

static void put_u32(char *p, uint32_t n)
{
	for (int i = 0; i < FRAME_HEADER; i++)
		p[i] = (char)(n >> (8 * i));
}

static uint32_t get_u32(const char *p)
{
	uint32_t n = 0;

	for (int i = 0; i < FRAME_HEADER; i++)
		n |= (uint32_t)(uint8_t)p[i] << (8 * i);
	return n;
}

size_t frame_begin(struct buf *out)
{
	size_t begin = out->n;

	put_u32(buf_reserve(out, FRAME_HEADER), 0);
	out->n += FRAME_HEADER;
	return begin;
}

void frame_end(struct buf *out, size_t begin)
{
	assert(begin + FRAME_HEADER <= out->n && out->n - begin - FRAME_HEADER <= UINT32_MAX);
	put_u32(out->p + begin, (uint32_t)(out->n - begin - FRAME_HEADER));
}

enum err frame_next(struct str in, size_t max, struct str *message, size_t *used)
{
	uint32_t n;

	*message = (struct str){0};
	*used = 0;
	if (in.n < FRAME_HEADER)
		return ERR_AGAIN;
	n = get_u32(in.p);
	if (n == 0 || n > max)
		return ERR_PROTOCOL;
	if (in.n - FRAME_HEADER < n)
		return ERR_AGAIN;
	*message = str_of(in.p + FRAME_HEADER, n);
	*used = FRAME_HEADER + n;
	return ERR_OK;
}
