/*
 * endpoint.h - where a service is, from its URL: address, name, path and, for https and wss, how TLS is spoken there.
 * Source: RFC 3986 (the parts of a URL), RFC 9110 section 7.2 (Host).
 */
#ifndef PINION_TESTS_LIB_ENDPOINT_H
#define PINION_TESTS_LIB_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct ssl_ctx_st;
struct ssl_st;

struct endpoint {
	char url[256];       /* as given, without a slash at its end */
	char authority[300]; /* for the Host header */
	char host[256];
	char prefix[256]; /* of every path; "" for none */
	uint16_t port;
	struct sockaddr_storage address;
	socklen_t address_len;
	struct ssl_ctx_st *tls; /* NULL: plain */
};

/* From http(s)://HOST[:PORT][/PATH] or ws(s)://…; looks the name up. ca: a file of certificates to trust instead of the
 * system's, or NULL. False with why it can't be. What it fills is endpoint_finish's. */
bool endpoint_init(struct endpoint *endpoint, const char *url, const char *ca, char *why, size_t n);
void endpoint_finish(struct endpoint *endpoint);

/* A TLS client on the socket, which verifies the certificate and the name; the caller's, by SSL_free. NULL: out of memory. */
struct ssl_st *endpoint_tls(const struct endpoint *endpoint, int fd);

#endif
