// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests from the block layer to the ring, and responses back.
 *
 * Interrupts cost more than anything else here, so responses are also looked for
 * when a request is submitted; and a small request is waited for a moment, as a
 * backend that polls answers before an interrupt could arrive.
 */
#include <linux/highmem.h>
#include <linux/timex.h>
#include <asm/tsc.h>
#include "pvblk.h"

#define SPIN_US		50
#define SPIN_BYTES	16384	/* beyond this, copying overlaps waiting */
#define MAX_SKIP	256

/* Slots that were answered, to be finished when the lock has been dropped. */
struct answers {
	struct request *rq[PVBLK_SLOTS];
	unsigned int nr;
};

/* ---- data -------------------------------------------------------------- */

static void copy_data(struct pvblk *info, struct request *rq, bool to_backend)
{
	void *data = pvblk_data(info, rq->tag);
	struct req_iterator iter;
	struct bio_vec bvec;

	rq_for_each_segment(bvec, rq, iter) {
		void *page = bvec_kmap_local(&bvec);

		if (to_backend)
			link_copy(data, page, bvec.bv_len);
		else
			link_copy(page, data, bvec.bv_len);
		kunmap_local(page);
		data += bvec.bv_len;
	}
}

static void finish_request(struct request *rq)
{
	struct pvblk *info = rq->q->queuedata;
	blk_status_t status = info->slots[rq->tag].status;

	if (req_op(rq) == REQ_OP_READ && status == BLK_STS_OK)
		copy_data(info, rq, false);
	blk_mq_end_request(rq, status);
}

/* ---- responses --------------------------------------------------------- */

static blk_status_t status_of(const struct blkif_response *rsp)
{
	switch (rsp->status) {
	case BLKIF_RSP_OKAY:
		return BLK_STS_OK;
	case BLKIF_RSP_EOPNOTSUPP:
		return BLK_STS_NOTSUPP;
	default:
		return BLK_STS_IOERR;
	}
}

/* Stop for good, under the lock; what is in flight has then been answered. */
static void give_up(struct pvblk *info, struct answers *answers)
{
	unsigned int i;

	info->broken = true;
	for (i = 0; i < PVBLK_SLOTS; i++) {
		struct pvblk_slot *slot = &info->slots[i];

		if (!slot->rq)
			continue;
		slot->status = BLK_STS_IOERR;
		answers->rq[answers->nr++] = slot->rq;
		slot->rq = NULL;
	}
	info->in_flight = 0;
}

static void cheated(struct pvblk *info, struct answers *answers,
		    const char *how, u64 value)
{
	dev_err(&info->xbdev->dev, "backend broke the protocol: %s (%llu); the disk is off now\n",
		how, value);
	info->cheated = true;
	give_up(info, answers);
	queue_work(system_long_wq, &info->work);
}

/* Take up to @nr responses, each checked in a private copy. Under the lock. */
static void take_responses(struct pvblk *info, u32 nr, struct answers *answers)
{
	struct blkif_response rsp;
	struct pvblk_slot *slot;

	if (nr > PVBLK_SLOTS) {
		cheated(info, answers, "more responses than the ring holds", nr);
		return;
	}
	for (; nr; nr--) {
		RING_COPY_RESPONSE(&info->ring, info->ring.rsp_cons, &rsp);
		info->ring.rsp_cons++;
		slot = &info->slots[min_t(u64, rsp.id, PVBLK_SLOTS - 1)];
		if (rsp.id >= PVBLK_SLOTS || !slot->rq) {
			cheated(info, answers, "response to no request", rsp.id);
			return;
		}
		if (rsp.operation != slot->op) {
			cheated(info, answers, "response to another operation",
				rsp.operation);
			return;
		}
		slot->status = status_of(&rsp);
		answers->rq[answers->nr++] = slot->rq;
		slot->rq = NULL;
		info->in_flight--;
	}
}

/*
 * Take all responses, and ask for an event when half of the requests that are
 * still in flight have been answered. Under the lock.
 */
static void take_and_arm(struct pvblk *info, struct answers *answers)
{
	u32 nr = link_ring_responses(&info->ring);

	while (!info->broken) {
		take_responses(info, nr, answers);
		if (!info->in_flight)
			break;
		nr = link_ring_arm_responses(info->link, &info->ring,
					     (info->in_flight + 1) / 2);
		if (!nr)
			break;
	}
}

irqreturn_t pvblk_event(u32 port, void *data)
{
	struct pvblk *info = data;
	struct answers answers = { .nr = 0 };
	unsigned long flags;
	unsigned int i;

	spin_lock_irqsave(&info->lock, flags);
	take_and_arm(info, &answers);
	spin_unlock_irqrestore(&info->lock, flags);
	for (i = 0; i < answers.nr; i++)
		blk_mq_complete_request(answers.rq[i]);
	return answers.nr ? IRQ_HANDLED : IRQ_NONE;
}

void pvblk_break(struct pvblk *info)
{
	struct answers answers = { .nr = 0 };
	unsigned long flags;
	unsigned int i;

	spin_lock_irqsave(&info->lock, flags);
	give_up(info, &answers);
	spin_unlock_irqrestore(&info->lock, flags);
	for (i = 0; i < answers.nr; i++)
		blk_mq_complete_request(answers.rq[i]);
}

/* Take what is there without waiting for an event; then wait for one again. */
static void reap(struct pvblk *info)
{
	struct answers answers = { .nr = 0 };
	unsigned long flags;
	unsigned int i;

	spin_lock_irqsave(&info->lock, flags);
	take_and_arm(info, &answers);
	spin_unlock_irqrestore(&info->lock, flags);
	for (i = 0; i < answers.nr; i++)
		finish_request(answers.rq[i]);
}

