# lib.bash - shared by up and down; sourced by both.

# The absolute path of a state directory, existing or not.
state_path() {
	realpath -m -- "$1"
}

# Whether a supervisor holds the state directory $1.
is_supervised() {
	[[ -e $1/run/up.lock ]] && ! flock -n "$1/run/up.lock" true
}

# The supervisor's pid, where one lives in the state directory $1; else nothing.
supervisor_pid() {
	local pid
	pid=$(cat -- "$1/run/up.pid" 2>/dev/null) || return 0
	[[ $pid =~ ^[0-9]+$ ]] || return 0
	if tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qE '(^|/)up$'; then
		echo "$pid"
	fi
}

# The pid in file $2, where that process lives and is a program of ours in the state directory $1; else nothing.
# (A pid may be in use anew, even by a program of ours that belongs elsewhere. Ours have paths in $1 among their words.)
our_pid() {
	local pid exe
	pid=$(cat -- "$2" 2>/dev/null) || return 0
	[[ $pid =~ ^[0-9]+$ ]] || return 0
	exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 0
	[[ ${exe##*/} == pinion-* ]] || return 0
	if tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$1/"; then
		echo "$pid"
	fi
}

# The pids of our programs that run/*.pid in the state directory $1 name.
our_pids() {
	local file
	for file in "$1"/run/*.pid; do
		our_pid "$1" "$file"
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
