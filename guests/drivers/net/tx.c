// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sending. A packet is copied into as few frames as hold it, whatever pieces the
 * sk_buff has. Answers only give frames back, so nobody waits for them before
 * the ring is nearly full: then the queue stops, and the backend is asked for
 * one notification when half of the ring is done.
 */

#include <linux/etherdevice.h>
#include <linux/skbuff.h>
#include "link_skb.h"
#include "pvnet.h"
#include "trace.h"

/* ---- coming and going -------------------------------------------------- */

int pvnet_tx_setup(struct pvnet_queue *q)
{
	struct link *link = q->np->link;
	struct pvnet_tx *tx = &q->tx;
	struct xen_netif_tx_sring *sring;
	u32 id;
	int err;

	err = link_grant_alloc(link, 1, 0, &tx->page);
	if (err)
		return err;
	err = link_grant_alloc(link, PVNET_SLOTS, GTF_readonly, &tx->pool);
	if (err)
		return err;

	sring = tx->page.addr;
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&tx->ring, sring, XEN_PAGE_SIZE);
	pvnet_forget_tx(q);
	BUILD_BUG_ON(PVNET_SLOTS != 256); /* ids and indices of free[] */
	for (id = 0; id < PVNET_SLOTS; id++) {
		tx->use[id] = PVNET_TX_FREE;
		tx->free[id] = id;
	}
	tx->free_head = 0;
	tx->free_tail = PVNET_SLOTS;
	tx->extras = 0;
	return 0;
}

void pvnet_tx_teardown(struct pvnet_queue *q)
{
	link_grant_free(q->np->link, &q->tx.pool);
	link_grant_free(q->np->link, &q->tx.page);
}

/* ---- responses --------------------------------------------------------- */

static u8 pvnet_tx_take_id(struct pvnet_tx *tx, enum pvnet_tx_use use)
{
	u8 id = tx->free[tx->free_head++ % PVNET_SLOTS];

	tx->use[id] = use;
	return id;
}

/* Every entry of a packet gets the packet's status: count it once. */
static void pvnet_tx_judge(struct pvnet_queue *q, enum pvnet_tx_use use,
			   s16 status)
{
	struct pvnet *np = q->np;

	if (status == XEN_NETIF_RSP_OKAY)
		return;
	if (use == PVNET_TX_FILTER) {
		np->filter_refused = true;
		schedule_work(&np->filter_work);
	} else if (use == PVNET_TX_FIRST) {
		if (status == XEN_NETIF_RSP_DROPPED)
			q->tx.stats.dropped++;
		else
			q->tx.stats.errors++;
	}
}

/* Take back what one answer is for. False when it is for nothing that was asked.
 */
static bool pvnet_tx_retire(struct pvnet_queue *q,
			    const struct xen_netif_tx_response *rsp)
{
	struct pvnet_tx *tx = &q->tx;

	if (rsp->status == XEN_NETIF_RSP_NULL) {
		if (!tx->extras)
			return false;
		tx->extras--;
		return true;
	}
	if (rsp->id >= PVNET_SLOTS || tx->use[rsp->id] == PVNET_TX_FREE)
		return false;

	pvnet_tx_judge(q, tx->use[rsp->id], rsp->status);
	tx->use[rsp->id] = PVNET_TX_FREE;
	tx->free[tx->free_tail++ % PVNET_SLOTS] = rsp->id;
	return true;
}

static void pvnet_tx_reap(struct pvnet_queue *q)
{
	struct pvnet_tx *tx = &q->tx;
	struct xen_netif_tx_response rsp;
	u32 waiting = link_ring_responses(&tx->ring);

	if (waiting > PVNET_IN_FLIGHT(&tx->ring)) {
		pvnet_break(q->np, "more tx responses than there are requests");
		return;
	}
	for (; waiting; waiting--) {
		RING_COPY_RESPONSE(&tx->ring, tx->ring.rsp_cons, &rsp);
		if (!pvnet_tx_retire(q, &rsp)) {
			pvnet_break(q->np, "a tx response to no request");
			return;
		}
		tx->ring.rsp_cons++;
	}
}

/* ---- requests ---------------------------------------------------------- */

