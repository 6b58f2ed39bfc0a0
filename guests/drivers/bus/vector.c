// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving events: the interrupts of the device, the ports that wait behind
 * each of them, and what keeps a storm of them from taking the whole processor.
 *
 * Events without work are normal: what they announce has often been found by
 * looking at the ring before they arrive. But nothing else limits how often the
 * other end rings. A port with too many such events is masked for a while, which
 * an honest end respects; a vector that is rung without any pending port is
 * turned off for a while. Each pause that did not help is followed by one twice
 * as long. Nothing is lost: pending ports are looked at after the pause.
 */
#include <linux/interrupt.h>
#include <linux/slab.h>
#include "evtchn.h"
#include "trace.h"

/*
 * So many events without work in this time are a storm, and so many are one that
 * goes on after a pause, unless enough of the events did bring work.
 */
#define STORM_EVENTS	64
#define STORM_AGAIN	4
#define STORM_JIFFIES	DIV_ROUND_UP(HZ, 10)
#define STORM_RATIO	4

/* Jiffies: what it may cost an honest end that has only been unlucky. */
#define LONGEST_PAUSE	DIV_ROUND_UP(HZ, 4)

/* Count an event; for how many jiffies are there to be no more, if not 0? */
static unsigned int throttle_count(struct link_throttle *t, bool useful)
{
	unsigned int storm, pause;

	if (time_after(jiffies, t->since + STORM_JIFFIES)) {
		t->since = jiffies;
		t->idle = 0;
		t->useful = 0;
		t->order = 0;
	}
	if (useful) {
		t->useful++;
		return 0;
	}
	storm = t->order ? STORM_AGAIN : STORM_EVENTS;
	if (++t->idle < max(storm, t->useful * STORM_RATIO))
		return 0;
	pause = min(1U << t->order, (unsigned int)LONGEST_PAUSE);
	if (pause < LONGEST_PAUSE)
		t->order++;
	/* If it goes on right after the pause, the next one is longer. */
	t->since = jiffies + pause;
	t->idle = 0;
	t->useful = 0;
	return pause;
}

static void calm_channel(struct work_struct *work)
{
	channel_unmask(container_of(to_delayed_work(work), struct link_channel,
				    calm), MASKED_BY_THROTTLE);
}

static void run_handler(struct link_channel *c)
{
	unsigned int pause;
	bool useful;

	trace_link_event(c->vector->bl->link.remote_domid, c->port);
	useful = c->handler(c->port, c->data) != IRQ_NONE;
	pause = throttle_count(&c->throttle, useful);
	if (!pause)
		return;
	channel_mask(c, MASKED_BY_THROTTLE);
	schedule_delayed_work(&c->calm, pause);
}

/* Run the handlers of all pending ports of a vector; were there any? */
static bool scan_vector(struct link_vector *v)
{
	u8 *pending = v->bl->events.pending[v->bl->me];
	struct link_channel *c;
	unsigned long flags;
	bool found = false;

	spin_lock_irqsave(&v->lock, flags);
	list_for_each_entry(c, &v->channels, list) {
		if (READ_ONCE(c->masked) || !READ_ONCE(pending[c->port]))
			continue;
		WRITE_ONCE(pending[c->port], 0);
		/* An event from here on makes it pending again. */
		link_mb(&v->bl->link);
		run_handler(c);
		found = true;
	}
	spin_unlock_irqrestore(&v->lock, flags);
	return found;
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

/* Always "handled": else the kernel would in the end turn the line off for good. */
static irqreturn_t link_interrupt(int irq, void *data)
{
	struct link_vector *v = data;
	unsigned int pause = throttle_count(&v->throttle, scan_vector(v));

	if (pause && !READ_ONCE(v->stopping)) {
		disable_irq_nosync(v->irq);
		schedule_delayed_work(&v->calm, pause);
	}
	return IRQ_HANDLED;
}

/* ---- channels ---------------------------------------------------------- */

void channel_attach(struct link_channel *c)
{
	struct link_vector *v = c->vector;
	unsigned long flags;

	INIT_DELAYED_WORK(&c->calm, calm_channel);
	spin_lock_irqsave(&v->lock, flags);
	list_add_tail(&c->list, &v->channels);
	spin_unlock_irqrestore(&v->lock, flags);
	/* A doorbell may have been lost before anybody listened. */
	irq_work_queue(&v->rescan);
}

void channel_detach(struct link_channel *c)
{
	unsigned long flags;

	/* Handlers run under this lock, so none of this channel is left. */
	spin_lock_irqsave(&c->vector->lock, flags);
	list_del(&c->list);
	spin_unlock_irqrestore(&c->vector->lock, flags);
	cancel_delayed_work_sync(&c->calm);
}

struct link_vector *least_used_vector(struct link_events *ev)
{
	struct link_vector *best = &ev->vectors[0];
	unsigned int i;

	for (i = 1; i < ev->nr_vectors; i++)
		if (ev->vectors[i].nr_channels < best->nr_channels)
			best = &ev->vectors[i];
	return best;
}

/* ---- coming and going -------------------------------------------------- */

static void free_vectors(struct link_events *ev, unsigned int nr)
{
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
		v->irq = pci_irq_vector(bl->pdev, i);
		v->throttle.since = jiffies;
		spin_lock_init(&v->lock);
		INIT_LIST_HEAD(&v->channels);
		v->rescan = IRQ_WORK_INIT_HARD(rescan_vector);
		INIT_DELAYED_WORK(&v->calm, calm_vector);
		err = request_irq(v->irq, link_interrupt, 0, "pvbus", v);
		if (err) {
			free_vectors(ev, i);
			return err;
		}
	}
	return 0;
}

int vectors_start(struct bus_link *bl)
{
	struct link_events *ev = &bl->events;
	int nr, err;

	pci_set_master(bl->pdev);
	nr = pci_alloc_irq_vectors(bl->pdev, 1, bl->info.vectors[bl->me],
				   PCI_IRQ_MSIX);
	if (nr < 0) {
		dev_err(bl->link.dev, "no MSI-X vector: error %d\n", nr);
		return nr;
	}
	ev->nr_vectors = nr;
	ev->vectors = kcalloc(nr, sizeof(*ev->vectors), GFP_KERNEL);
	err = ev->vectors ? request_vectors(bl) : -ENOMEM;
	if (err) {
		kfree(ev->vectors);
		pci_free_irq_vectors(bl->pdev);
	}
	return err;
}

void vectors_stop(struct bus_link *bl)
{
	free_vectors(&bl->events, bl->events.nr_vectors);
	kfree(bl->events.vectors);
	pci_free_irq_vectors(bl->pdev);
}
