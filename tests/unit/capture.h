/* capture.h - for tests: what a piece of code writes to stderr or stdout, as text. Thread: one. */
#ifndef PINION_TESTS_UNIT_CAPTURE_H
#define PINION_TESTS_UNIT_CAPTURE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct capture {
	int fd, file, saved;
	char text[16384]; /* NUL-terminated, cut at its size */
};

static inline void capture_begin(struct capture *c, int fd)
{
	char name[] = "/tmp/capture-XXXXXX";

	fflush(NULL);
	c->fd = fd;
	c->file = mkstemp(name);
	if (c->file < 0)
		abort();
	unlink(name);
	c->saved = dup(fd);
	dup2(c->file, fd);
}

static inline const char *capture_end(struct capture *c)
{
	ssize_t n;

	fflush(NULL);
	dup2(c->saved, c->fd);
	close(c->saved);
	n = pread(c->file, c->text, sizeof(c->text) - 1, 0);
	c->text[n > 0 ? n : 0] = 0;
	close(c->file);
	return c->text;
}

#endif
