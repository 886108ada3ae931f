/* rendezvous.c - weights by FNV-1a with a finaliser (splitmix64's), sorted from the highest. */
#include "common/rendezvous.h"

#include <stdlib.h>

struct place {
	uint64_t weight;
	size_t index;
};

static uint64_t fnv1a(uint64_t hash, struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		hash ^= (unsigned char)s.p[i];
		hash *= UINT64_C(0x100000001b3);
	}
	return hash;
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t rendezvous_weight(struct str key, struct str node)
{
	uint64_t hash = fnv1a(UINT64_C(0xcbf29ce484222325), key);

	return mix(fnv1a(mix(hash + key.n), node));
}

static int name_order(struct str a, struct str b)
{
	size_t n = a.n < b.n ? a.n : b.n;
	int c = n ? memcmp(a.p, b.p, n) : 0;

	if (c != 0)
		return c;
	return a.n < b.n ? -1 : a.n > b.n;
}

static int place_order(const void *left, const void *right, void *nodes)
{
	const struct place *a = left, *b = right;
	const struct str *names = nodes;

	if (a->weight != b->weight)
		return a->weight > b->weight ? -1 : 1;
	return name_order(names[a->index], names[b->index]);
}

void rendezvous_order(struct str key, const struct str *nodes, size_t n, size_t *order)
{
	struct place few[32], *places = few;

	if (n > sizeof(few) / sizeof(few[0])) {
		places = calloc(n, sizeof(*places));
		if (!places)
			abort();
	}
	for (size_t i = 0; i < n; i++)
		places[i] = (struct place){rendezvous_weight(key, nodes[i]), i};
	if (n > 1)
		qsort_r(places, n, sizeof(*places), place_order, (void *)nodes);
	for (size_t i = 0; i < n; i++)
		order[i] = places[i].index;
	if (places != few)
		free(places);
}
