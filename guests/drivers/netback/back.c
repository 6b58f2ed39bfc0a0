// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finding the frontend, agreeing with it on rings and features, and parting.
 */

#include <linux/module.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include "netback.h"

/* ---- connecting and parting -------------------------------------------- */

/* Without scatter-gather, a packet to the guest is one frame. */
static u32 netback_mtu(const struct netback *vif)
{
	u32 mtu = vif->offers.mtu;

	return vif->taken & NETIF_F_SG ? mtu : min_t(u32, mtu, ETH_DATA_LEN);
}

/* Give the network device what has been set up. */
static int netback_start(struct netback *vif)
{
	struct net_device *netdev = vif->netdev;
	int err;

	ASSERT_RTNL();
	err = netif_set_real_num_queues(netdev, vif->nr_queues,
					vif->nr_queues);
	err = err ?: dev_set_mtu(netdev, netback_mtu(vif));
	if (err)
		return err;
	netdev_update_features(netdev);
	vif->connected = true;
	netback_update_carrier(vif);
	if (netif_running(netdev)) {
		netback_enable_napi(vif);
		netif_tx_wake_all_queues(netdev);
		netback_kick(vif);
	}
	return 0;
}

static int netback_connect(struct netback *vif)
{
	u32 nr_queues;
	int err;

	vif->broken = false;
	err = netback_read_frontend(vif, &nr_queues);
	err = err ?: netback_setup_queues(vif, nr_queues);
	if (err)
		return err;
	netback_filter_clear(&vif->filter);
	WRITE_ONCE(vif->filter.active, netback_wants_filter(vif));
	rtnl_lock();
	err = netback_start(vif);
	rtnl_unlock();
	if (err) {
		netback_teardown_queues(vif);
		pvbus_dev_fatal(vif->dev, err, "starting the network device");
	}
	return err;
}

/* Let go of the frontend; does nothing when there is none. */
static void netback_disconnect(struct netback *vif)
{
	struct net_device *netdev = vif->netdev;

	if (!vif->connected)
		return;
	rtnl_lock();
	netif_carrier_off(netdev);
	vif->connected = false;
	netif_tx_disable(netdev); /* whoever transmits saw it */
	netback_silence(vif);
	if (netif_running(netdev))
		netback_disable_napi(vif);
	rtnl_unlock();
	netback_teardown_queues(vif);
}

/* The process-context half of netback_break(). */
static void netback_report(struct work_struct *work)
{
	struct netback *vif = container_of(work, struct netback, report);

	mutex_lock(&vif->lock);
	if (vif->connected && vif->broken) {
		netback_disconnect(vif);
		pvbus_dev_fatal(vif->dev, -EPROTO, "the guest sent %s",
				vif->broken_by);
	}
	mutex_unlock(&vif->lock);
}

void netback_break(struct netback *vif, const char *what)
{
	if (vif->broken)
		return;
	vif->broken_by = what;
	vif->broken = true;
	netif_carrier_off(vif->netdev);
	schedule_work(&vif->report);
}

/* ---- states ------------------------------------------------------------ */

/* Say what there is, and wait for the frontend. */
static int netback_offer(struct netback *vif)
{
	int err = netback_read_offers(vif);

	if (err)
		return err;
	err = netback_publish(vif);
	if (err) {
		pvbus_dev_fatal(vif->dev, err, "publishing the features");
		return err;
	}
	return pvbus_switch_state(vif->dev, XenbusStateInitWait);
}

/*
 * The frontend is told when both it and the toolstack are done. If that told us
 * to close meanwhile, our state has taken the place of its own: say it again.
 */
static void netback_tell_connected(struct netback *vif)
{
	if (!vif->connected || vif->dev->state != XenbusStateInitWait ||
	    !netback_is_plugged(vif))
		return;
	pvbus_switch_state(vif->dev, XenbusStateConnected);
	if (!netback_is_online(vif))
		pvbus_switch_state(vif->dev, XenbusStateClosing);
}

static void netback_frontend_ready(struct netback *vif)
{
	if (vif->dev->state != XenbusStateInitWait)
		return; /* once we are closing, it has to follow first */
	if (!vif->connected && netback_connect(vif))
		return;
	netback_tell_connected(vif);
}

static void netback_frontend_closed(struct netback *vif)
{
	netback_disconnect(vif);
	pvbus_switch_state(vif->dev, XenbusStateClosed);
}

/*
 * A frontend that is connected when we come, or closing, is so with one that
 * has died: its rings are not for us, and it has to leave that state first.
 */
static bool netback_is_orphaned(struct netback *vif, enum xenbus_state state)
{
	if (state != XenbusStateConnected && state != XenbusStateClosing)
		vif->orphaned = false;
	return vif->orphaned;
}

