// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block device that a disk is kept on: opening it, what it can do, and what is
 * said about it in XenStore.
 */
#include <linux/ctype.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include "blkback.h"

static bool always_copy;
module_param(always_copy, bool, 0644);
MODULE_PARM_DESC(always_copy,
		 "Keep devices away from the memory of links: copy all data (default: only for devices that cannot reach it)");

/* ---- our own node ------------------------------------------------------- */

/* A decimal number as XenStore has them: digits and nothing else. */
static int parse_number(const char *text, u32 len, u32 *number)
{
	u32 i;

	if (!len || len > 10)
		return -EINVAL;
	for (i = 0; i < len; i++)
		if (!isdigit(text[i]))
			return -EINVAL;
	return kstrtou32(text, 10, number);
}

/* A number from @lo to @hi; @number stays as it is when there is no such node. */
int blkback_read_number(struct blkback *bb, const char *dir, const char *node,
			u32 lo, u32 hi, u32 *number)
{
	unsigned int len;
	char *text;
	u32 n;
	int err;

	text = pvbus_read(bb->link, PVBUS_NIL, dir, node, &len);
	if (IS_ERR(text))
		return PTR_ERR(text) == -ENOENT ? 0 : PTR_ERR(text);
	err = parse_number(text, len, &n);
	kfree(text);
	if (err || n < lo || n > hi) {
		pvbus_dev_error(bb->xbdev, -EINVAL,
				"%s/%s: expected a number from %u to %u", dir, node,
				lo, hi);
		return -EINVAL;
	}
	*number = n;
	return 0;
}

static bool own_is(struct blkback *bb, const char *node, const char *wanted)
{
	char *value = pvbus_read(bb->link, PVBUS_NIL, bb->xbdev->nodename,
				 node, NULL);
	bool is;

	if (IS_ERR(value))
		return false;
	is = !strcmp(value, wanted);
	kfree(value);
	return is;
}

/* ---- opening ----------------------------------------------------------- */

/*
 * Frames of a link may lie where a device with few address lines does not get, and
 * nothing else would copy for it in a guest with little memory.
 */
static bool reaches_frames(struct blkback *bb)
{
	u32 last = bb->link->nr_frames - 1;
	struct page *page = link_frame_page(bb->link, last);
	u64 end = page ? page_to_phys(page) + XEN_PAGE_SIZE - 1 : 0;
	struct device *dev;

	for (dev = disk_to_dev(bb->bdev->bd_disk); dev; dev = dev->parent)
		if (dev->dma_mask && end > *dev->dma_mask)
			return false;
	return page;
}

/* How large is it now? One that cannot be keeps the size that it had. */
int blkback_measure(struct blkback *bb)
{
	u64 sectors = bdev_nr_sectors(bb->bdev);

	if (!sectors || sectors % (bb->sector_size >> SECTOR_SHIFT)) {
		pvbus_dev_error(bb->xbdev, -EINVAL,
				"the disk's %llu bytes are no multiple of %u",
				sectors << SECTOR_SHIFT, bb->sector_size);
		return -EINVAL;
	}
	WRITE_ONCE(bb->sectors, sectors);
	return 0;
}

static int look_at(struct blkback *bb)
{
	u32 wish = SECTOR_SIZE;
	int err;

	err = blkback_read_number(bb, bb->xbdev->nodename, "sector-size",
				  SECTOR_SIZE, XEN_PAGE_SIZE, &wish);
	if (err)
		return err;
	if (wish != SECTOR_SIZE && wish != XEN_PAGE_SIZE) {
		pvbus_dev_error(bb->xbdev, -EINVAL, "there are no sectors of %u bytes",
				wish);
		return -EINVAL;
	}
	bb->sector_size = max(bdev_logical_block_size(bb->bdev), wish);
	if (bb->sector_size > XEN_PAGE_SIZE) {
		pvbus_dev_error(bb->xbdev, -EINVAL, "sectors of %u bytes are too large",
				bb->sector_size);
		return -EINVAL;
	}
	bb->bounce = READ_ONCE(always_copy) || !reaches_frames(bb);
	return blkback_measure(bb);
}

