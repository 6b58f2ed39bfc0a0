// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the two ends tell each other through XenStore. A feature that concerns
 * packets in both directions is used, and asked for, only if the backend has it:
 * so whoever switches it off there has switched it off.
 */

#include <linux/etherdevice.h>
#include "pvnet.h"

static bool pvnet_backend_has(struct pvnet *np, const char *feature)
{
	return pvbus_read_unsigned(np->link, np->dev->otherend, feature, 0);
}

int pvnet_read_offers(struct pvnet *np)
{
	const char *backend = np->dev->otherend;

	if (!pvnet_backend_has(np, "feature-rx-copy")) {
		pvbus_dev_fatal(np->dev, -EOPNOTSUPP, "%s has no feature-rx-copy",
				backend);
		return -EOPNOTSUPP;
	}
	np->offers = 0;
	if (pvnet_backend_has(np, "feature-sg"))
		np->offers |= NETIF_F_SG;
	if (!pvnet_backend_has(np, "feature-no-csum-offload"))
		np->offers |= NETIF_F_IP_CSUM;
	if (pvnet_backend_has(np, "feature-ipv6-csum-offload"))
		np->offers |= NETIF_F_IPV6_CSUM;
	if (pvnet_backend_has(np, "feature-gso-tcpv4"))
		np->offers |= NETIF_F_TSO;
	if (pvnet_backend_has(np, "feature-gso-tcpv6"))
		np->offers |= NETIF_F_TSO6;
	np->split_events = pvnet_backend_has(np,
					     "feature-split-event-channels");
	np->filter_dynamic =
		pvnet_backend_has(np, "feature-dynamic-multicast-control");
	np->filter = pvnet_backend_has(np, "feature-multicast-control");
	np->offered_queues = pvbus_read_unsigned(np->link, backend,
						 "multi-queue-max-queues", 0);
	np->offered_mtu = pvbus_read_unsigned(np->link, backend, "mtu", 0);
	np->trusted = pvbus_read_unsigned(np->link, np->dev->nodename,
					  "trusted", 1);
	return 0;
}

struct pvnet_node {
	const char *name;
	u32 value;
};

static int pvnet_write(struct pvnet *np, struct pvbus_transaction t,
		       const char *dir, const struct pvnet_node *nodes,
		       size_t nr)
{
	int err = 0;

	for (; nr && !err; nr--, nodes++)
		err = pvbus_printf(np->link, t, dir, nodes->name, "%u",
				   nodes->value);
	return err;
}

/* Nodes of an earlier connection, which may have been another kind. */
static int pvnet_remove_old(struct pvnet *np, struct pvbus_transaction t)
{
	static const char * const nodes[] = {
		"tx-ring-ref", "rx-ring-ref", "event-channel",
		"event-channel-tx", "event-channel-rx",
		"multi-queue-num-queues", "request-multicast-control",
	};
	char name[16];
	int err = 0;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(nodes) && !err; i++)
		err = pvbus_rm(np->link, t, np->dev->nodename, nodes[i]);
	for (i = 0; i < np->max_queues && !err; i++) {
		snprintf(name, sizeof(name), "queue-%u", i);
		err = pvbus_rm(np->link, t, np->dev->nodename, name);
	}
	return err;
}

/* One queue alone is described as if there were no such thing as queues. */
static int pvnet_write_queue(struct pvnet *np, struct pvbus_transaction t,
			     const struct pvnet_queue *q)
{
	const struct pvnet_node nodes[] = {
		{ "tx-ring-ref", q->tx.page.ref },
		{ "rx-ring-ref", q->rx.page.ref },
		{ np->split_events ? "event-channel-tx" : "event-channel",
		  q->tx.port },
		{ "event-channel-rx", q->rx.port },
	};
	size_t nr = ARRAY_SIZE(nodes) - !np->split_events;
	char *dir;
	int err;

	if (np->nr_queues == 1)
		return pvnet_write(np, t, np->dev->nodename, nodes, nr);
	dir = kasprintf(GFP_KERNEL, "%s/queue-%u", np->dev->nodename, q->index);
	if (!dir)
		return -ENOMEM;
	err = pvnet_write(np, t, dir, nodes, nr);
	kfree(dir);
	return err;
}

static int pvnet_write_nodes(struct pvnet *np, struct pvbus_transaction t)
{
	const struct pvnet_node nodes[] = {
		{ "request-rx-copy", 1 },
		{ "feature-rx-notify", 1 },
		/* not in netif.h: the pools stay granted, so may stay mapped */
		{ "feature-persistent", 1 },
		{ "feature-sg", !!(np->offers & NETIF_F_SG) },
		{ "feature-gso-tcpv4", !!(np->offers & NETIF_F_TSO) },
		{ "feature-gso-tcpv6", !!(np->offers & NETIF_F_TSO6) },
		{ "feature-no-csum-offload", !(np->offers & NETIF_F_IP_CSUM) },
		{ "feature-ipv6-csum-offload",
		  !!(np->offers & NETIF_F_IPV6_CSUM) },
	};
	const struct pvnet_node queues = {
		"multi-queue-num-queues", np->nr_queues
	};
	const struct pvnet_node filter = {
		"request-multicast-control", np->filter_asked
	};
	const char *dir = np->dev->nodename;
	int err = 0;
	u32 i;

	if (np->published)
		err = pvnet_remove_old(np, t);
	err = err ?: pvnet_write(np, t, dir, nodes, ARRAY_SIZE(nodes));
	if (!err && np->offered_queues)
		err = pvnet_write(np, t, dir, &queues, 1);
	if (!err && np->filter)
		err = pvnet_write(np, t, dir, &filter, 1);
	for (i = 0; i < np->nr_queues && !err; i++)
		err = pvnet_write_queue(np, t, &np->queues[i]);
	return err;
}

int pvnet_publish(struct pvnet *np)
{
	struct pvbus_transaction t;
	int err, end;

	np->filter_asked = np->filter && pvnet_filter_wanted(np);
	do {
		err = pvbus_transaction_start(np->link, &t);
		if (err)
			return err;
		err = pvnet_write_nodes(np, t);
		end = pvbus_transaction_end(np->link, t, err);
	} while (!err && end == -EAGAIN);
	np->published = true;
	return err ?: end;
}
