#include "gateway/resolver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"

#define LOOKUP_EVERY_MS 5000
#define ADDRESSES_MAX 1024 /* of one name */
#define SCHEME "dns://"

struct urls {
	char **items;
	size_t n;
};

struct name {
	struct resolver *resolver; /* NULL: the resolver has gone, free this when the lookup ends */
	char *host;
	uint16_t port;
	struct urls found;
	bool failing;
	bool busy;
	uv_getaddrinfo_t lookup;
};

struct resolver {
	struct loop_uv *loop;
	struct timer timer;
	bool tls;
	struct urls fixed;
	struct name **names;
	size_t n_names;
	struct urls told; /* what on_change was last told */
	resolver_fn on_change;
	void *ctx;
};

static void urls_add(struct urls *urls, const char *url)
{
	urls->items = realloc(urls->items, (urls->n + 1) * sizeof(*urls->items));
	if (!urls->items || !(urls->items[urls->n] = strdup(url)))
		abort();
	urls->n++;
}

static void urls_finish(struct urls *urls)
{
	for (size_t i = 0; i < urls->n; i++)
		free(urls->items[i]);
	free(urls->items);
	*urls = (struct urls){0};
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void urls_sort(struct urls *urls)
{
	size_t kept = 0;

	if (urls->n == 0)
		return;
	qsort(urls->items, urls->n, sizeof(*urls->items), by_text);
	for (size_t i = 1; i < urls->n; i++)
		if (strcmp(urls->items[kept], urls->items[i]) == 0)
			free(urls->items[i]);
		else
			urls->items[++kept] = urls->items[i];
	urls->n = kept + 1;
}

static bool urls_equal(const struct urls *a, const struct urls *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	return true;
}

static void tell(struct resolver *resolver)
{
	struct urls all = {0};

	for (size_t i = 0; i < resolver->fixed.n; i++)
		urls_add(&all, resolver->fixed.items[i]);
	for (size_t i = 0; i < resolver->n_names; i++)
		for (size_t k = 0; k < resolver->names[i]->found.n; k++)
			urls_add(&all, resolver->names[i]->found.items[k]);
	urls_sort(&all);
	if (urls_equal(&all, &resolver->told)) {
		urls_finish(&all);
		return;
	}
	urls_finish(&resolver->told);
	resolver->told = all;
	log_info("resolver", "workers", "n", LOG_U64(all.n), NULL);
	resolver->on_change(resolver->ctx, (const char *const *)all.items, all.n);
}

static void name_free(struct name *name)
{
	urls_finish(&name->found);
	free(name->host);
	free(name);
}

static void take_addresses(struct name *name, const struct addrinfo *found)
{
	char address[INET6_ADDRSTRLEN], url[128];
	struct urls fresh = {0};

	for (; found && fresh.n < ADDRESSES_MAX; found = found->ai_next) {
		bool six = found->ai_family == AF_INET6;

		if (six ? uv_ip6_name((struct sockaddr_in6 *)found->ai_addr, address, sizeof(address))
		        : uv_ip4_name((struct sockaddr_in *)found->ai_addr, address, sizeof(address)))
			continue;
		snprintf(url, sizeof(url), six ? "%s[%s]:%u" : "%s%s:%u", name->resolver->tls ? "tls+tcp://" : "tcp://", address,
		         name->port);
		urls_add(&fresh, url);
	}
	urls_finish(&name->found);
	name->found = fresh;
}

static void on_lookup(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found)
{
	struct name *name = lookup->data;

	name->busy = false;
	if (!name->resolver) {
		name_free(name);
	} else if (status == 0) {
		name->failing = false;
		take_addresses(name, found);
		tell(name->resolver);
	} else {
		if (!name->failing)
			log_warn("resolver", "lookup_failed", "name", name->host, "why", uv_strerror(status), NULL);
		name->failing = true;
	}
	uv_freeaddrinfo(found);
}

static void look_up(struct name *name)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};

	if (name->busy)
		return;
	name->lookup.data = name;
	name->busy = uv_getaddrinfo(name->resolver->loop->uv, &name->lookup, on_lookup, name->host, NULL, &hints) == 0;
}

static void on_timer(struct timer *timer)
{
	struct resolver *resolver = (struct resolver *)((char *)timer - offsetof(struct resolver, timer));

	for (size_t i = 0; i < resolver->n_names; i++)
		look_up(resolver->names[i]);
	timer_set(&resolver->loop->loop, &resolver->timer, LOOKUP_EVERY_MS);
}

bool resolver_is_dns(const char *entry)
{
	return strncmp(entry, SCHEME, strlen(SCHEME)) == 0;
}

static enum err parse_name(const char *entry, char host[256], uint16_t *port, struct err_info *info)
{
	enum err code = config_host_port(entry + strlen(SCHEME), host, 256, port, info);

	if (code == ERR_OK && (*port == 0 || host[0] == 0))
		code = err_set(info, ERR_CONFIG, "a name and a port are needed");
	if (code != ERR_OK)
		(void)err_wrap(info, "workers: %s", entry);
	return code;
}

enum err resolver_check(const struct string_list *workers, struct err_info *info)
{
	char host[256];
	uint16_t port;
	enum err code = ERR_OK;

	for (size_t i = 0; i < workers->n && code == ERR_OK; i++)
		if (resolver_is_dns(workers->items[i]))
			code = parse_name(workers->items[i], host, &port, info);
	return code;
}

static void add_name(struct resolver *resolver, const char *host, uint16_t port)
{
	struct name *name = calloc(1, sizeof(*name));

	resolver->names = realloc(resolver->names, (resolver->n_names + 1) * sizeof(struct name *));
	if (!name || !resolver->names || !(name->host = strdup(host)))
		abort();
	name->resolver = resolver;
	name->port = port;
	resolver->names[resolver->n_names++] = name;
}

enum err resolver_create(struct loop_uv *loop, const struct string_list *workers, bool tls, resolver_fn on_change, void *ctx,
                         struct resolver **out, struct err_info *info)
{
	struct resolver *resolver;
	enum err code = resolver_check(workers, info);
	char host[256];
	uint16_t port;

	*out = NULL;
	if (code != ERR_OK)
		return code;
	resolver = calloc(1, sizeof(*resolver));
	if (!resolver)
		abort();
	*resolver = (struct resolver){.loop = loop, .tls = tls, .on_change = on_change, .ctx = ctx, .timer.fn = on_timer};
	for (size_t i = 0; i < workers->n; i++)
		if (!resolver_is_dns(workers->items[i]))
			urls_add(&resolver->fixed, workers->items[i]);
		else if (parse_name(workers->items[i], host, &port, NULL) == ERR_OK)
			add_name(resolver, host, port);
	*out = resolver;
	tell(resolver);
	if (resolver->n_names)
		on_timer(&resolver->timer);
	return ERR_OK;
}

void resolver_close(struct resolver *resolver)
{
	if (!resolver)
		return;
	timer_cancel(&resolver->loop->loop, &resolver->timer);
	for (size_t i = 0; i < resolver->n_names; i++) {
		struct name *name = resolver->names[i];

		name->resolver = NULL;
		if (!name->busy)
			name_free(name);
		else
			uv_cancel((uv_req_t *)&name->lookup); /* it ends by its callback in any case */
	}
	free(resolver->names);
	urls_finish(&resolver->fixed);
	urls_finish(&resolver->told);
	free(resolver);
}
