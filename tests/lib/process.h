/*
 * process.h - start real programs, watch them, end them; and know that nothing of them is left.
 *
 * processes_adopt makes this process the reaper of its descendants' orphans (PR_SET_CHILD_SUBREAPER), so that an agent host whose
 * worker was killed shows up here, and "nothing is left" is simply that no child is. A child dies with us (PR_SET_PDEATHSIG).
 * Thread: one.
 */
#ifndef PINION_TESTS_LIB_PROCESS_H
#define PINION_TESTS_LIB_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct process {
	char name[32];
	pid_t pid;     /* 0: not running */
	int status;    /* of wait, of its last end */
	char log[128]; /* path; output is appended */
};

void processes_adopt(void);
/* argv ends in NULL; argv[0] is a path, or a name looked up in PATH. */
void process_start(struct process *p, const char *const *argv);
/* True once it has ended; then status is set. */
bool process_has_ended(struct process *p);
/* Waits for its end; false after timeout_ms. */
bool process_wait(struct process *p, unsigned timeout_ms);
void process_kill(struct process *p); /* SIGKILL, and waits */
/* Reaps orphans; the number of children, adopted ones too, that still run. Names them into out where that is not NULL. */
size_t processes_left(char *out, size_t n);
/* Waits for that to be none; then kills what is left and returns how many there were. */
size_t processes_settle(unsigned timeout_ms, char *out, size_t n);

/* Of a running process; -1 where it can't be read. */
long process_rss_kb(pid_t pid);
long process_descriptors(pid_t pid);
/* Its children (the first n); returns how many there are. */
size_t process_children(pid_t pid, pid_t *out, size_t n);
/* 'R', 'S', 'T', 'Z', …; 0 where it is gone. */
char process_state(pid_t pid);

/* A port on 127.0.0.1 that was free a moment ago. */
unsigned short free_port(void);

/* Removes a directory and all below; false when something stays. */
bool remove_tree(const char *path);
/* The whole file; NULL where it can't be read. The caller frees. */
char *read_whole_file(const char *path);
bool write_whole_file(const char *path, const char *text, unsigned mode);

#endif
