/**
 * pinion.js - a client for a Pinion gateway: connects, authenticates in band, resumes, and never asks twice.
 *
 *   import { PinionClient } from "./pinion.js";
 *   const client = new PinionClient({ url: "wss://host/ws", token: async () => fetchToken() });
 *   client.on("event", (event) => …);          // durable events, in order, each once
 *   client.on("delta", (delta) => …);          // streamed text
 *   client.connect();
 *   const { run_id } = await client.run("what time is it?");
 *
 * No dependency, no build step; runs in browsers and in Node (22 or newer, or with a WebSocket passed in).
 * The protocol: docs/protocol.md.
 */

/**
 * @typedef {"idle"|"connecting"|"open"|"waiting"|"refused"|"closed"} ClientState
 *   waiting: will try again by itself; refused: a new token is needed, see `error`.
 * @typedef {{type: string, seq: number, run_id?: string, thread_id?: string, ts: string, [key: string]: any}} PinionEvent
 * @typedef {{run_id: string, message_id: string, offset: number, text: string}} Delta
 */

/** What the gateway answered, or why it could not be asked. `code` is one of the protocol's, or "disconnected". */
export class PinionError extends Error {
	/** @param {string} code @param {string} message @param {number} [retryAfterMs] */
	constructor(code, message, retryAfterMs) {
		super(message);
		this.name = "PinionError";
		this.code = code;
		this.retryAfterMs = retryAfterMs;
	}
}

/** Requests that may be sent again after a lost connection: they ask, or the gateway knows them by a key. */
const REPEATABLE = new Set(["thread.list", "thread.history", "run.list", "run.start", "ping"]);
const BACKOFF_MIN_MS = 250;
const BACKOFF_MAX_MS = 15000;
const REQUEST_TIMEOUT_MS = 30000;

