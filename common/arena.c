/* arena.c - chunks that double in size; allocation bumps a counter in the newest. */
#include "common/arena.h"

#include <stdint.h>
#include <stdlib.h>

#define CHUNK_LEAST 4096
#define CHUNK_MOST (1024 * 1024)

struct arena_chunk {
	struct arena_chunk *older;
	size_t used, cap;
	_Alignas(max_align_t) char p[];
};

void arena_init(struct arena *arena, size_t limit)
{
	*arena = (struct arena){.limit = limit};
}

static struct arena_chunk *chunk_add(struct arena *arena, size_t least)
{
	size_t cap = CHUNK_LEAST;
	struct arena_chunk *chunk;

	if (arena->chunks && arena->chunks->cap >= CHUNK_LEAST)
		cap = arena->chunks->cap < CHUNK_MOST ? arena->chunks->cap * 2 : CHUNK_MOST;
	if (cap < least)
		cap = least;
	chunk = malloc(sizeof(*chunk) + cap);
	if (!chunk)
		return NULL;
	chunk->older = arena->chunks;
	chunk->used = 0;
	chunk->cap = cap;
	arena->chunks = chunk;
	return chunk;
}

void *arena_alloc(struct arena *arena, size_t n)
{
	const size_t unit = _Alignof(max_align_t);
	struct arena_chunk *chunk = arena->chunks;
	void *p;

	if (n > SIZE_MAX / 4)
		return NULL;
	n = (n + unit - 1) / unit * unit;
	if (n == 0)
		n = unit;
	if (arena->limit && (n > arena->limit || arena->used > arena->limit - n))
		return NULL;
	if (!chunk || chunk->cap - chunk->used < n) {
		chunk = chunk_add(arena, n);
		if (!chunk)
			return NULL;
	}
	p = chunk->p + chunk->used;
	chunk->used += n;
	arena->used += n;
	return memset(p, 0, n);
}

struct str arena_copy(struct arena *arena, struct str s)
{
	char *p = s.n < SIZE_MAX ? arena_alloc(arena, s.n + 1) : NULL;

	if (!p)
		return (struct str){NULL, 0};
	if (s.n)
		memcpy(p, s.p, s.n);
	return str_of(p, s.n);
}

void arena_reset(struct arena *arena)
{
	struct arena_chunk *chunk = arena->chunks;

	while (chunk && chunk->older) {
		struct arena_chunk *older = chunk->older;

		free(chunk);
		chunk = older;
	}
	if (chunk)
		chunk->used = 0;
	arena->chunks = chunk;
	arena->used = 0;
}

void arena_finish(struct arena *arena)
{
	arena_reset(arena);
	free(arena->chunks);
	arena->chunks = NULL;
}
