// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the backend publishes, and what the toolstack tells us. All of it is
 * checked here: a number that cannot be is brought into range, or its feature is
 * not used; only a disk without a sane size is refused.
 */
#include <linux/log2.h>
#include <linux/moduleparam.h>
#include "pvblk.h"

static unsigned int wanted_order = 2;
module_param_named(max_ring_page_order, wanted_order, uint, 0444);
MODULE_PARM_DESC(max_ring_page_order,
		 "Largest order of pages for a ring, 0 to 4 (default: 2, room for 128 requests)");

static bool power_of_two_within(u32 n, u32 lo, u32 hi)
{
	return n >= lo && n <= hi && is_power_of_2(n);
}

static u32 published(struct pvblk *info, const char *node, u32 fallback)
{
	return pvbus_read_unsigned(info->link, info->xbdev->otherend, node,
				   fallback);
}

static void read_discard(struct pvblk *info, struct pvblk_features *f)
{
	u32 granularity, alignment;

	f->discard = published(info, "feature-discard", 0);
	if (!f->discard)
		return;
	granularity = published(info, "discard-granularity", 0);
	alignment = published(info, "discard-alignment", 0);
	/* 0: the size of a sector, which is known later. */
	if (granularity % SECTOR_SIZE || granularity > SZ_1G)
		granularity = 0;
	if (alignment % SECTOR_SIZE || alignment >= granularity)
		alignment = 0;
	f->discard_granularity = granularity;
	f->discard_alignment = alignment;
}

void pvblk_read_features(struct pvblk *info)
{
	struct pvblk_features *f = &info->features;
	u32 segs = published(info, "feature-max-indirect-segments", 0);

	memset(f, 0, sizeof(*f));
	f->nr_segs = clamp_t(u32, segs, BLKIF_MAX_SEGMENTS_PER_REQUEST,
			     PVBLK_MAX_SEGS);
	f->ring_order = min3(published(info, "max-ring-page-order", 0),
			     READ_ONCE(wanted_order), (u32)PVBLK_MAX_ORDER);
	f->nr_queues = clamp_t(u32, published(info, "multi-queue-max-queues",
					      1), 1, PVBLK_MAX_RINGS);
	f->persistent = published(info, "feature-persistent", 0);
	/* A barrier with no data is a flush, for a backend without those. */
	if (published(info, "feature-flush-cache", 0))
		f->flush_op = BLKIF_OP_FLUSH_DISKCACHE;
	else if (published(info, "feature-barrier", 0))
		f->flush_op = BLKIF_OP_WRITE_BARRIER;
	read_discard(info, f);
	f->nr_poll_queues = min(pvbus_read_unsigned(info->link,
						    info->xbdev->nodename,
						    "poll-queues", 1), 1U);
	info->notification = pvbus_read_notification(info->xbdev);
}

/* Does the disk make sense? -ERANGE: no size; -EINVAL: no sectors. */
int pvblk_read_geometry(struct pvblk *info, struct pvblk_geometry *g)
{
	if (pvbus_scanf(info->link, PVBUS_NIL, info->xbdev->otherend,
			"sectors", "%llu", &g->sectors) != 1)
		return -EINVAL;
	g->sector_size = published(info, "sector-size", SECTOR_SIZE);
	g->physical_sector_size = published(info, "physical-sector-size",
					    g->sector_size);
	g->info = published(info, "info", 0);
	if (!g->sectors || g->sectors > LLONG_MAX >> SECTOR_SHIFT)
		return -ERANGE;
	if (!power_of_two_within(g->sector_size, SECTOR_SIZE, XEN_PAGE_SIZE) ||
	    g->sectors % (g->sector_size >> SECTOR_SHIFT))
		return -EINVAL;
	if (!power_of_two_within(g->physical_sector_size, g->sector_size,
				 SZ_1M))
		g->physical_sector_size = g->sector_size;
	return 0;
}
