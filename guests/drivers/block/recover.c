// SPDX-License-Identifier: GPL-2.0-only
/* What becomes of requests that their backend does not answer. */
#include "pvblk.h"

/* Each ring stops under its own lock, so nothing is put into it any more. */
void pvblk_break(struct pvblk *info)
{
	unsigned long flags;
	u32 i;

	for (i = 0; i < info->nr_pools; i++) {
		struct pvblk_ring *ring = &info->rings[i];
		struct request *done;

		spin_lock_irqsave(&ring->lock, flags);
		WRITE_ONCE(info->broken, true);
		done = ring->deferred;
		ring->deferred = NULL;
		pvblk_answer_all(ring, BLK_STS_IOERR, &done);
		spin_unlock_irqrestore(&ring->lock, flags);
		pvblk_finish(done, NULL);
	}
	WRITE_ONCE(info->broken, true);
}

static void withdraw_ring(struct pvblk_ring *ring)
{
	struct request *outstanding = NULL, *rq;
	struct pvblk_request *pr;
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	ring->connected = false;
	pvblk_answer_all(ring, BLK_STS_OK, &outstanding);
	for (rq = outstanding; rq; rq = pr->next) {
		pr = blk_mq_rq_to_pdu(rq);
		pvblk_release(ring, rq);
	}
	ring->starved = false;
	spin_unlock_irqrestore(&ring->lock, flags);
	while ((rq = outstanding)) {
		pr = blk_mq_rq_to_pdu(rq);
		outstanding = pr->next;
		blk_mq_requeue_request(rq, false);
	}
}

/*
 * The backend has died: what it has not answered goes back to the block layer,
 * which sends it again when the queue starts. The queue is stopped meanwhile, and
 * no event comes any more.
 *
 * No order has to be kept among these requests, not even around a flush. A flush
 * covers the writes that were complete when it was issued; and whoever wants a
 * write covered waits for its end before. So all the writes that a lost flush has
 * to cover were answered by the old backend: their data is in the image, whose
 * host outlives the backend, and the flush that is sent again makes it durable
 * there, whichever process wrote it. A write that is still outstanding beside the
 * flush is in nobody's debt. A request may also be done twice: all of them give
 * the same result again, because nobody can have been told to build on the first.
 */
void pvblk_withdraw(struct pvblk *info)
{
	u32 i;

	for (i = 0; i < info->nr_pools; i++)
		withdraw_ring(&info->rings[i]);
}
