/*
 * attempt.h - what a script tries to see how well it is confined: forbidden calls, and more of a resource than it may have.
 *
 * Each really does it, undoes it where it worked, and says what happened: 0, or the errno of the refusal.
 */
#ifndef PINION_HOST_ATTEMPT_H
#define PINION_HOST_ATTEMPT_H

#include <jansson.h>
#include <stdbool.h>

/* Whether there is such a probe, and whether its argument is of the right type: false and why. */
bool probe_is_valid(const char *what, const json_t *argument, const char **why);
int probe(const char *what, const json_t *argument);

/* How much was granted, and why not more (0: all was). */
struct attempt {
	long granted;
	int refusal;
};

struct attempt attempt_memory(long mb);   /* allocates and touches */
struct attempt attempt_processes(long n); /* forks */
struct attempt attempt_descriptors(long n);
struct attempt attempt_disk(long mb); /* writes, in the scratch directory */

#endif
