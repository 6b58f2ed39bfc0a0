// SPDX-License-Identifier: GPL-2.0-only
/*
 * The bus: drivers on one side, devices that XenStore announces below "device"
 * on the other.
 */
#include <linux/ctype.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

static bool is_first_console(const struct pvbus_device *dev)
{
	return !*dev->otherend;
}

/* ---- the bus type ------------------------------------------------------ */

static int bus_match(struct device *d, struct device_driver *drv)
{
	return !strcmp(to_pvbus_device(d)->devicetype,
		       to_pvbus_driver(drv)->type);
}

static int bus_uevent(struct device *d, struct kobj_uevent_env *env)
{
	return add_uevent_var(env, "MODALIAS=pvbus-%s",
			      to_pvbus_device(d)->devicetype);
}

static void otherend_changed(struct pvbus_watch *watch)
{
	struct pvbus_device *dev = container_of(watch, struct pvbus_device,
						otherend_watch);
	struct pvbus_driver *drv = to_pvbus_driver(dev->dev.driver);

	if (!READ_ONCE(dev->removing) && drv->otherend_changed)
		drv->otherend_changed(dev, pvbus_read_otherend_state(dev));
}

static int watch_otherend(struct pvbus_device *dev)
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
		/* Whoever comes next is to find it ready to begin. */
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

/* ---- devices ----------------------------------------------------------- */

static void device_release(struct device *d)
{
	struct pvbus_device *dev = to_pvbus_device(d);

	kfree(dev->devicetype);
	kfree(dev->nodename);
	kfree(dev->otherend);
	kfree(dev->otherend_state_path);
	kfree(dev);
}

static struct pvbus_device *new_device(struct bus_link *bl, const char *type,
				       const char *nodename)
{
	struct pvbus_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	device_initialize(&dev->dev);
	dev->dev.parent = bl->link.dev;
	dev->dev.bus = &pvbus_bus_type;
	dev->dev.release = device_release;
	dev->link = &bl->link;
	dev->devicetype = kstrdup(type, GFP_KERNEL);
	dev->nodename = kstrdup(nodename, GFP_KERNEL);
	if (!dev->devicetype || !dev->nodename) {
		put_device(&dev->dev);
		return NULL;
	}
	return dev;
}

/* Takes over the reference to @dev. */
static int add_device(struct bus_link *bl, struct pvbus_device *dev,
		      const char *type, const char *id)
{
	int err;

	err = dev_set_name(&dev->dev, "%s-%u-%s", type, bl->info.domid[0], id);
	if (!err)
		err = device_add(&dev->dev);
	if (err) {
		dev_err(bl->link.dev, "no device for %s: error %d\n",
			dev->nodename, err);
		put_device(&dev->dev);
		return err;
	}
	dev->seen = true;
	list_add_tail(&dev->list, &bl->devices);
	/* Not waited for: its driver binds when it has been loaded. */
	(void)request_module_nowait("pvbus-%s", type);
	return 0;
}

static int read_otherend(struct pvbus_device *dev)
{
	unsigned int id;
	char *path;

	path = pvbus_read(dev->link, PVBUS_NIL, dev->nodename, "backend", NULL);
	if (IS_ERR(path))
		return PTR_ERR(path);
	dev->otherend = path;
	id = pvbus_read_unsigned(dev->link, dev->nodename, "backend-id",
				 DOMID_INVALID);
	if (*path != '/' || id != dev->link->remote_domid)
		return -ENXIO;
	dev->otherend_id = id;
	dev->otherend_state_path = kasprintf(GFP_KERNEL, "%s/state", path);
	return dev->otherend_state_path ? 0 : -ENOMEM;
}

/*
 * ---- a domain that has been saved, and restored under another number ---
 *
 * Devices keep their names, with the number that the domain had when it came up.
 */

static void free_path(void *path)
{
	kfree(path);
}

/* Drivers may be reading the old path just now: it stays as long as the link. */
static void replace_path(struct pvbus_device *dev, char **path, char *fresh)
{
	char *old = *path;

	WRITE_ONCE(*path, fresh);
	(void)devm_add_action_or_reset(dev->link->dev, free_path, old);
}

static void watch_elsewhere(struct pvbus_device *dev, char *otherend,
			    char *state_path)
{
	bool bound = dev->dev.driver;
	int err = 0;

	if (bound)
		pvbus_unregister_watch(&dev->otherend_watch);
	replace_path(dev, &dev->otherend, otherend);
	replace_path(dev, &dev->otherend_state_path, state_path);
	if (bound)
		err = watch_otherend(dev);
	if (err)
		dev_err(&dev->dev, "cannot watch %s: error %d\n", state_path,
			err);
}

/*
 * The path of a backend has our number in it. The one that is there now knows
 * nothing of us; to a driver it is one that has taken the place of a dead one.
 */
static void follow_backend(struct pvbus_device *dev)
{
	char *path, *state_path;

	if (is_first_console(dev))
		return;
	path = pvbus_read(dev->link, PVBUS_NIL, dev->nodename, "backend", NULL);
	if (IS_ERR(path))
		return;
	if (*path != '/' || !strcmp(path, dev->otherend) ||
	    pvbus_read_unsigned(dev->link, dev->nodename, "backend-id",
				DOMID_INVALID) != dev->otherend_id)
		goto out_path;
	state_path = kasprintf(GFP_KERNEL, "%s/state", path);
	if (!state_path)
		goto out_path;
	device_lock(&dev->dev);
	watch_elsewhere(dev, path, state_path);
	device_unlock(&dev->dev);
	return;

out_path:
	kfree(path);
}

/* ---- what there is ----------------------------------------------------- */

