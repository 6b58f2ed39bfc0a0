// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finding the backend, agreeing with it on rings and features, and parting.
 */

#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/rtnetlink.h>
#include "pvnet.h"

/* The process-context half of pvnet_break(). */
static void pvnet_report(struct work_struct *work)
{
	struct pvnet *np = container_of(work, struct pvnet, report);

	pvbus_dev_fatal(np->dev, -EPROTO,
			"the backend sent %s; detach and attach the device",
			np->broken_by);
}

void pvnet_break(struct pvnet *np, const char *what)
{
	if (np->broken)
		return;
	np->broken_by = what;
	np->broken = true;
	netif_carrier_off(np->netdev);
	schedule_work(&np->report);
}

static irqreturn_t pvnet_event(u32 port, void *data)
{
	struct pvnet *np = data;

	if (np->broken)
		return IRQ_NONE;
	if (!link_ring_responses(&np->rx.ring) &&
	    !(netif_queue_stopped(np->netdev) &&
	      link_ring_responses(&np->tx.ring)))
		return IRQ_NONE;
	napi_schedule(&np->napi);
	return IRQ_HANDLED;
}

static int pvnet_setup_events(struct pvnet *np)
{
	int err;

	err = link_evtchn_alloc(np->link, pvnet_event, np, &np->tx.port);
	if (err)
		return err;
	if (!np->split_events) {
		np->rx.port = np->tx.port;
		return 0;
	}
	return link_evtchn_alloc(np->link, pvnet_event, np, &np->rx.port);
}

static void pvnet_teardown_events(struct pvnet *np)
{
	if (np->tx.port)
		link_evtchn_free(np->link, np->tx.port);
	if (np->rx.port && np->rx.port != np->tx.port)
		link_evtchn_free(np->link, np->rx.port);
	np->tx.port = 0;
	np->rx.port = 0;
}

static bool pvnet_backend_has(struct pvnet *np, const char *feature)
{
	return pvbus_read_unsigned(np->link, np->dev->otherend, feature, 0);
}

static int pvnet_read_offers(struct pvnet *np)
{
	if (!pvnet_backend_has(np, "feature-rx-copy"))
		return -EOPNOTSUPP;
	np->offers = 0;
	if (pvnet_backend_has(np, "feature-sg"))
		np->offers |= NETIF_F_SG;
	if (!pvnet_backend_has(np, "feature-no-csum-offload"))
		np->offers |= NETIF_F_IP_CSUM;
	if (pvnet_backend_has(np, "feature-ipv6-csum-offload"))
		np->offers |= NETIF_F_IPV6_CSUM;
	if (pvnet_backend_has(np, "feature-gso-tcpv4"))
		np->offers |= NETIF_F_TSO;
	if (pvnet_backend_has(np, "feature-gso-tcpv6"))
		np->offers |= NETIF_F_TSO6;
	np->split_events = pvnet_backend_has(np,
					     "feature-split-event-channels");
	return 0;
}

static int pvnet_write_nodes(struct pvnet *np, struct pvbus_transaction t)
{
	const struct {
		const char *name;
		u32 value;
	} nodes[] = {
		{ "tx-ring-ref", np->tx.page.ref },
		{ "rx-ring-ref", np->rx.page.ref },
		{ "request-rx-copy", 1 },
		{ "feature-rx-notify", 1 },
		/* not in netif.h: the pools stay granted, so may stay mapped */
		{ "feature-persistent", 1 },
		{ "feature-sg", 1 },
		{ "feature-gso-tcpv4", 1 },
		{ "feature-gso-tcpv6", 1 },
		{ "feature-ipv6-csum-offload", 1 },
		{ np->split_events ? "event-channel-tx" : "event-channel",
		  np->tx.port },
		/* the same again when the ports are one */
		{ np->split_events ? "event-channel-rx" : "event-channel",
		  np->rx.port },
	};
	size_t i;
	int err;

	for (i = 0; i < ARRAY_SIZE(nodes); i++) {
		err = pvbus_printf(np->link, t, np->dev->nodename,
				   nodes[i].name, "%u", nodes[i].value);
		if (err)
			return err;
	}
	return 0;
}

/* Tell the backend where the rings are. */
static int pvnet_publish(struct pvnet *np)
{
	struct pvbus_transaction t;
	int err, end;

	do {
		err = pvbus_transaction_start(np->link, &t);
		if (err)
			return err;
		err = pvnet_write_nodes(np, t);
		end = pvbus_transaction_end(np->link, t, err);
	} while (!err && end == -EAGAIN);
	return err ?: end;
}

static void pvnet_teardown(struct pvnet *np)
{
	pvnet_teardown_events(np);
	pvnet_tx_teardown(np);
	pvnet_rx_teardown(np);
}

static int pvnet_setup(struct pvnet *np)
{
	int err;

	err = pvnet_tx_setup(np);
	if (!err)
		err = pvnet_rx_setup(np);
	if (!err)
		err = pvnet_setup_events(np);
	if (!err)
		err = pvnet_publish(np);
	if (err)
		pvnet_teardown(np);
	return err;
}

