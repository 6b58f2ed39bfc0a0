/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of pvbus.ko share among themselves. */
#ifndef _BUS_H
#define _BUS_H

#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/semaphore.h>
#include <linux/spinlock.h>
#include <xen/interface/io/xs_wire.h>
#include "link.h"
#include "pvbus.h"

#define IVSHMEM_BAR_MEMORY	2

struct link_vector;

/* Event channels: this end's ports, and what to do when they get pending. */
struct link_events {
	u8 *pending[2];			/* indexed by end */
	u8 *mask[2];
	u64 *ports[2];			/* struct link_port, one access each */
	spinlock_t lock;		/* choosing a free port */
	spinlock_t mask_lock;		/* why a port is masked */
	struct link_channel **channels;	/* by port; NULL: nobody listens */
	struct link_vector *vectors;
	unsigned int nr_vectors;
};

/* Frames and grants. Frame n is granted by reference n, so one map does. */
struct link_grants {
	struct grant_entry_v1 *table;
	u8 *status;
	spinlock_t lock;		/* both maps */
	unsigned long *used;
	unsigned long *leaving;		/* access ended, but still mapped */
	u32 first, end;			/* frames that may be granted now */
	u32 limit;			/* ... once the table has grown */
	u32 nr_frames;			/* of the table */
	struct delayed_work reclaim;
};

/* Who uses a reference of the other end's, see map.c. */
struct link_pins {
	u32 readers, writers;
};

/* What the grantee has mapped. */
struct link_maps {
	const u64 *table;		/* struct grant_entry_v1, one access each */
	u8 *status;
	spinlock_t lock;		/* all below, and the status bytes */
	u32 nr_refs;			/* that the table has: it only grows */
	u32 max_refs;
	struct link_pins *pins;		/* by reference */
};

/* A message from the store, complete once all of it has been received. */
struct store_message {
	struct xsd_sockmsg header;
	char *body;			/* with a NUL beyond its end */
};

enum store_state {
	STORE_DOWN,			/* to be connected again */
	STORE_UP,
	STORE_STOPPED,			/* for good */
};

/* The store has that long for an answer, and for connecting. */
#define STORE_GIVE_UP	(30 * HZ)

/* The connection to XenStore. */
struct store {
	struct link *link;
	struct xenstore_domain_interface *ring;
	u32 port;
	XENSTORE_RING_IDX req_prod;	/* ours: never read back from the ring */
	XENSTORE_RING_IDX rsp_cons;
	enum store_state state;
	wait_queue_head_t wait;		/* for anything that an event may bring */

	struct mutex lock;		/* one request at a time */
	struct xsd_sockmsg request;
	struct semaphore transactions;	/* that drivers may still begin */
	u32 generation;			/* of the connection */
	struct delayed_work reconnect;
	unsigned long pause;		/* jiffies, before the next attempt */
	unsigned long up_since, down_since;

	spinlock_t reply_lock;		/* the next two */
	bool waiting;			/* for the answer to @request */
	struct store_message *reply;

	struct workqueue_struct *receive_wq;
	struct work_struct receive;
	struct store_message *incoming;	/* by the work only */
	u32 received;			/* bytes of it, header included */

	struct workqueue_struct *watch_wq;
	struct mutex watch_lock;	/* list and last_token */
	struct list_head watches;	/* by ascending token */
	u32 last_token;
};

static inline bool store_is_up(struct store *store)
{
	return READ_ONCE(store->state) == STORE_UP;
}

/* Nodes of one kind: "device" (frontends), "backend" or "link". */
struct node_watch {
	struct bus_link *bl;
	struct pvbus_watch watch;
	bool watching;
};

/* Is what a link's memory says of its ends true? */
enum link_identity {
	LINK_UNKNOWN,			/* nobody uses it yet */
	LINK_KNOWN,
	LINK_REFUSED,			/* nobody ever will */
};

/*
 * A link on which the domain has its store, or one of those to other domains that
 * use this store. The latter come after the former and go before it.
 */
struct bus_link {
	struct link link;
	struct pci_dev *pdev;
	struct dev_pagemap *pagemap;	/* NULL: its frames have no pages */
	struct link_info info;		/* a private copy, checked */
	unsigned int me;		/* LINK_END_... that we are at */
	u32 store_frame, store_port;	/* frame 0: no store, no console */
	u32 console_frame, console_port;	/* frame 0: no console */
	struct link_events events;
	struct link_grants grants;	/* as the granter */
	struct link_maps maps;		/* as the grantee */
	struct store *store;		/* which may be another link's */
	struct list_head list;		/* of all links */

	/* By watch work, once the link is listed; the last round of that. */
	enum link_identity identity;
	u32 round;

	/* By watch work: has it looked for nodes with this link there? */
	bool scanned, first_scan;

	/* The rest is for a link with a store. */
	struct store own_store;
	/* Devices: changed only by watch work, or when that has ended. */
	struct work_struct watch_nodes, rescan;
	struct node_watch frontends, backends, identities;
	struct list_head devices;	/* on this link and others */
	u32 generation;			/* of the store, at the last look at frontends */
	bool reconnected;		/* to the store, since the look before */
};

