/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the JSON parser share; json.h is for everybody else. */
#ifndef JSON_PARSER_H
#define JSON_PARSER_H

#include <stddef.h>

struct parser {
	char *at;
	char *end;		/* *end is NUL, so looking at *at is safe */
	const char *problem;
};

/* Note what is wrong; returns NULL for the caller to return. */
void *parser_fail(struct parser *p, const char *problem);

/*
 * The string after its opening quote, unescaped in place (an escape is never
 * shorter than what it stands for) and terminated. NULL when malformed.
 */
char *parser_string(struct parser *p, size_t *length);

#endif
