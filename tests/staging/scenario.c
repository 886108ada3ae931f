#include "tests/staging/scenario.h"

#include <string.h>

const struct scenario scenarios[] = {
	{"ids", "user IDs of every form come in, byte for byte; all others are refused", play_ids, false},
	{"tokens", "no token that is forged, bent, expired or missing opens any door", play_tokens, false},
	{"canary", "what a user keeps, nobody else sees: 0 leaks", play_canary, false},
	{"events", "a run's events are complete, in order, and the same when replayed", play_events, false},
	{"concurrent", "all users at once, with the same and with different agents, each get their own answer", play_concurrent,
         false},
	{"tabs", "every tab of a user hears the same, once, at every gateway", play_tabs, false},
	{"resume", "a cut connection resumes without gap or duplicate, in the middle of a stream", play_resume, false},
	{"churn", "connections and runs that come and go leave nothing counted", play_churn, false},
	{"foreign", "another's runs and threads can't be told from those that never were", play_foreign, false},
	{"slow", "a reader that stops costs nobody else, and hears everything in the end", play_slow, false},
	{"malformed", "what is wrong gets one answer that says so, or a close that says why", play_malformed, false},
	{"limits", "the limits in the welcome hold, and what is over them is told so", play_limits, false},
	{"cancel", "a run can be cancelled in every state, once", play_cancel, false},
	{"load", "a burst, a sustained load and a noisy neighbour: all runs end well", play_load, false},
	{"crash", "each way to die has its own terminal event", play_crash, false},
	{"pins", "a user is at one worker, whichever gateway they come by", play_pins, false},
	{"worker-loss", "a worker is killed: runs go on elsewhere, nothing is lost or doubled", play_worker_loss, true},
	{"drain", "a worker is asked to go: nobody loses anything", play_drain, true},
};

const size_t n_scenarios = sizeof scenarios / sizeof *scenarios;

const struct scenario *scenario_find(const char *name)
{
	for (size_t i = 0; i < n_scenarios; i++)
		if (!strcmp(scenarios[i].name, name))
			return &scenarios[i];
	return NULL;
}
