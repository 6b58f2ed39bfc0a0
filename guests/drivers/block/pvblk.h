/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A blkif frontend: state.c follows the XenBus states, disk.c owns the gendisk,
 * feature.c reads what the backend offers, ring.c sets up what is shared with it,
 * pool.c hands out parts of that to requests, queue.c sends requests, answer.c
 * takes responses, recover.c sees to those that do not come, statistics.c counts.
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
#include "ring_counts.h"

#define PVBLK_MAX_ORDER		4	/* 16 pages, 512 requests */
#define PVBLK_MAX_DEFAULT_RINGS	8
#define PVBLK_MAX_RINGS		(PVBLK_MAX_DEFAULT_RINGS + 1)
#define PVBLK_MAX_SEGS		256	/* in one request, as Linux's backend */

#define XVD_MAJOR		202

/*
 * The largest request that the block layer may give us, and the largest that an
 * application can have polled: a bio that is to be polled must not be split, and
 * this kernel tries it again for ever when it would have to be. What does not
 * fit into one request of the ring is sent as several.
 */
#define PVBLK_MAX_BYTES		SZ_1M

#define SECTORS_PER_FRAME	(XEN_PAGE_SIZE >> SECTOR_SHIFT)
#define PVBLK_NO_SLOT		0xffff

/* What the backend publishes, after checks: nothing else is used. */
struct pvblk_features {
	u32 nr_segs;			/* in one request of the ring */
	u32 ring_order;
	u32 nr_queues;
	u32 nr_poll_queues;		/* what the toolstack tells us */
	bool persistent;
	u8 flush_op;			/* BLKIF_OP_..., 0: no write cache */
	bool discard;
	u32 discard_granularity;	/* bytes */
	u32 discard_alignment;
};

/* What it publishes about its disk when it is connected, after checks. */
struct pvblk_geometry {
	u64 sectors;			/* of 512 bytes */
	u32 sector_size;
	u32 physical_sector_size;
	u32 info;			/* VDISK_... */
};

/* One request in the ring: all of a request of the block layer, or part of it. */
struct pvblk_slot {
	struct request *rq;	/* NULL: the backend owes no response */
	u32 offset, bytes;	/* of the block layer's request */
	u16 frame, nr_frames;	/* of the pool: data, then segments if indirect */
	u16 next;		/* in a chain of slots, or PVBLK_NO_SLOT */
	u8 op;			/* as in the ring: BLKIF_OP_... */
};

/* What we keep for each request of the block layer. */
struct pvblk_request {
	struct pvblk_ring *ring;
	struct request *next;	/* in a list of requests that are answered */
	u32 left;		/* parts without an answer */
	u16 parts;		/* chain of slots: to be sent, then answered */
	blk_status_t status;
};

struct pvblk_ring {
	struct pvblk *info;
	u32 index;

	/* Shared with the backend, see ring.c. */
	struct link_grant pages;
	struct link_grant pool;
	u32 port;
	struct link_poller poller;	/* of an idle CPU, unless polled */
	bool listening;
	char name[24];

	spinlock_t lock;		/* all below */
	struct blkif_front_ring front;
	bool connected;
	bool polled;			/* by those who wait for requests */
	bool starved;			/* a request waits for room */
	struct request *deferred;	/* answered, for who polls for them */
	bool quiet;			/* no events: an idle CPU is looking */
	u32 rsp_event;			/* as we last wrote it */
	u32 in_flight;			/* requests the backend has to answer */
	u32 unpolled;			/* of them: nobody polls for these */

	/* The pool and its slots, see pool.c: as long as there is a disk. */
	struct pvblk_slot *slots;
	unsigned long *used;		/* frames of the pool */
	u32 nr_slots;
	u32 nr_used_slots;
	u16 free_slots;			/* chain */

	/* How requests come, and whether waiting for them pays: see queue.c. */
	u32 alone;
	u32 probe;
	bool spun;
	u32 idle_spins;
	u32 skip_spins;
	struct ring_counts counts;
};

struct pvblk {
	struct kref ref;		/* the bus device, and the disk */
	struct pvbus_device *xbdev;	/* until remove() has returned */
	struct link *link;
	u32 vdevice;
	enum link_notification notification;

