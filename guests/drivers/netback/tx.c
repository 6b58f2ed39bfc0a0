// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the guest transmits: copied from its frames into an sk_buff, and given
 * to the network stack. Only then are headers looked at, and only in that copy.
 */

#include <linux/skbuff.h>
#include <linux/tcp.h>
#include "link_skb.h"
#include "netback.h"

/* Packets up to this length are copied to one linear area, in bytes. */
#define NETBACK_TX_LINEAR	2048
/* Of longer ones, as much as the headers may take. */
#define NETBACK_TX_HEADERS	256

/* So many answers are published at a time, unless there are no more. */
#define NETBACK_TX_BATCH	64

/* ---- bytes ------------------------------------------------------------- */

/* Copy one part of a packet behind what the sk_buff has, @head to be linear. */
static bool netback_tx_copy(struct netback_queue *q, struct sk_buff *skb,
			    const struct xen_netif_tx_request *part, u32 head)
{
	struct link *link = q->vif->link;
	u32 linear = min_t(u32, part->size, head - skb_headlen(skb));
	struct link_map map;
	bool copied;
	u8 *data;

	if (!part->size)
		return true;
	if (link_map_grant(link, part->gref, true, &map))
		return false;
	data = map.addr + part->offset;
	if (linear)
		link_copy(skb_put(skb, linear), data, linear);
	copied = link_skb_append(&q->tx.frag, skb, data + linear,
				 part->size - linear);
	link_unmap_grant(link, &map);
	return copied;
}

static struct sk_buff *netback_tx_gather(struct netback_queue *q,
					 const struct netback_tx_packet *p)
{
	u32 head = p->len <= NETBACK_TX_LINEAR ? p->len : NETBACK_TX_HEADERS;
	struct sk_buff *skb = napi_alloc_skb(&q->napi, head);
	u32 i;

	if (!skb)
		return NULL;
	for (i = 0; i < p->nr; i++) {
		if (!netback_tx_copy(q, skb, &p->part[i], head)) {
			kfree_skb(skb);
			return NULL;
		}
	}
	return skb;
}

/* ---- what is left to do for a packet ----------------------------------- */

/* The headers of a packet to be segmented: is it one of that kind at all? */
static bool netback_tx_set_gso(struct sk_buff *skb,
			       const struct netback_tx_packet *p)
{
	bool ipv6 = p->gso_type == XEN_NETIF_GSO_TYPE_TCPV6;
	u32 headers = skb_transport_offset(skb);
	struct tcphdr *tcp;

	if (skb->protocol != htons(ipv6 ? ETH_P_IPV6 : ETH_P_IP) ||
	    skb->csum_offset != offsetof(struct tcphdr, check) ||
	    !pskb_may_pull(skb, headers + sizeof(*tcp)))
		return false;
	tcp = tcp_hdr(skb);
	if (tcp->doff < sizeof(*tcp) / 4 ||
	    !pskb_may_pull(skb, headers + tcp->doff * 4))
		return false;
	headers += tcp_hdrlen(skb);
	/* One segment is none. So is any of a size that has a meaning of its
	 * own to the stack, as no packet is longer (GSO_BY_FRAGS).
	 */
	if (skb->len - headers <= p->gso_size)
		return true;
	skb_shinfo(skb)->gso_size = p->gso_size;
	skb_shinfo(skb)->gso_type = ipv6 ? SKB_GSO_TCPV6 : SKB_GSO_TCPV4;
	/* Whoever sends it on has to check it and count segments. */
	skb_shinfo(skb)->gso_type |= SKB_GSO_DODGY;
	skb_shinfo(skb)->gso_segs = 0;
	return true;
}

/* False: the packet's headers are not what the guest says. */
static bool netback_tx_set_offloads(struct sk_buff *skb,
				    const struct netback_tx_packet *p)
{
	bool blank = p->flags & XEN_NETTXF_csum_blank;

	if (!blank && !p->gso_size) {
		if (p->flags & XEN_NETTXF_data_validated)
			skb->ip_summed = CHECKSUM_UNNECESSARY;
		return true;
	}
	/* Segments cannot do without a blank checksum. */
	skb->ip_summed = CHECKSUM_PARTIAL;
	if (skb_checksum_setup(skb, !blank))
		return false;
	return !p->gso_size || netback_tx_set_gso(skb, p);
}

