// SPDX-License-Identifier: GPL-2.0-only
/*
 * A disk that this domain serves: its XenBus states. Everything that changes state
 * runs in one work item, so it needs no lock, and the watches that start it never
 * wait for a slow disk.
 */
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include "blkback.h"

/* ---- writing our state ------------------------------------------------- */

static int write_all(struct blkback *bb, struct pvbus_transaction t,
		     enum xenbus_state current_state, enum xenbus_state state,
		     const struct blkback_node *nodes, u32 nr)
{
	const char *dir = bb->xbdev->nodename;
	int err = 0;
	u32 i;

	for (i = 0; i < nr && !err; i++)
		err = pvbus_printf(bb->link, t, dir, nodes[i].name, "%llu",
				   nodes[i].value);
	/* One that has been told to close does not get connected any more. */
	if (err || (current_state == XenbusStateClosing &&
		    state == XenbusStateConnected))
		return err;
	if (nr || current_state != state)
		err = pvbus_printf(bb->link, t, dir, "state", "%d", state);
	return err;
}

/* -ENOENT: the device is gone, or another one is in its place. */
static int try_publish(struct blkback *bb, enum xenbus_state state,
		       const struct blkback_node *nodes, u32 nr)
{
	enum xenbus_state current_state;
	struct pvbus_transaction t;
	int err, end;

	err = pvbus_transaction_start(bb->link, &t);
	if (err)
		return err;
	err = pvbus_scanf(bb->link, t, bb->xbdev->nodename, "state", "%u",
			  &current_state);
	if (err == 1) {
		err = 0;
		if (current_state == XenbusStateInitialising &&
		    bb->xbdev->state != XenbusStateInitialising)
			err = -ENOENT;
	}
	if (!err)
		err = write_all(bb, t, current_state, state, nodes, nr);
	end = pvbus_transaction_end(bb->link, t, err < 0);
	return err < 0 ? err : end;
}

/* Stop serving, without a word to the frontend. */
static void let_go(struct blkback *bb)
{
	blkback_disconnect(bb);
	blkback_close(bb);
}

/*
 * Write numbers and the state, in one transaction; what is there already is
 * written again when there are numbers, so that the frontend looks once more.
 */
int blkback_publish(struct blkback *bb, enum xenbus_state state,
		    const struct blkback_node *nodes, u32 nr)
{
	int err;

	do {
		err = try_publish(bb, state, nodes, nr);
	} while (err == -EAGAIN);
	if (err == -ENOENT) {
		/* The toolstack has removed the device under us. */
		bb->gone = true;
		let_go(bb);
		err = 0;
	}
	if (err)
		dev_err(&bb->xbdev->dev, "cannot switch to state %d: error %d\n",
			state, err);
	else
		bb->xbdev->state = state;
	return err;
}

static void switch_to(struct blkback *bb, enum xenbus_state state)
{
	if (bb->xbdev->state != state)
		blkback_publish(bb, state, NULL, 0);
}

/* ---- following the frontend -------------------------------------------- */

/* Stop serving, and ask the frontend to close. Why has been reported. */
static void fail(struct blkback *bb)
{
	let_go(bb);
	switch_to(bb, XenbusStateClosing);
}

/* Offer what there is, once there is something. */
static void begin(struct blkback *bb)
{
	int err = blkback_open(bb);

	if (err == -ENOENT)
		return;
	if (!err)
		err = blkback_offer(bb);
	if (err)
		fail(bb);
}

static void begin_anew(struct blkback *bb)
{
	let_go(bb);
	begin(bb);
}

static void connect_frontend(struct blkback *bb)
{
	int err;

	/* Somebody may have had it closed in between. */
	err = bb->bdev ? blkback_measure(bb) : -ENODEV;
	if (!err)
		err = blkback_connect(bb);
	if (!err)
		err = blkback_announce(bb);
	if (err)
		fail(bb);
}

static bool online(struct blkback *bb)
{
	return pvbus_read_unsigned(bb->link, bb->xbdev->nodename, "online",
				   0) == 1;
}

static void follow_to_the_end(struct blkback *bb)
{
	let_go(bb);
	switch_to(bb, XenbusStateClosed);
}

