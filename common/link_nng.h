/*
 * link_nng.h - what both ends of a link do alike with NNG: listen, dial, TLS, errors, ends of life.
 *
 * Only gateway/worker_link_nng.c, worker/gateway_link_nng.c and link_nng.c name NNG. Facts that this rests on (NNG 1.5.2):
 * RECVMAXSZ is unlimited unless set; a dialer waits 1 s between tries unless told; TLS checks a name only where one is set.
 * Thread: the loop's.
 */
#ifndef PINION_COMMON_LINK_NNG_H
#define PINION_COMMON_LINK_NNG_H

#include <nng/nng.h>
#include <stdbool.h>
#include <uv.h>
#include "common/err.h"
#include "common/link_url.h"

enum {
	LINK_QUEUE_MAX = 8192, /* messages: the most that NNG takes for SENDBUF and RECVBUF */
	LINK_RECONNECT_MIN_MS = 20,
	LINK_RECONNECT_MAX_MS = 500,
	LINK_CLOSE_MS = 1000,
	LINK_HEADER_MAX = 256, /* bytes that NNG puts before a message, which RECVMAXSZ counts too */
};

/* TLS files as read at start: links opened later need no file. Zeroed: no TLS. */
struct link_tls_pem {
	char *ca, *cert, *key;
};

/* ERR_CONFIG where some files are given but not all, one can't be read, or key and certificate are no pair. tls may be NULL. */
MUST_CHECK enum err link_tls_load(struct link_tls_pem *pem, const struct link_tls *tls, struct err_info *info);
void link_tls_finish(struct link_tls_pem *pem); /* wipes the key */

/* Listens at url; messages over max_bytes (without NNG's header) close their pipe. ERR_IO where that can't be done (address in use), ERR_CONFIG
 * for a malformed URL and for tls+tcp:// where NNG was built without TLS. */
MUST_CHECK enum err link_listen(nng_socket socket, const char *url, const struct link_tls_pem *pem, size_t max_bytes,
                                struct err_info *info);

/* Starts dialling, and redials until the socket is closed. ERR_CONFIG as above. */
MUST_CHECK enum err link_dial(nng_socket socket, const char *url, const struct link_tls_pem *pem, size_t max_bytes,
                              struct err_info *info);

/*
 * Closes the socket, on a thread of its own: NNG 1.5.2 can wait for ever for a pipe that was shaking hands when its listener or
 * dialer closed (later releases mend it), and the loop must not. Returns false where it is not done within LINK_CLOSE_MS:
 * then the socket is given up. Its operations can be stopped (nng_aio_stop) either way; pipe callbacks must be off before.
 */
bool link_socket_close(nng_socket socket);

/* err_set with the library's text. */
enum err link_err(struct err_info *info, enum err err, int nng_error, const char *what);

/* free(memory) once the loop has finished closing the handles in it, which must be closing by now. */
void link_free_closed(uv_loop_t *uv, void *memory);

#endif
