/*
 * store.h - the durable truth: who owns a user, the user's events, threads, runs, journal, notes.
 *
 * Operations are structs, filled by the caller, queued, and executed in batches by the store's thread: one batch, one
 * transaction, users in ID order (group commit). `done` runs on the loop's thread, in the order of submission per user.
 * Backends (sqlite.c; PostgreSQL later) execute whole batches synchronously behind struct store_backend_ops; the simulation
 * runs a backend without a thread.
 *
 * Fencing: every write for a user is one compare-and-swap on (user_id, epoch, last_seq). ERR_FENCED says that the user is lost
 * to us; the rest of the batch goes on. After a COMMIT whose outcome is unknown the backend reads back before it reports.
 * ERR_UNAVAILABLE: the store can't do it now (full disk, read-only, unreachable): nothing of the op happened.
 */
#ifndef PINION_WORKER_STORE_H
#define PINION_WORKER_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include "common/arena.h"
#include "common/err.h"
#include "common/ids.h"
#include "proto/messages.h"

struct store;
struct loop_uv;

enum store_op_kind {
	STORE_REGISTER = 1, /* this worker, a new incarnation (the old one of this name is fenced) */
	STORE_RENEW,        /* raise our counter; read every worker's */
	STORE_ACQUIRE,
	STORE_RELEASE,
	STORE_APPEND,
	STORE_READ_EVENTS,
	STORE_FIND_KEY, /* idempotency */
	STORE_FIND_RUN,
	STORE_FIND_THREAD,
	STORE_LIST_THREADS,
	STORE_LIST_MESSAGES,
	STORE_LIST_RUNS,
	STORE_NOTE_READ, /* notes get, list (writes go with STORE_APPEND) */
	STORE_STOPPED,   /* mark our own incarnation (renew's id and incarnation) as ended cleanly: its users can be
	                       acquired at once */
};

/* Where a worker runs, so that another on the same machine can see that its process is gone, or end a stale one. */
struct process_identity {
	char boot_id[40];
	char pid_namespace[32]; /* readlink /proc/self/ns/pid */
	uint32_t pid;
	uint64_t start_time; /* /proc/PID/stat field 22 */
};

struct worker_row {
	struct str id;
	uint64_t incarnation; /* raised at each start under this name */
	uint64_t counter;     /* raised at each renewal */
	struct str url;       /* at which gateways reach it */
	bool stopped;
	struct process_identity process;
};

enum run_status { RUN_QUEUED = 1, RUN_ACTIVE, RUN_COMPLETED, RUN_FAILED, RUN_CANCELLED };

struct run_row {
	struct str run_id, thread_id, agent;
	enum run_status status;
	uint32_t attempt;
	uint64_t accepted_seq;
	uint64_t accepted_ms, started_ms, ended_ms; /* Unix ms; 0: not yet */
	struct str input;                           /* JSON text */
	struct str client_id;
	struct str cancel_by; /* "user" where a cancel is durable but the run has not ended yet; else empty */
};

struct journal_row {
	struct str run_id;
	struct step step; /* result: empty while the outcome is open */
	bool finished;
	struct str tool, tool_call_id, arguments; /* STEP_TOOL */
	uint64_t started_ms;
};

struct thread_row {
	struct str thread_id, title;
	uint64_t created_ms, updated_ms;
	struct str active_run_id; /* lists: a run of it that is open, or empty */
};

struct message_row {
	struct str message_id, run_id, thread_id, role, text;
	uint64_t seq, ts_ms;
};

/* What happens to the user's tables together with the events of one append; every array may be empty. */
struct append_effects {
	const struct thread_row *threads_put; /* insert, or update title and updated_ms */
	size_t n_threads_put;
	struct str thread_deleted;      /* its messages and runs go, its events become `deleted` */
	const struct run_row *runs_put; /* insert, or update status, attempt, started_ms, ended_ms, cancel_by */
	size_t n_runs_put;
	const struct message_row *messages; /* insert; their threads' updated_ms rises to ts_ms */
	size_t n_messages;
	const struct journal_row *journal_put; /* insert, or update by (run_id, step.number): status, result, finished */
	size_t n_journal_put;
	struct str journal_drop_run; /* this run's journal goes (it has ended) */
	struct {                     /* idempotency key, with the run it started */
		struct str key, run_id, thread_id;
		uint64_t seq, input_hash, created_ms;
		uint64_t drop_before_ms; /* a few keys that are older, of any user, go */
	} key;                           /* key.key empty: none */
	struct {
		enum { NOTE_NONE, NOTE_PUT, NOTE_DELETE } op;
		struct str key, value; /* value: JSON text */
	} note;
	bool note_deleted; /* out: NOTE_DELETE found one */
};

