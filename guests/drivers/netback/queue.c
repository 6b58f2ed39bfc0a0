// SPDX-License-Identifier: GPL-2.0-only
/*
 * A queue: a transmit and a receive ring of the guest's, the events of both,
 * and NAPI, which looks at both.
 */

#include "netback.h"

/* ---- what we want to be notified of ------------------------------------ */

/* An index that has been passed already: no notification will come. */
#define park(_ring)	WRITE_ONCE((_ring)->sring->req_event, (_ring)->req_cons)

u32 netback_wish_tx(struct netback_queue *q)
{
	struct netback_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->tx = true;
	if (!w->quiet)
		WRITE_ONCE(q->tx.ring.sring->req_event,
			   q->tx.ring.req_cons + 1);
	spin_unlock_irqrestore(&w->lock, flags);
	link_mb(q->vif->link); /* the front sees this before we look again */
	return link_ring_requests(&q->tx.ring);
}

/* The front has passed the index that it was told: it need not be changed. */
void netback_forget_tx(struct netback_queue *q)
{
	struct netback_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->tx = false;
	spin_unlock_irqrestore(&w->lock, flags);
}

u32 netback_wish_rx(struct netback_queue *q, u32 needed)
{
	struct netback_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->rx_at = q->rx.ring.req_cons + needed;
	w->rx = true;
	if (!w->quiet)
		WRITE_ONCE(q->rx.ring.sring->req_event, w->rx_at);
	spin_unlock_irqrestore(&w->lock, flags);
	link_mb(q->vif->link);
	return link_ring_requests(&q->rx.ring);
}

void netback_forget_rx(struct netback_queue *q)
{
	struct netback_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->rx = false;
	park(&q->rx.ring);
	spin_unlock_irqrestore(&w->lock, flags);
}

/* ---- events ------------------------------------------------------------ */

static bool netback_tx_waits(struct netback_queue *q)
{
	return link_ring_requests(&q->tx.ring);
}

/* Are there the frames that a packet waits for? */
static bool netback_rx_waits(struct netback_queue *q)
{
	u32 needed = READ_ONCE(q->rx.needed);

	return needed && link_ring_requests(&q->rx.ring) >= needed;
}

static irqreturn_t netback_look(struct netback_queue *q)
{
	/* When the interface goes up, it is looked at without an event. */
	if (q->vif->broken || !netif_running(q->vif->netdev) ||
	    !(netback_tx_waits(q) || netback_rx_waits(q)))
		return IRQ_NONE;
	napi_schedule(&q->napi);
	return IRQ_HANDLED;
}

void netback_glance(struct netback_queue *q)
{
	if (!test_bit(NAPI_STATE_SCHED, &q->napi.state) && netback_tx_waits(q))
		napi_schedule(&q->napi);
}

static irqreturn_t netback_tx_event(u32 port, void *data)
{
	struct netback_queue *q = data;

	q->tx.stats.interrupts++;
	return netback_look(q);
}

static irqreturn_t netback_rx_event(u32 port, void *data)
{
	struct netback_queue *q = data;

	q->rx.stats.interrupts++;
	return netback_look(q);
}

/* ---- the idle loop ----------------------------------------------------- */

static struct netback_queue *netback_polled(struct link_poller *p)
{
	return container_of(p, struct netback_queue, poller);
}

static bool netback_ready(struct link_poller *p)
{
	struct netback_queue *q = netback_polled(p);
	struct netback_wishes *w = &q->wishes;

	if (READ_ONCE(q->vif->broken))
		return false;
	return (READ_ONCE(w->tx) && netback_tx_waits(q)) ||
	       (READ_ONCE(w->rx) && netback_rx_waits(q));
}

