/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A network frontend that speaks netif.h over a link: front.c follows the XenBus
 * states, nodes.c agrees on features through XenStore, queue.c has rings, events
 * and NAPI, tx.c and rx.c move packets, frames.c owns the memory that packets
 * are received in, filter.c keeps the backend's list of multicast addresses,
 * netdev.c and ethtool.c are the device that Linux sees.
 *
 * The other end can only reach frames of the link, so what is sent is copied to
 * a pool of granted frames. A packet that is to be sent is finished with when it
 * has been copied; only its frames wait for the backend's answer. What is
 * received is copied from a second pool, or handed to the stack where it is.
 * Both pools are granted once, for as long as the device is connected.
 *
 * Locks: a transmit ring belongs to the holder of its queue's lock, a receive
 * ring to whoever runs its NAPI, the rest to RTNL.
 */
#ifndef _PVNET_H
#define _PVNET_H

#include <linux/netdevice.h>
#include <linux/workqueue.h>
#include <xen/interface/io/netif.h>
#include "link_ring.h"

/* Both rings have this many entries, and the transmit pool as many frames. */
#define PVNET_SLOTS	__CONST_RING_SIZE(xen_netif_tx, XEN_PAGE_SIZE)

#define PVNET_MAX_QUEUES 8

/* Requests that the backend has not answered: it owes no more answers. */
#define PVNET_IN_FLIGHT(_r)	((_r)->req_prod_pvt - (_r)->rsp_cons)

/* What the largest packet takes: its frames, and one entry for its GSO size. */
#define PVNET_TX_SLOTS \
	(DIV_ROUND_UP(XEN_NETIF_MAX_TX_SIZE, XEN_PAGE_SIZE) + 1)

/* Bytes at a time from which on it is a transfer and no conversation. */
#define PVNET_BULK	XEN_PAGE_SIZE

/* The largest packet as the stack counts it. */
#define PVNET_MAX_MTU	(XEN_NETIF_MAX_TX_SIZE - ETH_HLEN)

/* What the backend may offer to take off the guest. */
#define PVNET_OFFLOADS (NETIF_F_SG | NETIF_F_IP_CSUM | NETIF_F_IPV6_CSUM | \
			NETIF_F_TSO | NETIF_F_TSO6)

/* What a request id of the transmit ring, and so its frame, is doing. */
enum pvnet_tx_use {
	PVNET_TX_FREE,
	PVNET_TX_FIRST,		/* holds the begin of a packet */
	PVNET_TX_REST,		/* holds more of the packet before it */
	PVNET_TX_FILTER,	/* announces a change of the multicast list */
};

/* Each group of counters has one writer at a time, and 64 bits are read whole. */
struct pvnet_tx_stats {
	u64 packets, bytes, dropped, errors;
	u64 doorbells;		/* notifications sent */
	u64 stops;		/* the ring was full */
};

struct pvnet_rx_stats {
	u64 packets, bytes, dropped, errors;
	u64 doorbells;
	u64 lent;		/* frames handed to the stack */
	u64 copied;		/* frames whose bytes were copied */
	u64 multicast;
	u64 polls;		/* runs of NAPI */
};

/* By handlers of events; those of two ports may run at once. */
struct pvnet_event_stats {
	u64 tx, rx;		/* interrupts by port, "rx" when they are one */
	u64 idle;		/* what the idle loop found before an interrupt */
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
	struct pvnet_tx_stats stats;
};

/*
 * Frames to receive in. Those that no ring entry offers wait in a queue, whether
 * the stack still reads them or not: the oldest are looked at when one is needed.
 */
struct pvnet_frames {
	struct link_grant pool;
	u16 *waiting;			/* nr_waiting of them, from head */
	u32 nr_waiting;
	u32 head;
	u16 offered[PVNET_SLOTS];	/* by each ring entry */
};

struct pvnet_rx {
	struct xen_netif_rx_front_ring ring;
	struct link_grant page;		/* the ring's */
	struct pvnet_frames frames;
	struct page_frag frag;		/* private memory for large packets */
	u32 port;
	struct pvnet_rx_stats stats;
};

/*
 * What this end asked to be notified of. While somebody looks at the rings all
 * the time, it asks for nothing, and remembers what it would have asked for.
 */
struct pvnet_wishes {
	spinlock_t lock;
	bool quiet;
	bool rx;			/* of the next response; NAPI is done */
	bool tx;			/* of response tx_at; the queue stopped */
	u32 tx_at;
};

struct pvnet_queue {
	struct pvnet *np;
	u32 index;
	struct napi_struct napi;	/* enabled when connected and up */
	struct pvnet_tx tx;
	struct pvnet_rx rx;
	struct pvnet_wishes wishes;
	struct link_poller poller;	/* has a link while it is in use */
	char name[32];
	struct pvnet_event_stats events;
};

struct pvnet {
	struct net_device *netdev;
	struct pvbus_device *dev;
	struct link *link;
	struct pvnet_queue *queues;	/* max_queues, the first nr_queues used */
	u32 max_queues;
	u32 nr_queues;
	/* The backend's offers. */
	netdev_features_t offers;	/* of PVNET_OFFLOADS */
	u32 offered_queues;		/* 0: it knows of one only */
	u32 offered_mtu;		/* 0: it does not say */
	bool split_events;		/* it takes a port per ring */
	bool filter;			/* it filters multicast */
	bool filter_dynamic;		/* ... and does so as told at any time */