	/* state.c: all changes of state happen in one work item. */
	struct work_struct work;
	struct work_struct add_work;	/* the disk, since that does I/O */
	enum xenbus_state backend_state;
	bool adding;
	int add_error;
	bool removing;			/* no changes of state any more */
	bool gone;			/* the bus device; under open_mutex */
	bool suspended;			/* the backend was reborn: queue stopped */
	bool broken;			/* no requests any more */
	const char *complaint;		/* ... because of a wrong response */
	u64 complaint_value;

	/* disk.c */
	struct gendisk *disk;		/* while there is one */
	struct blk_mq_tag_set tag_set;
	struct pvblk_geometry geometry;
	bool added;

	struct pvblk_features features;
	struct pvblk_ring rings[PVBLK_MAX_RINGS];
	/*
	 * The rings that were set up for the disk's queues, and those that the
	 * backend serves now, which are fewer when one that was reborn offers
	 * less. The last of them are for requests that are polled.
	 */
	u32 nr_pools, nr_poll_pools;
	u32 nr_rings, nr_poll_rings;
	u32 max_order;
};

static inline void *pvblk_data(struct pvblk_ring *ring, u32 frame)
{
	return ring->pool.addr + (size_t)frame * XEN_PAGE_SIZE;
}

static inline struct pvblk_slot *pvblk_slot(struct pvblk_ring *ring, u16 slot)
{
	return &ring->slots[slot];
}

/* feature.c */
void pvblk_read_features(struct pvblk *info);
int pvblk_read_geometry(struct pvblk *info, struct pvblk_geometry *g);

/*
 * ring.c: share rings with the backend and tell it where they are; stop sharing
 * the rings alone, or their pools, too.
 */
int pvblk_share(struct pvblk *info);
void pvblk_listen(struct pvblk *info);
void pvblk_unshare_rings(struct pvblk *info);
void pvblk_unshare(struct pvblk *info);

/* pool.c */
int pvblk_pool_init(struct pvblk_ring *ring, u32 nr_slots, u32 nr_frames);
void pvblk_pool_free(struct pvblk_ring *ring);
u32 pvblk_max_sectors(const struct pvblk *info);
bool pvblk_reserve(struct pvblk_ring *ring, struct request *rq, u32 bytes);
void pvblk_release(struct pvblk_ring *ring, struct request *rq);

/* queue.c */
extern const struct blk_mq_ops pvblk_mq_ops;
struct pvblk_ring *pvblk_ring_of(struct blk_mq_hw_ctx *hctx);
void pvblk_copy(struct pvblk_ring *ring, struct request *rq,
		const struct pvblk_slot *slot, bool to_backend);

/* answer.c */
irqreturn_t pvblk_event(u32 port, void *data);
void pvblk_init_poller(struct pvblk_ring *ring);
void pvblk_reap(struct pvblk_ring *ring);
int pvblk_poll(struct blk_mq_hw_ctx *hctx, struct io_comp_batch *iob);
void pvblk_complete(struct request *rq);
void pvblk_answer_part(struct pvblk_ring *ring, u16 slot, blk_status_t status,
		       struct request **done);
void pvblk_answer_all(struct pvblk_ring *ring, blk_status_t status,
		      struct request **done);
void pvblk_finish(struct request *done, struct io_comp_batch *iob);
void pvblk_hold_off(struct pvblk_ring *ring, bool looking);

/* recover.c: fail whatever is in flight and whatever will come. */
void pvblk_break(struct pvblk *info);

/* Stop using the rings; what is in flight will be sent again. */
void pvblk_withdraw(struct pvblk *info);

/* disk.c */
int pvblk_make_disk(struct pvblk *info);
int pvblk_resize_disk(struct pvblk *info);
int pvblk_update_disk(struct pvblk *info);
void pvblk_add_disk(struct work_struct *work);
void pvblk_remove_disk(struct pvblk *info);

/* state.c */
void pvblk_free_info(struct kref *ref);

/* statistics.c */
extern const struct attribute_group *pvblk_groups[];

#endif /* _PVBLK_H */
