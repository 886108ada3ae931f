/*
 * rendezvous.h - which node comes first for a key: highest random weight. Adding or taking a node moves only its own keys.
 * Source: Thaler & Ravishankar, "Using name-based mappings to increase hit rates" (1998). Thread: any.
 */
#ifndef PINION_COMMON_RENDEZVOUS_H
#define PINION_COMMON_RENDEZVOUS_H

#include <stddef.h>
#include <stdint.h>
#include "common/str.h"

/* The weight of a node for a key: a 64-bit hash of both, stable across versions and machines. */
uint64_t rendezvous_weight(struct str key, struct str node);

/* Fills order[0..n-1] with the indices of the nodes, best first; ties go by name. */
void rendezvous_order(struct str key, const struct str *nodes, size_t n, size_t *order);

#endif
