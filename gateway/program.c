/* program.c - pinion-gateway: configuration, parts in their order, run, drain, close. */
#include "gateway/program.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <uv.h>
#include "common/admin_http.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "common/metrics.h"
#include "gateway/core.h"
#include "gateway/edge.h"
#include "gateway/program_config.h"
#include "gateway/resolver.h"

#define DESCRIPTORS_MAX 1000000
#define DESCRIPTORS_KEPT 512 /* not for clients: links, the admin port, files, refusals */
#define CONNECTIONS_MIN 64
#define LARGE_BLOCK_BYTES (512 << 10)
#define COMMAND_TIMEOUT_MS 10000
#define DRAIN_PER_SESSION_MS 2 /* reconnects come at 500 a second at most */

struct program {
	struct gateway_options options;
	struct core_config core_config;
	uv_loop_t uv;
	struct loop_uv loop;
	uv_signal_t sigterm, sigint;
	struct timer deadline; /* of draining */
	struct auth *auth;
	struct worker_transport *transport;
	struct core *core;
	struct edge *edge;
	struct resolver *resolver;
	struct admin_http *admin;
	bool draining;
	int status;
};

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

	if (program->draining)
		(void)err_set(&why, ERR_DRAINING, "draining");
	else if (!auth_is_ready(program->auth))
		(void)err_set(&why, ERR_UNAVAILABLE, "the keys that tokens are verified with are not here yet");
	else if (core_is_ready(program->core, &why)) {
		buf_append_c(out, "ready\n");
		return 200;
	}
	buf_printf(out, "%s\n", why.text);
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

	json_object_set_new(state, "gateway_id", json_string(program->options.id));
	json_object_set_new(state, "draining", json_boolean(program->draining));
	json_object_set_new(state, "keys_ready", json_boolean(auth_is_ready(program->auth)));
	json_object_set_new(state, "sockets", json_integer((json_int_t)edge_connections(program->edge)));
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

static void on_drained(void *ctx)
{
	struct program *program = ctx;

	uv_stop(&program->uv);
}

static void on_deadline(struct timer *timer)
{
	struct program *program = (struct program *)((char *)timer - offsetof(struct program, deadline));

	log_warn("gateway", "drain_cut", "sessions", LOG_U64(core_sessions(program->core)), NULL);
	uv_stop(&program->uv);
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct program *program = handle->data;
	uint64_t drain_ms = program->options.drain_seconds * 1000, spread_ms;

	if (program->draining || !program->core) {
		log_warn("gateway", "stop", "why", program->draining ? "second signal" : "signal", NULL);
		uv_stop(&program->uv);
		return;
	}
	program->draining = true;
	log_info("gateway", "drain", "seconds", LOG_U64(program->options.drain_seconds), NULL);
	edge_stop_accepting(program->edge);
	timer_set(&program->loop.loop, &program->deadline, drain_ms);
	spread_ms = core_sessions(program->core) * DRAIN_PER_SESSION_MS;
	/* a fifth of the time is for closes to go through */
	core_drain(program->core, (uint32_t)(spread_ms < drain_ms * 4 / 5 ? spread_ms : drain_ms * 4 / 5), on_drained, program);
}

/* ---- start and finish ---- */

/* Before libwebsockets, which sizes its tables by it. */
static uint64_t raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 1024;
	limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0 && getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 1024;
	return limit.rlim_cur;
}

static uint32_t connections_allowed(const struct gateway_options *o, uint64_t descriptors)
{
	uint64_t most = descriptors > DESCRIPTORS_KEPT + CONNECTIONS_MIN ? descriptors - DESCRIPTORS_KEPT : CONNECTIONS_MIN;

	if (o->max_connections > most)
		log_warn("gateway", "too_few_descriptors", "max_connections", LOG_U64(o->max_connections), "possible",
		         LOG_U64(most), NULL);
	return (uint32_t)(o->max_connections && o->max_connections < most ? o->max_connections : most);
}

