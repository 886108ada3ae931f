/*
 * run.h - one run: from its acceptance to its one terminal event, over journalled steps of a confined process.
 *
 *   ACCEPTING ──durable──> QUEUED ──turn, process free──> STARTING ──durable──> RUNNING <──committed── COMMITTING
 *       │                    │                               │                    │  ╰──durable output──> ^   │
 *       │                    │                               │                    │                       │   v
 *       ╰─(starts at once)───┼───────────────────────────────┼──────────────────> │           outcome ── TOOL ╯
 *                            v                               v                    v
 *                        FINISHING (terminal event under way; from every state on) ──durable──> ENDED
 *
 * ENDED comes from every state where the user is lost: without a terminal event, the next owner goes on. STARTING: agent_started
 * (after a recovery run_recovered before it) is being committed while the process is forked; RUN_BEGIN is sent after it.
 * COMMITTING: a durable output is on its way to the store and the process's socket is not read. TOOL: a call is executed,
 * confined or here. A process outlives its run's terminal for a short while; what it says then is not heard.
 * Owner: the user, then (ended) the core until nothing names it. Thread: the loop's.
 */
#ifndef PINION_WORKER_RUN_H
#define PINION_WORKER_RUN_H

#include "common/ids.h"
#include "worker/append.h"
#include "worker/core_private.h"
#include "worker/event.h"
#include "worker/tool/tool.h"

enum {
	RUN_CANCEL_GRACE_MS = 500,
	RUN_ATTEMPTS_MAX = 20, /* a run that was lost this often ends in worker_lost */
	RUN_FILE_BYTES = 64 << 20,
	RUN_DESCRIPTORS = 64,
	MESSAGE_TEXT_MAX = 512 << 10,    /* a longer text is several messages */
	MESSAGE_ESCAPED_MAX = 960 << 10, /* the same, as JSON */
	TOOL_RESULT_MAX = 256 << 10,
	TOOL_ARGUMENTS_MAX = 256 << 10,
	FIELD_ESCAPED_MAX = 512 << 10, /* other texts in events */
};

struct open_message {
	struct id id; /* zeroed: none is open */
	struct buf text;
	size_t escaped;
	uint64_t after_seq;
};

struct tool_call {
	bool open; /* tool_executing is (or is being) committed, tool_completed is not */
	uint32_t step;
	struct id id;
	char *tool, *arguments;
	const struct tool *def;
	uint64_t started_ms; /* monotonic */
	uint64_t started_wall_ms;
	bool has_timed_out;
};

/* What the journal of an earlier attempt says; kept until RUN_BEGIN was sent. */
struct recovery {
	struct arena arena;
	struct step *steps;
	size_t n_steps;
};

enum cancel_by { CANCEL_NONE, CANCEL_USER, CANCEL_INTERRUPT, CANCEL_OPERATOR };

struct run {
	struct core *core;
	struct user *user;       /* not to be followed once ENDED */
	struct run *prev, *next; /* of the user's open runs; ended: of the core's */
	struct run *dismiss_prev, *dismiss_next;
	enum run_life life;
	unsigned pins; /* appends and reads that name us */
	struct id id, thread_id;
	char *agent_name, *input, *client_id;
	const struct agent_def *agent;                  /* NULL: no longer offered */
	uint64_t accepted_seq, accepted_ms, started_ms; /* Unix ms */
	uint32_t attempt;
	uint64_t last_seq;        /* of our last committed event */
	enum cancel_by cancel_by; /* durable or asked for */
	bool starts_at_once;      /* run_accepted and agent_started in one append */

	struct agent_run *process;
	bool dismissing; /* what it says is not heard any more */
	bool exited;     /* before it could begin: */
	struct run_exit exit;
	bool is_paused, wait_commit, wait_credit;
	struct timer limit, grace, tool_timer;
	struct recovery *recovery;
	const char *lost; /* why the attempt before ended without an end; NULL once run_recovered is on its way */

	uint32_t step;         /* the last one begun */
	uint32_t text_step;    /* the one whose message is under way; 0: none */
	uint32_t skip_step;    /* recovered: of this step's text … */
	uint64_t skip_bytes;   /* … this much is already in closed messages */
	uint64_t closed_bytes; /* of the current step's text, in messages closed for their size */
	struct open_message message;
	struct buf rest; /* text that waits for a full message to be committed */
	struct tool_call call;
	struct tool_call redo; /* recovered: the call that was under way, to be executed again */
	uint64_t output_bytes;
	struct call *cancelling; /* commands answered when the terminal event is committed (by follow_next) */
	enum run_status ended_as;
	bool reloading; /* the agent host died: the journal is being read again; a cancel waits for it */
};

/* ---- run.c: states, starting, ending ---- */

