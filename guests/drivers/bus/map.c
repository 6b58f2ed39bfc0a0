// SPDX-License-Identifier: GPL-2.0-only
/*
 * The grantee's half of grants: mapping what the other end has granted. All of the
 * region is mapped anyway; what it takes to use a frame of it is the check that
 * the granter allows it, and the mark that keeps the granter from using the frame
 * for something else.
 *
 * Neither end has atomic operations that the other one sees. Who maps sets the
 * status byte and then looks at the entry again; who ends access clears the entry
 * and then looks at the status: at least one of the two sees the other. A frame
 * that is mapped already has had its mark seen, so one look is enough then.
 */
#include <linux/export.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"
#include "pvback.h"

#define GRANTS_PER_FRAME \
	((u32)(XEN_PAGE_SIZE / sizeof(struct grant_entry_v1)))

/* Of looking at an entry that the granter is changing. */
#define TRIES	4

union grant {
	struct grant_entry_v1 entry;
	u64 raw;
};

/* From what we know, not from the byte: the granter can write there, too. */
static u8 status_of(const struct link_pins *pins)
{
	if (pins->writers)
		return GTF_reading | GTF_writing;
	return pins->readers ? GTF_reading : 0;
}

/* The table may have grown; a number that makes no sense changes nothing. */
static bool ref_exists(struct bus_link *bl, grant_ref_t ref)
{
	const struct link_info *shared = (void *)bl->link.base +
					 LINK_INFO_OFFSET;
	struct link_maps *m = &bl->maps;
	u32 frames;

	if (ref < m->nr_refs)
		return true;
	frames = READ_ONCE(shared->nr_grant_frames);
	if (frames <= bl->info.max_grant_frames)
		m->nr_refs = clamp(frames * GRANTS_PER_FRAME, m->nr_refs,
				   m->max_refs);
	return ref < m->nr_refs;
}

static int check_entry(struct bus_link *bl, const struct grant_entry_v1 *entry,
		       bool readonly)
{
	if ((entry->flags & GTF_type_mask) != GTF_permit_access)
		return GNTST_bad_gntref;
	if (entry->domid != bl->info.domid[LINK_END_GRANTEE])
		return GNTST_bad_domain;
	if (!readonly && (entry->flags & GTF_readonly))
		return GNTST_permission_denied;
	if (entry->frame < bl->info.first_free_frame ||
	    entry->frame >= bl->link.nr_frames)
		return GNTST_bad_page;
	return 0;
}

/* One more or less user of a reference; true: the granter has to see that. */
static bool pin(struct link_maps *m, grant_ref_t ref, bool readonly, int n)
{
	struct link_pins *pins = &m->pins[ref];
	u8 before = status_of(pins), after;

	if (readonly)
		pins->readers += n;
	else
		pins->writers += n;
	after = status_of(pins);
	if (after != before)
		WRITE_ONCE(m->status[ref], after);
	return after != before;
}

/* Under the lock. Returns 0 or a GNTST_..., and which frame it is. */
static int map_ref(struct bus_link *bl, grant_ref_t ref, bool readonly,
		   u32 *frame)
{
	struct link_maps *m = &bl->maps;
	unsigned int try;
	union grant g, seen;
	int err;

	if (!ref_exists(bl, ref))
		return GNTST_bad_gntref;
	g.raw = READ_ONCE(m->table[ref]);
	for (try = 0; try < TRIES; try++) {
		err = check_entry(bl, &g.entry, readonly);
		if (err)
			return err;
		*frame = g.entry.frame;
		if (!pin(m, ref, readonly, 1))
			return 0;
		link_mb(&bl->link); /* the mark is there before the look */
		seen.raw = READ_ONCE(m->table[ref]);
		if (seen.raw == g.raw)
			return 0;
		/* It changed before the granter could see the mark. */
		pin(m, ref, readonly, -1);
		g = seen;
	}
	return GNTST_eagain;
}

int link_map_grant(struct link *link, grant_ref_t ref, bool readonly,
		   struct link_map *map)
{
	struct bus_link *bl = to_bus_link(link);
	unsigned long flags;
	u32 frame;
	int err;

	if (bl->me != LINK_END_GRANTEE)
		return GNTST_general_error;
	spin_lock_irqsave(&bl->maps.lock, flags);
	err = map_ref(bl, ref, readonly, &frame);
	spin_unlock_irqrestore(&bl->maps.lock, flags);
	if (err)
		return err;
	map->addr = link_frame_addr(link, frame);
	map->page = link_frame_page(link, frame);
	map->ref = ref;
	map->readonly = readonly;
	return 0;
}
EXPORT_SYMBOL_GPL(link_map_grant);

void link_unmap_grant(struct link *link, struct link_map *map)
{
	struct bus_link *bl = to_bus_link(link);
	unsigned long flags;

	if (WARN_ON_ONCE(!map->addr))
		return;
	/* What was done with the frame is done before the granter takes it. */
	virt_mb();
	spin_lock_irqsave(&bl->maps.lock, flags);
	pin(&bl->maps, map->ref, map->readonly, -1);
	spin_unlock_irqrestore(&bl->maps.lock, flags);
	map->addr = NULL;
	map->page = NULL;
}
EXPORT_SYMBOL_GPL(link_unmap_grant);

/* Whoever had this end before may have died with frames mapped. */
int maps_start(struct bus_link *bl)
{
	const struct link_info *info = &bl->info;
	struct link_maps *m = &bl->maps;
	u32 ref;

	m->table = link_frame_addr(&bl->link, info->grant_frame);
	m->status = link_frame_addr(&bl->link, info->status_frame);
	spin_lock_init(&m->lock);
	m->max_refs = min(info->max_grant_frames * GRANTS_PER_FRAME,
			  info->nr_status_frames * (u32)XEN_PAGE_SIZE);
	m->nr_refs = min(info->nr_grant_frames * GRANTS_PER_FRAME, m->max_refs);
	m->pins = kvcalloc(m->max_refs, sizeof(*m->pins), GFP_KERNEL);
	if (!m->pins)
		return -ENOMEM;
	for (ref = 0; ref < m->max_refs; ref++)
		WRITE_ONCE(m->status[ref], 0);
	return 0;
}

void maps_stop(struct bus_link *bl)
{
	struct link_maps *m = &bl->maps;
	u32 ref, left = 0;

	for (ref = 0; ref < m->max_refs; ref++)
		left += status_of(&m->pins[ref]) != 0;
	if (left)
		dev_warn(bl->link.dev, "%u grants have been left mapped\n",
			 left);
	kvfree(m->pins);
}
