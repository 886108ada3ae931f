/* control.c - see control.h. */
#include "worker/host/control.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "proto/codec.h"

struct waiting_report {
	struct waiting_report *next;
	struct bytes *bytes;
};

void control_init(struct control *control, int fd)
{
	*control = (struct control){.fd = fd};
	arena_init(&control->arena, 64 << 10);
	control->last = &control->first;
}

static void drop_first(struct control *control)
{
	struct waiting_report *report = control->first;

	control->first = report->next;
	if (!control->first)
		control->last = &control->first;
	bytes_unref(report->bytes);
	free(report);
}

void control_finish(struct control *control)
{
	while (control->first)
		drop_first(control);
	arena_finish(&control->arena);
	close(control->fd);
}

/* Takes the first descriptor and closes any other: a command comes with one at most. */
static int take_descriptor(struct msghdr *message)
{
	int taken = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (taken < 0)
				taken = fd;
			else
				close(fd);
		}
	}
	return taken;
}

enum err control_receive(struct control *control, struct host_command *out, int *socket, struct err_info *info)
{
	char bytes[HOST_MESSAGE_MAX], ancillary[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ancillary, .msg_controllen = sizeof(ancillary)};
	ssize_t n = recvmsg(control->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	enum err err;

	*socket = -1;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return ERR_AGAIN;
	if (n <= 0)
		return err_set(info, ERR_DISCONNECTED, NULL);
	*socket = take_descriptor(&message);
	arena_reset(&control->arena);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		err = err_set(info, ERR_PROTOCOL, "a command is too long or brings too many descriptors");
	else
		err = host_command_decode(&control->arena, out, str_of(bytes, (size_t)n), info);
	if (err != ERR_OK && *socket >= 0) {
		close(*socket);
		*socket = -1;
	}
	return err;
}

static bool send_now(struct control *control, struct str packet)
{
	ssize_t n = send(control->fd, packet.p, packet.n, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n >= 0 || (errno != EAGAIN && errno != EINTR && errno != ENOBUFS);
}

static void keep(struct control *control, struct str packet)
{
	struct waiting_report *report = calloc(1, sizeof(*report));

	if (!report)
		abort();
	report->bytes = bytes_create(packet.p, packet.n);
	*control->last = report;
	control->last = &report->next;
}

void control_report(struct control *control, const struct host_report *report)
{
	struct buf packet = {0};

	if (host_report_encode(report, &packet) == ERR_OK && (control->first || !send_now(control, buf_str(&packet))))
		keep(control, buf_str(&packet));
	buf_finish(&packet);
}

void control_flush(struct control *control)
{
	while (control->first && send_now(control, bytes_str(control->first->bytes)))
		drop_first(control);
}

bool control_has_waiting(const struct control *control)
{
	return control->first != NULL;
}
