/* link_url.c - refuses NNG URLs that would be open to others on the machine or the network. */
#include "common/link_url.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/config.h"

/* The socket's directory into dir; "." where the path has none. */
static bool directory_of(const char *path, char *dir, size_t n)
{
	const char *slash = strrchr(path, '/');
	size_t len;

	if (!slash)
		return snprintf(dir, n, ".") < (int)n;
	len = slash == path ? 1 : (size_t)(slash - path);
	if (len >= n)
		return false;
	memcpy(dir, path, len);
	dir[len] = 0;
	return true;
}

static enum err check_directory(const char *url, const char *dir, bool listening, struct err_info *info)
{
	struct stat st;

	if (listening && mkdir(dir, 0700) != 0 && errno != EEXIST)
		return err_set_errno(info, ERR_CONFIG, errno, "%s: can't create the directory %s", url, dir);
	if (stat(dir, &st) != 0)
		return err_set_errno(info, ERR_CONFIG, errno, "%s: the directory %s", url, dir);
	if (!S_ISDIR(st.st_mode))
		return err_set(info, ERR_CONFIG, "%s: %s is not a directory", url, dir);
	if (st.st_uid != geteuid())
		return err_set(info, ERR_CONFIG, "%s: the directory %s belongs to uid %u, not to us (uid %u)", url, dir,
		               (unsigned)st.st_uid, (unsigned)geteuid());
	if ((st.st_mode & 0777) != 0700)
		return err_set(info, ERR_CONFIG, "%s: the directory %s has mode %04o, it must be 0700: chmod 700 %s", url, dir,
		               (unsigned)(st.st_mode & 0777), dir);
	return ERR_OK;
}

static enum err check_ipc(const char *url, const char *path, bool listening, struct err_info *info)
{
	struct sockaddr_un address;
	char dir[sizeof(address.sun_path)];

	if (!path[0] || path[strlen(path) - 1] == '/')
		return err_set(info, ERR_CONFIG, "%s: names no socket, use ipc:///DIRECTORY/NAME", url);
	if (strlen(path) >= sizeof(address.sun_path) || !directory_of(path, dir, sizeof(dir)))
		return err_set(info, ERR_CONFIG, "%s: a socket's path is at most %zu bytes long, use a shorter directory", url,
		               sizeof(address.sun_path) - 1);
	return check_directory(url, dir, listening, info);
}

static enum err check_address(const char *url, const char *address, bool listening, struct err_info *info)
{
	char host[256];
	uint16_t port;

	if (config_host_port(address, host, sizeof(host), &port, info) != ERR_OK) {
		err_wrap(info, "%s", url);
		return ERR_CONFIG;
	}
	if (!listening && port == 0)
		return err_set(info, ERR_CONFIG, "%s: port 0 can't be dialled", url);
	return ERR_OK;
}

static enum err check_tls(const char *url, const struct link_tls *tls, struct err_info *info)
{
	const char *files[3] = {tls ? tls->ca_file : NULL, tls ? tls->cert_file : NULL, tls ? tls->key_file : NULL};

	for (size_t i = 0; i < 3; i++) {
		if (!files[i])
			return err_set(info, ERR_CONFIG, "%s: needs --link-ca, --link-cert and --link-key", url);
		if (access(files[i], R_OK) != 0)
			return err_set_errno(info, ERR_CONFIG, errno, "%s: can't read %s", url, files[i]);
	}
	return ERR_OK;
}

/* What follows the scheme, NULL if it is another one. */
static const char *after(const char *url, const char *scheme)
{
	size_t n = strlen(scheme);

	return strncmp(url, scheme, n) == 0 ? url + n : NULL;
}

enum err link_url_check(const char *url, const struct link_tls *tls, bool insecure, bool listening, struct err_info *info)
{
	const char *rest;

	if ((rest = after(url, "ipc://")))
		return check_ipc(url, rest, listening, info);
	if ((rest = after(url, "tls+tcp://"))) {
		if (check_tls(url, tls, info) != ERR_OK)
			return ERR_CONFIG;
		return check_address(url, rest, listening, info);
	}
	if ((rest = after(url, "tcp://"))) {
		if (!insecure)
			return err_set(
				info, ERR_CONFIG,
				"%s: links without encryption are refused: use tls+tcp://, or --insecure-links on a network "
				"that you trust",
				url);
		return check_address(url, rest, listening, info);
	}
	return err_set(info, ERR_CONFIG, "%s: a link is ipc:///DIRECTORY/NAME, tls+tcp://HOST:PORT or tcp://HOST:PORT", url);
}
