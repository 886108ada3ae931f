/* The agent host from its worker's side, with the real program: confinement, journals, ends of every kind, leftovers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/json.h"
#include "common/log.h"
#include "common/loop_uv.h"
#include "proto/codec.h"
#include "worker/agent_host.h"
#include "worker/agent_run.h"

#define LEASE_MS 2000
#define DEADLINE_MS 60000

#ifdef PINION_SANITIZED
#define SANITIZED true
#else
#define SANITIZED false
#endif

struct fixture {
	uv_loop_t uv;
	struct loop_uv loop;
	struct agent_host *host;
	char dir[32];
	int descriptors; /* open before the host was started */
};

/* One run, with a worker that grants everything. */
struct watched {
	struct fixture *f;
	struct agent_run *run;
	struct buf log; /* a line for each message */
	size_t messages, text_bytes;
	uint64_t first_ns;                              /* when the first message came */
	size_t pause_at, kill_at, forget_at, cancel_at; /* after so many messages; 0: never */
	bool ended;
	struct run_exit exit;
};

/* ---- the machine ---- */

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = -3; /* ".", ".." and the directory's own */

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* The first child of `parent`, or 0; how many in *n. */
static pid_t child_of(pid_t parent, int *n)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	*n = 0;
	while ((entry = readdir(dir))) {
		char path[300], text[512], state, *end;
		int ppid = 0;
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !(file = fopen(path, "r")))
			continue;
		if (fgets(text, sizeof(text), file) && (end = strrchr(text, ')')) &&
		    sscanf(end + 1, " %c %d", &state, &ppid) == 2 && ppid == parent && state != 'Z') {
			found = (pid_t)atoi(entry->d_name);
			(*n)++;
		}
		fclose(file);
	}
	closedir(dir);
	return found;
}

static pid_t host_pid(void)
{
	int n;

	return child_of(getpid(), &n);
}

static int count_runs(pid_t host)
{
	int n;

	(void)child_of(host, &n);
	return n;
}

static int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	if (!dir)
		return -1;
	for (struct dirent *entry; (entry = readdir(dir));)
		n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* Directories of runs, over all hosts' directories. */
static int count_scratch(const struct fixture *f, int *hosts)
{
	char path[400];
	DIR *dir;
	int n = 0;

	*hosts = 0;
	snprintf(path, sizeof(path), "%s/runs", f->dir);
	dir = opendir(path);
	if (!dir)
		return 0;
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		(*hosts)++;
		snprintf(path, sizeof(path), "%s/runs/%s", f->dir, entry->d_name);
		n += count_entries(path);
	}
	closedir(dir);
	return n;
}

/* ---- the loop ---- */

static void turn(struct fixture *f)
{
	uv_run(&f->uv, UV_RUN_ONCE); /* the tick wakes it, if nothing else does */
}

#define run_until(f, condition)                                                        \
	do {                                                                           \
		uint64_t end_ns_ = uv_hrtime() + DEADLINE_MS * 1000000ull;             \
		while (!(condition)) {                                                 \
			if (uv_hrtime() > end_ns_)                                     \
				fail_msg("in %d ms not: %s", DEADLINE_MS, #condition); \
			turn(f);                                                       \
		}                                                                      \
	} while (0)

static bool is_ready(const struct fixture *f)
{
	const char *why;

	return f->host->ops->is_ready(f->host, &why);
}

static int set_up(void **state)
{
	struct agent_host_config config = {.program = PINION_AGENT_HOST, .lease_ms = LEASE_MS};
	struct fixture *f = calloc(1, sizeof(*f));
	struct err_info info = {0};

	strcpy(f->dir, "/tmp/agent-host-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	config.state_dir = f->dir;
	f->descriptors = count_descriptors();
	assert_int_equal(uv_loop_init(&f->uv), 0);
	loop_uv_init(&f->loop, &f->uv);
	if (agent_host_start(&f->loop, &config, &f->host, &info) != ERR_OK)
		fail_msg("%s", info.text);
	assert_true(is_ready(f));
	*state = f;
	return 0;
}

static void close_loop(struct fixture *f)
{
	loop_uv_close(&f->loop);
	uv_run(&f->uv, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->uv), 0);
}

/* Nothing may be left: no process, no directory, no descriptor. */
static int tear_down(void **state)
{
	struct fixture *f = *state;
	char path[64];

	f->host->ops->destroy(f->host);
	close_loop(f);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	snprintf(path, sizeof(path), "%s/runs", f->dir);
	assert_int_equal(count_entries(path), 0);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rmdir(f->dir), 0);
	assert_int_equal(count_descriptors(), f->descriptors);
	free(f);
	return 0;
}

/* ---- runs ---- */

static const char *status_name(enum tool_status status)
{
	static const char *const names[] = {"ok", "error", "denied", "timeout", "cancelled", "in_doubt"};

	return names[status];
}

static void tell(struct watched *w, const struct run_down *down)
{
	assert_int_equal(w->f->host->ops->send(w->run, down), ERR_OK);
}

/* Confined tools are let go; all others "run here" and give null. */
static void answer_call(struct watched *w, const struct run_up *up)
{
	struct run_down go = {.kind = RUN_TOOL_GO, .tool_go = {.step = up->step, .tool = up->tool, .arguments = up->arguments}};
	struct run_down done = {.kind = RUN_TOOL_RESULT, .tool_result = {.step = up->step, .result = str_c("null")}};

	if (str_eq_c(up->tool, "clock") || str_eq_c(up->tool, "calculator"))
		tell(w, &go);
	else
		tell(w, &done);
}

