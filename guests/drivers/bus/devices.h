/* SPDX-License-Identifier: GPL-2.0-only */
/* What devices.c, follow.c, scan.c and discovery.c share. */
#ifndef _DEVICES_H
#define _DEVICES_H

#include "bus.h"

/* A node that may be a device. */
struct bus_node {
	bool backend;
	const char *type, *id;
	unsigned int domid;	/* of the other end */
	const char *path;
};

/* Not on the bus yet; until it is, put_device() frees it. NULL: no memory. */
struct pvbus_device *new_device(struct bus_link *link,
				const struct bus_node *node);

/* Takes over the reference to @dev. */
int add_device(struct bus_link *bl, struct pvbus_device *dev,
	       const struct bus_node *node);

/* The first console is in start info: the toolstack has set it up already. */
int add_first_console(struct bus_link *bl);

/* Remove the devices that have not been seen; were there any? */
bool remove_unseen(struct bus_link *bl);

/* Where its other end is, by the store; to be kfree()d, or an ERR_PTR. */
char *read_otherend_path(struct pvbus_device *dev);

/* The same, for a device that is new. */
int read_otherend(struct pvbus_device *dev);

/* The store may be another one: have the backend that is there now. */
void follow_backend(struct pvbus_device *dev);

/* Compare the nodes that are there with the devices that we have. */
void scan_nodes(struct node_watch *nodes, bool backend);

#endif /* _DEVICES_H */
