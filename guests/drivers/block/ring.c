// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a disk shares with its backend: for each queue a ring of one or more pages,
 * an event channel, and a pool of frames.
 */
#include <linux/cpumask.h>
#include <linux/slab.h>
#include "pvblk.h"

/* A disk takes no more than this part of the free frames for its pools, ... */
#define SHARE_OF_LINK	8

/* ... which have at most so many: 4 MiB. */
#define MAX_FRAMES	1024

/*
 * A pool of so many has room for the largest request, however it is split. There
 * is no queue for polled requests without that: see PVBLK_MAX_BYTES.
 */
#define FULL_FRAMES	288

/* With fewer than these there is no disk. */
#define MIN_FRAMES	24

/* How large everything is to be; less when the link is full. */
struct plan {
	u32 nr_default, nr_poll;
	u32 order;
	u32 frames;
};

/* ---- rings ------------------------------------------------------------- */

static int make_ring(struct pvblk *info, u32 index, u32 order)
{
	struct pvblk_ring *ring = &info->rings[index];
	struct blkif_sring *sring;
	int err;

	err = link_grant_alloc(info->link, 1 << order, 0, &ring->pages);
	if (err)
		return err;
	sring = ring->pages.addr;
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&ring->front, sring, XEN_PAGE_SIZE << order);
	ring->rsp_event = 1;
	ring->idle_spins = 0;
	ring->skip_spins = 0;
	return link_evtchn_alloc(info->link, pvblk_event, ring, &ring->port);
}

/* Once this has returned, nobody looks at the ring by himself. */
static void unmake_ring(struct pvblk_ring *ring)
{
	if (ring->listening && !ring->polled)
		link_poller_remove(&ring->poller);
	ring->listening = false;
	if (ring->port)
		link_evtchn_free(ring->info->link, ring->port);
	ring->port = 0;
	link_grant_free(ring->info->link, &ring->pages);
}

void pvblk_unshare_rings(struct pvblk *info)
{
	u32 i;

	for (i = 0; i < info->nr_pools; i++)
		unmake_ring(&info->rings[i]);
}

void pvblk_unshare(struct pvblk *info)
{
	u32 i;

	pvblk_unshare_rings(info);
	for (i = 0; i < info->nr_pools; i++)
		pvblk_pool_free(&info->rings[i]);
	info->nr_pools = 0;
}

/* ---- for a new disk ---------------------------------------------------- */

/*
 * A queue for each CPU, and one more for polled requests, as far as the backend
 * has queues, and the link room for a pool for each beside those of other disks.
 */
static struct plan make_plan(struct pvblk *info)
{
	u32 share = link_grant_room(info->link) / SHARE_OF_LINK;
	u32 pools = max(share / FULL_FRAMES, 1U);
	struct pvblk_features *f = &info->features;
	struct plan plan = { .order = f->ring_order };

	plan.nr_default = min3(num_online_cpus(), min(f->nr_queues, pools),
			       (u32)PVBLK_MAX_DEFAULT_RINGS);
	plan.nr_poll = min3(f->nr_queues - plan.nr_default,
			    pools - plan.nr_default, f->nr_poll_queues);
	plan.frames = clamp_t(u32, share / (plan.nr_default + plan.nr_poll),
			      MIN_FRAMES, MAX_FRAMES);
	return plan;
}

/* No run of frames is long enough: ask for less, least missed first. */
static bool lower_plan(struct plan *plan)
{
	if (plan->frames > FULL_FRAMES)
		plan->frames = FULL_FRAMES;
	else if (plan->nr_poll)
		plan->nr_poll = 0;
	else if (plan->nr_default > 1)
		plan->nr_default = 1;
	else if (plan->order)
		plan->order = 0;
	else if (plan->frames / 2 >= MIN_FRAMES)
		plan->frames /= 2;
	else
		return false;
	return true;
}

static int try_plan(struct pvblk *info, const struct plan *plan)
{
	u32 i, nr = plan->nr_default + plan->nr_poll;
	int err = 0;

	for (i = 0; i < nr && !err; i++) {
		struct pvblk_ring *ring = &info->rings[i];

		info->nr_pools = i + 1;
		err = make_ring(info, i, plan->order);
		if (!err)
			err = pvblk_pool_init(ring, RING_SIZE(&ring->front),
					      plan->frames);
	}
	if (err)
		pvblk_unshare(info);
	return err;
}

static int share_anew(struct pvblk *info)
{
	struct plan plan = make_plan(info);
	int err;

	do {
		err = try_plan(info, &plan);
	} while (err == -ENOSPC && lower_plan(&plan));
	if (err)
		return err;
	info->max_order = plan.order;
	info->nr_poll_pools = plan.nr_poll;
	info->nr_poll_rings = plan.nr_poll;
	info->nr_rings = info->nr_pools;
	return 0;
}

/* ---- for a disk whose backend was reborn ------------------------------- */