static s16 netback_tx_deliver(struct netback_queue *q,
			      const struct netback_tx_packet *p)
{
	struct net_device *netdev = q->vif->netdev;
	struct sk_buff *skb = netback_tx_gather(q, p);

	if (!skb)
		return XEN_NETIF_RSP_ERROR;
	skb->protocol = eth_type_trans(skb, netdev);
	skb_reset_network_header(skb);
	if (!netback_tx_set_offloads(skb, p)) {
		kfree_skb(skb);
		return XEN_NETIF_RSP_ERROR;
	}
	skb_record_rx_queue(skb, q->index);
	q->tx.stats.packets++;
	q->tx.stats.bytes += p->len;
	netif_receive_skb(skb);
	return XEN_NETIF_RSP_OKAY;
}

/* ---- packets ----------------------------------------------------------- */

static s16 netback_tx_multicast(struct netback *vif,
				const struct netback_tx_packet *p)
{
	bool done = vif->offers.multicast;
	u32 i;

	for (i = 0; i < p->extras && vif->offers.multicast; i++)
		if (!netback_filter_change(&vif->filter, &p->extra[i]))
			done = false;
	return done ? XEN_NETIF_RSP_OKAY : XEN_NETIF_RSP_ERROR;
}

static s16 netback_tx_perform(struct netback_queue *q,
			      const struct netback_tx_packet *p)
{
	s16 status;

	if (p->multicast)
		return netback_tx_multicast(q->vif, p);
	status = p->wrong ? XEN_NETIF_RSP_ERROR : netback_tx_deliver(q, p);
	if (status != XEN_NETIF_RSP_OKAY)
		q->tx.stats.errors++;
	return status;
}

static void netback_tx_put(struct netback_tx *tx, u16 id, s16 status)
{
	*RING_GET_RESPONSE(&tx->ring, tx->ring.rsp_prod_pvt++) =
		(struct xen_netif_tx_response) { .id = id, .status = status };
}

/* Answer a packet's entries in their order, extra info behind the first. */
static void netback_tx_answer(struct netback_tx *tx,
			      const struct netback_tx_packet *p, s16 status)
{
	u32 i;

	tx->ring.req_cons += p->entries;
	netback_tx_put(tx, p->part[0].id, status);
	for (i = 0; i < p->extras; i++)
		netback_tx_put(tx, 0, XEN_NETIF_RSP_NULL);
	for (i = 1; i < p->nr; i++)
		netback_tx_put(tx, p->part[i].id, status);
}

static void netback_tx_push(struct netback_queue *q)
{
	if (link_ring_push_responses(q->vif->link, &q->tx.ring)) {
		q->tx.stats.doorbells++;
		link_notify(q->vif->link, q->tx.port);
	}
}

int netback_tx_poll(struct netback_queue *q, int budget)
{
	struct netback_tx *tx = &q->tx;
	u32 pushed = tx->ring.rsp_prod_pvt;
	int done;

	for (done = 0; done < budget && !q->vif->broken; done++) {
		u32 waiting = link_ring_requests(&tx->ring);
		struct netback_tx_packet p;
		const char *wrong;

		if (!waiting)
			break;
		if (waiting > RING_SIZE(&tx->ring)) {
			netback_break(q->vif, "more tx requests than the ring has entries");
			break;
		}
		wrong = netback_tx_read(tx, &p);
		if (wrong) {
			netback_break(q->vif, wrong);
			break;
		}
		netback_tx_answer(tx, &p, netback_tx_perform(q, &p));
		if (tx->ring.rsp_prod_pvt - pushed >= NETBACK_TX_BATCH) {
			netback_tx_push(q);
			pushed = tx->ring.rsp_prod_pvt;
		}
	}
	if (tx->ring.rsp_prod_pvt != pushed)
		netback_tx_push(q);
	return done;
}
