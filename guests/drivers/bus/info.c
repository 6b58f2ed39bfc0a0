// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the toolstack has written into frame 0 of a link: link info and start info.
 * The other end can have written it, too: believe nothing unchecked.
 */
#include <linux/export.h>
#include <linux/io.h>
#include <linux/string.h>
#include "bus.h"

#define PORTS_FRAMES (LINK_PORTS * sizeof(struct link_port) / XEN_PAGE_SIZE)

/* A part of the region by its name in complaints. */
struct area {
	const char *name;
	u32 start, nr;
};

/* Every area inside the region, behind frame 0, apart from all others. */
static int check_areas(struct device *dev, const struct area *areas,
		       unsigned int nr_areas, u32 end)
{
	unsigned int i, j;

	for (i = 0; i < nr_areas; i++) {
		const struct area *a = &areas[i];

		if (!a->start || !a->nr || a->start >= end ||
		    a->nr > end - a->start) {
			dev_err(dev, "link info: %s at frame %u + %u is not in 1..%u\n",
				a->name, a->start, a->nr, end - 1);
			return -EINVAL;
		}
		for (j = 0; j < i; j++) {
			const struct area *b = &areas[j];

			if (a->start < b->start + b->nr &&
			    b->start < a->start + a->nr) {
				dev_err(dev, "link info: %s and %s overlap at frame %u\n",
					a->name, b->name,
					max(a->start, b->start));
				return -EINVAL;
			}
		}
	}
	return 0;
}

int link_check_layout(struct bus_link *bl)
{
	const struct link_info *info = &bl->info;
	const struct area areas[] = {
		{ "pending[0]", info->pending_frame[0], 1 },
		{ "pending[1]", info->pending_frame[1], 1 },
		{ "mask[0]", info->mask_frame[0], 1 },
		{ "mask[1]", info->mask_frame[1], 1 },
		{ "ports[0]", info->ports_frame[0], PORTS_FRAMES },
		{ "ports[1]", info->ports_frame[1], PORTS_FRAMES },
		{ "the grant table", info->grant_frame, info->max_grant_frames },
		{ "grant status", info->status_frame, info->nr_status_frames },
		{ "the store ring", bl->store_frame, 1 },
		{ "the console ring", bl->console_frame, 1 },
	};
	unsigned int nr = ARRAY_SIZE(areas);

	if (!info->nr_grant_frames ||
	    info->nr_grant_frames > info->max_grant_frames) {
		dev_err(bl->link.dev, "link info: a grant table of %u frames in room for %u\n",
			info->nr_grant_frames, info->max_grant_frames);
		return -EINVAL;
	}
	if (!link_has_store(bl))
		nr -= 2;
	else if (!bl->console_frame)
		nr--;
	return check_areas(bl->link.dev, areas, nr, info->first_free_frame);
}

/* Which end has the device: the server has told it its peer ID. */
static int find_end(struct bus_link *bl)
{
	u32 position = readl(bl->link.regs + LINK_REG_IVPOSITION);
	const u16 *peer = bl->info.peer;

	for (bl->me = 0; bl->me < 2; bl->me++)
		if (position == peer[bl->me])
			return 0;
	dev_err(bl->link.dev, "peer %u is at neither end of this link (%u, %u)\n",
		position, peer[LINK_END_GRANTER], peer[LINK_END_GRANTEE]);
	return -ENODEV;
}

static int check_link_info(struct bus_link *bl)
{
	struct device *dev = bl->link.dev;
	struct link_info *info = &bl->info;
	u32 nr_frames = pci_resource_len(bl->pdev, IVSHMEM_BAR_MEMORY) /
			XEN_PAGE_SIZE;
	int err;

	if (info->magic != LINK_MAGIC) {
		dev_dbg(dev, "this ivshmem region is no link\n");
		return -ENODEV;
	}
	if (info->version != LINK_VERSION) {
		dev_err(dev, "link version %u, this driver knows %u: rebuild the image\n",
			info->version, LINK_VERSION);
		return -EINVAL;
	}
	err = find_end(bl);
	if (err)
		return err;
	if (!info->nr_frames || info->nr_frames > nr_frames ||
	    info->first_free_frame > info->nr_frames) {
		dev_err(dev, "link info: %u frames, free ones from %u, but the region has %u\n",
			info->nr_frames, info->first_free_frame, nr_frames);
		return -EINVAL;
	}
	if (!info->vectors[0] || !info->vectors[1]) {
		dev_err(dev, "link info: an end without doorbell vectors\n");
		return -EINVAL;
	}
	bl->link.nr_frames = info->nr_frames;
	bl->link.remote_domid = info->domid[link_other_end(bl)];
	return 0;
}

int link_read_info(struct bus_link *bl)
{
	void *frame = memremap(pci_resource_start(bl->pdev, IVSHMEM_BAR_MEMORY),
			       XEN_PAGE_SIZE, MEMREMAP_WB);

	if (!frame)
		return -ENOMEM;
	memcpy(&bl->info, frame + LINK_INFO_OFFSET, sizeof(bl->info));
	memunmap(frame);
	return check_link_info(bl);
}

int link_read_start_info(struct bus_link *bl)
{
	const struct start_info *start = (void *)bl->link.base;
	u64 store = READ_ONCE(start->store_mfn);
	u64 console = READ_ONCE(start->console.domU.mfn);

	BUILD_BUG_ON(sizeof(*start) > LINK_INFO_OFFSET);
	if (memcmp(start->magic, "xen-", 4)) {
		dev_err(bl->link.dev, "no start info in frame 0\n");
		return -EINVAL;
	}
	bl->store_port = READ_ONCE(start->store_evtchn);
	bl->console_port = READ_ONCE(start->console.domU.evtchn);
	if (store >= bl->link.nr_frames || console >= bl->link.nr_frames) {
		dev_err(bl->link.dev, "start info: store frame %llu, console frame %llu, but the link has %u\n",
			store, console, bl->link.nr_frames);
		return -EINVAL;
	}
	bl->store_frame = store;
	bl->console_frame = console;
	if (store ? bl->me != LINK_END_GRANTER : console) {
		dev_err(bl->link.dev, "start info: a store is the granter's, and a console comes with it\n");
		return -EINVAL;
	}
	return 0;
}

void *link_console_page(struct link *link)
{
	struct bus_link *bl = to_bus_link(link);

	if (!bl->console_frame)
		return NULL;
	return link_frame_addr(link, bl->console_frame);
}
EXPORT_SYMBOL_GPL(link_console_page);

u32 link_console_port(struct link *link)
{
	return to_bus_link(link)->console_port;
}
EXPORT_SYMBOL_GPL(link_console_port);
