/* link_nng.c - listeners, dialers and TLS settings for NNG sockets. */
#include "common/link_nng.h"

#include <time.h>
#include <pthread.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/ipc/ipc.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PEM_MAX = 1 << 20 };

enum err link_err(struct err_info *info, enum err err, int nng_error, const char *what)
{
	return err_set(info, err, "%s: %s", what, nng_strerror(nng_error));
}

/* ---- TLS ---- */

static enum err read_all(int fd, size_t size, char **out)
{
	char *p = calloc(1, size + 1);
	size_t n = 0;

	if (!p)
		return ERR_NO_MEMORY;
	while (n < size) {
		ssize_t got = read(fd, p + n, size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	*out = p;
	return n == size ? ERR_OK : ERR_IO;
}

static enum err pem_read(char **out, const char *path, struct err_info *info)
{
	struct stat st;
	enum err err;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_set_errno(info, ERR_CONFIG, errno, "can't read %s", path);
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > PEM_MAX) {
		close(fd);
		return err_set(info, ERR_CONFIG, "%s: not a PEM file", path);
	}
	err = read_all(fd, (size_t)st.st_size, out);
	close(fd);
	return err ? err_set(info, ERR_CONFIG, "can't read %s", path) : ERR_OK;
}

/* NNG takes any two, and then every handshake fails. */
static bool pair_matches(const struct link_tls_pem *pem)
{
	BIO *cert_bio = BIO_new_mem_buf(pem->cert, -1), *key_bio = BIO_new_mem_buf(pem->key, -1);
	X509 *cert = cert_bio ? PEM_read_bio_X509(cert_bio, NULL, NULL, NULL) : NULL;
	EVP_PKEY *key = key_bio ? PEM_read_bio_PrivateKey(key_bio, NULL, NULL, (void *)(uintptr_t) "") : NULL;
	bool matches = cert && key && X509_check_private_key(cert, key) == 1;

	EVP_PKEY_free(key);
	X509_free(cert);
	BIO_free(key_bio);
	BIO_free(cert_bio);
	ERR_clear_error();
	return matches;
}

enum err link_tls_load(struct link_tls_pem *pem, const struct link_tls *tls, struct err_info *info)
{
	enum err err;

	*pem = (struct link_tls_pem){0};
	if (!tls || (!tls->ca_file && !tls->cert_file && !tls->key_file))
		return ERR_OK;
	if (!tls->ca_file || !tls->cert_file || !tls->key_file)
		return err_set(info, ERR_CONFIG, "TLS on links needs all of link-ca, link-cert and link-key");
	err = pem_read(&pem->ca, tls->ca_file, info);
	if (!err)
		err = pem_read(&pem->cert, tls->cert_file, info);
	if (!err)
		err = pem_read(&pem->key, tls->key_file, info);
	if (!err && !pair_matches(pem))
		err = err_set(info, ERR_CONFIG, "%s and %s are no certificate and its key (without a passphrase)", tls->cert_file,
		              tls->key_file);
	if (err)
		link_tls_finish(pem);
	return err;
}

void link_tls_finish(struct link_tls_pem *pem)
{
	if (pem->key)
		explicit_bzero(pem->key, strlen(pem->key));
	free(pem->ca);
	free(pem->cert);
	free(pem->key);
	*pem = (struct link_tls_pem){0};
}

static int tls_fill(nng_tls_config *config, const struct link_tls_pem *pem, const char *server_name)
{
	int rv;

	if (nng_tls_config_version(config, NNG_TLS_1_2, NNG_TLS_1_3) != 0 &&
	    (rv = nng_tls_config_version(config, NNG_TLS_1_2, NNG_TLS_1_2)) != 0)
		return rv;
	if ((rv = nng_tls_config_ca_chain(config, pem->ca, NULL)) != 0)
		return rv;
	if ((rv = nng_tls_config_own_cert(config, pem->cert, pem->key, NULL)) != 0)
		return rv;
	if (server_name && (rv = nng_tls_config_server_name(config, server_name)) != 0)
		return rv;
	return nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED);
}

/* Mutual TLS. server_name NULL: the peer is whoever holds a certificate of the link CA. */
static enum err tls_config(nng_tls_config **out, nng_tls_mode mode, const struct link_tls_pem *pem, const char *server_name,
                           struct err_info *info)
{
	int rv;

