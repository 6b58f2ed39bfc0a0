// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the two ends, and the toolstack, tell each other through XenStore. A
 * number that is none, or out of its range, costs the device: nobody guesses.
 */

#include <linux/cpumask.h>
#include <linux/slab.h>
#include "netback.h"

/* The nodes below @dir. The first thing that is wrong is reported, and kept. */
struct netback_reader {
	struct netback *vif;
	const char *dir;
	int err;
};

static void netback_complain(struct netback_reader *r, const char *node,
			     int err)
{
	pvbus_dev_fatal(r->vif->dev, err, "reading %s/%s", r->dir, node);
	r->err = err;
}

/* A number from @min to @max; @fallback, if not NULL, when there is no node. */
static u32 netback_number(struct netback_reader *r, const char *node, u32 min,
			  u32 max, const u32 *fallback)
{
	char *text;
	u32 value;
	int err;

	if (r->err)
		return min;
	text = pvbus_read(r->vif->link, PVBUS_NIL, r->dir, node, NULL);
	if (IS_ERR(text)) {
		if (PTR_ERR(text) == -ENOENT && fallback)
			return *fallback;
		netback_complain(r, node, PTR_ERR(text));
		return min;
	}
	err = kstrtouint(text, 10, &value);
	kfree(text);
	if (!err && (value < min || value > max))
		err = -ERANGE;
	if (err) {
		netback_complain(r, node, err);
		return min;
	}
	return value;
}

static bool netback_flag(struct netback_reader *r, const char *node,
			 u32 fallback)
{
	return netback_number(r, node, 0, 1, &fallback);
}

/* ---- what is offered --------------------------------------------------- */

/* The MTU that the toolstack gives the guest; without scatter-gather, a packet
 * is one frame.
 */
static u32 netback_read_mtu(struct netback *vif, bool sg, int *err)
{
	struct netback_reader r = { .vif = vif, .dir = vif->dev->otherend };
	const u32 usual = ETH_DATA_LEN;
	u32 mtu = netback_number(&r, "mtu", ETH_MIN_MTU, NETBACK_MAX_MTU,
				 &usual);

	*err = r.err;
	return sg ? mtu : min(mtu, usual);
}

int netback_read_offers(struct netback *vif)
{
	struct netback_reader r = { .vif = vif, .dir = vif->dev->nodename };
	struct netback_offers *offers = &vif->offers;
	const u32 all = NETBACK_MAX_QUEUES;
	int err;

	offers->sg = netback_flag(&r, "sg-enable", 1);
	offers->gso_tcpv4 = netback_flag(&r, "gso-tcpv4-enable", 1);
	offers->gso_tcpv6 = netback_flag(&r, "gso-tcpv6-enable", 1);
	offers->csum = netback_flag(&r, "csum-offload-enable", 1);
	offers->ipv6_csum = netback_flag(&r, "ipv6-csum-offload-enable", 1);
	offers->split_events =
		netback_flag(&r, "split-event-channels-enable", 1);
	offers->multicast = netback_flag(&r, "multicast-control-enable", 1);
	offers->queues = min(netback_number(&r, "queues-limit", 1, all, &all),
			     vif->max_queues);
	if (r.err)
		return r.err;
	offers->mtu = netback_read_mtu(vif, offers->sg, &err);
	vif->notification = pvbus_read_notification(vif->dev);
	return err;
}

struct netback_node {
	const char *name;
	u32 value;
};

static int netback_write_nodes(struct netback *vif, struct pvbus_transaction t)
{
	const struct netback_offers *offers = &vif->offers;
	const struct netback_node nodes[] = {
		{ "feature-rx-copy", 1 },
		{ "feature-rx-flip", 0 },
		{ "feature-sg", offers->sg },
		{ "feature-gso-tcpv4", offers->gso_tcpv4 },
		{ "feature-gso-tcpv6", offers->gso_tcpv6 },
		{ "feature-no-csum-offload", !offers->csum },
		{ "feature-ipv6-csum-offload", offers->ipv6_csum },
		{ "feature-split-event-channels", offers->split_events },
		{ "feature-multicast-control", offers->multicast },
		{ "feature-dynamic-multicast-control", offers->multicast },
		{ "multi-queue-max-queues", offers->queues },
		{ "mtu", offers->mtu },
	};
	int err = 0;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(nodes) && !err; i++)
		err = pvbus_printf(vif->link, t, vif->dev->nodename,
				   nodes[i].name, "%u", nodes[i].value);
	return err;
}

