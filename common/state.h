/* state.h - tables of allowed successors: an illegal move is our own bug, which asserts in debug and is logged in release. */
#ifndef PINION_COMMON_STATE_H
#define PINION_COMMON_STATE_H

#include <assert.h>
#include <stdbool.h>
#include "common/log.h"

/* successors: for each state, a bit for each state that may follow. */
static inline bool state_may_follow(const unsigned *successors, unsigned from, unsigned to, const char *entity)
{
	bool may = successors[from] >> to & 1;

	assert(may);
	if (!may)
		log_error(entity, "illegal_move", "from", LOG_U64(from), "to", LOG_U64(to), NULL);
	return may;
}

#endif
