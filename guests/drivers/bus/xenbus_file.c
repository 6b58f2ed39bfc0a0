// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a program asks of XenStore through /dev/xen/xenbus. All programs and the
 * bus itself share one connection, so transactions and watches are known here by
 * the file they belong to, and go with it.
 */
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "xenbus_dev.h"

struct file_transaction {
	struct list_head list;
	struct pvbus_transaction t;
};

struct file_watch {
	struct list_head list;
	struct pvbus_watch watch;
	struct xenbus_file *file;
	char *token;			/* the program's, behind the path */
	char path[];
};

/* ---- answers ----------------------------------------------------------- */

static int queue_message(struct xenbus_file *file, struct xsd_sockmsg *header,
			 const struct store_part *parts, unsigned int nr_parts)
{
	struct xenbus_answer *answer;
	unsigned int i;
	int err = 0;

	header->len = 0;
	for (i = 0; i < nr_parts; i++)
		header->len += parts[i].len;
	answer = kmalloc(struct_size(answer, bytes,
				     sizeof(*header) + header->len), GFP_KERNEL);
	if (!answer)
		return -ENOMEM;
	answer->taken = 0;
	answer->len = sizeof(*header);
	memcpy(answer->bytes, header, sizeof(*header));
	for (i = 0; i < nr_parts; i++) {
		memcpy(answer->bytes + answer->len, parts[i].data,
		       parts[i].len);
		answer->len += parts[i].len;
	}

	mutex_lock(&file->queue_lock);
	if (file->queued + answer->len > XENBUS_QUEUE_MAX)
		file->overflowed = true;
	if (file->overflowed) {
		kfree(answer);
		err = -ENOBUFS;
	} else {
		file->queued += answer->len;
		list_add_tail(&answer->list, &file->queue);
	}
	mutex_unlock(&file->queue_lock);
	wake_up_interruptible(&file->wait);
	return err;
}

/* Answer the present request. */
static int reply(struct xenbus_file *file, u32 type, const void *data, u32 len)
{
	const struct store_part part = { data, len };
	struct xsd_sockmsg header = file->header;

	header.type = type;
	return queue_message(file, &header, &part, 1);
}

static int reply_ok(struct xenbus_file *file)
{
	return reply(file, file->header.type, "OK", 3);
}

/* An error has its name in an answer; without one it ends the call. */
static int reply_error(struct xenbus_file *file, int err)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(xsd_errors); i++)
		if (xsd_errors[i].errnum == -err)
			return reply(file, XS_ERROR, xsd_errors[i].errstring,
				     strlen(xsd_errors[i].errstring) + 1);
	return err;
}

/* ---- watches ----------------------------------------------------------- */

/* With a long token, an event may fit into no message; then it is dropped. */
static void watch_fired(struct pvbus_watch *watch, const char *path)
{
	struct file_watch *w = container_of(watch, struct file_watch, watch);
	struct xsd_sockmsg header = { .type = XS_WATCH_EVENT };
	const struct store_part parts[] = {
		{ path, strlen(path) + 1 },
		{ w->token, strlen(w->token) + 1 },
	};

	if (parts[0].len + parts[1].len <= XENSTORE_PAYLOAD_MAX)
		(void)queue_message(w->file, &header, parts, 2);
}

static struct file_watch *find_watch(struct xenbus_file *file,
				     const char *path, const char *token)
{
	struct file_watch *w;

	list_for_each_entry(w, &file->watches, list)
		if (!strcmp(w->path, path) && !strcmp(w->token, token))
			return w;
	return NULL;
}

static void end_watch(struct file_watch *w)
{
	pvbus_unregister_watch(&w->watch);
	list_del(&w->list);
	kfree(w);
}

static int add_watch(struct xenbus_file *file, const char *path,
		     const char *token, const char *depth)
{
	size_t path_len = strlen(path) + 1, token_len = strlen(token) + 1;
	struct file_watch *w;
	int err;

	w = kzalloc(struct_size(w, path, path_len + token_len), GFP_KERNEL);
	if (!w)
		return -ENOMEM;
	w->file = file;
	w->token = w->path + path_len;
	memcpy(w->path, path, path_len);
	memcpy(w->token, token, token_len);
	w->watch.node = w->path;
	w->watch.event = watch_fired;
	if (strscpy(w->watch.depth, depth, sizeof(w->watch.depth)) < 0)
		err = -EINVAL;
	else
		err = pvbus_register_watch(file->store->link, &w->watch);
	if (err) {
		kfree(w);
		return err;
	}
	list_add_tail(&w->list, &file->watches);
	return 0;
}

