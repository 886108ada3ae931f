/* str.h - a borrowed run of bytes with its length; never owns, need not be NUL-terminated. */
#ifndef PINION_COMMON_STR_H
#define PINION_COMMON_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct str {
	const char *p; /* may be NULL where n is 0 */
	size_t n;      /* bytes */
};

#define STR_FMT "%.*s"
#define STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct str str_of(const char *p, size_t n)
{
	return (struct str){p, n};
}

/* NULL gives the empty string. */
static inline struct str str_c(const char *z)
{
	return (struct str){z, z ? strlen(z) : 0};
}

static inline bool str_eq(struct str a, struct str b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool str_eq_c(struct str a, const char *z)
{
	return str_eq(a, str_c(z));
}

#endif