static void answer_outcome(struct watched *w, const struct run_up *up)
{
	struct run_down done = {.kind = RUN_TOOL_RESULT,
	                        .tool_result = {.step = up->step, .status = up->status, .result = up->result}};

	tell(w, &done);
}

static void note(struct watched *w, const struct run_up *up)
{
	switch (up->kind) {
	case RUN_THINK:
		buf_printf(&w->log, "%u think " STR_FMT "\n", up->step, STR_ARG(up->text));
		if (up->claimed_user_id.n || up->claimed_run_id.n)
			buf_printf(&w->log, "%u claims " STR_FMT " " STR_FMT "\n", up->step, STR_ARG(up->claimed_user_id),
			           STR_ARG(up->claimed_run_id));
		break;
	case RUN_TOOL_CALL:
		buf_printf(&w->log, "%u call " STR_FMT " " STR_FMT "\n", up->step, STR_ARG(up->tool), STR_ARG(up->arguments));
		answer_call(w, up);
		break;
	case RUN_TOOL_OUTCOME:
		buf_printf(&w->log, "%u outcome %s " STR_FMT "\n", up->step, status_name(up->status), STR_ARG(up->result));
		answer_outcome(w, up);
		break;
	case RUN_TEXT:
		w->text_bytes += up->text.n;
		if (w->log.n < 65536)
			buf_printf(&w->log, "%u text " STR_FMT "\n", up->step, STR_ARG(up->text));
		break;
	case RUN_MESSAGE_END:
		buf_printf(&w->log, "%u end\n", up->step);
		break;
	case RUN_MARK:
		buf_printf(&w->log, "%u mark " STR_FMT "\n", up->step, STR_ARG(up->result));
		break;
	case RUN_DONE:
		buf_printf(&w->log, "done " STR_FMT " " STR_FMT "\n", STR_ARG(up->output), STR_ARG(up->usage));
		break;
	case RUN_FAIL:
		buf_printf(&w->log, "fail " STR_FMT "\n", STR_ARG(up->text));
		break;
	}
}

static void on_message(void *ctx, const struct run_up *up)
{
	struct run_down cancel = {.kind = RUN_CANCEL};
	struct watched *w = ctx;

	assert_false(w->ended);
	if (w->messages++ == 0)
		w->first_ns = uv_hrtime();
	note(w, up);
	if (w->messages == w->pause_at)
		w->f->host->ops->pause(w->run, true);
	if (w->messages == w->kill_at)
		w->f->host->ops->kill(w->run);
	if (w->messages == w->cancel_at)
		tell(w, &cancel);
	if (w->messages == w->forget_at)
		w->f->host->ops->forget(w->run);
}

static void on_ended(void *ctx, const struct run_exit *exit)
{
	struct watched *w = ctx;

	assert_false(w->ended);
	w->ended = true;
	w->exit = *exit;
	buf_append(&w->log, "", 1);
}

static const struct agent_run_events events = {on_message, on_ended};

static void begin(struct watched *w, struct fixture *f, enum agent_kind kind, const char *input,
                  const struct agent_limits *limits, const struct step *journal, size_t n_journal)
{
	struct run_down down = {.kind = RUN_BEGIN,
	                        .begin = {.input = str_c(input), .journal = journal, .n_journal = n_journal, .attempt = 1}};
	static const struct agent_limits usual = {.memory_bytes = 64 << 20,
	                                          .cpu_seconds = 20,
	                                          .file_bytes = 2 << 20,
	                                          .descriptors = 32};

	w->f = f;
	w->run = f->host->ops->spawn(f->host, kind, limits ? limits : &usual, &events, w);
	assert_non_null(w->run);
	tell(w, &down);
}

static void start(struct watched *w, struct fixture *f, const char *script)
{
	begin(w, f, AGENT_SCRIPT, script, NULL, NULL, 0);
}

static void finish(struct watched *w)
{
	buf_finish(&w->log);
}

/* Runs the script to its end; its log must be `log`. */
static void script_logs(struct fixture *f, const char *script, const char *log)
{
	struct watched w = {0};

	start(&w, f, script);
	run_until(f, w.ended);
	assert_string_equal(w.log.p, log);
	assert_true(w.exit.spawned);
	assert_int_equal(w.exit.signal, 0);
	assert_int_equal(w.exit.exit_status, 0);
	assert_string_equal(w.exit.why, "");
	finish(&w);
}

static void script_log_contains(struct fixture *f, const char *script, const char *part)
{
	struct watched w = {0};

	start(&w, f, script);
	run_until(f, w.ended);
	if (!strstr(w.log.p, part))
		fail_msg("%s gave %s", script, w.log.p);
	finish(&w);
}

/* ---- tests ---- */

static void the_host_says_what_holds(void **state)
{
	struct fixture *f = *state;
	const char *properties = f->host->ops->properties(f->host);

	assert_non_null(strstr(properties, "files=landlock"));
	assert_non_null(strstr(properties, "net=seccomp"));
	assert_non_null(strstr(properties, "processes=seccomp"));
}

