// SPDX-License-Identifier: GPL-2.0-only
#include <string.h>

#include "json_parser.h"
#include "utf8.h"

void *parser_fail(struct parser *p, const char *problem)
{
	p->problem = problem;
	return NULL;
}

/* The four hexadecimal digits after \u; -1 if they are not. */
static int32_t parse_hex(struct parser *p)
{
	int32_t value = 0;

	if (p->end - p->at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = *p->at++;

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if (c >= 'a' && c <= 'f')
			value |= c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value |= c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/* A character given as \uXXXX, or as a surrogate pair of two; 0 if bad. */
static uint32_t parse_unicode_escape(struct parser *p)
{
	int32_t point = parse_hex(p);
	int32_t low;

	if (point < 0)
		return 0;
	if (point < 0xd800 || point >= 0xe000)
		return point;
	if (point >= 0xdc00 || p->end - p->at < 2 || p->at[0] != '\\' ||
	    p->at[1] != 'u')
		return 0;
	p->at += 2;
	low = parse_hex(p);
	if (low < 0xdc00 || low >= 0xe000)
		return 0;
	return 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
}

/* Put down what the escape after a backslash means; NULL when malformed. */
static char *parse_escape(struct parser *p, char *to)
{
	static const char names[] = "\"\\/bfnrt";
	static const char meanings[] = "\"\\/\b\f\n\r\t";
	char c = p->at < p->end ? *p->at++ : 0;
	const char *found = c ? strchr(names, c) : NULL;
	uint32_t point;

	if (found) {
		*to++ = meanings[found - names];
		return to;
	}
	if (c != 'u')
		return parser_fail(p, "bad escape in a string");
	point = parse_unicode_escape(p);
	if (!point)
		return parser_fail(p, "bad or NUL \\u escape in a string");
	return utf8_put(to, point);
}

char *parser_string(struct parser *p, size_t *length)
{
	char *start = p->at;
	char *to = start;

	while (p->at < p->end && *p->at != '"') {
		size_t bytes;

		if ((unsigned char)*p->at < 0x20)
			return parser_fail(p, "control character in a string");
		if (*p->at == '\\') {
			p->at++;
			to = parse_escape(p, to);
			if (!to)
				return NULL;
			continue;
		}
		if ((unsigned char)*p->at < 0x80) {
			*to++ = *p->at++;
			continue;
		}
		bytes = utf8_sequence(p->at, p->end - p->at);
		if (!bytes)
			return parser_fail(p, "malformed UTF-8 in a string");
		memmove(to, p->at, bytes);
		to += bytes;
		p->at += bytes;
	}
	if (p->at == p->end)
		return parser_fail(p, "unterminated string");
	p->at++;
	*to = 0;
	*length = to - start;
	return start;
}
