// SPDX-License-Identifier: GPL-2.0-only
/* The terminal of a console, /dev/hvcN, and the rings that it reads and writes. */
#include <linux/console.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/printk.h>
#include "hvc.h"
#include "pvcon.h"

#define PVCON_VTERMNO	0x70766330	/* tells our terminals from others' */
#define PVCON_OUTBUF	256		/* what hvc collects per write, in bytes */

/* How long the kernel's messages wait for a backend that does not read. */
#define PVCON_PATIENCE_US	200000
#define PVCON_STEP_US		100

static struct pvcon pvcons[PVCON_MAX];

struct pvcon *pvcon_get(unsigned int number)
{
	return number < PVCON_MAX ? &pvcons[number] : NULL;
}

void pvcon_init_all(void)
{
	int i;

	for (i = 0; i < PVCON_MAX; i++)
		spin_lock_init(&pvcons[i].lock);
}

static unsigned int number_of(const struct pvcon *con)
{
	return con - pvcons;
}

/*
 * Bytes in a ring of @size between two indices, or -EPROTO. Nothing is printed
 * here: this very console may be where messages go to.
 */
static int pvcon_used(struct pvcon *con, u32 prod, u32 cons, u32 size)
{
	if (prod - cons > size) {
		con->broken = true;
		return -EPROTO;
	}
	return prod - cons;
}

static void pvcon_notify(struct pvcon *con)
{
	if (con->port)
		link_notify(con->link, con->port);
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
		int used = pvcon_used(con, con->out_prod,
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
	pvcon_notify(con);
	return count;
}

static int pvcon_put_chars(u32 vtermno, const char *buf, int count)
{
	struct pvcon *con = pvcon_get(vtermno - PVCON_VTERMNO);
	unsigned long flags;
	int done;

	spin_lock_irqsave(&con->lock, flags);
	done = pvcon_put_locked(con, buf, count);
	spin_unlock_irqrestore(&con->lock, flags);
	return done;
}

static int pvcon_get_locked(struct pvcon *con, char *buf, int count)
{
	struct xencons_interface *ring = con->ring;
	int used, i;

	if (!ring)
		return -ENODEV;
	used = pvcon_used(con, READ_ONCE(ring->in_prod), con->in_cons,
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
	pvcon_notify(con);
	return count;
}

static int pvcon_get_chars(u32 vtermno, char *buf, int count)
{
	struct pvcon *con = pvcon_get(vtermno - PVCON_VTERMNO);
	unsigned long flags;
	int done;

	spin_lock_irqsave(&con->lock, flags);
	done = pvcon_get_locked(con, buf, count);
	spin_unlock_irqrestore(&con->lock, flags);
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
	unsigned long flags;
	bool news = false;
	u32 out_cons;

	spin_lock_irqsave(&con->lock, flags);
	if (con->ring) {
		out_cons = READ_ONCE(con->ring->out_cons);
		news = out_cons != con->seen_out_cons ||
		       READ_ONCE(con->ring->in_prod) != con->in_cons;
		con->seen_out_cons = out_cons;
	}
	spin_unlock_irqrestore(&con->lock, flags);
	return news;
}

irqreturn_t pvcon_event(u32 port, void *data)
{
	struct pvcon *con = data;

	if (!pvcon_has_news(con))
		return IRQ_NONE;
	if (hvc_poll(con->hvc))
		hvc_kick();
	if (con->broken && !con->reported) {
		con->reported = true;
		pr_err("pvcon: the backend broke the ring of hvc%u\n",
		       number_of(con));
	}
	return IRQ_HANDLED;
}

static void pvcon_attach(struct pvcon *con, struct link *link,
			 struct xencons_interface *ring)
{
	spin_lock_irq(&con->lock);
	con->link = link;
	con->in_cons = READ_ONCE(ring->in_cons);
	con->out_prod = READ_ONCE(ring->out_prod);
	con->seen_out_cons = con->out_prod;
	con->stalled = false;
	con->broken = false;
	con->reported = false;
	con->ring = ring;
	spin_unlock_irq(&con->lock);
}

void pvcon_detach(struct pvcon *con)
{
	spin_lock_irq(&con->lock);
	con->ring = NULL;
	con->link = NULL;
	con->port = 0;
	spin_unlock_irq(&con->lock);
}

void pvcon_set_port(struct pvcon *con, u32 port)
{
	spin_lock_irq(&con->lock);
	con->port = port;
	pvcon_notify(con); /* of what was written before there was a port */
	spin_unlock_irq(&con->lock);
}

int pvcon_open(struct pvcon *con, struct link *link,
	       struct xencons_interface *ring)
{
	u32 vtermno = PVCON_VTERMNO + number_of(con);
	struct hvc_struct *hvc;

	if (con->ring)
		return -EBUSY;
	pvcon_attach(con, link, ring);
	/* Console N is hvcN whatever the order; without that, some other. */
	(void)hvc_instantiate(vtermno, number_of(con), &pvcon_ops);
	hvc = hvc_alloc(vtermno, 0, &pvcon_ops, PVCON_OUTBUF);
	if (IS_ERR(hvc)) {
		pvcon_detach(con);
		return PTR_ERR(hvc);
	}
	con->hvc = hvc;
	return 0;
}

void pvcon_close(struct pvcon *con)
{
	hvc_remove(con->hvc);
	pvcon_detach(con);
}