/* The frontend has set up its half, or uses ours. */
static void front_is_ready(struct blkback *bb, enum xenbus_state front)
{
	switch (bb->xbdev->state) {
	case XenbusStateInitWait:
		connect_frontend(bb);
		break;
	case XenbusStateConnected:
		/* Was it told to close before it was connected again? */
		if (front == XenbusStateConnected && !online(bb))
			switch_to(bb, XenbusStateClosing);
		break;
	default:
		/* Once we are closing, it has to follow first. */
		break;
	}
}

static void follow_frontend(struct blkback *bb)
{
	enum xenbus_state own = bb->xbdev->state;
	enum xenbus_state front = pvbus_read_otherend_state(bb->xbdev);

	if (front != XenbusStateConnected && front != XenbusStateClosing)
		bb->orphaned = false;
	else if (bb->orphaned)
		return;
	switch (front) {
	case XenbusStateInitialising:
		/*
		 * One that is back at the start without having closed has been
		 * restarted, or is playing games.
		 */
		if (own == XenbusStateClosed || own == XenbusStateConnected)
			begin_anew(bb);
		break;
	case XenbusStateInitialised:
	case XenbusStateConnected:
		front_is_ready(bb, front);
		break;
	case XenbusStateClosing:
		if (own != XenbusStateClosed)
			switch_to(bb, XenbusStateClosing);
		break;
	case XenbusStateClosed:
		follow_to_the_end(bb);
		break;
	case XenbusStateUnknown:
		if (!pvbus_exists(bb->link, PVBUS_NIL, bb->xbdev->otherend,
				  "state"))
			follow_to_the_end(bb);
		break;
	default:
		break;
	}
}

/* ---- what else may happen ---------------------------------------------- */

/* The toolstack asks for a look at the size. */
static void resize(struct blkback *bb)
{
	struct blkback_node nodes[] = {
		{ "resize", 0 },
		{ "sectors", 0 },
	};
	u32 nr = 1;

	if (pvbus_read_unsigned(bb->link, bb->xbdev->nodename, "resize",
				0) != 1)
		return;
	if (bb->bdev && !blkback_measure(bb)) {
		nodes[1].value = bb->sectors;
		nr = 2;
	}
	blkback_publish(bb, bb->xbdev->state, nodes, nr);
}

/* Any context: this frontend cannot be served any more. */
void blkback_complain(struct blkback *bb, const char *complaint, u64 value)
{
	bb->complaint_value = value;
	/* The complaint comes with its value. */
	smp_store_release(&bb->complaint, complaint);
	queue_work(system_long_wq, &bb->work);
}

static void hear_complaint(struct blkback *bb)
{
	const char *complaint;

	/* Its value is there when it is. */
	complaint = smp_load_acquire(&bb->complaint);
	if (!complaint)
		return;
	let_go(bb);
	pvbus_dev_error(bb->xbdev, -EACCES, "%s: %llu", complaint,
			bb->complaint_value);
	bb->complaint = NULL;
	switch_to(bb, XenbusStateClosing);
}

/*
 * One that has closed, as it finds us when this module is loaded again, is offered
 * something when it begins anew: now it is only told that we have closed as well,
 * and whoever comes next could take the offer for its own before it is withdrawn.
 */
static bool frontend_has_closed(struct blkback *bb)
{
	return pvbus_read_otherend_state(bb->xbdev) == XenbusStateClosed;
}

static void advance(struct work_struct *work)
{
	struct blkback *bb = container_of(work, struct blkback, work);

	if (READ_ONCE(bb->removing) || bb->gone)
		return;
	hear_complaint(bb);
	if (bb->xbdev->state == XenbusStateInitialising &&
	    !frontend_has_closed(bb))
		begin(bb);
	if (!bb->gone)
		resize(bb);
	if (!bb->gone)
		follow_frontend(bb);
}

static void otherend_changed(struct pvbus_device *xbdev,
			     enum xenbus_state state)
{
	struct blkback *bb = dev_get_drvdata(&xbdev->dev);

	queue_work(system_long_wq, &bb->work);
}

static void path_changed(struct pvbus_watch *watch)
{
	queue_work(system_long_wq,
		   &container_of(watch, struct blkback, path_watch)->work);
}

static void resize_changed(struct pvbus_watch *watch)
{
	queue_work(system_long_wq,
		   &container_of(watch, struct blkback, resize_watch)->work);
}

/* ---- the driver -------------------------------------------------------- */

