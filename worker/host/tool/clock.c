/*
 * clock.c - the `clock` tool: the time in UTC and in an IANA time zone.
 *
 * glibc takes an unknown zone for UTC without a word, so the zone's file is looked at first. The sandbox lets a run read
 * /usr/share/zoneinfo and /etc/localtime and nothing else of the machine (tzset(3), tzfile(5)).
 */
#include "worker/host/tool/tools.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/json.h"

#define ZONE_MAX 64
#define ZONE_DIR "/usr/share/zoneinfo/"

static bool zone_char_ok(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '+' ||
	       c == '/';
}

/* Area/City as IANA writes it: no path that climbs, no absolute one, no rule of POSIX's TZ language. */
static bool zone_form_ok(struct str zone)
{
	if (zone.n == 0 || zone.n > ZONE_MAX || zone.p[0] == '/' || zone.p[zone.n - 1] == '/')
		return false;
	for (size_t i = 0; i < zone.n; i++)
		if (!zone_char_ok(zone.p[i]) || (zone.p[i] == '/' && zone.p[i + 1] == '/'))
			return false;
	return (zone.p[0] >= 'A' && zone.p[0] <= 'Z') || (zone.p[0] >= 'a' && zone.p[0] <= 'z');
}

static bool zone_exists(const char *name)
{
	char path[sizeof(ZONE_DIR) + ZONE_MAX + 1], magic[4];
	int fd;
	bool ok;

	snprintf(path, sizeof(path), ZONE_DIR "%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = read(fd, magic, sizeof(magic)) == (ssize_t)sizeof(magic) && memcmp(magic, "TZif", 4) == 0;
	close(fd);
	return ok;
}

/* Universal time needs no database, so that it works on a machine without tzdata. */
static bool zone_is_utc(const char *name)
{
	return strcmp(name, "UTC") == 0 || strcmp(name, "Etc/UTC") == 0;
}

static bool zone_enter(struct str zone, struct buf *out)
{
	char name[ZONE_MAX + 2];

	if (zone.n == 0) {
		unsetenv("TZ");
		tzset();
		return true;
	}
	if (!zone_form_ok(zone)) {
		buf_append_c(out, "timezone must be an IANA name such as \"Europe/Berlin\"");
		return false;
	}
	snprintf(name, sizeof(name), ":" STR_FMT, STR_ARG(zone));
	if (!zone_is_utc(name + 1) && !zone_exists(name + 1)) {
		buf_printf(out, "there is no timezone \"" STR_FMT "\"", STR_ARG(zone));
		return false;
	}
	setenv("TZ", zone_is_utc(name + 1) ? "UTC0" : name, 1);
	tzset();
	return true;
}

bool clock_describe(time_t now, struct str zone, struct buf *out)
{
	struct tm utc, local;
	char utc_text[40], local_text[40];
	long offset;

	if (!zone_enter(zone, out))
		return false;
	gmtime_r(&now, &utc);
	localtime_r(&now, &local);
	strftime(utc_text, sizeof(utc_text), "%Y-%m-%dT%H:%M:%SZ", &utc);
	strftime(local_text, sizeof(local_text), "%Y-%m-%dT%H:%M:%S", &local);
	offset = local.tm_gmtoff < 0 ? -local.tm_gmtoff : local.tm_gmtoff;
	buf_printf(out, "{\"utc\":\"%s\",\"local\":\"%s%c%02ld:%02ld\",\"timezone\":", utc_text, local_text,
	           local.tm_gmtoff < 0 ? '-' : '+', offset / 3600, offset / 60 % 60);
	json_write_string(out, zone.n > 0 ? zone : str_c(local.tm_zone));
	buf_append_c(out, "}");
	return true;
}

enum tool_status clock_tool(const json_t *arguments, struct buf *result)
{
	const json_t *zone = json_object_get(arguments, "timezone");
	const char *unknown = tool_unknown_argument(arguments, "timezone");
	struct buf text = {0};
	struct str name = {0};
	bool ok;

	if (unknown) {
		buf_printf(&text, "clock knows no argument \"%s\", only \"timezone\"", unknown);
		ok = false;
	} else if (zone && !json_is_null(zone) && !json_is_string(zone)) {
		buf_append_c(&text, "timezone must be a string such as \"Europe/Berlin\"");
		ok = false;
	} else {
		if (json_is_string(zone))
			name = str_of(json_string_value(zone), json_string_length(zone));
		ok = clock_describe(time(NULL), name, &text);
	}
	if (ok)
		buf_append_str(result, buf_str(&text));
	else
		(void)tool_refuse(result, buf_str(&text));
	buf_finish(&text);
	return ok ? TOOL_OK : TOOL_ERROR;
}
