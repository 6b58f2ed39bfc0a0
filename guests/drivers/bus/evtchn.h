/* SPDX-License-Identifier: GPL-2.0-only */
/* What evtchn.c (ports) and vector.c (interrupts) share. */
#ifndef _EVTCHN_H
#define _EVTCHN_H

#include <linux/irq_work.h>
#include "bus.h"

/* Counts events that brought work and events that did not. */
struct link_throttle {
	unsigned long since;	/* jiffy in which counting began */
	unsigned int idle, useful;
	unsigned int order;	/* of the next pause, in jiffies */
};

/* Why a port is masked. */
#define MASKED_BY_DRIVER	BIT(0)
#define MASKED_BY_THROTTLE	BIT(1)

struct link_channel {
	struct list_head list;		/* of its vector */
	struct link_vector *vector;
	link_handler_t handler;
	void *data;
	u32 port;
	bool claimed;
	u8 masked;			/* reasons, under link_events.mask_lock */
	struct link_throttle throttle;
	struct delayed_work calm;
};

struct link_vector {
	struct bus_link *bl;
	unsigned int index;
	int irq;
	spinlock_t lock;		/* held while handlers run */
	struct list_head channels;
	unsigned int nr_channels;	/* under link_events.lock */
	struct irq_work rescan;
	struct link_throttle throttle;
	struct delayed_work calm;
	bool stopping;
};

/* Mask a port for one reason; unmask it once there is none left. Any context. */
void channel_mask(struct link_channel *c, u8 reason);
void channel_unmask(struct link_channel *c, u8 reason);

/* From now on, and until detach() returns, the channel's handler may run. */
void channel_attach(struct link_channel *c);
void channel_detach(struct link_channel *c);

/* Whichever vector has the fewest channels. Under link_events.lock. */
struct link_vector *least_used_vector(struct link_events *ev);

int vectors_start(struct bus_link *bl);
void vectors_stop(struct bus_link *bl);

#endif /* _EVTCHN_H */
