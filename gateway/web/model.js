/**
 * model.js - what the page shows, as plain data: threads, and the entries of the open thread. Knows no DOM and no socket.
 */

/**
 * @typedef {{kind: "message", id: string, run_id: string, role: "user"|"assistant", text: string, open: boolean}} MessageEntry
 * @typedef {{kind: "thinking", id: string, run_id: string, text: string}} ThinkingEntry
 * @typedef {{kind: "tool", id: string, run_id: string, tool: string, arguments: any, status: string, result: any,
 *            duration_ms: number|null}} ToolEntry
 * @typedef {{kind: "notice", id: string, run_id: string, tone: "error"|"info", text: string}} NoticeEntry
 * @typedef {MessageEntry|ThinkingEntry|ToolEntry|NoticeEntry} Entry
 */

const TERMINAL = new Set(["agent_completed", "agent_failed", "agent_cancelled"]);

export class ChatModel {
	/** @type {Map<string, {thread_id: string, title: string, updated_at: string}>} */ threads = new Map();
	/** The open thread; null: a new one. @type {string|null} */ threadId = null;
	/** @type {Entry[]} */ entries = [];
	/** Runs that have not ended, by id. @type {Map<string, {thread_id: string, status: string}>} */ runs = new Map();
	#asOf = 0;
	/** Messages still streaming, of all threads. @type {Map<string, {run_id: string, text: string}>} */ #streaming = new Map();
	/** Events that came while a new thread was open, whose id is not known yet. @type {any[]} */ #unclaimed = [];

	/** @param {{thread_id: string, title: string, updated_at: string, active_run_id?: string}[]} threads */
	setThreads(threads) {
		this.threads = new Map(threads.map((t) => [t.thread_id, t]));
		for (const thread of threads)
			if (thread.active_run_id && !this.runs.has(thread.active_run_id))
				this.runs.set(thread.active_run_id, { thread_id: thread.thread_id, status: "active" });
	}

