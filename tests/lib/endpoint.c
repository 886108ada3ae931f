#include "tests/lib/endpoint.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *scheme;
	uint16_t port;
	bool tls;
} schemes[] = {{"http://", 80, false}, {"https://", 443, true}, {"ws://", 80, false}, {"wss://", 443, true}};

/* HOST, HOST:PORT or [IPV6]:PORT. */
static bool split_authority(struct endpoint *e)
{
	const char *at = e->authority, *end;
	if (*at == '[') {
		end = strchr(++at, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		snprintf(e->host, sizeof e->host, "%.*s", (int)(end - at), at);
		end++;
	} else {
		end = at + strcspn(at, ":");
		snprintf(e->host, sizeof e->host, "%.*s", (int)(end - at), at);
	}
	if (*end == ':') {
		char *rest;
		unsigned long port = strtoul(end + 1, &rest, 10);
		if (*rest || rest == end + 1 || port < 1 || port > 65535)
			return false;
		e->port = (uint16_t)port;
	}
	return e->host[0] && !strchr(e->host, '@');
}

static bool split(struct endpoint *e, bool *tls)
{
	const char *rest = NULL;
	for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
		if (!strncmp(e->url, schemes[i].scheme, strlen(schemes[i].scheme))) {
			rest = e->url + strlen(schemes[i].scheme);
			e->port = schemes[i].port;
			*tls = schemes[i].tls;
		}
	if (!rest || strpbrk(rest, "?# \t\r\n"))
		return false;
	snprintf(e->authority, sizeof e->authority, "%.*s", (int)strcspn(rest, "/"), rest);
	snprintf(e->prefix, sizeof e->prefix, "%s", rest + strcspn(rest, "/"));
	return split_authority(e);
}

static bool look_up(struct endpoint *e, char *why, size_t n)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	char port[8];
	snprintf(port, sizeof port, "%u", e->port);
	int error = getaddrinfo(e->host, port, &hints, &found);
	if (error) {
		snprintf(why, n, "%s: %s", e->host, gai_strerror(error));
		return false;
	}
	memcpy(&e->address, found->ai_addr, found->ai_addrlen);
	e->address_len = found->ai_addrlen;
	freeaddrinfo(found);
	return true;
}

static bool prepare_tls(struct endpoint *e, const char *ca, char *why, size_t n)
{
	e->tls = SSL_CTX_new(TLS_client_method());
	if (!e->tls)
		abort();
	SSL_CTX_set_verify(e->tls, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(e->tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (ca ? SSL_CTX_load_verify_locations(e->tls, ca, NULL) == 1 : SSL_CTX_set_default_verify_paths(e->tls) == 1)
		return true;
	snprintf(why, n, "%s: no certificates", ca ? ca : "the system's certificates");
	return false;
}

bool endpoint_init(struct endpoint *e, const char *url, const char *ca, char *why, size_t n)
{
	bool tls = false;
	*e = (struct endpoint){0};
	if (strlen(url) >= sizeof e->url) {
		snprintf(why, n, "too long");
		return false;
	}
	snprintf(e->url, sizeof e->url, "%s", url);
	while (e->url[0] && e->url[strlen(e->url) - 1] == '/')
		e->url[strlen(e->url) - 1] = 0;
	if (!split(e, &tls)) {
		snprintf(why, n, "not of the form http(s)://HOST[:PORT][/PATH]");
		return false;
	}
	return look_up(e, why, n) && (!tls || prepare_tls(e, ca, why, n));
}

void endpoint_finish(struct endpoint *e)
{
	SSL_CTX_free(e->tls);
	*e = (struct endpoint){0};
}

struct ssl_st *endpoint_tls(const struct endpoint *e, int fd)
{
	struct in6_addr any;
	SSL *tls = SSL_new(e->tls);
	if (!tls || !SSL_set_fd(tls, fd))
		return NULL;
	SSL_set_connect_state(tls);
	if (inet_pton(AF_INET, e->host, &any) == 1 || inet_pton(AF_INET6, e->host, &any) == 1)
		X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), e->host);
	else if (!SSL_set1_host(tls, e->host) || !SSL_set_tlsext_host_name(tls, e->host))
		return NULL;
	return tls;
}
