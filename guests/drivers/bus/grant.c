// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frames of the link and the references that grant them: frame n always has
 * reference n. The table has an entry for every frame that can be allocated, and
 * both come and go together, so nothing is gained by telling them apart.
 */
#include <linux/bitmap.h>
#include <linux/export.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

#define RECLAIM_PERIOD HZ

#define GRANTS_PER_FRAME \
	((u32)(XEN_PAGE_SIZE / sizeof(struct grant_entry_v1)))

/* Does the other end have frame @ref mapped, or this kernel a use for it? */
static bool frame_in_use(struct bus_link *bl, u32 ref)
{
	struct page *page = link_frame_page(&bl->link, ref);

	return READ_ONCE(bl->grants.status[ref]) ||
	       (page && link_page_lent(page));
}

/* Frames that were in use when their access ended: has the other end let go? */
static void reclaim_frames(struct work_struct *work)
{
	struct bus_link *bl = container_of(to_delayed_work(work),
					   struct bus_link, grants.reclaim);
	struct link_grants *g = &bl->grants;
	unsigned long ref;
	bool more;

	spin_lock(&g->lock);
	for_each_set_bit(ref, g->leaving, g->end) {
		if (frame_in_use(bl, ref))
			continue;
		__clear_bit(ref, g->leaving);
		__clear_bit(ref, g->used);
	}
	more = !bitmap_empty(g->leaving, g->end);
	spin_unlock(&g->lock);
	if (more)
		schedule_delayed_work(&g->reclaim, RECLAIM_PERIOD);
}

/* A run of free frames: the first, or @g->end when there is none. */
static u32 find_frames(struct link_grants *g, u32 nr)
{
	unsigned long first = bitmap_find_next_zero_area(g->used, g->end,
							 g->first, nr, 0);

	return min_t(unsigned long, first, g->end);
}

/* Make the table longer by one frame; false when it has no more room. */
static bool grow_table(struct bus_link *bl)
{
	struct link_info *shared = (void *)bl->link.base + LINK_INFO_OFFSET;
	struct link_grants *g = &bl->grants;
	u32 ref = g->nr_frames * GRANTS_PER_FRAME;

	if (g->end == g->limit)
		return false;
	for (; ref < (g->nr_frames + 1) * GRANTS_PER_FRAME; ref++)
		WRITE_ONCE(g->table[ref].flags, 0);
	virt_wmb(); /* no entry counts before it has been cleared */
	g->nr_frames++;
	WRITE_ONCE(shared->nr_grant_frames, g->nr_frames);
	g->end = min(g->limit, g->nr_frames * GRANTS_PER_FRAME);
	return true;
}

/*
 * The number of the domain that may map. It is another one when the link has been
 * saved and restored, and the toolstack writes that before we run again. Should the
 * other end write nonsense there, it is the one that cannot map.
 */
static u16 grantee_of(struct bus_link *bl)
{
	const struct link_info *shared = (void *)bl->link.base +
					 LINK_INFO_OFFSET;

	return READ_ONCE(shared->domid[LINK_END_GRANTEE]);
}

int link_grant_alloc(struct link *link, u32 nr, u16 flags,
		     struct link_grant *grant)
{
	struct link_grants *g = &to_bus_link(link)->grants;
	u32 first, i;
	u16 grantee;

	grant->nr = 0;
	if (!nr || to_bus_link(link)->me != LINK_END_GRANTER)
		return -ENOSPC;
	spin_lock(&g->lock);
	do {
		first = find_frames(g, nr);
	} while (first == g->end && grow_table(to_bus_link(link)));
	if (first == g->end) {
		spin_unlock(&g->lock);
		return -ENOSPC;
	}
	bitmap_set(g->used, first, nr);
	spin_unlock(&g->lock);

