// SPDX-License-Identifier: GPL-2.0-only
/*
 * A small guest agent that speaks QEMU's guest agent protocol.
 *
 *	agent [DEVICE]
 *
 * DEVICE is a character device, /dev/ttyS1 by default, or "-": standard input
 * is a connected socket. The agent ends when the port is closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "exec.h"
#include "fault.h"
#include "port.h"
#include "watch.h"

#define DEFAULT_DEVICE	"/dev/ttyS1"
#define DEFAULT_PATH	"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static int epoll;

int watch_add(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { events, { .ptr = watch } };

	return epoll_ctl(epoll, EPOLL_CTL_ADD, watch->fd, &event);
}

void watch_change(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { events, { .ptr = watch } };

	epoll_ctl(epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

void watch_close(struct watch *watch)
{
	if (watch->fd < 0)
		return;
	epoll_ctl(epoll, EPOLL_CTL_DEL, watch->fd, NULL);
	close(watch->fd);
	watch->fd = -1;
}

static void child_ended(struct watch *watch)
{
	struct signalfd_siginfo info;

	/* Signals coalesce, so their number says nothing. */
	if (read(watch->fd, &info, sizeof(info)) > 0)
		exec_reap();
}

static struct watch children = { .ready = child_ended };

static int watch_children(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	children.fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	return children.fd < 0 ? -1 : watch_add(&children, EPOLLIN);
}

/* Without them, a pipe or the port would become some command's output. */
static void open_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static int fail(const char *what)
{
	fault("%s: %s", what, strerror(errno));
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : DEFAULT_DEVICE;

	if (argc > 2) {
		fprintf(stderr, "usage: %s [DEVICE]\n", argv[0]);
		return 2;
	}
	open_standard_descriptors();
	/* init may have started us with no environment at all. */
	setenv("PATH", DEFAULT_PATH, 0);
	signal(SIGPIPE, SIG_IGN);

	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0 || watch_children() < 0)
		return fail("starting");
	if (port_open(device) < 0)
		return fail(device);

	for (;;) {
		struct epoll_event event;
		int ready;

		/* One at a time: handling it may free what others are for. */
		ready = epoll_wait(epoll, &event, 1, -1);
		if (ready < 0 && errno != EINTR)
			return fail("epoll_wait");
		if (ready == 1) {
			struct watch *watch = event.data.ptr;

			watch->ready(watch);
		}
	}
}
