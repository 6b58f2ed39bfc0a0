// SPDX-License-Identifier: GPL-2.0-only
/*
 * When to look for devices: at the start, when a watch tells that nodes have come
 * or gone, and when a link has. All of it is work of the one queue on which watches
 * are called, so it is done one by one.
 */
#include <linux/string.h>
#include "devices.h"

/* Of "backend/vbd/7/51712": what is below is the device's own. */
#define BACKEND_DEPTH	3

static void frontends_changed(struct pvbus_watch *watch)
{
	scan_nodes(container_of(watch, struct node_watch, watch), false);
}

static void backends_changed(struct pvbus_watch *watch)
{
	scan_nodes(container_of(watch, struct node_watch, watch), true);
}

/* Most of what is written below "backend" is between the two halves. */
static void backend_event(struct pvbus_watch *watch, const char *path)
{
	const char *name = path, *slash;
	unsigned int depth;

	for (depth = 0; (slash = strchr(name, '/')); depth++)
		name = slash + 1;
	if (depth > BACKEND_DEPTH && strcmp(name, "state"))
		return;
	queue_work(to_bus_link(watch->link)->store->watch_wq, &watch->work);
}

static void start_watching(struct bus_link *bl, struct node_watch *nodes)
{
	int err = pvbus_register_watch(&bl->link, &nodes->watch);

	if (err)
		dev_err(bl->link.dev, "cannot watch for %s nodes: error %d\n",
			nodes->watch.node, err);
	nodes->watching = !err;
}

/*
 * Not in discovery_start(): the store may take its time to answer, and whoever
 * loads this module has a console to be on meanwhile.
 */
static void watch_nodes(struct work_struct *work)
{
	struct bus_link *bl = container_of(work, struct bus_link, watch_nodes);

	start_watching(bl, &bl->frontends);
	start_watching(bl, &bl->backends);
	start_watching(bl, &bl->identities);
}

/* Devices that were left alone until now may be on links that are known now. */
static void identify_and_scan(struct bus_link *bl)
{
	if (!identify_links(bl))
		return;
	if (bl->frontends.watching)
		scan_nodes(&bl->frontends, false);
	if (bl->backends.watching)
		scan_nodes(&bl->backends, true);
}

static void identities_changed(struct pvbus_watch *watch)
{
	identify_and_scan(container_of(watch, struct node_watch, watch)->bl);
}

static void rescan(struct work_struct *work)
{
	identify_and_scan(container_of(work, struct bus_link, rescan));
}

void discovery_look(struct bus_link *bl)
{
	struct bus_link *first = link_of_store(bl);

	queue_work(bl->store->watch_wq,
		   bl == first ? &first->watch_nodes : &first->rescan);
}

int discovery_start(struct bus_link *bl)
{
	INIT_LIST_HEAD(&bl->devices);
	INIT_WORK(&bl->watch_nodes, watch_nodes);
	INIT_WORK(&bl->rescan, rescan);
	bl->frontends.bl = bl;
	bl->frontends.watch.node = "device";
	bl->frontends.watch.callback = frontends_changed;
	bl->backends.bl = bl;
	bl->backends.watch.node = "backend";
	bl->backends.watch.callback = backends_changed;
	bl->backends.watch.event = backend_event;
	bl->identities.bl = bl;
	bl->identities.watch.node = "link";
	bl->identities.watch.callback = identities_changed;
	return add_first_console(bl);
}

void discovery_stop(struct bus_link *bl)
{
	struct pvbus_device *dev;

	cancel_work_sync(&bl->watch_nodes);
	cancel_work_sync(&bl->rescan);
	if (bl->frontends.watching)
		pvbus_unregister_watch(&bl->frontends.watch);
	if (bl->backends.watching)
		pvbus_unregister_watch(&bl->backends.watch);
	if (bl->identities.watching)
		pvbus_unregister_watch(&bl->identities.watch);
	list_for_each_entry(dev, &bl->devices, list)
		dev->seen = false;
	remove_unseen(bl);
}

struct leaving {
	struct work_struct work;
	struct bus_link *bl;
};

static void leave(struct work_struct *work)
{
	struct bus_link *bl = container_of(work, struct leaving, work)->bl;
	struct bus_link *first = link_of_store(bl);
	struct pvbus_device *dev;

	list_for_each_entry(dev, &first->devices, list)
		if (dev->link == &bl->link)
			dev->seen = false;
	remove_unseen(first);
}

void discovery_leave(struct bus_link *bl)
{
	struct leaving leaving = { .bl = bl };

	INIT_WORK_ONSTACK(&leaving.work, leave);
	queue_work(bl->store->watch_wq, &leaving.work);
	flush_work(&leaving.work);
	destroy_work_on_stack(&leaving.work);
}