	if (!nng_tls_engine_name()[0] || !strcmp(nng_tls_engine_name(), "none"))
		return err_set(info, ERR_CONFIG, "tls+tcp:// links: libnng on this machine was built without TLS");
	if (!pem->ca)
		return err_set(info, ERR_CONFIG, "tls+tcp:// links need link-ca, link-cert and link-key");
	rv = nng_tls_config_alloc(out, mode);
	if (rv != 0)
		return link_err(info, rv == NNG_ENOTSUP ? ERR_CONFIG : ERR_NO_MEMORY, rv, "TLS on links");
	rv = tls_fill(*out, pem, server_name);
	if (rv == 0)
		return ERR_OK;
	nng_tls_config_free(*out);
	return link_err(info, ERR_CONFIG, rv, "link-ca, link-cert, link-key");
}

static bool is_tls(const char *url)
{
	return !strncmp(url, "tls+tcp", 7); /* also tls+tcp4, tls+tcp6 */
}

/* The host of scheme://HOST:PORT into name; false for an address literal: certificates name hosts, and what a dns:// list
 * resolves to is trusted for its certificate of the link CA. */
static bool host_name(const char *url, char *name, size_t size)
{
	const char *host = strstr(url, "://");
	const char *colon = host ? strrchr(host + 3, ':') : NULL;
	struct in_addr address;

	if (!colon || host[3] == '[')
		return false;
	host += 3;
	if (colon == host || (size_t)(colon - host) >= size)
		return false;
	memcpy(name, host, (size_t)(colon - host));
	name[colon - host] = 0;
	return inet_pton(AF_INET, name, &address) != 1;
}

/* ---- endpoints ---- */

static enum err listener_setup(nng_listener listener, const char *url, const struct link_tls_pem *pem, size_t max_bytes,
                               struct err_info *info)
{
	nng_tls_config *config = NULL;
	enum err err;
	int rv = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, max_bytes + LINK_HEADER_MAX);

	if (rv != 0)
		return link_err(info, ERR_IO, rv, url);
	if (!strncmp(url, "ipc:", 4)) {
		rv = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0600);
		return rv ? link_err(info, ERR_IO, rv, url) : ERR_OK;
	}
	if (!is_tls(url))
		return ERR_OK;
	err = tls_config(&config, NNG_TLS_MODE_SERVER, pem, NULL, info);
	if (err)
		return err;
	rv = nng_listener_set_ptr(listener, NNG_OPT_TLS_CONFIG, config);
	nng_tls_config_free(config); /* the listener holds it */
	return rv ? link_err(info, ERR_CONFIG, rv, url) : ERR_OK;
}

enum err link_listen(nng_socket socket, const char *url, const struct link_tls_pem *pem, size_t max_bytes, struct err_info *info)
{
	nng_listener listener;
	enum err err;
	int rv = nng_listener_create(&listener, socket, url);

	if (rv != 0)
		return link_err(info, ERR_CONFIG, rv, url);
	err = listener_setup(listener, url, pem, max_bytes, info);
	if (!err && (rv = nng_listener_start(listener, 0)) != 0)
		err = link_err(info, ERR_IO, rv, url);
	if (err)
		nng_listener_close(listener);
	return err;
}

static enum err dialer_setup(nng_dialer dialer, const char *url, const struct link_tls_pem *pem, size_t max_bytes,
                             struct err_info *info)
{
	char name[256];
	nng_tls_config *config = NULL;
	enum err err;
	int rv;

	if ((rv = nng_dialer_set_size(dialer, NNG_OPT_RECVMAXSZ, max_bytes + LINK_HEADER_MAX)) != 0 ||
	    (rv = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMINT, LINK_RECONNECT_MIN_MS)) != 0 ||
	    (rv = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMAXT, LINK_RECONNECT_MAX_MS)) != 0)
		return link_err(info, ERR_IO, rv, url);
	if (!is_tls(url))
		return ERR_OK;
	err = tls_config(&config, NNG_TLS_MODE_CLIENT, pem, host_name(url, name, sizeof(name)) ? name : NULL, info);
	if (err)
		return err;
	rv = nng_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, config);
	nng_tls_config_free(config); /* the dialer holds it */
	return rv ? link_err(info, ERR_CONFIG, rv, url) : ERR_OK;
}

