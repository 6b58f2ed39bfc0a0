// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI driver of a link: brings up everything that lives in its region, and
 * takes it down.
 */
#include <linux/module.h>
#include <linux/string.h>
#include <asm/cpufeature.h>
#include <asm/processor.h>
#include "bus.h"

#define IVSHMEM_VENDOR		0x1af4
#define IVSHMEM_DEVICE		0x1110
#define IVSHMEM_BAR_REGS	0

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
	err = link_read_info(bl);
	if (err)
		return err;
	err = region_map(bl);
	if (err)
		return err;
	err = link_read_start_info(bl);
	if (err)
		return err;
	err = identity_check_slot(bl);
	if (err)
		return err;
	return link_check_layout(bl);
}

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
