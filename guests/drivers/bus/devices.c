// SPDX-License-Identifier: GPL-2.0-only
/*
 * The devices of the bus: what XenStore announces as device/TYPE/ID is a frontend,
 * and backend/TYPE/DOMID/ID is the backend for another domain's. Either is a device
 * as soon as there is the link to the domain at its other end, on which a frontend
 * grants and a backend maps.
 */
#include <linux/ctype.h>
#include <linux/kmod.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

/* Of "backend/vbd/7/51712": what is below is the device's own. */
#define BACKEND_DEPTH	3

/* A node that may be a device. */
struct node {
	bool backend;
	const char *type, *id;
	unsigned int domid;	/* of the other end */
	const char *path;
};

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

static struct pvbus_device *new_device(struct bus_link *link,
				       const struct node *node)
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

static int name_device(struct pvbus_device *dev, const struct node *node)
{
	struct bus_link *first = link_of_store(to_bus_link(dev->link));

	if (node->backend)
		return dev_set_name(&dev->dev, "backend-%s-%u-%s", node->type,
				    node->domid, node->id);
	return dev_set_name(&dev->dev, "%s-%u-%s", node->type,
			    first->info.domid[first->me], node->id);
}

/* Takes over the reference to @dev. */
static int add_device(struct bus_link *bl, struct pvbus_device *dev,
		      const struct node *node)
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
static char *read_path(struct pvbus_device *dev)
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

static int read_otherend(struct pvbus_device *dev)
{
	char *path = read_path(dev);

	if (IS_ERR(path))
		return PTR_ERR(path);
	dev->otherend = path;
	dev->otherend_state_path = kasprintf(GFP_KERNEL, "%s/state", path);
	return dev->otherend_state_path ? 0 : -ENOMEM;
}

/* Remove the devices that have not been seen; were there any? */
static bool remove_unseen(struct bus_link *bl)
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
 * The path of a backend has our number in it, and that of its domain, which may be
 * another, too. The one that is there now knows nothing of us; to a driver it is
 * one that has taken the place of a dead one.
 */
