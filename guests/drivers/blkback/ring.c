// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests out of the ring, and responses into it.
 *
 * A task for each ring takes requests. While it is active no event is needed for
 * them, and it looks once more before it goes to sleep, as long as that has been
 * paying: doorbells and switches of context cost more than anything else here.
 * When it sleeps an idle CPU looks, or else an event tells. Responses come from
 * wherever the device says that it is done.
 */
#include <linux/kthread.h>
#include <linux/timex.h>
#include <asm/tsc.h>
#include "blkback.h"

#define SPIN_US		30
#define MAX_SKIP	256

/* ---- entries ----------------------------------------------------------- */

/* Copy out of or into the ring, whose pages may lie anywhere in the link. */
static void copy_bytes(struct blkback_ring *ring, u32 offset, void *buf, u32 n,
		       bool to_ring)
{
	while (n) {
		void *page = ring->pages[offset / XEN_PAGE_SIZE].addr;
		u32 at = offset % XEN_PAGE_SIZE;
		u32 piece = min_t(u32, n, XEN_PAGE_SIZE - at);

		if (to_ring)
			link_copy(page + at, buf, piece);
		else
			link_copy(buf, page + at, piece);
		offset += piece;
		buf += piece;
		n -= piece;
	}
}

static u32 entry_offset(struct blkback_ring *ring, u32 index)
{
	return offsetof(struct blkif_sring, ring) +
	       (index & (RING_SIZE(&ring->back) - 1)) *
	       ring->bb->abi->entry_size;
}

/* A private copy of a request, as we would lay it out. */
static void copy_request(struct blkback_ring *ring, u32 index,
			 struct blkif_request *req)
{
	u32 head = offsetof(struct blkif_request, u.rw.id) -
		   sizeof(req->u.other._pad3);
	const struct blkback_abi *abi = ring->bb->abi;
	u32 offset = entry_offset(ring, index);

	if (abi->padding) {
		copy_bytes(ring, offset, req, abi->entry_size, false);
		return;
	}
	copy_bytes(ring, offset, req, head, false);
	copy_bytes(ring, offset + head,
		   (u8 *)req + head + sizeof(req->u.other._pad3),
		   abi->entry_size - head, false);
}

/* ---- responses --------------------------------------------------------- */

/* Under the lock, so that nobody takes the ring away meanwhile. */
static void respond(struct blkback_ring *ring, u64 id, u8 op, int status)
{
	struct link *link = ring->bb->link;
	struct blkif_response rsp;

	/* Nothing of ours may show in the gaps. */
	memset(&rsp, 0, sizeof(rsp));
	rsp.id = id;
	rsp.operation = op;
	rsp.status = status;
	copy_bytes(ring, entry_offset(ring, ring->back.rsp_prod_pvt), &rsp,
		   ring->bb->abi->response_size, true);
	WRITE_ONCE(ring->back.rsp_prod_pvt, ring->back.rsp_prod_pvt + 1);
	if (link_ring_push_responses(link, &ring->back)) {
		ring->counts.doorbells++;
		link_notify(link, ring->port);
	}
	link_poller_expect(&ring->poller, true);
}

/* Answer a request at once. */
void blkback_answer(struct blkback_ring *ring, u64 id, u8 op, int status)
{
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	respond(ring, id, op, status);
	spin_unlock_irqrestore(&ring->lock, flags);
}

/* Answer one that was under way. The ring may be gone when this returns. */
void blkback_answer_late(struct blkback_ring *ring, u64 id, u8 op, int status)
{
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	respond(ring, id, op, status);
	if (atomic_dec_and_test(&ring->under_way))
		wake_up(&ring->drained);
	spin_unlock_irqrestore(&ring->lock, flags);
}

/* Wait until the device has done all that it was given. */
void blkback_drain(struct blkback_ring *ring)
{
	wait_event(ring->drained, !atomic_read(&ring->under_way));
	/* Who has woken us is done with the ring, too. */
	spin_lock_irq(&ring->lock);
	spin_unlock_irq(&ring->lock);
}

/* ---- taking requests --------------------------------------------------- */

static void take_request(struct blkback_ring *ring)
{
	struct blkif_request req;
	int err;

	copy_request(ring, ring->back.req_cons, &req);
	WRITE_ONCE(ring->back.req_cons, ring->back.req_cons + 1);
	ring->counts.requests++;
	err = blkback_perform(ring, &req);
	if (err)
		blkback_answer(ring, req.u.other.id, req.operation,
			       err == -EOPNOTSUPP ? BLKIF_RSP_EOPNOTSUPP :
						    BLKIF_RSP_ERROR);
}

/*
 * Take what is there; false: nothing. Most frontends have so many requests under
 * way, and send more when some have been answered: until then an idle CPU would
 * look in vain, and give it up.
 */
