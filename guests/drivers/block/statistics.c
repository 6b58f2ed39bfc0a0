// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to move requests, for each queue: the file "statistics" of the
 * device on the bus, one "queue-N/name value" in a line.
 */
#include <linux/device.h>
#include <linux/sysfs.h>
#include "pvblk.h"

static int show_ring(const struct pvblk_ring *ring, char *buf, int at)
{
	const struct pvblk_counts *c = &ring->counts;
	const struct {
		const char *name;
		u64 value;
	} rows[] = {
		{ "requests", c->requests },
		{ "doorbells", c->doorbells },
		{ "interrupts", c->interrupts },
		{ "polls-found", c->polls_found },
		{ "spins", c->spins },
		{ "spins-in-vain", c->spins_in_vain },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		at += sysfs_emit_at(buf, at, "queue-%u/%s %llu\n", ring->index,
				    rows[i].name, rows[i].value);
	return at;
}

static ssize_t statistics_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	const struct pvblk *info = dev_get_drvdata(dev);
	u32 i, nr = READ_ONCE(info->nr_rings);
	int at = 0;

	for (i = 0; i < nr; i++)
		at = show_ring(&info->rings[i], buf, at);
	return at;
}
static DEVICE_ATTR_RO(statistics);

static struct attribute *pvblk_attrs[] = {
	&dev_attr_statistics.attr,
	NULL,
};

static const struct attribute_group pvblk_group = {
	.attrs = pvblk_attrs,
};

const struct attribute_group *pvblk_groups[] = {
	&pvblk_group,
	NULL,
};
