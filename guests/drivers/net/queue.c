// SPDX-License-Identifier: GPL-2.0-only
/*
 * A queue: a transmit and a receive ring, the events of both, and NAPI, which
 * looks at both.
 */

#include <linux/etherdevice.h>
#include "pvnet.h"

/* Who looks at a full ring goes on sending before half of it is done, as the
 * backend then has not run dry.
 */
#define PVNET_TX_REFILL	(PVNET_SLOTS / 4)

/* ---- what we want to be notified of ------------------------------------ */

/* An index that has been passed already: no notification will come. */
#define park(_ring)	WRITE_ONCE((_ring)->sring->rsp_event, (_ring)->rsp_cons)

u32 pvnet_wish_rx(struct pvnet_queue *q)
{
	struct pvnet_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->rx = true;
	if (!w->quiet)
		WRITE_ONCE(q->rx.ring.sring->rsp_event,
			   q->rx.ring.rsp_cons + 1);
	spin_unlock_irqrestore(&w->lock, flags);
	link_mb(q->np->link); /* the back sees this before we look again */
	return link_ring_responses(&q->rx.ring);
}

/* The back has passed the index that it was told: it need not be changed. */
void pvnet_forget_rx(struct pvnet_queue *q)
{
	struct pvnet_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->rx = false;
	spin_unlock_irqrestore(&w->lock, flags);
}

u32 pvnet_wish_tx(struct pvnet_queue *q, u32 ahead)
{
	struct pvnet_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->tx_at = q->tx.ring.rsp_cons + ahead;
	w->tx = true;
	if (!w->quiet)
		WRITE_ONCE(q->tx.ring.sring->rsp_event, w->tx_at);
	spin_unlock_irqrestore(&w->lock, flags);
	link_mb(q->np->link);
	return link_ring_responses(&q->tx.ring);
}

void pvnet_forget_tx(struct pvnet_queue *q)
{
	struct pvnet_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->tx = false;
	park(&q->tx.ring);
	spin_unlock_irqrestore(&w->lock, flags);
}

/* ---- events ------------------------------------------------------------ */

static bool pvnet_rx_waits(struct pvnet_queue *q)
{
	return link_ring_responses(&q->rx.ring);
}

static bool pvnet_tx_waits(struct pvnet_queue *q)
{
	return netif_tx_queue_stopped(pvnet_txq(q)) &&
	       link_ring_responses(&q->tx.ring);
}

static irqreturn_t pvnet_look(struct pvnet_queue *q)
{
	if (q->np->broken || !(pvnet_rx_waits(q) || pvnet_tx_waits(q)))
		return IRQ_NONE;
	napi_schedule(&q->napi);
	return IRQ_HANDLED;
}

void pvnet_glance(struct pvnet_queue *q)
{
	if (!test_bit(NAPI_STATE_SCHED, &q->napi.state) && pvnet_rx_waits(q))
		napi_schedule(&q->napi);
}

static irqreturn_t pvnet_rx_event(u32 port, void *data)
{
	struct pvnet_queue *q = data;

	q->events.rx++;
	return pvnet_look(q);
}

static irqreturn_t pvnet_tx_event(u32 port, void *data)
{
	struct pvnet_queue *q = data;

	q->events.tx++;
	return pvnet_look(q);
}

/* ---- the idle loop ----------------------------------------------------- */

static struct pvnet_queue *pvnet_polled(struct link_poller *p)
{
	return container_of(p, struct pvnet_queue, poller);
}

static bool pvnet_ready(struct link_poller *p)
{
	struct pvnet_queue *q = pvnet_polled(p);
	struct pvnet_wishes *w = &q->wishes;

	if (READ_ONCE(q->np->broken))
		return false;
	if (READ_ONCE(w->rx) && pvnet_rx_waits(q))
		return true;
	return READ_ONCE(w->tx) &&
	       link_ring_responses(&q->tx.ring) >= PVNET_TX_REFILL;
}

static void pvnet_quiet(struct link_poller *p, bool quiet)
{
	struct pvnet_queue *q = pvnet_polled(p);
	struct pvnet_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->quiet = quiet;
	if (w->rx)
		WRITE_ONCE(q->rx.ring.sring->rsp_event,
			   q->rx.ring.rsp_cons + !quiet);
	if (w->tx && quiet)
		park(&q->tx.ring);
	else if (w->tx)
		WRITE_ONCE(q->tx.ring.sring->rsp_event, w->tx_at);
	spin_unlock_irqrestore(&w->lock, flags);
}

static irqreturn_t pvnet_found(struct link_poller *p)
{
	struct pvnet_queue *q = pvnet_polled(p);

	q->events.idle++;
	return pvnet_look(q);
}

static void pvnet_setup_poller(struct pvnet_queue *q)
{
	snprintf(q->name, sizeof(q->name), "%s-%u", dev_name(&q->np->dev->dev),
		 q->index);
	q->poller = (struct link_poller) {
		.name = q->name,
		.link = q->np->link,
		.notification = q->np->notification,
		.ready = pvnet_ready,
		.quiet = pvnet_quiet,
		.handler = pvnet_found,
	};
	link_poller_add(&q->poller);
}

