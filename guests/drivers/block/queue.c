// SPDX-License-Identifier: GPL-2.0-only
/* Requests from the block layer to the ring. */
#include <linux/highmem.h>
#include <linux/timex.h>
#include <asm/tsc.h>
#include "pvblk.h"
#include "trace.h"

#define SPIN_US		50
#define SPIN_BYTES	16384	/* beyond this, copying overlaps waiting */
#define MAX_SKIP	256
#define ALONE		8	/* requests in a row that found an empty ring */
#define PROBE		32	/* one in so many is not waited for */

/* Which ring serves a queue: fewer than queues once a backend was reborn. */
struct pvblk_ring *pvblk_ring_of(struct blk_mq_hw_ctx *hctx)
{
	struct pvblk *info = hctx->queue->queuedata;
	u32 nr_poll = READ_ONCE(info->nr_poll_rings);
	u32 nr_default = READ_ONCE(info->nr_rings) - nr_poll;

	if (hctx->type == HCTX_TYPE_POLL)
		return &info->rings[nr_poll ? nr_default : 0];
	return &info->rings[hctx->queue_num % nr_default];
}

/* ---- data -------------------------------------------------------------- */

static void copy_piece(void *page, void *frame, u32 n, bool to_backend)
{
	if (to_backend)
		link_copy(frame, page, n);
	else
		link_copy(page, frame, n);
}

/* Copy one part of a request into or out of its frames. */
void pvblk_copy(struct pvblk_ring *ring, struct request *rq,
		const struct pvblk_slot *slot, bool to_backend)
{
	u32 skip = slot->offset, left = slot->bytes;
	void *data = pvblk_data(ring, slot->frame);
	struct req_iterator iter;
	struct bio_vec bvec;

	rq_for_each_segment(bvec, rq, iter) {
		void *page;
		u32 n;

		if (skip >= bvec.bv_len) {
			skip -= bvec.bv_len;
			continue;
		}
		if (!left)
			return;
		n = min(bvec.bv_len - skip, left);
		page = bvec_kmap_local(&bvec);
		copy_piece(page + skip, data, n, to_backend);
		kunmap_local(page);
		data += n;
		left -= n;
		skip = 0;
	}
}

/* ---- a request in the ring --------------------------------------------- */

static void fill_segments(struct pvblk_ring *ring,
			  const struct pvblk_slot *slot,
			  struct blkif_request_segment *seg)
{
	u32 gref = ring->pool.ref + slot->frame;
	u32 sectors = slot->bytes >> SECTOR_SHIFT;

	for (; sectors; seg++) {
		u32 n = min_t(u32, sectors, SECTORS_PER_FRAME);

		seg->gref = gref++;
		seg->first_sect = 0;
		seg->last_sect = n - 1;
		sectors -= n;
	}
}

static void fill_direct(struct pvblk_ring *ring, struct blkif_request *req,
			u64 sector, u16 id, u32 segs)
{
	struct pvblk_slot *slot = pvblk_slot(ring, id);

	req->operation = slot->op;
	req->u.rw.nr_segments = segs;
	req->u.rw.handle = ring->info->vdevice;
	req->u.rw.id = id;
	req->u.rw.sector_number = sector;
	fill_segments(ring, slot, req->u.rw.seg);
}

/* The segments are listed in the frame behind the data. */
static void fill_indirect(struct pvblk_ring *ring, struct blkif_request *req,
			  u64 sector, u16 id, u32 segs)
{
	struct pvblk_slot *slot = pvblk_slot(ring, id);
	u32 list = slot->frame + segs;

	req->operation = BLKIF_OP_INDIRECT;
	req->u.indirect.indirect_op = slot->op;
	req->u.indirect.nr_segments = segs;
	req->u.indirect.handle = ring->info->vdevice;
	req->u.indirect.id = id;
	req->u.indirect.sector_number = sector;
	req->u.indirect.indirect_grefs[0] = ring->pool.ref + list;
	fill_segments(ring, slot, pvblk_data(ring, list));
	slot->op = BLKIF_OP_INDIRECT;
}

static void fill_discard(struct blkif_request *req, struct request *rq, u16 id)
{
	req->operation = BLKIF_OP_DISCARD;
	req->u.discard.flag = 0;
	req->u.discard.id = id;
	req->u.discard.sector_number = blk_rq_pos(rq);
	req->u.discard.nr_sectors = blk_rq_sectors(rq);
}

