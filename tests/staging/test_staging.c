/*
 * The validator against a deployment that is as it should be: every scenario runs and passes; and against none at all: every
 * scenario fails. The reports say the same as the exit status.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/lib/cluster.h"

enum { SCENARIOS = 18, RUN_MS = 280000, ARGS_MAX = 40 };

static const char agents[] = "agents:\n"
			     "  demo: {kind: demo}\n"
			     "  script: {kind: script, limits: {steps: 1000}}\n"
			     "  short: {kind: script, limits: {run_seconds: 3}}\n"
			     "default_agent: demo\n";

struct run {
	char dir[64];
	char json[96], junit[96], tap[96];
	struct process process;
	const char *argv[ARGS_MAX];
	size_t n;
};

static void run_add(struct run *run, const char *flag, const char *value)
{
	assert_true(run->n + 3 < ARGS_MAX);
	run->argv[run->n++] = flag;
	if (value)
		run->argv[run->n++] = value;
}

static void run_init(struct run *run)
{
	*run = (struct run){0};
	snprintf(run->dir, sizeof run->dir, "/tmp/pinion-staging.XXXXXX");
	assert_non_null(mkdtemp(run->dir));
	snprintf(run->json, sizeof run->json, "%s/report.json", run->dir);
	snprintf(run->junit, sizeof run->junit, "%s/report.xml", run->dir);
	snprintf(run->tap, sizeof run->tap, "%s/report.tap", run->dir);
	snprintf(run->process.name, sizeof run->process.name, "pinion-staging");
	snprintf(run->process.log, sizeof run->process.log, "%s/out", run->dir);
	run_add(run, PINION_STAGING, NULL);
	run_add(run, "--json", run->json);
	run_add(run, "--junit", run->junit);
	run_add(run, "--tap", run->tap);
}

/* Runs it; its exit status. */
static int run_go(struct run *run)
{
	process_start(&run->process, run->argv);
	if (!process_wait(&run->process, RUN_MS * patience())) {
		process_kill(&run->process);
		fail_msg("pinion-staging has not ended");
	}
	return WIFEXITED(run->process.status) ? WEXITSTATUS(run->process.status) : -1;
}

static void run_print(struct run *run)
{
	char *out = read_whole_file(run->process.log);
	puts(out ? out : "no output");
	fflush(stdout);
	free(out);
}

static void run_finish(struct run *run)
{
	assert_true(remove_tree(run->dir));
}

static json_t *run_report(struct run *run)
{
	json_t *report = json_load_file(run->json, 0, NULL);
	assert_non_null(report);
	return report;
}

static size_t count(const char *path, const char *what)
{
	char *text = read_whole_file(path);
	size_t n = 0;
	assert_non_null(text);
	for (const char *at = text; (at = strstr(at, what)); at++)
		n++;
	free(text);
	return n;
}

/* ---- tests ---- */

static int set_up(void **state)
{
	struct cluster_args args = {.gateways = 2, .workers = 3, .agents = agents, .workers_may_die = true};
	*state = cluster_start(&args);
	return 0;
}

static int tear_down(void **state)
{
	cluster_stop(*state);
	return 0;
}

/* What the operator's command needs: a file with each worker's pid. */
static void write_pids(const struct cluster *c, const char *dir)
{
	for (unsigned i = 0; i < c->args.workers; i++) {
		char path[128], pid[16];
		snprintf(path, sizeof path, "%s/%s.pid", dir, c->workers[i].process.name);
		snprintf(pid, sizeof pid, "%d", (int)node_pid(c, &c->workers[i]));
		assert_true(write_whole_file(path, pid, 0600));
	}
}

/* Those that the operator's command has killed: what they left lying about is not judged. */
static void note_killed(struct cluster *c)
{
	for (unsigned i = 0; i < c->args.workers; i++)
		if (process_has_ended(&c->workers[i].process) && WIFSIGNALED(c->workers[i].process.status))
			c->workers[i].killed = true;
}

static void add_urls(struct run *run, const struct cluster *c, char urls[2][48])
{
	for (unsigned i = 0; i < 2; i++) {
		snprintf(urls[i], 48, "http://127.0.0.1:%u", cluster_port(c, i));
		run_add(run, "--url", urls[i]);
	}
}

static void a_good_deployment_passes_every_scenario(void **state)
{
	struct cluster *c = *state;
	struct run run;
	char urls[2][48], key[96], chaos[160];
	run_init(&run);
	write_pids(c, run.dir);
	add_urls(&run, c, urls);
	snprintf(key, sizeof key, "%s/jwt.key", c->dir);
	snprintf(chaos, sizeof chaos, "kill -{signal} $(cat %s/{worker}.pid)", run.dir);
	run_add(&run, "--jwt-hs256-file", key);
	run_add(&run, "--users", "50");
	run_add(&run, "--duration", "3s");
	run_add(&run, "--timeout-agent", "short");
	run_add(&run, "--chaos", chaos);
	int status = run_go(&run);
	run_print(&run);
	note_killed(c);
	assert_int_equal(status, 0);
	json_t *report = run_report(&run);
	assert_true(json_is_true(json_object_get(report, "passed")));
	assert_int_equal(json_array_size(json_object_get(report, "scenarios")), SCENARIOS);
	json_decref(report);
	assert_int_equal(count(run.tap, "\nok "), SCENARIOS);
	assert_int_equal(count(run.junit, "<testcase "), SCENARIOS);
	assert_int_equal(count(run.junit, "<failure "), 0);
	run_finish(&run);
	cluster_passed(c);
}

