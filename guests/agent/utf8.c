// SPDX-License-Identifier: GPL-2.0-only
#include "utf8.h"

size_t utf8_sequence(const char *text, size_t available)
{
	const unsigned char *s = (const unsigned char *)text;
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length;
	uint32_t point;

	if (!available)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc0 && s[0] < 0xe0)
		length = 2;
	else if (s[0] >= 0xe0 && s[0] < 0xf0)
		length = 3;
	else if (s[0] >= 0xf0 && s[0] < 0xf8)
		length = 4;
	else
		return 0;
	if (length > available)
		return 0;

	point = s[0] & (0xff >> (length + 1));
	for (size_t i = 1; i < length; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		point = point << 6 | (s[i] & 0x3f);
	}
	if (point < smallest[length] || point > 0x10ffff ||
	    (point >= 0xd800 && point < 0xe000))
		return 0;
	return length;
}

char *utf8_put(char *to, uint32_t point)
{
	if (point < 0x80) {
		*to++ = point;
	} else if (point < 0x800) {
		*to++ = 0xc0 | point >> 6;
		*to++ = 0x80 | (point & 0x3f);
	} else if (point < 0x10000) {
		*to++ = 0xe0 | point >> 12;
		*to++ = 0x80 | (point >> 6 & 0x3f);
		*to++ = 0x80 | (point & 0x3f);
	} else {
		*to++ = 0xf0 | point >> 18;
		*to++ = 0x80 | (point >> 12 & 0x3f);
		*to++ = 0x80 | (point >> 6 & 0x3f);
		*to++ = 0x80 | (point & 0x3f);
	}
	return to;
}
