// SPDX-License-Identifier: GPL-2.0-only
/*
 * The network device as Linux sees it.
 */

#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include "pvnet.h"

int pvnet_poll(struct napi_struct *napi, int budget)
{
	struct pvnet *np = container_of(napi, struct pvnet, napi);
	int done = 0;

	pvnet_tx_poll(np);
	if (!budget)
		return 0;
	if (test_bit(NAPI_STATE_IN_BUSY_POLL, &napi->state)) {
		/* A socket waits in a loop: it needs no interrupt. When it is
		 * tired of that, we are called once more without this bit.
		 */
		WRITE_ONCE(np->rx.ring.sring->rsp_event, np->rx.ring.rsp_cons);
		return pvnet_rx_poll(np, budget);
	}
	do
		done += pvnet_rx_poll(np, budget - done);
	while (done < budget && !np->broken &&
	       link_ring_arm_responses(np->link, &np->rx.ring, 1));
	if (done < budget)
		napi_complete_done(napi, done);
	return done;
}

/* Look at the rings without having been called. */
void pvnet_kick(struct pvnet *np)
{
	local_bh_disable();
	napi_schedule(&np->napi);
	local_bh_enable();
}

static int pvnet_open(struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);

	if (np->connected) {
		napi_enable(&np->napi);
		pvnet_kick(np);
	}
	netif_start_queue(netdev);
	return 0;
}

static int pvnet_stop(struct net_device *netdev)
{
	struct pvnet *np = netdev_priv(netdev);

	netif_tx_disable(netdev);
	if (np->connected)
		napi_disable(&np->napi);
	return 0;
}

static netdev_features_t pvnet_fix_features(struct net_device *netdev,
					    netdev_features_t features)
{
	struct pvnet *np = netdev_priv(netdev);

	return features & (np->offers | ~PVNET_OFFLOADS);
}

static const struct net_device_ops pvnet_netdev_ops = {
	.ndo_open		= pvnet_open,
	.ndo_stop		= pvnet_stop,
	.ndo_start_xmit		= pvnet_start_xmit,
	.ndo_get_stats64	= dev_get_tstats64,
	.ndo_fix_features	= pvnet_fix_features,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_validate_addr	= eth_validate_addr,
};

static const struct ethtool_ops pvnet_ethtool_ops = {
	.get_link	= ethtool_op_get_link,
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

/* A network device that is not registered yet. Or ERR_PTR; it was reported. */
struct net_device *pvnet_create(struct pvbus_device *dev)
{
	struct net_device *netdev;
	struct pvnet *np;
	u8 mac[ETH_ALEN];
	int err;

	err = pvnet_read_mac(dev, mac);
	if (err) {
		pvbus_dev_fatal(dev, err, "reading %s/mac", dev->nodename);
		return ERR_PTR(err);
	}
	netdev = alloc_etherdev(sizeof(*np));
	if (!netdev)
		return ERR_PTR(-ENOMEM);
	netdev->tstats = netdev_alloc_pcpu_stats(struct pcpu_sw_netstats);
	if (!netdev->tstats) {
		free_netdev(netdev);
		return ERR_PTR(-ENOMEM);
	}

	np = netdev_priv(netdev);
	np->netdev = netdev;
	np->dev = dev;
	np->link = dev->link;
	netif_napi_add(netdev, &np->napi, pvnet_poll);

	SET_NETDEV_DEV(netdev, &dev->dev);
	eth_hw_addr_set(netdev, mac);
	netdev->netdev_ops = &pvnet_netdev_ops;
	netdev->ethtool_ops = &pvnet_ethtool_ops;
	netdev->hw_features = PVNET_OFFLOADS;
	netdev->features = PVNET_OFFLOADS | NETIF_F_RXCSUM | NETIF_F_GSO_ROBUST;
	netdev->min_mtu = ETH_MIN_MTU;
	netdev->mtu = clamp_t(u32, pvbus_read_unsigned(dev->link, dev->nodename,
						       "mtu", ETH_DATA_LEN),
			      ETH_MIN_MTU, XEN_NETIF_MAX_TX_SIZE - ETH_HLEN);
	netif_set_tso_max_size(netdev, XEN_NETIF_MAX_TX_SIZE);
	netif_carrier_off(netdev);
	return netdev;
}
