// SPDX-License-Identifier: GPL-2.0-only
/*
 * A disk of the bus: its XenBus states, and the gendisk /dev/xvd* while it is
 * connected. Everything that changes state runs in one work item, so it needs no
 * lock, and the watch that starts it never waits for a slow disk.
 */
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/slab.h>
#include "pvblk.h"

#define XVD_MAJOR	202
#define XVD_MINORS	16		/* of a disk and its partitions */
#define XVD_EXTENDED	BIT(28)		/* vdevice: 1 << 28 | disk << 8 */
#define XVD_EXT_MINORS	256

/* Answers that take longer make us look whether an event was lost. */
#define REQUEST_TIMEOUT	(30 * HZ)

/* What the backend publishes about its disk, after checks. */
struct geometry {
	u64 sectors;			/* of 512 bytes */
	unsigned int sector_size;
	unsigned int physical_sector_size;
	unsigned int info;		/* VDISK_... */
	bool flush;
};

/* ---- the gendisk ------------------------------------------------------- */

static void pvblk_release(struct gendisk *disk, fmode_t mode)
{
	struct pvblk *info = disk->private_data;

	/* A disk that was in use when the backend wanted to close it. */
	if (!info->gone && !disk_openers(disk))
		queue_work(system_long_wq, &info->work);
}

static void free_info(struct kref *ref)
{
	kfree(container_of(ref, struct pvblk, ref));
}

/* The last one to close a disk may come long after its device has gone. */
static void pvblk_free_disk(struct gendisk *disk)
{
	struct pvblk *info = disk->private_data;

	kref_put(&info->ref, free_info);
}

static const struct block_device_operations pvblk_fops = {
	.owner = THIS_MODULE,
	.release = pvblk_release,
	.free_disk = pvblk_free_disk,
};

static bool power_of_two_within(unsigned int n, unsigned int lo,
				unsigned int hi)
{
	return n >= lo && n <= hi && is_power_of_2(n);
}

