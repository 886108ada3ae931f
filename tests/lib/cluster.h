/*
 * cluster.h - real gateways and workers with a store of their own in a temporary directory, for one test.
 *
 * A test's set-up calls cluster_start, its last line cluster_passed, its tear-down cluster_stop: that one drains the programs
 * and asserts that they ended well, that no process of theirs, no socket and no file is left, and that no log tells of
 * a sanitizer's finding, a failed assertion or a leak. Where the test did not pass it prints the ends of the logs.
 */
#ifndef PINION_TESTS_LIB_CLUSTER_H
#define PINION_TESTS_LIB_CLUSTER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "tests/lib/process.h"
#include "tests/lib/ws_client.h"

enum { CLUSTER_MAX = 8 };

struct cluster_args {
	unsigned gateways, workers;      /* a test may start more later, up to CLUSTER_MAX */
	const char *const *gateway_args; /* further flags, NULL-terminated; or NULL */
	const char *const *worker_args;
	const char *const *wrap_gateways; /* words before the program's path (valgrind …); or NULL */
	const char *const *wrap_workers;
	const char *gateway_program, *worker_program; /* NULL: the real ones */
	const char *agents;                           /* text of the agents file; NULL: none */
	bool own_pid_namespaces;                      /* each worker in its own */
	bool workers_may_die;                         /* the test ends workers its own way: their exit status is not judged */
	unsigned ready_ms;                            /* 0: 20000 */
};

struct node {
	struct process process;
	uint16_t port, admin; /* a worker has no port */
	bool killed;          /* by the test: its exit status is not judged */
};

struct cluster {
	struct cluster_args args;
	char dir[64];
	struct node gateways[CLUSTER_MAX], workers[CLUSTER_MAX];
	struct ws_loop *loop; /* for the test's clients */
	bool passed;
};

struct cluster *cluster_start(const struct cluster_args *args);
void cluster_passed(struct cluster *cluster);
void cluster_stop(struct cluster *cluster);

/* Starts node i (again), and waits for its /readyz where wait is true. */
void cluster_start_gateway(struct cluster *cluster, unsigned i, bool wait);
void cluster_start_worker(struct cluster *cluster, unsigned i, bool wait);
void cluster_kill(struct node *node); /* SIGKILL; returns when it is gone */
void cluster_signal(const struct cluster *cluster, const struct node *node, int signal);
/* SIGTERM; true when it has ended with status 0. */
bool cluster_drain(const struct cluster *cluster, struct node *node, unsigned timeout_ms);
/* The process of the program itself, where it was started through another (unshare). */
pid_t node_pid(const struct cluster *cluster, const struct node *node);
bool cluster_wait_ready(const struct node *node, unsigned timeout_ms);
/* /readyz of the gateway, with at least this many ready workers in its /v1/state. */
unsigned cluster_ready_workers(const struct cluster *cluster, unsigned gateway);
void cluster_wait_workers(struct cluster *cluster, unsigned gateway, unsigned workers);

uint16_t cluster_port(const struct cluster *cluster, unsigned gateway);
/* The node of this name ("worker-1"). */
struct node *cluster_node(struct cluster *cluster, const char *name);
/* The sum of a metric over its label sets; -1 where there is none. */
double node_metric(const struct node *node, const char *name);
json_t *node_state(const struct node *node); /* /v1/state; the caller's; NULL where it can't be had */

#endif
