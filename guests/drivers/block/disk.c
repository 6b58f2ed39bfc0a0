// SPDX-License-Identifier: GPL-2.0-only
/* The gendisk /dev/xvd*, from when the backend is connected until it closes. */
#include <linux/blkdev.h>
#include <linux/cdrom.h>
#include <linux/hdreg.h>
#include <linux/uaccess.h>
#include "pvblk.h"

#define XVD_MINORS	16		/* of a disk and its partitions */
#define XVD_EXTENDED	BIT(28)		/* vdevice: 1 << 28 | disk << 8 */
#define XVD_EXT_MINORS	256

/* Answers that take longer make us look whether an event was lost. */
#define REQUEST_TIMEOUT	(30 * HZ)

/* ---- operations -------------------------------------------------------- */

static void xvd_release(struct gendisk *disk, fmode_t mode)
{
	struct pvblk *info = disk->private_data;

	/* A disk that was in use when the backend wanted to close it. */
	if (!info->gone && !disk_openers(disk) &&
	    READ_ONCE(info->xbdev->state) == XenbusStateClosing)
		queue_work(system_long_wq, &info->work);
}

/* The last one to close a disk may come long after its device has gone. */
static void xvd_free_disk(struct gendisk *disk)
{
	struct pvblk *info = disk->private_data;

	kref_put(&info->ref, pvblk_free_info);
}

/* No medium to change, no tray: as Linux's frontend, only what asks for that. */
static int xvd_ioctl(struct block_device *bdev, fmode_t mode, unsigned int cmd,
		     unsigned long arg)
{
	struct pvblk *info = bdev->bd_disk->private_data;

	if (!(info->geometry.info & VDISK_CDROM))
		return -ENOTTY;
	switch (cmd) {
	case CDROMMULTISESSION:
		return clear_user((void __user *)arg,
				  sizeof(struct cdrom_multisession)) ?
		       -EFAULT : 0;
	case CDROM_GET_CAPABILITY:
		return 0;
	default:
		return -ENOTTY;
	}
}

static int xvd_getgeo(struct block_device *bdev, struct hd_geometry *geo)
{
	sector_t cylinders = get_capacity(bdev->bd_disk);

	geo->heads = 255;
	geo->sectors = 63;
	sector_div(cylinders, geo->heads * geo->sectors);
	geo->cylinders = min_t(sector_t, cylinders, U16_MAX);
	return 0;
}

static const struct block_device_operations xvd_fops = {
	.owner = THIS_MODULE,
	.release = xvd_release,
	.free_disk = xvd_free_disk,
	.ioctl = xvd_ioctl,
	.compat_ioctl = blkdev_compat_ptr_ioctl,
	.getgeo = xvd_getgeo,
};

/* ---- making it --------------------------------------------------------- */

/* The major, minors and name that a vdevice number stands for. */
static int place_disk(struct gendisk *disk, u32 vdevice)
{
	unsigned int index, n;
	char letters[8], *p = letters + sizeof(letters) - 1;

	if (vdevice & XVD_EXTENDED) {
		index = (vdevice & ~XVD_EXTENDED) >> 8;
		disk->minors = XVD_EXT_MINORS;
	} else if (vdevice >> 8 == XVD_MAJOR) {
		index = (vdevice & 0xff) / XVD_MINORS;
		disk->minors = XVD_MINORS;
	} else {
		return -ENODEV;
	}
	if (index >= (MINORMASK + 1) / disk->minors)
		return -ERANGE;
	disk->major = XVD_MAJOR;
	disk->first_minor = index * disk->minors;
	*p = '\0';
	for (n = index + 1; n; n = (n - 1) / 26)
		*--p = 'a' + (n - 1) % 26;
	snprintf(disk->disk_name, DISK_NAME_LEN, "xvd%s", p);
	return 0;
}

static void set_discard(struct pvblk *info)
{
	struct request_queue *q = info->disk->queue;
	const struct pvblk_features *f = &info->features;
	u32 granularity = max(f->discard_granularity,
			      info->geometry.sector_size);

	if (!f->discard || granularity % info->geometry.sector_size) {
		blk_queue_max_discard_sectors(q, 0);
		return;
	}
	q->limits.discard_granularity = granularity;
	q->limits.discard_alignment = f->discard_alignment;
	blk_queue_max_discard_sectors(q, UINT_MAX >> SECTOR_SHIFT);
}

