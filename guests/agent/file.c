// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "json.h"
#include "reply.h"

#define MAX_FILES	32
#define MAX_READ	(1 << 20)	/* a longer read is answered with less */
#define DEFAULT_READ	4096

/* Handles are never used twice, so that a stale one cannot hit another file. */
static struct file {
	int64_t handle;		/* 0: this place is free */
	int fd;
} files[MAX_FILES];

static int64_t last_handle = 1000;

/* The file of the argument "handle"; NULL with the error in the reply. */
static struct file *find_file(const struct json *arguments)
{
	int64_t handle = argument_integer(arguments, "handle", 0);

	for (size_t i = 0; i < MAX_FILES; i++)
		if (handle > 0 && files[i].handle == handle)
			return &files[i];
	reply_error("no open file has the handle %lld", (long long)handle);
	return NULL;
}

/* The modes of fopen(); the letter b means nothing on Linux. -1 if unknown. */
static int flags_of_mode(const char *mode)
{
	static const struct {
		const char *mode;
		int flags;
	} modes[] = {
		{ "r", O_RDONLY },
		{ "w", O_WRONLY | O_CREAT | O_TRUNC },
		{ "a", O_WRONLY | O_CREAT | O_APPEND },
		{ "r+", O_RDWR },
		{ "w+", O_RDWR | O_CREAT | O_TRUNC },
		{ "a+", O_RDWR | O_CREAT | O_APPEND },
	};
	char plain[4] = "";
	size_t length = 0;

	for (; *mode && length < sizeof(plain) - 1; mode++)
		if (*mode != 'b' || !length)
			plain[length++] = *mode;
	for (size_t i = 0; !*mode && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(modes[i].mode, plain))
			return modes[i].flags;
	return -1;
}

void guest_file_open(const struct json *arguments)
{
	const char *path = argument_string(arguments, "path", "");
	const char *mode = argument_string(arguments, "mode", "r");
	int flags = flags_of_mode(mode);
	struct file *file = files;

	if (flags < 0) {
		reply_error("guest-file-open: there is no mode %s", mode);
		return;
	}
	while (file < files + MAX_FILES && file->handle)
		file++;
	if (file == files + MAX_FILES) {
		reply_error("guest-file-open: %d files are open already",
			    MAX_FILES);
		return;
	}
	/* A FIFO or a terminal must not hold up everybody else's requests. */
	file->fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
	if (file->fd < 0) {
		reply_error("cannot open %s: %s", path, strerror(errno));
		return;
	}
	file->handle = ++last_handle;
	reply_integer(file->handle);
}

void guest_file_close(const struct json *arguments)
{
	struct file *file = find_file(arguments);

	if (!file)
		return;
	file->handle = 0;
	if (close(file->fd) < 0)
		reply_error("closing the file: %s", strerror(errno));
	else
		reply_raw("{}");
}

/* Read until `count` bytes are there or nothing more is; -1 with errno. */
static ssize_t read_up_to(int fd, unsigned char *data, size_t count, bool *eof)
{
	size_t length = 0;

	*eof = false;
	while (length < count && !*eof) {
		ssize_t got = read(fd, data + length, count - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			/* Nothing yet is not an error, nor the end. */
			return length || errno == EAGAIN ? (ssize_t)length : -1;
		*eof = got == 0;
		length += got;
	}
	return length;
}

void guest_file_read(const struct json *arguments)
{
	struct file *file = find_file(arguments);
	int64_t count = argument_integer(arguments, "count", DEFAULT_READ);
	unsigned char *data;
	ssize_t length;
	bool eof;

	if (!file)
		return;
	if (count < 0) {
		reply_error("guest-file-read: count is negative");
		return;
	}
	if (count > MAX_READ)
		count = MAX_READ;
	data = malloc(count + 1);
	length = data ? read_up_to(file->fd, data, count, &eof) : -1;
	if (length < 0) {
		reply_error("reading the file: %s", strerror(errno));
		free(data);
		return;
	}
	reply_raw("{\"count\": ");
	reply_integer(length);
	reply_raw(", \"buf-b64\": ");
	reply_bytes(data, length);
	reply_raw(", \"eof\": ");
	reply_boolean(eof);
	reply_raw("}");
}

void guest_file_write(const struct json *arguments)
{
	struct file *file = find_file(arguments);
	unsigned char *data;
	size_t length;
	int64_t count;
	ssize_t done;

	if (!file)
		return;
	data = argument_bytes(arguments, "buf-b64", &length);
	if (!data)
		return;
	count = argument_integer(arguments, "count", length);
	if (count < 0 || count > (int64_t)length) {
		reply_error("guest-file-write: count is not within the data");
		free(data);
		return;
	}
	done = write(file->fd, data, count);
	free(data);
	if (done < 0) {
		reply_error("writing to the file: %s", strerror(errno));
		return;
	}
	reply_raw("{\"count\": ");
	reply_integer(done);
	reply_raw(", \"eof\": false}");
}

/* SEEK_SET and so on from the protocol's number or name; -1 if neither. */
static int whence_of(const struct json *whence)
{
	static const char *const names[] = { "set", "cur", "end" };
	static const int values[] = { SEEK_SET, SEEK_CUR, SEEK_END };

	for (int i = 0; i < 3; i++)
		if (whence->type == JSON_INTEGER ? whence->integer == i :
						   !strcmp(whence->string, names[i]))
			return values[i];
	return -1;
}

void guest_file_seek(const struct json *arguments)
{
	struct file *file = find_file(arguments);
	int whence = whence_of(json_member(arguments, "whence"));
	off_t position;

	if (!file)
		return;
	if (whence < 0) {
		reply_error("guest-file-seek: whence is set, cur or end");
		return;
	}
	position = lseek(file->fd, argument_integer(arguments, "offset", 0),
			 whence);
	if (position < 0) {
		reply_error("seeking in the file: %s", strerror(errno));
		return;
	}
	reply_raw("{\"position\": ");
	reply_integer(position);
	reply_raw(", \"eof\": false}");
}

/* Nothing is buffered here, so what has been written is in the kernel. */
void guest_file_flush(const struct json *arguments)
{
	if (find_file(arguments))
		reply_raw("{}");
}
