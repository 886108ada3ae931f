/* token_bucket.c */
#include "common/token_bucket.h"

#include <math.h>

void token_bucket_init(struct token_bucket *bucket, double rate, double burst, uint64_t now_ms)
{
	*bucket = (struct token_bucket){.per_ms = rate / 1000, .burst = burst, .tokens = burst, .then_ms = now_ms};
}

static void refill(struct token_bucket *bucket, uint64_t now_ms)
{
	if (now_ms <= bucket->then_ms)
		return;
	bucket->tokens = fmin(bucket->burst, bucket->tokens + (double)(now_ms - bucket->then_ms) * bucket->per_ms);
	bucket->then_ms = now_ms;
}

/* What rounding may have cost: no caller waits a millisecond more for it. */
static bool has(const struct token_bucket *bucket, double n)
{
	return bucket->tokens >= n - 1e-9;
}

bool token_bucket_take(struct token_bucket *bucket, double n, uint64_t now_ms)
{
	refill(bucket, now_ms);
	if (!has(bucket, n))
		return false;
	bucket->tokens = fmax(0, bucket->tokens - n);
	return true;
}

uint64_t token_bucket_wait_ms(struct token_bucket *bucket, double n, uint64_t now_ms)
{
	double wait;

	refill(bucket, now_ms);
	if (has(bucket, n))
		return 0;
	if (n > bucket->burst || bucket->per_ms <= 0)
		return UINT64_MAX;
	wait = ceil((n - bucket->tokens) / bucket->per_ms - 1e-6);
	if (wait >= 1e18)
		return UINT64_MAX;
	return wait < 1 ? 1 : (uint64_t)wait;
}
