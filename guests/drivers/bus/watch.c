// SPDX-License-Identifier: GPL-2.0-only
/* Watches: of drivers, of the bus itself, and of programs (xenbus_dev.c). */
#include <linux/export.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

static void run_watch(struct work_struct *work)
{
	struct pvbus_watch *watch = container_of(work, struct pvbus_watch,
						 work);

	watch->callback(watch);
}

void store_watch_event(struct store *store, const char *body, u32 len)
{
	const char *token = body + strlen(body) + 1;
	struct pvbus_watch *watch;
	u32 number;

	if (token >= body + len || kstrtou32(token, 16, &number)) {
		dev_warn_ratelimited(store->link->dev,
				     "XenStore: dropped a watch event without a known token\n");
		return;
	}
	/* None is found when the event overtook its watch's removal. */
	mutex_lock(&store->watch_lock);
	list_for_each_entry(watch, &store->watches, list)
		if (watch->token == number) {
			WRITE_ONCE(watch->events, watch->events + 1);
			wake_up_all(&watch->arrival);
			if (watch->event)
				watch->event(watch, body);
			else
				queue_work(store->watch_wq, &watch->work);
			break;
		}
	mutex_unlock(&store->watch_lock);
}

/* What a watch is to the store, in a copy that outlives the watch. */
struct watch_request {
	char token[9];
	char depth[sizeof_field(struct pvbus_watch, depth)];
	char *node;
	struct store_part parts[3];
	unsigned int nr_parts;
};

static bool describe(struct watch_request *r, const struct pvbus_watch *watch,
		     enum xsd_sockmsg_type type)
{
	r->node = kstrdup(watch->node, GFP_KERNEL);
	if (!r->node)
		return false;
	r->parts[0] = (struct store_part) { r->node, strlen(r->node) + 1 };
	r->parts[1].data = r->token;
	r->parts[1].len = 1 + snprintf(r->token, sizeof(r->token), "%x",
				       watch->token);
	r->nr_parts = 2;
	if (type == XS_WATCH && *watch->depth) {
		memcpy(r->depth, watch->depth, sizeof(r->depth));
		r->parts[2] = (struct store_part) { r->depth,
						    strlen(r->depth) + 1 };
		r->nr_parts = 3;
	}
	return true;
}

static int finish(struct store_message *msg)
{
	u32 len;
	char *body = store_body(msg, &len);

	if (IS_ERR(body))
		return PTR_ERR(body);
	kfree(body);
	return 0;
}

static int watch_request(struct pvbus_watch *watch, enum xsd_sockmsg_type type)
{
	struct store *store = to_bus_link(watch->link)->store;
	struct watch_request r;
	int err;

	if (!describe(&r, watch, type))
		return -ENOMEM;
	err = finish(store_exchange(store, type, PVBUS_NIL, r.parts, r.nr_parts,
				    NULL));
	kfree(r.node);
	return err;
}

/* The first watch that was registered after the one with this token. */
static bool describe_next(struct store *store, u32 *token,
			  struct watch_request *r)
{
	struct pvbus_watch *watch;
	bool found = false;

	mutex_lock(&store->watch_lock);
	list_for_each_entry(watch, &store->watches, list)
		if (watch->token > *token) {
			*token = watch->token;
			found = describe(r, watch, XS_WATCH);
			break;
		}
	mutex_unlock(&store->watch_lock);
	return found;
}

/*
 * A watch that is being unregistered meanwhile is still unknown to the store
 * afterwards: its request is waiting for this one's lock.
 */
void watches_renew(struct store *store)
{
	struct watch_request r;
	u32 token = 0;
	int err;

	while (store_is_up(store) && describe_next(store, &token, &r)) {
		err = finish(store_exchange_locked(store, XS_WATCH, 0, r.parts,
						   r.nr_parts) ?:
			     ERR_PTR(-EIO));
		if (err)
			dev_err(store->link->dev, "cannot watch %s again: error %d\n",
				r.node, err);
		kfree(r.node);
	}
}

static void forget(struct store *store, struct pvbus_watch *watch)
{
	mutex_lock(&store->watch_lock);
	list_del(&watch->list);
	mutex_unlock(&store->watch_lock);
}

int pvbus_register_watch(struct link *link, struct pvbus_watch *watch)
{
	struct store *store = to_bus_link(link)->store;
	int err;

	watch->link = link;
	watch->events = 0;
	init_waitqueue_head(&watch->arrival);
	INIT_WORK(&watch->work, run_watch);
	mutex_lock(&store->watch_lock);
	watch->token = ++store->last_token;
	list_add_tail(&watch->list, &store->watches);
	mutex_unlock(&store->watch_lock);
	err = watch_request(watch, XS_WATCH);
	if (err == -EEXIST) /* by watches_renew() */
		err = 0;
	if (err) {
		forget(store, watch);
		cancel_work_sync(&watch->work);
	}
	return err;
}
EXPORT_SYMBOL_GPL(pvbus_register_watch);

void cancel_watch(struct pvbus_watch *watch)
{
	if (current_work() != &watch->work)
		cancel_work_sync(&watch->work);
}

void pvbus_unregister_watch(struct pvbus_watch *watch)
{
	struct store *store = to_bus_link(watch->link)->store;

	forget(store, watch);
	/* Should this fail, its events find no watch any more. */
	(void)watch_request(watch, XS_UNWATCH);
	cancel_watch(watch);
}
EXPORT_SYMBOL_GPL(pvbus_unregister_watch);
