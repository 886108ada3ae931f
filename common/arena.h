/* arena.h - memory for one message or one operation, given back all at once. Thread: one at a time. */
#ifndef PINION_COMMON_ARENA_H
#define PINION_COMMON_ARENA_H

#include <stddef.h>
#include "common/str.h"

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks; /* newest first */
	size_t used;                /* bytes handed out since the last reset */
	size_t limit;               /* the most that may be handed out */
};

void arena_init(struct arena *arena, size_t limit);       /* limit 0: none. A zeroed arena is valid and has no limit. */
void *arena_alloc(struct arena *arena, size_t n);         /* zeroed, aligned for anything; NULL beyond the limit */
struct str arena_copy(struct arena *arena, struct str s); /* NUL-terminated copy; {NULL, 0} beyond the limit */
void arena_reset(struct arena *arena);                    /* keeps the first chunk */
void arena_finish(struct arena *arena);

#endif
