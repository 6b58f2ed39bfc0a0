// SPDX-License-Identifier: GPL-2.0-only
/*
 * Multicast control: a guest says which multicast packets it wants, instead of
 * getting them all. It amends its list by messages in its transmit rings.
 */

#include "netback.h"

/* Where an address is in the list, or nr. */
static u32 netback_filter_find(const struct netback_filter *filter,
			       const u8 *addr)
{
	u32 i;

	for (i = 0; i < filter->nr; i++)
		if (!memcmp(filter->addr[i], addr, ETH_ALEN))
			break;
	return i;
}

bool netback_filter_passes(struct netback_filter *filter, const u8 *addr)
{
	bool listed;

	if (!READ_ONCE(filter->active) || !is_multicast_ether_addr(addr) ||
	    is_broadcast_ether_addr(addr))
		return true;
	spin_lock_bh(&filter->lock);
	listed = netback_filter_find(filter, addr) < filter->nr;
	spin_unlock_bh(&filter->lock);
	return listed;
}

static bool netback_filter_add(struct netback_filter *filter, const u8 *addr)
{
	if (!is_multicast_ether_addr(addr))
		return false;
	if (netback_filter_find(filter, addr) < filter->nr)
		return true;
	if (filter->nr == NETBACK_MAX_ADDRESSES)
		return false;
	memcpy(filter->addr[filter->nr++], addr, ETH_ALEN);
	return true;
}

static void netback_filter_remove(struct netback_filter *filter, const u8 *addr)
{
	u32 at = netback_filter_find(filter, addr);

	if (at == filter->nr)
		return;
	filter->nr--;
	memmove(filter->addr[at], filter->addr[filter->nr], ETH_ALEN);
}

bool netback_filter_change(struct netback_filter *filter,
			   const struct xen_netif_extra_info *extra)
{
	bool done = true;

	spin_lock_bh(&filter->lock);
	if (extra->type == XEN_NETIF_EXTRA_TYPE_MCAST_ADD)
		done = netback_filter_add(filter, extra->u.mcast.addr);
	else if (extra->type == XEN_NETIF_EXTRA_TYPE_MCAST_DEL)
		netback_filter_remove(filter, extra->u.mcast.addr);
	spin_unlock_bh(&filter->lock);
	return done;
}

void netback_filter_clear(struct netback_filter *filter)
{
	spin_lock_bh(&filter->lock);
	filter->nr = 0;
	spin_unlock_bh(&filter->lock);
}
