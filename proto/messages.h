/*
 * messages.h - every message between gateway, worker, agent host and run, as plain structs.
 *
 * Strings and arrays are views: of the sender's memory when encoding, of the decoder's arena after decoding (codec.h).
 * An empty string means absent. Every message of a user's carries (user_id, epoch): a receiver drops a lower epoch than
 * the one it knows (docs: ARCHITECTURE.md, "Ownership").
 */
#ifndef PINION_PROTO_MESSAGES_H
#define PINION_PROTO_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"
#include "common/str.h"

/* ---- gateway -> worker: requests ---- */

enum request_kind {
	REQUEST_HELLO = 1, /* "publish to me at events_url"; answered by what the worker is */
	REQUEST_ATTACH,    /* "own this user and publish their events to me"; or ERR_MOVED, ERR_FULL, ERR_DRAINING */
	REQUEST_DETACH,    /* "nobody of this user's is left here" */
	REQUEST_COMMAND,   /* a client's message, validated by the gateway */
	REQUEST_REPLAY,    /* a page of the log from from_seq, and the open messages */
	REQUEST_CREDIT,    /* "I have your batches up to this number" */
};

struct have {
	struct str message_id;
	uint64_t offset; /* bytes of its text that the gateway has */
};

enum on_busy { ON_BUSY_ENQUEUE, ON_BUSY_REJECT, ON_BUSY_INTERRUPT };

enum command_kind {
	COMMAND_RUN_START = 1,
	COMMAND_RUN_CANCEL,
	COMMAND_TOOL_DECIDE,
	COMMAND_THREAD_LIST,
	COMMAND_THREAD_HISTORY,
	COMMAND_THREAD_RENAME,
	COMMAND_THREAD_DELETE,
	COMMAND_RUN_LIST,
};

struct command {
	struct str user_id;
	uint64_t epoch;
	struct str client_id; /* the client's `id`; 1 to 64 bytes */
	enum command_kind kind;
	/* the fields that the kind has; the rest stay zero */
	struct str run_id, thread_id;
	struct str input;                /* run.start: JSON text, a string or an object */
	struct str agent;                /* run.start; empty: the default agent */
	struct str idempotency_key;      /* run.start */
	struct str metadata;             /* run.start: JSON object text, or empty */
	enum on_busy on_busy;            /* run.start */
	uint32_t max_active, max_queued; /* run.start: the user's limits as this gateway is configured */
	struct str tool_call_id, note;   /* tool.decide */
	bool allow;                      /* tool.decide */
	struct str title;                /* thread.rename */
	uint32_t limit;                  /* lists; already defaulted and bounded by the gateway */
	struct str before;               /* lists: cursor as the client gave it */
};

struct request {
	uint32_t version;
	struct str gateway_id;
	struct str gateway_incarnation; /* a fresh UUID at each start of a gateway */
	uint64_t number;                /* unique within the incarnation; a repeated one is a duplicate */
	enum request_kind kind;
	union {
		struct {
			struct str events_url;
		} hello;
		struct {
			struct str user_id;
			struct str suspect_worker_id; /* an owner that the gateway could not reach; or empty */
			uint64_t suspect_incarnation;
		} attach;
		struct {
			struct str user_id;
			uint64_t epoch;
		} detach;
		struct command command;
		struct {
			struct str user_id;
			uint64_t epoch;
			uint64_t from_seq;
			uint32_t max_bytes; /* of bodies and texts; at least one event comes whatever its size */
			bool with_open;     /* also the open messages, once the page reaches last_seq */
			const struct have *have;
			size_t n_have;
		} replay;
		struct {
			uint64_t received;
		} credit;
	};
};

/* ---- worker -> gateway: replies ---- */

/* A durable event, or (seq given, body empty) never: a deleted one's body is {"type":"deleted","seq":N}. */
struct event {
	uint64_t seq;
	struct str body;              /* the JSON object as clients get it */
	struct str closes_message_id; /* agent_message: the open message that it replaces */
	struct str voids_run_id;      /* run_recovered and terminal events: open messages of this run are void */
};

struct delta {
	struct str run_id, message_id;
	uint64_t after_seq; /* shown only to a connection that has the events up to here */
	uint64_t offset;    /* UTF-8 bytes before this text */
	struct str text;    /* whole characters */
};

struct reply {
	uint32_t version;
	uint64_t number; /* of the request */
	struct str worker_id;
	uint64_t worker_incarnation;
	enum err code; /* ERR_OK, or why not */
	struct str text;
	uint32_t retry_after_ms;
	struct str user_id; /* of whom the reply speaks, and under which epoch; hello, credit: empty, 0 */
	uint64_t epoch;
	enum request_kind kind; /* which of the bodies below is there; 0: none. REQUEST_ATTACH with ERR_MOVED: moved */
	union {
		struct {
			bool draining;
			struct str worker_url;
		} hello;
		struct {
			uint64_t last_seq, earliest_seq;
		} attached;
		struct {
			struct str worker_url, worker_id;
			uint64_t incarnation;
		} moved;
		struct {
			struct str fields; /* JSON object text with the ack's own fields: {"run_id":…}; "{}" for none */
		} command;
		struct {
			const struct event *events;
			size_t n_events;
			const struct delta *open; /* text from the offset the gateway has; an open message it has whole is
			                             listed with empty text, so that it knows which are still open */
			size_t n_open;
			uint64_t last_seq, earliest_seq;
			bool more; /* the page ends before last_seq or before all open text */
		} page;
	};
};