static void a_script_does_its_steps_in_order(void **state)
{
	script_logs(
		*state,
		"{\"steps\":[{\"think\":\"hm\"},{\"tool\":\"calculator\",\"arguments\":{\"expression\":\"6*7\"}},{\"tool\":\"notes\"},"
		"{\"say\":\"h\xc3\xa4llo\"},{\"stream\":{\"tokens\":3,\"interval_ms\":1,\"bytes\":12}},{\"sleep_ms\":3},{\"spin_ms\":3}]}",
		"1 think hm\n"
		"2 call calculator {\"expression\":\"6*7\"}\n"
		"2 outcome ok 42\n"
		"3 call notes {}\n"
		"4 text h\xc3\xa4llo\n"
		"4 end\n"
		"5 text tok00001... \n"
		"5 text tok00002... \n"
		"5 text tok00003... \n"
		"5 end\n"
		"6 mark true\n"
		"7 mark true\n"
		"done {\"steps\":[]} {\"steps\":7}\n");
	script_logs(*state, "{\"steps\":[]}", "done {\"steps\":[]} {\"steps\":0}\n");
	script_logs(*state, "{\"steps\":[{\"fail\":\"no more\"},{\"say\":\"x\"}]}", "fail no more\n");
	script_logs(*state, "{\"steps\":[{\"stream\":{\"tokens\":2,\"bytes\":3}}]}",
	            "1 text 01 \n1 text 02 \n1 end\ndone {\"steps\":[]} {\"steps\":1}\n");
}

static void tools_work_inside_the_sandbox(void **state)
{
	script_log_contains(*state, "{\"steps\":[{\"tool\":\"clock\",\"arguments\":{\"timezone\":\"Asia/Tokyo\"}}]}",
	                    "+09:00\",\"timezone\":\"Asia/Tokyo\"}");
	script_log_contains(*state, "{\"steps\":[{\"tool\":\"clock\",\"arguments\":{}}]}", "1 outcome ok {\"utc\":\"20");
	script_log_contains(*state, "{\"steps\":[{\"tool\":\"clock\",\"arguments\":{\"timezone\":\"../../etc/passwd\"}}]}",
	                    "1 outcome error");
}

static void probe_gives(struct fixture *f, const char *what, const char *argument, const char *outcome)
{
	char script[400], expected[400];

	snprintf(script, sizeof(script), "{\"steps\":[{\"probe\":{\"%s\":%s}}]}", what, argument);
	snprintf(expected, sizeof(expected),
	         "done {\"steps\":[{\"step\":1,\"probe\":\"%s\",\"argument\":%s,\"outcome\":\"%s\"}]}", what, argument, outcome);
	script_log_contains(f, script, expected);
}

static void what_is_forbidden_is_denied(void **state)
{
	struct fixture *f = *state;
	char pid[16];

	probe_gives(f, "open", "\"/etc/passwd\"", "denied: EACCES");
	probe_gives(f, "open", "\"/proc/self/environ\"", "denied: EACCES");
	probe_gives(f, "open", "\"..\"", "denied: EACCES");
	probe_gives(f, "open", "\"/dev/null\"", "denied: EACCES");
	probe_gives(f, "open", "\"data\"", "allowed"); /* its own scratch file: the probe can tell the difference */
	probe_gives(f, "open", "\"/usr/share/zoneinfo/UTC\"", "allowed");
	probe_gives(f, "connect", "\"127.0.0.1:1\"", "denied: EPERM");
	probe_gives(f, "unix", "\"/run/x\"", "denied: EPERM");
	probe_gives(f, "exec", "\"/bin/true\"", "denied: EPERM");
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	probe_gives(f, "kill", pid, "denied: EPERM");
	probe_gives(f, "ptrace", pid, "denied: EPERM");
	snprintf(pid, sizeof(pid), "%d", (int)host_pid());
	probe_gives(f, "kill", pid, "denied: EPERM");
	probe_gives(f, "env", "\"PATH\"", "denied: ENOENT");
	probe_gives(f, "env", "\"HOME\"", "denied: ENOENT");
}

static void resources_are_bounded(void **state)
{
	struct fixture *f = *state;

	if (!SANITIZED)
		script_log_contains(f, "{\"steps\":[{\"alloc_mb\":100}]}", "\"outcome\":\"denied: ENOMEM\"}]}");
	script_log_contains(f, "{\"steps\":[{\"alloc_mb\":30}]}",
	                    "{\"step\":1,\"alloc_mb\":30,\"granted\":30,\"outcome\":\"allowed\"}");
	script_log_contains(f, "{\"steps\":[{\"fork\":3}]}",
	                    "{\"step\":1,\"fork\":3,\"granted\":0,\"outcome\":\"denied: EPERM\"}");
	script_log_contains(f, "{\"steps\":[{\"fds\":100}]}",
	                    "{\"step\":1,\"fds\":100,\"granted\":28,\"outcome\":\"denied: EMFILE\"}");
	script_log_contains(f, "{\"steps\":[{\"fds\":20}]}", "\"granted\":20,\"outcome\":\"allowed\"}");
	script_log_contains(f, "{\"steps\":[{\"write_mb\":9}]}",
	                    "{\"step\":1,\"write_mb\":9,\"granted\":2,\"outcome\":\"denied: EFBIG\"}");
	script_log_contains(f, "{\"steps\":[{\"write_mb\":1}]}", "\"granted\":1,\"outcome\":\"allowed\"}");
}

