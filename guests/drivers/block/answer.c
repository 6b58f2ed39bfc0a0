// SPDX-License-Identifier: GPL-2.0-only
/*
 * Responses from the ring back to the block layer.
 *
 * Interrupts cost more than anything else here, so responses are also looked for
 * when requests are submitted, and an event is asked for only when half of what
 * is in flight has been answered.
 */
#include "pvblk.h"
#include "trace.h"

/* ---- what has been answered -------------------------------------------- */

/* A part is answered; a request joins @done with the last. Under the lock. */
void pvblk_answer_part(struct pvblk_ring *ring, u16 id, blk_status_t status,
		       struct request **done)
{
	struct pvblk_slot *slot = pvblk_slot(ring, id);
	struct request *rq = slot->rq;
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);

	slot->rq = NULL;
	ring->in_flight--;
	if (!ring->polled || !(rq->cmd_flags & REQ_POLLED))
		ring->unpolled--;
	if (status != BLK_STS_OK)
		pr->status = status;
	if (--pr->left)
		return;
	blk_mq_set_request_complete(rq);
	pr->next = *done;
	*done = rq;
}

/* As Linux's frontend: what the backend cannot do, it is not asked again. */
static blk_status_t final_status(struct request *rq)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);

	if (pr->status != BLK_STS_NOTSUPP)
		return pr->status;
	switch (req_op(rq)) {
	case REQ_OP_FLUSH:
		blk_queue_write_cache(rq->q, false, false);
		return BLK_STS_OK;
	case REQ_OP_DISCARD:
		blk_queue_max_discard_sectors(rq->q, 0);
		return BLK_STS_NOTSUPP;
	default:
		return BLK_STS_IOERR;
	}
}

static void copy_answer(struct pvblk_ring *ring, struct request *rq)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);
	struct pvblk_slot *slot;
	u16 id;

	if (req_op(rq) != REQ_OP_READ || pr->status != BLK_STS_OK)
		return;
	for (id = pr->parts; id != PVBLK_NO_SLOT; id = slot->next) {
		slot = pvblk_slot(ring, id);
		pvblk_copy(ring, rq, slot, false);
	}
}

/*
 * End a list of requests of one ring. Their slots are free by then, and a queue
 * that waits for some goes on, before anybody can react to their end.
 */
void pvblk_finish(struct request *done, struct io_comp_batch *iob)
{
	DEFINE_IO_COMP_BATCH(own);
	struct pvblk_request *pr;
	struct pvblk_ring *ring;
	struct request *rq;
	unsigned long flags;
	bool restart;

	if (!done)
		return;
	iob = iob ?: &own;
	pr = blk_mq_rq_to_pdu(done);
	ring = pr->ring;
	for (rq = done; rq; rq = pr->next) {
		pr = blk_mq_rq_to_pdu(rq);
		copy_answer(ring, rq);
	}
	spin_lock_irqsave(&ring->lock, flags);
	for (rq = done; rq; rq = pr->next) {
		pr = blk_mq_rq_to_pdu(rq);
		pvblk_release(ring, rq);
	}
	restart = ring->starved;
	ring->starved = false;
	spin_unlock_irqrestore(&ring->lock, flags);
	if (restart)
		blk_mq_start_stopped_hw_queues(done->q, true);
	while (done) {
		blk_status_t status = final_status(done);

		rq = done;
		pr = blk_mq_rq_to_pdu(rq);
		done = pr->next;
		if (!blk_mq_add_to_batch(rq, iob, (__force int)status,
					 blk_mq_end_request_batch))
			blk_mq_end_request(rq, status);
	}
	if (iob == &own && own.complete)
		own.complete(&own);
}

void pvblk_complete(struct request *rq)
{
	pvblk_finish(rq, NULL);
}

static void defer(struct pvblk_ring *ring, struct request *rq)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	pr->next = ring->deferred;
	WRITE_ONCE(ring->deferred, rq);
	spin_unlock_irqrestore(&ring->lock, flags);
}

/*
 * From an interrupt: some may have to end on the CPU that submitted them, and
 * polled ones must end in the context of a process, as this kernel keeps their
 * bios in a cache without protection. Whoever polls for them is about to look.
 */
static void complete_each(struct pvblk_ring *ring, struct request *done)
{
	struct request *here = NULL, *rq;

	while (done) {
		struct pvblk_request *pr;

		rq = done;
		pr = blk_mq_rq_to_pdu(rq);
		done = pr->next;
		pr->next = NULL;
		if (rq->cmd_flags & REQ_POLLED) {
			defer(ring, rq);
		} else if (!blk_mq_complete_request_remote(rq)) {
			pr->next = here;
			here = rq;
		}
	}
	pvblk_finish(here, NULL);
}

/* ---- taking responses -------------------------------------------------- */

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

/* Whatever is in flight has been answered so. Under the lock. */
void pvblk_answer_all(struct pvblk_ring *ring, blk_status_t status,
		      struct request **done)
{
	u32 id;

	for (id = 0; id < ring->nr_slots; id++)
		if (pvblk_slot(ring, id)->rq)
			pvblk_answer_part(ring, id, status, done);
}

/* This ring stops at once, the others when the work item has begun. */
static void cheated(struct pvblk_ring *ring, struct request **done,
		    const char *complaint, u64 value)
{
	struct pvblk *info = ring->info;

	WRITE_ONCE(info->broken, true);
	info->complaint_value = value;
	/* The complaint comes with its value. */
	smp_store_release(&info->complaint, complaint);
	pvblk_answer_all(ring, BLK_STS_IOERR, done);
	queue_work(system_long_wq, &info->work);
}

