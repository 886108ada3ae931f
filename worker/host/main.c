/* main.c - pinion-agent-host: forks one confined process per run. Started by pinion-worker. */
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/config.h"
#include "common/log.h"
#include "worker/host/host.h"

struct host_config {
	char *log_format;
};

static const struct option_def options[] = {
	{"log-format", OPTION_STRING, offsetof(struct host_config, log_format), "text", 0, 0, "text|json", "How log lines look."},
};

static const struct config_spec spec = {
	.program = "pinion-agent-host",
	.summary =
		"forks one confined process per run. It is started by pinion-worker, with the control socket as descriptor 3 and "
		"the state directory as its current one.",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

static int is_control_socket(int fd)
{
	int type = 0;
	socklen_t n = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_SEQPACKET;
}

static int serve(const struct host_config *config)
{
	log_init(LOG_INFO, config->log_format && config->log_format[0] == 'j' ? LOG_JSON : LOG_KEY_VALUE, "agent-host", "");
	if (!is_control_socket(HOST_CONTROL_FD)) {
		fputs("pinion-agent-host is started by pinion-worker: descriptor 3 is not its control socket\n", stderr);
		return 2;
	}
	/* Whatever the worker held when it exec'ed us is none of ours. */
	(void)close_range(HOST_CONTROL_FD + 1, ~0u, 0);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return host_serve(HOST_CONTROL_FD);
}

int main(int argc, char **argv)
{
	struct host_config config = {0};
	int status = 0;

	switch (config_load(&spec, &config, argc, argv)) {
	case CONFIG_RUN:
		status = serve(&config);
		break;
	case CONFIG_CHECK:
		puts("configuration is valid");
		break;
	case CONFIG_EXIT:
		break;
	case CONFIG_BAD:
		status = 2;
		break;
	}
	config_free(&spec, &config);
	return status;
}
