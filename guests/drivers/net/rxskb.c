// SPDX-License-Identifier: GPL-2.0-only
/*
 * From a packet in frames of the link to an sk_buff. Whatever is judged, here or
 * in the stack, is a private copy of its headers; the bytes behind them may stay
 * in the link when the backend is trusted not to change them.
 */

#include <linux/etherdevice.h>
#include <linux/skbuff.h>
#include "link_skb.h"
#include "pvnet.h"

/* Packets up to this length are copied to one linear area, in bytes. */
#define PVNET_RX_LINEAR	2048
/* Of longer ones, as much as the headers may take. */
#define PVNET_RX_HEADERS 256

static const u8 *pvnet_rx_data(struct pvnet_rx *rx,
			       const struct pvnet_rx_part *part)
{
	return pvnet_frame(&rx->frames, part->id) + part->offset;
}

static struct sk_buff *pvnet_rx_linear(struct pvnet_queue *q,
				       const struct pvnet_rx_packet *p)
{
	struct sk_buff *skb = napi_alloc_skb(&q->napi, p->len);
	u32 i;

	if (!skb)
		return NULL;
	for (i = 0; i < p->nr; i++)
		link_copy(skb_put(skb, p->part[i].len),
			  pvnet_rx_data(&q->rx, &p->part[i]), p->part[i].len);
	q->rx.stats.copied += p->nr;
	return skb;
}

/* Put one part, from @skip on, behind what a packet has; copy it if need be. */
static bool pvnet_rx_add(struct pvnet_queue *q, struct sk_buff *skb,
			 const struct pvnet_rx_part *part, u32 skip)
{
	int nr = skb_shinfo(skb)->nr_frags;
	const u8 *data = pvnet_rx_data(&q->rx, part) + skip;
	struct page *page = NULL;

	if (nr < MAX_SKB_FRAGS && part->len > skip)
		page = pvnet_frame_lend(q->np, &q->rx.frames, part->id);
	if (!page) {
		q->rx.stats.copied++;
		return link_skb_append(&q->rx.frag, skb, data,
				       part->len - skip);
	}
	skb_add_rx_frag(skb, nr, page, part->offset + skip, part->len - skip,
			PAGE_SIZE);
	/* The backend can write there: nobody may rely on what was read. */
	skb_shinfo(skb)->flags |= SKBFL_SHARED_FRAG;
	q->rx.stats.lent++;
	return true;
}

/* Headers go to the linear area, where the stack wants them; data to pages. */
static struct sk_buff *pvnet_rx_paged(struct pvnet_queue *q,
				      const struct pvnet_rx_packet *p)
{
	struct sk_buff *skb = napi_alloc_skb(&q->napi, PVNET_RX_HEADERS);
	u32 head = min_t(u32, p->part[0].len, PVNET_RX_HEADERS);
	u32 i;

	if (!skb)
		return NULL;
	link_copy(skb->data, pvnet_rx_data(&q->rx, &p->part[0]), head);
	head = eth_get_headlen(q->np->netdev, skb->data, head);
	skb_put(skb, head);
	for (i = 0; i < p->nr; i++, head = 0) {
		if (!pvnet_rx_add(q, skb, &p->part[i], head)) {
			kfree_skb(skb);
			return NULL;
		}
	}
	return skb;
}

/* Tell the stack which checksums are right or blank and how large the segments
 * are. Judges the headers of our copy; false: they make no sense.
 */
static bool pvnet_rx_set_offloads(struct sk_buff *skb,
				  const struct pvnet_rx_packet *p)
{
	struct skb_shared_info *shinfo = skb_shinfo(skb);
	bool recalculate = false;

	if (p->flags & XEN_NETRXF_csum_blank)
		skb->ip_summed = CHECKSUM_PARTIAL;
	else if (p->flags & XEN_NETRXF_data_validated)
		skb->ip_summed = CHECKSUM_UNNECESSARY;

	if (p->gso.type == XEN_NETIF_EXTRA_TYPE_GSO) {
		bool ipv6 = p->gso.u.gso.type == XEN_NETIF_GSO_TYPE_TCPV6;

		shinfo->gso_size = p->gso.u.gso.size;
		shinfo->gso_type = ipv6 ? SKB_GSO_TCPV6 : SKB_GSO_TCPV4;
		/* Whoever sends it on has to check it and count segments. */
		shinfo->gso_type |= SKB_GSO_DODGY;
		shinfo->gso_segs = 0;
		/* Segments cannot do without a blank checksum. */
		recalculate = skb->ip_summed != CHECKSUM_PARTIAL;
		skb->ip_summed = CHECKSUM_PARTIAL;
	}
	return skb->ip_summed != CHECKSUM_PARTIAL ||
	       !skb_checksum_setup(skb, recalculate);
}

void pvnet_rx_deliver(struct pvnet_queue *q, const struct pvnet_rx_packet *p)
{
	struct net_device *netdev = q->np->netdev;
	struct pvnet_rx_stats *stats = &q->rx.stats;
	struct sk_buff *skb;

	if (p->wrong) {
		if (net_ratelimit())
			netdev_warn(netdev, "dropped a packet: %s\n", p->wrong);
		stats->errors++;
		return;
	}
	if (p->len <= PVNET_RX_LINEAR)
		skb = pvnet_rx_linear(q, p);
	else
		skb = pvnet_rx_paged(q, p);
	if (!skb) {
		stats->dropped++;
		return;
	}
	/* Headers may be in several short parts, so short of the linear area. */
	if (!pskb_may_pull(skb, ETH_HLEN))
		goto bad;
	skb->protocol = eth_type_trans(skb, netdev);
	skb_reset_network_header(skb);
	if (!pvnet_rx_set_offloads(skb, p))
		goto bad;
	skb_record_rx_queue(skb, q->index);
	stats->packets++;
	stats->bytes += p->len;
	if (skb->pkt_type == PACKET_MULTICAST)
		stats->multicast++;
	napi_gro_receive(&q->napi, skb);
	return;

bad:
	stats->errors++;
	kfree_skb(skb);
}
