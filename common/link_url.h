/* link_url.h - which NNG URLs a process may listen at or dial, and with which TLS files. Thread: any. */
#ifndef PINION_COMMON_LINK_URL_H
#define PINION_COMMON_LINK_URL_H

#include <stdbool.h>
#include "common/err.h"

struct link_tls {
	const char *ca_file, *cert_file, *key_file; /* PEM; all three or none */
};

/* ERR_CONFIG with what to do: a scheme other than ipc, tcp, tls+tcp; tcp:// without `insecure`; tls+tcp:// without the files;
 * ipc:// whose directory is missing or not of mode 0700 and ours. `listening` creates a missing directory (one level). */
MUST_CHECK enum err link_url_check(const char *url, const struct link_tls *tls, bool insecure, bool listening,
                                   struct err_info *info);

#endif
