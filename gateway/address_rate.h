/* address_rate.h - how many connections a second each address may open. A bounded table of token buckets. Thread: one. */
#ifndef PINION_GATEWAY_ADDRESS_RATE_H
#define PINION_GATEWAY_ADDRESS_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct address_rate;

struct address_rate *address_rate_create(uint32_t per_s); /* bursts of four seconds' worth */
void address_rate_destroy(struct address_rate *rate);

/* True: let in. False: *wait_ms says when to try again. A full table (65,536 addresses) lets in whom it does not hold. */
bool address_rate_take(struct address_rate *rate, const char *address, uint64_t now_ms, uint64_t *wait_ms);

#endif
