// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counters, as ethtool -S shows them and as a file in sysfs.
 */

#include <linux/ethtool.h>
#include <linux/etherdevice.h>
#include "pvnet.h"

#define COUNTER(_name, _field) \
	{ _name, offsetof(struct pvnet_queue, _field) }

static const struct {
	const char *name;
	size_t offset;
} pvnet_counters[] = {
	COUNTER("rx_packets", rx.stats.packets),
	COUNTER("rx_bytes", rx.stats.bytes),
	COUNTER("rx_multicast", rx.stats.multicast),
	COUNTER("rx_dropped", rx.stats.dropped),
	COUNTER("rx_errors", rx.stats.errors),
	COUNTER("rx_doorbells", rx.stats.doorbells),
	COUNTER("rx_interrupts", events.rx),
	COUNTER("rx_polls", rx.stats.polls),
	COUNTER("rx_frames_lent", rx.stats.lent),
	COUNTER("rx_frames_copied", rx.stats.copied),
	COUNTER("tx_packets", tx.stats.packets),
	COUNTER("tx_bytes", tx.stats.bytes),
	COUNTER("tx_dropped", tx.stats.dropped),
	COUNTER("tx_errors", tx.stats.errors),
	COUNTER("tx_doorbells", tx.stats.doorbells),
	COUNTER("tx_interrupts", events.tx),
	COUNTER("tx_stops", tx.stats.stops),
	COUNTER("idle_found", events.idle),
};

static u64 pvnet_counter(const struct pvnet_queue *q, u32 i)
{
	return READ_ONCE(*(const u64 *)((const u8 *)q +
					pvnet_counters[i].offset));
}

static int pvnet_get_sset_count(struct net_device *netdev, int set)
{
	struct pvnet *np = netdev_priv(netdev);

	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return np->max_queues * ARRAY_SIZE(pvnet_counters);
}

static void pvnet_get_strings(struct net_device *netdev, u32 set, u8 *data)
{
	struct pvnet *np = netdev_priv(netdev);
	u32 queue, i;

	for (queue = 0; queue < np->max_queues; queue++)
		for (i = 0; i < ARRAY_SIZE(pvnet_counters); i++)
			ethtool_sprintf(&data, "queue_%u_%s", queue,
					pvnet_counters[i].name);
}

static void pvnet_get_stats(struct net_device *netdev,
			    struct ethtool_stats *stats, u64 *data)
{
	struct pvnet *np = netdev_priv(netdev);
	u32 queue, i;

	for (queue = 0; queue < np->max_queues; queue++)
		for (i = 0; i < ARRAY_SIZE(pvnet_counters); i++)
			*data++ = pvnet_counter(&np->queues[queue], i);
}

static void pvnet_get_channels(struct net_device *netdev,
			       struct ethtool_channels *channels)
{
	struct pvnet *np = netdev_priv(netdev);

	channels->max_combined = np->max_queues;
	channels->combined_count = np->nr_queues;
}

const struct ethtool_ops pvnet_ethtool_ops = {
	.get_link		= ethtool_op_get_link,
	.get_ts_info		= ethtool_op_get_ts_info,
	.get_sset_count		= pvnet_get_sset_count,
	.get_strings		= pvnet_get_strings,
	.get_ethtool_stats	= pvnet_get_stats,
	.get_channels		= pvnet_get_channels,
};

/* A counter as a file name has it: with dashes. */
static int pvnet_emit(char *buf, int at, u32 queue, u32 i, u64 value)
{
	int start = at + sysfs_emit_at(buf, at, "queue-%u/", queue);
	int end = start + sysfs_emit_at(buf, start, "%s", pvnet_counters[i].name);

	strreplace(buf + start, '_', '-');
	return end + sysfs_emit_at(buf, end, " %llu\n", value) - at;
}

/* "queue-N/counter value", a line each. */
static ssize_t statistics_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	struct pvnet *np = dev_get_drvdata(dev);
	u32 queue, i;
	int at = 0;

	for (queue = 0; queue < np->nr_queues; queue++)
		for (i = 0; i < ARRAY_SIZE(pvnet_counters); i++)
			at += pvnet_emit(buf, at, queue, i,
					 pvnet_counter(&np->queues[queue], i));
	return at;
}
static DEVICE_ATTR_RO(statistics);

static struct attribute *pvnet_attrs[] = {
	&dev_attr_statistics.attr,
	NULL
};

static const struct attribute_group pvnet_group = {
	.attrs = pvnet_attrs,
};

const struct attribute_group *pvnet_groups[] = {
	&pvnet_group,
	NULL
};
