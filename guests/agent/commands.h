/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The commands of QEMU's guest agent protocol, as in QEMU's
 * qga/qapi-schema.json. A handler finds its arguments checked against the
 * table in commands.c, and writes the value of "return" or an error with the
 * functions of reply.h.
 */
#ifndef COMMANDS_H
#define COMMANDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json;

/* Work on one request (changed in place) and leave the answer in reply.h. */
void commands_handle(char *text, size_t length);

/* Answer a request that could not even be read. */
void commands_reject(const char *problem);

/* Arguments of a handler, or the default when they are absent. */
const char *argument_string(const struct json *arguments, const char *name,
			    const char *otherwise);
int64_t argument_integer(const struct json *arguments, const char *name,
			 int64_t otherwise);
bool argument_boolean(const struct json *arguments, const char *name,
		      bool otherwise);

/*
 * Bytes given as base64, in memory for the caller to free. NULL (with the
 * error in the reply) when they are malformed or memory is short; also NULL,
 * with *length 0 and no error, when the argument is absent.
 */
unsigned char *argument_bytes(const struct json *arguments, const char *name,
			      size_t *length);

void guest_exec(const struct json *arguments);
void guest_exec_status(const struct json *arguments);
void guest_file_open(const struct json *arguments);
void guest_file_close(const struct json *arguments);
void guest_file_read(const struct json *arguments);
void guest_file_write(const struct json *arguments);
void guest_file_seek(const struct json *arguments);
void guest_file_flush(const struct json *arguments);
void guest_network_get_interfaces(const struct json *arguments);
void guest_shutdown(const struct json *arguments);

#endif
