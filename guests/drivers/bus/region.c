// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of a link: where it lies, how it is mapped, and the struct pages
 * that let the rest of the kernel hold a frame of it.
 */
#include <linux/delay.h>
#include <linux/export.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include "bus.h"

#define IVSHMEM_BAR_MEMORY	2

/* What network buffers and the like may take to be read by somebody. */
#define RETURN_SECONDS		5

struct page *link_frame_page(struct link *link, u32 frame)
{
	if (!to_bus_link(link)->pagemap)
		return NULL;
	return virt_to_page(link_frame_addr(link, frame));
}
EXPORT_SYMBOL_GPL(link_frame_page);

/*
 * The firmware puts the region below 4 GiB, and marks what is there and not RAM
 * as uncachable: under KVM, depending on the processor, every access would then
 * go around the caches. Above 4 GiB there is no such mark.
 */
static void move_above_4g(struct pci_dev *pdev)
{
	struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	struct resource old = *res;

	if (!(res->flags & IORESOURCE_MEM_64) || upper_32_bits(res->start))
		return;
	pci_release_resource(pdev, IVSHMEM_BAR_MEMORY);
	if (!pci_assign_resource(pdev, IVSHMEM_BAR_MEMORY))
		return;
	/* There is no room elsewhere; where it was, there is. */
	res->start = old.start;
	res->end = old.end;
	res->flags = old.flags;
	if (pci_claim_resource(pdev, IVSHMEM_BAR_MEMORY))
		dev_warn(&pdev->dev, "lost the place of the region\n");
}

/* Does somebody hold a frame, such as a socket that nobody reads from? */
static bool pages_are_out(struct bus_link *bl)
{
	u32 i;

	for (i = 0; i < bl->link.nr_frames; i++)
		if (link_page_lent(link_frame_page(&bl->link, i)))
			return true;
	return false;
}

static void unmap_pages(void *data)
{
	struct bus_link *bl = data;
	int tries = RETURN_SECONDS * 50;

	while (pages_are_out(bl) && --tries)
		msleep(20); /* nothing tells when a page comes back */
	if (!tries) {
		/* They stay valid as pages, though what they hold is gone. */
		dev_warn(bl->link.dev, "pages of the link are still in use: leaving them mapped\n");
		return;
	}
	memunmap_pages(bl->pagemap);
	kfree(bl->pagemap);
}

/* Map the region as pages; NULL when that cannot be had. */
static void *map_pages(struct bus_link *bl, struct resource *res)
{
	struct dev_pagemap *map;
	void *base;

	if (!IS_ALIGNED(res->start | resource_size(res),
			memremap_compat_align()))
		return NULL;
	map = kzalloc(sizeof(*map), GFP_KERNEL);
	if (!map)
		return NULL;
	map->type = MEMORY_DEVICE_GENERIC;
	map->range.start = res->start;
	map->range.end = res->end;
	map->nr_range = 1;
	base = memremap_pages(map, dev_to_node(bl->link.dev));
	if (IS_ERR(base)) {
		dev_info(bl->link.dev, "no pages for the link: error %ld\n",
			 PTR_ERR(base));
		kfree(map);
		return NULL;
	}
	bl->pagemap = map;
	return base;
}

int region_map(struct bus_link *bl, resource_size_t *size)
{
	struct pci_dev *pdev = bl->pdev;
	struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	int err;

	*size = resource_size(res);
	if (*size < 2 * XEN_PAGE_SIZE)
		return -ENODEV;
	move_above_4g(pdev);
	err = pcim_enable_device(pdev);
	if (err)
		return err;
	err = pci_request_region(pdev, IVSHMEM_BAR_MEMORY, "pvbus");
	if (err)
		return err;
	bl->link.base = map_pages(bl, res);
	if (bl->link.base)
		return devm_add_action_or_reset(&pdev->dev, unmap_pages, bl);
	bl->link.base = devm_memremap(&pdev->dev, res->start, *size,
				      MEMREMAP_WB);
	return PTR_ERR_OR_ZERO(bl->link.base);
}
