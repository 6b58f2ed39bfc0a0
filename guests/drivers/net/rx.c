// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving. The backend answers the request in each ring entry in its place. A
 * packet is first read off the ring into a description of its own and judged
 * there; rxskb.c then makes an sk_buff of its bytes.
 */

#include <linux/etherdevice.h>
#include "pvnet.h"
#include "trace.h"

/* So many entries are filled at a time: far more than a packet takes are left. */
#define PVNET_RX_BATCH	(PVNET_SLOTS / 4)

/* Offer a frame in every free entry, unless it is too early for that. */
static void pvnet_rx_refill(struct pvnet_queue *q)
{
	struct pvnet_rx *rx = &q->rx;

	if (RING_FREE_REQUESTS(&rx->ring) < PVNET_RX_BATCH)
		return;
	do {
		u16 id = rx->ring.req_prod_pvt % PVNET_SLOTS;

		*RING_GET_REQUEST(&rx->ring, rx->ring.req_prod_pvt++) =
			(struct xen_netif_rx_request) {
				.id = id,
				.gref = rx->frames.pool.ref +
					rx->frames.offered[id],
			};
	} while (!RING_FULL(&rx->ring));
	if (link_ring_push_requests(q->np->link, &rx->ring)) {
		rx->stats.doorbells++;
		link_notify(q->np->link, rx->port);
	}
}

int pvnet_rx_setup(struct pvnet_queue *q)
{
	struct pvnet_rx *rx = &q->rx;
	struct xen_netif_rx_sring *sring;
	int err;

	err = link_grant_alloc(q->np->link, 1, 0, &rx->page);
	if (err)
		return err;
	err = pvnet_frames_setup(q->np, &rx->frames);
	if (err)
		return err;

	sring = rx->page.addr;
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&rx->ring, sring, XEN_PAGE_SIZE);
	BUILD_BUG_ON(PVNET_SLOTS !=
		     __CONST_RING_SIZE(xen_netif_rx, XEN_PAGE_SIZE));
	pvnet_rx_refill(q);
	return 0;
}

void pvnet_rx_teardown(struct pvnet_queue *q)
{
	struct pvnet_rx *rx = &q->rx;

	pvnet_frames_teardown(q->np, &rx->frames);
	link_grant_free(q->np->link, &rx->page);
	if (rx->frag.page)
		put_page(rx->frag.page);
	rx->frag = (struct page_frag) {};
}

static void pvnet_rx_add_extra(struct pvnet_rx_packet *p,
			       const struct xen_netif_extra_info *extra)
{
	if (extra->type != XEN_NETIF_EXTRA_TYPE_GSO)
		p->wrong = "extra info of a type not asked for";
	else if (!extra->u.gso.size)
		p->wrong = "a GSO size of 0";
	else if (extra->u.gso.type != XEN_NETIF_GSO_TYPE_TCPV4 &&
		 extra->u.gso.type != XEN_NETIF_GSO_TYPE_TCPV6)
		p->wrong = "an unknown GSO type";
	else
		p->gso = *extra;
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
		pvnet_rx_add_extra(p, &extra);
	} while (extra.flags & XEN_NETIF_EXTRA_FLAG_MORE);
}

static void pvnet_rx_add_part(struct pvnet_rx_packet *p,
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
			.id = rsp->id,
			.offset = rsp->offset,
			.len = rsp->status,
		};
}

static void pvnet_rx_judge(struct pvnet_rx_packet *p)
{
	u32 i;

	for (i = 0; i < p->nr; i++)
		p->len += p->part[i].len;
	if (p->wrong)
		return;
	if (p->len < ETH_HLEN)
		p->wrong = "shorter than an Ethernet header";
	else if (p->len > XEN_NETIF_MAX_TX_SIZE)
		p->wrong = "longer than any packet";
}

/* Read the next packet off the ring, where @waiting (> 0) entries are. False:
 * the backend broke the ring.
 */
static bool pvnet_rx_read(struct pvnet_rx *rx, u32 waiting,
			  struct pvnet_rx_packet *p)
{
	struct xen_netif_rx_response rsp;

	memset(p, 0, offsetof(struct pvnet_rx_packet, part));
	do {
		u32 index = rx->ring.rsp_cons + p->entries;

		if (p->entries == waiting) {
			p->wrong = "it ends in the middle";
			break;
		}
		RING_COPY_RESPONSE(&rx->ring, index, &rsp);
		if (rsp.id != index % PVNET_SLOTS)
			return false;
		if (!p->entries++) {
			p->flags = rsp.flags;
			if (rsp.flags & XEN_NETRXF_extra_info)
				pvnet_rx_read_extras(rx, waiting, p);
		}
		pvnet_rx_add_part(p, &rsp);
	} while (rsp.flags & XEN_NETRXF_more_data);
	pvnet_rx_judge(p);
	return true;
}

/* Take up to @budget packets off the ring; returns how many there were. */
int pvnet_rx_poll(struct pvnet_queue *q, int budget)
{
	struct pvnet_rx *rx = &q->rx;
	struct pvnet *np = q->np;
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
		trace_pvnet_rx(q, rx->ring.rsp_cons,
			       rx->ring.rsp_cons % PVNET_SLOTS, p.len);
		pvnet_rx_deliver(q, &p);
		rx->ring.rsp_cons += p.entries;
		pvnet_rx_refill(q);
	}
	return done;
}
