/* scratch.c - see scratch.h. */
#include "worker/host/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
#define OWN_PREFIX "host-"
#define DATA "data"

static void random_name(char out[SCRATCH_NAME_LEN + 1])
{
	unsigned char bytes[SCRATCH_NAME_LEN / 2] = {0};

	(void)!getrandom(bytes, sizeof(bytes), 0);
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* Between mkdir and flock a rival may have swept the new directory away: then it has no links, and another is made. */
static bool make_own(struct scratch *scratch)
{
	char name[SCRATCH_NAME_LEN + 1];
	struct stat st;

	random_name(name);
	snprintf(scratch->own_name, sizeof(scratch->own_name), OWN_PREFIX "%s", name);
	if (mkdirat(scratch->runs_fd, scratch->own_name, 0700) < 0)
		return false;
	scratch->own_fd = openat(scratch->runs_fd, scratch->own_name, DIR_FLAGS);
	if (scratch->own_fd < 0)
		return false;
	if (flock(scratch->own_fd, LOCK_EX | LOCK_NB) == 0 && fstat(scratch->own_fd, &st) == 0 && st.st_nlink > 0)
		return true;
	close(scratch->own_fd);
	scratch->own_fd = -1;
	return false;
}

enum err scratch_open(struct scratch *scratch, struct err_info *info)
{
	*scratch = (struct scratch){.runs_fd = -1, .own_fd = -1};
	if (mkdir("runs", 0700) < 0 && errno != EEXIST)
		return err_set_errno(info, ERR_IO, errno, "runs: make the directory");
	scratch->runs_fd = open("runs", DIR_FLAGS);
	if (scratch->runs_fd < 0)
		return err_set_errno(info, ERR_IO, errno, "runs: open the directory");
	for (int i = 0; i < 10; i++)
		if (make_own(scratch))
			return ERR_OK;
	return err_set_errno(info, ERR_IO, errno, "runs/%s", scratch->own_name);
}

void scratch_close(struct scratch *scratch)
{
	if (scratch->own_fd >= 0) {
		(void)unlinkat(scratch->runs_fd, scratch->own_name, AT_REMOVEDIR);
		close(scratch->own_fd);
	}
	if (scratch->runs_fd >= 0)
		close(scratch->runs_fd);
	*scratch = (struct scratch){.runs_fd = -1, .own_fd = -1};
}

static void each_entry(int dir_fd, void (*visit)(int dir_fd, const char *name))
{
	int copy = openat(dir_fd, ".", DIR_FLAGS); /* fdopendir takes the descriptor for itself */
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *entry;

	if (!dir) {
		if (copy >= 0)
			close(copy);
		return;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			visit(dir_fd, entry->d_name);
	closedir(dir);
}

static void unlink_in(int dir_fd, const char *name)
{
	(void)unlinkat(dir_fd, name, 0);
}

/* More than the one file is there only where a sandbox did not hold. */
static void wipe_in(int parent_fd, const char *name)
{
	char data[NAME_MAX + sizeof("/" DATA)];
	int fd;

	snprintf(data, sizeof(data), "%s/" DATA, name);
	(void)unlinkat(parent_fd, data, 0);
	if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || (errno != ENOTEMPTY && errno != EEXIST))
		return;
	fd = openat(parent_fd, name, DIR_FLAGS);
	if (fd < 0)
		return;
	each_entry(fd, unlink_in);
	close(fd);
	(void)unlinkat(parent_fd, name, AT_REMOVEDIR);
}

enum err scratch_make(struct scratch *scratch, struct scratch_dir *dir, int *fd, struct err_info *info)
{
	int data = -1;

	random_name(dir->name);
	*fd = -1;
	if (mkdirat(scratch->own_fd, dir->name, 0700) < 0)
		return err_set_errno(info, ERR_IO, errno, "scratch: make the directory");
	*fd = openat(scratch->own_fd, dir->name, DIR_FLAGS);
	if (*fd >= 0)
		data = openat(*fd, DATA, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (data >= 0) {
		close(data);
		return ERR_OK;
	}
	(void)err_set_errno(info, ERR_IO, errno, "scratch: make the file");
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	scratch_wipe(scratch, dir);
	return ERR_IO;
}

void scratch_wipe(struct scratch *scratch, const struct scratch_dir *dir)
{
	wipe_in(scratch->own_fd, dir->name);
}

/* Our own is locked too, by another open file description, and so stays. */
static void sweep_host(int runs_fd, const char *name)
{
	int fd;

	if (strncmp(name, OWN_PREFIX, strlen(OWN_PREFIX)) != 0)
		return;
	fd = openat(runs_fd, name, DIR_FLAGS);
	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		each_entry(fd, wipe_in);
		(void)unlinkat(runs_fd, name, AT_REMOVEDIR);
	}
	close(fd);
}

void scratch_sweep(struct scratch *scratch)
{
	each_entry(scratch->runs_fd, sweep_host);
}