/*
 * Wait a moment for any response. When that was in vain several times (a slow
 * disk, a busy host), most requests do not wait until it pays again.
 */
static void wait_for_response(struct pvblk *info)
{
	cycles_t start = get_cycles(), limit = (u64)tsc_khz * SPIN_US / 1000;
	u32 cons = READ_ONCE(info->ring.rsp_cons);

	if (info->skip_spins) {
		info->skip_spins--;
		return;
	}
	while (READ_ONCE(info->ring.sring->rsp_prod) == cons) {
		cpu_relax();
		if (get_cycles() - start > limit) {
			info->idle_spins = min(2 * info->idle_spins + 1,
					       (u32)MAX_SKIP);
			info->skip_spins = info->idle_spins - 1;
			return;
		}
	}
	info->idle_spins = 0;
}

/* ---- requests ---------------------------------------------------------- */

static void fill_segments(struct pvblk *info, struct request *rq,
			  struct blkif_request_segment *seg, u32 nr)
{
	u32 gref = info->pool.ref + rq->tag * info->nr_segs;
	u32 sectors = blk_rq_sectors(rq);

	for (; nr; nr--, seg++) {
		u32 n = min_t(u32, sectors, SECTORS_PER_FRAME);

		seg->gref = gref++;
		seg->first_sect = 0;
		seg->last_sect = n - 1;
		sectors -= n;
	}
}

/* Write a request into the ring; its data lies in the slot's frames. */
static void fill_request(struct pvblk *info, struct request *rq, u8 op)
{
	u32 nr = DIV_ROUND_UP(blk_rq_bytes(rq), XEN_PAGE_SIZE);
	u64 sector = nr ? blk_rq_pos(rq) : 0;
	struct blkif_request *req;

	req = RING_GET_REQUEST(&info->ring, info->ring.req_prod_pvt);
	info->ring.req_prod_pvt++;
	if (nr <= BLKIF_MAX_SEGMENTS_PER_REQUEST) {
		req->operation = op;
		req->u.rw.nr_segments = nr;
		req->u.rw.handle = info->vdevice;
		req->u.rw.id = rq->tag;
		req->u.rw.sector_number = sector;
		fill_segments(info, rq, req->u.rw.seg, nr);
	} else {
		req->operation = BLKIF_OP_INDIRECT;
		req->u.indirect.indirect_op = op;
		req->u.indirect.nr_segments = nr;
		req->u.indirect.handle = info->vdevice;
		req->u.indirect.id = rq->tag;
		req->u.indirect.sector_number = sector;
		req->u.indirect.indirect_grefs[0] = info->indirect.ref +
						    rq->tag;
		fill_segments(info, rq, info->indirect.addr +
			      rq->tag * XEN_PAGE_SIZE, nr);
	}
	info->slots[rq->tag].op = req->operation;
	info->slots[rq->tag].rq = rq;
	info->in_flight++;
}

static void push(struct pvblk *info, bool small)
{
	unsigned long flags;
	bool notify;

	spin_lock_irqsave(&info->lock, flags);
	if (small) /* no event while we look ourselves */
		WRITE_ONCE(info->ring.sring->rsp_event, info->ring.rsp_cons);
	notify = link_ring_push_requests(info->link, &info->ring);
	spin_unlock_irqrestore(&info->lock, flags);
	if (notify)
		link_notify(info->link, info->port);
	if (small)
		wait_for_response(info);
	reap(info);
}

static blk_status_t pvblk_queue_rq(struct blk_mq_hw_ctx *hctx,
				   const struct blk_mq_queue_data *bd)
{
	struct pvblk *info = hctx->queue->queuedata;
	struct request *rq = bd->rq;
	unsigned long flags;
	u8 op;

	switch (req_op(rq)) {
	case REQ_OP_READ:
		op = BLKIF_OP_READ;
		break;
	case REQ_OP_WRITE:
		op = BLKIF_OP_WRITE;
		break;
	case REQ_OP_FLUSH:
		op = BLKIF_OP_FLUSH_DISKCACHE;
		break;
	default:
		return BLK_STS_NOTSUPP;
	}
	blk_mq_start_request(rq);
	if (op == BLKIF_OP_WRITE)
		copy_data(info, rq, true);

	spin_lock_irqsave(&info->lock, flags);
	if (info->broken) {
		spin_unlock_irqrestore(&info->lock, flags);
		return BLK_STS_IOERR;
	}
	fill_request(info, rq, op);
	spin_unlock_irqrestore(&info->lock, flags);
	if (bd->last)
		push(info, op != BLKIF_OP_FLUSH_DISKCACHE &&
		     blk_rq_bytes(rq) <= SPIN_BYTES);
	return BLK_STS_OK;
}

static void pvblk_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	push(hctx->queue->queuedata, false);
}

/* An event may have been lost: remind the backend, and look for ourselves. */
static enum blk_eh_timer_return pvblk_timeout(struct request *rq)
{
	struct pvblk *info = rq->q->queuedata;

	link_notify(info->link, info->port);
	reap(info);
	return BLK_EH_RESET_TIMER;
}

const struct blk_mq_ops pvblk_mq_ops = {
	.queue_rq = pvblk_queue_rq,
	.commit_rqs = pvblk_commit_rqs,
	.complete = finish_request,
	.timeout = pvblk_timeout,
};
