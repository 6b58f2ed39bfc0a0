/* SPDX-License-Identifier: GPL-2.0-only */
/* The pipes to and from a running command. */
#ifndef STREAM_H
#define STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "watch.h"

/* What a command prints, kept up to a limit; the rest is read and dropped. */
struct capture {
	struct watch watch;
	unsigned char *data;
	size_t length, size;
	bool truncated;
};

/* What a command reads. */
struct feed {
	struct watch watch;
	unsigned char *data;
	size_t length, sent;
};

/* Make a pipe and keep its read end; returns the write end or -1, errno. */
int capture_open(struct capture *capture);

/* True once every writer has closed the pipe. */
bool capture_done(const struct capture *capture);

/* Hand the bytes over to the caller, who frees them. */
unsigned char *capture_take(struct capture *capture);

/* Close and free. */
void capture_close(struct capture *capture);

/*
 * Make a pipe and write `length` bytes of `data` into it as its reader takes
 * them, then close it. Takes over `data`. Returns the read end, or -1, errno.
 */
int feed_open(struct feed *feed, unsigned char *data, size_t length);
void feed_close(struct feed *feed);

#endif
