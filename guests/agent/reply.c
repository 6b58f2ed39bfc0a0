// SPDX-License-Identifier: GPL-2.0-only
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "reply.h"
#include "utf8.h"

#define MAX_TEXT	65536
#define MAX_BLOBS	2

struct blob {
	size_t position;	/* in the text, where its base64 goes */
	unsigned char *data;
	size_t length;
	size_t sent;
};

static struct {
	char text[MAX_TEXT];
	size_t length, sent;
	bool error, overflow;
	struct blob blobs[MAX_BLOBS];
	size_t nr_blobs, next_blob;
} reply;

static void reset(void)
{
	for (size_t i = 0; i < reply.nr_blobs; i++)
		free(reply.blobs[i].data);
	reply.length = reply.sent = 0;
	reply.nr_blobs = reply.next_blob = 0;
	reply.error = reply.overflow = false;
}

static void put(const char *bytes, size_t length)
{
	if (length > MAX_TEXT - reply.length) {
		reply.overflow = true;
		return;
	}
	memcpy(reply.text + reply.length, bytes, length);
	reply.length += length;
}

void reply_begin(void)
{
	reset();
	reply_raw("{\"return\": ");
}

void reply_raw(const char *json)
{
	put(json, strlen(json));
}

void reply_integer(int64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRId64, value);
	reply_raw(digits);
}

void reply_boolean(bool value)
{
	reply_raw(value ? "true" : "false");
}

void reply_string(const char *value)
{
	size_t left = strlen(value);

	put("\"", 1);
	while (left) {
		size_t bytes = utf8_sequence(value, left);
		char escape[8];

		if (!bytes) {
			reply_raw("\\ufffd");
			bytes = 1;
		} else if (*value == '"' || *value == '\\' ||
			   (unsigned char)*value < 0x20) {
			snprintf(escape, sizeof(escape), "\\u%04x", *value);
			reply_raw(escape);
		} else {
			put(value, bytes);
		}
		value += bytes;
		left -= bytes;
	}
	put("\"", 1);
}

void reply_bytes(unsigned char *data, size_t length)
{
	struct blob *blob = &reply.blobs[reply.nr_blobs];

	if (reply.nr_blobs == MAX_BLOBS) {
		reply.overflow = true;
		free(data);
		return;
	}
	put("\"", 1);
	*blob = (struct blob){ reply.length, data, length, 0 };
	reply.nr_blobs++;
	put("\"", 1);
}

void reply_delimit(void)
{
	memmove(reply.text + 1, reply.text, reply.length);
	reply.text[0] = (char)0xff;
	reply.length++;
}

static void error_of_class(const char *class, const char *description)
{
	reset();
	reply.error = true;
	reply_raw("{\"error\": {\"class\": ");
	reply_string(class);
	reply_raw(", \"desc\": ");
	reply_string(description);
	reply_raw("}");
}

void reply_error(const char *format, ...)
{
	char description[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(description, sizeof(description), format, arguments);
	va_end(arguments);
	error_of_class("GenericError", description);
}

void reply_unknown_command(const char *name)
{
	char description[256];

	snprintf(description, sizeof(description),
		 "The command %s has not been found", name);
	error_of_class("CommandNotFound", description);
}

bool reply_is_error(void)
{
	return reply.error;
}

void reply_end(void)
{
	put("}\n", 2);
	if (reply.overflow) {
		reply_error("the answer is longer than %d bytes", MAX_TEXT);
		put("}\n", 2);
	}
}

void reply_nothing(void)
{
	reset();
}

static size_t next_of_blob(struct blob *blob, char *to, size_t room)
{
	size_t length = blob->length - blob->sent;

	if (length > room / 4 * 3)
		length = room / 4 * 3;
	blob->sent += length;
	return base64_encode(blob->data + blob->sent - length, length, to);
}

size_t reply_next(char *to, size_t room)
{
	while (reply.next_blob < reply.nr_blobs) {
		struct blob *blob = &reply.blobs[reply.next_blob];

		if (reply.sent < blob->position)
			break;
		if (blob->sent < blob->length)
			return next_of_blob(blob, to, room);
		free(blob->data);
		blob->data = NULL;
		reply.next_blob++;
	}

	size_t end = reply.next_blob < reply.nr_blobs ?
		     reply.blobs[reply.next_blob].position : reply.length;
	size_t length = end - reply.sent;

	if (length > room)
		length = room;
	memcpy(to, reply.text + reply.sent, length);
	reply.sent += length;
	return length;
}
