/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A JSON parser for untrusted requests. It works in place on the text, takes
 * its nodes from one fixed pool, and so needs no memory that the sender could
 * make grow. One document at a time: parsing reuses the pool.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_MAX_NODES		4096
#define JSON_MAX_DEPTH		16
#define JSON_MAX_MEMBERS	32	/* of one object */

enum json_type {
	JSON_NULL,
	JSON_BOOLEAN,
	JSON_INTEGER,	/* fits into 64 bits, signed */
	JSON_REAL,	/* any other number; the value is not kept */
	JSON_STRING,
	JSON_ARRAY,
	JSON_OBJECT,
};

struct json {
	enum json_type type;
	const char *name;	/* in an object */
	union {
		bool boolean;
		int64_t integer;
		char *string;	/* terminated; holds no other NUL */
	};
	size_t length;		/* of the string; number of children */
	struct json *child;	/* first child of an array or object */
	struct json *next;	/* next child of the same parent */
};

/*
 * Parse `length` bytes; text[length] must be writable. Strings of the result
 * point into the text. Returns NULL and sets *problem when it is not JSON or
 * beyond the limits above.
 */
struct json *json_parse(char *text, size_t length, const char **problem);

/* The member of an object, or NULL. */
const struct json *json_member(const struct json *object, const char *name);

/* What a type is called in errors. */
const char *json_type_name(enum json_type type);

#endif