#define to_bus_link(l) container_of(l, struct bus_link, link)

static inline unsigned int link_other_end(const struct bus_link *bl)
{
	return 1 - bl->me;
}

static inline bool link_has_store(const struct bus_link *bl)
{
	return bl->store_frame;
}

/* The link that has the store which this one uses. */
static inline struct bus_link *link_of_store(const struct bus_link *bl)
{
	return to_bus_link(bl->store->link);
}

/* All links, under links_lock. */
extern struct mutex links_lock;
extern struct list_head links;

void list_link(struct bus_link *bl);
void unlist_link(struct bus_link *bl);

/*
 * Use the store of the first link. From now on, and for as long as both devices
 * are there, the driver core brings this one up after that one, and takes this
 * one down first. -EPROBE_DEFER: there is none, so far.
 */
int borrow_store(struct bus_link *bl);

/* Copy link info once; only the copy is looked at, except for what may change. */
int link_read_info(struct bus_link *bl);

/* Where store and console are, if there are any; with the region mapped. */
int link_read_start_info(struct bus_link *bl);

/* The fixed areas of the region must lie below the first free frame. */
int link_check_layout(struct bus_link *bl);

/* Is this link where the toolstack plugs such a one in? */
int identity_check_slot(const struct bus_link *bl);

/* By watch work: find out about the unknown links; is any known by now? */
bool identify_links(struct bus_link *first);

/* By watch work: the domains that known links lead to may have other numbers. */
void renumber_links(struct bus_link *first);

/* Tell the log about a link that is known. */
void link_say(const struct bus_link *bl);

/* Have the device's memory where it is of use, and mapped at bl->link.base. */
int region_map(struct bus_link *bl);

int events_start(struct bus_link *bl);
void events_stop(struct bus_link *bl);

int grants_start(struct bus_link *bl);
void grants_stop(struct bus_link *bl);

int maps_start(struct bus_link *bl);
void maps_stop(struct bus_link *bl);

int store_start(struct bus_link *bl);
void store_stop(struct bus_link *bl);

/* One piece of a request's payload. */
struct store_part {
	const void *data;
	u32 len;
};

/*
 * Send a request and wait for its answer, which may be XS_ERROR, or an ERR_PTR:
 * -EIO when there is no connection, -ENODEV on a dead link, -EAGAIN when that
 * was lost in which the transaction began, -E2BIG. Free it. @generation may be
 * NULL, or is set to that of the connection which the answer came by.
 */
struct store_message *store_exchange(struct store *store,
				     enum xsd_sockmsg_type type,
				     struct pvbus_transaction t,
				     const struct store_part *parts,
				     unsigned int nr_parts, u32 *generation);
void store_free_message(struct store_message *msg);

/* The body of an answer, to be kfree()d, or the error that it is as ERR_PTR. */
char *store_body(struct store_message *msg, u32 *len);

/* Both: the answer's body, which has a NUL beyond its length, or an ERR_PTR. */
char *store_request(struct store *store, enum xsd_sockmsg_type type,
		    struct pvbus_transaction t, const struct store_part *parts,
		    unsigned int nr_parts, u32 *len);

/* Under store->lock, on this very connection; NULL when it has broken. */
struct store_message *store_exchange_locked(struct store *store,
					    enum xsd_sockmsg_type type,
					    u32 tx_id,
					    const struct store_part *parts,
					    unsigned int nr_parts);
void store_break(struct store *store, const char *why);
void store_receive(struct work_struct *work);
irqreturn_t store_event(u32 port, void *data);

/* Register all watches with a store that has forgotten them; as above. */
void watches_renew(struct store *store);

/* /dev/xen/xenbus, which leads to the first link's store. */
void xenbus_dev_start(struct store *store);
void xenbus_dev_stop(struct store *store);

/* Hand a watch event, "path\0token\0", to its watch. */
void store_watch_event(struct store *store, const char *body, u32 len);

/* Drop a call that is due; wait for one that runs, unless we are in it. */
void cancel_watch(struct pvbus_watch *watch);

int discovery_start(struct bus_link *bl);
void discovery_stop(struct bus_link *bl);

/* The link is on the list: see who is there, and look for its devices. */
void discovery_look(struct bus_link *bl);

/* A link without a store is off the list: remove its devices. */
void discovery_leave(struct bus_link *bl);

/* What the first console alone has not: an other end that XenStore tells of. */
static inline bool is_first_console(const struct pvbus_device *dev)
{
	return !*dev->otherend;
}

/* Have the driver told of the other end's state; dev->otherend_state_path is set. */
int watch_otherend(struct pvbus_device *dev);

/* The idle state that looks at rings; for all links, before the first. */
void idle_start(void);
void idle_stop(void);

extern struct bus_type pvbus_bus_type;

#endif /* _BUS_H */
