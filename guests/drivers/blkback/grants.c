// SPDX-License-Identifier: GPL-2.0-only
/*
 * The grants that requests refer to. A frontend that agreed to persistent grants
 * uses the same ones over and over: they stay mapped, for both directions, until
 * too many others have been used since. All but blkback_unmap() is for the ring's
 * own task, or when there is none.
 */
#include <linux/slab.h>
#include "blkback.h"

static struct blkback_kept *find(struct blkback_ring *ring, grant_ref_t ref)
{
	struct blkback_kept *kept;

	hash_for_each_possible(ring->kept, kept, hash, ref)
		if (kept->map.ref == ref)
			return kept;
	return NULL;
}

static void forget(struct blkback_ring *ring, struct blkback_kept *kept)
{
	link_unmap_grant(ring->bb->link, &kept->map);
	hash_del(&kept->hash);
	list_del(&kept->lru);
	kfree(kept);
	ring->nr_kept--;
}

/* Make room for one more; false when all are in use by requests under way. */
static bool make_room(struct blkback_ring *ring)
{
	struct blkback_kept *kept;

	if (ring->nr_kept < ring->max_kept)
		return true;
	list_for_each_entry(kept, &ring->lru, lru) {
		if (atomic_read(&kept->users))
			continue;
		forget(ring, kept);
		return true;
	}
	return false;
}

/* Keep the mapping that a segment has got; if that cannot be, it is its own. */
static void keep(struct blkback_ring *ring, struct blkback_segment *seg)
{
	struct blkback_kept *kept;

	if (!make_room(ring))
		return;
	kept = kmalloc(sizeof(*kept), GFP_NOIO);
	if (!kept)
		return;
	kept->map = seg->map;
	atomic_set(&kept->users, 1);
	hash_add(ring->kept, &kept->hash, kept->map.ref);
	list_add_tail(&kept->lru, &ring->lru);
	ring->nr_kept++;
	seg->kept = kept;
}

int blkback_map(struct blkback_ring *ring, grant_ref_t ref, bool readonly,
		struct blkback_segment *seg)
{
	bool persistent = ring->bb->persistent;
	struct blkback_kept *kept;
	int err;

	seg->kept = NULL;
	kept = persistent ? find(ring, ref) : NULL;
	if (kept) {
		atomic_inc(&kept->users);
		list_move_tail(&kept->lru, &ring->lru);
		seg->map = kept->map;
		seg->kept = kept;
		return 0;
	}
	err = link_map_grant(ring->bb->link, ref, readonly && !persistent,
			     &seg->map);
	if (err)
		return -EACCES;
	if (persistent)
		keep(ring, seg);
	return 0;
}

/* Any context. */
void blkback_unmap(struct blkback_ring *ring, struct blkback_segment *seg)
{
	if (seg->kept)
		atomic_dec(&seg->kept->users);
	else
		link_unmap_grant(ring->bb->link, &seg->map);
}

/* Nothing may be under way any more. */
void blkback_unmap_kept(struct blkback_ring *ring)
{
	struct blkback_kept *kept, *next;

	list_for_each_entry_safe(kept, next, &ring->lru, lru)
		forget(ring, kept);
}
