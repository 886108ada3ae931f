#include "worker/store/write_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "worker/store/process.h"

enum place { PLACE_QUEUE, PLACE_TURN }; /* the bytes that have a holder's record */

enum {
	LOOK_MS = 200,     /* how often a waiter looks whom it waits for */
	STRIKES = 3,       /* looks in a row at which the same holder was stopped, before it is ended */
	PATIENCE_MS = 250, /* for the ticket before ours */
	QUEUE_TRIES = 100, /* before waiting for QUEUE in the kernel: it is held for a few system calls */
	PAGE_AT = 4096,
};

#define TICKETS_AT ((off_t)1 << 32)

/* Left in the file by whoever holds a place; stale where nobody does. */
struct holder {
	uint64_t pid, start_time;
	uint64_t pid_namespace; /* inode */
	uint64_t turn;          /* of this holder's, so that one long turn is told from many */
};

/* The file's content, at PAGE_AT. */
struct page {
	uint64_t next_ticket;
	struct holder holders[2];
};

struct write_lock {
	int fd;
	struct process_identity self;
	struct holder holder;
	uint64_t ticket; /* held; 0: none */
};

/* ---- waking a thread that waits in fcntl ---- */

struct interrupter {
	timer_t timer;
	bool set;
};

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static int interrupt_signal(void)
{
	return SIGRTMIN + 8;
}

static void on_interrupt(int signal)
{
}

static void install_handler(void)
{
	struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: fcntl is to return EINTR */

	sigaction(interrupt_signal(), &action, NULL);
}

static void interrupter_start(struct interrupter *it)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = interrupt_signal()};
	struct timespec period = {.tv_nsec = LOOK_MS * 1000000L};
	struct itimerspec spec = {.it_interval = period, .it_value = period};
	sigset_t ours;

	pthread_once(&once, install_handler);
	sigemptyset(&ours);
	sigaddset(&ours, interrupt_signal());
	pthread_sigmask(SIG_UNBLOCK, &ours, NULL);
	event.sigev_notify_thread_id = gettid();
	it->set = timer_create(CLOCK_MONOTONIC, &event, &it->timer) == 0;
	if (it->set)
		timer_settime(it->timer, 0, &spec, NULL);
}

