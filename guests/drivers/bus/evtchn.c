// SPDX-License-Identifier: GPL-2.0-only
/*
 * Event channels: one byte says that a port is pending, one that it is masked,
 * and a doorbell vector of the device, which several ports may share, wakes the
 * end that owns the port.
 */
#include <linux/slab.h>
#include <xen/interface/event_channel.h>
#include "evtchn.h"
#include "pvback.h"
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
	struct bus_link *bl = c->vector->bl;
	struct link_events *ev = &bl->events;
	unsigned long flags;

	spin_lock_irqsave(&ev->mask_lock, flags);
	WRITE_ONCE(c->masked, c->masked | reason);
	WRITE_ONCE(ev->mask[bl->me][c->port], 1);
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
	WRITE_ONCE(ev->mask[bl->me][c->port], masked ? 1 : 0);
	spin_unlock_irqrestore(&ev->mask_lock, flags);
	if (masked)
		return;
	link_mb(&bl->link); /* the sender looks at the mask after pending */
	if (READ_ONCE(ev->pending[bl->me][c->port]))
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

/*
 * The grantee's changes when another machine takes its place. Should the other
 * end write nonsense there, the device knows no such peer and rings nobody.
 */
static u16 peer_of(struct bus_link *bl, unsigned int end)
{
	const struct link_info *shared = (void *)bl->link.base +
					 LINK_INFO_OFFSET;

	return READ_ONCE(shared->peer[end]);
}

void link_notify(struct link *link, u32 port)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_events *ev = &bl->events;
	unsigned int other = link_other_end(bl);
	struct link_port own = read_port(bl, bl->me, port);
	u32 remote = own.remote_port;
	u16 vector;

	if (own.state != EVTCHNSTAT_interdomain || remote >= LINK_PORTS)
		return;
	vector = read_port(bl, other, remote).vector;
	if (vector >= bl->info.vectors[other])
		return;
	trace_link_notify(link->remote_domid, port);
	virt_wmb(); /* what the event tells about comes before it */
	WRITE_ONCE(ev->pending[other][remote], 1);
	link_mb(link); /* who unmasks looks at pending after the mask */
	if (!READ_ONCE(ev->mask[other][remote]))
		writel((u32)peer_of(bl, other) << 16 | vector,
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

/* Give the channel a port that is closed so far. Under link_events.lock. */
static int take_port(struct bus_link *bl, struct link_channel *c)
{
	struct link_events *ev = &bl->events;
	u32 p;

	for (p = 1; p < LINK_PORTS; p++)
		if (!ev->channels[p] &&
		    read_port(bl, bl->me, p).state == EVTCHNSTAT_closed)
			break;
	if (p == LINK_PORTS)
		return -ENOSPC;
	c->port = p;
	c->vector = least_used_vector(ev);
	c->vector->nr_channels++;
	ev->channels[p] = c;
	WRITE_ONCE(ev->pending[bl->me][p], 0);
	WRITE_ONCE(ev->mask[bl->me][p], 0);
	virt_wmb(); /* nobody sends to a port before it is open */
	return 0;
}

int link_evtchn_alloc(struct link *link, link_handler_t handler, void *data,
		      u32 *port)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_events *ev = &bl->events;
	struct link_channel *c = new_channel(handler, data);
	int err;

	if (!c)
		return -ENOMEM;
	spin_lock(&ev->lock);
	err = take_port(bl, c);
	if (!err)
		write_port(bl, bl->me, c->port, EVTCHNSTAT_unbound,
			   c->vector->index, 0);
	spin_unlock(&ev->lock);
	if (err) {
		kfree(c);
		return err;
	}
	*port = c->port;
	channel_attach(c);
	return 0;
}
EXPORT_SYMBOL_GPL(link_evtchn_alloc);

/* Under link_events.lock, which only keeps our own end from changing. */
static int bind_port(struct bus_link *bl, struct link_channel *c, u32 remote)
{
	unsigned int other = link_other_end(bl);
	struct link_port peer = read_port(bl, other, remote);
	int err;

	if (peer.state != EVTCHNSTAT_unbound)
		return -EINVAL;
	err = take_port(bl, c);
	if (err)
		return err;
	write_port(bl, bl->me, c->port, EVTCHNSTAT_interdomain,
		   c->vector->index, remote);
	virt_wmb(); /* whoever may send to us finds us */
	write_port(bl, other, remote, EVTCHNSTAT_interdomain, peer.vector,
		   c->port);
	/* It may have sent before it could be heard. */
	WRITE_ONCE(bl->events.pending[bl->me][c->port], 1);
	return 0;
}

int link_evtchn_bind(struct link *link, u32 remote_port, link_handler_t handler,
		     void *data, u32 *port)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_channel *c;
	int err;

	if (!remote_port || remote_port >= LINK_PORTS)
		return -EINVAL;
	c = new_channel(handler, data);
	if (!c)
		return -ENOMEM;
	spin_lock(&bl->events.lock);
	err = bind_port(bl, c, remote_port);
	spin_unlock(&bl->events.lock);
	if (err) {
		kfree(c);
		return err;
	}
	*port = c->port;
	channel_attach(c); /* which runs the handler, as the port is pending */
	return 0;
}
EXPORT_SYMBOL_GPL(link_evtchn_bind);

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
	entry = read_port(bl, bl->me, port);
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
	unsigned int other = link_other_end(bl);
	struct link_port own = read_port(bl, bl->me, port);
	u32 remote = own.remote_port;

	if (own.state == EVTCHNSTAT_interdomain && remote < LINK_PORTS) {
		struct link_port peer = read_port(bl, other, remote);

		if (peer.state == EVTCHNSTAT_interdomain &&
		    peer.remote_port == port)
			write_port(bl, other, remote, EVTCHNSTAT_unbound,
				   peer.vector, 0);
	}
	write_port(bl, bl->me, port, EVTCHNSTAT_closed, 0, 0);
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

/*
 * What a grantee that has died had open: the other end's ports wait for us. (A
 * granter starts with a link of its own, or its drivers have closed all ports.)
 */
static void close_left_ports(struct bus_link *bl)
{
	u32 port;

	for (port = 1; port < LINK_PORTS; port++)
		if (read_port(bl, bl->me, port).state != EVTCHNSTAT_closed)
			close_port(bl, port);
}

int events_start(struct bus_link *bl)
{
	struct link_events *ev = &bl->events;
	int err;

	find_tables(bl);
	if (bl->me == LINK_END_GRANTEE)
		close_left_ports(bl);
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
