#include "tests/staging/samples.h"

#include <stdlib.h>
#include "tests/lib/util.h"

const char *const latency_names[N_LATENCIES] = {"connect", "resume", "ping", "ack", "start", "run"};

void samples_add(struct samples *s, uint64_t us)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 64;
		s->us = realloc(s->us, s->cap * sizeof *s->us);
		if (!s->us)
			abort();
	}
	s->us[s->n++] = us;
}

void samples_free(struct samples *s)
{
	free(s->us);
	*s = (struct samples){0};
}

uint64_t samples_at(struct samples *s, double q)
{
	return s->n ? percentile(s->us, s->n, q) : 0;
}
