/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A network backend for a driver domain: it speaks netif.h over a link to the
 * frontend in another domain, and is a network device "vifDOMID.HANDLE" here,
 * to be put on a bridge. back.c follows the XenBus states, nodes.c agrees on
 * features through XenStore, vif.c and ethtool.c are the device that Linux
 * sees, queue.c has rings, events and NAPI, txread.c reads requests off the
 * transmit ring and tx.c makes packets of them, rx.c hands packets to the
 * guest, filter.c knows which multicast packets it wants.
 *
 * "Transmit" and "receive" are the frontend's, as in netif.h: its transmit ring
 * is what the device here receives from.
 *
 * All that the guest can write is hostile. Ring entries are copied once, and
 * judged and used in that copy; a packet's bytes are copied before anybody
 * looks at them. What breaks the protocol costs the guest its device, and
 * nobody else anything.
 *
 * Locks: a receive ring belongs to the holder of its queue's transmit lock, a
 * transmit ring to whoever runs its NAPI, connecting and parting to the mutex
 * of the vif, and what the network stack sees of that to RTNL, taken inside it.
 */
#ifndef _NETBACK_H
#define _NETBACK_H

#include <linux/etherdevice.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <xen/interface/io/netif.h>
#include "link_ring.h"
#include "pvback.h"

#define NETBACK_MAX_QUEUES	8

/* A packet of more slots than XEN_NETIF_NR_SLOTS_MIN is refused; whoever sends
 * one of more than this is taken to be broken.
 */
#define NETBACK_FATAL_SLOTS	20
#define NETBACK_MAX_EXTRAS	5

#define NETBACK_MAX_ADDRESSES	64

/* Bytes at a time from which on it is a transfer and no conversation. */
#define NETBACK_BULK		XEN_PAGE_SIZE

/* The largest packet as the stack counts it. */
#define NETBACK_MAX_MTU		(XEN_NETIF_MAX_TX_SIZE - ETH_HLEN)

/* What the frontend may take off us, or not. */
#define NETBACK_OFFLOADS (NETIF_F_SG | NETIF_F_IP_CSUM | NETIF_F_IPV6_CSUM | \
			  NETIF_F_TSO | NETIF_F_TSO6)

/* Each has one writer at a time, and 64 bits are read whole. */
struct netback_stats {
	u64 packets, bytes, dropped, errors;
	u64 doorbells;		/* notifications sent */
	u64 interrupts;		/* by port; "rx" when they are one */
	u64 stops;		/* the guest offered no frames */
};

struct netback_tx {
	struct xen_netif_tx_back_ring ring;
	struct link_map page;		/* the ring's; addr NULL: none */
	struct page_frag frag;		/* private memory for large packets */
	u32 port;
	struct netback_stats stats;
};

struct netback_rx {
	struct xen_netif_rx_back_ring ring;
	struct link_map page;
	struct sk_buff *waiting;	/* no frames for it yet */
	u32 needed;			/* ... by so many; 0: nothing waits */
	unsigned long until;		/* ... and for so long, in jiffies */
	bool stalled;			/* no frames for long: all is dropped */
	struct delayed_work stall;
	u32 port;
	struct netback_stats stats;
};

/*
 * What this end asked to be notified of. While somebody looks at the rings all
 * the time, it asks for nothing, and remembers what it would have asked for.
 */
struct netback_wishes {
	spinlock_t lock;
	bool quiet;
	bool tx;			/* of the next request; NAPI is done */
	bool rx;			/* of request rx_at; a packet waits */
	u32 rx_at;
};

struct netback_queue {
	struct netback *vif;
	u32 index;
	struct napi_struct napi;	/* enabled when connected and up */
	struct netback_tx tx;
	struct netback_rx rx;
	struct netback_wishes wishes;
	struct link_poller poller;	/* has a link while it is in use */
	u64 found_idle;
	char name[32];
};

/* The multicast addresses that the guest wants packets for. */
struct netback_filter {
	spinlock_t lock;
	bool active;			/* apply it; it changes before that */
	u32 nr;
	u8 addr[NETBACK_MAX_ADDRESSES][ETH_ALEN];
};

/* What the toolstack lets the guest use. */
struct netback_offers {
	bool sg, gso_tcpv4, gso_tcpv6, csum, ipv6_csum;
	bool split_events, multicast;
	u32 queues, mtu;
};

struct netback {
	struct net_device *netdev;
	struct pvbus_device *dev;
	struct link *link;
	struct netback_queue *queues;	/* max_queues, the first nr_queues used */
	u32 max_queues;
	u32 nr_queues;			/* the frontend's that are set up */
	struct netback_offers offers;
	netdev_features_t taken;	/* of NETBACK_OFFLOADS, by the guest */
	enum link_notification notification;
	struct netback_filter filter;

