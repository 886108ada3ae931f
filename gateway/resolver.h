/*
 * resolver.h - which workers exist: a fixed list of NNG URLs, and names that are looked up again every 5 s.
 *
 * dns://NAME:PORT stands for every address of NAME (a headless service): tcp://ADDRESS:PORT, or tls+tcp:// where links have
 * TLS. A lookup that fails changes nothing. Thread: the loop's.
 */
#ifndef PINION_GATEWAY_RESOLVER_H
#define PINION_GATEWAY_RESOLVER_H

#include "common/config.h"
#include "common/err.h"
#include "common/loop_uv.h"

struct resolver;

/* Called in resolver_create already, and whenever the list changes: sorted, each URL once. */
typedef void (*resolver_fn)(void *ctx, const char *const *urls, size_t n);

/* ERR_CONFIG for a malformed dns:// entry. The other entries are taken as they are (link_url_check is the caller's). */
MUST_CHECK enum err resolver_check(const struct string_list *workers, struct err_info *info);
MUST_CHECK enum err resolver_create(struct loop_uv *loop, const struct string_list *workers, bool tls, resolver_fn on_change,
                                    void *ctx, struct resolver **out, struct err_info *info);
bool resolver_is_dns(const char *entry);
/* No callback after this; lookups under way end on the loop. NULL is fine. */
void resolver_close(struct resolver *resolver);

#endif
