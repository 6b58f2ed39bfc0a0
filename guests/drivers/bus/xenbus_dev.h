/* SPDX-License-Identifier: GPL-2.0-only */
/* An open /dev/xen/xenbus: xenbus_dev.c is the file, xenbus_file.c its requests. */
#ifndef _XENBUS_DEV_H
#define _XENBUS_DEV_H

#include "bus.h"

/* A program that does not read loses its connection beyond so many bytes. */
#define XENBUS_QUEUE_MAX (256 * 1024)

struct xenbus_file {
	struct list_head list;		/* of all that are open */
	struct store *store;		/* NULL: its link has gone */

	struct mutex lock;		/* a request, and the next four */
	struct xsd_sockmsg header;
	char body[XENSTORE_PAYLOAD_MAX + 1];
	u32 received;			/* bytes of header and body */
	struct list_head transactions;
	struct list_head watches;

	struct mutex queue_lock;	/* answers and events, not yet read */
	struct list_head queue;
	u32 queued;			/* bytes */
	bool overflowed;
	wait_queue_head_t wait;
};

/* A message to be read; from @taken on it has not been yet. */
struct xenbus_answer {
	struct list_head list;
	u32 len, taken;
	char bytes[];
};

/* Act on the complete request in header and body. Returns 0 or an errno. */
int xenbus_file_request(struct xenbus_file *file);

/* End its watches and transactions. */
void xenbus_file_reset(struct xenbus_file *file);

#endif /* _XENBUS_DEV_H */