/* Give the network device what has been set up, and what the backend offers. */
static void pvnet_start(struct pvnet *np)
{
	struct net_device *netdev = np->netdev;

	ASSERT_RTNL();
	netdev->max_mtu = np->offers & NETIF_F_SG ?
			  XEN_NETIF_MAX_TX_SIZE - ETH_HLEN : ETH_DATA_LEN;
	if (netdev->mtu > netdev->max_mtu)
		dev_set_mtu(netdev, netdev->max_mtu);
	netdev_update_features(netdev);
	np->connected = true;
	if (netif_running(netdev)) {
		napi_enable(&np->napi);
		pvnet_kick(np);
		netif_wake_queue(netdev);
	}
}

static bool pvnet_is_registered(struct pvnet *np)
{
	return np->netdev->reg_state == NETREG_REGISTERED;
}

static int pvnet_connect(struct pvnet *np)
{
	int err;

	err = pvnet_read_offers(np);
	if (err) {
		pvbus_dev_fatal(np->dev, err, "%s has no feature-rx-copy",
				np->dev->otherend);
		return err;
	}
	err = pvnet_setup(np);
	if (err) {
		pvbus_dev_fatal(np->dev, err, "setting up the rings");
		return err;
	}
	if (!pvnet_is_registered(np)) {
		err = register_netdev(np->netdev);
		if (err) {
			pvnet_teardown(np);
			pvbus_dev_fatal(np->dev, err, "registering");
			return err;
		}
	}
	rtnl_lock();
	pvnet_start(np);
	rtnl_unlock();
	return pvbus_switch_state(np->dev, XenbusStateConnected);
}

/* Let go of the backend; does nothing when there is none. */
static void pvnet_disconnect(struct pvnet *np)
{
	struct net_device *netdev = np->netdev;

	rtnl_lock();
	if (np->connected) {
		netif_carrier_off(netdev);
		np->connected = false;
		netif_tx_disable(netdev); /* whoever transmits saw it */
		pvnet_teardown_events(np);
		if (netif_running(netdev))
			napi_disable(&np->napi);
		pvnet_teardown(np);
	}
	rtnl_unlock();
}

/* The backend handles packets from when it says that it is connected. */
static void pvnet_carrier_on(struct pvnet *np)
{
	if (!np->connected || np->broken || netif_carrier_ok(np->netdev))
		return;
	netif_carrier_on(np->netdev);
	netdev_notify_peers(np->netdev);
}

static void pvnet_otherend_changed(struct pvbus_device *dev,
				   enum xenbus_state state)
{
	struct pvnet *np = dev_get_drvdata(&dev->dev);

	switch (state) {
	case XenbusStateInitWait:
		/* also a backend that has come back after Closed */
		if (np->broken || np->connected)
			break;
		if (!pvnet_connect(np) &&
		    pvbus_read_otherend_state(dev) == XenbusStateConnected)
			pvnet_carrier_on(np);
		break;
	case XenbusStateConnected:
		pvnet_carrier_on(np);
		break;
	case XenbusStateClosed:
		/* left from before: it has not seen yet that we are back */
		if (dev->state == XenbusStateInitialising)
			break;
		fallthrough;
	case XenbusStateClosing:
		pvnet_disconnect(np);
		if (dev->state != XenbusStateClosed)
			pvbus_switch_state(dev, XenbusStateClosed);
		break;
	default:
		break;
	}
}

static int pvnet_probe(struct pvbus_device *dev)
{
	struct net_device *netdev = pvnet_create(dev);
	struct pvnet *np;

	if (IS_ERR(netdev))
		return PTR_ERR(netdev);
	np = netdev_priv(netdev);
	INIT_WORK(&np->report, pvnet_report);
	dev_set_drvdata(&dev->dev, np);
	return 0;
}

static void pvnet_remove(struct pvbus_device *dev)
{
	struct pvnet *np = dev_get_drvdata(&dev->dev);

	pvnet_disconnect(np);
	cancel_work_sync(&np->report);
	if (pvnet_is_registered(np))
		unregister_netdev(np->netdev);
	free_percpu(np->netdev->tstats);
	free_netdev(np->netdev);
}

static struct pvbus_driver pvnet_driver = {
	.name = "pvnet",
	.type = "vif",
	.probe = pvnet_probe,
	.remove = pvnet_remove,
	.otherend_changed = pvnet_otherend_changed,
};

static int __init pvnet_init(void)
{
	return pvbus_register_driver(&pvnet_driver);
}
module_init(pvnet_init);

static void __exit pvnet_exit(void)
{
	pvbus_unregister_driver(&pvnet_driver);
}
module_exit(pvnet_exit);

MODULE_DESCRIPTION("Paravirtual network frontend over a link");
MODULE_LICENSE("GPL");
MODULE_ALIAS("pvbus-vif");
