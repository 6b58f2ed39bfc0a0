// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of a link: where it lies, how it is mapped and copied, and the struct
 * pages that let the rest of the kernel hold a frame of it.
 */
#include <linux/delay.h>
#include <linux/export.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include "bus.h"

/* What network buffers and the like may take to be read by somebody. */
#define RETURN_SECONDS		5

void link_copy(void *dst, const void *src, size_t n)
{
	u64 *d = dst;
	const u64 *s = src;

	for (; n >= 64; n -= 64, d += 8, s += 8) {
		u64 a = READ_ONCE(s[0]), b = READ_ONCE(s[1]);
		u64 c = READ_ONCE(s[2]), e = READ_ONCE(s[3]);

		WRITE_ONCE(d[0], a);
		WRITE_ONCE(d[1], b);
		WRITE_ONCE(d[2], c);
		WRITE_ONCE(d[3], e);
		a = READ_ONCE(s[4]);
		b = READ_ONCE(s[5]);
		c = READ_ONCE(s[6]);
		e = READ_ONCE(s[7]);
		WRITE_ONCE(d[4], a);
		WRITE_ONCE(d[5], b);
		WRITE_ONCE(d[6], c);
		WRITE_ONCE(d[7], e);
	}
	for (; n >= 8; n -= 8)
		*d++ = *s++;
	if (n)
		memcpy(d, s, n);
}
EXPORT_SYMBOL_GPL(link_copy);

struct page *link_frame_page(struct link *link, u32 frame)
{
	if (!to_bus_link(link)->pagemap)
		return NULL;
	return virt_to_page(link_frame_addr(link, frame));
}
EXPORT_SYMBOL_GPL(link_frame_page);

/*
 * Where the region lies was chosen by the firmware, or by the kernel for a device
 * that was plugged in. Returns whether it could be moved.
 */
static bool move(struct pci_dev *pdev, bool above)
{
	struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	struct resource old = *res;
	u16 command;
	int err;

	/* Half a new address and half an old one may be that of the RAM. */
	pci_read_config_word(pdev, PCI_COMMAND, &command);
	pci_write_config_word(pdev, PCI_COMMAND, command & ~PCI_COMMAND_MEMORY);
	pci_release_resource(pdev, IVSHMEM_BAR_MEMORY);
	if (!above) {
		/* As a 32-bit one it gets such an address. */
		res->flags &= ~IORESOURCE_MEM_64;
		pci_write_config_dword(pdev, PCI_BASE_ADDRESS_3, 0);
	}
	err = pci_assign_resource(pdev, IVSHMEM_BAR_MEMORY);
	if (err) {
		/* There is no room elsewhere; where it was, there is. */
		res->start = old.start;
		res->end = old.end;
		res->flags = old.flags;
		pci_write_config_dword(pdev, PCI_BASE_ADDRESS_3,
				       upper_32_bits(old.start));
		if (pci_claim_resource(pdev, IVSHMEM_BAR_MEMORY))
			dev_warn(&pdev->dev, "lost the place of the region\n");
	}
	res->flags |= IORESOURCE_MEM_64;
	pci_write_config_word(pdev, PCI_COMMAND, command);
	return !err;
}

/*
 * Below 4 GiB the firmware marks what is there and not RAM as uncachable: under
 * KVM, depending on the processor, every access would then go around the caches.
 * Above 4 GiB there is no such mark.
 *
 * But a driver domain has its disk read into the region, and the IDE controller
 * cannot reach above 4 GiB. The kernel would copy by way of bounce buffers, which
 * a guest with little memory has not got, so every such request would fail. TCG
 * knows no caches: with it, the grantee's region has to be below.
 */
static void place_region(struct bus_link *bl)
{
	bool above = bl->me == LINK_END_GRANTER || !bl->link.fence_by_mmio;
	struct resource *res = &bl->pdev->resource[IVSHMEM_BAR_MEMORY];

	if (!(res->flags & IORESOURCE_MEM_64) ||
	    above == (upper_32_bits(res->start) != 0))
		return;
	if (!move(bl->pdev, above) && !above)
		dev_warn(&bl->pdev->dev, "no room for the region below 4 GiB: disks that cannot reach above fail\n");
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

int region_map(struct bus_link *bl)
{
	struct pci_dev *pdev = bl->pdev;
	struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	int err;

	place_region(bl);
	err = pci_request_region(pdev, IVSHMEM_BAR_MEMORY, "pvbus");
	if (err)
		return err;
	bl->link.base = map_pages(bl, res);
	if (bl->link.base)
		return devm_add_action_or_reset(&pdev->dev, unmap_pages, bl);
	bl->link.base = devm_memremap(&pdev->dev, res->start,
				      resource_size(res), MEMREMAP_WB);
	return PTR_ERR_OR_ZERO(bl->link.base);
}
