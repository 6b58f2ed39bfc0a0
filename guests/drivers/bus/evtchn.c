// SPDX-License-Identifier: GPL-2.0-only
/*
 * Event channels: one byte says that a port is pending, one that it is masked,
 * and a doorbell vector of the device, which several ports may share, wakes the
 * end that owns the port.
 */
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/slab.h>
#include <xen/interface/event_channel.h>
#include "bus.h"

/* So many interrupts in one jiffy without any work make a storm. */
#define STORM 1000

#define ME	LINK_END_GRANTER
#define OTHER	LINK_END_GRANTEE

struct link_channel {
	struct list_head list;		/* of its vector */
	struct link_vector *vector;
	link_handler_t handler;
	void *data;
	u32 port;
	bool claimed;
};

struct link_vector {
	struct bus_link *bl;
	unsigned int index;
	int irq;
	spinlock_t lock;		/* held while handlers run */
	struct list_head channels;
	unsigned int nr_channels;	/* under link_events.lock */
	struct irq_work rescan;
	unsigned long idle_since;	/* jiffy in which idle_count counts */
	unsigned int idle_count;
	struct delayed_work calm;
	bool stopping;
};

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

/* ---- receiving --------------------------------------------------------- */

/* Run the handlers of all pending ports of a vector; was there work? */
static bool scan_vector(struct link_vector *v)
{
	struct link_events *ev = &v->bl->events;
	struct link_channel *c;
	unsigned long flags;
	bool work = false;

	spin_lock_irqsave(&v->lock, flags);
	list_for_each_entry(c, &v->channels, list) {
		if (!READ_ONCE(ev->pending[ME][c->port]) ||
		    READ_ONCE(ev->mask[ME][c->port]))
			continue;
		WRITE_ONCE(ev->pending[ME][c->port], 0);
		/* An event from here on makes it pending again. */
		link_mb(&v->bl->link);
		if (c->handler(c->port, c->data) != IRQ_NONE)
			work = true;
	}
	spin_unlock_irqrestore(&v->lock, flags);
	return work;
}

static void rescan_vector(struct irq_work *work)
{
	scan_vector(container_of(work, struct link_vector, rescan));
}

static void calm_vector(struct work_struct *work)
{
	struct link_vector *v = container_of(to_delayed_work(work),
					     struct link_vector, calm);

	enable_irq(v->irq);
}

/*
 * Idle interrupts are normal: work is often found by polling before its doorbell
 * arrives, so they must not look unhandled to the kernel, which would turn the
 * line off for good. A storm of them turns it off for one jiffy.
 */
static void count_idle(struct link_vector *v)
{
	if (time_after(jiffies, v->idle_since)) {
		v->idle_since = jiffies;
		v->idle_count = 0;
	}
	if (++v->idle_count == STORM && !READ_ONCE(v->stopping)) {
		disable_irq_nosync(v->irq);
		schedule_delayed_work(&v->calm, 1);
	}
}

static irqreturn_t link_interrupt(int irq, void *data)
{
	struct link_vector *v = data;

	if (!scan_vector(v))
		count_idle(v);
	return IRQ_HANDLED;
}

void link_evtchn_mask(struct link *link, u32 port)
{
	WRITE_ONCE(to_bus_link(link)->events.mask[ME][port], 1);
}
EXPORT_SYMBOL_GPL(link_evtchn_mask);

void link_evtchn_unmask(struct link *link, u32 port)
{
	struct link_events *ev = &to_bus_link(link)->events;

	WRITE_ONCE(ev->mask[ME][port], 0);
	link_mb(link); /* the sender looks at the mask after pending */
	if (READ_ONCE(ev->pending[ME][port]))
		irq_work_queue(&ev->channels[port]->vector->rescan);
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
	virt_wmb(); /* what the event tells about comes before it */
	WRITE_ONCE(ev->pending[OTHER][remote], 1);
	link_mb(link); /* who unmasks looks at pending after the mask */
	if (!READ_ONCE(ev->mask[OTHER][remote]))
		writel((u32)bl->info.peer[OTHER] << 16 | vector,
		       link->regs + LINK_REG_DOORBELL);
}
EXPORT_SYMBOL_GPL(link_notify);

