/* err.c - names and texts from ERR_LIST, and the writing of err_info. */
#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
#define X(symbol, name, text) [symbol] = name,
	ERR_LIST(X)
#undef X
};

static const char *const texts[] = {
#define X(symbol, name, text) [symbol] = text,
	ERR_LIST(X)
#undef X
};

static bool is_known(enum err code)
{
	return (unsigned)code < ERR_COUNT_;
}

const char *err_name(enum err code)
{
	if (code == ERR_OK)
		return "ok";
	return names[is_known(code) ? code : ERR_INTERNAL];
}

const char *err_text(enum err code)
{
	if (code == ERR_OK)
		return "no error";
	return texts[is_known(code) ? code : ERR_INTERNAL];
}

enum err err_from_name(struct str name)
{
	if (name.n == 0 || str_eq_c(name, "ok"))
		return ERR_OK;
	for (unsigned i = ERR_OK + 1; i < ERR_COUNT_; i++) {
		if (str_eq_c(name, names[i]))
			return (enum err)i;
	}
	return ERR_INTERNAL;
}

enum err err_for_client(enum err code)
{
	if (!is_known(code))
		return ERR_INTERNAL;
	switch (code) {
	case ERR_MOVED:
	case ERR_FULL:
	case ERR_FENCED:
	case ERR_VERSION:
	case ERR_DISCONNECTED:
	case ERR_TIMEOUT:
	case ERR_CANCELLED:
	case ERR_NO_MEMORY:
	case ERR_AGAIN:
	case ERR_CAPACITY:
		return ERR_UNAVAILABLE;
	case ERR_PROTOCOL:
	case ERR_IO:
	case ERR_CONFIG:
		return ERR_INTERNAL;
	default:
		return code;
	}
}

enum err err_set(struct err_info *info, enum err code, const char *fmt, ...)
{
	char text[sizeof(info->text)];
	va_list ap;

	if (!info)
		return code;
	if (fmt) {
		/* by way of a copy, so that an argument may be the old text */
		va_start(ap, fmt);
		vsnprintf(text, sizeof(text), fmt, ap);
		va_end(ap);
	} else {
		snprintf(text, sizeof(text), "%s", err_text(code));
	}
	info->code = code;
	memcpy(info->text, text, sizeof(text));
	return code;
}

/* first + ": " + second into info->text, cut where it doesn't fit. */
static void join(struct err_info *info, const char *first, const char *second)
{
	struct str parts[] = {str_c(first), str_c(": "), str_c(second)};
	char text[sizeof(info->text)];
	size_t n = 0;

	for (size_t i = 0; i < 3; i++) {
		size_t room = sizeof(text) - 1 - n;
		size_t take = parts[i].n < room ? parts[i].n : room;

		memcpy(text + n, parts[i].p, take);
		n += take;
	}
	text[n] = 0;
	memcpy(info->text, text, n + 1);
}

enum err err_wrap(struct err_info *info, const char *fmt, ...)
{
	char prefix[sizeof(info->text)];
	va_list ap;

	if (!info)
		return ERR_OK;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	join(info, prefix, info->text);
	return info->code;
}

enum err err_set_errno(struct err_info *info, enum err code, int errno_value, const char *fmt, ...)
{
	char prefix[sizeof(info->text)];
	char reason[128];
	va_list ap;

	if (!info)
		return code;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	info->code = code;
	join(info, prefix, strerror_r(errno_value, reason, sizeof(reason)));
	return code;
}
