/* SPDX-License-Identifier: GPL-2.0-only */
/* A console: two rings of bytes in a page, and a terminal on top. */
#ifndef _PVCON_H
#define _PVCON_H

#include <linux/irqreturn.h>
#include <linux/spinlock.h>
#include <xen/interface/io/console.h>
#include "pvbus.h"

/* As many terminals as the hvc driver has devices for: hvc0 is the first. */
#define PVCON_MAX	8

struct hvc_struct;

/*
 * There is one for each terminal, in use or not, and it stays where it is: hvc's
 * callbacks get nothing but a number to find it by, and may come late.
 */
struct pvcon {
	spinlock_t lock;	/* of all up to hvc */
	struct xencons_interface *ring;	/* NULL: there is no console */
	struct link *link;
	u32 port;
	u32 in_cons;		/* our indices; what the ring has are copies */
	u32 out_prod;
	u32 seen_out_cons;
	bool stalled;		/* nothing was consumed for all our patience */
	bool broken;		/* the other end had indices that cannot be */
	bool reported;		/* ... and the log says so */
	struct hvc_struct *hvc;
	struct link_grant page;	/* of a console that we have made */
};

/* Console number @number, or NULL when there can be no such. */
struct pvcon *pvcon_get(unsigned int number);
void pvcon_init_all(void);

/* Use a page, from where its indices are, and make its terminal. */
int pvcon_open(struct pvcon *con, struct link *link,
	       struct xencons_interface *ring);

/* The terminal goes away; whoever has it open is hung up. Sleeps. */
void pvcon_close(struct pvcon *con);

/* Leave the page alone: there is nobody at the other end any more. */
void pvcon_detach(struct pvcon *con);

/* The port to notify the other end through, or 0. */
void pvcon_set_port(struct pvcon *con, u32 port);

/* The handler of its event channel; @data is the console. */
irqreturn_t pvcon_event(u32 port, void *data);

#endif /* _PVCON_H */
