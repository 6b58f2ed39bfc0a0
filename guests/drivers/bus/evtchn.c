// SPDX-License-Identifier: GPL-2.0-only
/*
 * Event channels: one byte says that a port is pending, one that it is masked,
 * and a doorbell vector of the device, which several ports may share, wakes the
 * end that owns the port.
 */
#include <linux/slab.h>
#include <xen/interface/event_channel.h>
#include "evtchn.h"
#include "trace.h"

union port_entry {
	struct link_port port;
	u64 raw;
};

/* A copy of one entry, read at once so that it is of one moment. */
static struct link_port read_port(struct bus_link *bl, int end, u32 port)
{
	union port_entry e = { .raw = READ_ONCE(bl->events.ports[end][port]) };

	return e.port;
}

static void write_port(struct bus_link *bl, int end, u32 port, u16 state,
		       u16 vector, u32 remote)
{
	union port_entry e = { .port = {
		.state = state, .vector = vector, .remote_port = remote,
	} };

	WRITE_ONCE(bl->events.ports[end][port], e.raw);
}

/* ---- masking ----------------------------------------------------------- */

void channel_mask(struct link_channel *c, u8 reason)
{
	struct link_events *ev = &c->vector->bl->events;
	unsigned long flags;

	spin_lock_irqsave(&ev->mask_lock, flags);
	WRITE_ONCE(c->masked, c->masked | reason);
	WRITE_ONCE(ev->mask[ME][c->port], 1);
	spin_unlock_irqrestore(&ev->mask_lock, flags);
}

void channel_unmask(struct link_channel *c, u8 reason)
{
	struct bus_link *bl = c->vector->bl;
	struct link_events *ev = &bl->events;
	unsigned long flags;
	u8 masked;

	spin_lock_irqsave(&ev->mask_lock, flags);
	masked = c->masked & ~reason;
	WRITE_ONCE(c->masked, masked);
	WRITE_ONCE(ev->mask[ME][c->port], masked ? 1 : 0);
	spin_unlock_irqrestore(&ev->mask_lock, flags);
	if (masked)
		return;
	link_mb(&bl->link); /* the sender looks at the mask after pending */
	if (READ_ONCE(ev->pending[ME][c->port]))
		irq_work_queue(&c->vector->rescan);
}

void link_evtchn_mask(struct link *link, u32 port)
{
	channel_mask(to_bus_link(link)->events.channels[port],
		     MASKED_BY_DRIVER);
}
EXPORT_SYMBOL_GPL(link_evtchn_mask);

void link_evtchn_unmask(struct link *link, u32 port)
{
	channel_unmask(to_bus_link(link)->events.channels[port],
		       MASKED_BY_DRIVER);
}
EXPORT_SYMBOL_GPL(link_evtchn_unmask);

/* ---- sending ----------------------------------------------------------- */

void link_notify(struct link *link, u32 port)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_events *ev = &bl->events;
	struct link_port own = read_port(bl, ME, port);
	u32 remote = own.remote_port;
	u16 vector;

	if (own.state != EVTCHNSTAT_interdomain || remote >= LINK_PORTS)
		return;
	vector = read_port(bl, OTHER, remote).vector;
	if (vector >= bl->info.vectors[OTHER])
		return;
	trace_link_notify(port);
	virt_wmb(); /* what the event tells about comes before it */
	WRITE_ONCE(ev->pending[OTHER][remote], 1);
	link_mb(link); /* who unmasks looks at pending after the mask */
	if (!READ_ONCE(ev->mask[OTHER][remote]))
		writel((u32)bl->info.peer[OTHER] << 16 | vector,
		       link->regs + LINK_REG_DOORBELL);
}
EXPORT_SYMBOL_GPL(link_notify);

/* ---- ports ------------------------------------------------------------- */

static struct link_channel *new_channel(link_handler_t handler, void *data)
{
	struct link_channel *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (c) {
		c->handler = handler;
		c->data = data;
		c->throttle.since = jiffies;
	}
	return c;
}

