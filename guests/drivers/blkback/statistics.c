// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to serve requests, for each ring: the file "statistics" of the
 * device on the bus, one "queue-N/name value" in a line.
 */
#include <linux/device.h>
#include <linux/sysfs.h>
#include "blkback.h"

static int show_ring(const struct blkback_ring *ring, char *buf, int at)
{
	const struct blkback_counts *c = &ring->counts;
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
		{ "grants-kept", READ_ONCE(ring->nr_kept) },
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
	const struct blkback *bb = dev_get_drvdata(dev);
	u32 i, nr = READ_ONCE(bb->nr_rings);
	int at = 0;

	for (i = 0; i < nr; i++)
		at = show_ring(&bb->rings[i], buf, at);
	return at;
}
static DEVICE_ATTR_RO(statistics);

static struct attribute *blkback_attrs[] = {
	&dev_attr_statistics.attr,
	NULL,
};

static const struct attribute_group blkback_group = {
	.attrs = blkback_attrs,
};

const struct attribute_group *blkback_groups[] = {
	&blkback_group,
	NULL,
};
