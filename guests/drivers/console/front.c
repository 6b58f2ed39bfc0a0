// SPDX-License-Identifier: GPL-2.0-only
/*
 * The first console of a domain as a terminal, /dev/hvc0: two rings of bytes in a
 * page which the toolstack has made and start info points to. It has no backend
 * node and no states; it works from the first byte on.
 */

#include <linux/console.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/spinlock.h>
#include <xen/interface/io/console.h>
#include "hvc.h"
#include "link_ring.h"

#define PVCON_VTERMNO	0x70766330	/* tells our terminal from others' */
#define PVCON_OUTBUF	256		/* what hvc collects per write, in bytes */

/* How long the kernel's messages wait for a backend that does not read. */
#define PVCON_PATIENCE_US	200000
#define PVCON_STEP_US		100

/*
 * There is one first console, and hvc's callbacks get nothing but a number to
 * find it by.
 */
static struct pvcon {
	spinlock_t lock;	/* of all below but hvc */
	struct xencons_interface *ring;	/* NULL: there is no console */
	struct link *link;
	u32 port;
	u32 in_cons;		/* our indices; what the ring has are copies */
	u32 out_prod;
	u32 seen_out_cons;
	bool stalled;		/* nothing was consumed for all our patience */
	struct hvc_struct *hvc;
} pvcon = {
	.lock = __SPIN_LOCK_UNLOCKED(pvcon.lock),
};

/* Bytes in a ring of @size between two indices, or -EPROTO. */
static int pvcon_used(u32 prod, u32 cons, u32 size)
{
	if (prod - cons > size) {
		pr_err_once("pvcon: the backend broke the console's ring\n");
		return -EPROTO;
	}
	return prod - cons;
}

/*
 * Room for output, in bytes. The kernel throws away messages that find none, so
 * they wait: a live backend soon makes some, and a dead one is waited for once.
 * A terminal's writers need not: an event tells hvc when to go on.
 */
static int pvcon_room(struct pvcon *con)
{
	const u32 size = sizeof(con->ring->out);
	bool message = is_console_locked() || oops_in_progress;
	u32 waited;

	for (waited = 0;; waited += PVCON_STEP_US) {
		int used = pvcon_used(con->out_prod,
				      READ_ONCE(con->ring->out_cons), size);

		if (used < 0)
			return used;
		if (used < size) {
			con->stalled = false;
			return size - used;
		}
		if (!message || con->stalled)
			return 0;
		con->stalled = waited >= PVCON_PATIENCE_US;
		udelay(PVCON_STEP_US);
	}
}

static int pvcon_put_locked(struct pvcon *con, const char *buf, int count)
{
	struct xencons_interface *ring = con->ring;
	int room, i;

	if (!ring)
		return -ENODEV;
	room = pvcon_room(con);
	if (room <= 0)
		return room;
	virt_mb(); /* overwrite nothing before it is known to be consumed */
	count = min(count, room);
	for (i = 0; i < count; i++)
		ring->out[MASK_XENCONS_IDX(con->out_prod++, ring->out)] =
			buf[i];
	virt_wmb(); /* the backend sees bytes before the index */
	WRITE_ONCE(ring->out_prod, con->out_prod);
	link_notify(con->link, con->port);
	return count;
}

static int pvcon_put_chars(u32 vtermno, const char *buf, int count)
{
	unsigned long flags;
	int done;

	spin_lock_irqsave(&pvcon.lock, flags);
	done = pvcon_put_locked(&pvcon, buf, count);
	spin_unlock_irqrestore(&pvcon.lock, flags);
	return done;
}

static int pvcon_get_locked(struct pvcon *con, char *buf, int count)
{
	struct xencons_interface *ring = con->ring;
	int used, i;

	if (!ring)
		return -ENODEV;
	used = pvcon_used(READ_ONCE(ring->in_prod), con->in_cons,
			  sizeof(ring->in));
	if (used <= 0)
		return used;
	virt_rmb(); /* read no byte before the index */
	count = min(count, used);
	for (i = 0; i < count; i++)
		buf[i] = READ_ONCE(ring->in[MASK_XENCONS_IDX(con->in_cons++,
							     ring->in)]);
	virt_mb(); /* the bytes have been read before they are given back */
	WRITE_ONCE(ring->in_cons, con->in_cons);
	link_notify(con->link, con->port);
	return count;
}

