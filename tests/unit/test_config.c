#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/config.h"
#include "tests/unit/capture.h"

struct settings {
	char *listen, *issuer;
	struct string_list workers, origins;
	uint64_t burst, any;
	bool page, loud;
};

#define AT(f) offsetof(struct settings, f)

static const struct option_def options[] = {
	{"listen", OPTION_STRING, AT(listen), "127.0.0.1:8080", 0, 0, "HOST:PORT", "Where clients connect."},
	{"issuer", OPTION_STRING, AT(issuer), NULL, 0, 0, "NAME", "Who must have issued tokens."},
	{"workers", OPTION_LIST, AT(workers), NULL, 0, 0, "LIST",
         "The workers' URLs, separated by commas, in a text that is so long that the help has to wrap it more than once to keep lines short."},
	{"allow-origin", OPTION_LIST, AT(origins), "a,b", 0, 0, "LIST", "Origins."},
	{"burst", OPTION_UINT, AT(burst), "200", 1, 1000, "N", "Messages at once."},
	{"any", OPTION_UINT, AT(any), NULL, 0, 0, "N", "Any number."},
	{"page", OPTION_BOOL, AT(page), "true", 0, 0, NULL, "Serve the page."},
	{"loud", OPTION_BOOL, AT(loud), NULL, 0, 0, NULL, "Be loud."},
};

static const struct config_spec spec = {
	.program = "prog",
	.summary = "Does things.",
	.epilog = "Example: prog --loud",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

static char path[64];
static struct settings got;
static struct capture errors;

static enum config_verdict load(char **argv)
{
	enum config_verdict verdict;
	int argc = 0;

	while (argv[argc])
		argc++;
	config_free(&spec, &got);
	memset(&got, 0, sizeof(got));
	capture_begin(&errors, 2);
	verdict = config_load(&spec, &got, argc, argv);
	capture_end(&errors);
	return verdict;
}

#define LOAD(...) load((char *[]){"prog", __VA_ARGS__, NULL})

static void write_file(const char *text, size_t n)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	fclose(f);
}

#define FILE_SAYS(text) write_file(text, sizeof(text) - 1)

