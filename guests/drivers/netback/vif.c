// SPDX-License-Identifier: GPL-2.0-only
/*
 * The network device as Linux sees it: one end of a cable, the other end of
 * which is the guest's.
 */

#include <linux/ethtool.h>
#include <linux/slab.h>
#include "netback.h"

/* Packets that wait for a guest without frames. They may be of 64 KiB each. */
#define NETBACK_QUEUE_LEN	128

static void netback_start_queues(struct netback *vif)
{
	u32 i;

	for (i = 0; i < vif->nr_queues; i++) {
		struct netback_queue *q = &vif->queues[i];
		struct netdev_queue *txq = netback_txq(q);

		__netif_tx_lock_bh(txq);
		/* The one that waits for frames goes first. */
		if (!q->rx.waiting)
			netif_tx_start_queue(txq);
		__netif_tx_unlock_bh(txq);
	}
}

static int netback_open(struct net_device *netdev)
{
	struct netback *vif = netdev_priv(netdev);

	if (!vif->connected)
		return 0;
	netback_enable_napi(vif);
	netback_start_queues(vif);
	netback_kick(vif);
	return 0;
}

static int netback_stop(struct net_device *netdev)
{
	struct netback *vif = netdev_priv(netdev);

	netif_tx_disable(netdev);
	if (vif->connected)
		netback_disable_napi(vif);
	return 0;
}

static netdev_features_t netback_fix_features(struct net_device *netdev,
					      netdev_features_t features)
{
	struct netback *vif = netdev_priv(netdev);

	return features & (vif->taken | ~NETBACK_OFFLOADS);
}

/* What the guest transmits is what we receive. */
static void netback_get_stats64(struct net_device *netdev,
				struct rtnl_link_stats64 *sum)
{
	struct netback *vif = netdev_priv(netdev);
	u32 i;

	for (i = 0; i < vif->max_queues; i++) {
		const struct netback_stats *from = &vif->queues[i].tx.stats;
		const struct netback_stats *to = &vif->queues[i].rx.stats;

		sum->rx_packets += READ_ONCE(from->packets);
		sum->rx_bytes += READ_ONCE(from->bytes);
		sum->rx_errors += READ_ONCE(from->errors);
		sum->tx_packets += READ_ONCE(to->packets);
		sum->tx_bytes += READ_ONCE(to->bytes);
		sum->tx_dropped += READ_ONCE(to->dropped);
		sum->tx_errors += READ_ONCE(to->errors);
	}
}

static const struct net_device_ops netback_netdev_ops = {
	.ndo_open		= netback_open,
	.ndo_stop		= netback_stop,
	.ndo_start_xmit		= netback_start_xmit,
	.ndo_get_stats64	= netback_get_stats64,
	.ndo_fix_features	= netback_fix_features,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_validate_addr	= eth_validate_addr,
};

void netback_update_carrier(struct netback *vif)
{
	bool up = true;
	u32 i;

	spin_lock_bh(&vif->carrier_lock);
	for (i = 0; i < vif->nr_queues; i++)
		if (vif->queues[i].rx.stalled)
			up = false;
	if (up)
		netif_carrier_on(vif->netdev);
	else
		netif_carrier_off(vif->netdev);
	spin_unlock_bh(&vif->carrier_lock);
}

/* ---- coming and going -------------------------------------------------- */

static int netback_create_queues(struct netback *vif)
{
	u32 i;

	vif->queues = kvcalloc(vif->max_queues, sizeof(*vif->queues),
			       GFP_KERNEL);
	if (!vif->queues)
		return -ENOMEM;
	for (i = 0; i < vif->max_queues; i++) {
		struct netback_queue *q = &vif->queues[i];

		q->vif = vif;
		q->index = i;
		spin_lock_init(&q->wishes.lock);
		netback_rx_init(q);
		netif_napi_add(vif->netdev, &q->napi, netback_poll);
	}
	return 0;
}

static void netback_describe(struct net_device *netdev,
			     struct pvbus_device *dev)
{
	/* As Xen's: no bridge takes such an address for its own. */
	static const u8 mac[ETH_ALEN] = { 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff };

	SET_NETDEV_DEV(netdev, &dev->dev);
	eth_hw_addr_set(netdev, mac);
	netdev->netdev_ops = &netback_netdev_ops;
	netdev->ethtool_ops = &netback_ethtool_ops;
	netdev->hw_features = NETBACK_OFFLOADS;
	/* Whatever pieces a packet is in, it is copied to frames. */
	netdev->features = NETBACK_OFFLOADS | NETIF_F_RXCSUM | NETIF_F_FRAGLIST;
	netdev->min_mtu = ETH_MIN_MTU;
	netdev->max_mtu = NETBACK_MAX_MTU;
	netdev->tx_queue_len = NETBACK_QUEUE_LEN;
	netif_set_tso_max_size(netdev, XEN_NETIF_MAX_TX_SIZE);
	netif_carrier_off(netdev);
}

static int netback_name(struct pvbus_device *dev, char *name)
{
	u32 handle;
	int n;

	if (pvbus_scanf(dev->link, PVBUS_NIL, dev->nodename, "handle", "%u",
			&handle) != 1)
		return -EINVAL;
	n = snprintf(name, IFNAMSIZ, "vif%u.%u", dev->otherend_id, handle);
	return n < IFNAMSIZ ? 0 : -EINVAL;
}

struct net_device *netback_create(struct pvbus_device *dev)
{
	u32 max_queues = min_t(u32, num_online_cpus(), NETBACK_MAX_QUEUES);
	struct net_device *netdev;
	struct netback *vif;
	char name[IFNAMSIZ];
	int err;

	err = netback_name(dev, name);
	if (err) {
		pvbus_dev_error(dev, err, "reading %s/handle", dev->nodename);
		return ERR_PTR(err);
	}
	netdev = alloc_netdev_mqs(sizeof(*vif), name, NET_NAME_ENUM,
				  ether_setup, max_queues, max_queues);
	if (!netdev)
		return ERR_PTR(-ENOMEM);
	vif = netdev_priv(netdev);
	vif->netdev = netdev;
	vif->dev = dev;
	vif->link = dev->link;
	vif->max_queues = max_queues;
	mutex_init(&vif->lock);
	spin_lock_init(&vif->carrier_lock);
	spin_lock_init(&vif->filter.lock);
	err = netback_create_queues(vif);
	if (err) {
		free_netdev(netdev);
		return ERR_PTR(err);
	}
	netback_describe(netdev, dev);
	return netdev;
}

void netback_destroy(struct netback *vif)
{
	struct netback_queue *queues = vif->queues;

	kfree(vif->hotplug_node);
	kfree(vif->filter_node);
	free_netdev(vif->netdev); /* which has the NAPIs in its list */
	kvfree(queues);
}
