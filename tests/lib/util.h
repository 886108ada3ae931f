/*
 * util.h - small things that the outside tests stand on: a byte buffer, the monotonic clock, a seeded generator, UTF-8.
 * Written apart from common/ on purpose: what the tests check with must not be what they check. Thread: one.
 */
#ifndef PINION_TESTS_LIB_UTIL_H
#define PINION_TESTS_LIB_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Growing bytes; zeroed is empty. The bytes are followed by a NUL that is not counted. Allocation failure aborts. */
struct blob {
	char *p;
	size_t n, cap;
};

void blob_add(struct blob *b, const void *p, size_t n);
void blob_add_c(struct blob *b, const char *z);
void blob_printf(struct blob *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void blob_drop(struct blob *b, size_t n); /* n bytes at the front */
void blob_free(struct blob *b);           /* leaves it empty */

char *text_format(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* the caller frees */

uint64_t clock_us(void); /* monotonic */
uint64_t clock_ms(void);
void pause_ms(unsigned ms); /* between two looks at a condition that can't be waited for; never instead of one */

/* splitmix64: the same seed gives the same numbers everywhere. */
struct random {
	uint64_t state;
};
uint64_t random_next(struct random *r);
uint64_t random_below(struct random *r, uint64_t n); /* 0 … n-1 */
uint64_t random_seed(void);                          /* PINION_TEST_SEED, or a new one; printed once */

bool text_is_utf8(const char *p, size_t n);  /* RFC 3629 */
uint64_t text_hash(const void *p, size_t n); /* FNV-1a, 64 bits */

/* The value at fraction q (0 … 1) of n values, which are sorted in place. n > 0. */
uint64_t percentile(uint64_t *values, size_t n, double q);

/* The factor for deadlines: more under sanitizers and valgrind. */
unsigned patience(void);

#endif