static int setup(void **state)
{
	int fd;

	strcpy(path, "/tmp/config-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	config_free(&spec, &got);
	return unlink(path);
}

static void refused(enum config_verdict verdict, const char *why)
{
	static const struct settings zero;

	assert_int_equal(verdict, CONFIG_BAD);
	if (!strstr(errors.text, why))
		fail_msg("no \"%s\" in: %s", why, errors.text);
	assert_memory_equal(&got, &zero, sizeof(zero));
}

/* The error must name the file and this line. */
static void file_refused(const char *text, unsigned line, const char *why)
{
	char place[96];

	write_file(text, strlen(text));
	snprintf(place, sizeof(place), "prog: %s:%u: ", path, line);
	refused(LOAD("--config", path), place);
	if (!strstr(errors.text, why))
		fail_msg("no \"%s\" in: %s", why, errors.text);
}

static void list_is(const struct string_list *list, const char *a, const char *b)
{
	assert_int_equal(list->n, !!a + !!b);
	if (a)
		assert_string_equal(list->items[0], a);
	if (b)
		assert_string_equal(list->items[1], b);
}

static void presets_hold_where_nothing_is_said(void **state)
{
	assert_int_equal(load((char *[]){"prog", NULL}), CONFIG_RUN);
	assert_string_equal(got.listen, "127.0.0.1:8080");
	assert_null(got.issuer);
	list_is(&got.workers, NULL, NULL);
	list_is(&got.origins, "a", "b");
	assert_true(got.burst == 200 && got.any == 0);
	assert_true(got.page && !got.loud);
}

static void flags_are_read_in_both_forms(void **state)
{
	assert_int_equal(LOAD("--listen", "h:1", "--issuer=me", "--burst=7", "--any", "18446744073709551615", "--loud",
	                      "--page=false", "--workers", "x, y"),
	                 CONFIG_RUN);
	assert_string_equal(got.listen, "h:1");
	assert_string_equal(got.issuer, "me");
	assert_true(got.burst == 7 && got.any == UINT64_MAX);
	assert_true(got.loud && !got.page);
	list_is(&got.workers, "x", "y");
}

static void repeated_list_flags_add_up_and_replace_the_preset(void **state)
{
	assert_int_equal(LOAD("--allow-origin", "c", "--burst", "3", "--allow-origin=d", "--burst", "4"), CONFIG_RUN);
	list_is(&got.origins, "c", "d");
	assert_true(got.burst == 4);
}

static void file_overrides_presets_and_flags_override_the_file(void **state)
{
	FILE_SAYS("listen: file:1\nburst: 9\nworkers: [p, q]\npage: false\nallow-origin:\n  - \"c,d\"\n");
	assert_int_equal(LOAD("--burst", "10", "--config", path, "--workers=z"), CONFIG_RUN);
	assert_string_equal(got.listen, "file:1");
	assert_true(got.burst == 10);
	assert_false(got.page);
	list_is(&got.workers, "z", NULL);
	list_is(&got.origins, "c,d", NULL);
}

static void lists_in_the_file_may_be_sequences_or_strings(void **state)
{
	FILE_SAYS("workers: p, q\nallow-origin: c\n");
	assert_int_equal(LOAD("--config", path), CONFIG_RUN);
	list_is(&got.workers, "p", "q");
	list_is(&got.origins, "c", NULL);
	FILE_SAYS("{workers: [p], allow-origin: []}");
	assert_int_equal(LOAD("--config", path), CONFIG_RUN);
	list_is(&got.workers, "p", NULL);
	list_is(&got.origins, NULL, NULL);
}

static void empty_file_says_nothing(void **state)
{
	FILE_SAYS("");
	assert_int_equal(LOAD("--config", path), CONFIG_RUN);
	assert_true(got.burst == 200);
	FILE_SAYS("# only a comment\n");
	assert_int_equal(LOAD("--config", path), CONFIG_RUN);
}

static void errors_of_the_file_name_its_line(void **state)
{
	file_refused("# burst: 1\n\nlisen: a\n", 3, "unknown key \"lisen\", did you mean \"listen\"?");
	file_refused("burst: 1\nzzzzz: 1\n", 2, "unknown key \"zzzzz\"");
	file_refused("burst: 1\nburst: 2\n", 2, "twice");
	file_refused("page: true\nburst: 12abc\n", 2, "burst: must be a decimal number, not \"12abc\"");
	file_refused("page: true\nburst: 010\n", 2, "burst: must be a decimal number, not \"010\"");
	file_refused("burst: 0\n", 1, "must be 1 to 1000, not 0");
	file_refused("burst: -1\n", 1, "decimal");
	file_refused("burst: 0x10\n", 1, "decimal");
	file_refused("burst: 1.5\n", 1, "decimal");
	file_refused("any: 18446744073709551616\n", 1, "decimal");
	file_refused("listen: a\npage: yes\n", 2, "true or false");
	file_refused("listen: a\nissuer:\n", 2, "needs a value");
	file_refused("issuer: ~\n", 1, "needs a value");
	file_refused("listen: [a, b]\n", 1, "listen: the value must be a single value");
	file_refused("burst: {a: b}\n", 1, "burst: the value must be a single value");
	file_refused("workers: {a: b}\n", 1, "workers: the value must be");
	file_refused("burst: 1\nworkers:\n  - a\n  - [b]\n", 4, "workers");
	file_refused("workers: \"a,,b\"\n", 1, "empty item");
	file_refused("- a\n", 1, "must be a mapping");
	file_refused("hello\n", 1, "must be a mapping");
	file_refused("burst: 5\n---\nburst: 6\n", 1, "only one YAML document");
	file_refused("listen: &a x\nissuer: *a\n", 2, "issuer");
	file_refused("config: other.yaml\n", 1, "unknown key \"config\"");
	file_refused("a: b: c\n", 1, "");
}

static void file_that_cannot_be_read_is_an_error(void **state)
{
	refused(LOAD("--config", "/nonexistent/x.yaml"), "/nonexistent/x.yaml: No such file");
	refused(LOAD("--config", "/tmp"), "/tmp: ");
	refused(LOAD("--config"), "--config: needs a file");
	refused(LOAD("--config="), "--config: needs a file");
}

static void nul_in_the_file_is_refused(void **state)
{
	FILE_SAYS("burst: 1\n\0burst: 2\n");
	refused(LOAD("--config", path), path);
}

static void errors_of_flags_name_the_flag(void **state)
{
	refused(LOAD("--lisen", "x"), "prog: unknown flag --lisen, did you mean --listen?");
	refused(LOAD("--brust=3"), "did you mean --burst?");
	refused(LOAD("--zzzzzzz=3"), "unknown flag --zzzzzzz (");
	refused(LOAD("-x"), "unknown flag -x");
	refused(LOAD("--"), "unknown flag --");
	refused(LOAD("stray"), "unexpected argument \"stray\"");
	refused(LOAD("--loud", "true"), "unexpected argument \"true\"");
	refused(LOAD("--listen"), "--listen: needs a value");
	refused(LOAD("--listen", "--loud"), "--listen: needs a value");
	refused(LOAD("--issuer="), "--issuer: needs a value");
	refused(LOAD("--burst", "12abc"), "--burst: must be a decimal number, not \"12abc\"");
	refused(LOAD("--burst", "1001"), "--burst: must be 1 to 1000, not 1001");
	refused(LOAD("--page=maybe"), "--page: must be true or false, not \"maybe\"");
	refused(LOAD("--workers=a,"), "--workers: has an empty item");
}

static void check_config_checks_and_says_so(void **state)
{
	FILE_SAYS("burst: 5\n");
	assert_int_equal(LOAD("--check-config", "--config", path), CONFIG_CHECK);
	assert_true(got.burst == 5);
	FILE_SAYS("brust: 5\n");
	refused(LOAD("--check-config", "--config", path), "brust");
}

static void help_shows_every_option_in_lines_that_fit(void **state)
{
	static struct capture help;
	enum config_verdict verdict;

	capture_begin(&help, 1);
	verdict = LOAD("--help");
	capture_end(&help);
	assert_int_equal(verdict, CONFIG_EXIT);
	for (size_t i = 0; i < spec.n_options; i++)
		assert_non_null(strstr(help.text, options[i].name));
	assert_non_null(strstr(help.text, "--listen HOST:PORT"));
	assert_non_null(strstr(help.text, "(default: 127.0.0.1:8080)"));
	assert_non_null(strstr(help.text, "(1 to 1000; default: 200)"));
	assert_non_null(strstr(help.text, "--check-config"));
	assert_non_null(strstr(help.text, "Example: prog --loud\n"));
	for (const char *p = help.text; *p; p += strcspn(p, "\n") + 1)
		assert_in_range(strcspn(p, "\n"), 0, 100);
}

static void version_names_the_program(void **state)
{
	static struct capture version;
	enum config_verdict verdict;

	capture_begin(&version, 1);
	verdict = LOAD("--version");
	assert_string_equal(capture_end(&version), "prog " PINION_VERSION "\n");
	assert_int_equal(verdict, CONFIG_EXIT);
}

static void host_and_port_are_split(void **state)
{
	struct err_info info;
	char host[20];
	uint16_t port;

	assert_int_equal(config_host_port("127.0.0.1:8080", host, sizeof(host), &port, &info), ERR_OK);
	assert_string_equal(host, "127.0.0.1");
	assert_int_equal(port, 8080);
	assert_int_equal(config_host_port("[::1]:0", host, sizeof(host), &port, &info), ERR_OK);
	assert_string_equal(host, "::1");
	assert_int_equal(port, 0);
	assert_int_equal(config_host_port("a:65535", host, sizeof(host), &port, &info), ERR_OK);
	assert_int_equal(port, 65535);
}

static void addresses_that_are_none_are_refused(void **state)
{
	static const char *const bad[] = {"",        "8080",       ":8080",   "host",
	                                  "host:",   "host:65536", "host:-1", "host:08",
	                                  "host:8x", "::1:80",     "[::1]",   "[]:80",
	                                  "a b:80",  "host:80\n",  "a/b:80",  "this-name-is-much-too-long:80"};
	struct err_info info;
	char host[20];
	uint16_t port;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (config_host_port(bad[i], host, sizeof(host), &port, &info) != ERR_CONFIG)
			fail_msg("accepted \"%s\"", bad[i]);
	}
}

