// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving. The backend answers the request in each ring entry in its place, so
 * entry n always offers frame n. A packet is first read off the ring into a
 * description of its own and judged there; then its bytes are copied to private
 * memory once, and only that copy is looked at.
 */

#include <linux/etherdevice.h>
#include <linux/skbuff.h>
#include "pvnet.h"

/* Packets up to this length are copied to one linear area, in bytes. */
#define PVNET_RX_LINEAR	2048
/* Of longer ones, as much as the headers may take. */
#define PVNET_RX_HEADERS 256

struct pvnet_rx_part {
	const u8 *data;		/* in the link */
	u32 len;
};

/* One packet as the ring describes it. */
struct pvnet_rx_packet {
	u32 entries;		/* of the ring that it takes */
	u16 flags;		/* of its first entry */
	u32 len;
	struct xen_netif_extra_info gso; /* type NONE: there is none */
	const char *wrong;	/* why to drop it */
	u32 nr;			/* parts that are not empty */
	struct pvnet_rx_part part[XEN_NETIF_NR_SLOTS_MIN];
};

/* Offer every free frame. */
static void pvnet_rx_refill(struct pvnet *np)
{
	struct pvnet_rx *rx = &np->rx;

	if (RING_FULL(&rx->ring))
		return;
	do {
		u16 id = rx->ring.req_prod_pvt % PVNET_SLOTS;

		*RING_GET_REQUEST(&rx->ring, rx->ring.req_prod_pvt++) =
			(struct xen_netif_rx_request) {
				.id = id,
				.gref = rx->pool.ref + id,
			};
	} while (!RING_FULL(&rx->ring));
	if (link_ring_push_requests(np->link, &rx->ring))
		link_notify(np->link, rx->port);
}

int pvnet_rx_setup(struct pvnet *np)
{
	struct pvnet_rx *rx = &np->rx;
	struct xen_netif_rx_sring *sring;
	int err;

	err = link_grant_alloc(np->link, 1, 0, &rx->page);
	if (err)
		return err;
	err = link_grant_alloc(np->link, PVNET_SLOTS, 0, &rx->pool);
	if (err)
		return err;

	sring = rx->page.addr;
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&rx->ring, sring, XEN_PAGE_SIZE);
	BUILD_BUG_ON(PVNET_SLOTS !=
		     __CONST_RING_SIZE(xen_netif_rx, XEN_PAGE_SIZE));
	pvnet_rx_refill(np);
	return 0;
}

void pvnet_rx_teardown(struct pvnet *np)
{
	struct pvnet_rx *rx = &np->rx;

	link_grant_free(np->link, &rx->pool);
	link_grant_free(np->link, &rx->page);
	if (rx->frag.page)
		put_page(rx->frag.page);
	rx->frag = (struct page_frag) {};
}

/* The entries behind a packet's first one that are not frames. */
static void pvnet_rx_read_extras(struct pvnet_rx *rx, u32 waiting,
				 struct pvnet_rx_packet *p)
{
	struct xen_netif_extra_info extra;

	do {
		if (p->entries == waiting) {
			p->wrong = "it ends before its extra info";
			return;
		}
		RING_COPY_RESPONSE(&rx->ring, rx->ring.rsp_cons + p->entries,
				   &extra);
		p->entries++;
		if (extra.type != XEN_NETIF_EXTRA_TYPE_GSO)
			p->wrong = "extra info of a type not asked for";
		else if (!extra.u.gso.size)
			p->wrong = "a GSO size of 0";
		else if (extra.u.gso.type != XEN_NETIF_GSO_TYPE_TCPV4 &&
			 extra.u.gso.type != XEN_NETIF_GSO_TYPE_TCPV6)
			p->wrong = "an unknown GSO type";
		else
			p->gso = extra;
	} while (extra.flags & XEN_NETIF_EXTRA_FLAG_MORE);
}

static void pvnet_rx_add_part(struct pvnet_rx *rx, struct pvnet_rx_packet *p,
			      const struct xen_netif_rx_response *rsp)
{
	if (rsp->status < 0)
		p->wrong = "the backend reports an error";
	else if (rsp->offset + rsp->status > XEN_PAGE_SIZE)
		p->wrong = "data beyond its frame";
	else if (p->nr == ARRAY_SIZE(p->part))
		p->wrong = "too many parts";
	else if (rsp->status)
		p->part[p->nr++] = (struct pvnet_rx_part) {
			.data = rx->pool.addr + rsp->id * XEN_PAGE_SIZE +
				rsp->offset,
			.len = rsp->status,
		};
}

/* Read the next packet off the ring, where @waiting (> 0) entries are. False:
 * the backend broke the ring.
 */
static bool pvnet_rx_read(struct pvnet_rx *rx, u32 waiting,
			  struct pvnet_rx_packet *p)
{
	struct xen_netif_rx_response rsp;
	u32 i;

