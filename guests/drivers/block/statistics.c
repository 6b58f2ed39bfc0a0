// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to move requests, for each queue: the file "statistics" of the
 * device on the bus, one "queue-N/name value" in a line.
 */
#include <linux/device.h>
#include <linux/sysfs.h>
#include "pvblk.h"

static ssize_t statistics_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	const struct pvblk *info = dev_get_drvdata(dev);
	u32 i, nr = READ_ONCE(info->nr_rings);
	int at = 0;

	for (i = 0; i < nr; i++)
		at = ring_counts_emit(&info->rings[i].counts, i, buf, at);
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
