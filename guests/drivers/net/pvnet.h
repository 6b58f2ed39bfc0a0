/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A network frontend that speaks netif.h over a link.
 *
 * The other end can only reach frames of the link, so packets are copied: out of
 * sk_buffs into a pool of granted frames, and from a second pool into sk_buffs.
 * Both pools are granted once, for as long as the device is connected. A packet
 * that is to be sent is finished with when it has been copied; only its frames
 * wait for the backend's answer.
 *
 * Locks: the transmit side belongs to the holder of the transmit queue's lock,
 * the receive side to whoever runs NAPI, the rest to RTNL.
 */
#ifndef _PVNET_H
#define _PVNET_H

#include <linux/netdevice.h>
#include <linux/workqueue.h>
#include <xen/interface/io/netif.h>
#include "link_ring.h"

/* Both rings have this many entries, and both pools as many frames. */
#define PVNET_SLOTS	__CONST_RING_SIZE(xen_netif_tx, XEN_PAGE_SIZE)

/* Requests that the backend has not answered: it owes no more answers. */
#define PVNET_IN_FLIGHT(_r)	((_r)->req_prod_pvt - (_r)->rsp_cons)

/* What the largest packet takes: its frames, and one entry for its GSO size. */
#define PVNET_TX_SLOTS \
	(DIV_ROUND_UP(XEN_NETIF_MAX_TX_SIZE, XEN_PAGE_SIZE) + 1)

/* What the backend may offer to take off the guest. */
#define PVNET_OFFLOADS (NETIF_F_SG | NETIF_F_IP_CSUM | NETIF_F_IPV6_CSUM | \
			NETIF_F_TSO | NETIF_F_TSO6)

/* What a request id of the transmit ring, and so its frame, is doing. */
enum pvnet_tx_use {
	PVNET_TX_FREE,
	PVNET_TX_FIRST,		/* holds the begin of a packet */
	PVNET_TX_REST,		/* holds more of the packet before it */
};

struct pvnet_tx {
	struct xen_netif_tx_front_ring ring;
	struct link_grant page;		/* the ring's */
	struct link_grant pool;		/* frame n goes with request id n */
	u8 use[PVNET_SLOTS];		/* enum pvnet_tx_use, by id */
	/* Free ids, oldest first: as long as the backend answers in order, the
	 * frames of a packet are adjacent, which spares it work.
	 */
	u8 free[PVNET_SLOTS];
	u32 free_head;			/* take here */
	u32 free_tail;			/* put here */
	u32 extras;			/* entries in flight that have no id */
	u32 port;
};

struct pvnet_rx {
	struct xen_netif_rx_front_ring ring;
	struct link_grant page;		/* the ring's */
	struct link_grant pool;		/* frame n goes with ring entry n */
	struct page_frag frag;		/* private memory for large packets */
	u32 port;
};

struct pvnet {
	struct net_device *netdev;
	struct pvbus_device *dev;
	struct link *link;
	struct napi_struct napi;	/* enabled when connected and up */
	struct pvnet_tx tx;
	struct pvnet_rx rx;
	netdev_features_t offers;	/* the backend's, of PVNET_OFFLOADS */
	bool split_events;		/* the backend takes a port per ring */
	bool connected;			/* the rings exist */
	bool broken;			/* the backend broke the protocol */
	const char *broken_by;
	struct work_struct report;
};

/* ---- front.c ---- */

/* Stop using the backend for good, because of @what. Any context. */
void pvnet_break(struct pvnet *np, const char *what);

/* ---- netdev.c ---- */

struct net_device *pvnet_create(struct pvbus_device *dev);
int pvnet_poll(struct napi_struct *napi, int budget);
void pvnet_kick(struct pvnet *np);

/* ---- tx.c ---- */

int pvnet_tx_setup(struct pvnet *np);
void pvnet_tx_teardown(struct pvnet *np);
netdev_tx_t pvnet_start_xmit(struct sk_buff *skb, struct net_device *netdev);
void pvnet_tx_poll(struct pvnet *np);

/* ---- rx.c ---- */

int pvnet_rx_setup(struct pvnet *np);
void pvnet_rx_teardown(struct pvnet *np);
int pvnet_rx_poll(struct pvnet *np, int budget);

#endif /* _PVNET_H */
