// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a request needs to be on its way: slots, which give it ids in the ring, and
 * frames of the ring's pool for its data. They are handed out as needed, since a
 * pool for each slot, large enough for the largest request, would fill the link.
 *
 * Data is copied through the pool because the guest's own pages are not in the
 * link. Its frames stay granted, so the backend may keep them mapped, and nothing
 * but this ring's data is ever in them.
 */
#include <linux/bitmap.h>
#include <linux/slab.h>
#include "pvblk.h"

/*
 * While nothing else is in flight, a larger request is sent in parts of these:
 * then we copy one part while the backend works on another.
 */
#define ALONE_SEGS 32

/* Frames of a part with so many segments: a list that is too long has its own. */
static u32 frames_for(u32 segs)
{
	return segs > BLKIF_MAX_SEGMENTS_PER_REQUEST ? segs + 1 : segs;
}

/*
 * The largest request that always finds room once all others are answered, with
 * however many segments: parts that just need a list waste most. Slots are no
 * limit: as many parts as the smallest ring has slots are more than 1 MiB.
 */
u32 pvblk_max_sectors(const struct pvblk *info)
{
	u32 segs = BLKIF_MAX_SEGMENTS_PER_REQUEST + 1;
	u32 frames = info->rings[0].pool.nr;
	u32 i;

	for (i = 1; i < info->nr_pools; i++)
		frames = min(frames, info->rings[i].pool.nr);
	frames = frames / frames_for(segs) * segs;
	return min_t(u32, frames, PVBLK_MAX_BYTES / XEN_PAGE_SIZE) *
	       SECTORS_PER_FRAME;
}

static void chain_slots(struct pvblk_ring *ring)
{
	u32 i;

	for (i = 0; i < ring->nr_slots; i++)
		ring->slots[i].next = i + 1;
	ring->slots[i - 1].next = PVBLK_NO_SLOT;
	ring->free_slots = 0;
}

int pvblk_pool_init(struct pvblk_ring *ring, u32 nr_slots, u32 nr_frames)
{
	int err;

	err = link_grant_alloc(ring->info->link, nr_frames, 0, &ring->pool);
	if (err)
		return err;
	ring->used = bitmap_zalloc(nr_frames, GFP_KERNEL);
	ring->slots = kvcalloc(nr_slots, sizeof(*ring->slots), GFP_KERNEL);
	if (!ring->used || !ring->slots) {
		pvblk_pool_free(ring);
		return -ENOMEM;
	}
	ring->nr_slots = nr_slots;
	ring->nr_used_slots = 0;
	chain_slots(ring);
	return 0;
}

void pvblk_pool_free(struct pvblk_ring *ring)
{
	kvfree(ring->slots);
	bitmap_free(ring->used);
	ring->slots = NULL;
	ring->used = NULL;
	link_grant_free(ring->info->link, &ring->pool);
}

/* A run of up to @wanted adjacent frames; returns how many, 0: none is free. */
static u32 take_frames(struct pvblk_ring *ring, u32 wanted, u16 *first)
{
	u32 size = ring->pool.nr;
	unsigned long found;

	if (wanted == 1) {
		found = find_first_zero_bit(ring->used, size);
		if (found >= size)
			return 0;
		__set_bit(found, ring->used);
		*first = found;
		return 1;
	}
	for (; wanted; wanted /= 2) {
		found = bitmap_find_next_zero_area(ring->used, size, 0, wanted,
						   0);
		if (found < size)
			break;
	}
	if (wanted)
		bitmap_set(ring->used, found, wanted);
	*first = found;
	return wanted;
}

/* One part of a request, with at most @segs segments; false: no room. */
static bool reserve_part(struct pvblk_ring *ring, struct pvblk_slot *slot,
			 u32 bytes, u32 segs)
{
	u32 wanted = min_t(u32, DIV_ROUND_UP(bytes, XEN_PAGE_SIZE), segs);
	u32 got = 0;

	if (wanted) {
		got = take_frames(ring, frames_for(wanted), &slot->frame);
		if (!got)
			return false;
		/* A run that is too short for the whole part: less data. */
		if (got < frames_for(wanted))
			wanted = got > BLKIF_MAX_SEGMENTS_PER_REQUEST ?
				 got - 1 : got;
	}
	slot->nr_frames = got;
	slot->bytes = min_t(u32, bytes, wanted * XEN_PAGE_SIZE);
	return true;
}

/*
 * Reserve all that a request with so much data needs, or nothing; under the lock.
 * Its parts are chained in their order.
 */
bool pvblk_reserve(struct pvblk_ring *ring, struct request *rq, u32 bytes)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);
	u32 segs = ring->info->features.nr_segs;
	u32 room = RING_SIZE(&ring->front);
	u16 *tail = &pr->parts;
	u32 offset = 0;

	if (!ring->in_flight)
		segs = min_t(u32, segs, ALONE_SEGS);
	pr->ring = ring;
	pr->parts = PVBLK_NO_SLOT;
	pr->status = BLK_STS_OK;
	pr->left = 0;
	do {
		struct pvblk_slot *slot;
		u16 n = ring->free_slots;

		if (n == PVBLK_NO_SLOT || ring->nr_used_slots >= room)
			break;
		slot = pvblk_slot(ring, n);
		if (!reserve_part(ring, slot, bytes - offset, segs))
			break;
		ring->free_slots = slot->next;
		ring->nr_used_slots++;
		slot->offset = offset;
		slot->next = PVBLK_NO_SLOT;
		offset += slot->bytes;
		*tail = n;
		tail = &slot->next;
		pr->left++;
	} while (offset < bytes);
	if (pr->left && offset == bytes)
		return true;
	pvblk_release(ring, rq);
	return false;
}

/* Give back what a request had; under the lock. */
void pvblk_release(struct pvblk_ring *ring, struct request *rq)
{
	struct pvblk_request *pr = blk_mq_rq_to_pdu(rq);
	u16 n, next;

	for (n = pr->parts; n != PVBLK_NO_SLOT; n = next) {
		struct pvblk_slot *slot = pvblk_slot(ring, n);

		next = slot->next;
		bitmap_clear(ring->used, slot->frame, slot->nr_frames);
		slot->next = ring->free_slots;
		ring->free_slots = n;
		ring->nr_used_slots--;
	}
	pr->parts = PVBLK_NO_SLOT;
}