	grant->addr = link_frame_addr(link, first);
	grant->ref = first;
	grant->nr = nr;
	/* Whatever was there before is not the other end's to see. */
	memset(grant->addr, 0, (size_t)nr * XEN_PAGE_SIZE);
	grantee = grantee_of(to_bus_link(link));
	for (i = first; i < first + nr; i++) {
		WRITE_ONCE(g->table[i].domid, grantee);
		WRITE_ONCE(g->table[i].frame, i);
	}
	virt_wmb(); /* valid entries only once they are complete */
	for (i = first; i < first + nr; i++)
		WRITE_ONCE(g->table[i].flags, GTF_permit_access | flags);
	return 0;
}
EXPORT_SYMBOL_GPL(link_grant_alloc);

u32 link_grant_room(struct link *link)
{
	struct link_grants *g = &to_bus_link(link)->grants;
	u32 used;

	spin_lock(&g->lock);
	used = bitmap_weight(g->used, g->limit);
	spin_unlock(&g->lock);
	return g->limit - g->first - used;
}
EXPORT_SYMBOL_GPL(link_grant_room);

bool link_grant_in_use(struct link *link, const struct link_grant *grant)
{
	struct link_grants *g = &to_bus_link(link)->grants;
	u32 i;

	for (i = 0; i < grant->nr; i++)
		if (READ_ONCE(g->status[grant->ref + i]))
			return true;
	return false;
}
EXPORT_SYMBOL_GPL(link_grant_in_use);

void link_grant_free(struct link *link, struct link_grant *grant)
{
	struct bus_link *bl = to_bus_link(link);
	struct link_grants *g = &bl->grants;
	u32 i, end = grant->ref + grant->nr;
	bool leaving = false;

	if (!grant->nr)
		return;
	for (i = grant->ref; i < end; i++)
		WRITE_ONCE(g->table[i].flags, 0);
	/* Who maps marks the status, then looks at the entry once more. */
	link_mb(link);
	spin_lock(&g->lock);
	for (i = grant->ref; i < end; i++) {
		if (frame_in_use(bl, i)) {
			__set_bit(i, g->leaving);
			leaving = true;
		} else {
			__clear_bit(i, g->used);
		}
	}
	spin_unlock(&g->lock);
	grant->nr = 0;
	if (leaving)
		schedule_delayed_work(&g->reclaim, RECLAIM_PERIOD);
}
EXPORT_SYMBOL_GPL(link_grant_free);

int grants_start(struct bus_link *bl)
{
	const struct link_info *info = &bl->info;
	struct link_grants *g = &bl->grants;
	u32 ref;

	g->table = link_frame_addr(&bl->link, info->grant_frame);
	g->status = link_frame_addr(&bl->link, info->status_frame);
	spin_lock_init(&g->lock);
	INIT_DELAYED_WORK(&g->reclaim, reclaim_frames);
	g->nr_frames = info->nr_grant_frames;
	g->first = max_t(u32, info->first_free_frame,
			 GNTTAB_NR_RESERVED_ENTRIES);
	g->limit = min3(bl->link.nr_frames,
			info->max_grant_frames * GRANTS_PER_FRAME,
			info->nr_status_frames * (u32)XEN_PAGE_SIZE);
	g->limit = max(g->first, g->limit);
	g->end = clamp(g->nr_frames * GRANTS_PER_FRAME, g->first, g->limit);
	g->used = bitmap_zalloc(g->limit, GFP_KERNEL);
	g->leaving = bitmap_zalloc(g->limit, GFP_KERNEL);
	if (!g->used || !g->leaving) {
		bitmap_free(g->used);
		bitmap_free(g->leaving);
		return -ENOMEM;
	}
	/* A driver that was here before may have left frames mapped. */
	for (ref = g->first; ref < g->end; ref++) {
		WRITE_ONCE(g->table[ref].flags, 0);
		if (READ_ONCE(g->status[ref])) {
			__set_bit(ref, g->used);
			__set_bit(ref, g->leaving);
		}
	}
	if (!bitmap_empty(g->leaving, g->end))
		schedule_delayed_work(&g->reclaim, RECLAIM_PERIOD);
	return 0;
}

void grants_stop(struct bus_link *bl)
{
	cancel_delayed_work_sync(&bl->grants.reclaim);
	bitmap_free(bl->grants.used);
	bitmap_free(bl->grants.leaving);
}
