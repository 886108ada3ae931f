/*
 * config_file.c - the YAML file, by libcyaml against a schema made from the option table.
 *
 * libcyaml takes "12abc" for 12 and "010" for 8, so every scalar is loaded as a string and read by config_value_set. Its schema
 * can't say "a sequence or a string": a list is first expected as a sequence, and the file is loaded again with a string
 * where libcyaml found one. What it logs is the only place that names key and line; for an unknown key the line is
 * the previous token's, so the key is looked up in the text. Source: libcyaml's guide; tried with 1.3.1.
 */
#include <assert.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/config.h"
#include "common/config_parts.h"

#define FILE_MAX (1024 * 1024)

struct raw_value {
	char *scalar;
	char **items;
	uint32_t n_items;
};

/* What libcyaml said: its first message, and of its backtrace the innermost line and the outermost field. */
struct complaint {
	char text[200];
	char field[64];
	unsigned line;
};

struct file {
	const struct config_spec *spec;
	const char *path;
	struct buf text;
	cyaml_config_t cyaml;
	cyaml_schema_field_t *fields; /* one an option, and the end */
	cyaml_schema_value_t top;
	struct raw_value *raw; /* one an option; libcyaml's */
	struct complaint complaint;
};

static const cyaml_schema_value_t item_schema = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED)};

static void on_cyaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list ap)
{
	struct complaint *c = ctx;
	char text[200];
	const char *at;

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = 0;
	if (strncmp(text, "Load: ", 6) == 0 && !c->text[0] && !strstr(text, "Backtrace"))
		snprintf(c->text, sizeof(c->text), "%s", text + 6);
	else if (strstr(text, "Ignoring documents"))
		snprintf(c->text, sizeof(c->text), "only one YAML document is allowed");
	at = strstr(text, "in mapping field '");
	if (at)
		snprintf(c->field, sizeof(c->field), "%.*s", (int)strcspn(at + 18, "'"), at + 18);
	at = strstr(text, "(line: ");
	if (at && !c->line)
		c->line = (unsigned)strtoul(at + 7, NULL, 10);
}

/* The line, from 1, on which the key stands for the nth time ("key:", quoted or not, first on its line or in {…}); 0: nowhere. */
static unsigned line_of(const struct file *file, const char *key, unsigned nth)
{
	const char *text = file->text.p, *p = text;
	unsigned line = 1;

	while ((p = strstr(p, key))) {
		const char *start = p, *end = p + strlen(key);

		while (start > text && start[-1] != '\n')
			start--;
		end += *end == '"' || *end == '\'';
		end += strspn(end, " \t");
		if (*end == ':' && start[strspn(start, " \t")] != '#' && (p == text || strchr("\n \t{,\"'", p[-1])) &&
		    --nth == 0) {
			for (const char *c = text; c < p; c++)
				line += *c == '\n';
			return line;
		}
		p++;
	}
	return 0;
}

