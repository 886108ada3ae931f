#!/bin/bash
# deploy/local/up and down, from outside: it gets ready, carries a conversation, restarts what is killed, takes a state directory
# up again with all that it holds, and leaves nothing behind.
set -euo pipefail

chat=$1
root=$(dirname -- "$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")")
up=$root/deploy/local/up
down=$root/deploy/local/down
dir=$(mktemp -d /tmp/pinion-up.XXXXXX)
state=$dir/state
user=usr_4a8f9c2b1e5d

fail() {
	echo "FAILED: $*" >&2
	tail -n 20 "$state"/log/*.log >&2 2>/dev/null || true
	exit 1
}
finish() {
	[[ -d $state/run ]] && "$down" --state "$state" >/dev/null 2>&1
	rm -rf "$dir"
}
trap finish EXIT

# A port P with P+1, P+100, P+200, P+201 free too.
find_port() {
	local p q
	for _ in {1..50}; do
		p=$((20000 + RANDOM % 20000))
		for q in $p $((p + 1)) $((p + 100)) $((p + 101)) $((p + 200)) $((p + 201)) $((p + 202)); do
			! (exec 3<>"/dev/tcp/127.0.0.1/$q") 2>/dev/null || continue 2
		done
		echo "$p"
		return
	done
	return 1
}

# wait_until SECONDS WHAT COMMAND…
wait_until() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		((SECONDS < deadline)) || fail "$what"
		read -rt 0.05 <> <(:) || true
	done
}

talk() {
	"$chat" --port "$1" --key "$state/jwt.key" --user "$user" "${@:2}"
}
is_ready() {
	curl -fs -o /dev/null "http://127.0.0.1:$1/readyz"
}
# A zombie is gone: who reaps it is not our matter.
is_alive() {
	local word
	word=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) && [[ $word && $word != Z* ]]
}
is_gone() {
	! is_alive "$1"
}
is_running() {
	local pid
	pid=$(cat "$state/run/$1.pid" 2>/dev/null) && is_alive "$pid"
}
has_other_pid() {
	is_running "$1" && [[ $(cat "$state/run/$1.pid") != "$2" ]]
}
start() {
	"$up" --state "$state" --port "$port" --gateways 2 --workers 2 --skip-install --detach "$@" >"$dir/out" 2>"$dir/err" ||
		fail "up: $(cat "$dir/out" "$dir/err")"
	[[ $(tail -n 1 "$dir/out") == "ready http://127.0.0.1:$port" ]] || fail "up printed: $(cat "$dir/out")"
}

port=$(find_port)
echo "== up --detach"
start
for name in gateway-0 gateway-1 worker-0 worker-1; do
	is_running "$name" || fail "$name is not running"
	[[ -s $state/log/$name.log ]] || fail "$name has no log"
done
[[ $(stat -c %a "$state/jwt.key") == 600 ]] || fail "jwt.key can be read by others"
for p in "$((port + 100))" "$((port + 101))" "$((port + 200))" "$((port + 201))"; do
	is_ready "$p" || fail "admin port $p is not ready"
done

echo "== a conversation"
talk "$port" --say "remember secret is S3CR3T" --say "what is 6*7?" >"$dir/live"
for type in run_accepted agent_started agent_thinking tool_executing tool_completed agent_completed; do
	grep -q "\"type\":\"$type\"" "$dir/live" || fail "no $type in the conversation"
done
talk "$((port + 1))" --from 0 >"$dir/again"
cmp "$dir/live" "$dir/again" || fail "the other gateway tells another story"

echo "== a second up is refused"
if "$up" --state "$state" --port "$port" --skip-install --detach >"$dir/second" 2>&1; then
	fail "a second up was let in"
fi
is_running gateway-0 || fail "the second up has stopped the first"

echo "== what is killed is restarted"
for name in gateway-0 worker-0 worker-1; do
	pid=$(cat "$state/run/$name.pid")
	kill -KILL "$pid"
	wait_until 20 "$name was not restarted" has_other_pid "$name" "$pid"
done
for p in "$((port + 100))" "$((port + 101))" "$((port + 200))" "$((port + 201))"; do
	wait_until 20 "admin port $p did not become ready again" is_ready "$p"
done
talk "$port" --say "what is 2+2?" >>"$dir/live"

echo "== down, and up again with all that it holds"
pids=$(cat "$state"/run/*.pid)
key=$(cat "$state/jwt.key")
"$down" --state "$state" >/dev/null
for pid in $pids; do
	is_gone "$pid" || fail "process $pid is left: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
done
! curl -fs -o /dev/null "http://127.0.0.1:$port/" || fail "something still listens"
start --no-restart
[[ $(cat "$state/jwt.key") == "$key" ]] || fail "the key has changed"
talk "$port" --from 0 >"$dir/again"
cmp "$dir/live" "$dir/again" || fail "the state directory has lost or changed events"

echo "== --no-restart leaves the dead dead, and the living serve"
pid=$(cat "$state/run/worker-0.pid")
kill -KILL "$pid"
wait_until 10 "worker-0 is still there" is_gone "$pid"
talk "$((port + 1))" --say "what is 3*3?" >>"$dir/live" || fail "nobody serves"
if is_running worker-0; then fail "worker-0 was restarted"; fi

echo "== in front, until SIGTERM"
"$down" --state "$state" >/dev/null
"$up" --state "$state" --port "$port" --skip-install >"$dir/out" 2>"$dir/err" &
front=$!
wait_until 60 "up in front is not ready" grep -q '^ready ' "$dir/out"
talk "$port" --from 0 >"$dir/again"
cmp "$dir/live" "$dir/again" || fail "events were lost"
kill -TERM "$front"
wait "$front" || fail "up ended with $?"
for name in gateway-0 worker-0 worker-1; do
	! is_running "$name" || fail "$name is left"
done
echo "== wrong options are refused"
for words in --nonsense '--gateways 0' '--workers x' '--port 0'; do
	# shellcheck disable=SC2086
	if "$up" $words --state "$dir/none" --skip-install >/dev/null 2>&1; then fail "up $words was let in"; fi
	[[ ! -e $dir/none ]] || fail "up $words made a state directory"
done
echo "all is well"
