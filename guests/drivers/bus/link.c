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
#define IVSHMEM_BAR_MEMORY	2

#define PORTS_FRAMES (LINK_PORTS * sizeof(struct link_port) / XEN_PAGE_SIZE)

DEFINE_MUTEX(links_lock);
LIST_HEAD(links);

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

/* Believe nothing of link info unchecked. */
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

/* Copy link info once; only the copy is looked at, except for what may change. */
static int read_link_info(struct bus_link *bl)
{
	void *frame = memremap(pci_resource_start(bl->pdev, IVSHMEM_BAR_MEMORY),
			       XEN_PAGE_SIZE, MEMREMAP_WB);

	if (!frame)
		return -ENOMEM;
	memcpy(&bl->info, frame + LINK_INFO_OFFSET, sizeof(bl->info));
	memunmap(frame);
	return check_link_info(bl);
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
	if (store ? bl->me != LINK_END_GRANTER : console) {
		dev_err(bl->link.dev, "start info: a store is the granter's, and a console comes with it\n");
		return -EINVAL;
	}
	return 0;
}

static int map_device(struct bus_link *bl)
{
	struct pci_dev *pdev = bl->pdev;
	int err;

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	if (pci_resource_len(pdev, IVSHMEM_BAR_MEMORY) < 2 * XEN_PAGE_SIZE)
		return -ENODEV;
	err = pcim_iomap_regions(pdev, BIT(IVSHMEM_BAR_REGS), "pvbus");
	if (err)
		return err;
	bl->link.regs = pcim_iomap_table(pdev)[IVSHMEM_BAR_REGS];
	bl->link.fence_by_mmio = runs_under_tcg();
	err = read_link_info(bl);
	if (err)
		return err;
	err = region_map(bl);
	if (err)
		return err;
	err = read_start_info(bl);
	if (err)
		return err;
	err = identity_check_slot(bl);
	if (err)
		return err;
	return check_layout(bl);
}

/* ---- links without a store --------------------------------------------- */

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

/*
 * Use the store of the first link. From now on, and for as long as both devices
 * are there, the driver core brings this one up after that one, and takes this
 * one down first.
 */
static int borrow_store(struct bus_link *bl)
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

/* ---- coming and going -------------------------------------------------- */

static int memory_start(struct bus_link *bl)
{
	return bl->me == LINK_END_GRANTER ? grants_start(bl) : maps_start(bl);
}

static void memory_stop(struct bus_link *bl)
{
	if (bl->me == LINK_END_GRANTER)
		grants_stop(bl);
	else
		maps_stop(bl);
}

static void list_link(struct bus_link *bl)
{
	mutex_lock(&links_lock);
	list_add_tail(&bl->list, &links);
	mutex_unlock(&links_lock);
}

static void unlist_link(struct bus_link *bl)
{
	mutex_lock(&links_lock);
	list_del(&bl->list);
	mutex_unlock(&links_lock);
}

/* What there is on a link besides its memory and events. */
static int users_start(struct bus_link *bl)
{
	int err;

	if (link_has_store(bl)) {
		err = store_start(bl);
		if (err)
			return err;
		err = discovery_start(bl);
		if (err) {
			store_stop(bl);
			return err;
		}
		bl->identity = LINK_KNOWN;
		link_say(bl);
	}
	list_link(bl);
	discovery_look(bl);
	return 0;
}

static void users_stop(struct bus_link *bl)
{
	unlist_link(bl);
	if (!link_has_store(bl)) {
		discovery_leave(bl);
		return;
	}
	discovery_stop(bl);
	store_stop(bl);
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
	if (!err && !link_has_store(bl))
		err = borrow_store(bl);
	if (err)
		return err;
	err = memory_start(bl);
	if (err)
		return err;
	err = events_start(bl);
	if (err)
		goto out_memory;
	err = users_start(bl);
	if (err)
		goto out_events;
	return 0;

out_events:
	events_stop(bl);
out_memory:
	memory_stop(bl);
	return err;
}

static void link_remove(struct pci_dev *pdev)
{
	struct bus_link *bl = pci_get_drvdata(pdev);

	users_stop(bl);
	events_stop(bl);
	memory_stop(bl);
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