static void netback_follow(struct netback *vif, enum xenbus_state state)
{
	struct pvbus_device *dev = vif->dev;

	switch (state) {
	case XenbusStateInitialising:
		/* It has been restarted, or is playing games. */
		if (vif->connected || dev->state == XenbusStateClosed) {
			netback_disconnect(vif);
			netback_offer(vif);
		}
		break;
	case XenbusStateInitialised:
	case XenbusStateConnected:
		netback_frontend_ready(vif);
		break;
	case XenbusStateClosing:
		if (dev->state != XenbusStateClosed)
			pvbus_switch_state(dev, XenbusStateClosing);
		break;
	case XenbusStateClosed:
		netback_frontend_closed(vif);
		break;
	case XenbusStateUnknown:
		/* Gone, or nonsense, which changes nothing. */
		if (!pvbus_exists(vif->link, PVBUS_NIL, dev->otherend,
				  "state"))
			netback_frontend_closed(vif);
		break;
	default:
		break;
	}
}

static void netback_otherend_changed(struct pvbus_device *dev,
				     enum xenbus_state state)
{
	struct netback *vif = dev_get_drvdata(&dev->dev);

	mutex_lock(&vif->lock);
	if (!netback_is_orphaned(vif, state))
		netback_follow(vif, state);
	mutex_unlock(&vif->lock);
}

/* ---- other nodes ------------------------------------------------------- */

static void netback_hotplugged(struct pvbus_watch *watch)
{
	struct netback *vif = container_of(watch, struct netback,
					   hotplug_watch);

	mutex_lock(&vif->lock);
	netback_tell_connected(vif);
	mutex_unlock(&vif->lock);
}

static void netback_filter_wished(struct pvbus_watch *watch)
{
	struct netback *vif = container_of(watch, struct netback,
					   filter_watch);

	mutex_lock(&vif->lock);
	WRITE_ONCE(vif->filter.active, netback_wants_filter(vif));
	mutex_unlock(&vif->lock);
}

static int netback_watch(struct netback *vif)
{
	struct pvbus_device *dev = vif->dev;
	int err;

	vif->hotplug_node = kasprintf(GFP_KERNEL, "%s/hotplug-status",
				      dev->nodename);
	vif->filter_node = kasprintf(GFP_KERNEL,
				     "%s/request-multicast-control",
				     dev->otherend);
	if (!vif->hotplug_node || !vif->filter_node)
		return -ENOMEM;
	vif->hotplug_watch.node = vif->hotplug_node;
	vif->hotplug_watch.callback = netback_hotplugged;
	vif->filter_watch.node = vif->filter_node;
	vif->filter_watch.callback = netback_filter_wished;
	err = pvbus_register_watch(vif->link, &vif->hotplug_watch);
	if (err)
		return err;
	err = pvbus_register_watch(vif->link, &vif->filter_watch);
	if (err)
		pvbus_unregister_watch(&vif->hotplug_watch);
	return err;
}

static void netback_unwatch(struct netback *vif)
{
	pvbus_unregister_watch(&vif->filter_watch);
	pvbus_unregister_watch(&vif->hotplug_watch);
}

/* ---- the driver -------------------------------------------------------- */

static int netback_probe(struct pvbus_device *dev)
{
	struct net_device *netdev = netback_create(dev);
	enum xenbus_state frontend;
	struct netback *vif;
	int err;

	if (IS_ERR(netdev))
		return PTR_ERR(netdev);
	vif = netdev_priv(netdev);
	INIT_WORK(&vif->report, netback_report);
	dev_set_drvdata(&dev->dev, vif);
	frontend = pvbus_read_otherend_state(dev);
	vif->orphaned = frontend == XenbusStateConnected ||
			frontend == XenbusStateClosing;
	err = register_netdev(netdev);
	if (err)
		goto destroy;
	err = netback_watch(vif);
	if (err)
		goto unregister;
	/* One that has closed is offered something when it begins anew. */
	if (frontend == XenbusStateClosed)
		err = pvbus_switch_state(dev, XenbusStateClosed);
	else
		err = netback_offer(vif);
	if (err)
		goto unwatch;
	return 0;

unwatch:
	netback_unwatch(vif);
unregister:
	unregister_netdev(netdev);
destroy:
	netback_destroy(vif);
	return err;
}

static void netback_remove(struct pvbus_device *dev)
{
	struct netback *vif = dev_get_drvdata(&dev->dev);

	netback_unwatch(vif);
	mutex_lock(&vif->lock);
	netback_disconnect(vif);
	mutex_unlock(&vif->lock);
	cancel_work_sync(&vif->report);
	unregister_netdev(vif->netdev);
	netback_destroy(vif);
}

static struct pvbus_driver netback_driver = {
	.name = "pvnetback",
	.type = "vif",
	.backend = true,
	.probe = netback_probe,
	.remove = netback_remove,
	.otherend_changed = netback_otherend_changed,
};

static int __init netback_init(void)
{
	return pvbus_register_driver(&netback_driver);
}
module_init(netback_init);

static void __exit netback_exit(void)
{
	pvbus_unregister_driver(&netback_driver);
}
module_exit(netback_exit);

MODULE_DESCRIPTION("Paravirtual network backend over a link");
MODULE_LICENSE("GPL");
MODULE_ALIAS("pvbus-backend-vif");