/* Write a part into the ring; under the lock, and after its data. */
static void fill_part(struct pvblk_ring *ring, struct request *rq, u16 id)
{
	struct pvblk_slot *slot = pvblk_slot(ring, id);
	u32 segs = DIV_ROUND_UP(slot->bytes, XEN_PAGE_SIZE);
	u32 index = ring->front.req_prod_pvt++;
	struct blkif_request *req = RING_GET_REQUEST(&ring->front, index);
	u64 sector = 0;

	if (segs)
		sector = blk_rq_pos(rq) + (slot->offset >> SECTOR_SHIFT);
	trace_pvblk_queue(ring, index, id, slot->op, sector, slot->bytes);
	if (slot->op == BLKIF_OP_DISCARD)
		fill_discard(req, rq, id);
	else if (segs <= BLKIF_MAX_SEGMENTS_PER_REQUEST)
		fill_direct(ring, req, sector, id, segs);
	else
		fill_indirect(ring, req, sector, id, segs);
	slot->rq = rq;
	ring->in_flight++;
	ring->counts.requests++;
	if (!ring->polled || !(rq->cmd_flags & REQ_POLLED))
		ring->unpolled++;
}

/* ---- sending ----------------------------------------------------------- */

/*
 * When waiting was in vain several times (a slow disk, a busy host), most requests
 * are not waited for until it pays again.
 */
static bool worth_a_spin(struct pvblk_ring *ring)
{
	if (ring->info->notification == LINK_POLL || !ring->skip_spins)
		return true;
	ring->skip_spins--;
	return false;
}

/* Wait a moment for any response. */
static void wait_for_response(struct pvblk_ring *ring)
{
	cycles_t start = get_cycles(), limit = (u64)tsc_khz * SPIN_US / 1000;
	u32 cons = READ_ONCE(ring->front.rsp_cons);

	ring->counts.spins++;
	while (READ_ONCE(ring->front.sring->rsp_prod) == cons) {
		cpu_relax();
		if (get_cycles() - start > limit) {
			ring->counts.spins_in_vain++;
			ring->idle_spins = min(2 * ring->idle_spins + 1,
					       (u32)MAX_SKIP);
			ring->skip_spins = ring->idle_spins - 1;
			return;
		}
	}
	ring->idle_spins = 0;
}

/* Publish what is in the ring, and ring the doorbell if the backend wants it. */
static void push(struct pvblk_ring *ring, bool spin)
{
	unsigned long flags;
	bool notify = false;

	spin_lock_irqsave(&ring->lock, flags);
	if (ring->connected) {
		pvblk_hold_off(ring, spin);
		notify = link_ring_push_requests(ring->info->link,
						 &ring->front);
		ring->counts.doorbells += notify;
		trace_pvblk_push(ring, ring->front.req_prod_pvt, notify);
		link_poller_expect(&ring->poller, ring->in_flight);
	}
	spin_unlock_irqrestore(&ring->lock, flags);
	if (notify)
		link_notify(ring->info->link, ring->port);
}

/*
 * Does whoever sends requests wait for each? That cannot be seen while we wait for
 * them ourselves, as the ring is always empty then: so a few are not waited for.
 */
static bool comes_alone(struct pvblk_ring *ring)
{
	bool alone = READ_ONCE(ring->in_flight) == 1;

	if (!ring->spun)
		ring->alone = alone ? min(ring->alone + 1, (u32)ALONE) : 0;
	return alone && ring->alone == ALONE && ++ring->probe % PROBE;
}

/*
 * A small request that comes alone is waited for, since a backend that polls
 * answers before an interrupt could arrive. Otherwise we only take what has been
 * answered meanwhile, and the submitter goes on to the next.
 */
static void send(struct pvblk_ring *ring, bool small)
{
	bool event = ring->info->notification == LINK_EVENT;
	bool spin = false;

	if (!event && !ring->polled)
		spin = comes_alone(ring) && small && worth_a_spin(ring);
	ring->spun = spin;
	/* Several are under way: the next one, or an idle CPU, finds what is done. */
	if (!event && !ring->polled && READ_ONCE(ring->in_flight) > 1)
		link_poller_looks(&ring->poller);
	push(ring, spin);
	if (spin)
		wait_for_response(ring);
	if (!event && !ring->polled)
		pvblk_reap(ring);
}

/*
 * Fill the ring with the parts of a request. All but the last are sent at once,
 * when there is data to be copied: the backend works while we copy the next.
 */