static void pvnet_teardown_poller(struct pvnet_queue *q)
{
	if (q->poller.link)
		link_poller_remove(&q->poller);
	q->poller.link = NULL;
}

/* ---- event channels ---------------------------------------------------- */

static int pvnet_setup_events(struct pvnet_queue *q)
{
	struct link *link = q->np->link;
	int err;

	err = link_evtchn_alloc(link, pvnet_rx_event, q, &q->rx.port);
	if (err)
		return err;
	if (!q->np->split_events) {
		q->tx.port = q->rx.port;
		return 0;
	}
	return link_evtchn_alloc(link, pvnet_tx_event, q, &q->tx.port);
}

static void pvnet_teardown_events(struct pvnet_queue *q)
{
	struct link *link = q->np->link;

	if (q->rx.port)
		link_evtchn_free(link, q->rx.port);
	if (q->tx.port && q->tx.port != q->rx.port)
		link_evtchn_free(link, q->tx.port);
	q->tx.port = 0;
	q->rx.port = 0;
}

void pvnet_silence(struct pvnet *np)
{
	u32 i;

	for (i = 0; i < np->nr_queues; i++) {
		pvnet_teardown_poller(&np->queues[i]);
		pvnet_teardown_events(&np->queues[i]);
	}
}

/* ---- NAPI -------------------------------------------------------------- */

int pvnet_poll(struct napi_struct *napi, int budget)
{
	struct pvnet_queue *q = container_of(napi, struct pvnet_queue, napi);
	u64 bytes = q->rx.stats.bytes;
	int done = 0;

	pvnet_tx_poll(q);
	if (!budget)
		return 0;
	q->rx.stats.polls++;
	pvnet_forget_rx(q);
	if (test_bit(NAPI_STATE_IN_BUSY_POLL, &napi->state)) {
		/* A socket waits in a loop: it needs no interrupt. When it is
		 * tired of that, we are called once more without this bit.
		 */
		park(&q->rx.ring);
		return pvnet_rx_poll(q, budget);
	}
	/* What follows is found when the packets are acknowledged, or by an idle
	 * CPU when whoever reads them has nothing left.
	 */
	do {
		done += pvnet_rx_poll(q, budget - done);
		if (q->rx.stats.bytes - bytes > PVNET_BULK)
			link_poller_looks(&q->poller);
	} while (done < budget && !q->np->broken && pvnet_wish_rx(q));
	if (done)
		link_poller_expect(&q->poller, true);
	if (done < budget)
		napi_complete_done(napi, done);
	return done;
}

void pvnet_enable_napi(struct pvnet *np)
{
	u32 i;

	for (i = 0; i < np->nr_queues; i++)
		napi_enable(&np->queues[i].napi);
}

void pvnet_disable_napi(struct pvnet *np)
{
	u32 i;

	for (i = 0; i < np->nr_queues; i++) {
		struct pvnet_queue *q = &np->queues[i];

		napi_disable(&q->napi);
		/* Nobody takes what comes now: it must not keep an idle
		 * processor looking.
		 */
		pvnet_forget_rx(q);
		pvnet_forget_tx(q);
	}
}

void pvnet_kick(struct pvnet *np)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < np->nr_queues; i++)
		napi_schedule(&np->queues[i].napi);
	local_bh_enable();
}

/* ---- coming and going -------------------------------------------------- */

static int pvnet_setup_queue(struct pvnet_queue *q)
{
	int err;

	q->wishes.quiet = false;
	q->wishes.rx = false;
	err = pvnet_tx_setup(q);
	if (!err)
		err = pvnet_rx_setup(q);
	if (!err)
		err = pvnet_setup_events(q);
	if (!err)
		pvnet_setup_poller(q);
	return err;
}

static void pvnet_free_queue(struct pvnet_queue *q)
{
	pvnet_teardown_poller(q);
	pvnet_teardown_events(q);
	pvnet_tx_teardown(q);
	pvnet_rx_teardown(q);
}

void pvnet_teardown_queues(struct pvnet *np)
{
	while (np->nr_queues)
		pvnet_free_queue(&np->queues[--np->nr_queues]);
}

/*
 * As many queues as the backend takes and there are processors to use them, but
 * fewer when the link has no room for them.
 */
int pvnet_setup_queues(struct pvnet *np)
{
	u32 wanted = clamp(np->offered_queues, 1u, np->max_queues);
	int err = 0;

	for (np->nr_queues = 0; np->nr_queues < wanted; np->nr_queues++) {
		err = pvnet_setup_queue(&np->queues[np->nr_queues]);
		if (err) {
			pvnet_free_queue(&np->queues[np->nr_queues]);
			break;
		}
	}
	return np->nr_queues ? 0 : err;
}
