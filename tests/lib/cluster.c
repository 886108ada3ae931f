#include "tests/lib/cluster.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/lib/token.h"

#define ARGV_MAX 64
#define TAIL_BYTES 6000
#define STOP_MS 40000 /* a worker with a run under way drains for 30 s */

struct argv {
	const char *items[ARGV_MAX];
	char *owned[ARGV_MAX];
	size_t n, n_owned;
};

static void argv_add(struct argv *a, const char *word)
{
	assert_true(a->n + 1 < ARGV_MAX);
	a->items[a->n++] = word;
	a->items[a->n] = NULL;
}

__attribute__((format(printf, 3, 4))) static void argv_flag(struct argv *a, const char *flag, const char *fmt, ...)
{
	va_list ap;
	char *text;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	a->owned[a->n_owned++] = text;
	argv_add(a, flag);
	argv_add(a, text);
}

static void argv_all(struct argv *a, const char *const *words)
{
	for (; words && *words; words++)
		argv_add(a, *words);
}

static void argv_finish(struct argv *a)
{
	for (size_t i = 0; i < a->n_owned; i++)
		free(a->owned[i]);
}

/* ---- starting ---- */

static unsigned ready_ms(const struct cluster *c)
{
	return (c->args.ready_ms ? c->args.ready_ms : 20000) * patience();
}

static void wait_ready(struct cluster *c, struct node *node)
{
	if (!cluster_wait_ready(node, ready_ms(c)))
		fail_msg("%s is not ready (its process has %s)", node->process.name,
		         process_has_ended(&node->process) ? "ended" : "not ended");
}

static void worker_urls(const struct cluster *c, struct blob *out)
{
	for (unsigned i = 0; i < c->args.workers; i++)
		blob_printf(out, "%sipc://%s/w%u", i ? "," : "", c->dir, i);
}

void cluster_start_gateway(struct cluster *c, unsigned i, bool wait)
{
	struct node *node = &c->gateways[i];
	struct argv a = {0};
	struct blob urls = {0};
	worker_urls(c, &urls);
	argv_all(&a, c->args.wrap_gateways);
	argv_add(&a, c->args.gateway_program ? c->args.gateway_program : PINION_GATEWAY);
	argv_flag(&a, "--id", "%s", node->process.name);
	argv_flag(&a, "--listen", "127.0.0.1:%u", node->port);
	argv_flag(&a, "--admin", "127.0.0.1:%u", node->admin);
	argv_flag(&a, "--events", "ipc://%s/g%u", c->dir, i);
	argv_flag(&a, "--workers", "%s", urls.p);
	argv_flag(&a, "--jwt-hs256-file", "%s/jwt.key", c->dir);
	argv_all(&a, c->args.gateway_args);
	process_start(&node->process, a.items);
	node->killed = false;
	argv_finish(&a);
	blob_free(&urls);
	if (wait)
		wait_ready(c, node);
}

void cluster_start_worker(struct cluster *c, unsigned i, bool wait)
{
	static const char *const own_namespace[] = {"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", NULL};
	struct node *node = &c->workers[i];
	struct argv a = {0};
	argv_all(&a, c->args.own_pid_namespaces ? own_namespace : NULL);
	argv_all(&a, c->args.wrap_workers);
	argv_add(&a, c->args.worker_program ? c->args.worker_program : PINION_WORKER);
	argv_flag(&a, "--id", "%s", node->process.name);
	argv_flag(&a, "--listen", "ipc://%s/w%u", c->dir, i);
	argv_flag(&a, "--admin", "127.0.0.1:%u", node->admin);
	argv_flag(&a, "--store", "sqlite:%s/pinion.db", c->dir);
	argv_flag(&a, "--state-dir", "%s/state-%u", c->dir, i);
	if (c->args.agents)
		argv_flag(&a, "--agents", "%s/agents.yaml", c->dir);
	argv_all(&a, c->args.worker_args);
	process_start(&node->process, a.items);
	node->killed = false;
	argv_finish(&a);
	if (wait)
		wait_ready(c, node);
}

