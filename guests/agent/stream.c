// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "stream.h"

#define MAX_CAPTURE	(16u << 20)	/* one stream; as in QEMU's agent */
#define MAX_ALL		(64u << 20)	/* all streams of all commands */
#define CHUNK		65536u

static size_t allocated;	/* by all captures together */

/* Make room for another chunk; false when the limits or memory forbid it. */
static bool grow(struct capture *capture)
{
	size_t size = capture->size ? 2 * capture->size : CHUNK;
	unsigned char *data;

	if (capture->length < capture->size)
		return true;
	if (size > MAX_CAPTURE || allocated + size - capture->size > MAX_ALL)
		return false;
	data = realloc(capture->data, size);
	if (!data)
		return false;
	allocated += size - capture->size;
	capture->data = data;
	capture->size = size;
	return true;
}

static void capture_ready(struct watch *watch)
{
	struct capture *capture = (struct capture *)watch;
	static unsigned char dropped[CHUNK];
	bool keep = !capture->truncated && grow(capture);
	ssize_t got;

	if (keep)
		got = read(watch->fd, capture->data + capture->length,
			   capture->size - capture->length);
	else
		got = read(watch->fd, dropped, sizeof(dropped));
	if (got > 0 && keep)
		capture->length += got;
	else if (got > 0)
		capture->truncated = true;
	else if (got == 0 || (errno != EAGAIN && errno != EINTR))
		watch_close(watch);
}

/* A pipe whose end number `ours` does not block. */
static int open_pipe(int ends[2], int ours)
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	return fcntl(ends[ours], F_SETFL, O_NONBLOCK);
}

static int watch_end(int ends[2], int ours, struct watch *watch, int events)
{
	watch->fd = ends[ours];
	if (watch_add(watch, events) == 0)
		return ends[!ours];
	close(ends[0]);
	close(ends[1]);
	watch->fd = -1;
	return -1;
}

int capture_open(struct capture *capture)
{
	int ends[2];

	*capture = (struct capture){ .watch = { -1, capture_ready } };
	if (open_pipe(ends, 0) < 0)
		return -1;
	return watch_end(ends, 0, &capture->watch, EPOLLIN);
}

bool capture_done(const struct capture *capture)
{
	return capture->watch.fd < 0;
}

unsigned char *capture_take(struct capture *capture)
{
	unsigned char *data = capture->data;

	allocated -= capture->size;
	capture->data = NULL;
	capture->length = capture->size = 0;
	return data;
}

void capture_close(struct capture *capture)
{
	watch_close(&capture->watch);
	free(capture_take(capture));
}

static void feed_ready(struct watch *watch)
{
	struct feed *feed = (struct feed *)watch;
	ssize_t done = write(watch->fd, feed->data + feed->sent,
			     feed->length - feed->sent);

	if (done < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (done > 0)
		feed->sent += done;
	/* A command that closes its input early is none of our business. */
	if (done < 0 || feed->sent == feed->length)
		feed_close(feed);
}

int feed_open(struct feed *feed, unsigned char *data, size_t length)
{
	int ends[2];

	*feed = (struct feed){ { -1, feed_ready }, data, length, 0 };
	if (open_pipe(ends, 1) < 0)
		return -1;
	return watch_end(ends, 1, &feed->watch, EPOLLOUT);
}

void feed_close(struct feed *feed)
{
	watch_close(&feed->watch);
	free(feed->data);
	feed->data = NULL;
}
