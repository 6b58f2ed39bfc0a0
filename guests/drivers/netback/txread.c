// SPDX-License-Identifier: GPL-2.0-only
/*
 * From entries of the transmit ring to the description of a packet. Each entry
 * is copied once; nothing is read again, whatever the guest writes meanwhile.
 */

#include "netback.h"

/* Copy the packet's next entry; false: the guest has put none there. */
static bool netback_tx_next(struct netback_tx *tx, struct netback_tx_packet *p,
			    struct xen_netif_tx_request *to)
{
	if (link_ring_requests(&tx->ring) <= p->entries)
		return false;
	RING_COPY_REQUEST(&tx->ring, tx->ring.req_cons + p->entries, to);
	p->entries++;
	return true;
}

static const char *netback_tx_read_gso(struct netback_tx_packet *p,
				       const struct xen_netif_extra_info *extra)
{
	if (!extra->u.gso.size)
		return "a GSO size of 0";
	if (extra->u.gso.type != XEN_NETIF_GSO_TYPE_TCPV4 &&
	    extra->u.gso.type != XEN_NETIF_GSO_TYPE_TCPV6)
		return "an unknown GSO type";
	p->gso_size = extra->u.gso.size;
	p->gso_type = extra->u.gso.type;
	return NULL;
}

static const char *netback_tx_read_extra(struct netback_tx_packet *p,
					 struct xen_netif_extra_info *extra)
{
	switch (extra->type) {
	case XEN_NETIF_EXTRA_TYPE_GSO:
		return netback_tx_read_gso(p, extra);
	case XEN_NETIF_EXTRA_TYPE_MCAST_ADD:
	case XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
		p->multicast = true;
		return NULL;
	case XEN_NETIF_EXTRA_TYPE_HASH:
		return NULL;
	default:
		return "extra info of an unknown type";
	}
}

/* The entries behind a packet's first one that describe it. */
static const char *netback_tx_read_extras(struct netback_tx *tx,
					  struct netback_tx_packet *p)
{
	struct xen_netif_extra_info *extra;
	struct xen_netif_tx_request copy;
	const char *wrong;

	BUILD_BUG_ON(sizeof(*extra) > sizeof(copy));
	do {
		if (p->extras == NETBACK_MAX_EXTRAS)
			return "too much extra info";
		if (!netback_tx_next(tx, p, &copy))
			return "a packet without its extra info";
		extra = &p->extra[p->extras++];
		memcpy(extra, &copy, sizeof(*extra));
		wrong = netback_tx_read_extra(p, extra);
		if (wrong)
			return wrong;
	} while (extra->flags & XEN_NETIF_EXTRA_FLAG_MORE);
	return NULL;
}

/* The parts behind the first one. */
static const char *netback_tx_read_parts(struct netback_tx *tx,
					 struct netback_tx_packet *p)
{
	while (p->part[p->nr - 1].flags & XEN_NETTXF_more_data) {
		if (p->nr == NETBACK_FATAL_SLOTS)
			return "a packet of far too many slots";
		if (!netback_tx_next(tx, p, &p->part[p->nr]))
			return "a packet without its last slot";
		p->nr++;
	}
	return NULL;
}

/* The first part's size was the packet's: its own is what the others leave. */
static const char *netback_tx_judge(struct netback_tx_packet *p)
{
	u32 i, rest = 0;

	for (i = 1; i < p->nr; i++)
		rest += p->part[i].size;
	if (p->len < ETH_HLEN || rest > p->len ||
	    p->nr > XEN_NETIF_NR_SLOTS_MIN) {
		p->wrong = true;
		return NULL;
	}
	p->part[0].size = p->len - rest;
	for (i = 0; i < p->nr; i++)
		if (p->part[i].offset + p->part[i].size > XEN_PAGE_SIZE)
			return "a slot that crosses its frame";
	return NULL;
}

const char *netback_tx_read(struct netback_tx *tx, struct netback_tx_packet *p)
{
	const char *wrong = NULL;

	memset(p, 0, offsetof(struct netback_tx_packet, part));
	if (!netback_tx_next(tx, p, &p->part[0]))
		return "a transmit ring that runs backwards";
	p->nr = 1;
	p->flags = p->part[0].flags;
	p->len = p->part[0].size;
	if (p->flags & XEN_NETTXF_extra_info)
		wrong = netback_tx_read_extras(tx, p);
	if (!wrong)
		wrong = netback_tx_read_parts(tx, p);
	if (!wrong && !p->multicast)
		wrong = netback_tx_judge(p);
	return wrong;
}
