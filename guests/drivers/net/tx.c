// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sending. A packet is copied into as few frames as hold it, whatever pieces the
 * sk_buff has. Answers only give frames back, so nobody waits for them before
 * the ring is nearly full: then the queue stops, and the backend is asked for
 * one notification when half of the ring is done.
 */

#include <linux/etherdevice.h>
#include <linux/skbuff.h>
#include "pvnet.h"

int pvnet_tx_setup(struct pvnet *np)
{
	struct pvnet_tx *tx = &np->tx;
	struct xen_netif_tx_sring *sring;
	u32 id;
	int err;

	err = link_grant_alloc(np->link, 1, 0, &tx->page);
	if (err)
		return err;
	err = link_grant_alloc(np->link, PVNET_SLOTS, GTF_readonly, &tx->pool);
	if (err)
		return err;

	sring = tx->page.addr;
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&tx->ring, sring, XEN_PAGE_SIZE);
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

void pvnet_tx_teardown(struct pvnet *np)
{
	link_grant_free(np->link, &np->tx.pool);
	link_grant_free(np->link, &np->tx.page);
}

static u8 pvnet_tx_take_id(struct pvnet_tx *tx, enum pvnet_tx_use use)
{
	u8 id = tx->free[tx->free_head++ % PVNET_SLOTS];

	tx->use[id] = use;
	return id;
}

/* Take back what one answer is for. False when it is for nothing that was asked.
 */
static bool pvnet_tx_retire(struct pvnet *np,
			    const struct xen_netif_tx_response *rsp)
{
	struct pvnet_tx *tx = &np->tx;

	if (rsp->status == XEN_NETIF_RSP_NULL) {
		if (!tx->extras)
			return false;
		tx->extras--;
		return true;
	}
	if (rsp->id >= PVNET_SLOTS || tx->use[rsp->id] == PVNET_TX_FREE)
		return false;

	/* Every entry of a packet gets the packet's status: count it once. */
	if (rsp->status != XEN_NETIF_RSP_OKAY &&
	    tx->use[rsp->id] == PVNET_TX_FIRST) {
		if (rsp->status == XEN_NETIF_RSP_DROPPED)
			np->netdev->stats.tx_dropped++;
		else
			np->netdev->stats.tx_errors++;
	}
	tx->use[rsp->id] = PVNET_TX_FREE;
	tx->free[tx->free_tail++ % PVNET_SLOTS] = rsp->id;
	return true;
}

static void pvnet_tx_reap(struct pvnet *np)
{
	struct pvnet_tx *tx = &np->tx;
	struct xen_netif_tx_response rsp;
	u32 waiting = link_ring_responses(&tx->ring);

	if (waiting > PVNET_IN_FLIGHT(&tx->ring)) {
		pvnet_break(np, "more tx responses than there are requests");
		return;
	}
	for (; waiting; waiting--) {
		RING_COPY_RESPONSE(&tx->ring, tx->ring.rsp_cons, &rsp);
		if (!pvnet_tx_retire(np, &rsp)) {
			pvnet_break(np, "a tx response to no request");
			return;
		}
		tx->ring.rsp_cons++;
	}
}

/* A packet's bytes, piece by piece. */
struct pvnet_source {
	struct skb_seq_state seq;
	const u8 *data;
	u32 left;		/* at data */
	u32 done;
};

static void pvnet_tx_copy(struct pvnet_source *src, u8 *to, u32 len)
{
	while (len) {
		u32 n;

		if (!src->left)
			src->left = skb_seq_read(src->done, &src->data,
						 &src->seq);
		n = min(len, src->left);
		if (WARN_ON_ONCE(!n))
			return;
		link_copy(to, src->data, n);
		src->data += n;
		src->left -= n;
		src->done += n;
		to += n;
		len -= n;
	}
}

