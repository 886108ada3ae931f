#include "gateway/address_rate.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "common/token_bucket.h"

#define ADDRESSES_MAX 65536
#define BURST_S 4

struct entry {
	char address[48];
	struct token_bucket bucket;
	UT_hash_handle hh;
};

struct address_rate {
	struct entry *entries; /* in the order in which they came */
	uint32_t per_s;
};

struct address_rate *address_rate_create(uint32_t per_s)
{
	struct address_rate *rate = calloc(1, sizeof(*rate));

	if (!rate)
		abort();
	rate->per_s = per_s;
	return rate;
}

/* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyzer loses track of uthash's lists */

static void drop(struct address_rate *rate, struct entry *entry)
{
	HASH_DEL(rate->entries, entry);
	free(entry);
}

void address_rate_destroy(struct address_rate *rate)
{
	struct entry *entry, *next;

	if (!rate)
		return;
	HASH_ITER (hh, rate->entries, entry, next)
		drop(rate, entry);
	free(rate);
}

/* Looks at the two oldest entries: one that has its whole burst again says nothing; the others go to the end of the queue. */
static void sweep(struct address_rate *rate, uint64_t now_ms)
{
	for (int i = 0; i < 2 && rate->entries; i++) {
		struct entry *entry = rate->entries;

		if (token_bucket_wait_ms(&entry->bucket, (double)rate->per_s * BURST_S, now_ms) == 0) {
			drop(rate, entry);
		} else {
			HASH_DEL(rate->entries, entry);
			HASH_ADD_STR(rate->entries, address, entry);
		}
	}
}

/* NOLINTEND(clang-analyzer-unix.Malloc) */

bool address_rate_take(struct address_rate *rate, const char *address, uint64_t now_ms, uint64_t *wait_ms)
{
	struct entry *entry;

	*wait_ms = 0;
	sweep(rate, now_ms);
	HASH_FIND_STR(rate->entries, address, entry);
	if (!entry) {
		if (HASH_COUNT(rate->entries) >= ADDRESSES_MAX)
			return true;
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			abort();
		strncpy(entry->address, address, sizeof(entry->address) - 1);
		token_bucket_init(&entry->bucket, rate->per_s, (double)rate->per_s * BURST_S, now_ms);
		HASH_ADD_STR(rate->entries, address, entry);
	}
	if (token_bucket_take(&entry->bucket, 1, now_ms))
		return true;
	*wait_ms = token_bucket_wait_ms(&entry->bucket, 1, now_ms);
	return false;
}
