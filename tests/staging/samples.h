/* samples.h - times that were measured, and their percentiles. Zeroed is empty; in microseconds. */
#ifndef PINION_STAGING_SAMPLES_H
#define PINION_STAGING_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

enum latency {
	LATENCY_CONNECT, /* TCP connect begun -> welcome */
	LATENCY_RESUME,  /* the same with last_seq -> all that was missed has come */
	LATENCY_PING,    /* ping -> pong */
	LATENCY_ACK,     /* run.start -> its ack */
	LATENCY_START,   /* run.start -> agent_started */
	LATENCY_RUN,     /* run.start -> terminal event */
	N_LATENCIES,
};

extern const char *const latency_names[N_LATENCIES];

struct samples {
	uint64_t *us;
	size_t n, cap;
};

void samples_add(struct samples *samples, uint64_t us);
void samples_free(struct samples *samples);
/* At fraction q of them; 0 for none. Sorts them. */
uint64_t samples_at(struct samples *samples, double q);

#endif
