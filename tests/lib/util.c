#include "tests/lib/util.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static void blob_room(struct blob *b, size_t n)
{
	if (b->cap - b->n > n)
		return;
	size_t cap = b->cap ? b->cap : 256;
	while (cap - b->n <= n)
		cap *= 2;
	b->p = realloc(b->p, cap);
	if (!b->p)
		abort();
	b->cap = cap;
}

void blob_add(struct blob *b, const void *p, size_t n)
{
	blob_room(b, n);
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	b->p[b->n] = 0;
}

void blob_add_c(struct blob *b, const char *z)
{
	blob_add(b, z, strlen(z));
}

void blob_printf(struct blob *b, const char *fmt, ...)
{
	va_list ap;
	char *text;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	blob_add(b, text, (size_t)n);
	free(text);
}

void blob_drop(struct blob *b, size_t n)
{
	if (!n)
		return;
	memmove(b->p, b->p + n, b->n - n + 1);
	b->n -= n;
}

void blob_free(struct blob *b)
{
	free(b->p);
	*b = (struct blob){0};
}

char *text_format(const char *fmt, ...)
{
	va_list ap;
	char *text;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	return text;
}

uint64_t clock_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t clock_ms(void)
{
	return clock_us() / 1000;
}

void pause_ms(unsigned ms)
{
	poll(NULL, 0, (int)ms);
}

uint64_t random_next(struct random *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

uint64_t random_below(struct random *r, uint64_t n)
{
	return random_next(r) % n;
}

uint64_t random_seed(void)
{
	const char *given = getenv("PINION_TEST_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : 0;
	if (!given && getrandom(&seed, sizeof seed, 0) != sizeof seed)
		seed = clock_us();
	printf("seed: PINION_TEST_SEED=0x%llx\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

/* Bytes of the character that starts at p, 0 where it is none. */
static size_t utf8_step(const unsigned char *p, size_t n)
{
	if (p[0] < 0x80)
		return 1;
	size_t len = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
	if (!len || len > n)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
	    (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

bool text_is_utf8(const char *p, size_t n)
{
	for (size_t i = 0; i < n;) {
		size_t step = utf8_step((const unsigned char *)p + i, n - i);
		if (!step)
			return false;
		i += step;
	}
	return true;
}

uint64_t text_hash(const void *p, size_t n)
{
	const unsigned char *bytes = p;
	uint64_t h = 0xcbf29ce484222325;
	for (size_t i = 0; i < n; i++)
		h = (h ^ bytes[i]) * 0x100000001b3;
	return h;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

uint64_t percentile(uint64_t *values, size_t n, double q)
{
	qsort(values, n, sizeof *values, compare_u64);
	size_t i = (size_t)((double)n * q);
	return values[i < n ? i : n - 1];
}

unsigned patience(void)
{
	const char *given = getenv("PINION_TEST_PATIENCE");
	if (given)
		return (unsigned)strtoul(given, NULL, 10);
#ifdef PINION_SANITIZED
	return 4;
#else
	return 1;
#endif
}