static int pvcon_get_chars(u32 vtermno, char *buf, int count)
{
	unsigned long flags;
	int done;

	spin_lock_irqsave(&pvcon.lock, flags);
	done = pvcon_get_locked(&pvcon, buf, count);
	spin_unlock_irqrestore(&pvcon.lock, flags);
	return done;
}

/* Events tell of input, so hvc need not poll for it. */
static int pvcon_opened(struct hvc_struct *hvc, int irq)
{
	hvc->irq_requested = 1;
	return 0;
}

static void pvcon_closed(struct hvc_struct *hvc, int irq)
{
	hvc->irq_requested = 0;
}

static const struct hv_ops pvcon_ops = {
	.get_chars	= pvcon_get_chars,
	.put_chars	= pvcon_put_chars,
	.notifier_add	= pvcon_opened,
	.notifier_del	= pvcon_closed,
	.notifier_hangup = pvcon_closed,
};

/* Is there input, or did room for output come up since we last looked? */
static bool pvcon_has_news(struct pvcon *con)
{
	u32 out_cons = READ_ONCE(con->ring->out_cons);
	bool news = out_cons != con->seen_out_cons ||
		    READ_ONCE(con->ring->in_prod) != con->in_cons;

	con->seen_out_cons = out_cons;
	return news;
}

static irqreturn_t pvcon_event(u32 port, void *data)
{
	struct pvcon *con = data;

	if (!pvcon_has_news(con))
		return IRQ_NONE;
	if (hvc_poll(con->hvc))
		hvc_kick();
	return IRQ_HANDLED;
}

static void pvcon_attach(struct pvcon *con, struct link *link)
{
	struct xencons_interface *ring = link_console_page(link);

	spin_lock_irq(&con->lock);
	con->link = link;
	con->port = link_console_port(link);
	con->in_cons = READ_ONCE(ring->in_cons);
	con->out_prod = READ_ONCE(ring->out_prod);
	con->seen_out_cons = con->out_prod;
	con->stalled = false;
	con->ring = ring;
	spin_unlock_irq(&con->lock);
}

static void pvcon_detach(struct pvcon *con)
{
	spin_lock_irq(&con->lock);
	con->ring = NULL;
	con->link = NULL;
	spin_unlock_irq(&con->lock);
}

static int pvcon_probe(struct pvbus_device *dev)
{
	int err;

	if (strcmp(dev->nodename, "console") || !link_console_page(dev->link))
		return -ENODEV;
	if (pvcon.ring)
		return -EBUSY;

	pvcon_attach(&pvcon, dev->link);
	pvcon.hvc = hvc_alloc(PVCON_VTERMNO, 0, &pvcon_ops, PVCON_OUTBUF);
	if (IS_ERR(pvcon.hvc)) {
		err = PTR_ERR(pvcon.hvc);
		goto detach;
	}
	err = link_evtchn_claim(dev->link, pvcon.port, pvcon_event, &pvcon);
	if (err)
		goto remove;
	return 0;

remove:
	hvc_remove(pvcon.hvc);
detach:
	pvcon_detach(&pvcon);
	dev_err(&dev->dev, "no console: error %d\n", err);
	return err;
}

static void pvcon_remove(struct pvbus_device *dev)
{
	link_evtchn_free(dev->link, pvcon.port);
	hvc_remove(pvcon.hvc);
	pvcon_detach(&pvcon);
}

static struct pvbus_driver pvcon_driver = {
	.name = "pvcon",
	.type = "console",
	.probe = pvcon_probe,
	.remove = pvcon_remove,
};

static int __init pvcon_init(void)
{
	return pvbus_register_driver(&pvcon_driver);
}
module_init(pvcon_init);

static void __exit pvcon_exit(void)
{
	pvbus_unregister_driver(&pvcon_driver);
}
module_exit(pvcon_exit);

MODULE_DESCRIPTION("Paravirtual console over a link");
MODULE_LICENSE("GPL");
MODULE_ALIAS("pvbus-console");
