// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI driver of a link: checks what the toolstack has written about the
 * region, and brings up everything that lives in it.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/cpufeature.h>
#include <asm/processor.h>
#include "bus.h"

#define IVSHMEM_VENDOR		0x1af4
#define IVSHMEM_DEVICE		0x1110
#define IVSHMEM_BAR_REGS	0

#define PORTS_FRAMES (LINK_PORTS * sizeof(struct link_port) / XEN_PAGE_SIZE)

/* A part of the region by its name in complaints. */
struct area {
	const char *name;
	u32 start, nr;
};

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

/* TCG says so in CPUID, where KVM or Xen would give its own name. */
static bool runs_under_tcg(void)
{
	char signature[13] = "";
	u32 eax, ebx, ecx, edx;

	if (!boot_cpu_has(X86_FEATURE_HYPERVISOR))
		return false;
	cpuid(0x40000000, &eax, &ebx, &ecx, &edx);
	memcpy(signature, &ebx, 4);
	memcpy(signature + 4, &ecx, 4);
	memcpy(signature + 8, &edx, 4);
	return !strcmp(signature, "TCGTCGTCGTCG");
}

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

/* The fixed areas of the region must lie below the first free frame. */
static int check_layout(struct bus_link *bl)
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
	if (!bl->console_frame)
		nr--;
	return check_areas(bl->link.dev, areas, nr, info->first_free_frame);
}

/* Read link info once, and believe none of it unchecked. */
static int read_link_info(struct bus_link *bl, resource_size_t size)
{
	struct device *dev = bl->link.dev;
	struct link_info *info = &bl->info;
	u32 position = readl(bl->link.regs + LINK_REG_IVPOSITION);
	u32 nr_frames = size / XEN_PAGE_SIZE;

	memcpy(info, bl->link.base + LINK_INFO_OFFSET, sizeof(*info));
	barrier(); /* from here on only the copy is looked at */

	if (info->magic != LINK_MAGIC) {
		dev_dbg(dev, "this ivshmem region is no link\n");
		return -ENODEV;
	}
	if (info->version != LINK_VERSION) {
		dev_err(dev, "link version %u, this driver knows %u: rebuild the image\n",
			info->version, LINK_VERSION);
		return -EINVAL;
	}
	if (position != info->peer[LINK_END_GRANTER]) {
		dev_err(dev, "peer %u is not the granter's end (%u) of this link\n",
			position, info->peer[LINK_END_GRANTER]);
		return -ENODEV;
	}
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
	bl->link.remote_domid = info->domid[LINK_END_GRANTEE];
	return 0;
}

static int read_start_info(struct bus_link *bl)
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
	return 0;
}

static int map_device(struct bus_link *bl)
{
	struct pci_dev *pdev = bl->pdev;
	resource_size_t size;
	int err;

	err = region_map(bl, &size);
	if (err)
		return err;
	err = pcim_iomap_regions(pdev, BIT(IVSHMEM_BAR_REGS), "pvbus");
	if (err)
		return err;
	bl->link.regs = pcim_iomap_table(pdev)[IVSHMEM_BAR_REGS];
	bl->link.fence_by_mmio = runs_under_tcg();
	err = read_link_info(bl, size);
	if (err)
		return err;
	err = read_start_info(bl);
	if (err)
		return err;
	return check_layout(bl);
}

static int link_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct bus_link *bl;
	int err;

	bl = devm_kzalloc(&pdev->dev, sizeof(*bl), GFP_KERNEL);
	if (!bl)
		return -ENOMEM;
	bl->pdev = pdev;
	bl->link.dev = &pdev->dev;
	pci_set_drvdata(pdev, bl);

	err = map_device(bl);
	if (err)
		return err;
	err = grants_start(bl);
	if (err)
		return err;
	err = events_start(bl);
	if (err)
		goto out_grants;
	err = store_start(bl);
	if (err)
		goto out_events;
	err = devices_start(bl);
	if (err)
		goto out_store;
	dev_info(&pdev->dev, "link to domain %u: %u frames, %u vectors\n",
		 bl->link.remote_domid, bl->link.nr_frames,
		 bl->events.nr_vectors);
	return 0;

out_store:
	store_stop(bl);
out_events:
	events_stop(bl);
out_grants:
	grants_stop(bl);
	return err;
}

static void link_remove(struct pci_dev *pdev)
{
	struct bus_link *bl = pci_get_drvdata(pdev);

	devices_stop(bl);
	store_stop(bl);
	events_stop(bl);
	grants_stop(bl);
}

static const struct pci_device_id link_ids[] = {
	{ PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE) },
	{}
};
MODULE_DEVICE_TABLE(pci, link_ids);

static struct pci_driver link_driver = {
	.name = "pvbus",
	.id_table = link_ids,
	.probe = link_probe,
	.remove = link_remove,
};

static int __init pvbus_init(void)
{
	int err;

	idle_start();
	err = bus_register(&pvbus_bus_type);
	if (err)
		goto out_idle;
	err = pci_register_driver(&link_driver);
	if (!err)
		return 0;
	bus_unregister(&pvbus_bus_type);
out_idle:
	idle_stop();
	return err;
}
module_init(pvbus_init);

static void __exit pvbus_exit(void)
{
	pci_unregister_driver(&link_driver);
	bus_unregister(&pvbus_bus_type);
	idle_stop();
}
module_exit(pvbus_exit);

MODULE_DESCRIPTION("Xen's split-driver bus over an ivshmem link");
MODULE_LICENSE("GPL");