/* The body's strings; returns how many, or none when the last has no end. */
static unsigned int split(struct xenbus_file *file, const char **strings,
			  unsigned int max)
{
	u32 len = file->header.len, pos;
	unsigned int nr = 0;

	if (!len || file->body[len - 1])
		return 0;
	for (pos = 0; pos < len && nr < max; nr++) {
		strings[nr] = file->body + pos;
		pos += strlen(strings[nr]) + 1;
	}
	return pos == len ? nr : 0;
}

static int watch(struct xenbus_file *file)
{
	const char *s[3] = { "", "", "" };
	unsigned int nr = split(file, s, 3);
	int err;

	if (nr < 2)
		return reply_error(file, -EINVAL);
	if (find_watch(file, s[0], s[1]))
		return reply_error(file, -EEXIST);
	err = add_watch(file, s[0], s[1], s[2]);
	return err ? reply_error(file, err) : reply_ok(file);
}

static int unwatch(struct xenbus_file *file)
{
	struct file_watch *w = NULL;
	const char *s[2];

	if (split(file, s, 2) != 2)
		return reply_error(file, -EINVAL);
	w = find_watch(file, s[0], s[1]);
	if (!w)
		return reply_error(file, -ENOENT);
	end_watch(w);
	return reply_ok(file);
}

/* ---- everything else --------------------------------------------------- */

static struct file_transaction *find_transaction(struct xenbus_file *file)
{
	struct file_transaction *ft;

	list_for_each_entry(ft, &file->transactions, list)
		if (ft->t.id == file->header.tx_id)
			return ft;
	return NULL;
}

static void end_transaction(struct file_transaction *ft)
{
	list_del(&ft->list);
	kfree(ft);
}

/* The store has answered: keep account of transactions. */
static int account(struct xenbus_file *file, struct file_transaction *ft,
		   const struct store_message *msg, u32 generation)
{
	if (file->header.type == XS_TRANSACTION_END && ft)
		end_transaction(ft);
	if (file->header.type != XS_TRANSACTION_START ||
	    msg->header.type == XS_ERROR)
		return 0;
	ft = kzalloc(sizeof(*ft), GFP_KERNEL);
	if (!ft)
		return -ENOMEM;
	if (kstrtou32(msg->body, 10, &ft->t.id) || !ft->t.id) {
		kfree(ft);
		return -EIO;
	}
	ft->t.generation = generation;
	list_add_tail(&ft->list, &file->transactions);
	return 0;
}

static int forward(struct xenbus_file *file)
{
	const struct store_part part = { file->body, file->header.len };
	struct file_transaction *ft = find_transaction(file);
	struct store_message *msg;
	u32 generation;
	int err;

	if (file->header.tx_id && !ft)
		return reply_error(file, -ENOENT);
	msg = store_exchange(file->store, file->header.type,
			     ft ? ft->t : PVBUS_NIL, &part, 1, &generation);
	if (IS_ERR(msg)) {
		/* The connection is another one: there was a conflict. */
		if (file->header.type == XS_TRANSACTION_END && ft)
			end_transaction(ft);
		return PTR_ERR(msg) == -EAGAIN ? reply_error(file, -EAGAIN) :
						 PTR_ERR(msg);
	}
	err = account(file, ft, msg, generation);
	if (!err)
		err = reply(file, msg->header.type, msg->body, msg->header.len);
	store_free_message(msg);
	return err;
}

int xenbus_file_request(struct xenbus_file *file)
{
	switch (file->header.type) {
	case XS_WATCH:
		return watch(file);
	case XS_UNWATCH:
		return unwatch(file);
	case XS_RESET_WATCHES:
		/* Of this file; the bus has some of its own. */
		xenbus_file_reset(file);
		return reply_ok(file);
	default:
		return forward(file);
	}
}

void xenbus_file_reset(struct xenbus_file *file)
{
	const struct store_part abort = { "F", 2 };
	struct file_transaction *ft, *next_ft;
	struct file_watch *w, *next_w;
	char *body;
	u32 len;

	list_for_each_entry_safe(w, next_w, &file->watches, list)
		end_watch(w);
	list_for_each_entry_safe(ft, next_ft, &file->transactions, list) {
		body = store_request(file->store, XS_TRANSACTION_END, ft->t,
				     &abort, 1, &len);
		if (!IS_ERR(body))
			kfree(body);
		end_transaction(ft);
	}
}
