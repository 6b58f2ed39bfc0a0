// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "commands.h"
#include "fault.h"
#include "port.h"
#include "reply.h"
#include "watch.h"

#define MAX_REQUEST	(1 << 20)
#define SENTINEL	0xff
/* Tells the client that an agent has just started: no answer is an empty line. */
#define HELLO		"\xff\n"

static void port_ready(struct watch *watch);

static struct watch port = { .ready = port_ready };

static struct {
	char data[MAX_REQUEST + 1];	/* + 1: room for a terminator */
	size_t length;
	size_t scanned;		/* bytes known to hold no end of a request */
	bool discarding;	/* inside a request that is too long */
} input;

static struct {
	char data[4096];
	size_t length, sent;
} output;

static void consume(size_t bytes)
{
	input.length -= bytes;
	input.scanned = 0;
	memmove(input.data, input.data + bytes, input.length);
}

/* Handle the first complete request in the buffer. False if there is none. */
static bool take_request(void)
{
	while (input.scanned < input.length) {
		unsigned char c = input.data[input.scanned++];
		size_t length = input.scanned - 1;

		if (c != '\n' && c != SENTINEL)
			continue;
		if (c == '\n' && input.discarding)
			commands_reject("the request is too long");
		else if (c == '\n')
			commands_handle(input.data, length);
		input.discarding = false;
		consume(length + 1);
		if (c == '\n')
			return true;
	}
	if (input.length == MAX_REQUEST) {
		input.discarding = true;
		consume(input.length);
	}
	return false;
}

/* Returns true when the whole answer has been written. */
static bool send_reply(void)
{
	for (;;) {
		ssize_t done;

		if (output.sent == output.length) {
			output.sent = 0;
			output.length = reply_next(output.data,
						   sizeof(output.data));
			if (!output.length)
				return true;
		}
		done = write(port.fd, output.data + output.sent,
			     output.length - output.sent);
		if (done < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		if (done < 0) {
			fault("writing to the port: %s", strerror(errno));
			exit(EXIT_FAILURE);
		}
		output.sent += done;
	}
}

static void receive(void)
{
	ssize_t got = read(port.fd, input.data + input.length,
			   MAX_REQUEST - input.length);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		fault("the port is closed: %s",
		      got ? strerror(errno) : "end of file");
		exit(EXIT_FAILURE);
	}
	input.length += got;
}

static void port_ready(struct watch *watch)
{
	bool sending = output.sent < output.length;

	if (!sending)
		receive();
	do {
		if (!send_reply()) {
			watch_change(watch, EPOLLOUT);
			return;
		}
	} while (take_request());
	if (sending)
		watch_change(watch, EPOLLIN);
}

/*
 * 115200 bit/s is the fastest that every UART of a PC does, and what a driver
 * derives the delay from after which it hands over a part of a full FIFO.
 */
static int make_raw(int fd)
{
	struct termios settings;

	if (tcgetattr(fd, &settings) < 0)
		return -1;
	cfmakeraw(&settings);
	settings.c_cflag |= CLOCAL | CREAD;
	settings.c_cflag &= ~CRTSCTS;
	settings.c_cc[VMIN] = 1;
	settings.c_cc[VTIME] = 0;
	cfsetspeed(&settings, B115200);
	return tcsetattr(fd, TCSANOW, &settings);
}

/*
 * Let the UART collect more of its FIFO before it interrupts. An emulated one
 * takes in no more than up to this level at a time, so that for it this is the
 * speed of long requests; what is left below the level comes after a delay of a
 * few characters. Ports without the attribute do without.
 */
static void raise_trigger_level(const char *device)
{
	const char *slash = strrchr(device, '/');
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/class/tty/%s/rx_trig_bytes",
		 slash ? slash + 1 : device);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (dprintf(fd, "14") < 0)
		fault("%s: %s", path, strerror(errno));
	close(fd);
}

/* Standard input becomes /dev/null, so that no command ever reads the port. */
static int take_over_stdin(void)
{
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int flags;

	if (fd < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0)
		return -1;
	close(null);
	flags = fcntl(fd, F_GETFL);
	return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1 : fd;
}

int port_open(const char *name)
{
	if (!strcmp(name, "-"))
		port.fd = take_over_stdin();
	else
		port.fd = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (port.fd < 0)
		return -1;
	if (isatty(port.fd)) {
		if (make_raw(port.fd) < 0)
			return -1;
		raise_trigger_level(name);
	}

	memcpy(output.data, HELLO, strlen(HELLO));
	output.length = strlen(HELLO);
	return watch_add(&port, EPOLLOUT);
}