/* The pools stay, so requests of any size find the room that they had before. */
static int share_again(struct pvblk *info)
{
	u32 order = min(info->features.ring_order, info->max_order);
	u32 nr_default = info->nr_pools - info->nr_poll_pools;
	u32 i;
	int err = 0;

	info->nr_rings = info->nr_pools;
	info->nr_poll_rings = info->nr_poll_pools;
	if (info->nr_rings > info->features.nr_queues) {
		info->nr_rings = min(nr_default, info->features.nr_queues);
		info->nr_poll_rings = 0;
	}
	for (i = 0; i < info->nr_rings && !err; i++)
		err = make_ring(info, i, order);
	return err;
}

/* ---- telling the backend ----------------------------------------------- */

static int publish_pages(struct pvblk *info, struct pvbus_transaction t,
			 const char *dir, const struct pvblk_ring *ring)
{
	char name[16];
	int err = 0;
	u32 i;

	if (ring->pages.nr == 1)
		return pvbus_printf(info->link, t, dir, "ring-ref", "%u",
				    ring->pages.ref);
	for (i = 0; i < ring->pages.nr && !err; i++) {
		snprintf(name, sizeof(name), "ring-ref%u", i);
		err = pvbus_printf(info->link, t, dir, name, "%u",
				   ring->pages.ref + i);
	}
	return err;
}

static int publish_ring(struct pvblk *info, struct pvbus_transaction t,
			const char *dir, const struct pvblk_ring *ring)
{
	int err = publish_pages(info, t, dir, ring);

	if (!err)
		err = pvbus_printf(info->link, t, dir, "event-channel", "%u",
				   ring->port);
	return err;
}

static int publish_rings(struct pvblk *info, struct pvbus_transaction t)
{
	const char *node = info->xbdev->nodename;
	int err = 0;
	u32 i;

	if (info->nr_rings == 1)
		return publish_ring(info, t, node, &info->rings[0]);
	for (i = 0; i < info->nr_rings && !err; i++) {
		char *dir = kasprintf(GFP_KERNEL, "%s/queue-%u", node, i);

		if (!dir)
			return -ENOMEM;
		err = publish_ring(info, t, dir, &info->rings[i]);
		kfree(dir);
	}
	if (!err)
		err = pvbus_printf(info->link, t, node,
				   "multi-queue-num-queues", "%u",
				   info->nr_rings);
	return err;
}

/* What an earlier backend was told must not be taken for what is valid now. */
static int unpublish(struct pvblk *info, struct pvbus_transaction t)
{
	static const char *const names[] = {
		"ring-ref", "ring-page-order", "event-channel",
		"feature-persistent", "multi-queue-num-queues",
	};
	const char *node = info->xbdev->nodename;
	char name[16];
	int err = 0;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(names) && !err; i++)
		err = pvbus_rm(info->link, t, node, names[i]);
	for (i = 0; i < 1 << PVBLK_MAX_ORDER && !err; i++) {
		snprintf(name, sizeof(name), "ring-ref%u", i);
		err = pvbus_rm(info->link, t, node, name);
	}
	for (i = 0; i < PVBLK_MAX_RINGS && !err; i++) {
		snprintf(name, sizeof(name), "queue-%u", i);
		err = pvbus_rm(info->link, t, node, name);
	}
	return err;
}

/* All in one transaction: the backend sees the whole of it or nothing. */
static int try_publish(struct pvblk *info, bool again)
{
	const char *node = info->xbdev->nodename;
	struct link *link = info->link;
	u32 pages = info->rings[0].pages.nr;
	struct pvbus_transaction t;
	int err, end;

	err = pvbus_transaction_start(link, &t);
	if (err)
		return err;
	if (again)
		err = unpublish(info, t);
	if (!err && pages > 1)
		err = pvbus_printf(link, t, node, "ring-page-order", "%u",
				   ilog2(pages));
	if (!err)
		err = publish_rings(info, t);
	if (!err)
		err = pvbus_write(link, t, node, "protocol", "x86_64-abi");
	if (!err && info->features.persistent)
		err = pvbus_write(link, t, node, "feature-persistent", "1");
	end = pvbus_transaction_end(link, t, err);
	return err ? err : end;
}

int pvblk_share(struct pvblk *info)
{
	bool again = info->nr_pools;
	u32 i;
	int err;

	pvblk_read_features(info);
	err = again ? share_again(info) : share_anew(info);
	if (err)
		return err;
	for (i = 0; i < info->nr_rings; i++)
		info->rings[i].polled = i >= info->nr_rings -
					     info->nr_poll_rings;
	do {
		err = try_publish(info, again);
	} while (err == -EAGAIN);
	return err;
}

/* The backend is connected: requests may go into the rings now. */
void pvblk_listen(struct pvblk *info)
{
	u32 i;

	for (i = 0; i < info->nr_rings; i++) {
		struct pvblk_ring *ring = &info->rings[i];

		pvblk_init_poller(ring);
		if (!ring->polled)
			link_poller_add(&ring->poller);
		ring->listening = true;
		spin_lock_irq(&ring->lock);
		ring->connected = true;
		spin_unlock_irq(&ring->lock);
	}
}
