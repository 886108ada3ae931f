/*
 * program.c - pinion-worker: configuration, parts in their order, run, drain, close.
 *
 * The order matters: the agent host is exec'ed before NNG has threads and before any secret is read.
 */
#include "worker/program.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>
#include "common/admin_http.h"
#include "common/config.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "common/metrics.h"
#include "proto/codec.h"
#include "worker/core.h"

enum {
	LARGE_BLOCK_BYTES = 512 << 10, /* smaller ones are too many: the page faults would cost more than the memory */
	EXIT_FENCED = 3,
	DESCRIPTORS_MAX = 1000000,
	CONTEXTS = 2048, /* requests of gateways under way */
	READY_POLL_MS = 50,
	DRAIN_GRACE_MS = 5000, /* after the deadline, for what the core still has to say */
};

struct options {
	char *id, *listen, *advertise, *admin, *store, *agents, *state_dir;
	char *link_ca, *link_cert, *link_key;
	bool insecure_links, kill_stale;
	char *log_level, *log_format, *host_program;
	uint64_t lease_ttl_ms, max_users, max_runs, drain_seconds;
};

#define AT(field) offsetof(struct options, field)

static const struct option_def options[] = {
	{"id", OPTION_STRING, AT(id), NULL, 0, 0, "NAME",
         "Stable name; a second worker with the same name fences the first. Default: the host name."},
	{"listen", OPTION_STRING, AT(listen), "ipc:///run/pinion/worker", 0, 0, "URL", "NNG URL for gateways' requests."},
	{"advertise", OPTION_STRING, AT(advertise), NULL, 0, 0, "URL", "How gateways reach --listen, where that differs."},
	{"admin", OPTION_STRING, AT(admin), "127.0.0.1:9081", 0, 0, "HOST:PORT", "Health, readiness, metrics, state."},
	{"store", OPTION_STRING, AT(store), "sqlite:pinion.db", 0, 0, "URL",
         "sqlite:PATH, shared by the workers of one machine."},
	{"agents", OPTION_STRING, AT(agents), NULL, 0, 0, "FILE", "Agent definitions (YAML). Default: demo and script."},
	{"state-dir", OPTION_STRING, AT(state_dir), "/tmp/pinion-worker", 0, 0, "DIR",
         "Scratch of this machine's runs; not durable. Created with mode 0700."},
	{"link-ca", OPTION_STRING, AT(link_ca), NULL, 0, 0, "FILE", "CA of the links' certificates (tls+tcp://)."},
	{"link-cert", OPTION_STRING, AT(link_cert), NULL, 0, 0, "FILE", "Our certificate on links."},
	{"link-key", OPTION_STRING, AT(link_key), NULL, 0, 0, "FILE", "Our key on links."},
	{"insecure-links", OPTION_BOOL, AT(insecure_links), NULL, 0, 0, NULL,
         "Allow tcp:// links without TLS. Anyone who reaches the port can then act for every user."},
	{"max-users", OPTION_UINT, AT(max_users), "20000", 1, 1000000, "N",
         "Users owned at once; beyond, gateways are sent elsewhere."},
	{"max-runs", OPTION_UINT, AT(max_runs), "256", 1, 10000, "N", "Runs' processes at once; others wait, accepted."},
	{"lease-ttl-ms", OPTION_UINT, AT(lease_ttl_ms), "2000", 500, 60000, "MS", "How long a silent worker keeps its users."},
	{"kill-stale", OPTION_BOOL, AT(kill_stale), "true", 0, 0, NULL,
         "End a stale worker's process on this machine before its users are taken over."},
	{"drain-seconds", OPTION_UINT, AT(drain_seconds), "30", 0, 3600, "S", "After SIGTERM, how long running runs may go on."},
	{"host-program", OPTION_STRING, AT(host_program), NULL, 0, 0, "PATH", "pinion-agent-host. Default: beside this program."},
	{"log-level", OPTION_STRING, AT(log_level), "info", 0, 0, "LEVEL", "debug, info, warn or error."},
	{"log-format", OPTION_STRING, AT(log_format), "text", 0, 0, "FORMAT", "text (key=value) or json."},
};

