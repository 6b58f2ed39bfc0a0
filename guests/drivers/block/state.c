// SPDX-License-Identifier: GPL-2.0-only
/*
 * A disk on the bus: its XenBus states. Everything that changes state runs in one
 * work item, so it needs no lock, and the watch that starts it never waits for a
 * slow disk.
 */
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/slab.h>
#include "pvblk.h"

/* ---- connecting -------------------------------------------------------- */

static void start_sharing(struct pvblk *info)
{
	int err = pvblk_share(info);

	if (!err)
		err = pvbus_switch_state(info->xbdev, XenbusStateInitialised);
	if (err)
		pvbus_dev_fatal(info->xbdev, err, "sharing a ring");
}

static void connect_new(struct pvblk *info)
{
	int err = pvblk_make_disk(info);

	if (!err) {
		pvblk_listen(info);
		/* Before the disk is added, since that reads from it. */
		err = pvbus_switch_state(info->xbdev, XenbusStateConnected);
	}
	if (err) {
		pvbus_dev_fatal(info->xbdev, err, "making the disk");
		return;
	}
	info->adding = true;
	queue_work(system_long_wq, &info->add_work);
}

/* Let the block layer go on, with what had no answer first. */
static void resume_queue(struct pvblk *info)
{
	if (!info->suspended)
		return;
	info->suspended = false;
	blk_mq_start_stopped_hw_queues(info->disk->queue, true);
	blk_mq_kick_requeue_list(info->disk->queue);
	blk_mq_unquiesce_queue(info->disk->queue);
}

/* Nobody will answer: whatever waits or comes fails at once. */
static void fail_all(struct pvblk *info)
{
	pvblk_break(info);
	resume_queue(info);
}

static void connect_again(struct pvblk *info)
{
	int err = pvblk_update_disk(info);

	if (!err)
		err = pvbus_switch_state(info->xbdev, XenbusStateConnected);
	if (err) {
		pvbus_dev_fatal(info->xbdev, err, "using the disk again");
		fail_all(info);
		return;
	}
	pvblk_listen(info);
	resume_queue(info);
}

/* The backend writes Connected once more: the disk may have another size. */
static void connected(struct pvblk *info)
{
	int err;

	switch (info->xbdev->state) {
	case XenbusStateInitialising:
		start_sharing(info);
		break;
	case XenbusStateInitialised:
		if (info->disk)
			connect_again(info);
		else
			connect_new(info);
		break;
	case XenbusStateConnected:
		err = pvblk_resize_disk(info);
		if (err)
			pvbus_dev_error(info->xbdev, err, "taking the new size of the disk");
		break;
	default:
		break;
	}
}

/*
 * The backend waits for us while we are connected: it has died, and a new one has
 * taken its place. The disk stays, and so do its users; their requests wait, and
 * those that the old one has not answered are sent again to the new one.
 */
static void reborn(struct pvblk *info)
{
	dev_info(&info->xbdev->dev, "the backend begins anew: %s waits for it\n",
		 info->disk->disk_name);
	if (!info->suspended) {
		info->suspended = true;
		blk_mq_quiesce_queue(info->disk->queue);
	}
	pvblk_unshare_rings(info);
	pvblk_withdraw(info);
	if (!pvbus_switch_state(info->xbdev, XenbusStateInitialising))
		start_sharing(info);
}

/* The backend offers its features. */
static void offered(struct pvblk *info)
{
	switch (info->xbdev->state) {
	case XenbusStateInitialising:
		start_sharing(info);
		break;
	case XenbusStateConnected:
		reborn(info);
		break;
	case XenbusStateClosing:
		/* The one that was to close lives no more. */
		fail_all(info);
		break;
	default:
		break;
	}
}

/* ---- closing ----------------------------------------------------------- */

/* No disk any more, and nothing shared once the backend has let go. */
static void close_device(struct pvblk *info)
{
	struct pvbus_device *xbdev = info->xbdev;

	flush_work(&info->add_work);
	pvblk_remove_disk(info);
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
	/* One that never got as far as serving us will not do it now. */
	if (info->suspended)
		fail_all(info);
	if (info->disk && disk_openers(info->disk)) {
		dev_warn(&info->xbdev->dev, "%s is in use: it closes when the last user has gone\n",
			 info->disk->disk_name);
		pvbus_switch_state(info->xbdev, XenbusStateClosing);
		/* Only from now on does the last one to go tell us. */
		if (disk_openers(info->disk))
			return;
	}
	close_device(info);
}

