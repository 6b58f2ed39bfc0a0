/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A blkif backend in a driver domain: state.c follows the XenBus states, device.c
 * owns the block device and says what it offers, connect.c takes what the frontend
 * shares, ring.c takes requests and gives answers, request.c checks requests and
 * has the device do them, grants.c maps what they refer to, statistics.c counts.
 *
 * Nothing that comes from the other end is used before it has been copied, and the
 * copy checked.
 */
#ifndef _BLKBACK_H
#define _BLKBACK_H

#include <linux/atomic.h>
#include <linux/blkdev.h>
#include <linux/hashtable.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <xen/interface/io/blkif.h>
#include "link_ring.h"
#include "pvback.h"
#include "ring_counts.h"

#define BLKBACK_MAX_ORDER	4	/* 16 pages, 512 requests */
#define BLKBACK_MAX_RINGS	8
#define BLKBACK_MAX_SEGS	256	/* in one request: they fit into a page */

#define SECTORS_PER_FRAME	(XEN_PAGE_SIZE >> SECTOR_SHIFT)

/* Persistent grants that stay mapped for each entry of a ring, at most. */
#define BLKBACK_KEPT_PER_SLOT	66
#define BLKBACK_KEPT_BITS	8

/* How a frontend lays out the entries of a ring; its head is always the same. */
struct blkback_abi {
	const char *name;		/* as in the node "protocol" */
	u8 entry_size;
	u8 response_size;
	u8 padding;			/* behind the first four bytes */
};

/* What the toolstack lets a disk use. */
struct blkback_features {
	bool flush, barrier, discard, persistent;
	u32 nr_segs;			/* of an indirect request; 0: none */
	u32 ring_order;
	u32 nr_queues;
};

/* A grant that stays mapped after the request it was mapped for. */
struct blkback_kept {
	struct link_map map;
	struct hlist_node hash;
	struct list_head lru;		/* the least recently used is the first */
	atomic_t users;			/* requests under way */
};

/* What one segment of a request has mapped. */
struct blkback_segment {
	struct link_map map;
	struct blkback_kept *kept;	/* whose mapping it is, or NULL */
	struct page *bounce;		/* instead of the frame, or NULL */
	u8 first, nr;			/* sectors of the frame */
};

struct blkback_ring {
	struct blkback *bb;
	u32 index;
	char name[32];

	/* What the frontend shares, see connect.c; the first page is the head. */
	struct link_map pages[1 << BLKBACK_MAX_ORDER];
	u32 nr_pages;
	u32 port;
	struct task_struct *task;	/* who takes requests */
	struct link_poller poller;
	bool listening;

	wait_queue_head_t wake;		/* active */
	wait_queue_head_t drained;	/* nothing is under way */
	atomic_t under_way;		/* requests that are answered later */

	spinlock_t lock;		/* responses, and the next three */
	struct blkif_back_ring back;	/* requests: the task's */
	bool active;			/* the task looks at the ring, or will */
	bool quiet;			/* no events: an idle CPU is looking */
	bool broken;			/* by the frontend */

	/* Of the task alone. */
	u32 idle_spins, skip_spins;
	struct blkif_request_segment list[BLKBACK_MAX_SEGS];
	DECLARE_HASHTABLE(kept, BLKBACK_KEPT_BITS);
	struct list_head lru;
	u32 nr_kept, max_kept;

	struct ring_counts counts;
};

struct blkback {
	struct pvbus_device *xbdev;
	struct link *link;
	const char *devid;		/* the last part of its node's name */

	/* state.c: all changes of state happen in one work item. */
	struct work_struct work;
	struct pvbus_watch path_watch, resize_watch;
	char *path_node, *resize_node;
	bool removing;			/* no changes of state any more */
	bool gone;			/* from XenStore */
	bool orphaned;			/* the frontend is connected to a dead one */
	const char *complaint;		/* the frontend has broken a ring so */
	u64 complaint_value;

	/* device.c */
	struct block_device *bdev;	/* NULL: not open */
	fmode_t mode;
	bool readonly;
	bool bounce;			/* it cannot reach the link's frames */
	u32 sector_size;
	u64 sectors;			/* of 512 bytes */
	struct blkback_features features;

	/* connect.c */
	enum link_notification notification;
	const struct blkback_abi *abi;
	bool persistent;
	struct blkback_ring rings[BLKBACK_MAX_RINGS];
	u32 nr_rings;
};

/* A number to be written into our own node. */
struct blkback_node {
	const char *name;
	u64 value;
};

/* A request that is under way. */
struct blkback_request {
	struct blkback_ring *ring;
	u64 id;
	u8 op;				/* as in the ring: BLKIF_OP_... */
	bool reads;			/* from the device into frames */
	u32 nr;
	struct blkback_segment segs[];
};

/*
 * device.c: a number from @lo to @hi, which stays as it is when there is no such
 * node; anything else is reported. Opening fails with -ENOENT as long as there is
 * no path to the device.
 */
int blkback_read_number(struct blkback *bb, const char *dir, const char *node,
			u32 lo, u32 hi, u32 *number);
int blkback_open(struct blkback *bb);
void blkback_close(struct blkback *bb);
int blkback_measure(struct blkback *bb);
int blkback_offer(struct blkback *bb);
int blkback_announce(struct blkback *bb);

/* state.c: write numbers, and the state, into our own node. */
int blkback_publish(struct blkback *bb, enum xenbus_state state,
		    const struct blkback_node *nodes, u32 nr);
void blkback_complain(struct blkback *bb, const char *complaint, u64 value);

/* connect.c: take what the frontend shares; may be undone again and again. */
int blkback_connect(struct blkback *bb);
void blkback_disconnect(struct blkback *bb);

/* ring.c */
irqreturn_t blkback_event(u32 port, void *data);
int blkback_start(struct blkback_ring *ring);
void blkback_stop(struct blkback_ring *ring);
void blkback_drain(struct blkback_ring *ring);
void blkback_answer(struct blkback_ring *ring, u64 id, u8 op, int status);
void blkback_answer_late(struct blkback_ring *ring, u64 id, u8 op, int status);

/* request.c: 0 when it will be answered later, or an errno to answer it with. */
int blkback_perform(struct blkback_ring *ring, const struct blkif_request *req);

/* grants.c */
int blkback_map(struct blkback_ring *ring, grant_ref_t ref, bool readonly,
		struct blkback_segment *seg);
void blkback_unmap(struct blkback_ring *ring, struct blkback_segment *seg);
void blkback_unmap_kept(struct blkback_ring *ring);

/* statistics.c */
extern const struct attribute_group *blkback_groups[];

#endif /* _BLKBACK_H */
