// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to serve requests, for each ring: the file "statistics" of the
 * device on the bus, one "queue-N/name value" in a line.
 */
#include <linux/device.h>
#include <linux/sysfs.h>
#include "blkback.h"

static ssize_t statistics_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	const struct blkback *bb = dev_get_drvdata(dev);
	u32 i, nr = READ_ONCE(bb->nr_rings);
	int at = 0;

	for (i = 0; i < nr; i++) {
		const struct blkback_ring *ring = &bb->rings[i];

		at = ring_counts_emit(&ring->counts, i, buf, at);
		at += sysfs_emit_at(buf, at, "queue-%u/grants-kept %u\n", i,
				    READ_ONCE(ring->nr_kept));
	}
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