enum err link_dial(nng_socket socket, const char *url, const struct link_tls_pem *pem, size_t max_bytes, struct err_info *info)
{
	nng_dialer dialer;
	enum err err;
	int rv = nng_dialer_create(&dialer, socket, url);

	if (rv != 0)
		return link_err(info, ERR_CONFIG, rv, url);
	err = dialer_setup(dialer, url, pem, max_bytes, info);
	if (!err && (rv = nng_dialer_start(dialer, NNG_FLAG_NONBLOCK)) != 0)
		err = link_err(info, ERR_CONFIG, rv, url);
	if (err)
		nng_dialer_close(dialer);
	return err;
}

/* ---- ends of life ---- */

/* libuv finishes closing handles in an order of its own, all that were closed within one turn together. So the memory waits
 * for two handles, the second closed when the first is done: by then what was closed before both is done. */
struct grave {
	uv_idle_t handle;
	bool second;
	void *memory;
};

static void on_grave_closed(uv_handle_t *handle)
{
	struct grave *grave = handle->data;

	if (grave->second) {
		free(grave->memory);
		free(grave);
		return;
	}
	grave->second = true;
	uv_idle_init(handle->loop, &grave->handle);
	grave->handle.data = grave;
	uv_close((uv_handle_t *)&grave->handle, on_grave_closed);
}

/* ---- closing ---- */

/* Shared by the one who waits and the thread that closes; the last of the two frees it. */
struct closing {
	nng_socket socket;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool is_closed, is_given_up;
};

static void closing_free(struct closing *closing)
{
	pthread_cond_destroy(&closing->changed);
	pthread_mutex_destroy(&closing->lock);
	free(closing);
}

static void *close_on_thread(void *arg)
{
	struct closing *closing = arg;
	bool is_given_up;

	nng_close(closing->socket);
	pthread_mutex_lock(&closing->lock);
	closing->is_closed = true;
	is_given_up = closing->is_given_up;
	pthread_cond_signal(&closing->changed);
	pthread_mutex_unlock(&closing->lock);
	if (is_given_up)
		closing_free(closing);
	return NULL;
}

static struct closing *closing_create(nng_socket socket)
{
	struct closing *closing = calloc(1, sizeof(*closing));
	pthread_condattr_t monotonic;

	if (!closing)
		abort();
	closing->socket = socket;
	pthread_mutex_init(&closing->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&closing->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return closing;
}

static bool closing_wait(struct closing *closing)
{
	struct timespec due;
	bool is_closed;
	int late = 0;

	clock_gettime(CLOCK_MONOTONIC, &due);
	due.tv_sec += LINK_CLOSE_MS / 1000;
	pthread_mutex_lock(&closing->lock);
	while (!closing->is_closed && !late)
		late = pthread_cond_timedwait(&closing->changed, &closing->lock, &due);
	is_closed = closing->is_closed;
	closing->is_given_up = !is_closed;
	pthread_mutex_unlock(&closing->lock);
	return is_closed;
}

bool link_socket_close(nng_socket socket)
{
	struct closing *closing = closing_create(socket);
	pthread_t thread;

	if (pthread_create(&thread, NULL, close_on_thread, closing) != 0) {
		closing_free(closing);
		nng_close(socket);
		return true;
	}
	if (!closing_wait(closing)) {
		pthread_detach(thread);
		return false;
	}
	pthread_join(thread, NULL);
	closing_free(closing);
	return true;
}

void link_free_closed(uv_loop_t *uv, void *memory)
{
	struct grave *grave = calloc(1, sizeof(*grave));

	if (!grave)
		abort();
	grave->memory = memory;
	uv_idle_init(uv, &grave->handle);
	grave->handle.data = grave;
	uv_close((uv_handle_t *)&grave->handle, on_grave_closed);
}

#ifdef PINION_SANITIZED
/* NNG 1.5.2 leaks a connection whose handshake ends while its listener is being closed: about one shutdown in ten when peers
 * redial at that moment. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libnng.so\n";
}

/* NNG, which is not instrumented, counts a message's references by atomics that the thread sanitizer does not see: where it
 * calls free() or reads for itself there seems to be a race. (Our callbacks that it calls stay watched.) */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:libnng.so\n";
}
#endif