int link_evtchn_alloc(struct link *link, link_handler_t handler, void *data,
		      u32 *port)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_events *ev = &bl->events;
	struct link_channel *c = new_channel(handler, data);
	u32 p;

	if (!c)
		return -ENOMEM;
	spin_lock(&ev->lock);
	for (p = 1; p < LINK_PORTS; p++)
		if (!ev->channels[p] &&
		    read_port(bl, ME, p).state == EVTCHNSTAT_closed)
			break;
	if (p == LINK_PORTS) {
		spin_unlock(&ev->lock);
		kfree(c);
		return -ENOSPC;
	}
	c->port = p;
	c->vector = least_used_vector(ev);
	c->vector->nr_channels++;
	ev->channels[p] = c;
	WRITE_ONCE(ev->pending[ME][p], 0);
	WRITE_ONCE(ev->mask[ME][p], 0);
	virt_wmb(); /* nobody sends to a port before it is unbound */
	write_port(bl, ME, p, EVTCHNSTAT_unbound, c->vector->index, 0);
	spin_unlock(&ev->lock);

	channel_attach(c);
	*port = p;
	return 0;
}
EXPORT_SYMBOL_GPL(link_evtchn_alloc);

int link_evtchn_claim(struct link *link, u32 port, link_handler_t handler,
		      void *data)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_events *ev = &bl->events;
	struct link_port entry;
	struct link_channel *c;

	if (!port || port >= LINK_PORTS)
		return -EINVAL;
	c = new_channel(handler, data);
	if (!c)
		return -ENOMEM;
	/* The vector stays as it is: the other end may be writing the entry. */
	entry = read_port(bl, ME, port);
	c->port = port;
	c->claimed = true;
	spin_lock(&ev->lock);
	if (ev->channels[port] || entry.vector >= ev->nr_vectors ||
	    entry.state == EVTCHNSTAT_closed) {
		spin_unlock(&ev->lock);
		kfree(c);
		return -EBUSY;
	}
	c->vector = &ev->vectors[entry.vector];
	c->vector->nr_channels++;
	ev->channels[port] = c;
	spin_unlock(&ev->lock);

	channel_attach(c);
	channel_unmask(c, MASKED_BY_DRIVER);
	return 0;
}
EXPORT_SYMBOL_GPL(link_evtchn_claim);

/* Closing makes the other end's port, if it is bound to this one, unbound. */
static void close_port(struct bus_link *bl, u32 port)
{
	struct link_port own = read_port(bl, ME, port);
	u32 remote = own.remote_port;

	if (own.state == EVTCHNSTAT_interdomain && remote < LINK_PORTS) {
		struct link_port peer = read_port(bl, OTHER, remote);

		if (peer.state == EVTCHNSTAT_interdomain &&
		    peer.remote_port == port)
			write_port(bl, OTHER, remote, EVTCHNSTAT_unbound,
				   peer.vector, 0);
	}
	write_port(bl, ME, port, EVTCHNSTAT_closed, 0, 0);
}

void link_evtchn_free(struct link *link, u32 port)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_events *ev = &bl->events;
	struct link_channel *c = ev->channels[port];

	if (!c)
		return;
	channel_detach(c);
	spin_lock(&ev->lock);
	c->vector->nr_channels--;
	if (!c->claimed)
		close_port(bl, port);
	ev->channels[port] = NULL;
	spin_unlock(&ev->lock);
	kfree(c);
}
EXPORT_SYMBOL_GPL(link_evtchn_free);

/* ---- coming and going -------------------------------------------------- */

static void find_tables(struct bus_link *bl)
{
	struct link_events *ev = &bl->events;
	struct link *link = &bl->link;
	int end;

	for (end = 0; end < 2; end++) {
		ev->pending[end] = link_frame_addr(link, bl->info.pending_frame[end]);
		ev->mask[end] = link_frame_addr(link, bl->info.mask_frame[end]);
		ev->ports[end] = link_frame_addr(link, bl->info.ports_frame[end]);
	}
}

int events_start(struct bus_link *bl)
{
	struct link_events *ev = &bl->events;
	int err;

	find_tables(bl);
	spin_lock_init(&ev->lock);
	spin_lock_init(&ev->mask_lock);
	ev->channels = kvcalloc(LINK_PORTS, sizeof(*ev->channels), GFP_KERNEL);
	if (!ev->channels)
		return -ENOMEM;
	err = vectors_start(bl);
	if (err)
		kvfree(ev->channels);
	return err;
}

void events_stop(struct bus_link *bl)
{
	vectors_stop(bl);
	kvfree(bl->events.channels);
}