/* ---- all of it --------------------------------------------------------- */

/* Something of our own has gone wrong: false when there is nothing more to do. */
static bool sound(struct pvblk *info)
{
	const char *complaint;

	/* Its value is there when it is. */
	complaint = smp_load_acquire(&info->complaint);
	if (info->xbdev->state != XenbusStateConnected)
		return true;
	if (complaint) {
		fail_all(info);
		pvbus_dev_fatal(info->xbdev, -EPROTO, "%s (%llu)", complaint,
				info->complaint_value);
		return false;
	}
	if (!READ_ONCE(info->adding) && info->add_error) {
		pvbus_dev_fatal(info->xbdev, info->add_error,
				"adding the disk");
		return false;
	}
	return true;
}

static void follow_backend(struct pvblk *info)
{
	enum xenbus_state own = info->xbdev->state;

	switch (READ_ONCE(info->backend_state)) {
	case XenbusStateInitWait:
		offered(info);
		break;
	case XenbusStateInitialised:
		if (own == XenbusStateInitialising)
			start_sharing(info);
		break;
	case XenbusStateConnected:
		connected(info);
		break;
	case XenbusStateClosing:
		/* Who adds the disk lets us know when that is over. */
		if (own != XenbusStateClosed && !READ_ONCE(info->adding))
			closing(info);
		break;
	case XenbusStateClosed:
		/* Before it has begun, it only has not noticed us yet. */
		if (own != XenbusStateClosed &&
		    (own != XenbusStateInitialising || info->disk)) {
			fail_all(info);
			close_device(info);
		}
		break;
	default:
		break;
	}
}

static void advance(struct work_struct *work)
{
	struct pvblk *info = container_of(work, struct pvblk, work);

	if (!READ_ONCE(info->removing) && sound(info))
		follow_backend(info);
}

static void otherend_changed(struct pvbus_device *xbdev,
			     enum xenbus_state state)
{
	struct pvblk *info = dev_get_drvdata(&xbdev->dev);

	WRITE_ONCE(info->backend_state, state);
	queue_work(system_long_wq, &info->work);
}

/* ---- the driver -------------------------------------------------------- */

void pvblk_free_info(struct kref *ref)
{
	kfree(container_of(ref, struct pvblk, ref));
}

static void init_rings(struct pvblk *info)
{
	u32 i;

	for (i = 0; i < PVBLK_MAX_RINGS; i++) {
		struct pvblk_ring *ring = &info->rings[i];

		ring->info = info;
		ring->index = i;
		spin_lock_init(&ring->lock);
		snprintf(ring->name, sizeof(ring->name), "vbd-%u-%u",
			 info->vdevice, i);
	}
}

static int probe(struct pvbus_device *xbdev)
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
	init_rings(info);
	INIT_WORK(&info->work, advance);
	INIT_WORK(&info->add_work, pvblk_add_disk);
	dev_set_drvdata(&xbdev->dev, info);
	return 0;
}

static void remove(struct pvbus_device *xbdev)
{
	struct pvblk *info = dev_get_drvdata(&xbdev->dev);

	/*
	 * A closed disk has nothing in flight that matters, and users of an open
	 * one lose it now. Nobody must wait for a backend that may be dead.
	 */
	WRITE_ONCE(info->removing, true);
	pvblk_break(info);
	cancel_work_sync(&info->work);
	fail_all(info);
	flush_work(&info->add_work);
	if (info->disk) {
		mutex_lock(&info->disk->open_mutex);
		info->gone = true; /* its release() starts no work now */
		mutex_unlock(&info->disk->open_mutex);
	}
	cancel_work_sync(&info->work);
	close_device(info);
	cancel_work_sync(&info->work);
	kref_put(&info->ref, pvblk_free_info);
}

static struct pvbus_driver pvblk_driver = {
	.name = "pvblk",
	.type = "vbd",
	.probe = probe,
	.remove = remove,
	.otherend_changed = otherend_changed,
	.driver.dev_groups = pvblk_groups,
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