static struct xen_netif_extra_info *pvnet_tx_next_extra(struct pvnet_tx *tx)
{
	tx->extras++;
	return (struct xen_netif_extra_info *)
		RING_GET_REQUEST(&tx->ring, tx->ring.req_prod_pvt++);
}

static void pvnet_tx_put_gso(struct pvnet_tx *tx, const struct sk_buff *skb)
{
	bool ipv6 = skb_shinfo(skb)->gso_type & SKB_GSO_TCPV6;

	*pvnet_tx_next_extra(tx) = (struct xen_netif_extra_info) {
		.type = XEN_NETIF_EXTRA_TYPE_GSO,
		.u.gso.size = skb_shinfo(skb)->gso_size,
		.u.gso.type = ipv6 ? XEN_NETIF_GSO_TYPE_TCPV6 :
				     XEN_NETIF_GSO_TYPE_TCPV4,
	};
}

/* Flags of a packet's first request, but for "more data". */
static u16 pvnet_tx_flags(const struct sk_buff *skb)
{
	u16 flags = 0;

	if (skb->ip_summed == CHECKSUM_PARTIAL)
		flags |= XEN_NETTXF_csum_blank | XEN_NETTXF_data_validated;
	else if (skb->ip_summed == CHECKSUM_UNNECESSARY)
		flags |= XEN_NETTXF_data_validated;
	if (skb_is_gso(skb))
		flags |= XEN_NETTXF_extra_info;
	return flags;
}

/* Copy a packet to the pool and write its requests; the ring has room for it. */
static void pvnet_tx_put(struct pvnet_queue *q, struct sk_buff *skb)
{
	struct pvnet_tx *tx = &q->tx;
	struct link_skb_source src = {};
	u16 flags = pvnet_tx_flags(skb);
	u32 offset, len;

	skb_prepare_seq_read(skb, 0, skb->len, &src.seq);
	for (offset = 0; offset < skb->len; offset += len, flags = 0) {
		bool first = !offset;
		u8 id = pvnet_tx_take_id(tx, first ? PVNET_TX_FIRST :
						     PVNET_TX_REST);

		if (first)
			trace_pvnet_xmit(q, tx->ring.req_prod_pvt, id, skb->len);
		len = min_t(u32, skb->len - offset, XEN_PAGE_SIZE);
		link_skb_read(&src, tx->pool.addr + id * XEN_PAGE_SIZE, len);
		if (offset + len < skb->len)
			flags |= XEN_NETTXF_more_data;
		*RING_GET_REQUEST(&tx->ring, tx->ring.req_prod_pvt++) =
			(struct xen_netif_tx_request) {
				.gref = tx->pool.ref + id,
				.flags = flags,
				.id = id,
				/* the first one tells the packet's length */
				.size = first ? skb->len : len,
			};
		if (first && skb_is_gso(skb))
			pvnet_tx_put_gso(tx, skb);
	}
	skb_abort_seq_read(&src.seq);
}

static void pvnet_tx_push(struct pvnet_queue *q)
{
	if (link_ring_push_requests(q->np->link, &q->tx.ring)) {
		q->tx.stats.doorbells++;
		link_notify(q->np->link, q->tx.port);
	}
	link_poller_expect(&q->poller, true);
}

static bool pvnet_tx_has_room(const struct pvnet_tx *tx)
{
	return RING_FREE_REQUESTS(&tx->ring) >= PVNET_TX_SLOTS;
}

/* The ring is full as far as was known: look again, or stop until it is not. */
static void pvnet_tx_pause(struct pvnet_queue *q)
{
	struct pvnet_tx *tx = &q->tx;
	u32 half;

	pvnet_tx_reap(q);
	if (pvnet_tx_has_room(tx))
		return;

	/* What is not pushed is not answered. */
	pvnet_tx_push(q);
	netif_tx_stop_queue(pvnet_txq(q));
	tx->stats.stops++;
	half = PVNET_IN_FLIGHT(&tx->ring) / 2;
	if (pvnet_wish_tx(q, half) >= half) {
		/* They came before they were asked for: nobody will call. */
		pvnet_tx_reap(q);
		if (pvnet_tx_has_room(tx)) {
			pvnet_forget_tx(q);
			netif_tx_start_queue(pvnet_txq(q));
		}
	}
}