static void interrupter_stop(struct interrupter *it)
{
	if (it->set)
		timer_delete(it->timer);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- bytes ---- */

static int set_lock(struct write_lock *lock, off_t at, short type, int how)
{
	struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	return fcntl(lock->fd, how, &range);
}

static void leave(struct write_lock *lock, off_t at)
{
	(void)set_lock(lock, at, F_UNLCK, F_OFD_SETLK); /* can't fail for what is held */
}

struct watch;
static void look_at_holder(struct write_lock *lock, struct watch *watch);

/* Waits in the kernel, coming back every LOOK_MS to look. ERR_TIMEOUT; ERR_IO with errno. */
static enum err wait_for(struct write_lock *lock, off_t at, uint64_t deadline, struct watch *watch)
{
	struct interrupter interrupter;
	enum err err = ERR_OK;

	interrupter_start(&interrupter);
	while (!err && set_lock(lock, at, F_WRLCK, F_OFD_SETLKW) != 0) {
		if (errno != EINTR)
			err = ERR_IO;
		else if (now_ms() >= deadline)
			err = ERR_TIMEOUT;
		else if (watch)
			look_at_holder(lock, watch);
	}
	interrupter_stop(&interrupter);
	return err;
}

/* ---- places, and who holds them ---- */

/* What one waiter has seen of the holder. */
struct watch {
	enum place place;
	struct holder holder;
	uint64_t looked_ms;
	unsigned strikes;
};

static off_t record_at(enum place place)
{
	return PAGE_AT + (off_t)offsetof(struct page, holders) + (off_t)place * (off_t)sizeof(struct holder);
}

/* Best effort: without the record a stopped holder is only waited for. */
static void leave_record(struct write_lock *lock, enum place place)
{
	ssize_t n;

	lock->holder.turn++;
	n = pwrite(lock->fd, &lock->holder, sizeof(lock->holder), record_at(place));
	(void)n;
}

static bool read_record(struct write_lock *lock, enum place place, struct holder *out)
{
	memset(out, 0, sizeof(*out));
	return pread(lock->fd, out, sizeof(*out), record_at(place)) == (ssize_t)sizeof(*out) && out->pid;
}

/* The holder's process, where it is of our PID namespace. */
static struct process_identity identity_of(const struct write_lock *lock, const struct holder *holder)
{
	struct process_identity who = lock->self;

	who.pid = (uint32_t)holder->pid;
	who.start_time = holder->start_time;
	if (holder->pid_namespace != lock->holder.pid_namespace)
		who.pid_namespace[0] = 0;
	return who;
}

/* Looks that are far apart don't count: then we were stopped ourselves, and so perhaps was everybody, and all go on now. */
static void look_at_holder(struct write_lock *lock, struct watch *watch)
{
	uint64_t now = now_ms(), before = watch->looked_ms;
	struct process_identity who;
	struct holder holder;
	bool same = read_record(lock, watch->place, &holder) && memcmp(&holder, &watch->holder, sizeof(holder)) == 0;

	watch->holder = holder;
	watch->looked_ms = now;
	who = identity_of(lock, &holder);
	if (!same || now - before > 2 * LOOK_MS || process_look(&who) != PROCESS_STOPPED)
		watch->strikes = 0;
	else if (++watch->strikes >= STRIKES)
		(void)process_kill(&who, 0); /* its locks go when it has ended */
}

static enum err tell(struct write_lock *lock, enum place place, enum err err, struct err_info *info)
{
	struct holder holder;

	if (err == ERR_IO)
		return err_set_errno(info, err, errno, "the store's write lock");
	if (read_record(lock, place, &holder))
		return err_set(info, err, "process %" PRIu64 " keeps the store's write lock", holder.pid);
	return err_set(info, err, "another process keeps the store's write lock");
}

static enum err take(struct write_lock *lock, enum place place, uint64_t deadline, struct err_info *info)
{
	struct watch watch = {.place = place, .looked_ms = now_ms()};
	enum err err = ERR_OK;

	if (set_lock(lock, place, F_WRLCK, F_OFD_SETLK) != 0) {
		(void)read_record(lock, place, &watch.holder);
		err = wait_for(lock, place, deadline, &watch);
	}
	if (err)
		return tell(lock, place, err, info);
	leave_record(lock, place);
	return ERR_OK;
}

/* ---- the line ---- */

/* We stay runnable at first: who sleeps here is passed by others while it wakes. */
static enum err enter_queue(struct write_lock *lock, uint64_t deadline, struct err_info *info)
{
	for (int i = 0; i < QUEUE_TRIES; i++) {
		if (set_lock(lock, PLACE_QUEUE, F_WRLCK, F_OFD_SETLK) == 0) {
			leave_record(lock, PLACE_QUEUE);
			return ERR_OK;
		}
		sched_yield();
	}
	return take(lock, PLACE_QUEUE, deadline, info);
}

/* Holding QUEUE. Where the file can't be read or written we go without: only the order suffers. */
static void draw_ticket(struct write_lock *lock)
{
	const off_t at = PAGE_AT + (off_t)offsetof(struct page, next_ticket);
	uint64_t next = 0, after;

	if (pread(lock->fd, &next, sizeof(next), at) < 0 || next > INT64_MAX / 2)
		next = 0;
	lock->ticket = next ? next : 1;
	after = lock->ticket + 1;
	if (pwrite(lock->fd, &after, sizeof(after), at) != (ssize_t)sizeof(after) ||
	    set_lock(lock, TICKETS_AT + (off_t)lock->ticket, F_WRLCK, F_OFD_SETLK) != 0)
		lock->ticket = 0;
}

static void drop_ticket(struct write_lock *lock)
{
	if (lock->ticket)
		leave(lock, TICKETS_AT + (off_t)lock->ticket);
	lock->ticket = 0;
}

static void await_predecessor(struct write_lock *lock, uint64_t deadline)
{
	uint64_t patience = now_ms() + PATIENCE_MS;
	off_t before = TICKETS_AT + (off_t)lock->ticket - 1;

	if (!lock->ticket)
		return;
	if (set_lock(lock, before, F_WRLCK, F_OFD_SETLK) == 0 ||
	    wait_for(lock, before, patience < deadline ? patience : deadline, NULL) == ERR_OK)
		leave(lock, before);
}

/* ---- */

static uint64_t own_pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

enum err write_lock_open(const char *path, struct write_lock **out, struct err_info *info)
{
	struct write_lock *lock = calloc(1, sizeof(*lock));

	*out = NULL;
	if (!lock)
		return err_set(info, ERR_NO_MEMORY, NULL);
	lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock->fd < 0) {
		enum err err = err_set_errno(info, ERR_IO, errno, "%s", path);

		free(lock);
		return err;
	}
	process_self(&lock->self);
	lock->holder = (struct holder){.pid = lock->self.pid,
	                               .start_time = lock->self.start_time,
	                               .pid_namespace = own_pid_namespace()};
	*out = lock;
	return ERR_OK;
}

enum err write_lock_acquire(struct write_lock *lock, uint32_t timeout_ms, struct err_info *info)
{
	uint64_t deadline = now_ms() + timeout_ms;
	enum err err = enter_queue(lock, deadline, info);

	if (err)
		return err;
	draw_ticket(lock);
	leave(lock, PLACE_QUEUE);
	await_predecessor(lock, deadline);
	err = take(lock, PLACE_TURN, deadline, info);
	if (err)
		drop_ticket(lock);
	return err;
}

/* TURN first: the next in line, woken by our ticket, then finds it free. */
void write_lock_release(struct write_lock *lock)
{
	leave(lock, PLACE_TURN);
	drop_ticket(lock);
}

void write_lock_close(struct write_lock *lock)
{
	if (!lock)
		return;
	close(lock->fd);
	free(lock);
}
