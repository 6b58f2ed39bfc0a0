/* SPDX-License-Identifier: GPL-2.0-only */
/* The event loop: who is called when a descriptor becomes ready. */
#ifndef WATCH_H
#define WATCH_H

#include <stdint.h>

struct watch {
	int fd;		/* -1: closed */
	void (*ready)(struct watch *watch);
};

/* Watch `watch->fd` for EPOLLIN or EPOLLOUT. Returns 0 or -1 with errno. */
int watch_add(struct watch *watch, uint32_t events);

/* Change what is waited for; 0 waits for nothing. */
void watch_change(struct watch *watch, uint32_t events);

/* Stop watching and close; does nothing when closed already. */
void watch_close(struct watch *watch);

#endif
