/* config_value.c - single values: as a user writes them, into the program's fields. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config.h"
#include "common/config_parts.h"

static void *field(const struct option_def *def, void *config)
{
	return (char *)config + def->offset;
}

static bool refuse(char why[CONFIG_WHY], const char *text, const char *value)
{
	snprintf(why, CONFIG_WHY, "%s, not \"%.60s\"", text, value);
	return false;
}

/* Decimal without sign, blanks or leading zeros (which YAML 1.1 would take for octal). */
static bool parse_uint(const char *text, uint64_t *out)
{
	uint64_t n = 0;

	if (!text[0] || (text[0] == '0' && text[1]))
		return false;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9' || n > (UINT64_MAX - (uint64_t)(*p - '0')) / 10)
			return false;
		n = n * 10 + (uint64_t)(*p - '0');
	}
	*out = n;
	return true;
}

static bool set_uint(const struct option_def *def, uint64_t *out, const char *value, char why[CONFIG_WHY])
{
	uint64_t n;

	if (!parse_uint(value, &n))
		return refuse(why, "must be a decimal number", value);
	if (n < def->min || (def->max && n > def->max)) {
		if (def->max)
			snprintf(why, CONFIG_WHY, "must be %" PRIu64 " to %" PRIu64 ", not %" PRIu64, def->min, def->max, n);
		else
			snprintf(why, CONFIG_WHY, "must be at least %" PRIu64 ", not %" PRIu64, def->min, n);
		return false;
	}
	*out = n;
	return true;
}

static bool set_bool(bool *out, const char *value, char why[CONFIG_WHY])
{
	if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
		return refuse(why, "must be true or false", value);
	*out = value[0] == 't';
	return true;
}

static bool set_string(char **out, const char *value, char why[CONFIG_WHY])
{
	char *copy;

	if (!value[0]) {
		snprintf(why, CONFIG_WHY, "needs a value");
		return false;
	}
	copy = strdup(value);
	if (!copy)
		abort();
	free(*out);
	*out = copy;
	return true;
}

static struct str trim(struct str s)
{
	while (s.n && (*s.p == ' ' || *s.p == '\t'))
		s = str_of(s.p + 1, s.n - 1);
	while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

bool config_list_add(const struct option_def *def, void *config, struct str item, char why[CONFIG_WHY])
{
	struct string_list *list = field(def, config);
	char **items, *copy;

	if (item.n == 0) {
		snprintf(why, CONFIG_WHY, "has an empty item");
		return false;
	}
	items = realloc(list->items, (list->n + 1) * sizeof(*items));
	copy = strndup(item.p, item.n);
	if (!items || !copy)
		abort();
	list->items = items;
	items[list->n++] = copy;
	return true;
}

static bool set_list(const struct option_def *def, void *config, const char *value, char why[CONFIG_WHY])
{
	for (;;) {
		size_t n = strcspn(value, ",");

		if (!config_list_add(def, config, trim(str_of(value, n)), why))
			return false;
		if (!value[n])
			return true;
		value += n + 1;
	}
}

bool config_value_set(const struct option_def *def, void *config, const char *value, char why[CONFIG_WHY])
{
	switch (def->kind) {
	case OPTION_STRING:
		return set_string(field(def, config), value, why);
	case OPTION_LIST:
		return set_list(def, config, value, why);
	case OPTION_UINT:
		return set_uint(def, field(def, config), value, why);
	case OPTION_BOOL:
		return set_bool(field(def, config), value, why);
	}
	abort();
}

static void clear_list(struct string_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct string_list){0};
}

void config_value_clear(const struct option_def *def, void *config)
{
	void *p = field(def, config);

	switch (def->kind) {
	case OPTION_STRING:
		free(*(char **)p);
		*(char **)p = NULL;
		break;
	case OPTION_LIST:
		clear_list(p);
		break;
	case OPTION_UINT:
		*(uint64_t *)p = 0;
		break;
	case OPTION_BOOL:
		*(bool *)p = false;
		break;
	}
}

enum err config_host_port(const char *text, char *host, size_t n, uint16_t *port, struct err_info *info)
{
	const char *colon = strrchr(text, ':');
	struct str name;
	uint64_t number;

	if (!colon)
		return err_set(info, ERR_CONFIG, "\"%.100s\" is not HOST:PORT", text);
	name = str_of(text, (size_t)(colon - text));
	if (name.n >= 2 && name.p[0] == '[' && name.p[name.n - 1] == ']')
		name = str_of(name.p + 1, name.n - 2);
	else if (memchr(text, ':', name.n))
		return err_set(info, ERR_CONFIG, "\"%.100s\": write an IPv6 address as [ADDRESS]:PORT", text);
	if (name.n == 0 || strcspn(text, " \t\r\n/") != strlen(text))
		return err_set(info, ERR_CONFIG, "\"%.100s\" is not HOST:PORT", text);
	if (name.n >= n)
		return err_set(info, ERR_CONFIG, "\"%.100s\": the host is too long", text);
	if (!parse_uint(colon + 1, &number) || number > UINT16_MAX)
		return err_set(info, ERR_CONFIG, "\"%.100s\": the port must be 0 to 65535", text);
	memcpy(host, name.p, name.n);
	host[name.n] = 0;
	*port = (uint16_t)number;
	return ERR_OK;
}

/* At most max + 1 bytes into out, which has room for one more; -1 and errno on failure. */
static ssize_t read_up_to(int fd, char *out, size_t max)
{
	size_t n = 0;

	while (n <= max) {
		ssize_t got = read(fd, out + n, max + 1 - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

static enum err check_secret_file(int fd, const char *path, struct err_info *info)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return err_set_errno(info, ERR_CONFIG, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(info, ERR_CONFIG, "%s: is not a regular file", path);
	if (st.st_mode & S_IWOTH)
		return err_set(info, ERR_CONFIG, "%s: everybody can write it (mode %04o): chmod o-w", path,
		               (unsigned)(st.st_mode & 0777));
	return ERR_OK;
}

static enum err read_secret(int fd, const char *path, size_t max, char *text, size_t *len, struct err_info *info)
{
	ssize_t n;

	if (check_secret_file(fd, path, info) != ERR_OK)
		return ERR_CONFIG;
	n = read_up_to(fd, text, max);
	if (n < 0)
		return err_set_errno(info, ERR_CONFIG, errno, "%s", path);
	if ((size_t)n > max)
		return err_set(info, ERR_CONFIG, "%s: is longer than %zu bytes", path, max);
	while (n > 0 && text[n - 1] == '\n')
		n--;
	if (n == 0)
		return err_set(info, ERR_CONFIG, "%s: is empty", path);
	text[n] = 0;
	*len = (size_t)n;
	return ERR_OK;
}

enum err config_read_secret(const char *path, size_t max, char **out, size_t *len, struct err_info *info)
{
	enum err err;
	char *text;
	int fd;

	*out = NULL;
	*len = 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set_errno(info, ERR_CONFIG, errno, "%s", path);
	text = malloc(max + 2);
	if (!text)
		abort();
	err = read_secret(fd, path, max, text, len, info);
	close(fd);
	if (err == ERR_OK) {
		*out = text;
		return ERR_OK;
	}
	explicit_bzero(text, max + 2);
	free(text);
	return err;
}