static void complain_at(const struct file *file, unsigned line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void complain_at(const struct file *file, unsigned line, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	config_complain(file->spec, "%s:%u: %s", file->path, line ? line : 1, text);
}

static bool read_text(struct file *file)
{
	int fd = open(file->path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 1;

	while (fd >= 0 && n > 0 && file->text.n <= FILE_MAX) {
		n = read(fd, buf_reserve(&file->text, 65536), 65536);
		if (n > 0)
			file->text.n += (size_t)n;
	}
	if (fd < 0 || n < 0)
		config_complain(file->spec, "%s: %s", file->path, strerror(errno));
	else if (file->text.n > FILE_MAX)
		config_complain(file->spec, "%s: is longer than %d bytes", file->path, FILE_MAX);
	if (fd >= 0)
		close(fd);
	buf_append(&file->text, "", 1); /* NUL for the search of lines */
	file->text.n--;
	return fd >= 0 && n == 0;
}

static void expect_scalar(cyaml_schema_field_t *field, size_t option)
{
	field->value = (cyaml_schema_value_t){
		CYAML_VALUE_STRING(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char, 0, CYAML_UNLIMITED)};
	field->data_offset = (uint32_t)(option * sizeof(struct raw_value) + offsetof(struct raw_value, scalar));
}

static void expect_sequence(cyaml_schema_field_t *field, size_t option)
{
	field->value = (cyaml_schema_value_t){
		.type = CYAML_SEQUENCE,
		.flags = (enum cyaml_flag)(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL),
		.data_size = sizeof(char *),
		.sequence = {.entry = &item_schema, .min = 0, .max = CYAML_UNLIMITED},
	};
	field->data_offset = (uint32_t)(option * sizeof(struct raw_value) + offsetof(struct raw_value, items));
	field->count_offset = (uint32_t)(option * sizeof(struct raw_value) + offsetof(struct raw_value, n_items));
	field->count_size = sizeof(uint32_t);
}

static void make_schema(struct file *file)
{
	const struct config_spec *spec = file->spec;

	file->cyaml = (cyaml_config_t){
		.log_fn = on_cyaml_log,
		.log_ctx = &file->complaint,
		.log_level = CYAML_LOG_WARNING,
		.mem_fn = cyaml_mem,
		.flags = CYAML_CFG_NO_ALIAS,
	};
	file->fields = calloc(spec->n_options + 1, sizeof(*file->fields));
	if (!file->fields)
		abort();
	for (size_t i = 0; i < spec->n_options; i++) {
		file->fields[i].key = spec->options[i].name;
		if (spec->options[i].kind == OPTION_LIST)
			expect_sequence(&file->fields[i], i);
		else
			expect_scalar(&file->fields[i], i);
	}
	file->top = (cyaml_schema_value_t){
		.type = CYAML_MAPPING,
		.flags = CYAML_FLAG_POINTER,
		.data_size = (uint32_t)((spec->n_options + 1) * sizeof(struct raw_value)),
		.mapping = {.fields = file->fields},
	};
}

/* Where a list was written as a string: expect that. False: this was not the matter. */
static bool relax(struct file *file)
{
	if (!strstr(file->complaint.text, "Expecting SEQUENCE, got event: SCALAR"))
		return false;
	for (size_t i = 0; i < file->spec->n_options; i++) {
		if (strcmp(file->fields[i].key, file->complaint.field) == 0 && file->fields[i].value.type == CYAML_SEQUENCE) {
			expect_scalar(&file->fields[i], i);
			return true;
		}
	}
	return false;
}

static void complain_of_key(const struct file *file, const char *key)
{
	const char *near = config_near(file->spec, key);
	unsigned line = line_of(file, key, 1);

	if (near)
		complain_at(file, line, "unknown key \"%s\", did you mean \"%s\"?", key, near);
	else
		complain_at(file, line, "unknown key \"%s\"", key);
}

static void complain_of_load(const struct file *file, cyaml_err_t err)
{
	const struct complaint *c = &file->complaint;

	if (strncmp(c->text, "Unexpected key: ", 16) == 0)
		complain_of_key(file, c->text + 16);
	else if (strncmp(c->text, "Mapping field already seen: ", 28) == 0)
		complain_at(file, line_of(file, c->text + 28, 2), "the key \"%s\" is given twice", c->text + 28);
	else if (strncmp(c->text, "Expecting MAPPING", 17) == 0)
		complain_at(file, c->line, "the file must be a mapping, \"key: value\" a line");
	else if (strncmp(c->text, "Expecting ", 10) == 0)
		complain_at(file, c->line, "%s: the value must be %s", c->field,
		            strstr(c->text, "got event: SCALAR") ? "a sequence" : "a single value");
	else
		complain_at(file, c->line, "%s%s%s", c->field, c->field[0] ? ": " : "",
		            c->text[0] ? c->text : cyaml_strerror(err));
}

static bool load(struct file *file)
{
	for (;;) {
		cyaml_err_t err;

		file->complaint = (struct complaint){0};
		file->raw = NULL;
		err = cyaml_load_data((const uint8_t *)file->text.p, file->text.n, &file->cyaml, &file->top,
		                      (cyaml_data_t **)&file->raw, NULL);
		if (err == CYAML_OK && !file->complaint.text[0])
			return true;
		if (err != CYAML_OK && relax(file))
			continue;
		complain_of_load(file, err);
		return false;
	}
}

static bool apply(const struct option_def *def, void *config, const struct raw_value *raw, char why[CONFIG_WHY])
{
	config_value_clear(def, config);
	if (raw->scalar && (strcmp(raw->scalar, "~") == 0 || strcmp(raw->scalar, "null") == 0)) {
		snprintf(why, CONFIG_WHY, "needs a value; leave the key out for the default");
		return false;
	}
	if (raw->scalar)
		return config_value_set(def, config, raw->scalar, why);
	for (uint32_t i = 0; raw->items && i < raw->n_items; i++) {
		if (!config_list_add(def, config, str_c(raw->items[i]), why))
			return false;
	}
	return true;
}

static bool apply_all(struct file *file, void *config)
{
	char why[CONFIG_WHY];

	for (size_t i = 0; file->raw && i < file->spec->n_options; i++) {
		const struct option_def *def = &file->spec->options[i];
		const struct raw_value *raw = &file->raw[i];

		/* an empty sequence leaves no trace but its key */
		if (!raw->scalar && !raw->items && !(def->kind == OPTION_LIST && line_of(file, def->name, 1)))
			continue;
		if (!apply(def, config, raw, why)) {
			complain_at(file, line_of(file, def->name, 1), "%s: %s", def->name, why);
			return false;
		}
	}
	return true;
}

bool config_file_load(const struct config_spec *spec, void *config, const char *path)
{
	struct file file = {.spec = spec, .path = path};
	bool ok;

	make_schema(&file);
	ok = read_text(&file) && load(&file) && apply_all(&file, config);
	cyaml_free(&file.cyaml, &file.top, file.raw, 0);
	free(file.fields);
	buf_finish(&file.text);
	return ok;
}
