/* SPDX-License-Identifier: GPL-2.0-only */
/* Base64 (RFC 4648, section 4) as the guest agent protocol carries bytes. */
#ifndef BASE64_H
#define BASE64_H

#include <stddef.h>
#include <sys/types.h>

/* Characters that encoding `n` bytes gives, no terminator. */
#define BASE64_LENGTH(n) (((n) + 2) / 3 * 4)

/* Encode; `to` has room for BASE64_LENGTH(length). Returns that length. */
size_t base64_encode(const unsigned char *from, size_t length, char *to);

/*
 * Decode strictly: no white space, padding required, no stray bits. `to` has
 * room for length / 4 * 3 bytes and may be `from` itself. Returns the number
 * of bytes, or -1 when `from` is not base64.
 */
ssize_t base64_decode(const char *from, size_t length, unsigned char *to);

#endif
