// SPDX-License-Identifier: GPL-2.0-only
/*
 * The network device as Linux sees it.
 */

#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/slab.h>
#include "pvnet.h"

static int pvnet_open(struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);
	u32 i;

	if (!np->connected) {
		netif_tx_start_all_queues(netdev);
		return 0;
	}
	pvnet_enable_napi(np);
	for (i = 0; i < np->nr_queues; i++)
		pvnet_tx_resume(&np->queues[i]);
	pvnet_kick(np);
	return 0;
}

static int pvnet_stop(struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);

	netif_tx_disable(netdev);
	if (np->connected)
		pvnet_disable_napi(np);
	return 0;
}

static netdev_features_t pvnet_fix_features(struct net_device *netdev,
					    netdev_features_t features)
{
	struct pvnet *np = netdev_priv(netdev);

	return features & (np->offers | ~PVNET_OFFLOADS);
}

static void pvnet_get_stats64(struct net_device *netdev,
			      struct rtnl_link_stats64 *sum)
{
	struct pvnet *np = netdev_priv(netdev);
	u32 i;

	for (i = 0; i < np->max_queues; i++) {
		const struct pvnet_tx_stats *tx = &np->queues[i].tx.stats;
		const struct pvnet_rx_stats *rx = &np->queues[i].rx.stats;

		sum->tx_packets += READ_ONCE(tx->packets);
		sum->tx_bytes += READ_ONCE(tx->bytes);
		sum->tx_dropped += READ_ONCE(tx->dropped);
		sum->tx_errors += READ_ONCE(tx->errors);
		sum->rx_packets += READ_ONCE(rx->packets);
		sum->rx_bytes += READ_ONCE(rx->bytes);
		sum->rx_dropped += READ_ONCE(rx->dropped);
		sum->rx_errors += READ_ONCE(rx->errors);
		sum->multicast += READ_ONCE(rx->multicast);
	}
}

static const struct net_device_ops pvnet_netdev_ops = {
	.ndo_open		= pvnet_open,
	.ndo_stop		= pvnet_stop,
	.ndo_start_xmit		= pvnet_start_xmit,
	.ndo_get_stats64	= pvnet_get_stats64,
	.ndo_fix_features	= pvnet_fix_features,
	.ndo_set_rx_mode	= pvnet_set_rx_mode,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_validate_addr	= eth_validate_addr,
};

static int pvnet_read_mac(struct pvbus_device *dev, u8 *mac)
{
	char *text = pvbus_read(dev->link, PVBUS_NIL, dev->nodename, "mac",
				NULL);
	bool good;

	if (IS_ERR(text))
		return PTR_ERR(text);
	good = mac_pton(text, mac) && is_valid_ether_addr(mac);
	kfree(text);
	return good ? 0 : -EINVAL;
}

static int pvnet_create_queues(struct pvnet *np)
{
	u32 i;

	np->queues = kvcalloc(np->max_queues, sizeof(*np->queues), GFP_KERNEL);
	if (!np->queues)
		return -ENOMEM;
	for (i = 0; i < np->max_queues; i++) {
		struct pvnet_queue *q = &np->queues[i];

		q->np = np;
		q->index = i;
		spin_lock_init(&q->wishes.lock);
		netif_napi_add(np->netdev, &q->napi, pvnet_poll);
	}
	return 0;
}

static void pvnet_describe(struct net_device *netdev, struct pvbus_device *dev,
			   const u8 *mac)
{
	SET_NETDEV_DEV(netdev, &dev->dev);
	eth_hw_addr_set(netdev, mac);
	netdev->netdev_ops = &pvnet_netdev_ops;
	netdev->ethtool_ops = &pvnet_ethtool_ops;
	netdev->hw_features = PVNET_OFFLOADS;
	netdev->features = PVNET_OFFLOADS | NETIF_F_RXCSUM | NETIF_F_GSO_ROBUST;
	netdev->min_mtu = ETH_MIN_MTU;
	netdev->mtu = clamp_t(u32, pvbus_read_unsigned(dev->link, dev->nodename,
						       "mtu", ETH_DATA_LEN),
			      ETH_MIN_MTU, PVNET_MAX_MTU);
	netif_set_tso_max_size(netdev, XEN_NETIF_MAX_TX_SIZE);
	netif_carrier_off(netdev);
}

/* A network device that is not registered yet. Or ERR_PTR; it was reported. */
struct net_device *pvnet_create(struct pvbus_device *dev)
{
	struct net_device *netdev;
	struct pvnet *np;
	u8 mac[ETH_ALEN];
	u32 max_queues;
	int err;

	err = pvnet_read_mac(dev, mac);
	if (err) {
		pvbus_dev_fatal(dev, err, "reading %s/mac", dev->nodename);
		return ERR_PTR(err);
	}
	max_queues = min_t(u32, num_online_cpus(), PVNET_MAX_QUEUES);
	netdev = alloc_etherdev_mq(sizeof(*np), max_queues);
	if (!netdev)
		return ERR_PTR(-ENOMEM);
	np = netdev_priv(netdev);
	np->netdev = netdev;
	np->dev = dev;
	np->link = dev->link;
	np->max_queues = max_queues;
	pvnet_filter_init(np);
	err = pvnet_create_queues(np);
	if (err) {
		free_netdev(netdev);
		return ERR_PTR(err);
	}
	pvnet_describe(netdev, dev, mac);
	return netdev;
}

void pvnet_destroy(struct pvnet *np)
{
	struct pvnet_queue *queues = np->queues;

	free_netdev(np->netdev); /* which has the NAPIs in its list */
	kvfree(queues);
}
