# lib.bash - shared by up and down; sourced by both.

# The absolute path of a state directory, existing or not.
state_path() {
	realpath -m -- "$1"
}

# Whether a supervisor holds the state directory $1.
is_supervised() {
	[[ -e $1/run/up.lock ]] && ! flock -n "$1/run/up.lock" true
}

# The pid in file $1, where that process lives and is a program of ours; else nothing.
our_pid() {
	local pid exe
	pid=$(cat -- "$1" 2>/dev/null) || return 0
	[[ $pid =~ ^[0-9]+$ ]] || return 0
	exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 0
	[[ ${exe##*/} == pinion-* ]] && echo "$pid"
	return 0
}

# The pids of our programs that run/*.pid in the state directory $1 name.
our_pids() {
	local file
	for file in "$1"/run/*.pid; do
		our_pid "$file"
	done
}

# Stops processes that a killed supervisor left in the state directory $1.
stop_leftovers() {
	local deadline pids signal
	for signal in TERM KILL; do
		deadline=$((SECONDS + 10))
		pids=$(our_pids "$1")
		[[ $pids ]] || return 0
		# shellcheck disable=SC2086
		kill "-$signal" $pids 2>/dev/null || true
		while [[ $(our_pids "$1") ]] && ((SECONDS < deadline)); do
			sleep 0.1
		done
	done
}