	enum link_notification notification;
	bool trusted;			/* the stack may read what it can write */
	bool published;			/* once: there may be old nodes */
	bool connected;			/* the rings exist */
	bool broken;			/* the backend broke the protocol */
	const char *broken_by;
	struct work_struct report;

	struct work_struct filter_work;
	bool filter_refused;		/* the backend's list is full */
	bool filter_behind;		/* our ring was full: tell it later */
	bool filter_asked;		/* request-multicast-control, as written */
};

/* ---- front.c ---- */

/* Stop using the backend for good, because of @what. Any context. */
void pvnet_break(struct pvnet *np, const char *what);

/* ---- nodes.c ---- */

/* Read what the backend offers, into @np. Reports its own errors. */
int pvnet_read_offers(struct pvnet *np);

/* Tell the backend where the rings are. */
int pvnet_publish(struct pvnet *np);

/* ---- queue.c ---- */

int pvnet_setup_queues(struct pvnet *np);
void pvnet_teardown_queues(struct pvnet *np);
/* No handler runs and none will after this; the rings stay. */
void pvnet_silence(struct pvnet *np);

void pvnet_enable_napi(struct pvnet *np);
void pvnet_disable_napi(struct pvnet *np);
int pvnet_poll(struct napi_struct *napi, int budget);

/* Look at the rings without having been called. */
void pvnet_kick(struct pvnet *np);

/*
 * Ask for an event at the next rx response, or at tx response @ahead from here;
 * returns how many wait already. Forget: there is nothing to wait for.
 */
u32 pvnet_wish_rx(struct pvnet_queue *q);
void pvnet_forget_rx(struct pvnet_queue *q);
u32 pvnet_wish_tx(struct pvnet_queue *q, u32 ahead);
void pvnet_forget_tx(struct pvnet_queue *q);

/* While we are here: has anything been received? */
void pvnet_glance(struct pvnet_queue *q);

/* ---- netdev.c, ethtool.c ---- */

struct net_device *pvnet_create(struct pvbus_device *dev);
void pvnet_destroy(struct pvnet *np);

extern const struct ethtool_ops pvnet_ethtool_ops;
/* /sys/bus/pvbus/devices/DEVICE/statistics: the same numbers. */
extern const struct attribute_group *pvnet_groups[];

/* ---- filter.c ---- */

void pvnet_filter_init(struct pvnet *np);
void pvnet_set_rx_mode(struct net_device *netdev);
/* Both with RTNL: the backend knows no address, and there is none to tell. */
void pvnet_filter_start(struct pvnet *np);
void pvnet_filter_stop(struct pvnet *np);
/* May the backend drop what is not in its list? */
bool pvnet_filter_wanted(struct pvnet *np);

/* ---- tx.c ---- */

int pvnet_tx_setup(struct pvnet_queue *q);
void pvnet_tx_teardown(struct pvnet_queue *q);
netdev_tx_t pvnet_start_xmit(struct sk_buff *skb, struct net_device *netdev);
void pvnet_tx_poll(struct pvnet_queue *q);

/* The interface goes up: send, if the ring is not full from before. */
void pvnet_tx_resume(struct pvnet_queue *q);

/* Ask the backend to add @addr to its list, or to remove it. 0 or -ENOSPC. */
int pvnet_tx_filter(struct pvnet_queue *q, u8 type, const u8 *addr);

static inline struct netdev_queue *pvnet_txq(struct pvnet_queue *q)
{
	return netdev_get_tx_queue(q->np->netdev, q->index);
}

/* ---- rx.c ---- */

int pvnet_rx_setup(struct pvnet_queue *q);
void pvnet_rx_teardown(struct pvnet_queue *q);
int pvnet_rx_poll(struct pvnet_queue *q, int budget);

/* ---- frames.c ---- */

int pvnet_frames_setup(struct pvnet *np, struct pvnet_frames *frames);
void pvnet_frames_teardown(struct pvnet *np, struct pvnet_frames *frames);

/* The frame that ring entry @id offers. */
static inline u8 *pvnet_frame(struct pvnet_frames *frames, u16 id)
{
	return frames->pool.addr + frames->offered[id] * XEN_PAGE_SIZE;
}

/*
 * Have ring entry @id offer another frame, and return the page of the one it
 * offered, with a reference for the caller. NULL: there is none to put in its
 * place, so the bytes must be copied.
 */
struct page *pvnet_frame_lend(struct pvnet *np, struct pvnet_frames *frames,
			      u16 id);

/* ---- rxskb.c ---- */

struct pvnet_rx_part {
	u16 id;			/* of the ring entry */
	u16 offset;		/* in its frame */
	u32 len;
};

/* One packet as the ring describes it. */
struct pvnet_rx_packet {
	u32 entries;		/* of the ring that it takes */
	u16 flags;		/* of its first entry */
	u32 len;
	struct xen_netif_extra_info gso; /* type NONE: there is none */
	const char *wrong;	/* why to drop it */
	u32 nr;			/* parts that are not empty */
	struct pvnet_rx_part part[XEN_NETIF_NR_SLOTS_MIN];
};

/* Hand a packet to the stack, or count why not. */
void pvnet_rx_deliver(struct pvnet_queue *q, const struct pvnet_rx_packet *p);

#endif /* _PVNET_H */