/* ---- ports ------------------------------------------------------------- */

static void attach(struct bus_link *bl, struct link_channel *c)
{
	struct link_vector *v = c->vector;
	unsigned long flags;

	spin_lock_irqsave(&v->lock, flags);
	list_add_tail(&c->list, &v->channels);
	spin_unlock_irqrestore(&v->lock, flags);
	/* A doorbell may have been lost before anybody listened. */
	irq_work_queue(&v->rescan);
}

static struct link_vector *least_used_vector(struct link_events *ev)
{
	struct link_vector *best = &ev->vectors[0];
	unsigned int i;

	for (i = 1; i < ev->nr_vectors; i++)
		if (ev->vectors[i].nr_channels < best->nr_channels)
			best = &ev->vectors[i];
	return best;
}

static struct link_channel *new_channel(link_handler_t handler, void *data)
{
	struct link_channel *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (c) {
		c->handler = handler;
		c->data = data;
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

	attach(bl, c);
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

	link_evtchn_mask(link, port);
	attach(bl, c);
	link_evtchn_unmask(link, port);
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
	unsigned long flags;

	if (!c)
		return;
	/* Handlers run under this lock, so none of this channel is left. */
	spin_lock_irqsave(&c->vector->lock, flags);
	list_del(&c->list);
	spin_unlock_irqrestore(&c->vector->lock, flags);

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

static void free_vectors(struct bus_link *bl, unsigned int nr)
{
	struct link_events *ev = &bl->events;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct link_vector *v = &ev->vectors[i];

		WRITE_ONCE(v->stopping, true);
		synchronize_irq(v->irq);
		if (cancel_delayed_work_sync(&v->calm))
			enable_irq(v->irq);
		free_irq(v->irq, v);
		irq_work_sync(&v->rescan);
	}
}

static int request_vectors(struct bus_link *bl)
{
	struct link_events *ev = &bl->events;
	unsigned int i;
	int err;

	for (i = 0; i < ev->nr_vectors; i++) {
		struct link_vector *v = &ev->vectors[i];

		v->bl = bl;
		v->index = i;
		v->idle_since = jiffies;
		v->irq = pci_irq_vector(bl->pdev, i);
		spin_lock_init(&v->lock);
		INIT_LIST_HEAD(&v->channels);
		v->rescan = IRQ_WORK_INIT_HARD(rescan_vector);
		INIT_DELAYED_WORK(&v->calm, calm_vector);
		err = request_irq(v->irq, link_interrupt, 0, "pvbus", v);
		if (err) {
			free_vectors(bl, i);
			return err;
		}
	}
	return 0;
}

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
	int nr, err;

	find_tables(bl);
	spin_lock_init(&ev->lock);
	pci_set_master(bl->pdev);
	nr = pci_alloc_irq_vectors(bl->pdev, 1, bl->info.vectors[ME],
				   PCI_IRQ_MSIX);
	if (nr < 0) {
		dev_err(bl->link.dev, "no MSI-X vector: error %d\n", nr);
		return nr;
	}
	ev->nr_vectors = nr;
	ev->vectors = kcalloc(nr, sizeof(*ev->vectors), GFP_KERNEL);
	ev->channels = kvcalloc(LINK_PORTS, sizeof(*ev->channels), GFP_KERNEL);
	err = ev->vectors && ev->channels ? request_vectors(bl) : -ENOMEM;
	if (err) {
		kvfree(ev->channels);
		kfree(ev->vectors);
		pci_free_irq_vectors(bl->pdev);
	}
	return err;
}

void events_stop(struct bus_link *bl)
{
	struct link_events *ev = &bl->events;

	free_vectors(bl, ev->nr_vectors);
	kvfree(ev->channels);
	kfree(ev->vectors);
	pci_free_irq_vectors(bl->pdev);
}