static void pvnet_tx_put_gso(struct pvnet_tx *tx, const struct sk_buff *skb)
{
	struct xen_netif_extra_info *extra = (struct xen_netif_extra_info *)
		RING_GET_REQUEST(&tx->ring, tx->ring.req_prod_pvt++);
	bool ipv6 = skb_shinfo(skb)->gso_type & SKB_GSO_TCPV6;

	*extra = (struct xen_netif_extra_info) {
		.type = XEN_NETIF_EXTRA_TYPE_GSO,
		.u.gso.size = skb_shinfo(skb)->gso_size,
		.u.gso.type = ipv6 ? XEN_NETIF_GSO_TYPE_TCPV6 :
				     XEN_NETIF_GSO_TYPE_TCPV4,
	};
	tx->extras++;
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
static void pvnet_tx_put(struct pvnet_tx *tx, struct sk_buff *skb)
{
	struct pvnet_source src = {};
	u16 flags = pvnet_tx_flags(skb);
	u32 offset, len;

	skb_prepare_seq_read(skb, 0, skb->len, &src.seq);
	for (offset = 0; offset < skb->len; offset += len, flags = 0) {
		bool first = !offset;
		u8 id = pvnet_tx_take_id(tx, first ? PVNET_TX_FIRST :
						     PVNET_TX_REST);

		len = min_t(u32, skb->len - offset, XEN_PAGE_SIZE);
		pvnet_tx_copy(&src, tx->pool.addr + id * XEN_PAGE_SIZE, len);
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

static void pvnet_tx_push(struct pvnet *np)
{
	if (link_ring_push_requests(np->link, &np->tx.ring))
		link_notify(np->link, np->tx.port);
}

static bool pvnet_tx_has_room(const struct pvnet_tx *tx)
{
	return RING_FREE_REQUESTS(&tx->ring) >= PVNET_TX_SLOTS;
}

/* The ring is full as far as was known: look again, or stop until it is not. */
static void pvnet_tx_pause(struct pvnet *np)
{
	struct pvnet_tx *tx = &np->tx;
	u32 half;

	pvnet_tx_reap(np);
	if (pvnet_tx_has_room(tx))
		return;

	/* What is not pushed is not answered. */
	pvnet_tx_push(np);
	netif_stop_queue(np->netdev);
	half = PVNET_IN_FLIGHT(&tx->ring) / 2;
	if (link_ring_arm_responses(np->link, &tx->ring, half) >= half) {
		/* They came before they were asked for: nobody will call. */
		pvnet_tx_reap(np);
		if (pvnet_tx_has_room(tx))
			netif_start_queue(np->netdev);
	}
}

netdev_tx_t pvnet_start_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);
	struct pvnet_tx *tx = &np->tx;

	if (unlikely(!np->connected || np->broken))
		goto drop;
	if (unlikely(skb->len > XEN_NETIF_MAX_TX_SIZE || skb->len < ETH_HLEN))
		goto drop;

	skb_tx_timestamp(skb);
	pvnet_tx_put(tx, skb);
	dev_sw_netstats_tx_add(netdev, 1, skb->len);
	dev_consume_skb_any(skb);
	if (!pvnet_tx_has_room(tx))
		pvnet_tx_pause(np);
	if (!netdev_xmit_more() || netif_queue_stopped(netdev))
		pvnet_tx_push(np);
	return NETDEV_TX_OK;

drop:
	dev_kfree_skb_any(skb);
	netdev->stats.tx_dropped++;
	if (np->connected && !netdev_xmit_more())
		pvnet_tx_push(np);
	return NETDEV_TX_OK;
}

/* After an event: go on sending when there is room again. */
void pvnet_tx_poll(struct pvnet *np)
{
	struct netdev_queue *queue = netdev_get_tx_queue(np->netdev, 0);

	if (!netif_tx_queue_stopped(queue))
		return;
	__netif_tx_lock(queue, smp_processor_id());
	if (np->connected && !np->broken) {
		pvnet_tx_reap(np);
		if (pvnet_tx_has_room(&np->tx))
			netif_tx_wake_queue(queue);
	}
	__netif_tx_unlock(queue);
}