static void secret_is(const char *text, size_t n, enum err want, const char *secret)
{
	struct err_info info;
	char *out;
	size_t len;

	write_file(text, n);
	assert_int_equal(config_read_secret(path, 40, &out, &len, &info), want);
	if (want != ERR_OK) {
		assert_null(out);
		assert_non_null(strstr(info.text, path));
		return;
	}
	assert_int_equal(len, strlen(secret));
	assert_string_equal(out, secret);
	free(out);
}

static void secret_is_the_file_less_trailing_newlines(void **state)
{
	secret_is("abc\n\n", 5, ERR_OK, "abc");
	secret_is("abc \n", 5, ERR_OK, "abc ");
	secret_is("0123456789012345678901234567890123456789", 40, ERR_OK, "0123456789012345678901234567890123456789");
	secret_is("01234567890123456789012345678901234567890", 41, ERR_CONFIG, NULL);
	secret_is("", 0, ERR_CONFIG, NULL);
	secret_is("\n\n", 2, ERR_CONFIG, NULL);
}

static void secret_that_everybody_can_write_is_refused(void **state)
{
	struct err_info info;
	char *out;
	size_t len;

	FILE_SAYS("abc");
	chmod(path, 0666);
	assert_int_equal(config_read_secret(path, 40, &out, &len, &info), ERR_CONFIG);
	chmod(path, 0600);
	assert_int_equal(config_read_secret("/nonexistent/key", 40, &out, &len, &info), ERR_CONFIG);
	assert_int_equal(config_read_secret("/tmp", 40, &out, &len, &info), ERR_CONFIG);
	assert_null(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(presets_hold_where_nothing_is_said),
		cmocka_unit_test(flags_are_read_in_both_forms),
		cmocka_unit_test(repeated_list_flags_add_up_and_replace_the_preset),
		cmocka_unit_test(file_overrides_presets_and_flags_override_the_file),
		cmocka_unit_test(lists_in_the_file_may_be_sequences_or_strings),
		cmocka_unit_test(empty_file_says_nothing),
		cmocka_unit_test(errors_of_the_file_name_its_line),
		cmocka_unit_test(file_that_cannot_be_read_is_an_error),
		cmocka_unit_test(nul_in_the_file_is_refused),
		cmocka_unit_test(errors_of_flags_name_the_flag),
		cmocka_unit_test(check_config_checks_and_says_so),
		cmocka_unit_test(help_shows_every_option_in_lines_that_fit),
		cmocka_unit_test(version_names_the_program),
		cmocka_unit_test(host_and_port_are_split),
		cmocka_unit_test(addresses_that_are_none_are_refused),
		cmocka_unit_test(secret_is_the_file_less_trailing_newlines),
		cmocka_unit_test(secret_that_everybody_can_write_is_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