static int read_geometry(struct pvblk *info, struct geometry *g)
{
	const char *backend = info->xbdev->otherend;
	struct link *link = info->link;

	if (pvbus_scanf(link, PVBUS_NIL, backend, "sectors", "%llu",
			&g->sectors) != 1)
		return -EINVAL;
	g->sector_size = pvbus_read_unsigned(link, backend, "sector-size",
					     SECTOR_SIZE);
	g->physical_sector_size = pvbus_read_unsigned(link, backend,
						      "physical-sector-size",
						      g->sector_size);
	g->info = pvbus_read_unsigned(link, backend, "info", 0);
	g->flush = pvbus_read_unsigned(link, backend, "feature-flush-cache", 0);
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

static void set_limits(struct pvblk *info, const struct geometry *g)
{
	struct request_queue *q = info->disk->queue;
	unsigned int sectors = info->nr_segs * SECTORS_PER_FRAME;

	blk_queue_logical_block_size(q, g->sector_size);
	blk_queue_physical_block_size(q, g->physical_sector_size);
	blk_queue_max_hw_sectors(q, sectors);
	/* Data is packed into frames of its own, however it is scattered. */
	blk_queue_max_segments(q, sectors);
	blk_queue_write_cache(q, g->flush, false);
	blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
}

static int make_disk(struct pvblk *info, const struct geometry *g)
{
	struct blk_mq_tag_set *set = &info->tag_set;
	int err;

	memset(set, 0, sizeof(*set));
	set->ops = &pvblk_mq_ops;
	set->nr_hw_queues = 1;
	set->queue_depth = PVBLK_SLOTS;
	set->numa_node = NUMA_NO_NODE;
	set->timeout = REQUEST_TIMEOUT;
	set->flags = BLK_MQ_F_SHOULD_MERGE | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	err = blk_mq_alloc_tag_set(set);
	if (err)
		return err;
	info->disk = blk_mq_alloc_disk(set, info);
	if (IS_ERR(info->disk)) {
		err = PTR_ERR(info->disk);
		goto out_tags;
	}
	err = place_disk(info->disk, info->vdevice);
	if (err)
		goto out_disk;
	info->disk->fops = &pvblk_fops;
	info->disk->private_data = info;
	set_limits(info, g);
	set_capacity(info->disk, g->sectors);
	set_disk_ro(info->disk, g->info & VDISK_READONLY);
	if (g->info & VDISK_REMOVABLE)
		info->disk->flags |= GENHD_FL_REMOVABLE;
	return 0;

out_disk:
	put_disk(info->disk);
out_tags:
	info->disk = NULL;
	blk_mq_free_tag_set(set);
	return err;
}

static int add_disk_of(struct pvblk *info)
{
	struct geometry g;
	int err;

	err = read_geometry(info, &g);
	if (err)
		return err;
	err = make_disk(info, &g);
	if (err)
		return err;
	kref_get(&info->ref);
	err = device_add_disk(&info->xbdev->dev, info->disk, NULL);
	if (err) {
		put_disk(info->disk);
		info->disk = NULL;
		blk_mq_free_tag_set(&info->tag_set);
		kref_put(&info->ref, free_info);
	}
	return err;
}

static void remove_disk(struct pvblk *info)
{
	struct gendisk *disk = info->disk;

	if (!disk)
		return;
	/* Who still has it open is not waited for when the device goes away. */
	if (info->removing)
		blk_mark_disk_dead(disk);
	del_gendisk(disk);
	info->disk = NULL;
	blk_mq_free_tag_set(&info->tag_set);
	put_disk(disk);
}

/* ---- XenBus states ----------------------------------------------------- */

static void start_sharing(struct pvblk *info)
{
	int err = pvblk_share(info);

	if (!err)
		err = pvbus_switch_state(info->xbdev, XenbusStateInitialised);
	if (err)
		pvbus_dev_fatal(info->xbdev, err, "sharing a ring");
}

static void connected(struct pvblk *info)
{
	int err;

	if (info->xbdev->state == XenbusStateConnected) {
		struct geometry g;

		/* Written once more: the capacity may have changed. */
		if (!read_geometry(info, &g) &&
		    g.sectors != get_capacity(info->disk))
			set_capacity_and_notify(info->disk, g.sectors);
		return;
	}
	/* Connected first, since adding the disk reads its partition table. */
	err = pvbus_switch_state(info->xbdev, XenbusStateConnected);
	if (!err)
		err = add_disk_of(info);
	if (err)
		pvbus_dev_fatal(info->xbdev, err, "adding the disk");
}

/* No disk any more, and nothing shared once the backend has let go. */
static void close_device(struct pvblk *info)
{
	struct pvbus_device *xbdev = info->xbdev;

	remove_disk(info);
	if (xbdev->state != XenbusStateClosed) {
		pvbus_switch_state(xbdev, XenbusStateClosing);
		pvbus_switch_state(xbdev, XenbusStateClosed);
		pvbus_wait_closed(xbdev);
	}
	pvblk_unshare(info);
}

/* The backend asks to close: not while the disk is in use. */
static void closing(struct pvblk *info)
{
	if (info->disk && disk_openers(info->disk)) {
		dev_warn(&info->xbdev->dev, "%s is in use: it closes when the last user has gone\n",
			 info->disk->disk_name);
		pvbus_switch_state(info->xbdev, XenbusStateClosing);
		return;
	}
	close_device(info);
}

static void advance(struct work_struct *work)
{
	struct pvblk *info = container_of(work, struct pvblk, work);
	enum xenbus_state own = info->xbdev->state;

	if (READ_ONCE(info->removing))
		return;
	if (READ_ONCE(info->cheated) && own == XenbusStateConnected) {
		pvbus_dev_fatal(info->xbdev, -EPROTO,
				"a response that makes no sense");
		return;
	}
	switch (READ_ONCE(info->backend_state)) {
	case XenbusStateInitWait:
	case XenbusStateInitialised:
		if (own == XenbusStateInitialising)
			start_sharing(info);
		break;
	case XenbusStateConnected:
		if (own == XenbusStateInitialising)
			start_sharing(info);
		else if (own == XenbusStateInitialised ||
			 own == XenbusStateConnected)
			connected(info);
		break;
	case XenbusStateClosing:
		if (own != XenbusStateClosed)
			closing(info);
		break;
	case XenbusStateClosed:
		/* Before it has begun, it only has not noticed us yet. */
		if (own != XenbusStateClosed && own != XenbusStateInitialising) {
			pvblk_break(info);
			close_device(info);
		}
		break;
	default:
		break;
	}
}

static void pvblk_otherend_changed(struct pvbus_device *xbdev,
				   enum xenbus_state state)
{
	struct pvblk *info = dev_get_drvdata(&xbdev->dev);

	WRITE_ONCE(info->backend_state, state);
	queue_work(system_long_wq, &info->work);
}

static int pvblk_probe(struct pvbus_device *xbdev)
{
	struct pvblk *info;
	int n;

	info = kzalloc(sizeof(*info), GFP_KERNEL);
	if (!info)
		return -ENOMEM;
	n = pvbus_scanf(xbdev->link, PVBUS_NIL, xbdev->nodename,
			"virtual-device", "%u", &info->vdevice);
	if (n != 1) {
		kfree(info);
		return n < 0 ? n : -EINVAL;
	}
	kref_init(&info->ref);
	info->xbdev = xbdev;
	info->link = xbdev->link;
	info->backend_state = XenbusStateUnknown;
	spin_lock_init(&info->lock);
	INIT_WORK(&info->work, advance);
	dev_set_drvdata(&xbdev->dev, info);
	return 0;
}

static void pvblk_remove(struct pvbus_device *xbdev)
{
	struct pvblk *info = dev_get_drvdata(&xbdev->dev);

	/*
	 * A closed disk has nothing in flight that matters, and users of an open
	 * one lose it now. Nobody must wait for a backend that may be dead, as
	 * the work would when it is just reading the partition table.
	 */
	WRITE_ONCE(info->removing, true);
	pvblk_break(info);
	cancel_work_sync(&info->work);
	if (info->disk) {
		mutex_lock(&info->disk->open_mutex);
		info->gone = true; /* its release() starts no work now */
		mutex_unlock(&info->disk->open_mutex);
		cancel_work_sync(&info->work);
	}
	close_device(info);
	cancel_work_sync(&info->work);
	kref_put(&info->ref, free_info);
}

static struct pvbus_driver pvblk_driver = {
	.name = "pvblk",
	.type = "vbd",
	.probe = pvblk_probe,
	.remove = pvblk_remove,
	.otherend_changed = pvblk_otherend_changed,
};

static int __init pvblk_init(void)
{
	int err = register_blkdev(XVD_MAJOR, "xvd");

	if (err < 0)
		return err;
	err = pvbus_register_driver(&pvblk_driver);
	if (err)
		unregister_blkdev(XVD_MAJOR, "xvd");
	return err;
}
module_init(pvblk_init);

static void __exit pvblk_exit(void)
{
	pvbus_unregister_driver(&pvblk_driver);
	unregister_blkdev(XVD_MAJOR, "xvd");
}
module_exit(pvblk_exit);

MODULE_DESCRIPTION("Xen block device frontend over an ivshmem link");
MODULE_ALIAS("pvbus-vbd");
MODULE_LICENSE("GPL");