static void netback_quiet(struct link_poller *p, bool quiet)
{
	struct netback_queue *q = netback_polled(p);
	struct netback_wishes *w = &q->wishes;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	w->quiet = quiet;
	if (w->tx)
		WRITE_ONCE(q->tx.ring.sring->req_event,
			   q->tx.ring.req_cons + !quiet);
	if (w->rx && quiet)
		park(&q->rx.ring);
	else if (w->rx)
		WRITE_ONCE(q->rx.ring.sring->req_event, w->rx_at);
	spin_unlock_irqrestore(&w->lock, flags);
}

static irqreturn_t netback_found(struct link_poller *p)
{
	struct netback_queue *q = netback_polled(p);

	q->found_idle++;
	return netback_look(q);
}

static void netback_setup_poller(struct netback_queue *q)
{
	snprintf(q->name, sizeof(q->name), "%s-%u", q->vif->netdev->name,
		 q->index);
	q->poller = (struct link_poller) {
		.name = q->name,
		.link = q->vif->link,
		.notification = q->vif->notification,
		.ready = netback_ready,
		.quiet = netback_quiet,
		.handler = netback_found,
	};
	link_poller_add(&q->poller);
}

static void netback_teardown_poller(struct netback_queue *q)
{
	if (q->poller.link)
		link_poller_remove(&q->poller);
	q->poller.link = NULL;
}

/* ---- event channels ---------------------------------------------------- */

static int netback_setup_events(struct netback_queue *q,
				const struct netback_place *place)
{
	struct link *link = q->vif->link;
	int err;

	if (place->tx_port == place->rx_port) {
		/* One port's handler: which of the rings it was for is seen. */
		err = link_evtchn_bind(link, place->rx_port, netback_rx_event,
				       q, &q->rx.port);
		q->tx.port = err ? 0 : q->rx.port;
		return err;
	}
	err = link_evtchn_bind(link, place->tx_port, netback_tx_event, q,
			       &q->tx.port);
	if (err) {
		q->tx.port = 0;
		return err;
	}
	err = link_evtchn_bind(link, place->rx_port, netback_rx_event, q,
			       &q->rx.port);
	if (err)
		q->rx.port = 0;
	return err;
}

static void netback_teardown_events(struct netback_queue *q)
{
	struct link *link = q->vif->link;

	if (q->rx.port)
		link_evtchn_free(link, q->rx.port);
	if (q->tx.port && q->tx.port != q->rx.port)
		link_evtchn_free(link, q->tx.port);
	q->tx.port = 0;
	q->rx.port = 0;
}

void netback_silence(struct netback *vif)
{
	u32 i;

	for (i = 0; i < vif->nr_queues; i++) {
		netback_teardown_poller(&vif->queues[i]);
		netback_teardown_events(&vif->queues[i]);
	}
}

/* ---- NAPI -------------------------------------------------------------- */

int netback_poll(struct napi_struct *napi, int budget)
{
	struct netback_queue *q = container_of(napi, struct netback_queue,
					       napi);
	u64 bytes = q->tx.stats.bytes;
	int done = 0;

	netback_rx_poll(q);
	if (!budget)
		return 0;
	netback_forget_tx(q);
	do {
		done += netback_tx_poll(q, budget - done);
		if (q->tx.stats.bytes - bytes > NETBACK_BULK)
			link_poller_looks(&q->poller);
	} while (done < budget && !q->vif->broken && netback_wish_tx(q));
	/* Of a conversation, the next word is the other's; what brings it here
	 * needs the host's processor that looking for the guest's would take.
	 */
	if (done)
		link_poller_expect(&q->poller,
				   q->vif->notification == LINK_POLL ||
				   q->tx.stats.bytes - bytes > NETBACK_BULK);
	if (done < budget)
		napi_complete_done(napi, done);
	return done;
}

void netback_enable_napi(struct netback *vif)
{
	u32 i;

	for (i = 0; i < vif->nr_queues; i++)
		napi_enable(&vif->queues[i].napi);
}

