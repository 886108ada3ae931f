/* config.c - presets, then the file, then the flags. */
#include "common/config.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/config_parts.h"

struct given {
	const struct option_def *def;
	const char *value;
};

/* The flags as given, before they are applied: the file comes first. */
struct flags {
	struct given *given;
	size_t n;
	const char *file;
	bool check;
};

void config_complain(const struct config_spec *spec, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s\n", spec->program, text);
}

static const struct option_def *find(const struct config_spec *spec, struct str name)
{
	for (size_t i = 0; i < spec->n_options; i++) {
		if (str_eq_c(name, spec->options[i].name))
			return &spec->options[i];
	}
	return NULL;
}

static enum config_verdict unknown_flag(const struct config_spec *spec, const char *arg, struct str name)
{
	char *copy = strndup(name.n ? name.p : "", name.n);
	const char *near = copy ? config_near(spec, copy) : NULL;

	if (arg[0] != '-')
		config_complain(spec, "unexpected argument \"%s\" (see --help)", arg);
	else if (near)
		config_complain(spec, "unknown flag %.*s, did you mean --%s? (see --help)", (int)strcspn(arg, "="), arg, near);
	else
		config_complain(spec, "unknown flag %.*s (see --help)", (int)strcspn(arg, "="), arg);
	free(copy);
	return CONFIG_BAD;
}

/* The value of the flag at argv[*i]: behind "=", or the next argument. NULL: there is none. */
static const char *flag_value(int argc, char **argv, int *i)
{
	const char *equals = strchr(argv[*i], '=');

	if (equals)
		return equals + 1;
	if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
		return NULL;
	return argv[++*i];
}

/* One of the flags that every program has. False: it is another. */
static bool common_flag(const struct config_spec *spec, struct flags *flags, struct str name, int argc, char **argv, int *i,
                        enum config_verdict *verdict)
{
	*verdict = CONFIG_RUN;
	if (str_eq_c(name, "help")) {
		config_help_print(spec);
		*verdict = CONFIG_EXIT;
	} else if (str_eq_c(name, "version")) {
		printf("%s %s\n", spec->program, PINION_VERSION);
		*verdict = CONFIG_EXIT;
	} else if (str_eq_c(name, "check-config")) {
		flags->check = true;
	} else if (str_eq_c(name, "config")) {
		flags->file = flag_value(argc, argv, i);
		if (!flags->file || !flags->file[0]) {
			config_complain(spec, "--config: needs a file");
			*verdict = CONFIG_BAD;
		}
	} else {
		return false;
	}
	return true;
}

static enum config_verdict one_flag(const struct config_spec *spec, struct flags *flags, int argc, char **argv, int *i)
{
	const char *arg = strcmp(argv[*i], "-h") == 0 ? "--help" : argv[*i];
	enum config_verdict verdict;
	const struct option_def *def;
	const char *value;
	struct str name;

	if (strncmp(arg, "--", 2) != 0)
		return unknown_flag(spec, arg, str_c(NULL));
	name = str_of(arg + 2, strcspn(arg + 2, "="));
	if (common_flag(spec, flags, name, argc, argv, i, &verdict))
		return verdict;
	def = find(spec, name);
	if (!def)
		return unknown_flag(spec, arg, name);
	if (def->kind == OPTION_BOOL && arg[2 + name.n] != '=')
		value = "true";
	else
		value = flag_value(argc, argv, i);
	if (!value) {
		config_complain(spec, "--%s: needs a value", def->name);
		return CONFIG_BAD;
	}
	flags->given[flags->n++] = (struct given){def, value};
	return CONFIG_RUN;
}

static enum config_verdict read_flags(const struct config_spec *spec, struct flags *flags, int argc, char **argv)
{
	enum config_verdict verdict = CONFIG_RUN;

	for (int i = 1; i < argc && verdict == CONFIG_RUN; i++)
		verdict = one_flag(spec, flags, argc, argv, &i);
	return verdict;
}

static void apply_presets(const struct config_spec *spec, void *config)
{
	char why[CONFIG_WHY];

	for (size_t i = 0; i < spec->n_options; i++) {
		const struct option_def *def = &spec->options[i];

		if (def->preset && !config_value_set(def, config, def->preset, why)) {
			config_complain(spec, "the preset of %s: %s", def->name, why);
			abort(); /* the program's own table is wrong */
		}
	}
}

static bool apply_flags(const struct config_spec *spec, void *config, const struct flags *flags)
{
	char why[CONFIG_WHY];

	for (size_t i = 0; i < flags->n; i++) {
		const struct option_def *def = flags->given[i].def;
		bool again = false;

		for (size_t k = 0; k < i; k++)
			again = again || flags->given[k].def == def;
		if (!again || def->kind != OPTION_LIST)
			config_value_clear(def, config);
		if (!config_value_set(def, config, flags->given[i].value, why)) {
			config_complain(spec, "--%s: %s", def->name, why);
			return false;
		}
	}
	return true;
}

enum config_verdict config_load(const struct config_spec *spec, void *config, int argc, char **argv)
{
	struct flags flags = {.given = calloc((size_t)argc + 1, sizeof(struct given))};
	enum config_verdict verdict;

	if (!flags.given)
		abort();
	verdict = read_flags(spec, &flags, argc, argv);
	if (verdict == CONFIG_RUN) {
		apply_presets(spec, config);
		if ((flags.file && !config_file_load(spec, config, flags.file)) || !apply_flags(spec, config, &flags)) {
			config_free(spec, config);
			verdict = CONFIG_BAD;
		} else if (flags.check) {
			verdict = CONFIG_CHECK;
		}
	}
	free(flags.given);
	return verdict;
}

void config_free(const struct config_spec *spec, void *config)
{
	for (size_t i = 0; i < spec->n_options; i++)
		config_value_clear(&spec->options[i], config);
}