static bool take_requests(struct blkback_ring *ring)
{
	u32 nr = link_ring_requests(&ring->back);
	struct blk_plug plug;

	if (!nr || ring->broken)
		return false;
	if (nr > link_ring_room(&ring->back)) {
		WRITE_ONCE(ring->broken, true);
		blkback_complain(ring->bb, "the request index is impossible, so many ahead",
				 nr);
		return false;
	}
	if (ring->poller.notification != LINK_POLL)
		link_poller_expect(&ring->poller, false);
	blk_start_plug(&plug);
	for (; nr; nr--)
		take_request(ring);
	blk_finish_plug(&plug);
	return true;
}

/* When looking was in vain several times, most of it is left out. */
static bool worth_a_look(struct blkback_ring *ring)
{
	switch (ring->poller.notification) {
	case LINK_EVENT:
		return false;
	case LINK_POLL:
		return true;
	default:
		if (!ring->skip_spins)
			return true;
		ring->skip_spins--;
		return false;
	}
}

/* Look for more requests for a moment. */
static bool look_again(struct blkback_ring *ring)
{
	cycles_t start = get_cycles(), limit = (u64)tsc_khz * SPIN_US / 1000;

	if (ring->broken || !worth_a_look(ring))
		return false;
	ring->counts.spins++;
	while (!link_ring_requests(&ring->back)) {
		if (!need_resched() && get_cycles() - start <= limit) {
			cpu_relax();
			continue;
		}
		ring->counts.spins_in_vain++;
		ring->idle_spins = min(2 * ring->idle_spins + 1, (u32)MAX_SKIP);
		ring->skip_spins = ring->idle_spins - 1;
		return false;
	}
	ring->idle_spins = 0;
	return true;
}

/* Have somebody wake us; false: something has come meanwhile. */
static bool may_sleep(struct blkback_ring *ring)
{
	u32 nr;

	spin_lock_irq(&ring->lock);
	if (ring->quiet)
		nr = link_ring_requests(&ring->back);
	else
		nr = link_ring_arm_requests(ring->bb->link, &ring->back);
	WRITE_ONCE(ring->active, nr && !ring->broken);
	spin_unlock_irq(&ring->lock);
	return !ring->active;
}

static int serve(void *data)
{
	struct blkback_ring *ring = data;

	while (!kthread_should_stop()) {
		wait_event_interruptible(ring->wake, READ_ONCE(ring->active) ||
						     kthread_should_stop());
		do {
			while (take_requests(ring) && !kthread_should_stop())
				cond_resched();
		} while (!kthread_should_stop() &&
			 (look_again(ring) || !may_sleep(ring)));
	}
	return 0;
}

/* ---- waking the task --------------------------------------------------- */

/* Does somebody have to wake the task for what is in the ring? */
static bool waits(struct blkback_ring *ring)
{
	return !READ_ONCE(ring->active) && !READ_ONCE(ring->broken) &&
	       link_ring_requests(&ring->back);
}

/* When the task is active already, an event is one too many. */
static irqreturn_t rouse(struct blkback_ring *ring, u64 *count)
{
	irqreturn_t ret = IRQ_NONE;
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	++*count;
	if (waits(ring)) {
		WRITE_ONCE(ring->active, true);
		wake_up(&ring->wake);
		ret = IRQ_HANDLED;
	}
	spin_unlock_irqrestore(&ring->lock, flags);
	return ret;
}

irqreturn_t blkback_event(u32 port, void *data)
{
	struct blkback_ring *ring = data;

	return rouse(ring, &ring->counts.interrupts);
}

static struct blkback_ring *ring_of(struct link_poller *p)
{
	return container_of(p, struct blkback_ring, poller);
}

static bool ready(struct link_poller *p)
{
	return waits(ring_of(p));
}

/* An active task asks for an event itself, before it goes to sleep. */
static void quiet(struct link_poller *p, bool quiet)
{
	struct blkback_ring *ring = ring_of(p);
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	ring->quiet = quiet;
	if (!ring->active)
		WRITE_ONCE(ring->back.sring->req_event,
			   ring->back.req_cons + !quiet);
	spin_unlock_irqrestore(&ring->lock, flags);
}

static irqreturn_t look(struct link_poller *p)
{
	struct blkback_ring *ring = ring_of(p);

	return rouse(ring, &ring->counts.polls_found);
}

/* ---- coming and going -------------------------------------------------- */

int blkback_start(struct blkback_ring *ring)
{
	struct blkback *bb = ring->bb;
	struct task_struct *task;

	ring->poller.name = ring->name;
	ring->poller.link = bb->link;
	ring->poller.notification = bb->notification;
	ring->poller.ready = ready;
	ring->poller.quiet = quiet;
	ring->poller.handler = look;
	task = kthread_run(serve, ring, "vbd-%u-%s-%u", bb->xbdev->otherend_id,
			   bb->devid, ring->index);
	if (IS_ERR(task))
		return PTR_ERR(task);
	ring->task = task;
	link_poller_add(&ring->poller);
	ring->listening = true;
	return 0;
}

/* Once this has returned, the ring is used by nobody but by events. */
void blkback_stop(struct blkback_ring *ring)
{
	if (ring->listening)
		link_poller_remove(&ring->poller);
	ring->listening = false;
	if (ring->task)
		kthread_stop(ring->task);
	ring->task = NULL;
	blkback_drain(ring);
}
