// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the guest receives: copied into the frames that it has offered, by
 * whoever transmits on our device. When there are too few frames, one packet
 * waits here and the others in the device's queue, which drops what is too
 * much. When that lasts, the guest is taken not to want any: the cable is
 * pulled, and everything is dropped, until it offers frames again.
 */

#include <linux/moduleparam.h>
#include <linux/skbuff.h>
#include "link_skb.h"
#include "netback.h"

static unsigned int rx_stall_seconds = 60;
module_param(rx_stall_seconds, uint, 0644);
MODULE_PARM_DESC(rx_stall_seconds,
		 "How long a packet waits for the guest to offer frames");

/* ---- frames ------------------------------------------------------------ */

/* Copy to a frame of the guest's. Returns the length, or an error to answer. */
static s16 netback_rx_fill(struct netback_queue *q, grant_ref_t ref,
			   struct link_skb_source *src, u32 len)
{
	struct link *link = q->vif->link;
	struct link_map map;

	if (link_map_grant(link, ref, false, &map)) {
		link_skb_read(src, NULL, len);
		q->rx.stats.errors++;
		return XEN_NETIF_RSP_ERROR;
	}
	link_skb_read(src, map.addr, len);
	link_unmap_grant(link, &map);
	return len;
}

/* ---- answers ----------------------------------------------------------- */

/* Flags of a packet's first response, but for "more data". */
static u16 netback_rx_flags(const struct sk_buff *skb)
{
	u16 flags = 0;

	if (skb->ip_summed == CHECKSUM_PARTIAL)
		flags |= XEN_NETRXF_csum_blank | XEN_NETRXF_data_validated;
	else if (skb->ip_summed == CHECKSUM_UNNECESSARY)
		flags |= XEN_NETRXF_data_validated;
	if (skb_is_gso(skb))
		flags |= XEN_NETRXF_extra_info;
	return flags;
}

/* Extra info takes the place of an answer, whatever the request there was. */
static void netback_rx_put_gso(struct netback_rx *rx, const struct sk_buff *skb)
{
	bool ipv6 = skb_shinfo(skb)->gso_type & SKB_GSO_TCPV6;

	rx->ring.req_cons++;
	*(struct xen_netif_extra_info *)
		RING_GET_RESPONSE(&rx->ring, rx->ring.rsp_prod_pvt++) =
		(struct xen_netif_extra_info) {
			.type = XEN_NETIF_EXTRA_TYPE_GSO,
			.u.gso.size = skb_shinfo(skb)->gso_size,
			.u.gso.type = ipv6 ? XEN_NETIF_GSO_TYPE_TCPV6 :
					     XEN_NETIF_GSO_TYPE_TCPV4,
		};
}

/* Copy a packet to the guest and answer the requests; there are enough. */
static void netback_rx_put(struct netback_queue *q, struct sk_buff *skb)
{
	struct netback_rx *rx = &q->rx;
	struct link_skb_source src = {};
	u16 flags = netback_rx_flags(skb);
	u32 offset, len;

	skb_prepare_seq_read(skb, 0, skb->len, &src.seq);
	for (offset = 0; offset < skb->len; offset += len, flags = 0) {
		struct xen_netif_rx_request req;
		s16 status;

		RING_COPY_REQUEST(&rx->ring, rx->ring.req_cons, &req);
		rx->ring.req_cons++;
		len = min_t(u32, skb->len - offset, XEN_PAGE_SIZE);
		status = netback_rx_fill(q, req.gref, &src, len);
		if (offset + len < skb->len)
			flags |= XEN_NETRXF_more_data;
		*RING_GET_RESPONSE(&rx->ring, rx->ring.rsp_prod_pvt++) =
			(struct xen_netif_rx_response) {
				.id = req.id,
				.flags = flags,
				.status = status,
			};
		if (!offset && skb_is_gso(skb))
			netback_rx_put_gso(rx, skb);
	}
	skb_abort_seq_read(&src.seq);
	rx->stats.packets++;
	rx->stats.bytes += skb->len;
	dev_consume_skb_any(skb);
}

static void netback_rx_push(struct netback_queue *q)
{
	struct netback_rx *rx = &q->rx;

	if (rx->ring.rsp_prod_pvt == READ_ONCE(rx->ring.sring->rsp_prod))
		return;
	if (link_ring_push_responses(q->vif->link, &rx->ring)) {
		rx->stats.doorbells++;
		link_notify(q->vif->link, rx->port);
	}
}

/* ---- a guest that offers no frames ------------------------------------- */

static u32 netback_rx_needs(const struct sk_buff *skb)
{
	return DIV_ROUND_UP(skb->len, XEN_PAGE_SIZE) + skb_is_gso(skb);
}

/* Are there so many requests? The ring may turn out to be broken, too. */
static bool netback_rx_has(struct netback_queue *q, u32 needed, u32 waiting)
{
	if (waiting <= RING_SIZE(&q->rx.ring))
		return waiting >= needed;
	netback_break(q->vif, "more rx requests than the ring has entries");
	return false;
}