struct store_op {
	enum store_op_kind kind;
	struct user_id user;
	enum err err;                      /* out */
	struct err_info info;              /* out */
	void (*done)(struct store_op *op); /* on the loop's thread; the op is the caller's again */
	void *ctx;
	struct store_op *next; /* the store's while queued */
	struct arena arena;    /* inputs that the caller copied, and results: finished by store_op_free */
	union {
		struct {
			struct worker_row me; /* in: all but incarnation, counter; out: both */
		} reg;
		struct {
			struct str id;
			uint64_t incarnation;    /* in; ERR_FENCED where another incarnation took the name */
			struct worker_row *rows; /* out */
			size_t n_rows;
		} renew;
		/* Takes a user who has no owner, whose owner has stopped, whom we own already (the epoch stays), or whose
		 * owner is exactly (over_id, over_incarnation), judged dead by the caller. Otherwise ERR_MOVED and `owner`.
		 * ERR_FENCED where our own incarnation is no longer the registered one. */
		struct {
			struct str my_id;
			uint64_t my_incarnation;
			struct str over_id; /* empty: nobody was judged dead */
			uint64_t over_incarnation;
			uint64_t epoch, last_seq, earliest_seq; /* out */
			bool was_new;                           /* out: this user was never seen before */
			struct worker_row owner;                /* out, with ERR_MOVED */
			struct run_row *open_runs;              /* out: queued and active, by accepted_seq */
			size_t n_open_runs;
			struct journal_row *journal; /* out: of the active ones, by run and step */
			size_t n_journal;
		} acquire;
		struct {
			uint64_t epoch; /* in; ERR_FENCED where it is not ours any more */
		} release;
		/* Commits n events with seq first_seq … first_seq+n-1, where users.last_seq is first_seq-1 and the epoch
		 * ours; n may be 0 (effects only, same check). */
		struct {
			uint64_t epoch, first_seq;
			const struct event *events;
			const struct str *threads; /* thread_id of each event, or empty */
			size_t n;
			struct append_effects effects;
		} append;
		struct {
			uint64_t epoch, from_seq;
			uint32_t max_bytes;
			struct event *events; /* out; deleted ones have their {"type":"deleted",…} body */
			size_t n;
			size_t bytes;                    /* out: of all bodies */
			uint64_t earliest_seq, last_seq; /* out; ERR_FENCED where the epoch is not current */
		} read;
		struct {
			struct str key;
			uint64_t not_before_ms; /* older keys don't count */
			bool found;
			struct str run_id, thread_id;
			uint64_t seq, input_hash;
		} find_key;
		struct {
			struct str run_id;
			bool found;
			struct run_row row;
		} find_run;
		struct {
			struct str thread_id;
			bool found;
			struct thread_row row;
		} find_thread;
		struct { /* newest first by updated_ms; before: a cursor of ours, ERR_INVALID_MESSAGE otherwise */
			uint32_t limit;
			struct str before;
			struct thread_row *rows;
			size_t n;
			struct str next;
		} list_threads;
		struct { /* the newest `limit` before the cursor, oldest first; ERR_NOT_FOUND for no such thread */
			struct str thread_id;
			uint32_t limit;
			struct str before;
			struct message_row *rows;
			size_t n;
			size_t bytes;              /* out: of all texts; a page of more than 2 MiB ends before the limit */
			struct run_row *open_runs; /* without input */
			size_t n_open_runs;
			uint64_t as_of_seq;
			struct str next;
		} list_messages;
		struct { /* newest first, without input; thread_id empty: of all threads */
			struct str thread_id;
			uint32_t limit;
			struct str before;
			struct run_row *rows;
			size_t n;
			struct str next;
		} list_runs;
		struct {
			struct str key; /* empty: list all keys */
			bool found;
			struct str value;
			struct str *keys;
			size_t n_keys;
		} note;
	};
};

struct store_op *store_op_create(enum store_op_kind kind, const struct user_id *user, void (*done)(struct store_op *), void *ctx);
void store_op_free(struct store_op *op);

/* Opens "sqlite:PATH" (creating it, migrating it forward) and starts the store's thread. ERR_CONFIG for a URL that is
 * malformed or not supported; ERR_IO with what to do about it. */
MUST_CHECK enum err store_open(struct loop_uv *loop, const char *url, struct store **out, struct err_info *info);

/* Queues; never blocks. Beyond 100,000 queued ops: done with ERR_CAPACITY. */
void store_submit(struct store *store, struct store_op *op);

/* Executes at once on the calling thread: start-up and shut-down only. */
enum err store_execute(struct store *store, struct store_op *op);

/* Ops still queued are executed first. */
void store_close(struct store *store);

/* ---- for backends ---- */

struct store_backend;
struct store_backend_ops {
	/* One transaction (reads may be outside it). Sets err and results of each op; never fails as a whole. */
	void (*execute)(struct store_backend *backend, struct store_op **ops, size_t n);
	void (*close)(struct store_backend *backend);
};
struct store_backend {
	const struct store_backend_ops *ops;
};
MUST_CHECK enum err store_sqlite_open(const char *path, struct store_backend **out, struct err_info *info);
/* A store without a thread: submit queues, store_pump executes one batch and delivers (tests, simulation). */
struct store *store_create_unthreaded(struct store_backend *backend);
bool store_pump(struct store *store);

#endif