/* Not when the toolstack has removed the device: that would bring it back. */
static int netback_try_publish(struct netback *vif)
{
	struct pvbus_transaction t;
	int err, end;

	err = pvbus_transaction_start(vif->link, &t);
	if (err)
		return err;
	if (pvbus_exists(vif->link, t, vif->dev->nodename, "state"))
		err = netback_write_nodes(vif, t);
	end = pvbus_transaction_end(vif->link, t, err);
	return err ?: end;
}

int netback_publish(struct netback *vif)
{
	int err;

	do {
		err = netback_try_publish(vif);
	} while (err == -EAGAIN);
	return err;
}

/* ---- what the frontend takes ------------------------------------------- */

/* What is off here is off for the guest, too, whatever it says. */
static netdev_features_t netback_read_taken(struct netback_reader *r)
{
	const struct netback_offers *offers = &r->vif->offers;
	netdev_features_t taken = 0;

	if (netback_flag(r, "feature-sg", 0) && offers->sg)
		taken |= NETIF_F_SG;
	if (!netback_flag(r, "feature-no-csum-offload", 0) && offers->csum)
		taken |= NETIF_F_IP_CSUM;
	if (netback_flag(r, "feature-ipv6-csum-offload", 0) &&
	    offers->ipv6_csum)
		taken |= NETIF_F_IPV6_CSUM;
	/* The stack sees to it that there are no segments without these. */
	if (netback_flag(r, "feature-gso-tcpv4", 0) && offers->gso_tcpv4)
		taken |= NETIF_F_TSO;
	if (netback_flag(r, "feature-gso-tcpv6", 0) && offers->gso_tcpv6)
		taken |= NETIF_F_TSO6;
	return taken;
}

int netback_read_frontend(struct netback *vif, u32 *nr_queues)
{
	struct netback_reader r = { .vif = vif, .dir = vif->dev->otherend };
	const u32 one = 1;

	if (!netback_flag(&r, "request-rx-copy", 0) && !r.err) {
		pvbus_dev_fatal(vif->dev, -EOPNOTSUPP,
				"%s/request-rx-copy is not 1: packets are only copied here",
				r.dir);
		return -EOPNOTSUPP;
	}
	*nr_queues = netback_number(&r, "multi-queue-num-queues", 1,
				    vif->offers.queues, &one);
	vif->taken = netback_read_taken(&r);
	return r.err;
}

static void netback_read_ports(struct netback_reader *r,
			       struct netback_place *place)
{
	struct netback *vif = r->vif;

	if (!vif->offers.split_events ||
	    pvbus_exists(vif->link, PVBUS_NIL, r->dir, "event-channel")) {
		place->tx_port = netback_number(r, "event-channel", 0, U32_MAX,
						NULL);
		place->rx_port = place->tx_port;
		return;
	}
	place->tx_port = netback_number(r, "event-channel-tx", 0, U32_MAX,
					NULL);
	place->rx_port = netback_number(r, "event-channel-rx", 0, U32_MAX,
					NULL);
}

/* One queue alone is described as if there were no such thing as queues. */
int netback_read_place(struct netback *vif, u32 queue, u32 nr_queues,
		       struct netback_place *place)
{
	struct netback_reader r = { .vif = vif, .dir = vif->dev->otherend };
	char *dir = NULL;

	if (nr_queues > 1) {
		dir = kasprintf(GFP_KERNEL, "%s/queue-%u", r.dir, queue);
		if (!dir)
			return -ENOMEM;
		r.dir = dir;
	}
	place->tx_ref = netback_number(&r, "tx-ring-ref", 0, U32_MAX, NULL);
	place->rx_ref = netback_number(&r, "rx-ring-ref", 0, U32_MAX, NULL);
	netback_read_ports(&r, place);
	kfree(dir);
	return r.err;
}

/* ---- what changes while it is connected -------------------------------- */

bool netback_is_online(struct netback *vif)
{
	return pvbus_read_unsigned(vif->link, vif->dev->nodename, "online",
				   0) == 1;
}

/* Is our device where packets go to, as the toolstack says? */
bool netback_is_plugged(struct netback *vif)
{
	char *status = pvbus_read(vif->link, PVBUS_NIL, vif->dev->nodename,
				  "hotplug-status", NULL);
	bool plugged;

	if (IS_ERR(status))
		return false;
	plugged = !strcmp(status, "connected");
	kfree(status);
	return plugged;
}

bool netback_wants_filter(struct netback *vif)
{
	return vif->offers.multicast &&
	       pvbus_read_unsigned(vif->link, vif->dev->otherend,
				   "request-multicast-control", 0) == 1;
}
