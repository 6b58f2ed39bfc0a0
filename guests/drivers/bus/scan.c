// SPDX-License-Identifier: GPL-2.0-only
/*
 * The nodes that XenStore has of devices: device/TYPE/ID is a frontend, and
 * backend/TYPE/DOMID/ID is the backend for another domain's. Either is a device as
 * soon as there is the link to the domain at its other end, on which a frontend
 * grants and a backend maps.
 */
#include <linux/ctype.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "devices.h"

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
 * discovery_leave() waits for: so it is there until that work ends.
 */
static struct bus_link *find_link(struct bus_link *bl,
				  const struct bus_node *node)
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

static void make_device(struct bus_link *bl, const struct bus_node *node)
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
	struct bus_node node = { .type = type, .id = id, .path = path };

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
	const struct bus_node node = {
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

/* ---- all of a kind ------------------------------------------------------ */

void scan_nodes(struct node_watch *nodes, bool backend)
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