	memset(p, 0, offsetof(struct pvnet_rx_packet, part));
	do {
		u32 index = rx->ring.rsp_cons + p->entries;

		if (p->entries == waiting) {
			p->wrong = "it ends in the middle";
			return true;
		}
		RING_COPY_RESPONSE(&rx->ring, index, &rsp);
		if (rsp.id != index % PVNET_SLOTS)
			return false;
		if (!p->entries++) {
			p->flags = rsp.flags;
			if (rsp.flags & XEN_NETRXF_extra_info)
				pvnet_rx_read_extras(rx, waiting, p);
		}
		pvnet_rx_add_part(rx, p, &rsp);
	} while (rsp.flags & XEN_NETRXF_more_data);

	for (i = 0; i < p->nr; i++)
		p->len += p->part[i].len;
	if (p->len < ETH_HLEN)
		p->wrong = p->wrong ?: "shorter than an Ethernet header";
	if (p->len > XEN_NETIF_MAX_TX_SIZE)
		p->wrong = p->wrong ?: "longer than any packet";
	return true;
}

static struct sk_buff *pvnet_rx_linear(struct pvnet *np,
				       const struct pvnet_rx_packet *p)
{
	struct sk_buff *skb = napi_alloc_skb(&np->napi, p->len);
	u32 i;

	if (!skb)
		return NULL;
	for (i = 0; i < p->nr; i++)
		link_copy(skb_put(skb, p->part[i].len), p->part[i].data,
			  p->part[i].len);
	return skb;
}

/* Append bytes of the link to a packet, in pages. */
static bool pvnet_rx_append(struct page_frag *frag, struct sk_buff *skb,
			    const u8 *data, u32 len)
{
	while (len) {
		int nr = skb_shinfo(skb)->nr_frags;
		u32 n;

		if (!skb_page_frag_refill(min_t(u32, len, PAGE_SIZE), frag,
					  GFP_ATOMIC | __GFP_NOWARN))
			return false;
		n = min(len, frag->size - frag->offset);
		if (skb_can_coalesce(skb, nr, frag->page, frag->offset)) {
			skb_coalesce_rx_frag(skb, nr - 1, n, n);
		} else {
			if (nr == MAX_SKB_FRAGS)
				return false;
			get_page(frag->page);
			skb_add_rx_frag(skb, nr, frag->page, frag->offset, n,
					n);
		}
		link_copy(page_address(frag->page) + frag->offset, data, n);
		frag->offset += n;
		data += n;
		len -= n;
	}
	return true;
}

/* Headers go to the linear area, where the stack wants them; data to pages. */
static struct sk_buff *pvnet_rx_paged(struct pvnet *np,
				      const struct pvnet_rx_packet *p)
{
	struct sk_buff *skb = napi_alloc_skb(&np->napi, PVNET_RX_HEADERS);
	u32 head = min_t(u32, p->part[0].len, PVNET_RX_HEADERS);
	u32 i;

	if (!skb)
		return NULL;
	link_copy(skb->data, p->part[0].data, head);
	head = eth_get_headlen(np->netdev, skb->data, head);
	skb_put(skb, head);
	for (i = 0; i < p->nr; i++, head = 0) {
		if (!pvnet_rx_append(&np->rx.frag, skb, p->part[i].data + head,
				     p->part[i].len - head)) {
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

static void pvnet_rx_deliver(struct pvnet *np, const struct pvnet_rx_packet *p)
{
	struct net_device *netdev = np->netdev;
	struct sk_buff *skb = NULL;

	if (p->wrong) {
		if (net_ratelimit())
			netdev_warn(netdev, "dropped a packet: %s\n", p->wrong);
		netdev->stats.rx_errors++;
		return;
	}
	if (p->len <= PVNET_RX_LINEAR)
		skb = pvnet_rx_linear(np, p);
	else
		skb = pvnet_rx_paged(np, p);
	if (!skb) {
		netdev->stats.rx_dropped++;
		return;
	}
	/* Headers may be in several short parts, so short of the linear area. */
	if (!pskb_may_pull(skb, ETH_HLEN))
		goto bad;
	skb->protocol = eth_type_trans(skb, netdev);
	skb_reset_network_header(skb);
	if (!pvnet_rx_set_offloads(skb, p))
		goto bad;
	dev_sw_netstats_rx_add(netdev, p->len);
	napi_gro_receive(&np->napi, skb);
	return;

bad:
	netdev->stats.rx_errors++;
	kfree_skb(skb);
}

/* Take up to @budget packets off the ring; returns how many there were. */
int pvnet_rx_poll(struct pvnet *np, int budget)
{
	struct pvnet_rx *rx = &np->rx;
	int done;

	for (done = 0; done < budget && !np->broken; done++) {
		struct pvnet_rx_packet p;
		u32 waiting = link_ring_responses(&rx->ring);

		if (!waiting)
			break;
		if (waiting > PVNET_IN_FLIGHT(&rx->ring)) {
			pvnet_break(np, "more rx responses than there are requests");
			break;
		}
		if (!pvnet_rx_read(rx, waiting, &p)) {
			pvnet_break(np, "an rx response out of its place");
			break;
		}
		pvnet_rx_deliver(np, &p);
		rx->ring.rsp_cons += p.entries;
		/* Before the backend runs dry, but not for every packet. */
		if (RING_FREE_REQUESTS(&rx->ring) >= PVNET_SLOTS / 4)
			pvnet_rx_refill(np);
	}
	if (!np->broken)
		pvnet_rx_refill(np);
	return done;
}
