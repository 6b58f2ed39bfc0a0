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

/* As large a packet as both ends take. */
static u32 pvnet_largest_mtu(struct pvnet *np)
{
	u32 mtu = np->offers & NETIF_F_SG ? PVNET_MAX_MTU : ETH_DATA_LEN;

	if (np->offered_mtu)
		mtu = clamp_t(u32, np->offered_mtu, ETH_MIN_MTU, mtu);
	return mtu;
}

/* Give the network device what has been set up, and what the backend offers. */
static int pvnet_start(struct pvnet *np, bool first)
{
	struct net_device *netdev = np->netdev;
	int err;

	ASSERT_RTNL();
	err = netif_set_real_num_queues(netdev, np->nr_queues, np->nr_queues);
	if (err)
		return err;
	netdev->max_mtu = pvnet_largest_mtu(np);
	if (netdev->mtu > netdev->max_mtu || (first && np->offered_mtu))
		dev_set_mtu(netdev, netdev->max_mtu);
	netdev_update_features(netdev);
	np->connected = true;
	if (netif_running(netdev)) {
		pvnet_enable_napi(np);
		pvnet_kick(np);
		netif_tx_wake_all_queues(netdev);
	}
	pvnet_filter_start(np);
	return 0;
}

/* Set everything up for the backend, and say so by state @then. */
static int pvnet_connect(struct pvnet *np, enum xenbus_state then)
{
	bool first = !np->published;
	int err;

	err = pvnet_read_offers(np);
	if (err)
		return err;
	np->notification = pvbus_read_notification(np->dev);
	err = pvnet_setup_queues(np);
	if (err) {
		pvbus_dev_fatal(np->dev, err, "setting up the rings");
		return err;
	}
	err = pvnet_publish(np);
	if (!err) {
		rtnl_lock();
		err = pvnet_start(np, first);
		rtnl_unlock();
	}
	if (err) {
		pvnet_teardown_queues(np);
		pvbus_dev_fatal(np->dev, err, "telling the backend of them");
		return err;
	}
	return pvbus_switch_state(np->dev, then);
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
		pvnet_silence(np);
		if (netif_running(netdev))
			pvnet_disable_napi(np);
		pvnet_filter_stop(np);
		pvnet_teardown_queues(np);
	}
	rtnl_unlock();
	cancel_work_sync(&np->filter_work);
}

/*
 * A backend that offers again what it had offered has been born again: it knows
 * nothing of our rings. The device stays, and what was on its way is lost, as
 * packets may be. State Initialised tells the backend that these rings are new.
 */
static int pvnet_reconnect(struct pvnet *np)
{
	netdev_info(np->netdev, "the backend has started again\n");
	pvnet_disconnect(np);
	pvbus_switch_state(np->dev, XenbusStateInitialising);
	return pvnet_connect(np, XenbusStateInitialised);
}

/* The backend's node is not there, as far as we may know. */
static bool pvnet_backend_is_gone(struct pvnet *np)
{
	char *state = pvbus_read(np->dev->link, PVBUS_NIL, np->dev->otherend,
				 "state", NULL);

	if (IS_ERR(state))
		return PTR_ERR(state) == -ENOENT || PTR_ERR(state) == -EACCES;
	kfree(state);
	return false;
}

/*
 * The backend's node went with the domain that it was in. The device stays, as if
 * it had never been connected: the next backend is not to take what it finds of
 * ours for something that is meant for it.
 */
static void pvnet_backend_vanished(struct pvnet *np)
{
	if (!np->connected || !pvnet_backend_is_gone(np))
		return;
	netdev_info(np->netdev, "the backend is gone\n");
	pvnet_disconnect(np);
	pvbus_switch_state(np->dev, XenbusStateInitialising);
}

/* The backend handles packets from when it says that it is connected. */
static void pvnet_carrier_on(struct pvnet *np)
{
	if (!np->connected || np->broken)
		return;
	if (np->dev->state != XenbusStateConnected)
		pvbus_switch_state(np->dev, XenbusStateConnected);
	if (netif_carrier_ok(np->netdev))
		return;
	netif_carrier_on(np->netdev);
	netdev_notify_peers(np->netdev);
}

/* The backend waits for us to connect: for the first time, or once more. */
static void pvnet_backend_waits(struct pvnet *np)
{
	int err;

	if (np->broken)
		return;
	if (!np->connected)
		err = pvnet_connect(np, XenbusStateConnected);
	else if (np->dev->state == XenbusStateConnected &&
		 netif_carrier_ok(np->netdev))
		err = pvnet_reconnect(np);
	else
		return; /* it has not seen yet that we have */
	if (!err && pvbus_read_otherend_state(np->dev) == XenbusStateConnected)
		pvnet_carrier_on(np);
}

static void pvnet_otherend_changed(struct pvbus_device *dev,
				   enum xenbus_state state)
{
	struct pvnet *np = dev_get_drvdata(&dev->dev);

	switch (state) {
	case XenbusStateInitWait:
		pvnet_backend_waits(np);
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
	case XenbusStateUnknown:
		if (!np->broken)
			pvnet_backend_vanished(np);
		break;
	default:
		break;
	}
}

static int pvnet_probe(struct pvbus_device *dev)
{
	struct net_device *netdev = pvnet_create(dev);
	struct pvnet *np;
	int err;

	if (IS_ERR(netdev))
		return PTR_ERR(netdev);
	np = netdev_priv(netdev);
	INIT_WORK(&np->report, pvnet_report);
	dev_set_drvdata(&dev->dev, np);
	/* Now, so that cards have names in the order of their numbers. */
	err = register_netdev(netdev);
	if (err)
		pvnet_destroy(np);
	return err;
}

static void pvnet_remove(struct pvbus_device *dev)
{
	struct pvnet *np = dev_get_drvdata(&dev->dev);

	pvnet_disconnect(np);
	cancel_work_sync(&np->report);
	unregister_netdev(np->netdev);
	pvnet_destroy(np);
}

static struct pvbus_driver pvnet_driver = {
	.name = "pvnet",
	.type = "vif",
	.probe = pvnet_probe,
	.remove = pvnet_remove,
	.otherend_changed = pvnet_otherend_changed,
	.driver.dev_groups = pvnet_groups,
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
