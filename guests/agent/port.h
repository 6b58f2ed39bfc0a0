/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The port to the client: requests are lines of JSON, the byte 0xFF throws
 * away what came before it. One request is worked on at a time, and nothing is
 * read while an answer waits to be sent.
 */
#ifndef PORT_H
#define PORT_H

/*
 * Open a serial device in raw mode, or take over standard input when the name
 * is "-". Returns 0 or -1 with errno.
 */
int port_open(const char *name);

#endif
