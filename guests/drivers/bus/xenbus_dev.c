// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/xen/xenbus: XenStore for programs in the guest, with the interface of
 * Linux's own, so that Xen's library and tools work as they are. A program writes
 * requests, in pieces if it likes, and reads answers and watch events. A write
 * returns when the store has answered.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/poll.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "xenbus_dev.h"

/* Held for reading by all that use a file's store, for writing when it goes. */
static DECLARE_RWSEM(store_sem);
static struct store *the_store;

static DEFINE_MUTEX(files_lock);
static LIST_HEAD(files);

/* ---- reading ----------------------------------------------------------- */

static bool readable(struct xenbus_file *file)
{
	return !list_empty(&file->queue) || READ_ONCE(file->overflowed) ||
	       !READ_ONCE(file->store);
}

/* As much as is there and wanted. Under the queue's lock. */
static ssize_t take_answers(struct xenbus_file *file, char __user *to,
			    size_t len)
{
	struct xenbus_answer *answer;
	size_t done = 0, n;

	while (done < len && !list_empty(&file->queue)) {
		answer = list_first_entry(&file->queue, struct xenbus_answer,
					  list);
		n = min_t(size_t, len - done, answer->len - answer->taken);
		if (copy_to_user(to + done, answer->bytes + answer->taken, n))
			return done ?: -EFAULT;
		answer->taken += n;
		done += n;
		if (answer->taken == answer->len) {
			list_del(&answer->list);
			file->queued -= answer->len;
			kfree(answer);
		}
	}
	if (!done && file->overflowed)
		return -ENOBUFS;
	if (!done && !READ_ONCE(file->store))
		return -ENODEV;
	return done;
}

static ssize_t xenbus_read(struct file *filp, char __user *to, size_t len,
			   loff_t *pos)
{
	struct xenbus_file *file = filp->private_data;
	ssize_t done;
	int err;

	if (!len)
		return 0;
	for (;;) {
		mutex_lock(&file->queue_lock);
		done = take_answers(file, to, len);
		mutex_unlock(&file->queue_lock);
		if (done)
			return done;
		if (filp->f_flags & O_NONBLOCK)
			return -EAGAIN;
		err = wait_event_interruptible(file->wait, readable(file));
		if (err)
			return err;
	}
}

static __poll_t xenbus_poll(struct file *filp, poll_table *wait)
{
	struct xenbus_file *file = filp->private_data;

	poll_wait(filp, &file->wait, wait);
	if (READ_ONCE(file->overflowed) || !READ_ONCE(file->store))
		return EPOLLIN | EPOLLRDNORM | EPOLLERR;
	return list_empty(&file->queue) ? 0 : EPOLLIN | EPOLLRDNORM;
}

/* ---- writing ----------------------------------------------------------- */

/*
 * Take in what the present request still lacks, as far as it is there; act on it
 * when it is complete. Returns the bytes taken or an errno.
 */
static ssize_t take_piece(struct xenbus_file *file, const char __user *from,
			  size_t len)
{
	const u32 header = sizeof(file->header);
	char *to;
	size_t n;
	int err;

	if (file->received < header) {
		to = (char *)&file->header + file->received;
		n = min_t(size_t, len, header - file->received);
	} else {
		to = file->body + file->received - header;
		n = min_t(size_t, len,
			  file->header.len - (file->received - header));
	}
	if (copy_from_user(to, from, n))
		return -EFAULT;
	file->received += n;
	if (file->received < header)
		return n;
	if (file->header.len > XENSTORE_PAYLOAD_MAX)
		return -E2BIG;
	if (file->received < header + file->header.len)
		return n;
	file->received = 0;
	file->body[file->header.len] = '\0';
	err = xenbus_file_request(file);
	return err ?: n;
}

static ssize_t xenbus_write(struct file *filp, const char __user *from,
			    size_t len, loff_t *pos)
{
	struct xenbus_file *file = filp->private_data;
	ssize_t taken = 0;
	size_t done = 0;

	down_read(&store_sem);
	mutex_lock(&file->lock);
	while (done < len && taken >= 0) {
		if (!file->store)
			taken = -ENODEV;
		else if (READ_ONCE(file->overflowed))
			taken = -ENOBUFS;
		else
			taken = take_piece(file, from + done, len - done);
		if (taken > 0)
			done += taken;
	}
	if (taken < 0)
		file->received = 0; /* the next write begins a request */
	mutex_unlock(&file->lock);
	up_read(&store_sem);
	return taken < 0 ? taken : done;
}

/* ---- opening and closing ----------------------------------------------- */

static int xenbus_open(struct inode *inode, struct file *filp)
{
	struct xenbus_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	mutex_init(&file->queue_lock);
	init_waitqueue_head(&file->wait);
	INIT_LIST_HEAD(&file->transactions);
	INIT_LIST_HEAD(&file->watches);
	INIT_LIST_HEAD(&file->queue);

	down_read(&store_sem);
	file->store = the_store;
	if (file->store) {
		mutex_lock(&files_lock);
		list_add_tail(&file->list, &files);
		mutex_unlock(&files_lock);
	}
	up_read(&store_sem);
	if (!file->store) {
		kfree(file);
		return -ENODEV;
	}
	filp->private_data = file;
	return stream_open(inode, filp);
}

static int xenbus_release(struct inode *inode, struct file *filp)
{
	struct xenbus_file *file = filp->private_data;
	struct xenbus_answer *answer, *next;

	down_read(&store_sem);
	if (file->store) {
		mutex_lock(&files_lock);
		list_del(&file->list);
		mutex_unlock(&files_lock);
		xenbus_file_reset(file);
	}
	up_read(&store_sem);
	list_for_each_entry_safe(answer, next, &file->queue, list)
		kfree(answer);
	kfree(file);
	return 0;
}

static const struct file_operations xenbus_fops = {
	.owner = THIS_MODULE,
	.open = xenbus_open,
	.release = xenbus_release,
	.read = xenbus_read,
	.write = xenbus_write,
	.poll = xenbus_poll,
	.llseek = no_llseek,
};

static struct miscdevice xenbus_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "xen/xenbus",
	.fops = &xenbus_fops,
};

static bool take_store(struct store *old, struct store *new)
{
	bool taken;

	down_write(&store_sem);
	taken = the_store == old;
	if (taken)
		the_store = new;
	up_write(&store_sem);
	return taken;
}

/* Not under store_sem: opening takes it within the lock that this needs. */
void xenbus_dev_start(struct store *store)
{
	int err;

	if (!take_store(NULL, store))
		return;
	err = misc_register(&xenbus_device);
	if (!err)
		return;
	take_store(store, NULL);
	dev_warn(store->link->dev, "no /dev/xen/xenbus: error %d\n", err);
}

/* The store answers no more, so nobody is in here for long. */
void xenbus_dev_stop(struct store *store)
{
	struct xenbus_file *file, *next;

	if (!take_store(store, NULL))
		return;
	misc_deregister(&xenbus_device);
	down_write(&store_sem);
	list_for_each_entry_safe(file, next, &files, list) {
		list_del(&file->list);
		xenbus_file_reset(file);
		WRITE_ONCE(file->store, NULL);
		wake_up_interruptible(&file->wait);
	}
	up_write(&store_sem);
}