static const struct config_spec spec = {
	.program = "pinion-worker",
	.summary = "Owns the users pinned to it: their event log and their agents' runs, each confined by the kernel.",
	.epilog = "Example:\n"
		  "  pinion-worker --id worker-0 --listen ipc:///run/pinion/worker-0 --store sqlite:/var/lib/pinion/pinion.db\n"
		  "\n"
		  "SIGTERM drains: users are handed over as they become idle. A second one stops at once.\n",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

struct program {
	struct options options;
	char id[256];
	struct link_tls tls;
	uv_loop_t uv;
	struct loop_uv loop;
	uv_signal_t sigterm, sigint;
	struct agents *agents;
	struct agent_host *host;
	struct store *store;
	struct lease *lease;
	struct gateway_transport *transport;
	struct core *core;
	struct admin_http *admin;
	struct timer ready;    /* looks until the first time that we are ready */
	struct timer deadline; /* of the drain */
	bool draining;
	int status;
};

/* ---- what is checked before anything starts ---- */

static enum err check_logging(struct program *program, struct err_info *info)
{
	enum log_level level;
	enum log_format format;

	if (!log_level_parse(program->options.log_level, &level))
		return err_set(info, ERR_CONFIG, "--log-level %s: say debug, info, warn or error", program->options.log_level);
	if (!log_format_parse(program->options.log_format, &format))
		return err_set(info, ERR_CONFIG, "--log-format %s: say text or json", program->options.log_format);
	log_init(level, format, "worker", program->id);
	return ERR_OK;
}

static enum err check_id(struct program *program, struct err_info *info)
{
	if (program->options.id)
		snprintf(program->id, sizeof(program->id), "%s", program->options.id);
	else if (gethostname(program->id, sizeof(program->id) - 1) < 0)
		return err_set_errno(info, ERR_CONFIG, errno, "no host name: give --id");
	if (!program->id[0] || strlen(program->id) > NAME_MAX_BYTES)
		return err_set(info, ERR_CONFIG, "--id: 1 to %d bytes", NAME_MAX_BYTES);
	return ERR_OK;
}

static bool is_wildcard(const char *url)
{
	const char *host = strstr(url, "://");

	return host && (!strncmp(host, "://0.0.0.0:", 11) || !strncmp(host, "://[::]:", 8) || !strncmp(host, "://*:", 5));
}

static enum err check_links(struct program *program, struct err_info *info)
{
	const struct options *o = &program->options;
	bool some = o->link_ca || o->link_cert || o->link_key;

	if (some && !(o->link_ca && o->link_cert && o->link_key))
		return err_set(info, ERR_CONFIG, "--link-ca, --link-cert and --link-key go together");
	program->tls = (struct link_tls){o->link_ca, o->link_cert, o->link_key};
	if (link_url_check(o->listen, &program->tls, o->insecure_links, true, info) != ERR_OK)
		return err_wrap(info, "--listen");
	if (!o->advertise && is_wildcard(o->listen))
		return err_set(info, ERR_CONFIG, "--listen %s names no address that gateways can reach: give --advertise",
		               o->listen);
	if (o->advertise && is_wildcard(o->advertise))
		return err_set(info, ERR_CONFIG, "--advertise %s names no address that gateways can reach", o->advertise);
	if (o->advertise && strlen(o->advertise) >= URL_MAX)
		return err_set(info, ERR_CONFIG, "--advertise: at most %d bytes", URL_MAX - 1);
	return ERR_OK;
}

static enum err check(struct program *program, struct err_info *info)
{
	const struct options *o = &program->options;
	char host[256];
	uint16_t port;
	enum err err = check_id(program, info);

	if (!err)
		err = check_logging(program, info);
	if (!err)
		err = check_links(program, info);
	if (!err && config_host_port(o->admin, host, sizeof(host), &port, info) != ERR_OK)
		err = err_wrap(info, "--admin");
	if (!err && strncmp(o->store, "sqlite:", 7) != 0)
		err = err_set(info, ERR_CONFIG, "--store %s: this version has sqlite:PATH only", o->store);
	return err ? err : agents_load(o->agents, &program->agents, info);
}

/* ---- the admin port ---- */

static unsigned handle_livez(void *ctx, struct buf *out)
{
	buf_append_c(out, "ok\n");
	return 200;
}

static unsigned handle_readyz(void *ctx, struct buf *out)
{
	struct program *program = ctx;
	struct err_info why = {0};

	if (!program->draining && core_is_ready(program->core, &why)) {
		buf_append_c(out, "ready\n");
		return 200;
	}
	buf_printf(out, "%s\n", program->draining ? "draining" : why.text);
	return 503;
}

static unsigned handle_metrics(void *ctx, struct buf *out)
{
	metrics_write(out);
	return 200;
}

static unsigned handle_state(void *ctx, struct buf *out)
{
	struct program *program = ctx;
	json_t *state = core_state(program->core);

	json_object_set_new(state, "version", json_string(PINION_VERSION));
	json_write(out, state);
	json_decref(state);
	return 200;
}

static const struct admin_path admin_paths[] = {
	{"/livez", "text/plain; charset=utf-8", handle_livez},
	{"/readyz", "text/plain; charset=utf-8", handle_readyz},
	{"/metrics", "text/plain; version=0.0.4; charset=utf-8", handle_metrics},
	{"/v1/state", "application/json", handle_state},
};

/* ---- ends ---- */

static void stop(struct program *program, int status)
{
	program->status = status;
	uv_stop(&program->uv);
}

static void on_drained(void *ctx)
{
	stop(ctx, 0);
}

static void on_deadline(struct timer *timer)
{
	log_warn("worker", "drain_cut", NULL);
	stop((struct program *)((char *)timer - offsetof(struct program, deadline)), 0);
}

static void on_signal(uv_signal_t *signal, int number)
{
	struct program *program = signal->data;

	if (program->draining) {
		log_warn("worker", "stop", "why", "second signal", NULL);
		stop(program, 0);
		return;
	}
	program->draining = true;
	log_info("worker", "drain", "seconds", LOG_U64(program->options.drain_seconds), NULL);
	timer_set(&program->loop.loop, &program->deadline, program->options.drain_seconds * 1000 + DRAIN_GRACE_MS);
	core_drain(program->core, (uint32_t)program->options.drain_seconds * 1000, on_drained, program);
}

static void on_fenced(void *ctx)
{
	log_error("worker", "fenced", "why", "another worker of this name has started, or took our place while we stood still",
	          NULL);
	stop(ctx, EXIT_FENCED);
}

static void on_held(void *ctx, bool holds)
{
	if (holds)
		log_info("worker", "lease_held", NULL);
	else
		log_warn("worker", "lease_lost", "why", "the store could not be renewed in time", NULL);
}

/* ---- start and finish ---- */

static void raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warn("worker", "descriptors_not_raised", NULL);
}