static void fill_core_config(struct program *program, uint32_t max_connections)
{
	const struct gateway_options *o = &program->options;

	program->core_config = (struct core_config){
		.gateway_id = o->id,
		.advertise_events = o->advertise_events ? o->advertise_events : o->events,
		.message_bytes = (uint32_t)o->message_bytes,
		.messages_per_s = (uint32_t)o->messages_per_s,
		.burst = (uint32_t)o->burst,
		.connections = (uint32_t)o->connections,
		.active_runs = (uint32_t)o->active_runs,
		.queued_runs = (uint32_t)o->queued_runs,
		.heartbeat_s = (uint32_t)o->heartbeat_s,
		.outbox_bytes = (uint32_t)o->outbox_bytes,
		.auth_wait_s = (uint32_t)o->auth_wait_s,
		.unauthenticated_per_address = (uint32_t)o->unauthenticated_per_address,
		.max_sessions = max_connections,
		.command_timeout_ms = COMMAND_TIMEOUT_MS,
	};
}

static enum err verify(void *ctx, struct str token, int64_t now_s, struct identity *out, struct err_info *info)
{
	return auth_verify(ctx, token, now_s, out, info);
}

static enum err start_edge(struct program *program, uint32_t max_connections, struct err_info *info)
{
	const struct gateway_options *o = &program->options;
	char host[256];
	struct edge_config config = {
		.host = host,
		.tls_cert = o->tls_cert,
		.tls_key = o->tls_key,
		.allow_origin = o->allow_origin,
		.page = o->page,
		.message_bytes = (uint32_t)o->message_bytes,
		.heartbeat_s = (uint32_t)o->heartbeat_s,
		.max_connections = max_connections,
		.connects_per_s = (uint32_t)o->connects_per_s,
	};
	enum err code = config_host_port(o->listen, host, sizeof(host), &config.port, info);

	return code == ERR_OK ? edge_create(&program->loop, &config, program->core, program->auth, &program->edge, info) : code;
}

static void on_workers(void *ctx, const char *const *urls, size_t n)
{
	struct program *program = ctx;

	core_set_workers(program->core, urls, n);
}

static enum err start_transport(struct program *program, const struct gateway_hooks *hooks, struct err_info *info)
{
	const struct link_tls tls = gateway_link_tls(&program->options);
	enum err code = worker_transport_nng_create(&program->loop, program->options.events, &tls, &program->transport, info);

	if (code == ERR_OK && hooks && hooks->wrap_transport)
		program->transport = hooks->wrap_transport(program->transport, &program->loop);
	return code;
}

static enum err start(struct program *program, const struct gateway_hooks *hooks, struct err_info *info)
{
	const struct gateway_options *o = &program->options;
	const struct auth_config auth_config = gateway_auth_config(o);
	uint32_t max_connections = connections_allowed(o, raise_descriptors());
	enum err code = auth_create(&program->loop, &auth_config, &program->auth, info);