/** A random id; crypto.randomUUID exists on secure pages only. */
export function randomId() {
	const bytes = crypto.getRandomValues(new Uint8Array(16));
	return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

export class PinionClient {
	#options;
	#handlers = new Map();
	#socket = null;
	#pending = new Map();
	#attempts = 0;
	#retryTimer = null;
	#aliveTimer = null;
	#lastHeard = 0;
	#tokenUsed = null;
	#nextId = 1;

	/** @type {ClientState} */ state = "idle";
	/** The last reason for not being open. @type {PinionError|null} */ error = null;
	/** The gateway's welcome. @type {object|null} */ welcome = null;
	/** The number of the last event that was delivered; null: none yet. @type {number|null} */ lastSeq = null;

	/**
	 * @param {{url: string, token: string|(() => string|Promise<string>), lastSeq?: number|null,
	 *          WebSocket?: typeof WebSocket}} options
	 */
	constructor(options) {
		this.#options = options;
		this.lastSeq = options.lastSeq ?? null;
	}

	/**
	 * "event" (PinionEvent), "delta" (Delta), "welcome" (object), "reset" (the log no longer reaches back to lastSeq: load
	 * what you show again), "state" (ClientState).
	 * @param {string} name @param {(value: any) => void} handler @returns {() => void} takes the handler off again
	 */
	on(name, handler) {
		if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
		this.#handlers.get(name).add(handler);
		return () => this.#handlers.get(name).delete(handler);
	}

	#emit(name, value) {
		for (const handler of this.#handlers.get(name) ?? []) handler(value);
	}

	#setState(state, error = null) {
		this.state = state;
		this.error = error;
		this.#emit("state", state);
	}

	connect() {
		if (this.state === "connecting" || this.state === "open") return;
		clearTimeout(this.#retryTimer);
		this.#open();
	}

	/** Closes for good; what waits for an answer fails with "disconnected". */
	close() {
		clearTimeout(this.#retryTimer);
		clearInterval(this.#aliveTimer);
		this.#drop();
		this.#setState("closed");
		this.#failPending(() => true);
	}

	async #open() {
		this.#setState("connecting");
		let token;
		try {
			token = await this.#token();
		} catch (cause) {
			this.#retry(new PinionError("token_missing", `no token: ${cause.message}`));
			return;
		}
		if (this.state !== "connecting") return;
		const url = new URL(this.#options.url);
		if (this.lastSeq !== null) url.searchParams.set("last_seq", String(this.lastSeq));
		const Socket = this.#options.WebSocket ?? WebSocket;
		const socket = new Socket(url.href, ["pinion.v1"]);
		this.#socket = socket;
		this.#tokenUsed = token;
		let refusal = null;
		socket.onopen = () => socket.send(JSON.stringify({ type: "auth", id: "auth", token }));
		socket.onmessage = ({ data }) => {
			if (socket !== this.#socket) return;
			this.#lastHeard = Date.now();
			const message = JSON.parse(data);
			if (message.type === "error" && message.id === "auth") refusal = asError(message);
			else this.#receive(message);
		};
		socket.onclose = ({ code, reason }) => {
			if (socket !== this.#socket) return;
			this.#lost(code, refusal ?? new PinionError(codeOfClose(code), reason || `connection closed (${code})`));
		};
		socket.onerror = () => {};
	}

	async #token() {
		const { token } = this.#options;
		return typeof token === "function" ? await token() : token;
	}

	#receive(message) {
		switch (message.type) {
		case "welcome":
			this.#welcomed(message);
			return;
		case "ack":
		case "pong":
			this.#settle(message.id, null, message);
			return;
		case "error":
			if (message.id !== null) this.#settle(message.id, asError(message), null);
			else this.error = asError(message);
			return;
		case "message_delta":
			this.#emit("delta", message);
			return;
		default:
			if (typeof message.seq === "number") this.#event(message);
		}
	}

	#welcomed(welcome) {
		const asked = this.lastSeq;
		this.welcome = welcome;
		this.#attempts = 0;
		if (asked === null || !welcome.resumed) this.lastSeq = welcome.last_seq;
		this.#setState("open");
		this.#watchAlive(welcome.heartbeat_s * 1000);
		if (asked !== null && !welcome.resumed) this.#emit("reset", welcome);
		this.#emit("welcome", welcome);
		for (const request of this.#pending.values()) this.#socket.send(request.text);
	}

	#event(event) {
		if (this.lastSeq !== null && event.seq <= this.lastSeq) return;
		this.lastSeq = event.seq;
		this.#emit("event", event);
	}

	/** The browser answers the gateway's pings by itself but tells nobody: so ask when it has been quiet for long. */
	#watchAlive(heartbeatMs) {
		clearInterval(this.#aliveTimer);
		this.#lastHeard = Date.now();
		this.#aliveTimer = setInterval(() => {
			const quiet = Date.now() - this.#lastHeard;
			if (quiet > heartbeatMs * 2) this.#lost(0, new PinionError("disconnected", "no sign of life from the gateway"));
			else if (quiet > heartbeatMs) this.request("ping").catch(() => {});
		}, heartbeatMs / 2);
	}

	#drop() {
		const socket = this.#socket;
		this.#socket = null;
		if (socket) socket.close();
	}

	#lost(code, error) {
		clearInterval(this.#aliveTimer);
		this.#drop();
		this.#failPending((request) => !REPEATABLE.has(request.type));
		if (code === 4403) this.#setState("refused", error);
		else if (code === 4401) this.#tryNewToken(error);
		else this.#retry(error);
	}

	/** A token that was refused is not tried again. */
	async #tryNewToken(error) {
		const refused = this.#tokenUsed;
		const token = await this.#token().catch(() => refused);
		if (this.state === "closed") return;
		if (token === refused) this.#setState("refused", error);
		else this.#retry(error);
	}

	#retry(error) {
		const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.#attempts++);
		const delay = Math.max(error.retryAfterMs ?? 0, Math.random() * ceiling);
		this.#setState("waiting", error);
		this.#retryTimer = setTimeout(() => this.#open(), delay);
	}

	/**
	 * Sends a message and resolves with its ack. What can be repeated is sent again after a reconnect.
	 * @param {string} type @param {object} [fields] @returns {Promise<any>}
	 */
	request(type, fields = {}) {
		const id = `${this.#nextId++}`;
		const text = JSON.stringify({ ...fields, type, id });
		return new Promise((resolve, reject) => {
			if (this.state === "closed" || this.state === "refused") {
				reject(new PinionError("disconnected", "not connected"));
				return;
			}
			const timer = setTimeout(() => this.#settle(id, new PinionError("timeout", "no answer in time"), null), REQUEST_TIMEOUT_MS);
			this.#pending.set(id, { type, text, resolve, reject, timer });
			if (this.state === "open") this.#socket.send(text);
		});
	}

	#settle(id, error, ack) {
		const request = this.#pending.get(id);
		if (!request) return;
		this.#pending.delete(id);
		clearTimeout(request.timer);
		if (error) request.reject(error);
		else request.resolve(ack);
	}

	#failPending(which) {
		for (const [id, request] of this.#pending)
			if (which(request)) this.#settle(id, new PinionError("disconnected", "the connection was lost before the answer"), null);
	}

	/**
	 * Starts a run. It is started once, however often the connection breaks.
	 * @param {string|object} input
	 * @param {{agent?: string, thread_id?: string, on_busy?: "enqueue"|"reject"|"interrupt", metadata?: object,
	 *          idempotency_key?: string}} [options]
	 * @returns {Promise<{run_id: string, thread_id: string, seq: number}>}
	 */
	run(input, options = {}) {
		return this.request("run.start", { idempotency_key: randomId(), ...options, input });
	}

	/** @param {string} runId */
	cancel(runId) {
		return this.request("run.cancel", { run_id: runId });
	}

	/** Hands the gateway a newer token of the same user, before the old one ends. @param {string} token */
	refresh(token) {
		return this.request("auth.refresh", { token });
	}
}

function asError(message) {
	return new PinionError(message.code, message.message, message.retry_after_ms);
}

function codeOfClose(code) {
	if (code === 4401) return "token_invalid";
	if (code === 4403) return "invalid_user_id";
	if (code === 1012) return "draining";
	return "disconnected";
}