/* Keep a packet until there are frames for it, and take no other meanwhile. */
static void netback_rx_hold(struct netback_queue *q, struct sk_buff *skb)
{
	unsigned long patience = READ_ONCE(rx_stall_seconds) * HZ;
	struct netback_rx *rx = &q->rx;

	netif_tx_stop_queue(netback_txq(q));
	netback_rx_push(q);
	rx->stats.stops++;
	rx->waiting = skb;
	rx->needed = netback_rx_needs(skb);
	rx->until = jiffies + patience;
	schedule_delayed_work(&rx->stall, patience);
}

/* Hand over the packet that waits, or take the guest for awake again. */
static void netback_rx_release(struct netback_queue *q)
{
	struct netback_rx *rx = &q->rx;

	netback_forget_rx(q);
	cancel_delayed_work(&rx->stall);
	rx->needed = 0;
	if (rx->waiting) {
		netback_rx_put(q, rx->waiting);
		rx->waiting = NULL;
		netback_rx_push(q);
	}
	if (rx->stalled) {
		rx->stalled = false;
		netback_update_carrier(q->vif);
	}
	netif_tx_wake_queue(netback_txq(q));
}

/* Go on if there are frames by now, or ask to be told of them. */
static void netback_rx_retry(struct netback_queue *q)
{
	u32 needed = q->rx.needed;

	if (netback_rx_has(q, needed, netback_wish_rx(q, needed)))
		netback_rx_release(q);
}

void netback_rx_poll(struct netback_queue *q)
{
	struct netdev_queue *txq = netback_txq(q);

	if (!READ_ONCE(q->rx.needed))
		return;
	__netif_tx_lock(txq, smp_processor_id());
	if (q->vif->connected && !q->vif->broken && q->rx.needed)
		netback_rx_retry(q);
	__netif_tx_unlock(txq);
}

static void netback_rx_stall(struct work_struct *work)
{
	struct netback_queue *q = container_of(to_delayed_work(work),
					       struct netback_queue, rx.stall);
	struct netdev_queue *txq = netback_txq(q);
	struct netback_rx *rx = &q->rx;

	__netif_tx_lock_bh(txq);
	/* Another packet may have begun to wait just now. */
	if (rx->waiting && time_after_eq(jiffies, rx->until)) {
		dev_kfree_skb_any(rx->waiting);
		rx->waiting = NULL;
		rx->stats.dropped++;
		rx->stalled = true;
		netback_update_carrier(q->vif);
		/* What is in the queue is dropped one by one. */
		netif_tx_wake_queue(txq);
	}
	__netif_tx_unlock_bh(txq);
}

void netback_rx_init(struct netback_queue *q)
{
	INIT_DELAYED_WORK(&q->rx.stall, netback_rx_stall);
}

void netback_rx_flush(struct netback_queue *q)
{
	struct netback_rx *rx = &q->rx;

	cancel_delayed_work_sync(&rx->stall);
	if (rx->waiting)
		dev_kfree_skb_any(rx->waiting);
	rx->waiting = NULL;
	rx->needed = 0;
	rx->stalled = false;
}

/* ---- packets ----------------------------------------------------------- */

/* Can this packet be described to the guest, and does it want it? */
static bool netback_rx_fits(struct netback *vif, const struct sk_buff *skb)
{
	u32 most = vif->taken & NETIF_F_SG ? XEN_NETIF_MAX_TX_SIZE :
					     XEN_PAGE_SIZE;

	return skb->len >= ETH_HLEN && skb->len <= most &&
	       netback_filter_passes(&vif->filter, skb->data);
}

netdev_tx_t netback_start_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct netback *vif = netdev_priv(netdev);
	u16 index = skb_get_queue_mapping(skb);
	struct netback_queue *q = &vif->queues[index];
	bool bulk = skb->len > NETBACK_BULK;

	if (unlikely(!vif->connected || vif->broken ||
		     index >= vif->nr_queues || q->rx.needed ||
		     !netback_rx_fits(vif, skb)))
		goto drop;

	skb_tx_timestamp(skb);
	if (likely(netback_rx_has(q, netback_rx_needs(skb),
				  link_ring_requests(&q->rx.ring)))) {
		netback_rx_put(q, skb);
		if (!netdev_xmit_more())
			netback_rx_push(q);
	} else {
		netback_rx_hold(q, skb);
		netback_rx_retry(q);
	}
	/* A transfer goes on by itself, and its acknowledgements are seen then. */
	if (bulk)
		link_poller_looks(&q->poller);
	else
		link_poller_expect(&q->poller, true);
	netback_glance(q);
	return NETDEV_TX_OK;

drop:
	dev_kfree_skb_any(skb);
	q->rx.stats.dropped++;
	if (vif->connected && index < vif->nr_queues && !netdev_xmit_more())
		netback_rx_push(q);
	return NETDEV_TX_OK;
}
