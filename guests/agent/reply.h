/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The answer to one request, and how it is put together. There is only one at
 * a time: the next request is not looked at before this answer is out. Text
 * has a fixed bound; large data is kept as bytes and becomes base64 while it
 * is sent, so that it is never held twice.
 */
#ifndef REPLY_H
#define REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Start a successful answer: what follows writes the value of "return". */
void reply_begin(void);

/* Literal JSON. */
void reply_raw(const char *json);

/* A number, a boolean, a string (quoted, escaped, made valid UTF-8). */
void reply_integer(int64_t value);
void reply_boolean(bool value);
void reply_string(const char *value);

/* Bytes as a base64 string. Takes over `data`, which malloc() gave. */
void reply_bytes(unsigned char *data, size_t length);

/* Put the byte 0xFF before the answer (guest-sync-delimited). */
void reply_delimit(void);

/* Throw away what has been written: the answer is an error. */
void reply_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void reply_unknown_command(const char *name);
bool reply_is_error(void);

/* Close the answer; from here on reply_next() hands it out. */
void reply_end(void);

/* The request gets no answer. */
void reply_nothing(void);

/*
 * The next bytes to send, at most `room` (at least 4) of them, written to
 * `to`. Returns 0 when all has been handed out.
 */
size_t reply_next(char *to, size_t room);

#endif
