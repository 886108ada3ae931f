/* config_parts.h - between config*.c only: values into fields, the YAML file, the help text. */
#ifndef PINION_COMMON_CONFIG_PARTS_H
#define PINION_COMMON_CONFIG_PARTS_H

#include "common/config.h"

#define CONFIG_WHY 160 /* bytes for why a value was refused */

/* One value as a user writes it into its field; a list's items are appended. False: `why` says what is wrong. */
bool config_value_set(const struct option_def *def, void *config, const char *value, char why[CONFIG_WHY]);
/* One item of a list, taken as it is. */
bool config_list_add(const struct option_def *def, void *config, struct str item, char why[CONFIG_WHY]);
/* Frees what the field holds and zeroes it. */
void config_value_clear(const struct option_def *def, void *config);

/* Reads the file over the fields; false: the error was printed. */
bool config_file_load(const struct config_spec *spec, void *config, const char *path);

void config_help_print(const struct config_spec *spec);
/* The option whose name is so near that it may have been meant; NULL: none. */
const char *config_near(const struct config_spec *spec, const char *name);
/* "PROGRAM: " and the text as a line on stderr. */
void config_complain(const struct config_spec *spec, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
