/* config_help.c - --help, and which name was probably meant. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/config.h"
#include "common/config_parts.h"

#define HELP_COLUMN 30
#define HELP_WIDTH 96
#define NAME_MAX_LEN 64

/* Prints text at `indent`, wrapped; the cursor stands at `column`. */
static void wrapped(const char *text, size_t column, size_t indent)
{
	bool first = true;

	while (*text) {
		size_t n = strcspn(text, " \n");

		if (!first && column + 1 + n > HELP_WIDTH) {
			printf("\n%*s", (int)indent, "");
			column = indent;
			first = true;
		}
		column += (size_t)printf("%s%.*s", first ? "" : " ", (int)n, text);
		first = false;
		text += n;
		text += strspn(text, " \n");
	}
	putchar('\n');
}

static void describe(struct buf *out, const struct option_def *def)
{
	const char *separator = "";

	buf_append_c(out, def->help ? def->help : "");
	if (!def->preset && !def->max)
		goto end;
	buf_append_c(out, " (");
	if (def->kind == OPTION_UINT && def->max) {
		buf_printf(out, "%" PRIu64 " to %" PRIu64, def->min, def->max);
		separator = "; ";
	}
	if (def->preset)
		buf_printf(out, "%sdefault: %s", separator, def->preset);
	buf_append_c(out, ")");
end:
	buf_append(out, "", 1);
}

static void print_option(const char *name, const char *value, const char *help)
{
	int column = value ? printf("  --%s %s", name, value) : printf("  --%s", name);

	if (column + 2 > HELP_COLUMN) {
		putchar('\n');
		column = 0;
	}
	printf("%*s", HELP_COLUMN - column, "");
	wrapped(help, HELP_COLUMN, HELP_COLUMN);
}

void config_help_print(const struct config_spec *spec)
{
	struct buf help = {0};

	printf("Usage: %s [OPTION]...\n\n", spec->program);
	wrapped(spec->summary, 0, 0);
	printf("\nOptions (each is also a key of the file, and overrides it):\n");
	for (size_t i = 0; i < spec->n_options; i++) {
		const struct option_def *def = &spec->options[i];

		buf_clear(&help);
		describe(&help, def);
		print_option(def->name, def->kind == OPTION_BOOL ? NULL : def->value ? def->value : "VALUE", help.p);
	}
	buf_finish(&help);
	putchar('\n');
	print_option("config", "FILE", "Read options from this YAML file, \"key: value\" a line.");
	print_option("check-config", NULL, "Check flags and file, say what is wrong, and exit.");
	print_option("help", NULL, "Print this and exit.");
	print_option("version", NULL, "Print the version and exit.");
	if (spec->epilog)
		printf("\n%s%s", spec->epilog, spec->epilog[0] && spec->epilog[strlen(spec->epilog) - 1] == '\n' ? "" : "\n");
	fflush(stdout);
}

static size_t least(size_t a, size_t b, size_t c)
{
	size_t ab = a < b ? a : b;

	return ab < c ? ab : c;
}

/* Levenshtein's distance, one row at a time; both shorter than NAME_MAX_LEN. */
static size_t distance(const char *a, const char *b)
{
	size_t row[NAME_MAX_LEN + 1], n = strlen(b);

	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; a[i - 1]; i++) {
		size_t corner = row[0];

		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t above = row[j];

			row[j] = least(row[j] + 1, row[j - 1] + 1, corner + (a[i - 1] != b[j - 1]));
			corner = above;
		}
	}
	return row[n];
}

const char *config_near(const struct config_spec *spec, const char *name)
{
	static const char *const common[] = {"config", "check-config", "help", "version"};
	size_t len = strlen(name), best = len < 4 ? 2 : len < 9 ? 3 : 4; /* one, two or three slips */
	const char *near = NULL;

	if (len < 2 || len > NAME_MAX_LEN)
		return NULL;
	for (size_t i = 0; i < spec->n_options + 4; i++) {
		const char *other = i < spec->n_options ? spec->options[i].name : common[i - spec->n_options];
		size_t d = strlen(other) <= NAME_MAX_LEN ? distance(name, other) : SIZE_MAX;

		if (d < best) {
			best = d;
			near = other;
		}
	}
	return near;
}