/* Limits that may differ with the next backend. */
static void set_features(struct pvblk *info)
{
	set_discard(info);
	blk_queue_write_cache(info->disk->queue, info->features.flush_op,
			      false);
}

static void set_limits(struct pvblk *info)
{
	struct request_queue *q = info->disk->queue;
	unsigned int sectors = pvblk_max_sectors(info);

	blk_queue_logical_block_size(q, info->geometry.sector_size);
	blk_queue_physical_block_size(q, info->geometry.physical_sector_size);
	blk_queue_max_hw_sectors(q, sectors);
	/* Data is packed into frames of its own, however it is scattered. */
	blk_queue_max_segments(q, sectors);
	blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	set_features(info);
}

static int alloc_tags(struct pvblk *info)
{
	struct blk_mq_tag_set *set = &info->tag_set;

	memset(set, 0, sizeof(*set));
	set->ops = &pvblk_mq_ops;
	set->nr_hw_queues = info->nr_pools;
	set->nr_maps = info->nr_poll_pools ? HCTX_MAX_TYPES : 1;
	set->queue_depth = info->rings[0].nr_slots;
	set->cmd_size = sizeof(struct pvblk_request);
	set->numa_node = NUMA_NO_NODE;
	set->timeout = REQUEST_TIMEOUT;
	set->flags = BLK_MQ_F_SHOULD_MERGE | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	set->driver_data = info;
	return blk_mq_alloc_tag_set(set);
}

int pvblk_make_disk(struct pvblk *info)
{
	struct gendisk *disk;
	int err;

	err = pvblk_read_geometry(info, &info->geometry);
	if (!err)
		err = alloc_tags(info);
	if (err)
		return err;
	disk = blk_mq_alloc_disk(&info->tag_set, info);
	if (IS_ERR(disk)) {
		blk_mq_free_tag_set(&info->tag_set);
		return PTR_ERR(disk);
	}
	info->disk = disk;
	info->added = false;
	kref_get(&info->ref);
	disk->fops = &xvd_fops;
	disk->private_data = info;
	err = place_disk(disk, info->vdevice);
	if (err) {
		pvblk_remove_disk(info);
		return err;
	}
	set_limits(info);
	set_capacity(disk, info->geometry.sectors);
	set_disk_ro(disk, info->geometry.info & VDISK_READONLY);
	if (info->geometry.info & VDISK_REMOVABLE)
		disk->flags |= GENHD_FL_REMOVABLE;
	return 0;
}

/* The backend says that the size has changed. */
int pvblk_resize_disk(struct pvblk *info)
{
	struct pvblk_geometry g;
	int err = pvblk_read_geometry(info, &g);

	if (err)
		return err;
	/* Whoever uses the disk has aligned to its sectors. */
	if (g.sector_size != info->geometry.sector_size)
		return -EINVAL;
	info->geometry = g;
	if (g.sectors != get_capacity(info->disk))
		set_capacity_and_notify(info->disk, g.sectors);
	return 0;
}

/* What a backend that was reborn offers may be something else. */
int pvblk_update_disk(struct pvblk *info)
{
	int err = pvblk_resize_disk(info);

	if (!err)
		set_features(info);
	return err;
}

/* ---- adding and removing it -------------------------------------------- */

/*
 * Adding a disk reads its partition table. So that happens in a work item of its
 * own: the backend may die over it, which the other one has to see to.
 */
void pvblk_add_disk(struct work_struct *work)
{
	struct pvblk *info = container_of(work, struct pvblk, add_work);

	info->add_error = device_add_disk(&info->xbdev->dev, info->disk, NULL);
	info->added = !info->add_error;
	/* What came of it is known before it is over. */
	smp_store_release(&info->adding, false);
	queue_work(system_long_wq, &info->work);
}

void pvblk_remove_disk(struct pvblk *info)
{
	struct gendisk *disk = info->disk;

	if (!disk)
		return;
	if (info->added) {
		/* Whoever still has it open is not waited for at the end. */
		if (info->removing)
			blk_mark_disk_dead(disk);
		del_gendisk(disk);
	}
	info->disk = NULL;
	/* Only a disk that was never added still needs its tags to go. */
	if (!info->added)
		put_disk(disk);
	blk_mq_free_tag_set(&info->tag_set);
	if (info->added)
		put_disk(disk);
	info->added = false;
}