static void a_bad_script_fails_before_its_first_step(void **state)
{
	static const struct {
		const char *script, *why;
	} bad[] = {
		{"\"hello\"", "fail the input must be an object {\"steps\":[\xe2\x80\xa6]}\n"},
		{"{\"steps\":[],\"x\":1}", "fail the input has an unknown field \"x\"\n"},
		{"{\"steps\":[{\"say\":\"a\"},{\"dance\":1}]}", "fail step 2: there is no step \"dance\"\n"},
		{"{\"steps\":[{\"say\":\"a\"},3]}", "fail step 2: it must be an object such as {\"say\":\"hello\"}\n"},
		{"{\"steps\":[{}]}", "fail step 1: there is no step \"\"\n"},
		{"{\"steps\":[{\"say\":1}]}", "fail step 1: \"say\": its value must be a string\n"},
		{"{\"steps\":[{\"say\":\"a\",\"think\":\"b\"}]}", "fail step 1: \"think\" does not go with \"say\"\n"},
		{"{\"steps\":[{\"say\":\"a\",\"arguments\":{}}]}", "fail step 1: \"say\" does not go with \"arguments\"\n"},
		{"{\"steps\":[{\"tool\":\"\"}]}", "fail step 1: \"tool\": its value must be the name of a tool\n"},
		{"{\"steps\":[{\"tool\":\"clock\",\"arguments\":[]}]}",
	         "fail step 1: \"tool\": \"arguments\" must be an object\n"},
		{"{\"steps\":[{\"stream\":{\"tokens\":0}}]}",
	         "fail step 1: \"stream\": \"tokens\" must be a whole number from 1 to 1000000\n"},
		{"{\"steps\":[{\"crash\":\"boom\"}]}",
	         "fail step 1: \"crash\": its value must be \"segv\", \"abort\" or \"exit\"\n"},
		{"{\"steps\":[{\"probe\":{\"door\":1}}]}",
	         "fail step 1: \"probe\": it is none of open, connect, unix, kill, ptrace, exec, env\n"},
		{"{\"steps\":[{\"probe\":{\"kill\":\"1\"}}]}", "fail step 1: \"probe\": its argument must be a whole number\n"},
		{"{\"steps\":[{\"sleep_ms\":-1}]}",
	         "fail step 1: \"sleep_ms\": its value must be a whole number of milliseconds, at most a day\n"},
		{"{\"steps\":[{\"forge\":{}}]}",
	         "fail step 1: \"forge\": its value must be an object with the strings user_id and run_id, or one of them\n"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		script_logs(*state, bad[i].script, bad[i].why);
}

static void crashes_are_told_apart(void **state)
{
	static const struct {
		const char *how;
		int signal, status;
	} crashes[] = {{"segv", SIGSEGV, 0}, {"abort", SIGABRT, 0}, {"exit", 0, 3}};

	for (size_t i = 0; i < 3; i++) {
		struct watched w = {0};
		char script[100];

		snprintf(script, sizeof(script), "{\"steps\":[{\"say\":\"last words\"},{\"crash\":\"%s\"}]}", crashes[i].how);
		start(&w, *state, script);
		run_until(*state, w.ended);
		assert_string_equal(w.log.p, "1 text last words\n1 end\n");
		assert_int_equal(w.exit.signal, crashes[i].signal);
		assert_int_equal(w.exit.exit_status, crashes[i].status);
		assert_true(w.exit.spawned);
		assert_false(w.exit.protocol_error);
		assert_true(w.exit.peak_rss_bytes > 0);
		finish(&w);
	}
}

static void too_much_cpu_ends_by_sigxcpu(void **state)
{
	struct agent_limits limits = {.cpu_seconds = 1};
	struct watched w = {0};

	begin(&w, *state, AGENT_SCRIPT, "{\"steps\":[{\"spin_ms\":50000}]}", &limits, NULL, 0);
	run_until(*state, w.ended);
	assert_int_equal(w.exit.signal, SIGXCPU);
	assert_in_range(w.exit.cpu_ms, 500, 2500); /* accounted by ticks */
	finish(&w);
}

static void a_run_that_spins_gives_way_until_it_waits(void **state)
{
	struct watched w = {0};
	int n;

	start(&w, *state, "{\"steps\":[{\"think\":\"a\"},{\"spin_ms\":1500},{\"think\":\"b\"},{\"sleep_ms\":60000}]}");
	run_until(*state, w.messages == 1);
	assert_int_equal(sched_getscheduler(child_of(host_pid(), &n)), SCHED_OTHER);
	run_until(*state, sched_getscheduler(child_of(host_pid(), &n)) == SCHED_IDLE);
	if (geteuid() == 0) /* else it may not be brought back */
		run_until(*state, w.messages == 3 && sched_getscheduler(child_of(host_pid(), &n)) == SCHED_OTHER);
	w.f->host->ops->kill(w.run);
	run_until(*state, w.ended);
	finish(&w);
}

static void a_journal_is_not_done_again(void **state)
{
	const struct step journal[] = {
		{.number = 1, .kind = STEP_THINK},
		{.number = 2, .kind = STEP_TOOL, .status = TOOL_IN_DOUBT, .result = str_c("null")},
		{.number = 3, .kind = STEP_MESSAGE},
		{.number = 4, .kind = STEP_MARK, .result = str_c("{\"step\":4,\"probe\":\"env\",\"outcome\":\"as recorded\"}")},
	};
	static const char script[] =
		"{\"steps\":[{\"think\":\"a\"},{\"tool\":\"notes\"},{\"say\":\"b\"},{\"probe\":{\"env\":\"X\"}},{\"say\":\"c\"}]}";
	struct watched w = {0}, other = {0};

	begin(&w, *state, AGENT_SCRIPT, script, NULL, journal, 4);
	run_until(*state, w.ended);
	assert_string_equal(
		w.log.p,
		"5 text c\n5 end\ndone {\"steps\":[{\"step\":4,\"probe\":\"env\",\"outcome\":\"as recorded\"}]} {\"steps\":5}\n");
	begin(&other, *state, AGENT_SCRIPT, "{\"steps\":[{\"say\":\"a\"}]}", NULL, journal, 4);
	run_until(*state, other.ended);
	assert_string_equal(other.log.p, "fail step 1: the journal is of another agent\n");
	finish(&w);
	finish(&other);
}

static void a_cancelled_run_ends_without_a_word(void **state)
{
	static const char *const scripts[] = {
		"{\"steps\":[{\"think\":\"a\"},{\"sleep_ms\":60000},{\"say\":\"b\"}]}",
		"{\"steps\":[{\"think\":\"a\"},{\"spin_ms\":15000},{\"say\":\"b\"}]}",
		"{\"steps\":[{\"think\":\"a\"},{\"stream\":{\"tokens\":1000000,\"bytes\":1000}},{\"say\":\"b\"}]}",
		"{\"steps\":[{\"think\":\"a\"},{\"stream\":{\"tokens\":10,\"interval_ms\":60000}},{\"say\":\"b\"}]}",
	};

	for (size_t i = 0; i < 4; i++) {
		struct watched w = {.cancel_at = 1};

		start(&w, *state, scripts[i]);
		run_until(*state, w.ended);
		assert_null(strstr(w.log.p, "text b"));
		assert_null(strstr(w.log.p, "done"));
		assert_null(strstr(w.log.p, "fail"));
		assert_int_equal(w.exit.signal, 0);
		assert_int_equal(w.exit.exit_status, 0);
		finish(&w);
	}
}

static void a_killed_run_ends_by_sigkill(void **state)
{
	struct watched w = {.kill_at = 1}, early = {0};

	start(&w, *state, "{\"steps\":[{\"think\":\"a\"},{\"sleep_ms\":60000}]}");
	start(&early, *state, "{\"steps\":[{\"sleep_ms\":60000}]}");
	w.f->host->ops->kill(early.run);
	run_until(*state, w.ended && early.ended);
	assert_int_equal(w.exit.signal, SIGKILL);
	assert_int_equal(early.exit.signal, SIGKILL);
	assert_string_equal(w.exit.why, "");
	assert_string_equal(early.exit.why, "");
	finish(&w);
	finish(&early);
}

static void a_paused_run_is_slowed_and_loses_nothing(void **state)
{
	struct watched flood = {.pause_at = 1}, quick = {0};
	struct fixture *f = *state;

	start(&flood, f, "{\"steps\":[{\"stream\":{\"tokens\":20000,\"bytes\":100}},{\"say\":\"end\"}]}");
	run_until(f, flood.messages == 1);
	for (int i = 0; i < 5; i++) { /* time for the flood to come, did it not stop */
		start(&quick, f, "{\"steps\":[{\"sleep_ms\":20}]}");
		run_until(f, quick.ended);
		finish(&quick);
		quick = (struct watched){0};
	}
	assert_int_equal(flood.messages, 1);
	assert_false(flood.ended);
	f->host->ops->pause(flood.run, false);
	assert_int_equal(flood.messages, 1); /* not from inside the call */
	run_until(f, flood.ended);
	assert_int_equal(flood.text_bytes, 20000 * 100 + 3);
	assert_non_null(strstr(flood.log.p, "done"));
	finish(&flood);
}

static void a_paused_runs_end_waits_for_its_last_messages(void **state)
{
	struct watched w = {.pause_at = 1};
	struct fixture *f = *state;

	start(&w, f, "{\"steps\":[{\"think\":\"a\"},{\"say\":\"b\"}]}");
	run_until(f, w.messages == 1);
	run_until(f, count_runs(host_pid()) == 0);
	assert_int_equal(w.messages, 1);
	assert_false(w.ended);
	f->host->ops->pause(w.run, false);
	run_until(f, w.ended);
	assert_string_equal(w.log.p, "1 think a\n2 text b\n2 end\ndone {\"steps\":[]} {\"steps\":2}\n");
	finish(&w);
}

static void a_forgotten_run_is_never_heard_of_again(void **state)
{
	struct watched w = {.forget_at = 2}, unborn = {0}, paused = {.pause_at = 1};
	struct fixture *f = *state;
	pid_t host = host_pid();

	start(&w, f, "{\"steps\":[{\"think\":\"a\"},{\"stream\":{\"tokens\":1000000}}]}");
	start(&unborn, f, "{\"steps\":[{\"think\":\"a\"}]}");
	f->host->ops->forget(unborn.run);
	start(&paused, f, "{\"steps\":[{\"stream\":{\"tokens\":1000000}}]}");
	run_until(f, paused.messages == 1);
	f->host->ops->forget(paused.run);
	run_until(f, w.messages == 2 && count_runs(host) == 0);
	assert_false(w.ended || unborn.ended || paused.ended);
	assert_int_equal(unborn.messages, 0);
	assert_int_equal(paused.messages, 1);
	finish(&w);
	finish(&unborn);
	finish(&paused);
}

static void a_forger_names_others(void **state)
{
	script_log_contains(*state, "{\"steps\":[{\"forge\":{\"user_id\":\"usr_000000000000\",\"run_id\":\"x\"}}]}",
	                    "1 claims usr_000000000000 x\n");
}

static void the_demo_thinks_uses_a_tool_and_answers(void **state)
{
	struct watched w = {0};

	begin(&w, *state, AGENT_DEMO, "\"what is 6 * 7?\"", NULL, NULL, 0);
	run_until(*state, w.ended);
	assert_string_equal(w.log.p, "1 think That is something to calculate.\n"
	                             "2 call calculator {\"expression\":\"6 * 7\"}\n"
	                             "2 outcome ok 42\n"
	                             "3 text 6 * 7 = 42\n"
	                             "3 end\n"
	                             "done \"6 * 7 = 42\" {\"steps\":3}\n");
	finish(&w);
}

static void the_demo_answers_in_several_pieces(void **state)
{
	struct watched w = {0};

	begin(&w, *state, AGENT_DEMO, "{\"text\":\"hello\"}", NULL, NULL, 0);
	run_until(*state, w.ended);
	assert_true(w.messages > 10);
	assert_non_null(strstr(w.log.p, "done \"Hello!"));
	finish(&w);
}

static void a_host_that_dies_takes_its_runs_and_comes_back(void **state)
{
	struct watched w = {0}, next = {0};
	struct fixture *f = *state;
	pid_t host = host_pid(), run;
	int n, hosts;

	start(&w, f, "{\"steps\":[{\"think\":\"a\"},{\"sleep_ms\":60000}]}");
	run_until(f, w.messages == 1);
	run = child_of(host, &n);
	assert_int_equal(kill(host, SIGKILL), 0);
	run_until(f, w.ended);
	assert_string_equal(w.exit.why, "agent host died");
	assert_true(w.exit.spawned);
	assert_false(is_ready(f));
	start(&next, f, "{\"steps\":[]}"); /* none there: says so */
	run_until(f, next.ended);
	assert_false(next.exit.spawned);
	assert_non_null(strstr(next.exit.why, "the agent host died"));
	finish(&next);
	run_until(f, is_ready(f));
	run_until(f, kill(run, 0) < 0 && errno == ESRCH);
	script_logs(f, "{\"steps\":[{\"say\":\"back\"}]}", "1 text back\n1 end\ndone {\"steps\":[]} {\"steps\":1}\n");
	run_until(f, count_scratch(f, &hosts) == 0 && hosts == 1);
	finish(&w);
}

static void without_ticks_all_runs_are_killed(void **state)
{
	struct watched w = {0}, later = {0};
	struct fixture *f = *state;
	struct pollfd nothing = {.fd = -1};
	pid_t host = host_pid();
	uint64_t end_ns;

	start(&w, f, "{\"steps\":[{\"think\":\"a\"},{\"sleep_ms\":60000}]}");
	run_until(f, w.messages == 1);
	/* The loop stands still, as that of a stopped worker. */
	for (end_ns = uv_hrtime() + DEADLINE_MS * 1000000ull; count_runs(host) > 0 && uv_hrtime() < end_ns;)
		(void)poll(&nothing, 1, 20);
	assert_int_equal(count_runs(host), 0);
	run_until(f, w.ended);
	assert_string_equal(w.exit.why, "no tick");
	assert_int_equal(w.exit.signal, SIGKILL);
	finish(&w);
	run_until(f, is_ready(f));
	start(&later, f, "{\"steps\":[]}");
	run_until(f, later.ended);
	assert_true(later.exit.spawned);
	finish(&later);
}

static void many_runs_go_at_once_and_leave_nothing(void **state)
{
	enum { N = 60 };
	struct fixture *f = *state;
	struct watched *w = calloc(N, sizeof(*w));
	int before = count_descriptors(), hosts;
	size_t ended;

	for (int i = 0; i < N; i++)
		start(&w[i], f, "{\"steps\":[{\"think\":\"a\"},{\"write_mb\":1},{\"sleep_ms\":30},{\"tool\":\"clock\"}]}");
	do {
		turn(f);
		ended = 0;
		for (int i = 0; i < N; i++)
			ended += w[i].ended;
	} while (ended < N);
	for (int i = 0; i < N; i++) {
		assert_non_null(strstr(w[i].log.p, "done"));
		finish(&w[i]);
	}
	run_until(f, count_descriptors() == before);
	assert_int_equal(count_runs(host_pid()), 0);
	assert_int_equal(count_scratch(f, &hosts), 0);
	free(w);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* A measurement, not a test: from the ask to the first message. */
static void spawning_is_measured(void **state)
{
	enum { N = 100 };
	uint64_t took[N];

	for (int i = 0; i < N; i++) {
		struct watched w = {0};
		uint64_t from = uv_hrtime();

		start(&w, *state, "{\"steps\":[{\"think\":\"a\"}]}");
		run_until(*state, w.ended);
		took[i] = w.first_ns - from;
		finish(&w);
	}
	qsort(took, N, sizeof(took[0]), compare_u64);
	print_message("spawn to first message: p50 %llu us, p90 %llu us, worst %llu us\n", (unsigned long long)took[N / 2] / 1000,
	              (unsigned long long)took[N * 9 / 10] / 1000, (unsigned long long)took[N - 1] / 1000);
}

/* ---- the run's socket alone ---- */

struct lone {
	struct fixture f;
	struct agent_run_owner owner;
	struct arena arena;
	struct agent_run *run;
	struct watched w;
	int run_end;
	unsigned kills;
};

static struct lone *lone;

static void lone_kill(struct agent_run_owner *owner, uint64_t slot)
{
	lone->kills++;
}

static void lone_gone(struct agent_run_owner *owner, struct agent_run *run)
{
	lone->run = NULL;
}

static int lone_set_up(void **state)
{
	struct err_info info = {0};

	lone = calloc(1, sizeof(*lone));
	lone->w.f = &lone->f;
	uv_loop_init(&lone->f.uv);
	loop_uv_init(&lone->f.loop, &lone->f.uv);
	arena_init(&lone->arena, 8 << 20);
	lone->owner =
		(struct agent_run_owner){.kill = lone_kill, .gone = lone_gone, .loop = &lone->f.loop, .arena = &lone->arena};
	assert_int_equal(agent_run_create(&lone->owner, 7, &events, &lone->w, &lone->run, &lone->run_end, &info), ERR_OK);
	return 0;
}

static int lone_tear_down(void **state)
{
	assert_null(lone->run);
	close_loop(&lone->f);
	arena_finish(&lone->arena);
	finish(&lone->w);
	free(lone);
	return 0;
}

static void lone_ends_unannounced(void)
{
	struct host_report report = {.kind = HOST_EXITED, .slot = 7, .signal = SIGKILL};

	agent_run_exited(lone->run, &report);
	assert_false(lone->w.ended);
	close(lone->run_end);
	run_until(&lone->f, lone->w.ended);
}

static void lone_ends(void)
{
	agent_run_spawned(lone->run);
	lone_ends_unannounced();
	assert_true(lone->w.exit.spawned);
}

static void bytes_that_are_no_message_end_the_run(void **state)
{
	static const char *const bad[] = {"\xff\xff\xff\xff", "\x00\x00\x00\x00zz", "\x04\x00\x00\x00\xff\xff\xff\xff"};
	static const size_t sizes[] = {4, 6, 8};
	const size_t which = (size_t)(uintptr_t)*state;

	assert_int_equal(write(lone->run_end, bad[which], sizes[which]), (ssize_t)sizes[which]);
	run_until(&lone->f, lone->kills == 1);
	(void)!write(lone->run_end, "more", 4); /* nobody listens */
	lone_ends();
	assert_true(lone->w.exit.protocol_error);
	assert_true(lone->w.exit.why[0] != 0);
	assert_int_equal(lone->w.messages, 0);
}

static void write_text(const char *text, size_t cut)
{
	struct run_up up = {.kind = RUN_TEXT, .step = 1, .text = str_c(text)};
	struct buf frame = {0};
	size_t at = frame_begin(&frame);

	assert_int_equal(run_up_encode(&up, &frame), ERR_OK);
	frame_end(&frame, at);
	assert_int_equal(write(lone->run_end, frame.p, frame.n - cut), (ssize_t)(frame.n - cut));
	buf_finish(&frame);
}

static void a_message_cut_by_death_is_dropped(void **state)
{
	write_text("whole", 0);
	write_text("cut", 1);
	lone_ends();
	assert_string_equal(lone->w.log.p, "1 text whole\n");
	assert_false(lone->w.exit.protocol_error);
}

static void messages_are_delivered_when_bytes_of_ours_stay_unread(void **state)
{
	struct run_down down = {.kind = RUN_CANCEL};

	write_text("still heard", 0);
	assert_int_equal(agent_run_send(lone->run, &down), ERR_OK);
	lone_ends();
	assert_string_equal(lone->w.log.p, "1 text still heard\n");
}

/* The run may speak, and its host die, before the host says that there is a run. */
static void one_that_spoke_has_run_whatever_its_host_said(void **state)
{
	write_text("heard", 0);
	run_until(&lone->f, lone->w.messages == 1);
	lone_ends_unannounced();
	assert_true(lone->w.exit.spawned);
}

static void one_that_is_heard_after_its_end_has_run(void **state)
{
	write_text("heard late", 0);
	lone_ends_unannounced();
	assert_int_equal(lone->w.messages, 1);
	assert_true(lone->w.exit.spawned);
}

static void one_that_neither_spoke_nor_was_announced_never_ran(void **state)
{
	lone_ends_unannounced();
	assert_false(lone->w.exit.spawned);
}

static void a_run_that_does_not_read_fills_a_bounded_queue(void **state)
{
	static char result[1 << 20];
	struct run_down down = {.kind = RUN_TOOL_RESULT, .tool_result = {.step = 1, .result = {result, sizeof(result)}}};
	enum err err = ERR_OK;
	int sent = 0;

	memset(result, 'x', sizeof(result));
	while (err == ERR_OK && sent < 100) {
		err = agent_run_send(lone->run, &down);
		sent++;
	}
	assert_int_equal(err, ERR_CAPACITY);
	assert_in_range(sent, 3, 10);
	lone_ends();
	assert_false(lone->w.exit.protocol_error);
}

/* ---- where the sandbox does not hold ---- */

/* In a child: the system call is answered with `error` (0: "done"), then a host is started. Exits 0 where it is refused with
 * `text` in the reason. */
static _Noreturn void start_crippled(const char *dir, int syscall_nr, int error, const char *text)
{
	struct agent_host_config config = {.program = PINION_AGENT_HOST, .lease_ms = LEASE_MS, .state_dir = dir};
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	struct err_info info = {0};
	struct agent_host *host;
	struct loop_uv loop;
	uv_loop_t uv;

	if (seccomp_rule_add(filter, SCMP_ACT_ERRNO((unsigned)error), syscall_nr, 0) < 0 || seccomp_load(filter) < 0)
		_exit(2);
	uv_loop_init(&uv);
	loop_uv_init(&loop, &uv);
	if (agent_host_start(&loop, &config, &host, &info) != ERR_CONFIG)
		_exit(3);
	if (!strstr(info.text, text)) {
		fprintf(stderr, "%s\n", info.text);
		_exit(4);
	}
	_exit(0);
}

static void refuses_crippled(int syscall_nr, int error, const char *text)
{
	char dir[] = "/tmp/agent-host-XXXXXX", runs[64];
	pid_t pid;
	int status;

	assert_non_null(mkdtemp(dir));
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		start_crippled(dir, syscall_nr, error, text);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	snprintf(runs, sizeof(runs), "%s/runs", dir);
	assert_int_equal(rmdir(runs), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void a_kernel_without_landlock_is_refused(void **state)
{
	refuses_crippled(SCMP_SYS(landlock_create_ruleset), ENOSYS, "no Landlock");
}

static void a_landlock_that_enforces_nothing_is_found_out(void **state)
{
	refuses_crippled(SCMP_SYS(landlock_restrict_self), 0, "files: open /");
}

static void a_failing_layer_fails_closed(void **state)
{
	refuses_crippled(SCMP_SYS(landlock_restrict_self), EPERM, "sandbox: landlock: restrict");
	refuses_crippled(SCMP_SYS(capset), EINVAL, "sandbox: capabilities");
}

static void a_missing_program_is_a_clear_error(void **state)
{
	struct agent_host_config config = {.program = "/nowhere/pinion-agent-host", .lease_ms = LEASE_MS, .state_dir = "/tmp"};
	struct err_info info = {0};
	struct fixture f = {0};

	uv_loop_init(&f.uv);
	loop_uv_init(&f.loop, &f.uv);
	assert_int_equal(agent_host_start(&f.loop, &config, &f.host, &info), ERR_CONFIG);
	assert_non_null(strstr(info.text, "/nowhere/pinion-agent-host"));
	assert_null(f.host);
	close_loop(&f);
}

#define with_host(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define with_socket(test) cmocka_unit_test_setup_teardown(test, lone_set_up, lone_tear_down)
#define with_bytes(test, which)                                                                 \
	{                                                                                       \
#test " " #which, test, lone_set_up, lone_tear_down, (void *)(uintptr_t)(which) \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_bytes(bytes_that_are_no_message_end_the_run, 0),
		with_bytes(bytes_that_are_no_message_end_the_run, 1),
		with_bytes(bytes_that_are_no_message_end_the_run, 2),
		with_socket(a_message_cut_by_death_is_dropped),
		with_socket(messages_are_delivered_when_bytes_of_ours_stay_unread),
		with_socket(one_that_spoke_has_run_whatever_its_host_said),
		with_socket(one_that_is_heard_after_its_end_has_run),
		with_socket(one_that_neither_spoke_nor_was_announced_never_ran),
		with_socket(a_run_that_does_not_read_fills_a_bounded_queue),
		with_host(the_host_says_what_holds),
		with_host(a_script_does_its_steps_in_order),
		with_host(tools_work_inside_the_sandbox),
		with_host(what_is_forbidden_is_denied),
		with_host(resources_are_bounded),
		with_host(a_bad_script_fails_before_its_first_step),
		with_host(crashes_are_told_apart),
		with_host(too_much_cpu_ends_by_sigxcpu),
		with_host(a_run_that_spins_gives_way_until_it_waits),
		with_host(a_journal_is_not_done_again),
		with_host(a_cancelled_run_ends_without_a_word),
		with_host(a_killed_run_ends_by_sigkill),
		with_host(a_paused_run_is_slowed_and_loses_nothing),
		with_host(a_paused_runs_end_waits_for_its_last_messages),
		with_host(a_forgotten_run_is_never_heard_of_again),
		with_host(a_forger_names_others),
		with_host(the_demo_thinks_uses_a_tool_and_answers),
		with_host(the_demo_answers_in_several_pieces),
		with_host(a_host_that_dies_takes_its_runs_and_comes_back),
		with_host(without_ticks_all_runs_are_killed),
		with_host(many_runs_go_at_once_and_leave_nothing),
		with_host(spawning_is_measured),
		cmocka_unit_test(a_kernel_without_landlock_is_refused),
		cmocka_unit_test(a_landlock_that_enforces_nothing_is_found_out),
		cmocka_unit_test(a_failing_layer_fails_closed),
		cmocka_unit_test(a_missing_program_is_a_clear_error),
	};

	log_init(LOG_ERROR, LOG_KEY_VALUE, "test", "");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