	struct mutex lock;
	bool connected;			/* the rings are served */
	bool orphaned;			/* the guest is still another's */
	bool broken;			/* the guest broke the protocol */
	const char *broken_by;
	struct work_struct report;
	spinlock_t carrier_lock;

	struct pvbus_watch hotplug_watch;
	struct pvbus_watch filter_watch;
	char *hotplug_node;
	char *filter_node;
};

/* ---- back.c ---- */

/* Stop serving the guest, because it sent @what. Any context. */
void netback_break(struct netback *vif, const char *what);

/* ---- nodes.c ---- */

/* Read what the toolstack lets the guest use. Reports its own errors. */
int netback_read_offers(struct netback *vif);
/* Tell the frontend what there is. */
int netback_publish(struct netback *vif);

/* Where the frontend has a queue. */
struct netback_place {
	u32 tx_ref, rx_ref;
	u32 tx_port, rx_port;		/* the same: one port for both */
};

/* How many queues the frontend has, and what it takes. Reports its errors. */
int netback_read_frontend(struct netback *vif, u32 *nr_queues);
int netback_read_place(struct netback *vif, u32 queue, u32 nr_queues,
		       struct netback_place *place);

bool netback_is_online(struct netback *vif);
bool netback_is_plugged(struct netback *vif);
bool netback_wants_filter(struct netback *vif);

/* ---- queue.c ---- */

/* Attach to @nr of the frontend's queues. Reports its own errors. */
int netback_setup_queues(struct netback *vif, u32 nr);
/* Give everything back; nothing of it may be in use any more. */
void netback_teardown_queues(struct netback *vif);
/* No handler runs and none will after this; the rings stay. */
void netback_silence(struct netback *vif);

void netback_enable_napi(struct netback *vif);
void netback_disable_napi(struct netback *vif);
int netback_poll(struct napi_struct *napi, int budget);
/* Look at the rings without having been called. */
void netback_kick(struct netback *vif);

/*
 * Ask for an event at the next tx request, or when there are @needed rx
 * requests; returns how many wait already. Forget: nothing is waited for.
 */
u32 netback_wish_tx(struct netback_queue *q);
void netback_forget_tx(struct netback_queue *q);
u32 netback_wish_rx(struct netback_queue *q, u32 needed);
void netback_forget_rx(struct netback_queue *q);

/* While we are here: has the guest sent anything? */
void netback_glance(struct netback_queue *q);

static inline struct netdev_queue *netback_txq(struct netback_queue *q)
{
	return netdev_get_tx_queue(q->vif->netdev, q->index);
}

/* ---- vif.c, ethtool.c ---- */

/* A network device that is not registered yet. Or ERR_PTR; it was reported. */
struct net_device *netback_create(struct pvbus_device *dev);
void netback_destroy(struct netback *vif);
/* The cable is pulled while the guest takes nothing on one of its queues. */
void netback_update_carrier(struct netback *vif);

extern const struct ethtool_ops netback_ethtool_ops;

/* ---- txread.c ---- */

/* One packet as the ring describes it. */
struct netback_tx_packet {
	u32 entries;		/* of the ring that it takes */
	u32 extras;		/* ... of those that are extra info */
	u32 nr;			/* ... and that have data */
	u16 flags;		/* of its first entry */
	u32 len;		/* of the whole packet, as its first entry says */
	bool multicast;		/* it changes the filter, and has no data */
	bool wrong;		/* it is refused */
	u16 gso_size;		/* 0: it is not to be segmented */
	u8 gso_type;
	/* sizes are those of the parts, also the first one's */
	struct xen_netif_tx_request part[NETBACK_FATAL_SLOTS];
	struct xen_netif_extra_info extra[NETBACK_MAX_EXTRAS];
};

/*
 * Read the next packet off the ring. NULL, or what is so wrong that the guest
 * cannot be served any more.
 */
const char *netback_tx_read(struct netback_tx *tx, struct netback_tx_packet *p);

/* ---- tx.c ---- */

/* Take up to @budget packets off the ring; returns how many there were. */
int netback_tx_poll(struct netback_queue *q, int budget);

/* ---- rx.c ---- */

netdev_tx_t netback_start_xmit(struct sk_buff *skb, struct net_device *netdev);
void netback_rx_init(struct netback_queue *q);
/* Hand over what waits, if there are frames for it now. */
void netback_rx_poll(struct netback_queue *q);
/* Drop what waits; nobody transmits any more. */
void netback_rx_flush(struct netback_queue *q);

/* ---- filter.c ---- */

/* Does the guest want a packet to this address? */
bool netback_filter_passes(struct netback_filter *filter, const u8 *addr);
/* Change the list as the guest says; false: it is full, or no such address. */
bool netback_filter_change(struct netback_filter *filter,
			   const struct xen_netif_extra_info *extra);
void netback_filter_clear(struct netback_filter *filter);

#endif /* _NETBACK_H */
