// SPDX-License-Identifier: GPL-2.0-only
/*
 * The links that there are. One has a store of its own; the others, which are to
 * other domains, use that.
 */
#include <linux/pci.h>
#include "bus.h"

DEFINE_MUTEX(links_lock);
LIST_HEAD(links);

void list_link(struct bus_link *bl)
{
	mutex_lock(&links_lock);
	list_add_tail(&bl->list, &links);
	mutex_unlock(&links_lock);
}

void unlist_link(struct bus_link *bl)
{
	mutex_lock(&links_lock);
	list_del(&bl->list);
	mutex_unlock(&links_lock);
}

/* The first link with a store. Under links_lock. */
static struct bus_link *first_link(void)
{
	struct bus_link *bl;

	list_for_each_entry(bl, &links, list)
		if (link_has_store(bl))
			return bl;
	return NULL;
}

/* A domain that was saved and restored has another number than it came up with. */
static u16 present_domid(const struct bus_link *first)
{
	const struct link_info *shared = (void *)first->link.base +
					 LINK_INFO_OFFSET;

	return READ_ONCE(shared->domid[first->me]);
}

int borrow_store(struct bus_link *bl)
{
	struct bus_link *first;
	struct device_link *order = NULL;

	mutex_lock(&links_lock);
	first = first_link();
	if (first)
		order = device_link_add(bl->link.dev, first->link.dev,
					DL_FLAG_AUTOPROBE_CONSUMER);
	mutex_unlock(&links_lock);
	if (!first)
		return -EPROBE_DEFER;
	if (!order)
		return -EINVAL;
	/* Else it is going already, and does not wait for us any more. */
	if (READ_ONCE(order->status) != DL_STATE_CONSUMER_PROBE)
		return -EPROBE_DEFER;
	if (bl->info.domid[bl->me] != present_domid(first)) {
		dev_err(bl->link.dev, "this link is of domain %u, the first one of domain %u\n",
			bl->info.domid[bl->me], present_domid(first));
		return -EINVAL;
	}
	bl->store = first->store;
	return 0;
}
