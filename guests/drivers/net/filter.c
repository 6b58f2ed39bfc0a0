// SPDX-License-Identifier: GPL-2.0-only
/*
 * The list of multicast addresses by which the backend filters, so that packets
 * which nobody here wants are not even copied. It is amended by messages in the
 * first transmit ring; whether it is used at all is a node in XenStore.
 */

#include <linux/etherdevice.h>
#include <linux/rtnetlink.h>
#include "pvnet.h"

bool pvnet_filter_wanted(struct pvnet *np)
{
	return !np->filter_refused &&
	       !(np->netdev->flags & (IFF_PROMISC | IFF_ALLMULTI));
}

static int pvnet_filter_add(struct net_device *netdev, const u8 *addr)
{
	struct pvnet *np = netdev_priv(netdev);

	return pvnet_tx_filter(&np->queues[0], XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
			       addr);
}

static int pvnet_filter_del(struct net_device *netdev, const u8 *addr)
{
	struct pvnet *np = netdev_priv(netdev);

	return pvnet_tx_filter(&np->queues[0], XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
			       addr);
}

/* Tell the backend which addresses have come and gone. */
static void pvnet_filter_sync(struct pvnet *np)
{
	struct net_device *netdev = np->netdev;
	struct netdev_hw_addr *ha;

	netif_addr_lock_bh(netdev);
	WRITE_ONCE(np->filter_behind, false);
	__dev_mc_sync(netdev, pvnet_filter_add, pvnet_filter_del);
	/* Entries that could not be sent, or not be taken back, are left over. */
	netdev_for_each_mc_addr(ha, netdev)
		if (!ha->sync_cnt || ha->refcount == ha->sync_cnt)
			WRITE_ONCE(np->filter_behind, true);
	netif_addr_unlock_bh(netdev);
}

/* Have the backend use its list, or not. */
static void pvnet_filter_request(struct pvnet *np, bool wanted)
{
	if (wanted == np->filter_asked)
		return;
	if (!np->filter_dynamic) {
		if (!wanted)
			netdev_warn(np->netdev, "the backend goes on filtering multicast packets: it decides that when it connects\n");
		return;
	}
	if (pvbus_printf(np->link, PVBUS_NIL, np->dev->nodename,
			 "request-multicast-control", "%u", wanted))
		return;
	np->filter_asked = wanted;
}

static void pvnet_filter_update(struct work_struct *work)
{
	struct pvnet *np = container_of(work, struct pvnet, filter_work);
	bool active;

	rtnl_lock();
	active = np->filter && np->connected && !np->broken;
	if (active)
		pvnet_filter_sync(np);
	rtnl_unlock();
	/* Disconnecting waits for this work, so the nodes are still ours. */
	if (active)
		pvnet_filter_request(np, pvnet_filter_wanted(np));
}

void pvnet_filter_init(struct pvnet *np)
{
	INIT_WORK(&np->filter_work, pvnet_filter_update);
}

void pvnet_set_rx_mode(struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);

	if (np->filter && np->connected)
		schedule_work(&np->filter_work);
}

void pvnet_filter_start(struct pvnet *np)
{
	np->filter_refused = false;
	if (np->filter)
		schedule_work(&np->filter_work);
}

void pvnet_filter_stop(struct pvnet *np)
{
	netif_addr_lock_bh(np->netdev);
	__dev_mc_unsync(np->netdev, NULL);
	netif_addr_unlock_bh(np->netdev);
}
