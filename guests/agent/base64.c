// SPDX-License-Identifier: GPL-2.0-only
#include <stdint.h>
#include <string.h>

#include "base64.h"

static const char digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_encode(const unsigned char *from, size_t length, char *to)
{
	char *start = to;

	for (; length >= 3; length -= 3, from += 3) {
		uint32_t bits = from[0] << 16 | from[1] << 8 | from[2];

		*to++ = digits[bits >> 18];
		*to++ = digits[bits >> 12 & 63];
		*to++ = digits[bits >> 6 & 63];
		*to++ = digits[bits & 63];
	}
	if (length) {
		uint32_t bits = from[0] << 16;

		if (length == 2)
			bits |= from[1] << 8;
		*to++ = digits[bits >> 18];
		*to++ = digits[bits >> 12 & 63];
		*to++ = length == 2 ? digits[bits >> 6 & 63] : '=';
		*to++ = '=';
	}
	return to - start;
}

static int digit_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	return c == '/' ? 63 : -1;
}

ssize_t base64_decode(const char *from, size_t length, unsigned char *to)
{
	unsigned char *start = to;
	size_t padding = 0;

	if (length % 4)
		return -1;
	while (padding < 2 && padding < length &&
	       from[length - 1 - padding] == '=')
		padding++;

	for (size_t i = 0; i < length; i += 4) {
		size_t missing = i + 4 == length ? padding : 0;
		uint32_t bits = 0;

		for (size_t k = 0; k < 4; k++) {
			int value = 0;

			if (k < 4 - missing)
				value = digit_value(from[i + k]);
			if (value < 0)
				return -1;
			bits = bits << 6 | (uint32_t)value;
		}
		/* Bits that no byte is made of would be lost silently. */
		if (bits & ((1u << (8 * missing)) - 1))
			return -1;
		*to++ = bits >> 16;
		if (missing < 2)
			*to++ = bits >> 8;
		if (missing < 1)
			*to++ = bits;
	}
	return to - start;
}
