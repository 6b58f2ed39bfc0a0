// SPDX-License-Identifier: GPL-2.0-only
/*
 * The bus: drivers on one side, devices that XenStore announces on the other;
 * how they meet and part. scan.c has how devices are found.
 */
#include <linux/export.h>
#include <linux/string.h>
#include "bus.h"

static int bus_match(struct device *d, struct device_driver *d_drv)
{
	struct pvbus_device *dev = to_pvbus_device(d);
	struct pvbus_driver *drv = to_pvbus_driver(d_drv);

	return dev->backend == drv->backend &&
	       !strcmp(dev->devicetype, drv->type);
}

static int bus_uevent(struct device *d, struct kobj_uevent_env *env)
{
	struct pvbus_device *dev = to_pvbus_device(d);

	return add_uevent_var(env, "MODALIAS=pvbus-%s%s",
			      dev->backend ? "backend-" : "", dev->devicetype);
}

static void otherend_changed(struct pvbus_watch *watch)
{
	struct pvbus_device *dev = container_of(watch, struct pvbus_device,
						otherend_watch);
	struct pvbus_driver *drv = to_pvbus_driver(dev->dev.driver);

	if (!READ_ONCE(dev->removing) && drv->otherend_changed)
		drv->otherend_changed(dev, pvbus_read_otherend_state(dev));
}

int watch_otherend(struct pvbus_device *dev)
{
	dev->otherend_watch.node = dev->otherend_state_path;
	dev->otherend_watch.callback = otherend_changed;
	return pvbus_register_watch(dev->link, &dev->otherend_watch);
}

static int bus_probe(struct device *d)
{
	struct pvbus_device *dev = to_pvbus_device(d);
	struct pvbus_driver *drv = to_pvbus_driver(d->driver);
	int err;

	dev->removing = false;
	if (is_first_console(dev))
		return drv->probe(dev);

	/* A driver was here before and has closed: offer to begin anew. */
	if (dev->state == XenbusStateClosed)
		pvbus_switch_state(dev, XenbusStateInitialising);
	err = drv->probe(dev);
	if (err)
		goto failed;
	err = watch_otherend(dev);
	if (err) {
		drv->remove(dev);
		goto failed;
	}
	return 0;

failed:
	pvbus_dev_error(dev, err, "probing %s", dev->nodename);
	pvbus_switch_state(dev, XenbusStateClosed);
	return err;
}

static void bus_remove(struct device *d)
{
	struct pvbus_device *dev = to_pvbus_device(d);
	struct pvbus_driver *drv = to_pvbus_driver(d->driver);

	if (is_first_console(dev)) {
		drv->remove(dev);
		return;
	}
	/* The watch goes on, for those who wait for the other end to close. */
	WRITE_ONCE(dev->removing, true);
	cancel_watch(&dev->otherend_watch);
	drv->remove(dev);
	if (dev->state != XenbusStateClosed) {
		pvbus_switch_state(dev, XenbusStateClosed);
		/*
		 * Whoever comes next is to find it ready to begin. A backend
		 * waits for nobody: it has let go of what is the frontend's.
		 */
		if (!dev->backend)
			pvbus_wait_closed(dev);
	}
	pvbus_unregister_watch(&dev->otherend_watch);
}

struct bus_type pvbus_bus_type = {
	.name = "pvbus",
	.match = bus_match,
	.uevent = bus_uevent,
	.probe = bus_probe,
	.remove = bus_remove,
};

int __pvbus_register_driver(struct pvbus_driver *drv, struct module *owner)
{
	drv->driver.name = drv->name;
	drv->driver.bus = &pvbus_bus_type;
	drv->driver.owner = owner;
	return driver_register(&drv->driver);
}
EXPORT_SYMBOL_GPL(__pvbus_register_driver);

void pvbus_unregister_driver(struct pvbus_driver *drv)
{
	driver_unregister(&drv->driver);
}
EXPORT_SYMBOL_GPL(pvbus_unregister_driver);