/* ---- worker -> gateway: publications ---- */

enum item_kind {
	ITEM_EVENT = 1,
	ITEM_DELTA,
	ITEM_HEAD, /* "there are events up to last_seq": sent where credit ran out and items were left out */
	ITEM_LOST, /* this worker no longer owns the user */
};

struct item {
	struct str user_id;
	uint64_t epoch;
	enum item_kind kind;
	union {
		struct event event;
		struct delta delta;
		struct {
			uint64_t last_seq;
		} head;
	};
};

/* One NNG message: what one loop turn published to one gateway. Numbered 1, 2, 3, … per link (worker incarnation, gateway
 * incarnation). One without items is a beat: it carries the last number again, not a new one. */
struct batch {
	uint32_t version;
	struct str worker_id;
	uint64_t worker_incarnation;
	struct str gateway_incarnation;
	uint64_t number;
	bool draining;
	const struct item *items;
	size_t n_items;
};

/* ---- worker <-> agent host ---- */

enum host_command_kind { HOST_SPAWN = 1, HOST_KILL, HOST_TICK, HOST_STOP };
enum agent_kind { AGENT_DEMO = 1, AGENT_SCRIPT };

struct host_command { /* SPAWN comes with the run's socket as SCM_RIGHTS */
	uint32_t version;
	enum host_command_kind kind;
	uint64_t slot;
	enum agent_kind agent;
	uint64_t memory_bytes, cpu_seconds, file_bytes;
	uint32_t descriptors;
	uint64_t lease_ms; /* TICK: without another one within half of this, the host kills all runs */
};

enum host_report_kind { HOST_READY = 1, HOST_SPAWNED, HOST_EXITED };

#define HOST_PROPERTIES_MAX 16

struct host_report {
	uint32_t version;
	enum host_report_kind kind;
	const struct str *properties; /* READY: "files=landlock", "net=seccomp", … */
	size_t n_properties;
	uint64_t slot;
	uint32_t pid;
	uint32_t exit_status, signal; /* EXITED */
	uint64_t cpu_ms, peak_rss_bytes;
	struct str why; /* EXITED: empty; or what the host itself says ("fork: …", "sandbox: landlock: …", "no tick") */
};

/* ---- worker <-> run ----
 *
 * An agent is deterministic code over numbered steps. What a step did is journalled by the worker; after a recovery the
 * agent runs from its beginning again, and each step that the journal holds returns at once with the recorded outcome. */

enum step_kind { STEP_THINK = 1, STEP_TOOL, STEP_MESSAGE, STEP_MARK };
enum tool_status { TOOL_OK, TOOL_ERROR, TOOL_DENIED, TOOL_TIMEOUT, TOOL_CANCELLED, TOOL_IN_DOUBT };

struct step {
	uint32_t number; /* 1, 2, 3, … within the run */
	enum step_kind kind;
	enum tool_status status;
	struct str result; /* JSON text: a tool's result, a mark's value */
};

enum run_down_kind { RUN_BEGIN = 1, RUN_TOOL_GO, RUN_TOOL_RESULT, RUN_CANCEL };

struct run_down {
	enum run_down_kind kind;
	union {
		struct {
			struct str input; /* JSON text */
			const struct step *journal;
			size_t n_journal;
			uint32_t attempt;
			uint64_t output_bytes;
			struct str run_id, thread_id;
		} begin;
		struct { /* a tool that runs confined: execute it now, answer by RUN_TOOL_OUTCOME */
			uint32_t step;
			struct str tool, arguments;
		} tool_go;
		struct { /* committed: go on */
			uint32_t step;
			enum tool_status status;
			struct str result;
		} tool_result;
	};
};

enum run_up_kind {
	RUN_THINK = 1,    /* a durable agent_thinking */
	RUN_TOOL_CALL,    /* wait for RUN_TOOL_GO or RUN_TOOL_RESULT */
	RUN_TOOL_OUTCOME, /* wait for RUN_TOOL_RESULT */
	RUN_TEXT,         /* a delta of the message of this step; opens it */
	RUN_MESSAGE_END,  /* a durable agent_message with all the text of this step */
	RUN_MARK,         /* journal a value without an event (a finished sleep, a resource's outcome) */
	RUN_DONE,
	RUN_FAIL,
};

struct run_up {
	uint32_t step;
	struct str claimed_user_id, claimed_run_id; /* only a forger sets these: the worker denies the run */
	enum run_up_kind kind;
	struct str text;      /* THINK, TEXT, FAIL */
	struct str tool;      /* TOOL_CALL */
	struct str arguments; /* TOOL_CALL: JSON object text */
	enum tool_status status;
	struct str result; /* TOOL_OUTCOME, MARK: JSON text */
	struct str output; /* DONE: JSON text */
	struct str usage;  /* DONE: JSON object text, or empty */
	bool retryable;    /* FAIL */
};

#endif
