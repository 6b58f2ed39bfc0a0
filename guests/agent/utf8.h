/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>
#include <stdint.h>

/*
 * Bytes of the UTF-8 sequence at `text`, 0 if it is malformed: cut off,
 * overlong, a surrogate, or beyond U+10FFFF. Bytes below 0x80 count as one.
 */
size_t utf8_sequence(const char *text, size_t available);

/* Write a character (1 to 4 bytes); returns where the next one goes. */
char *utf8_put(char *to, uint32_t point);

#endif
