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

#include "common/link_url.h"

static char dir[32];
static char url[300], file[64];

static int make_dir(void **state)
{
	FILE *f;

	strcpy(dir, "/tmp/link-url-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/pem", dir);
	f = fopen(file, "w");
	assert_non_null(f);
	fclose(f);
	return 0;
}

static int remove_dir(void **state)
{
	unlink(file);
	return rmdir(dir);
}

static const char *in_dir(const char *name)
{
	snprintf(url, sizeof(url), "ipc://%s/%s", dir, name);
	return url;
}

static void check(const char *text, const struct link_tls *tls, bool insecure, bool listening, enum err want)
{
	struct err_info info = {0};
	enum err err = link_url_check(text, tls, insecure, listening, &info);

	if (err != want)
		fail_msg("%s: %s %s", text, err_name(err), info.text);
	if (want != ERR_OK)
		assert_non_null(strstr(info.text, text));
}

static void other_schemes_are_refused(void **state)
{
	check("inproc://x", NULL, true, true, ERR_CONFIG);
	check("ws://127.0.0.1:1", NULL, true, true, ERR_CONFIG);
	check("tls+tcp4://127.0.0.1:1", NULL, true, true, ERR_CONFIG);
	check("127.0.0.1:80", NULL, true, true, ERR_CONFIG);
	check("", NULL, true, true, ERR_CONFIG);
}

static void tcp_needs_leave_to_be_insecure(void **state)
{
	check("tcp://127.0.0.1:7000", NULL, false, true, ERR_CONFIG);
	check("tcp://127.0.0.1:7000", NULL, true, true, ERR_OK);
	check("tcp://[::1]:7000", NULL, true, false, ERR_OK);
	check("tcp://127.0.0.1", NULL, true, false, ERR_CONFIG);
	check("tcp://127.0.0.1:70000", NULL, true, false, ERR_CONFIG);
	check("tcp://127.0.0.1:0", NULL, true, false, ERR_CONFIG);
	check("tcp://127.0.0.1:0", NULL, true, true, ERR_OK);
}

static void tls_needs_all_three_files(void **state)
{
	struct link_tls tls = {file, file, NULL};

	check("tls+tcp://h:1", NULL, true, true, ERR_CONFIG);
	check("tls+tcp://h:1", &tls, true, true, ERR_CONFIG);
	tls.key_file = "/nonexistent/key";
	check("tls+tcp://h:1", &tls, true, true, ERR_CONFIG);
	tls.key_file = file;
	check("tls+tcp://h:1", &tls, false, true, ERR_OK);
	check("tls+tcp://h", &tls, false, true, ERR_CONFIG);
}

static void ipc_directory_must_be_ours_alone(void **state)
{
	check(in_dir("s"), NULL, false, false, ERR_OK);
	chmod(dir, 0750);
	check(in_dir("s"), NULL, false, true, ERR_CONFIG);
	chmod(dir, 0777);
	check(in_dir("s"), NULL, true, true, ERR_CONFIG);
	chmod(dir, 0700);
	check("ipc:///tmp/socket", NULL, false, true, ERR_CONFIG);
}

static void missing_ipc_directory_is_made_by_the_listener_only(void **state)
{
	struct stat st;
	char sub[64];

	check(in_dir("sub/s"), NULL, false, false, ERR_CONFIG);
	check(in_dir("sub/s"), NULL, false, true, ERR_OK);
	snprintf(sub, sizeof(sub), "%s/sub", dir);
	assert_int_equal(stat(sub, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	check(in_dir("sub/s"), NULL, false, false, ERR_OK);
	rmdir(sub);
	check(in_dir("a/b/s"), NULL, false, true, ERR_CONFIG);
}

static void ipc_needs_a_name_that_fits_a_socket(void **state)
{
	char name[200];

	check(in_dir(""), NULL, false, true, ERR_CONFIG);
	check("ipc://", NULL, false, true, ERR_CONFIG);
	check(in_dir("pem/s"), NULL, false, true, ERR_CONFIG);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = 0;
	check(in_dir(name), NULL, false, true, ERR_CONFIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_schemes_are_refused),
		cmocka_unit_test(tcp_needs_leave_to_be_insecure),
		cmocka_unit_test(tls_needs_all_three_files),
		cmocka_unit_test(ipc_directory_must_be_ours_alone),
		cmocka_unit_test(missing_ipc_directory_is_made_by_the_listener_only),
		cmocka_unit_test(ipc_needs_a_name_that_fits_a_socket),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
