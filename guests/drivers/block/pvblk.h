/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A blkif frontend: disk.c follows the XenBus states and owns the disk, ring.c
 * sets up what is shared with the backend, queue.c moves requests.
 */
#ifndef _PVBLK_H
#define _PVBLK_H

#include <linux/blk-mq.h>
#include <linux/kref.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <xen/interface/io/blkif.h>
#include "link_ring.h"
#include "pvbus.h"

/* One page of ring; each slot belongs to the request with the same tag. */
#define PVBLK_SLOTS __CONST_RING_SIZE(blkif, XEN_PAGE_SIZE)

#define SECTORS_PER_FRAME (XEN_PAGE_SIZE >> SECTOR_SHIFT)

struct pvblk_slot {
	struct request *rq;	/* NULL: the backend owes no response */
	u8 op;			/* as in the request: BLKIF_OP_... */
	blk_status_t status;	/* once it has been answered */
};

struct pvblk {
	struct kref ref;		/* the bus device, and the disk */
	struct pvbus_device *xbdev;	/* until remove() has returned */
	struct link *link;
	struct gendisk *disk;		/* while there is one */
	struct blk_mq_tag_set tag_set;
	struct work_struct work;	/* all changes of state happen here */
	enum xenbus_state backend_state;
	u32 vdevice;
	bool removing;			/* no changes of state any more */
	bool gone;			/* the bus device; under open_mutex */

	/* Shared with the backend, see ring.c. */
	struct link_grant ring_page;
	struct link_grant pool;		/* data: nr_segs frames for each slot */
	struct link_grant indirect;	/* segment lists: a frame for each slot */
	u32 nr_segs;			/* at most, in one request */
	u32 port;

	spinlock_t lock;		/* all below */
	struct blkif_front_ring ring;
	struct pvblk_slot slots[PVBLK_SLOTS];
	u32 in_flight;			/* requests the backend has to answer */
	bool broken;			/* no requests any more */
	bool cheated;			/* ... because of a wrong response */
	u32 idle_spins;			/* in a row, see wait_for_response() */
	u32 skip_spins;
};

static inline void *pvblk_data(struct pvblk *info, unsigned int slot)
{
	return info->pool.addr + (size_t)slot * info->nr_segs * XEN_PAGE_SIZE;
}

extern const struct blk_mq_ops pvblk_mq_ops;

/* The backend's event: take its responses. */
irqreturn_t pvblk_event(u32 port, void *data);

/* Fail whatever is in flight and whatever will come. */
void pvblk_break(struct pvblk *info);

/* Share ring and pool with the backend and tell it where they are. */
int pvblk_share(struct pvblk *info);
void pvblk_unshare(struct pvblk *info);

#endif /* _PVBLK_H */