static void put_parts(struct pvblk_ring *ring, struct request *rq, u8 op)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);
	struct request *done = NULL;
	unsigned long flags;
	u16 id, next;

	for (id = pr->parts; id != PVBLK_NO_SLOT; id = next) {
		struct pvblk_slot *slot = pvblk_slot(ring, id);

		/* After the last part, all of them may soon be another's. */
		next = slot->next;
		slot->op = op;
		if (op == BLKIF_OP_WRITE)
			pvblk_copy(ring, rq, slot, true);
		spin_lock_irqsave(&ring->lock, flags);
		fill_part(ring, rq, id);
		if (ring->info->broken)
			pvblk_answer_part(ring, id, BLK_STS_IOERR, &done);
		spin_unlock_irqrestore(&ring->lock, flags);
		if (next != PVBLK_NO_SLOT && op == BLKIF_OP_WRITE)
			push(ring, false);
	}
	pvblk_finish(done, NULL);
}

static int operation_of(struct pvblk *info, struct request *rq)
{
	switch (req_op(rq)) {
	case REQ_OP_READ:
		return BLKIF_OP_READ;
	case REQ_OP_WRITE:
		return BLKIF_OP_WRITE;
	case REQ_OP_FLUSH:
		/* Nothing at all once the backend has turned out to have none. */
		return info->features.flush_op ?: BLKIF_OP_FLUSH_DISKCACHE;
	case REQ_OP_DISCARD:
		return BLKIF_OP_DISCARD;
	default:
		return -EOPNOTSUPP;
	}
}

static blk_status_t pvblk_queue_rq(struct blk_mq_hw_ctx *hctx,
				   const struct blk_mq_queue_data *bd)
{
	struct pvblk *info = hctx->queue->queuedata;
	struct pvblk_ring *ring = pvblk_ring_of(hctx);
	struct request *rq = bd->rq;
	int op = operation_of(info, rq);
	unsigned long flags;
	u32 bytes;
	bool room;

	if (op < 0)
		return BLK_STS_NOTSUPP;
	bytes = op == BLKIF_OP_READ || op == BLKIF_OP_WRITE ?
		blk_rq_bytes(rq) : 0;
	spin_lock_irqsave(&ring->lock, flags);
	if (info->broken) {
		spin_unlock_irqrestore(&ring->lock, flags);
		return BLK_STS_IOERR;
	}
	room = pvblk_reserve(ring, rq, bytes);
	if (!room) {
		ring->starved = true;
		blk_mq_stop_hw_queue(hctx);
	}
	spin_unlock_irqrestore(&ring->lock, flags);
	if (!room) {
		/* Others that were put before it may not have been sent. */
		push(ring, false);
		/*
		 * The queue may have been started again already, before the
		 * request is where that finds it: so have it run later, too.
		 */
		return BLK_STS_RESOURCE;
	}
	blk_mq_start_request(rq);
	put_parts(ring, rq, op);
	if (bd->last)
		send(ring, bytes && bytes <= SPIN_BYTES);
	return BLK_STS_OK;
}

static void pvblk_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	send(pvblk_ring_of(hctx), false);
}

/* An event may have been lost: remind the backend, and look for ourselves. */
static enum blk_eh_timer_return pvblk_timeout(struct request *rq)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);

	if (READ_ONCE(pr->ring->connected))
		link_notify(pr->ring->info->link, pr->ring->port);
	pvblk_reap(pr->ring);
	return BLK_EH_RESET_TIMER;
}

/* The queues of the last rings are for polled requests, if there are any. */
static void pvblk_map_queues(struct blk_mq_tag_set *set)
{
	struct pvblk *info = set->driver_data;
	u32 nr_default = info->nr_pools - info->nr_poll_pools;

	set->map[HCTX_TYPE_DEFAULT].nr_queues = nr_default;
	set->map[HCTX_TYPE_DEFAULT].queue_offset = 0;
	blk_mq_map_queues(&set->map[HCTX_TYPE_DEFAULT]);
	if (set->nr_maps == 1)
		return;
	/* Nothing of its own: reads go where writes go. */
	set->map[HCTX_TYPE_READ].nr_queues = 0;
	set->map[HCTX_TYPE_POLL].nr_queues = info->nr_poll_pools;
	set->map[HCTX_TYPE_POLL].queue_offset = nr_default;
	blk_mq_map_queues(&set->map[HCTX_TYPE_POLL]);
}

const struct blk_mq_ops pvblk_mq_ops = {
	.queue_rq = pvblk_queue_rq,
	.commit_rqs = pvblk_commit_rqs,
	.complete = pvblk_complete,
	.timeout = pvblk_timeout,
	.map_queues = pvblk_map_queues,
	.poll = pvblk_poll,
};