/* May this node be probed? Only when it is new, or left over and now ours. */
static bool offered(struct bus_link *bl, const char *nodename,
		    enum xenbus_state *state)
{
	*state = pvbus_read_unsigned(&bl->link, nodename, "state",
				     XenbusStateUnknown);
	return *state == XenbusStateInitialising ||
	       (*state == XenbusStateClosed && !bl->scanned);
}

/*
 * Has the toolstack removed a device that we have closed, and made another one
 * of the same name? A driver that is just binding to the old one writes the same
 * state as a new one has, so wait for it.
 */
static bool replaced(struct pvbus_device *dev)
{
	bool replaced;

	if (is_first_console(dev) || dev->state != XenbusStateClosed)
		return false;
	device_lock(&dev->dev);
	replaced = dev->state == XenbusStateClosed &&
		   pvbus_read_unsigned(dev->link, dev->nodename, "state",
				       XenbusStateUnknown) ==
		   XenbusStateInitialising;
	device_unlock(&dev->dev);
	return replaced;
}

static void found_node(struct bus_link *bl, const char *type, const char *id)
{
	struct pvbus_device *dev;
	enum xenbus_state state;
	char *nodename;
	int err;

	nodename = kasprintf(GFP_KERNEL, "device/%s/%s", type, id);
	if (!nodename)
		return;
	list_for_each_entry(dev, &bl->devices, list)
		if (!strcmp(dev->nodename, nodename)) {
			dev->seen = !replaced(dev);
			if (dev->seen && bl->reconnected)
				follow_backend(dev);
			goto out;
		}
	if (!offered(bl, nodename, &state))
		goto out;
	dev = new_device(bl, type, nodename);
	if (!dev)
		goto out;
	dev->state = state;
	err = read_otherend(dev);
	if (err) {
		dev_err(bl->link.dev, "%s: its backend is not at the other end of this link (error %d)\n",
			nodename, err);
		put_device(&dev->dev);
		goto out;
	}
	add_device(bl, dev, type, id);
out:
	kfree(nodename);
}

/* Names become device names and module names: nothing else may hide in them. */
static bool plain_name(const char *name)
{
	const char *c;

	for (c = name; *c; c++)
		if (!isalnum(*c) && *c != '-' && *c != '_')
			return false;
	return c > name && c - name < 32;
}

static void scan_type(struct bus_link *bl, const char *type)
{
	char **ids;
	int nr, i;

	nr = pvbus_directory(&bl->link, PVBUS_NIL, "device", type, &ids);
	if (nr < 0)
		return;
	for (i = 0; i < nr; i++)
		if (plain_name(ids[i]))
			found_node(bl, type, ids[i]);
	kfree(ids);
}

static bool remove_devices(struct bus_link *bl, bool all)
{
	struct pvbus_device *dev, *next;
	bool removed = false;

	list_for_each_entry_safe(dev, next, &bl->devices, list) {
		if (!all && (dev->seen || is_first_console(dev)))
			continue;
		list_del(&dev->list);
		device_unregister(&dev->dev);
		removed = true;
	}
	return removed;
}

/* Something changed below "device": compare what is there with what we have. */
static void devices_changed(struct pvbus_watch *watch)
{
	struct bus_link *bl = container_of(watch, struct bus_link,
					   device_watch);
	u32 generation = READ_ONCE(bl->store.generation);
	struct pvbus_device *dev;
	char **types;
	int nr, i;

	nr = pvbus_directory(&bl->link, PVBUS_NIL, "device", "", &types);
	if (nr < 0 && nr != -ENOENT)
		return;
	bl->reconnected = generation != bl->generation;
	bl->generation = generation;
	list_for_each_entry(dev, &bl->devices, list)
		dev->seen = false;
	for (i = 0; i < nr; i++)
		if (plain_name(types[i]))
			scan_type(bl, types[i]);
	if (nr >= 0)
		kfree(types);
	bl->scanned = true;
	/* What has been removed may be there again, as another device. */
	if (remove_devices(bl, false))
		queue_work(bl->store.watch_wq, &watch->work);
}

/* The first console is in start info: the toolstack has set it up already. */
static int add_first_console(struct bus_link *bl)
{
	struct pvbus_device *dev;

	if (!bl->console_frame)
		return 0;
	dev = new_device(bl, "console", "console");
	if (!dev)
		return -ENOMEM;
	dev->otherend = kstrdup("", GFP_KERNEL);
	if (!dev->otherend) {
		put_device(&dev->dev);
		return -ENOMEM;
	}
	dev->otherend_id = bl->link.remote_domid;
	return add_device(bl, dev, "console", "first");
}

/*
 * Not in devices_start(): the store may take its time to answer, and whoever
 * loads this module has a console to be on meanwhile.
 */
static void watch_devices(struct work_struct *work)
{
	struct bus_link *bl = container_of(work, struct bus_link, watch_devices);
	int err;

	bl->device_watch.node = "device";
	bl->device_watch.callback = devices_changed;
	err = pvbus_register_watch(&bl->link, &bl->device_watch);
	if (err)
		dev_err(bl->link.dev, "cannot watch for devices: error %d\n",
			err);
	bl->watching = !err;
}

int devices_start(struct bus_link *bl)
{
	int err;

	INIT_LIST_HEAD(&bl->devices);
	INIT_WORK(&bl->watch_devices, watch_devices);
	err = add_first_console(bl);
	if (!err)
		queue_work(bl->store.watch_wq, &bl->watch_devices);
	return err;
}

void devices_stop(struct bus_link *bl)
{
	cancel_work_sync(&bl->watch_devices);
	if (bl->watching)
		pvbus_unregister_watch(&bl->device_watch);
	remove_devices(bl, true);
}