int blkback_open(struct blkback *bb)
{
	struct block_device *bdev;
	char *path;
	int err;

	path = pvbus_read(bb->link, PVBUS_NIL, bb->xbdev->nodename,
			  "physical-device-path", NULL);
	if (IS_ERR(path))
		return PTR_ERR(path);
	bb->readonly = !own_is(bb, "mode", "w") ||
		       own_is(bb, "device-type", "cdrom");
	/* Who writes is alone; readers may be many. */
	bb->mode = FMODE_READ;
	if (!bb->readonly)
		bb->mode |= FMODE_WRITE | FMODE_EXCL;
	bdev = blkdev_get_by_path(path, bb->mode, bb);
	if (IS_ERR(bdev)) {
		err = PTR_ERR(bdev);
		pvbus_dev_error(bb->xbdev, err, "cannot open %s", path);
		kfree(path);
		/* Only an absent node is waited for. */
		return err == -ENOENT ? -ENXIO : err;
	}
	kfree(path);
	bb->bdev = bdev;
	err = look_at(bb);
	if (err)
		blkback_close(bb);
	return err;
}

void blkback_close(struct blkback *bb)
{
	if (bb->bdev)
		blkdev_put(bb->bdev, bb->mode);
	bb->bdev = NULL;
}

/* ---- what it offers ---------------------------------------------------- */

/* What the toolstack has written about something that it need not allow. */
static int limit(struct blkback *bb, const char *node, u32 lo, u32 hi,
		 u32 *number)
{
	*number = hi;
	return blkback_read_number(bb, bb->xbdev->nodename, node, lo, hi,
				   number);
}

static int allowed(struct blkback *bb, const char *node, bool *feature)
{
	u32 on;
	int err = limit(bb, node, 0, 1, &on);

	*feature = on;
	return err;
}

static int read_features(struct blkback *bb)
{
	struct blkback_features *f = &bb->features;
	int err;

	err = allowed(bb, "flush-cache-enable", &f->flush) ?:
	      allowed(bb, "barrier-enable", &f->barrier) ?:
	      allowed(bb, "persistent-enable", &f->persistent) ?:
	      allowed(bb, "discard-enable", &f->discard) ?:
	      limit(bb, "indirect-segments-limit", 0, BLKBACK_MAX_SEGS,
		    &f->nr_segs) ?:
	      limit(bb, "ring-page-order-limit", 0, BLKBACK_MAX_ORDER,
		    &f->ring_order) ?:
	      limit(bb, "queues-limit", 1, BLKBACK_MAX_RINGS, &f->nr_queues);
	f->discard &= !bb->readonly && bdev_max_discard_sectors(bb->bdev);
	return err;
}

static int publish_features(struct blkback *bb, u32 granularity)
{
	const struct blkback_features *f = &bb->features;
	u32 alignment = bdev_discard_alignment(bb->bdev) % granularity;
	const struct blkback_node nodes[] = {
		{ "feature-flush-cache", f->flush },
		{ "feature-barrier", f->barrier },
		{ "feature-persistent", f->persistent },
		{ "feature-max-indirect-segments", f->nr_segs },
		{ "max-ring-page-order", f->ring_order },
		{ "multi-queue-max-queues", f->nr_queues },
		{ "feature-discard", f->discard },
		/* From here on only with the last one. */
		{ "discard-granularity", granularity },
		{ "discard-alignment", alignment },
		{ "discard-secure", 0 },
	};

	return blkback_publish(bb, XenbusStateInitWait, nodes,
			       ARRAY_SIZE(nodes) - (f->discard ? 0 : 3));
}

/* Say what the disk can do, and wait for the frontend. */
int blkback_offer(struct blkback *bb)
{
	u32 granularity = max(bdev_discard_granularity(bb->bdev),
			      bb->sector_size);

	return read_features(bb) ?: publish_features(bb, granularity);
}

/* blkif.h: a multiple of a sector, and the disk is a multiple of it. */
static u32 physical_sector_size(struct blkback *bb)
{
	u32 size = bdev_physical_block_size(bb->bdev);

	if (size < bb->sector_size || bb->sectors % (size >> SECTOR_SHIFT))
		return bb->sector_size;
	return size;
}

static u32 kind_of_disk(struct blkback *bb)
{
	u32 info = 0;

	if (bb->readonly)
		info |= VDISK_READONLY;
	if (own_is(bb, "removable", "1"))
		info |= VDISK_REMOVABLE;
	if (own_is(bb, "device-type", "cdrom"))
		info |= VDISK_CDROM;
	return info;
}

/* Say what the disk is like, and that it is there. */
int blkback_announce(struct blkback *bb)
{
	const struct blkback_node nodes[] = {
		{ "sectors", bb->sectors },
		{ "info", kind_of_disk(bb) },
		{ "sector-size", bb->sector_size },
		{ "physical-sector-size", physical_sector_size(bb) },
	};

	return blkback_publish(bb, XenbusStateConnected, nodes,
			       ARRAY_SIZE(nodes));
}