static void init_rings(struct blkback *bb)
{
	u32 i;

	for (i = 0; i < BLKBACK_MAX_RINGS; i++) {
		struct blkback_ring *ring = &bb->rings[i];

		ring->bb = bb;
		ring->index = i;
		snprintf(ring->name, sizeof(ring->name), "back-vbd-%u-%s-%u",
			 bb->xbdev->otherend_id, bb->devid, i);
		spin_lock_init(&ring->lock);
		init_waitqueue_head(&ring->wake);
		init_waitqueue_head(&ring->drained);
		hash_init(ring->kept);
		INIT_LIST_HEAD(&ring->lru);
	}
}

static void free_blkback(struct blkback *bb)
{
	kfree(bb->path_node);
	kfree(bb->resize_node);
	kvfree(bb);
}

static int watch_own(struct blkback *bb)
{
	int err;

	bb->path_watch.node = bb->path_node;
	bb->path_watch.callback = path_changed;
	bb->resize_watch.node = bb->resize_node;
	bb->resize_watch.callback = resize_changed;
	err = pvbus_register_watch(bb->link, &bb->path_watch);
	if (err)
		return err;
	err = pvbus_register_watch(bb->link, &bb->resize_watch);
	if (err)
		pvbus_unregister_watch(&bb->path_watch);
	return err;
}

static struct blkback *new_blkback(struct pvbus_device *xbdev)
{
	struct blkback *bb = kvzalloc(sizeof(*bb), GFP_KERNEL);

	if (!bb)
		return NULL;
	bb->xbdev = xbdev;
	bb->link = xbdev->link;
	bb->devid = kbasename(xbdev->nodename);
	bb->path_node = kasprintf(GFP_KERNEL, "%s/physical-device-path",
				  xbdev->nodename);
	bb->resize_node = kasprintf(GFP_KERNEL, "%s/resize", xbdev->nodename);
	if (!bb->path_node || !bb->resize_node) {
		free_blkback(bb);
		return NULL;
	}
	init_rings(bb);
	INIT_WORK(&bb->work, advance);
	return bb;
}

/*
 * A frontend that is connected already was so to a predecessor, which has died. Its
 * ring belongs to that: first it has to leave that state and share a new one.
 */
static int find_orphan(struct blkback *bb)
{
	enum xenbus_state front;
	int n;

	n = pvbus_scanf(bb->link, PVBUS_NIL, bb->xbdev->otherend, "state", "%u",
			&front);
	bb->orphaned = n == 1 && (front == XenbusStateConnected ||
				  front == XenbusStateClosing);
	/* Not to know it would be to serve the old ring once more. */
	return n < 0 && n != -ENOENT && n != -ERANGE ? n : 0;
}

static int probe(struct pvbus_device *xbdev)
{
	struct blkback *bb = new_blkback(xbdev);
	int err;

	if (!bb)
		return -ENOMEM;
	dev_set_drvdata(&xbdev->dev, bb);
	err = find_orphan(bb) ?: watch_own(bb);
	if (err) {
		cancel_work_sync(&bb->work);
		free_blkback(bb);
	}
	return err;
}

static void remove(struct pvbus_device *xbdev)
{
	struct blkback *bb = dev_get_drvdata(&xbdev->dev);

	WRITE_ONCE(bb->removing, true);
	pvbus_unregister_watch(&bb->path_watch);
	pvbus_unregister_watch(&bb->resize_watch);
	cancel_work_sync(&bb->work);
	/* Rings that are broken may complain until they are gone. */
	let_go(bb);
	cancel_work_sync(&bb->work);
	free_blkback(bb);
}

static struct pvbus_driver blkback_driver = {
	.name = "pvblkback",
	.type = "vbd",
	.backend = true,
	.probe = probe,
	.remove = remove,
	.otherend_changed = otherend_changed,
	.driver.dev_groups = blkback_groups,
};

static int __init blkback_init(void)
{
	return pvbus_register_driver(&blkback_driver);
}
module_init(blkback_init);

static void __exit blkback_exit(void)
{
	pvbus_unregister_driver(&blkback_driver);
}
module_exit(blkback_exit);

MODULE_DESCRIPTION("Xen block device backend over an ivshmem link");
MODULE_ALIAS("pvbus-backend-vbd");
MODULE_LICENSE("GPL");