void netback_disable_napi(struct netback *vif)
{
	u32 i;

	for (i = 0; i < vif->nr_queues; i++) {
		struct netback_queue *q = &vif->queues[i];

		napi_disable(&q->napi);
		/* Nobody takes what comes now: it must not keep an idle
		 * processor looking.
		 */
		netback_forget_tx(q);
		netback_forget_rx(q);
	}
}

void netback_kick(struct netback *vif)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < vif->nr_queues; i++)
		napi_schedule(&vif->queues[i].napi);
	local_bh_enable();
}

/* ---- coming and going -------------------------------------------------- */

/*
 * Go on where the last backend of these rings has stopped, as far as that can
 * be: new rings begin at 0.
 */
#define netback_attach(_ring, _sring) ({				\
	u32 _at = READ_ONCE((_sring)->rsp_prod);			\
									\
	BACK_RING_ATTACH(_ring, _sring, _at, XEN_PAGE_SIZE);		\
	link_ring_requests(_ring) <= RING_SIZE(_ring) ? 0 : -EPROTO;	\
})

static int netback_setup_rings(struct netback_queue *q,
			       const struct netback_place *place)
{
	struct xen_netif_tx_sring *tx_sring;
	struct xen_netif_rx_sring *rx_sring;
	struct link *link = q->vif->link;
	int err;

	if (link_map_grant(link, place->tx_ref, false, &q->tx.page)) {
		q->tx.page.addr = NULL;
		return -EINVAL;
	}
	if (link_map_grant(link, place->rx_ref, false, &q->rx.page)) {
		q->rx.page.addr = NULL;
		return -EINVAL;
	}
	tx_sring = q->tx.page.addr;
	rx_sring = q->rx.page.addr;
	err = netback_attach(&q->tx.ring, tx_sring);
	return err ?: netback_attach(&q->rx.ring, rx_sring);
}

static void netback_teardown_rings(struct netback_queue *q)
{
	struct link *link = q->vif->link;

	if (q->tx.page.addr)
		link_unmap_grant(link, &q->tx.page);
	if (q->rx.page.addr)
		link_unmap_grant(link, &q->rx.page);
	q->tx.page.addr = NULL;
	q->rx.page.addr = NULL;
	if (q->tx.frag.page)
		put_page(q->tx.frag.page);
	q->tx.frag = (struct page_frag) {};
}

static int netback_setup_queue(struct netback_queue *q,
			       const struct netback_place *place)
{
	int err = netback_setup_rings(q, place);

	if (err) {
		pvbus_dev_fatal(q->vif->dev, err, "attaching to the rings %u and %u",
				place->tx_ref, place->rx_ref);
		return err;
	}
	q->wishes.quiet = false;
	q->wishes.tx = false;
	q->wishes.rx = false;
	park(&q->tx.ring);
	park(&q->rx.ring);
	err = netback_setup_events(q, place);
	if (err) {
		pvbus_dev_fatal(q->vif->dev, err, "binding to the event channels %u and %u",
				place->tx_port, place->rx_port);
		return err;
	}
	netback_setup_poller(q);
	return 0;
}

static void netback_free_queue(struct netback_queue *q)
{
	netback_teardown_poller(q);
	netback_teardown_events(q);
	netback_rx_flush(q);
	netback_teardown_rings(q);
}

void netback_teardown_queues(struct netback *vif)
{
	while (vif->nr_queues)
		netback_free_queue(&vif->queues[--vif->nr_queues]);
}

int netback_setup_queues(struct netback *vif, u32 nr)
{
	int err = 0;

	for (vif->nr_queues = 0; vif->nr_queues < nr && !err; vif->nr_queues++) {
		struct netback_place place;

		err = netback_read_place(vif, vif->nr_queues, nr, &place);
		err = err ?: netback_setup_queue(&vif->queues[vif->nr_queues],
						 &place);
	}
	if (err)
		netback_teardown_queues(vif);
	return err;
}