/* Can this packet be described to the backend? */
static bool pvnet_tx_fits(const struct pvnet *np, const struct sk_buff *skb)
{
	u32 most = np->offers & NETIF_F_SG ? XEN_NETIF_MAX_TX_SIZE :
					     XEN_PAGE_SIZE;

	return skb->len >= ETH_HLEN && skb->len <= most;
}

netdev_tx_t pvnet_start_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);
	u16 index = skb_get_queue_mapping(skb);
	struct pvnet_queue *q = &np->queues[index];
	struct pvnet_tx *tx = &q->tx;
	/* What comes back are acknowledgements: the next packet finds them. */
	bool bulk = skb->len > PVNET_BULK;

	if (unlikely(!np->connected || np->broken || index >= np->nr_queues ||
		     !pvnet_tx_fits(np, skb)))
		goto drop;

	skb_tx_timestamp(skb);
	pvnet_tx_put(q, skb);
	tx->stats.packets++;
	tx->stats.bytes += skb->len;
	dev_consume_skb_any(skb);
	if (!pvnet_tx_has_room(tx))
		pvnet_tx_pause(q);
	if (!netdev_xmit_more() || netif_tx_queue_stopped(pvnet_txq(q)))
		pvnet_tx_push(q);
	if (bulk)
		link_poller_looks(&q->poller);
	pvnet_glance(q);
	return NETDEV_TX_OK;

drop:
	dev_kfree_skb_any(skb);
	tx->stats.dropped++;
	if (np->connected && index < np->nr_queues && !netdev_xmit_more())
		pvnet_tx_push(q);
	return NETDEV_TX_OK;
}

void pvnet_tx_resume(struct pvnet_queue *q)
{
	struct netdev_queue *txq = pvnet_txq(q);

	__netif_tx_lock_bh(txq);
	netif_tx_start_queue(txq);
	if (!pvnet_tx_has_room(&q->tx))
		pvnet_tx_pause(q);
	__netif_tx_unlock_bh(txq);
}

/* After an event: go on sending when there is room again. */
void pvnet_tx_poll(struct pvnet_queue *q)
{
	struct netdev_queue *txq = pvnet_txq(q);
	struct pvnet *np = q->np;

	if (!netif_tx_queue_stopped(txq))
		return;
	__netif_tx_lock(txq, smp_processor_id());
	if (np->connected && !np->broken) {
		pvnet_tx_reap(q);
		if (pvnet_tx_has_room(&q->tx)) {
			pvnet_forget_tx(q);
			netif_tx_wake_queue(txq);
		}
	}
	__netif_tx_unlock(txq);
	if (np->filter_behind)
		schedule_work(&np->filter_work);
}

int pvnet_tx_filter(struct pvnet_queue *q, u8 type, const u8 *addr)
{
	struct netdev_queue *txq = pvnet_txq(q);
	struct xen_netif_extra_info *extra;
	struct pvnet_tx *tx = &q->tx;
	u8 id;

	__netif_tx_lock(txq, smp_processor_id());
	if (RING_FREE_REQUESTS(&tx->ring) < PVNET_TX_SLOTS + 2)
		pvnet_tx_reap(q);
	if (RING_FREE_REQUESTS(&tx->ring) < PVNET_TX_SLOTS + 2) {
		__netif_tx_unlock(txq);
		return -ENOSPC;
	}
	/* A request without data: only what follows it counts. */
	id = pvnet_tx_take_id(tx, PVNET_TX_FILTER);
	*RING_GET_REQUEST(&tx->ring, tx->ring.req_prod_pvt++) =
		(struct xen_netif_tx_request) {
			.gref = tx->pool.ref + id,
			.flags = XEN_NETTXF_extra_info,
			.id = id,
		};
	extra = pvnet_tx_next_extra(tx);
	*extra = (struct xen_netif_extra_info) { .type = type };
	ether_addr_copy(extra->u.mcast.addr, addr);
	pvnet_tx_push(q);
	__netif_tx_unlock(txq);
	return 0;
}
