/** app.js - the chat page: draws a ChatModel and turns what the user does into requests. */
import { PinionClient } from "./pinion.js";
import { ChatModel } from "./model.js";

const $ = (id) => document.getElementById(id);
const TOKEN_KEY = "pinion.token";
const model = new ChatModel();
let client = null;
let drawQueued = false;

/* ---- signing in ---- */

function showSignIn(reason = "") {
	$("chat").hidden = true;
	$("sign-in").hidden = false;
	$("sign-in-reason").textContent = reason;
	$("token").focus();
}

function signIn(token) {
	sessionStorage.setItem(TOKEN_KEY, token);
	$("token").value = "";
	$("sign-in").hidden = true;
	$("chat").hidden = false;
	const url = new URL("/ws", location.href);
	url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
	client = new PinionClient({ url: url.href, token });
	client.on("state", onState);
	client.on("welcome", onWelcome);
	client.on("reset", () => reload().catch(showProblem));
	client.on("event", (event) => { model.applyEvent(event); draw(); });
	client.on("delta", (delta) => { model.applyDelta(delta); draw(); });
	client.connect();
}

function signOut(reason) {
	sessionStorage.removeItem(TOKEN_KEY);
	client?.close();
	client = null;
	model.newThread();
	model.setThreads([]);
	showSignIn(reason);
}

const STATUS = { connecting: "Connecting…", open: "Connected", waiting: "Reconnecting…", closed: "Closed" };

function onState(state) {
	document.body.dataset.state = state;
	$("status").textContent = STATUS[state] ?? "";
	$("status").title = client?.error?.message ?? "";
	if (state === "refused") signOut(`${client.error.message} (${client.error.code})`);
	draw();
}

let loaded = null;

function onWelcome(welcome) {
	$("user").textContent = welcome.user_id;
	if (loaded === welcome.user_id) return;
	loaded = welcome.user_id;
	reload().catch(showProblem);
}

/** Loads all that is shown again. */
async function reload() {
	model.setThreads((await client.request("thread.list", { limit: 100 })).threads);
	if (model.threadId) await openThread(model.threadId);
	draw();
}

/* ---- what the user does ---- */

async function openThread(threadId) {
	model.openThread(threadId, await client.request("thread.history", { thread_id: threadId, limit: 200 }));
	draw();
}

async function send() {
	const input = $("input").value.trim();
	if (!input) return;
	$("input").value = "";
	showProblem(null);
	try {
		const options = model.threadId ? { thread_id: model.threadId } : {};
		const { thread_id } = await client.run(input, options);
		model.adopt(thread_id);
	} catch (error) {
		if (!$("input").value) $("input").value = input;
		showProblem(error);
	}
	draw();
}

function showProblem(error) {
	$("problem").textContent = error ? `${error.message} (${error.code ?? "error"})` : "";
}

/* ---- drawing: once a frame, only what changed ---- */

function draw() {
	if (drawQueued) return;
	drawQueued = true;
	requestAnimationFrame(() => {
		drawQueued = false;
		drawThreads();
		drawEntries();
		const run = model.activeRun();
		$("cancel").hidden = !run;
		$("send").disabled = client?.state !== "open";
		$("empty").hidden = model.entries.length > 0;
	});
}

/** Makes the children of `list` those of `items`, reusing the element of each key. */
function reconcile(list, items, keyOf, make, update) {
	const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
	let place = list.firstChild;
	for (const item of items) {
		const key = keyOf(item);
		let element = old.get(key);
		old.delete(key);
		if (!element) {
			element = make(item);
			element.dataset.key = key;
		}
		update(element, item);
		if (element === place) place = place.nextSibling;
		else list.insertBefore(element, place);
	}
	for (const element of old.values()) element.remove();
}

function setText(element, text) {
	if (element.textContent !== text) element.textContent = text;
}

function drawThreads() {
	reconcile($("threads"), model.threadList(), (t) => t.thread_id,
		(thread) => {
			const item = document.createElement("li");
			const button = item.appendChild(document.createElement("button"));
			button.type = "button";
			button.onclick = () => openThread(thread.thread_id).catch(showProblem);
			return item;
		},
		(item, thread) => {
			setText(item.firstChild, thread.title || "Untitled");
			item.firstChild.setAttribute("aria-current", String(thread.thread_id === model.threadId));
		});
}

function drawEntries() {
	const list = $("entries");
	const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
	reconcile(list, model.entries, (e) => `${e.kind}-${e.id}`, makeEntry, updateEntry);
	if (atEnd) list.scrollTop = list.scrollHeight;
}

function makeEntry(entry) {
	const item = document.createElement("li");
	if (entry.kind === "tool") {
		const details = item.appendChild(document.createElement("details"));
		details.append(document.createElement("summary"), document.createElement("pre"), document.createElement("pre"));
	}
	return item;
}

function updateEntry(item, entry) {
	const name = entry.kind === "message" ? `message ${entry.role}${entry.open ? " open" : ""}`
		: entry.kind === "notice" ? `notice ${entry.tone}` : entry.kind;
	if (item.className !== name) item.className = name;
	if (entry.kind !== "tool") {
		setText(item, entry.text);
		return;
	}
	const [summary, given, result] = item.firstChild.children;
	const took = entry.duration_ms === null ? "" : ` · ${entry.duration_ms} ms`;
	setText(summary, `${entry.tool} · ${entry.status}${took}`);
	setText(given, JSON.stringify(entry.arguments, null, 2));
	setText(result, entry.result === null ? "" : asText(entry.result));
}

function asText(value) {
	return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

/* ---- wiring ---- */

$("sign-in").onsubmit = (event) => {
	event.preventDefault();
	signIn($("token").value.trim());
};
$("sign-out").onclick = () => signOut("");
$("new-thread").onclick = () => {
	model.newThread();
	$("input").focus();
	draw();
};
$("composer").onsubmit = (event) => {
	event.preventDefault();
	send();
};
$("input").onkeydown = (event) => {
	if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
	event.preventDefault();
	send();
};
$("cancel").onclick = () => {
	const run = model.activeRun();
	if (run) client.cancel(run.run_id).catch(showProblem);
};

const remembered = sessionStorage.getItem(TOKEN_KEY);
if (remembered) signIn(remembered);
else showSignIn();
