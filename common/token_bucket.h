/* token_bucket.h - a rate with a burst. Time comes in from the caller. Thread: its owner's. */
#ifndef PINION_COMMON_TOKEN_BUCKET_H
#define PINION_COMMON_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct token_bucket {
	double per_ms;
	double burst;
	double tokens;
	uint64_t then_ms;
};

/* rate: tokens a second, > 0; burst: the most that can be saved up. Starts full. */
void token_bucket_init(struct token_bucket *bucket, double rate, double burst, uint64_t now_ms);
/* Takes n tokens where there are that many. A clock that stands still or goes back adds none. */
bool token_bucket_take(struct token_bucket *bucket, double n, uint64_t now_ms);
/* How long until n tokens are there; 0: now. */
uint64_t token_bucket_wait_ms(struct token_bucket *bucket, double n, uint64_t now_ms);

#endif