static void tokens_may_come_from_a_command(void **state)
{
	struct cluster *c = *state;
	struct run run;
	char urls[2][48], command[256];
	run_init(&run);
	add_urls(&run, c, urls);
	snprintf(command, sizeof command, "%s token --user {user} --jwt-hs256-file %s/jwt.key", PINION_GATEWAY, c->dir);
	run_add(&run, "--token-command", command);
	run_add(&run, "--users", "5");
	run_add(&run, "--scenario", "canary,tokens");
	int status = run_go(&run);
	run_print(&run);
	assert_int_equal(status, 1);
	assert_int_equal(count(run.tap, "\nok 1 - canary"), 1);
	assert_int_equal(count(run.tap, "\nnot ok 2 - tokens\n# can't run: --token-command has no {ttl}"), 1);
	run_finish(&run);
	cluster_passed(c);
}

/* ---- https ---- */

static char tls_dir[] = "/tmp/pinion-tls.XXXXXX";
static char tls_cert[64], tls_key[64];

static int set_up_tls(void **state)
{
	static const char *gateway_args[] = {"--tls-cert", tls_cert, "--tls-key", tls_key, NULL};
	struct cluster_args args = {.gateways = 1, .workers = 1, .gateway_args = gateway_args};
	char command[400];
	if (!mkdtemp(tls_dir))
		return -1;
	snprintf(tls_cert, sizeof tls_cert, "%s/cert.pem", tls_dir);
	snprintf(tls_key, sizeof tls_key, "%s/key.pem", tls_dir);
	snprintf(command, sizeof command,
	         "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=staging "
	         "-addext subjectAltName=IP:127.0.0.1 -keyout %s -out %s 2>/dev/null",
	         tls_key, tls_cert);
	if (system(command) != 0)
		return -1;
	*state = cluster_start(&args);
	return 0;
}

static int tear_down_tls(void **state)
{
	cluster_stop(*state);
	return remove_tree(tls_dir) ? 0 : -1;
}

static void https_is_spoken_and_its_certificate_verified(void **state)
{
	struct cluster *c = *state;
	for (unsigned trusted = 0; trusted < 2; trusted++) {
		struct run run;
		char url[48], key[96];
		run_init(&run);
		snprintf(url, sizeof url, "https://127.0.0.1:%u", cluster_port(c, 0));
		snprintf(key, sizeof key, "%s/jwt.key", c->dir);
		run_add(&run, "--url", url);
		run_add(&run, "--jwt-hs256-file", key);
		run_add(&run, "--users", "20");
		run_add(&run, "--scenario", "events,resume,slow");
		if (trusted)
			run_add(&run, "--ca", tls_cert);
		int status = run_go(&run);
		run_print(&run);
		assert_int_equal(status, trusted ? 0 : 1);
		assert_int_equal(count(run.tap, "TLS: self-signed certificate"), trusted ? 0 : 3);
		run_finish(&run);
	}
	cluster_passed(c);
}

static void a_dead_deployment_fails_every_scenario(void **state)
{
	struct run run;
	char url[48], key[96];
	run_init(&run);
	snprintf(url, sizeof url, "http://127.0.0.1:%u", free_port());
	snprintf(key, sizeof key, "%s/jwt.key", run.dir);
	assert_true(write_whole_file(key, "0123456789abcdef0123456789abcdef\n", 0600));
	run_add(&run, "--url", url);
	run_add(&run, "--jwt-hs256-file", key);
	run_add(&run, "--chaos", "true");
	int status = run_go(&run);
	run_print(&run);
	assert_int_equal(status, 1);
	json_t *report = run_report(&run), *scenario;
	size_t i;
	assert_false(json_is_true(json_object_get(report, "passed")));
	assert_int_equal(json_array_size(json_object_get(report, "scenarios")), SCENARIOS);
	json_array_foreach(json_object_get(report, "scenarios"), i, scenario)
		assert_true(json_is_false(json_object_get(scenario, "passed")));
	json_decref(report);
	assert_int_equal(count(run.tap, "\nnot ok "), SCENARIOS);
	assert_int_equal(count(run.junit, "<failure "), SCENARIOS);
	run_finish(&run);
}

static void chaos_without_a_command_is_a_failure_not_a_skip(void **state)
{
	struct cluster *c = *state;
	struct run run;
	char urls[2][48], key[96];
	run_init(&run);
	add_urls(&run, c, urls);
	snprintf(key, sizeof key, "%s/jwt.key", c->dir);
	run_add(&run, "--jwt-hs256-file", key);
	run_add(&run, "--scenario", "worker-loss,drain");
	assert_int_equal(run_go(&run), 1);
	assert_int_equal(count(run.tap, "# can't run: give the command"), 2);
	run_finish(&run);
	cluster_passed(c);
}

static void wrong_usage_is_told(void **state)
{
	static const char *const wrong[][4] = {
		{"--url", "http://127.0.0.1:1", NULL},
		{"--jwt-hs256-file", "/dev/null", NULL},
		{"--url", "ftp://x", "--token-command", "echo {user}"},
		{"--no-such-flag", NULL},
	};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct run run;
		run_init(&run);
		for (size_t k = 0; k < 4 && wrong[i][k]; k++)
			run_add(&run, wrong[i][k], NULL);
		assert_int_equal(run_go(&run), 2);
		run_finish(&run);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_good_deployment_passes_every_scenario, set_up, tear_down),
		cmocka_unit_test_setup_teardown(tokens_may_come_from_a_command, set_up, tear_down),
		cmocka_unit_test_setup_teardown(chaos_without_a_command_is_a_failure_not_a_skip, set_up, tear_down),
		cmocka_unit_test_setup_teardown(https_is_spoken_and_its_certificate_verified, set_up_tls, tear_down_tls),
		cmocka_unit_test(a_dead_deployment_fails_every_scenario),
		cmocka_unit_test(wrong_usage_is_told),
	};
	processes_adopt();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