	if (code == ERR_OK)
		code = start_transport(program, hooks, info);
	if (code != ERR_OK)
		return code;
	fill_core_config(program, max_connections);
	program->core = core_create(&program->loop.loop, &program->core_config, program->transport,
	                            (struct verifier){verify, program->auth});
	code = resolver_create(&program->loop, &o->workers, o->link_ca != NULL, on_workers, program, &program->resolver, info);
	if (code == ERR_OK)
		code = start_edge(program, max_connections, info);
	if (code == ERR_OK)
		code = admin_http_start(&program->loop, o->admin, admin_paths, sizeof(admin_paths) / sizeof(admin_paths[0]),
		                        program, &program->admin, info);
	return code;
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

/* Connections go first: their sessions tell the core; then the core; then what it stands on. */
static void finish(struct program *program)
{
	timer_cancel(&program->loop.loop, &program->deadline);
	admin_http_stop(program->admin);
	edge_close(program->edge);
	resolver_close(program->resolver);
	core_destroy(program->core);
	if (program->transport)
		program->transport->ops->destroy(program->transport);
	auth_destroy(program->auth);
	uv_close((uv_handle_t *)&program->sigterm, NULL);
	uv_close((uv_handle_t *)&program->sigint, NULL);
	loop_uv_close(&program->loop);
	while (uv_run(&program->uv, UV_RUN_DEFAULT)) /* non-zero: stopped, by sessions that were the last to be drained */
		;
	admin_http_free(program->admin);
	edge_destroy(program->edge);
	loop_finish(&program->loop.loop);
	uv_loop_close(&program->uv);
}

static void log_ready(const struct program *program)
{
	const struct gateway_options *o = &program->options;

	if (o->insecure_links)
		log_warn("gateway", "insecure_links", "why", "links to workers may be neither encrypted nor authenticated", NULL);
	log_info("gateway", "ready", "listen", o->listen, "port", LOG_U64(edge_port(program->edge)), "admin", o->admin, "tls",
	         o->tls_cert ? "yes" : "no", "max_connections", LOG_U64(program->core_config.max_sessions), NULL);
}

static void run(struct program *program, const struct gateway_hooks *hooks)
{
	struct err_info info = {0};

	/* given back to the kernel when freed; left to itself, malloc takes to keeping the size of the largest text ever held */
	(void)mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
	uv_loop_init(&program->uv);
	loop_uv_init(&program->loop, &program->uv);
	program->deadline.fn = on_deadline;
	watch_signals(program);
	if (start(program, hooks, &info) == ERR_OK) {
		log_ready(program);
		uv_run(&program->uv, UV_RUN_DEFAULT);
		log_info("gateway", "exit", "status", LOG_U64((uint64_t)program->status), NULL);
	} else {
		log_error("gateway", "start_failed", "why", info.text, NULL);
		program->status = info.code == ERR_CONFIG ? 2 : 1;
	}
	finish(program);
}

/* ---- pinion-gateway token ---- */

static enum err mint(const struct gateway_options *o, char **token, struct err_info *info)
{
	struct user_id id;

	if (!o->user)
		return err_set(info, ERR_CONFIG, "--user is needed: whom is the token for?");
	if (!o->jwt_hs256_file)
		return err_set(info, ERR_CONFIG, "--jwt-hs256-file is needed: the gateway's secret");
	if (user_id_parse(&id, str_c(o->user), USER_ID_E2E) != ERR_OK)
		return err_set(info, ERR_CONFIG,
		               "--user: no gateway takes this user id: usr_ and 12 hex digits, a lower-case UUID, 15 to 21 "
		               "digits, or (for staging) e2e-NAME");
	return auth_mint(o->jwt_hs256_file, id.s, (int64_t)time(NULL), (int64_t)o->ttl, o->issuer, o->audience, token, info);
}

static int token_program(int argc, char **argv)
{
	struct gateway_options options = {0};
	struct err_info info = {0};
	char *token = NULL;
	int status = 0;

	switch (config_load(&gateway_token_spec, &options, argc, argv)) {
	case CONFIG_RUN:
	case CONFIG_CHECK:
		if (mint(&options, &token, &info) == ERR_OK) {
			puts(token);
		} else {
			fprintf(stderr, "pinion-gateway token: %s\n", info.text);
			status = 2;
		}
		break;
	case CONFIG_EXIT:
		break;
	case CONFIG_BAD:
		status = 2;
	}
	free(token);
	config_free(&gateway_token_spec, &options);
	return status;
}

int gateway_program(int argc, char **argv, const struct gateway_hooks *hooks)
{
	struct program program = {0};
	struct err_info info = {0};
	enum config_verdict verdict;

	if (argc > 1 && strcmp(argv[1], "token") == 0)
		return token_program(argc - 1, argv + 1);
	verdict = config_load(&gateway_spec, &program.options, argc, argv);
	if (verdict == CONFIG_EXIT || verdict == CONFIG_BAD) {
		program.status = verdict == CONFIG_BAD ? 2 : 0;
	} else if (gateway_options_check(&program.options, &info) != ERR_OK) {
		fprintf(stderr, "pinion-gateway: %s\n", info.text);
		program.status = 2;
	} else if (verdict == CONFIG_CHECK) {
		puts("configuration is valid");
	} else {
		run(&program, hooks);
	}
	config_free(&gateway_spec, &program.options);
	return program.status;
}
