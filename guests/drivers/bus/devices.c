// SPDX-License-Identifier: GPL-2.0-only
/*
 * The devices of the bus: each is a frontend or a backend, on the link to the
 * domain at its other end.
 */
#include <linux/kmod.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "devices.h"

static void device_release(struct device *d)
{
	struct pvbus_device *dev = to_pvbus_device(d);

	kfree(dev->devicetype);
	kfree(dev->nodename);
	kfree(dev->otherend);
	kfree(dev->otherend_state_path);
	kfree(dev);
}

struct pvbus_device *new_device(struct bus_link *link,
				const struct bus_node *node)
{
	struct pvbus_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	device_initialize(&dev->dev);
	dev->dev.parent = link->link.dev;
	dev->dev.bus = &pvbus_bus_type;
	dev->dev.release = device_release;
	dev->link = &link->link;
	dev->backend = node->backend;
	dev->otherend_id = node->domid;
	dev->devicetype = kstrdup(node->type, GFP_KERNEL);
	dev->nodename = kstrdup(node->path, GFP_KERNEL);
	if (!dev->devicetype || !dev->nodename) {
		put_device(&dev->dev);
		return NULL;
	}
	return dev;
}

static int name_device(struct pvbus_device *dev, const struct bus_node *node)
{
	struct bus_link *first = link_of_store(to_bus_link(dev->link));

	if (node->backend)
		return dev_set_name(&dev->dev, "backend-%s-%u-%s", node->type,
				    node->domid, node->id);
	return dev_set_name(&dev->dev, "%s-%u-%s", node->type,
			    first->info.domid[first->me], node->id);
}

int add_device(struct bus_link *bl, struct pvbus_device *dev,
	       const struct bus_node *node)
{
	int err;

	err = name_device(dev, node);
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
	(void)request_module_nowait("pvbus-%s%s",
				    node->backend ? "backend-" : "",
				    node->type);
	return 0;
}

/* The other end's node has to be the property of the domain there. */
char *read_otherend_path(struct pvbus_device *dev)
{
	char prefix[sizeof("/local/domain/65535/")];
	char *path;

	path = pvbus_read(dev->link, PVBUS_NIL, dev->nodename,
			  dev->backend ? "frontend" : "backend", NULL);
	if (IS_ERR(path))
		return path;
	snprintf(prefix, sizeof(prefix), "/local/domain/%u/",
		 dev->otherend_id);
	if (!str_has_prefix(path, prefix)) {
		kfree(path);
		return ERR_PTR(-ENXIO);
	}
	return path;
}

int read_otherend(struct pvbus_device *dev)
{
	char *path = read_otherend_path(dev);

	if (IS_ERR(path))
		return PTR_ERR(path);
	dev->otherend = path;
	dev->otherend_state_path = kasprintf(GFP_KERNEL, "%s/state", path);
	return dev->otherend_state_path ? 0 : -ENOMEM;
}

int add_first_console(struct bus_link *bl)
{
	const struct bus_node node = {
		.type = "console", .id = "first", .path = "console",
		.domid = bl->link.remote_domid,
	};
	struct pvbus_device *dev;

	if (!bl->console_frame)
		return 0;
	dev = new_device(bl, &node);
	if (!dev)
		return -ENOMEM;
	dev->otherend = kstrdup("", GFP_KERNEL);
	if (!dev->otherend) {
		put_device(&dev->dev);
		return -ENOMEM;
	}
	return add_device(bl, dev, &node);
}

bool remove_unseen(struct bus_link *bl)
{
	struct pvbus_device *dev, *next;
	bool removed = false;

	list_for_each_entry_safe(dev, next, &bl->devices, list) {
		if (dev->seen)
			continue;
		list_del(&dev->list);
		device_unregister(&dev->dev);
		removed = true;
	}
	return removed;
}