/* Ours alone, also where it was there before: the default lies where anyone can make a directory. */
static enum err make_state_dir(const char *dir, struct err_info *info)
{
	struct stat st;

	if (mkdir(dir, 0700) != 0 && errno != EEXIST)
		return err_set_errno(info, ERR_IO, errno, "--state-dir %s", dir);
	if (stat(dir, &st) != 0)
		return err_set_errno(info, ERR_IO, errno, "--state-dir %s", dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return err_set(info, ERR_CONFIG, "--state-dir %s: must be a directory of ours that only we can write", dir);
	return ERR_OK;
}

static enum err start_host(struct program *program, struct err_info *info)
{
	const struct agent_host_config config = {
		.program = program->options.host_program,
		.state_dir = program->options.state_dir,
		.lease_ms = (uint32_t)program->options.lease_ttl_ms,
	};
	enum err err = make_state_dir(config.state_dir, info);

	if (err)
		return err;
	return agent_host_start(&program->loop, &config, &program->host, info);
}

static enum err start_lease(struct program *program, const char *url, struct err_info *info)
{
	static const struct lease_events events = {on_fenced, on_held};
	const struct lease_config config = {
		.worker_id = program->id,
		.url = url,
		.ttl_ms = (uint32_t)program->options.lease_ttl_ms,
		.kill_stale = program->options.kill_stale,
	};

	return lease_create(&program->loop.loop, program->store, &config, &events, program, &program->lease, info);
}

static void start_core(struct program *program, const char *url)
{
	const struct core_parts parts = {&program->loop.loop, program->store,     program->lease,
	                                 program->host,       program->transport, program->agents};
	const struct core_config config = {
		.worker_id = program->id,
		.url = url,
		.max_users = (uint32_t)program->options.max_users,
		.max_runs = (uint32_t)program->options.max_runs,
		.ring_bytes = 64 << 10,
		.idle_user_s = 300,
	};

	program->core = core_create(&parts, &config);
}

static enum err start(struct program *program, const struct worker_hooks *hooks, struct err_info *info)
{
	const struct options *o = &program->options;
	const char *url = o->advertise ? o->advertise : o->listen;
	enum err err;