struct run *run_create(struct user *user, const struct agent_def *agent, struct str agent_name);
struct run *run_find(const struct user *user, struct str run_id); /* open ones */
bool run_is_active(const struct run *run);                        /* takes one of the user's active places */
bool run_any_active(const struct user *user);
size_t run_count_queued(const struct user *user);
size_t run_count_active(const struct user *user);
bool run_has_open_message(const struct run *run);
/* An open run of this thread, or NULL. */
struct run *run_in_thread(const struct user *user, const struct id *thread);

void run_move(struct run *run, enum run_life life);
const char *run_life_name(enum run_life life);
/* Puts the user in line where a run of theirs can start. */
void run_schedule(struct user *user);
/* Starts the next run of the user; returns whether there is another one to start. */
bool run_start_next(struct user *user);
/* Whether a new run, in a thread where no other is open, may start at once, without waiting for its turn. */
bool run_may_start_at_once(const struct user *user);

/* Forks the process (its outcome comes as events). */
void run_spawn(struct run *run);
/* agent_started (or run_recovered) is committed: the process gets its input. */
void run_begin(struct run *run);
/* run_accepted is committed. */
void run_on_accepted(struct run *run, uint64_t accepted_seq, uint64_t last_seq);
/* Takes back a run whose acceptance failed. */
void run_discard(struct run *run);

/* Puts the run's row into the append, as it is now; `with_input`: it is its first one. */
void run_put_row(const struct run *run, struct append *append, enum run_status status, bool with_input);
struct append_event *run_event(struct run *run, struct append *append, const char *type);
/* The step that is under way, or has just ended, as a row of the journal. */
struct journal_row *run_put_step(struct run *run, struct append *append, enum step_kind kind, bool finished);
/* Submits a durable output; the process is not read until it is in. `done` must begin with run_committed. */
void run_commit(struct run *run, struct append *append);
/* An append that names (pins) the run; it is repeated until it is in. */
struct append *run_append(struct run *run, void (*done)(struct append *append, enum err err));
/* False: the run has ended or is finishing, nothing is to be done. Else it is as before the commit, state RUNNING. */
bool run_committed(struct run *run, const struct append *append, enum err err);
void run_apply_pause(struct run *run);
/* The process is not needed any more: killed and forgotten at the end of the turn, or after `grace`. */
void run_dismiss(struct run *run, bool with_grace);
/* Out of the user's list, and freed once nothing names it. Cancels that wait get `err` (ERR_OK: carried out). */
void run_retire(struct run *run, enum err cancel_answer);
void run_credit_changed(struct user *user);
void run_publish_stalled(struct run *run);

void run_lose_all(struct user *user);
void run_free_all(struct user *user);
void run_free_ended(struct core *core);
void run_forget_dismissed(struct core *core);
void run_unpin(struct run *run);

/* ---- run_end.c: terminals ---- */

/* Each does nothing where a terminal is already under way. */
void run_complete(struct run *run, struct str output, struct str usage);
void run_fail(struct run *run, const char *code, bool retryable, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void run_cancelled(struct run *run);
/* A client's run.cancel: answered once a terminal event is committed. */
void run_cancel_by_call(struct run *run, struct call *call);
void run_cancel(struct run *run, enum cancel_by by);
/* The process has ended by itself. */
void run_on_exit(struct run *run, const struct run_exit *exit);
const char *cancel_by_name(enum cancel_by by);
enum cancel_by cancel_by_from(struct str name);

/* ---- run_output.c: what the process says ---- */

void run_on_message(struct run *run, const struct run_up *up);
/* Adds to what the run has put out; false: it was too much, and the run fails. */
bool run_count_output(struct run *run, size_t bytes);
/* Puts the open message's agent_message and row into the append and closes it. */
void run_close_message(struct run *run, struct append *append);

/* ---- run_tool.c: tool calls ---- */

void run_on_tool_call(struct run *run, const struct run_up *up);
void run_on_tool_outcome(struct run *run, const struct run_up *up);
/* tool_completed, and the step as finished, into the append; the call is closed. `result`: JSON text. */
void run_put_tool_completed(struct run *run, struct append *append, enum tool_status status, struct str result, bool journal);
void run_tool_timer(struct timer *timer);
const char *tool_status_name(enum tool_status status);
void tool_call_finish(struct tool_call *call);
/* Commits the outcome of the call under way and tells the process. note: an effect to be committed with it, or NULL. */
struct note_effect {
	bool put; /* else: delete */
	struct str key, value;
};
void run_tool_finish(struct run *run, enum tool_status status, struct str result, const struct note_effect *note);
/* The process's answer to tool_call under way, which began with run_commit of tool_executing. */
void run_tool_execute(struct run *run);

#endif