static void prepare(struct cluster *c)
{
	char path[128];
	snprintf(c->dir, sizeof c->dir, "/tmp/pinion-test.XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	snprintf(path, sizeof path, "%s/jwt.key", c->dir);
	assert_true(write_whole_file(path, TOKEN_SECRET "\n", 0600));
	if (c->args.agents) {
		snprintf(path, sizeof path, "%s/agents.yaml", c->dir);
		assert_true(write_whole_file(path, c->args.agents, 0600));
	}
	for (unsigned i = 0; i < CLUSTER_MAX; i++) {
		struct node *g = &c->gateways[i], *w = &c->workers[i];
		snprintf(g->process.name, sizeof g->process.name, "gateway-%u", i);
		snprintf(w->process.name, sizeof w->process.name, "worker-%u", i);
		snprintf(g->process.log, sizeof g->process.log, "%s/gateway-%u.log", c->dir, i);
		snprintf(w->process.log, sizeof w->process.log, "%s/worker-%u.log", c->dir, i);
		snprintf(path, sizeof path, "%s/state-%u", c->dir, i);
		assert_int_equal(mkdir(path, 0700), 0);
		g->port = free_port(); /* for all, so that a test can add nodes */
		g->admin = free_port();
		w->admin = free_port();
	}
}

struct cluster *cluster_start(const struct cluster_args *args)
{
	struct cluster *c = calloc(1, sizeof *c);
	processes_adopt();
	c->args = *args;
	c->loop = ws_loop_create();
	prepare(c);
	for (unsigned i = 0; i < args->workers; i++)
		cluster_start_worker(c, i, false);
	for (unsigned i = 0; i < args->gateways; i++)
		cluster_start_gateway(c, i, false);
	for (unsigned i = 0; i < args->workers; i++)
		wait_ready(c, &c->workers[i]);
	for (unsigned i = 0; i < args->gateways; i++)
		cluster_wait_workers(c, i, args->workers);
	return c;
}

/* ---- looking ---- */

bool cluster_wait_ready(const struct node *node, unsigned timeout_ms)
{
	uint64_t deadline = clock_ms() + timeout_ms;
	struct process p = node->process;
	bool ready = false;
	while (!ready && clock_ms() < deadline && process_state(p.pid) && process_state(p.pid) != 'Z') {
		struct http_response r = {0};
		http_get(node->admin, "/readyz", NULL, &r, 2000);
		ready = r.status == 200;
		http_response_finish(&r);
		if (!ready)
			pause_ms(10);
	}
	return ready;
}

json_t *node_state(const struct node *node)
{
	struct http_response r = {0};
	http_get(node->admin, "/v1/state", NULL, &r, 5000);
	json_t *state = r.status == 200 ? json_loadb(r.body.p, r.body.n, 0, NULL) : NULL;
	http_response_finish(&r);
	return state;
}

unsigned cluster_ready_workers(const struct cluster *c, unsigned gateway)
{
	json_t *state = node_state(&c->gateways[gateway]), *workers = json_object_get(state, "workers"), *w;
	unsigned n = 0;
	size_t i;
	json_array_foreach(workers, i, w) n += json_is_true(json_object_get(w, "ready"));
	json_decref(state);
	return n;
}

void cluster_wait_workers(struct cluster *c, unsigned gateway, unsigned workers)
{
	struct node *node = &c->gateways[gateway];
	uint64_t deadline = clock_ms() + ready_ms(c);
	wait_ready(c, node);
	while (cluster_ready_workers(c, gateway) < workers) {
		if (clock_ms() >= deadline)
			fail_msg("%s sees %u of %u workers as ready", node->process.name, cluster_ready_workers(c, gateway),
			         workers);
		pause_ms(10);
	}
}

uint16_t cluster_port(const struct cluster *c, unsigned gateway)
{
	return c->gateways[gateway].port;
}

struct node *cluster_node(struct cluster *c, const char *name)
{
	for (unsigned i = 0; i < CLUSTER_MAX; i++) {
		if (!strcmp(c->gateways[i].process.name, name))
			return &c->gateways[i];
		if (!strcmp(c->workers[i].process.name, name))
			return &c->workers[i];
	}
	fail_msg("there is no node %s", name);
	return NULL;
}

double node_metric(const struct node *node, const char *name)
{
	struct http_response r = {0};
	double sum = -1;
	size_t n = strlen(name);
	http_get(node->admin, "/metrics", NULL, &r, 5000);
	for (char *line = r.body.p; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (strncmp(line, name, n) != 0 || (line[n] != ' ' && line[n] != '{'))
			continue;
		const char *value = line[n] == '{' ? strstr(line + n, "} ") : line + n;
		if (value)
			sum = (sum < 0 ? 0 : sum) + strtod(value + (line[n] == '{' ? 2 : 1), NULL);
	}
	http_response_finish(&r);
	return sum;
}

/* ---- ending ---- */

pid_t node_pid(const struct cluster *c, const struct node *node)
{
	pid_t child = node->process.pid;
	bool worker = node >= c->workers && node < c->workers + CLUSTER_MAX;
	if (worker && c->args.own_pid_namespaces)
		process_children(node->process.pid, &child, 1);
	return child;
}

void cluster_kill(struct node *node)
{
	node->killed = true;
	process_kill(&node->process);
}

void cluster_signal(const struct cluster *c, const struct node *node, int signal_number)
{
	kill(node_pid(c, node), signal_number);
}

bool cluster_drain(const struct cluster *c, struct node *node, unsigned timeout_ms)
{
	if (!node->process.pid)
		return true;
	kill(node_pid(c, node), SIGTERM); /* unshare passes its child's end on, but not our signal */
	if (!process_wait(&node->process, timeout_ms * patience()))
		return false;
	return WIFEXITED(node->process.status) && WEXITSTATUS(node->process.status) == 0;
}

void cluster_passed(struct cluster *c)
{
	c->passed = true;
}

static void print_tail(const struct node *node)
{
	char *text = read_whole_file(node->process.log);
	size_t n = text ? strlen(text) : 0;
	if (n)
		print_message("---- %s%s\n%s\n", node->process.log, n > TAIL_BYTES ? " (its end)" : "",
		              text + (n > TAIL_BYTES ? n - TAIL_BYTES : 0));
	free(text);
}

/* What a log must never say. */
static bool log_is_clean(const struct node *node, char *why, size_t n)
{
	static const char *const bad[] = {"AddressSanitizer", "runtime error:", "ThreadSanitizer",
	                                  "LeakSanitizer",    "Assertion `",    "panic:"};
	char *text = read_whole_file(node->process.log);
	bool clean = true;
	for (size_t i = 0; text && clean && i < sizeof bad / sizeof *bad; i++) {
		const char *at = strstr(text, bad[i]);
		if (!at)
			continue;
		clean = false;
		snprintf(why, n, "%s: %.160s", node->process.name, at);
	}
	free(text);
	return clean;
}

/* Where it hangs, for whoever has a debugger installed. */
static void print_stacks(pid_t pid)
{
	char *command = text_format("command -v gdb >/dev/null && gdb -p %d -batch -ex 'thread apply all bt 12' 2>/dev/null | "
	                            "grep -E '^(Thread|#)'",
	                            (int)pid);
	fflush(NULL);
	if (system(command) != 0)
		print_message("(no stacks: gdb is not installed, or may not attach)\n");
	free(command);
}

static void stop_node(struct cluster *c, struct node *node, bool judged, char *why, size_t n)
{
	if (!node->process.pid)
		return;
	bool ended = cluster_drain(c, node, STOP_MS);
	if (!ended && node->process.pid) {
		snprintf(why, n, "%s did not end in %d ms after SIGTERM", node->process.name, STOP_MS);
		print_stacks(node_pid(c, node));
		process_kill(&node->process);
	} else if (!ended && judged && !node->killed) {
		snprintf(why, n, "%s ended with wait status 0x%x", node->process.name, (unsigned)node->process.status);
	}
}

/* After a clean end the sockets are gone from the directory. */
static void check_sockets(const struct cluster *c, char *why, size_t n)
{
	char path[96];
	for (unsigned i = 0; i < CLUSTER_MAX; i++) {
		snprintf(path, sizeof path, "%s/g%u", c->dir, i);
		if (i < c->args.gateways && !c->gateways[i].killed && access(path, F_OK) == 0)
			snprintf(why, n, "socket %s is left", path);
		snprintf(path, sizeof path, "%s/w%u", c->dir, i);
		if (i < c->args.workers && !c->workers[i].killed && access(path, F_OK) == 0)
			snprintf(why, n, "socket %s is left", path);
	}
}

/* A run's scratch directory is the host's to remove: none may outlive its host. */
static void check_scratch(const struct cluster *c, char *why, size_t n)
{
	for (unsigned i = 0; i < c->args.workers; i++) {
		char *command = text_format("find %s/state-%u/runs -mindepth 1 -maxdepth 1 2>/dev/null | head -1 | grep -q .",
		                            c->dir, i);
		if (!c->workers[i].killed && system(command) == 0)
			snprintf(why, n, "worker-%u left scratch directories", i);
		free(command);
	}
}

void cluster_stop(struct cluster *c)
{
	char why[512] = "", left[1024] = "";
	if (!c)
		return;
	ws_loop_destroy(c->loop);
	for (unsigned i = 0; i < CLUSTER_MAX; i++)
		stop_node(c, &c->gateways[i], true, why, sizeof why);
	for (unsigned i = 0; i < CLUSTER_MAX; i++)
		stop_node(c, &c->workers[i], !c->args.workers_may_die, why, sizeof why);
	if (processes_settle(10000 * patience(), left, sizeof left))
		snprintf(why, sizeof why, "processes are left: %.480s", left);
	if (!why[0]) { /* what follows from an end that was not clean is no news */
		check_sockets(c, why, sizeof why);
		check_scratch(c, why, sizeof why);
	}
	for (unsigned i = 0; i < CLUSTER_MAX; i++) {
		log_is_clean(&c->gateways[i], why, sizeof why);
		log_is_clean(&c->workers[i], why, sizeof why);
	}
	if (!c->passed || why[0])
		for (unsigned i = 0; i < CLUSTER_MAX; i++) {
			print_tail(&c->gateways[i]);
			print_tail(&c->workers[i]);
		}
	bool keep = getenv("PINION_TEST_KEEP") && (!c->passed || why[0]);
	if (!keep && !remove_tree(c->dir) && !why[0])
		snprintf(why, sizeof why, "%s can't be removed", c->dir);
	free(c);
	if (why[0])
		fail_msg("left over: %s", why);
}