/* Without persistent grants, the backend has to let go before it answers. */
static bool keeps_grants(struct pvblk_ring *ring, const struct pvblk_slot *slot)
{
	struct link_grant frames = {
		.ref = ring->pool.ref + slot->frame,
		.nr = slot->nr_frames,
	};

	return !ring->info->features.persistent &&
	       link_grant_in_use(ring->info->link, &frames);
}

/* Take up to @nr responses, each checked in a private copy. Under the lock. */
static void take_responses(struct pvblk_ring *ring, u32 nr,
			   struct request **done)
{
	struct blkif_response rsp;
	struct pvblk_slot *slot;

	if (nr > ring->in_flight) {
		cheated(ring, done, "more responses than requests", nr);
		return;
	}
	for (; nr; nr--) {
		RING_COPY_RESPONSE(&ring->front, ring->front.rsp_cons, &rsp);
		trace_pvblk_complete(ring, ring->front.rsp_cons, rsp.id,
				     rsp.status);
		ring->front.rsp_cons++;
		if (rsp.id >= ring->nr_slots ||
		    !pvblk_slot(ring, rsp.id)->rq) {
			cheated(ring, done, "a response to no request", rsp.id);
			return;
		}
		slot = pvblk_slot(ring, rsp.id);
		if (rsp.operation != slot->op) {
			cheated(ring, done, "a response to another operation",
				rsp.operation);
			return;
		}
		if (keeps_grants(ring, slot)) {
			cheated(ring, done, "still in use after the response: grant",
				ring->pool.ref + slot->frame);
			return;
		}
		pvblk_answer_part(ring, rsp.id, status_of(&rsp), done);
	}
}

/* ---- events ------------------------------------------------------------ */

/* Nobody who polls for a response needs an event for it. */
static bool wants_event(const struct pvblk_ring *ring)
{
	return ring->unpolled && !ring->quiet;
}

/* Will an event come for responses from here on? */
static bool armed(const struct pvblk_ring *ring)
{
	return (s32)(ring->rsp_event - ring->front.rsp_cons) > 0;
}

/*
 * Ask for an event when half of the requests in flight have been answered, or for
 * none if the caller is @looking. Under the lock; a fence has to follow before
 * anybody looks for responses once more.
 */
void pvblk_hold_off(struct pvblk_ring *ring, bool looking)
{
	ring->rsp_event = ring->front.rsp_cons;
	if (!looking && wants_event(ring))
		ring->rsp_event += (ring->in_flight + 1) / 2;
	WRITE_ONCE(ring->front.sring->rsp_event, ring->rsp_event);
}

/* Take all responses, and ask for an event if one is needed. Under the lock. */
static void take_and_arm(struct pvblk_ring *ring, struct request **done)
{
	while (ring->connected && !ring->info->broken) {
		u32 nr = link_ring_responses(&ring->front);

		if (nr) {
			take_responses(ring, nr, done);
			continue;
		}
		if (!wants_event(ring) || armed(ring))
			break;
		pvblk_hold_off(ring, false);
		link_mb(ring->info->link); /* ... before we look again */
	}
	link_poller_expect(&ring->poller, ring->in_flight);
}

static irqreturn_t take_in_interrupt(struct pvblk_ring *ring, u64 *count)
{
	struct request *done = NULL;
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	++*count;
	take_and_arm(ring, &done);
	spin_unlock_irqrestore(&ring->lock, flags);
	complete_each(ring, done);
	return done ? IRQ_HANDLED : IRQ_NONE;
}

irqreturn_t pvblk_event(u32 port, void *data)
{
	struct pvblk_ring *ring = data;

	return take_in_interrupt(ring, &ring->counts.interrupts);
}

/* ---- an idle CPU looks at the ring ------------------------------------- */

static bool ready(struct link_poller *p)
{
	struct pvblk_ring *ring = container_of(p, struct pvblk_ring, poller);

	return READ_ONCE(ring->front.sring->rsp_prod) !=
	       READ_ONCE(ring->front.rsp_cons);
}

static void quiet(struct link_poller *p, bool quiet)
{
	struct pvblk_ring *ring = container_of(p, struct pvblk_ring, poller);
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	ring->quiet = quiet;
	pvblk_hold_off(ring, false);
	spin_unlock_irqrestore(&ring->lock, flags);
}

static irqreturn_t look(struct link_poller *p)
{
	struct pvblk_ring *ring = container_of(p, struct pvblk_ring, poller);

	return take_in_interrupt(ring, &ring->counts.polls_found);
}

void pvblk_init_poller(struct pvblk_ring *ring)
{
	ring->quiet = false;
	ring->poller.name = ring->name;
	ring->poller.link = ring->info->link;
	ring->poller.notification = ring->info->notification;
	ring->poller.ready = ready;
	ring->poller.quiet = quiet;
	ring->poller.handler = look;
}

/* ---- somebody else looks ----------------------------------------------- */

/* Take what is there without waiting for an event. Process context. */
static bool reap(struct pvblk_ring *ring, struct io_comp_batch *iob)
{
	struct request *done;
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	done = ring->deferred;
	WRITE_ONCE(ring->deferred, NULL);
	take_and_arm(ring, &done);
	ring->counts.polls_found += !!done;
	spin_unlock_irqrestore(&ring->lock, flags);
	pvblk_finish(done, iob);
	return done;
}

void pvblk_reap(struct pvblk_ring *ring)
{
	reap(ring, NULL);
}

int pvblk_poll(struct blk_mq_hw_ctx *hctx, struct io_comp_batch *iob)
{
	struct pvblk_ring *ring = pvblk_ring_of(hctx);

	if (ready(&ring->poller) || READ_ONCE(ring->deferred))
		return reap(ring, iob);
	return 0;
}