static void follow_backend(struct pvbus_device *dev)
{
	char *path, *state_path;

	if (is_first_console(dev))
		return;
	dev->otherend_id = dev->link->remote_domid;
	path = read_path(dev);
	if (IS_ERR(path))
		return;
	if (!strcmp(path, dev->otherend) ||
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

/* ---- links ------------------------------------------------------------- */

/* A known link at the end that frontends need, or at the one that backends need? */
static bool is_of_kind(const struct bus_link *link, const struct bus_link *bl,
		       bool backend)
{
	unsigned int end = backend ? LINK_END_GRANTEE : LINK_END_GRANTER;

	return link->store == bl->store && link->identity == LINK_KNOWN &&
	       link->me == end;
}

/*
 * The link to a domain, or NULL. Only for work that runs one by one with what
 * devices_leave() waits for: so it is there until that work ends.
 */
static struct bus_link *find_link(struct bus_link *bl, const struct node *node)
{
	struct bus_link *link, *found = NULL;

	mutex_lock(&links_lock);
	list_for_each_entry(link, &links, list)
		if (is_of_kind(link, bl, node->backend) &&
		    link->link.remote_domid == node->domid) {
			found = link;
			break;
		}
	mutex_unlock(&links_lock);
	return found;
}

static void begin_scan(struct bus_link *bl, bool backend)
{
	struct bus_link *link;

	mutex_lock(&links_lock);
	list_for_each_entry(link, &links, list)
		if (is_of_kind(link, bl, backend)) {
			link->first_scan = !link->scanned;
			link->scanned = true;
		}
	mutex_unlock(&links_lock);
}

/* ---- nodes ------------------------------------------------------------- */

/* May this node be probed? Only when it is new, or left over and now ours. */
static bool offered(const struct bus_link *link, const char *path,
		    enum xenbus_state *state)
{
	*state = pvbus_read_unsigned(link->store->link, path, "state",
				     XenbusStateUnknown);
	return *state == XenbusStateInitialising ||
	       (*state == XenbusStateClosed && link->first_scan);
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

static void make_device(struct bus_link *bl, const struct node *node)
{
	struct bus_link *link = find_link(bl, node);
	struct pvbus_device *dev;
	enum xenbus_state state;
	int err;

	/* Without a link it is left alone until that comes. */
	if (!link || !offered(link, node->path, &state))
		return;
	dev = new_device(link, node);
	if (!dev)
		return;
	dev->state = state;
	err = read_otherend(dev);
	if (err) {
		dev_err(link->link.dev, "%s: its other end is not in domain %u (error %d)\n",
			node->path, node->domid, err);
		put_device(&dev->dev);
		return;
	}
	add_device(bl, dev, node);
}

static bool known(struct bus_link *bl, const char *path)
{
	struct pvbus_device *dev;

	list_for_each_entry(dev, &bl->devices, list)
		if (!strcmp(dev->nodename, path)) {
			dev->seen = !replaced(dev);
			if (dev->seen && !dev->backend && bl->reconnected)
				follow_backend(dev);
			return true;
		}
	return false;
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

/* As the toolstack writes it: so no two names are the same number. */
static bool plain_number(const char *name, unsigned int *number)
{
	return isdigit(*name) && (*name != '0' || !name[1]) &&
	       !kstrtouint(name, 10, number);
}

/* ---- frontends --------------------------------------------------------- */

static void found_frontend(struct bus_link *bl, const char *type,
			   const char *id)
{
	char *path = kasprintf(GFP_KERNEL, "device/%s/%s", type, id);
	struct node node = { .type = type, .id = id, .path = path };

	if (path && !known(bl, path)) {
		node.domid = pvbus_read_unsigned(&bl->link, path, "backend-id",
						 DOMID_INVALID);
		make_device(bl, &node);
	}
	kfree(path);
}

static void scan_frontends_of(struct bus_link *bl, const char *type)
{
	char **ids;
	int nr, i;

	nr = pvbus_directory(&bl->link, PVBUS_NIL, "device", type, &ids);
	if (nr < 0)
		return;
	for (i = 0; i < nr; i++)
		if (plain_name(ids[i]))
			found_frontend(bl, type, ids[i]);
	kfree(ids);
}

/* ---- backends ---------------------------------------------------------- */

static void found_backend(struct bus_link *bl, const char *type,
			  unsigned int domid, const char *id)
{
	char *path = kasprintf(GFP_KERNEL, "backend/%s/%u/%s", type, domid, id);
	const struct node node = {
		.backend = true, .type = type, .id = id, .domid = domid,
		.path = path,
	};

	if (path && !known(bl, path))
		make_device(bl, &node);
	kfree(path);
}

static void scan_backends_for(struct bus_link *bl, const char *type,
			      unsigned int domid)
{
	char node[sizeof("/4294967295") + 32];
	unsigned int number;
	char **ids;
	int nr, i;

	snprintf(node, sizeof(node), "%s/%u", type, domid);
	nr = pvbus_directory(&bl->link, PVBUS_NIL, "backend", node, &ids);
	if (nr < 0)
		return;
	for (i = 0; i < nr; i++)
		if (plain_number(ids[i], &number))
			found_backend(bl, type, domid, ids[i]);
	kfree(ids);
}

static void scan_backends_of(struct bus_link *bl, const char *type)
{
	unsigned int domid;
	char **domids;
	int nr, i;

	nr = pvbus_directory(&bl->link, PVBUS_NIL, "backend", type, &domids);
	if (nr < 0)
		return;
	for (i = 0; i < nr; i++)
		if (plain_number(domids[i], &domid) &&
		    domid < DOMID_FIRST_RESERVED)
			scan_backends_for(bl, type, domid);
	kfree(domids);
}

/* ---- looking for what has changed -------------------------------------- */

/* Compare what is there with what we have. */
static void scan(struct node_watch *nodes, bool backend)
{
	struct bus_link *bl = nodes->bl;
	u32 generation = READ_ONCE(bl->store->generation);
	struct pvbus_device *dev;
	char **types;
	int nr, i;

	nr = pvbus_directory(&bl->link, PVBUS_NIL, nodes->watch.node, "",
			     &types);
	if (nr < 0 && nr != -ENOENT)
		return;
	begin_scan(bl, backend);
	if (!backend) {
		bl->reconnected = generation != bl->generation;
		bl->generation = generation;
		if (bl->reconnected)
			renumber_links(bl);
	}
	list_for_each_entry(dev, &bl->devices, list)
		dev->seen = dev->backend != backend || is_first_console(dev);
	for (i = 0; i < nr; i++) {
		if (!plain_name(types[i]))
			continue;
		if (backend)
			scan_backends_of(bl, types[i]);
		else
			scan_frontends_of(bl, types[i]);
	}
	if (nr >= 0)
		kfree(types);
	/* What has been removed may be there again, as another device. */
	if (remove_unseen(bl))
		queue_work(bl->store->watch_wq, &nodes->watch.work);
}

static void frontends_changed(struct pvbus_watch *watch)
{
	scan(container_of(watch, struct node_watch, watch), false);
}

static void backends_changed(struct pvbus_watch *watch)
{
	scan(container_of(watch, struct node_watch, watch), true);
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
 * Not in devices_start(): the store may take its time to answer, and whoever
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
		scan(&bl->frontends, false);
	if (bl->backends.watching)
		scan(&bl->backends, true);
}

static void identities_changed(struct pvbus_watch *watch)
{
	identify_and_scan(container_of(watch, struct node_watch, watch)->bl);
}

static void rescan(struct work_struct *work)
{
	identify_and_scan(container_of(work, struct bus_link, rescan));
}

void devices_look(struct bus_link *bl)
{
	struct bus_link *first = link_of_store(bl);

	queue_work(bl->store->watch_wq,
		   bl == first ? &first->watch_nodes : &first->rescan);
}

/* ---- coming and going -------------------------------------------------- */

/* The first console is in start info: the toolstack has set it up already. */
static int add_first_console(struct bus_link *bl)
{
	const struct node node = {
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

int devices_start(struct bus_link *bl)
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

void devices_stop(struct bus_link *bl)
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

void devices_leave(struct bus_link *bl)
{
	struct leaving leaving = { .bl = bl };

	INIT_WORK_ONSTACK(&leaving.work, leave);
	queue_work(bl->store->watch_wq, &leaving.work);
	flush_work(&leaving.work);
	destroy_work_on_stack(&leaving.work);
}
