// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counters, as ethtool -S shows them. "tx" and "rx" are the rings, and so the
 * other way round than for the network device.
 */

#include <linux/ethtool.h>
#include "netback.h"

#define COUNTER(_name, _field) \
	{ _name, offsetof(struct netback_queue, _field) }

static const struct {
	const char *name;
	size_t offset;
} netback_counters[] = {
	COUNTER("tx_ring_packets", tx.stats.packets),
	COUNTER("tx_ring_bytes", tx.stats.bytes),
	COUNTER("tx_ring_errors", tx.stats.errors),
	COUNTER("tx_ring_doorbells", tx.stats.doorbells),
	COUNTER("tx_ring_interrupts", tx.stats.interrupts),
	COUNTER("rx_ring_packets", rx.stats.packets),
	COUNTER("rx_ring_bytes", rx.stats.bytes),
	COUNTER("rx_ring_dropped", rx.stats.dropped),
	COUNTER("rx_ring_errors", rx.stats.errors),
	COUNTER("rx_ring_doorbells", rx.stats.doorbells),
	COUNTER("rx_ring_interrupts", rx.stats.interrupts),
	COUNTER("rx_ring_stops", rx.stats.stops),
	COUNTER("idle_found", found_idle),
};

static int netback_get_sset_count(struct net_device *netdev, int set)
{
	struct netback *vif = netdev_priv(netdev);

	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return vif->max_queues * ARRAY_SIZE(netback_counters);
}

static void netback_get_strings(struct net_device *netdev, u32 set, u8 *data)
{
	struct netback *vif = netdev_priv(netdev);
	u32 queue, i;

	for (queue = 0; queue < vif->max_queues; queue++)
		for (i = 0; i < ARRAY_SIZE(netback_counters); i++)
			ethtool_sprintf(&data, "queue_%u_%s", queue,
					netback_counters[i].name);
}

static void netback_get_stats(struct net_device *netdev,
			      struct ethtool_stats *stats, u64 *data)
{
	struct netback *vif = netdev_priv(netdev);
	u32 queue, i;

	for (queue = 0; queue < vif->max_queues; queue++) {
		const u8 *q = (const u8 *)&vif->queues[queue];

		for (i = 0; i < ARRAY_SIZE(netback_counters); i++)
			*data++ = READ_ONCE(*(const u64 *)
					    (q + netback_counters[i].offset));
	}
}

static void netback_get_channels(struct net_device *netdev,
				 struct ethtool_channels *channels)
{
	struct netback *vif = netdev_priv(netdev);

	channels->max_combined = vif->max_queues;
	channels->combined_count = max(vif->nr_queues, 1u);
}

const struct ethtool_ops netback_ethtool_ops = {
	.get_link		= ethtool_op_get_link,
	.get_ts_info		= ethtool_op_get_ts_info,
	.get_sset_count		= netback_get_sset_count,
	.get_strings		= netback_get_strings,
	.get_ethtool_stats	= netback_get_stats,
	.get_channels		= netback_get_channels,
};