	raise_descriptors();
	if ((err = start_host(program, info)) != ERR_OK)
		return err;
	if ((err = store_open(&program->loop, o->store, &program->store, info)) != ERR_OK)
		return err;
	if ((err = start_lease(program, url, info)) != ERR_OK)
		return err;
	err = gateway_transport_nng_create(&program->loop, o->listen, &program->tls, o->insecure_links, CONTEXTS,
	                                   &program->transport, info);
	if (err)
		return err;
	if (hooks && hooks->wrap_transport)
		program->transport = hooks->wrap_transport(program->transport, &program->loop);
	start_core(program, url);
	return admin_http_start(&program->loop, o->admin, admin_paths, sizeof(admin_paths) / sizeof(admin_paths[0]), program,
	                        &program->admin, info);
}

static void watch_signals(struct program *program)
{
	uv_signal_init(&program->uv, &program->sigterm);
	uv_signal_init(&program->uv, &program->sigint);
	program->sigterm.data = program->sigint.data = program;
	uv_signal_start(&program->sigterm, on_signal, SIGTERM);
	uv_signal_start(&program->sigint, on_signal, SIGINT);
	signal(SIGPIPE, SIG_IGN);
}

static void finish(struct program *program)
{
	timer_cancel(&program->loop.loop, &program->ready);
	timer_cancel(&program->loop.loop, &program->deadline);
	admin_http_stop(program->admin);
	if (program->core)
		core_destroy(program->core);
	if (program->transport)
		program->transport->ops->destroy(program->transport);
	if (program->host)
		program->host->ops->destroy(program->host);
	if (program->lease)
		lease_destroy(program->lease, program->status != EXIT_FENCED);
	if (program->store)
		store_close(program->store);
	uv_close((uv_handle_t *)&program->sigterm, NULL);
	uv_close((uv_handle_t *)&program->sigint, NULL);
	loop_uv_close(&program->loop);
	while (uv_run(&program->uv, UV_RUN_DEFAULT)) /* non-zero: stopped once more while closing */
		;
	admin_http_free(program->admin);
	uv_loop_close(&program->uv);
	agents_free(program->agents);
}

/* The agent host tests its sandbox first, and the lease begins with its first renewal. */
static void on_ready_poll(struct timer *timer)
{
	struct program *program = (struct program *)((char *)timer - offsetof(struct program, ready));

	if (!core_is_ready(program->core, NULL)) {
		timer_set(&program->loop.loop, &program->ready, READY_POLL_MS);
		return;
	}
	log_info("worker", "ready", "url", program->options.listen, "admin", program->options.admin, "incarnation",
	         LOG_U64(lease_incarnation(program->lease)), "sandbox", program->host->ops->properties(program->host), NULL);
}

static void run(struct program *program, const struct worker_hooks *hooks)
{
	struct err_info info = {0};

	/* given back to the kernel when freed; left to itself, malloc takes to keeping the size of the largest text ever held */
	(void)mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
	uv_loop_init(&program->uv);
	loop_uv_init(&program->loop, &program->uv);
	watch_signals(program);
	program->ready.fn = on_ready_poll;
	program->deadline.fn = on_deadline;
	if (start(program, hooks, &info) == ERR_OK) {
		if (program->options.insecure_links)
			log_warn("worker", "insecure_links", "why",
			         "links to gateways may be neither encrypted nor authenticated", NULL);
		timer_set(&program->loop.loop, &program->ready, 0);
		uv_run(&program->uv, UV_RUN_DEFAULT);
		log_info("worker", "exit", "status", LOG_U64((uint64_t)program->status), NULL);
	} else {
		log_error("worker", "start_failed", "why", info.text, NULL);
		program->status = info.code == ERR_CONFIG ? 2 : 1;
	}
	finish(program);
}

int worker_program(int argc, char **argv, const struct worker_hooks *hooks)
{
	struct program program = {0};
	struct err_info info = {0};
	enum config_verdict verdict = config_load(&spec, &program.options, argc, argv);

	if (verdict == CONFIG_EXIT || verdict == CONFIG_BAD) {
		program.status = verdict == CONFIG_BAD ? 2 : 0;
	} else if (check(&program, &info) != ERR_OK) {
		fprintf(stderr, "pinion-worker: %s\n", info.text);
		agents_free(program.agents);
		program.status = 2;
	} else if (verdict == CONFIG_CHECK) {
		puts("configuration is valid");
		agents_free(program.agents);
	} else {
		run(&program, hooks);
	}
	config_free(&spec, &program.options);
	return program.status;
}
