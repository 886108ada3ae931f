/*
 * config.h - one table of options gives the flags, the YAML file's schema and --help.
 *
 * Every option NAME is a flag --NAME and a key NAME of the file; a flag overrides the file. --config FILE, --check-config,
 * --help and --version are there for every program. Errors name the file and line, or the flag. The file is parsed by
 * libcyaml against a schema made from the table. Thread: start-up only.
 */
#ifndef PINION_COMMON_CONFIG_H
#define PINION_COMMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"

enum option_kind {
	OPTION_STRING, /* char *; NULL: not set */
	OPTION_LIST,   /* struct string_list; flag: comma-separated, repeatable; file: a sequence or a comma-separated string */
	OPTION_UINT,   /* uint64_t, decimal only, within [min, max] */
	OPTION_BOOL,   /* bool; flag without a value sets it, --NAME=false clears it */
};

struct string_list {
	char **items;
	size_t n;
};

struct option_def {
	const char *name;
	enum option_kind kind;
	size_t offset;      /* of the field in the program's config struct */
	const char *preset; /* default, as written by a user; NULL: not set / empty / 0 / false */
	uint64_t min, max;  /* UINT only; max 0: no bound */
	const char *value;  /* placeholder in --help: "HOST:PORT" */
	const char *help;   /* one or more sentences; --help wraps it */
};

struct config_spec {
	const char *program; /* pinion-gateway */
	const char *summary; /* what it does, a sentence */
	const char *epilog;  /* examples, printed at the end of --help; may be NULL */
	const struct option_def *options;
	size_t n_options;
};

enum config_verdict {
	CONFIG_RUN,   /* go on */
	CONFIG_CHECK, /* --check-config: validate further, print "configuration is valid", exit 0 */
	CONFIG_EXIT,  /* --help or --version was printed: exit 0 */
	CONFIG_BAD,   /* the error was printed on stderr: exit 2 */
};

/* Fills `config` (zeroed by the caller) from presets, file and flags, in that order. Strings are config_free's. */
enum config_verdict config_load(const struct config_spec *spec, void *config, int argc, char **argv);
void config_free(const struct config_spec *spec, void *config);

/* "HOST:PORT", "[::1]:80": host into out (at most n bytes), port 0..65535. ERR_CONFIG with why. */
MUST_CHECK enum err config_host_port(const char *text, char *host, size_t n, uint16_t *port, struct err_info *info);

/* The file's bytes without trailing newlines, at most max; NUL-terminated, *len set; caller frees. Refuses a file that
 * others can write, warns (in info, ERR_OK) never. */
MUST_CHECK enum err config_read_secret(const char *path, size_t max, char **out, size_t *len, struct err_info *info);

#define PINION_VERSION "0.1.0"

#endif