	/** Threads, the latest first. */
	threadList() {
		return [...this.threads.values()].sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1));
	}

	/** The run of the open thread that has not ended, if there is one. */
	activeRun() {
		for (const [run_id, run] of this.runs) if (run.thread_id === this.threadId) return { run_id, ...run };
		return null;
	}

	newThread() {
		this.threadId = null;
		this.entries = [];
		this.#asOf = 0;
		this.#unclaimed = [];
	}

	/** @param {string} threadId @param {{messages: any[], runs: any[], as_of_seq: number}} history */
	openThread(threadId, history) {
		this.threadId = threadId;
		this.#asOf = history.as_of_seq;
		this.entries = history.messages.map((m) => ({
			kind: "message", id: m.message_id, run_id: m.run_id, role: m.role, text: m.text, open: false,
		}));
		for (const run of history.runs) this.runs.set(run.run_id, { thread_id: threadId, status: run.status });
		this.#showStreaming();
	}

	/** The thread that a run.start was answered with becomes the open one, where a new one was being written: its events
	 * may have come before the answer. @param {string} threadId */
	adopt(threadId) {
		if (this.threadId !== null) return;
		this.threadId = threadId;
		const waiting = this.#unclaimed.filter((event) => event.thread_id === threadId);
		this.#unclaimed = [];
		for (const event of waiting) this.#applyToEntries(event);
		this.#showStreaming();
	}

	#showStreaming() {
		for (const [id, message] of this.#streaming)
			if (this.runs.get(message.run_id)?.thread_id === this.threadId) this.#showMessage(id, message);
	}

	#showMessage(id, { run_id, text }) {
		const entry = this.entries.find((e) => e.kind === "message" && e.id === id);
		if (entry) entry.text = text;
		else this.entries.push({ kind: "message", id, run_id, role: "assistant", text, open: true });
	}

	/** @param {{run_id: string, message_id: string, offset: number, text: string}} delta */
	applyDelta(delta) {
		const text = delta.offset === 0 ? delta.text : (this.#streaming.get(delta.message_id)?.text ?? "") + delta.text;
		const message = { run_id: delta.run_id, text };
		this.#streaming.set(delta.message_id, message);
		if (this.threadId !== null && this.runs.get(delta.run_id)?.thread_id === this.threadId)
			this.#showMessage(delta.message_id, message);
	}

	/** @param {any} event */
	applyEvent(event) {
		this.#applyToThreads(event);
		this.#applyToRuns(event);
		this.#applyToStreaming(event);
		if (this.threadId === null) this.#unclaimed.push(event);
		else if (event.thread_id === this.threadId && event.seq > this.#asOf) this.#applyToEntries(event);
	}

	#applyToThreads(event) {
		if (event.type === "thread_created" || event.type === "thread_renamed")
			this.threads.set(event.thread_id, { ...this.threads.get(event.thread_id), thread_id: event.thread_id,
				title: event.title, updated_at: event.ts });
		else if (event.type === "thread_deleted") {
			this.threads.delete(event.thread_id);
			if (this.threadId === event.thread_id) this.newThread();
		} else if (this.threads.has(event.thread_id)) this.threads.get(event.thread_id).updated_at = event.ts;
	}

	#applyToRuns(event) {
		if (event.type === "run_accepted") this.runs.set(event.run_id, { thread_id: event.thread_id, status: "queued" });
		else if (event.type === "agent_started") this.runs.set(event.run_id, { thread_id: event.thread_id, status: "active" });
		else if (TERMINAL.has(event.type)) this.runs.delete(event.run_id);
	}

	#applyToStreaming(event) {
		if (event.type === "agent_message") this.#streaming.delete(event.message_id);
		else if (event.type === "run_recovered" || TERMINAL.has(event.type))
			for (const [id, message] of this.#streaming) if (message.run_id === event.run_id) this.#streaming.delete(id);
	}

	#applyToEntries(event) {
		const add = (entry) => this.entries.push({ id: `event-${event.seq}`, run_id: event.run_id, ...entry });
		switch (event.type) {
		case "run_accepted":
			add({ kind: "message", role: "user", open: false,
				text: typeof event.input === "string" ? event.input : JSON.stringify(event.input) });
			break;
		case "agent_thinking":
			add({ kind: "thinking", text: event.text ?? "thinking" });
			break;
		case "tool_executing":
			add({ kind: "tool", id: event.tool_call_id, tool: event.tool, arguments: event.arguments, status: "running",
				result: null, duration_ms: null });
			break;
		case "tool_completed": {
			const tool = this.entries.find((e) => e.kind === "tool" && e.id === event.tool_call_id);
			if (tool) Object.assign(tool, { status: event.status, result: event.result, duration_ms: event.duration_ms });
			break;
		}
		case "agent_message":
			this.#closeMessage(event);
			break;
		case "run_recovered":
			this.#dropOpen(event.run_id);
			add({ kind: "notice", tone: "info", text: "The worker was lost; the run goes on at another one." });
			break;
		case "agent_failed":
			this.#dropOpen(event.run_id);
			add({ kind: "notice", tone: "error", text: `${event.message} (${event.code})` });
			break;
		case "agent_cancelled":
			this.#dropOpen(event.run_id);
			add({ kind: "notice", tone: "info", text: "Cancelled." });
			break;
		}
	}

	#closeMessage(event) {
		const entry = this.entries.find((e) => e.kind === "message" && e.id === event.message_id);
		if (entry) Object.assign(entry, { text: event.text, open: false });
		else
			this.entries.push({ kind: "message", id: event.message_id, run_id: event.run_id, role: event.role, text: event.text,
				open: false });
	}

	#dropOpen(runId) {
		this.entries = this.entries.filter((e) => !(e.kind === "message" && e.open && e.run_id === runId));
	}
}
