/* attempt.c - see attempt.h. */
#include "worker/host/agent/attempt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MB (1l << 20)

/* ---- probes ---- */

static int probe_open(const json_t *argument)
{
	int fd = open(json_string_value(argument), O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

static int connect_and_close(int fd, const struct sockaddr *address, socklen_t n)
{
	int rc = connect(fd, address, n) == 0 ? 0 : errno;

	close(fd);
	return rc;
}

/* Names are not resolved: that would need the very thing that is tried. */
static int probe_connect(const json_t *argument)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	const char *text = json_string_value(argument), *colon = strrchr(text, ':');
	char host[64];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return errno;
	snprintf(host, sizeof(host), "%.*s", colon ? (int)(colon - text) : (int)strlen(text), text);
	(void)inet_pton(AF_INET, host, &address.sin_addr);
	address.sin_port = htons((unsigned short)strtoul(colon ? colon + 1 : "80", NULL, 10));
	return connect_and_close(fd, (struct sockaddr *)&address, sizeof(address));
}

static int probe_unix(const json_t *argument)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", json_string_value(argument));
	return connect_and_close(fd, (struct sockaddr *)&address, sizeof(address));
}

/* Signal 0 asks for the permission and harms nobody. */
static int probe_kill(const json_t *argument)
{
	return kill((pid_t)json_integer_value(argument), 0) == 0 ? 0 : errno;
}

static int probe_ptrace(const json_t *argument)
{
	return ptrace(PTRACE_SEIZE, (pid_t)json_integer_value(argument), NULL, NULL) == 0 ? 0 : errno;
}

/* Where it is possible the run does not come back, and its worker sees a run that ended without a word. */
static int probe_exec(const json_t *argument)
{
	char *const none[] = {NULL};
	char *const args[] = {(char *)json_string_value(argument), NULL};

	(void)execve(args[0], args, none);
	return errno;
}

static int probe_env(const json_t *argument)
{
	return getenv(json_string_value(argument)) ? 0 : ENOENT;
}

static const struct {
	const char *what;
	json_type type;
	int (*fn)(const json_t *argument);
} probes[] = {
	{"open", JSON_STRING, probe_open},  {"connect", JSON_STRING, probe_connect}, {"unix", JSON_STRING, probe_unix},
	{"kill", JSON_INTEGER, probe_kill}, {"ptrace", JSON_INTEGER, probe_ptrace},  {"exec", JSON_STRING, probe_exec},
	{"env", JSON_STRING, probe_env},
};

bool probe_is_valid(const char *what, const json_t *argument, const char **why)
{
	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
		if (strcmp(what, probes[i].what) != 0)
			continue;
		*why = probes[i].type == JSON_STRING ? "its argument must be a string" : "its argument must be a whole number";
		return json_typeof(argument) == probes[i].type;
	}
	*why = "it is none of open, connect, unix, kill, ptrace, exec, env";
	return false;
}

int probe(const char *what, const json_t *argument)
{
	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++)
		if (strcmp(what, probes[i].what) == 0)
			return probes[i].fn(argument);
	return EINVAL;
}

/* ---- resources ---- */

struct attempt attempt_memory(long mb)
{
	struct attempt result = {0};
	void *chain = NULL, *next;

	while (result.granted < mb) {
		void *piece = malloc((size_t)MB);

		if (!piece) {
			result.refusal = errno;
			break;
		}
		memset(piece, 0x5a, (size_t)MB);
		*(void **)piece = chain;
		chain = piece;
		result.granted++;
	}
	for (; chain; chain = next) {
		next = *(void **)chain;
		free(chain);
	}
	return result;
}

struct attempt attempt_processes(long n)
{
	struct attempt result = {0};

	while (result.granted < n) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0) {
			result.refusal = errno;
			break;
		}
		result.granted++;
	}
	for (long i = 0; i < result.granted; i++)
		(void)wait(NULL);
	return result;
}

struct attempt attempt_descriptors(long n)
{
	struct attempt result = {0};
	int first = -1, last = -1;

	while (result.granted < n) {
		int fd = dup(0);

		if (fd < 0) {
			result.refusal = errno;
			break;
		}
		if (first < 0)
			first = fd;
		last = fd;
		result.granted++;
	}
	/* They came in a row: nothing above the first was open. */
	for (int fd = first; fd >= 0 && fd <= last; fd++)
		close(fd);
	return result;
}

static int write_mb(int fd, const char *block)
{
	for (size_t done = 0; done < (size_t)MB;) {
		ssize_t n = write(fd, block + done, (size_t)MB - done);

		if (n < 0)
			return errno;
		done += (size_t)n;
	}
	return 0;
}

struct attempt attempt_disk(long mb)
{
	struct attempt result = {0};
	char *block = calloc(1, (size_t)MB);
	int fd = open("data", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0 || !block) {
		result.refusal = errno;
	} else {
		while (result.granted < mb && (result.refusal = write_mb(fd, block)) == 0)
			result.granted++;
		(void)!ftruncate(fd, 0);
	}
	if (fd >= 0)
		close(fd);
	free(block);
	return result;
}
