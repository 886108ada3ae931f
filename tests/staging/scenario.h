/* scenario.h - the scenarios there are, in the order in which they run. */
#ifndef PINION_STAGING_SCENARIO_H
#define PINION_STAGING_SCENARIO_H

#include "tests/staging/stage.h"

extern const struct scenario scenarios[];
extern const size_t n_scenarios;

/* NULL where there is none of this name. */
const struct scenario *scenario_find(const char *name);

void play_ids(struct stage *stage);
void play_tokens(struct stage *stage);
void play_canary(struct stage *stage);
void play_events(struct stage *stage);
void play_concurrent(struct stage *stage);
void play_tabs(struct stage *stage);
void play_resume(struct stage *stage);
void play_churn(struct stage *stage);
void play_foreign(struct stage *stage);
void play_slow(struct stage *stage);
void play_malformed(struct stage *stage);
void play_limits(struct stage *stage);
void play_cancel(struct stage *stage);
void play_load(struct stage *stage);
void play_crash(struct stage *stage);
void play_pins(struct stage *stage);
void play_worker_loss(struct stage *stage);
void play_drain(struct stage *stage);

#endif
