// SPDX-License-Identifier: GPL-2.0-only
/*
 * The connection to XenStore: one request at a time, and a new connection when
 * the old one has broken. Then the store has forgotten this domain's watches and
 * transactions, but nothing else: watches are registered again, and as each of
 * them fires at once, whoever has one looks at the present state of things. A
 * request that had no answer yet is sent again; one in a transaction fails with
 * -EAGAIN, as if the transaction had met a conflict.
 */
#include <linux/sched.h>
#include <linux/slab.h>
#include "bus.h"

/* Before a broken connection is made anew: longer when it breaks again soon. */
#define PAUSE_MIN	(HZ / 50)
#define PAUSE_MAX	(30 * HZ)

/* So often a request may take part in breaking the connection. */
#define ATTEMPTS	3

/*
 * So many at a time are of drivers, of the ten that the store allows a domain: the
 * drivers of many devices begin at once, and programs want some, too.
 */
#define TRANSACTIONS	4

/* ---- requests ---------------------------------------------------------- */

/* 0, or the error of a connection that is not there and is not coming back. */
static int wait_until_up(struct store *store)
{
	unsigned long end = READ_ONCE(store->down_since) + STORE_GIVE_UP;
	long left = max(0L, (long)(end - jiffies));

	if (READ_ONCE(store->state) == STORE_DOWN)
		wait_event_timeout(store->wait,
				   READ_ONCE(store->state) != STORE_DOWN, left);
	switch (READ_ONCE(store->state)) {
	case STORE_UP:
		return 0;
	case STORE_DOWN:
		return -EIO;
	default:
		return -ENODEV;
	}
}

struct store_message *store_exchange(struct store *store,
				     enum xsd_sockmsg_type type,
				     struct pvbus_transaction t,
				     const struct store_part *parts,
				     unsigned int nr_parts, u32 *generation)
{
	struct store_message *msg = NULL;
	unsigned int attempt;
	int err;

	for (attempt = 0; !msg && attempt < ATTEMPTS; attempt++) {
		err = wait_until_up(store);
		if (err)
			return ERR_PTR(err);
		mutex_lock(&store->lock);
		if (t.id && t.generation != store->generation)
			msg = ERR_PTR(-EAGAIN);
		else if (store_is_up(store))
			msg = store_exchange_locked(store, type, t.id, parts,
						    nr_parts);
		if (generation)
			*generation = store->generation;
		mutex_unlock(&store->lock);
	}
	return msg ?: ERR_PTR(-EIO);
}

static int error_by_name(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(xsd_errors); i++)
		if (!strcmp(name, xsd_errors[i].errstring))
			return -xsd_errors[i].errnum;
	return -EINVAL;
}

char *store_body(struct store_message *msg, u32 *len)
{
	char *body;

	if (IS_ERR(msg))
		return ERR_CAST(msg);
	body = msg->body;
	*len = msg->header.len;
	if (msg->header.type == XS_ERROR) {
		body = ERR_PTR(error_by_name(msg->body));
		kfree(msg->body);
	}
	kfree(msg);
	return body;
}

char *store_request(struct store *store, enum xsd_sockmsg_type type,
		    struct pvbus_transaction t, const struct store_part *parts,
		    unsigned int nr_parts, u32 *len)
{
	return store_body(store_exchange(store, type, t, parts, nr_parts, NULL),
			  len);
}

/* ---- connecting -------------------------------------------------------- */

static bool connected(struct store *store)
{
	return READ_ONCE(store->ring->connection) == XENSTORE_CONNECTED;
}

/* Ask for empty queues, and wait for them. The ring is not to be touched else. */
static int begin_anew(struct store *store)
{
	struct xenstore_domain_interface *ring = store->ring;
	unsigned long end = jiffies + STORE_GIVE_UP;

	if (!(READ_ONCE(ring->server_features) &
	      XENSTORE_SERVER_FEATURE_RECONNECTION))
		return -EOPNOTSUPP;
	WRITE_ONCE(ring->connection, XENSTORE_RECONNECT);
	do {
		link_mb(store->link); /* what the store is to see first */
		link_notify(store->link, store->port);
		wait_event_timeout(store->wait, connected(store) ||
				   READ_ONCE(store->state) == STORE_STOPPED,
				   HZ);
	} while (!connected(store) && time_before(jiffies, end) &&
		 READ_ONCE(store->state) != STORE_STOPPED);
	return connected(store) ? 0 : -ETIMEDOUT;
}

/* The ring's present indices are where we go on; whatever came before is lost. */
static bool begin_here(struct store *store)
{
	store_free_message(store->incoming);
	store->incoming = NULL;
	store->req_prod = READ_ONCE(store->ring->req_prod);
	store->rsp_cons = READ_ONCE(store->ring->rsp_cons);
	store->generation++;
	/* The indices are known before anybody receives. */
	if (cmpxchg(&store->state, STORE_DOWN, STORE_UP) != STORE_DOWN)
		return false;
	queue_work(store->receive_wq, &store->receive);
	return true;
}

static void reconnect(struct work_struct *work)
{
	struct store *store = container_of(to_delayed_work(work), struct store,
					   reconnect);
	int err;

	mutex_lock(&store->lock);
	flush_work(&store->receive);
	if (time_before(jiffies, store->up_since + PAUSE_MAX))
		store->pause = min(2 * store->pause, (unsigned long)PAUSE_MAX);
	else
		store->pause = PAUSE_MIN;
	err = begin_anew(store);
	if (err == -EOPNOTSUPP && !store->generation)
		err = 0; /* then with what is left of the old connection */
	if (!err && begin_here(store)) {
		store->up_since = jiffies;
		watches_renew(store);
		if (store_is_up(store))
			dev_info(store->link->dev,
				 "XenStore is connected anew\n");
	} else if (err && READ_ONCE(store->state) == STORE_DOWN) {
		dev_err(store->link->dev,
			"XenStore does not come back: error %d\n", err);
		if (err != -EOPNOTSUPP)
			mod_delayed_work(system_long_wq, &store->reconnect,
					 store->pause);
	}
	mutex_unlock(&store->lock);
	wake_up_all(&store->wait);
}

/*
 * If a driver before this one used the ring, it may have left half a message and
 * watches behind: ask the store to begin anew, if it can. It may also not have
 * come yet, and lets us go when it does. Nobody waits for that here.
 */
static void connect_first(struct store *store)
{
	struct xenstore_domain_interface *ring = store->ring;

	if (connected(store) && !READ_ONCE(ring->req_prod) &&
	    !READ_ONCE(ring->rsp_cons))
		begin_here(store);
	else
		mod_delayed_work(system_long_wq, &store->reconnect, 0);
}

/* ---- coming and going -------------------------------------------------- */

static void free_queues(struct store *store)
{
	if (store->watch_wq)
		destroy_workqueue(store->watch_wq);
	if (store->receive_wq)
		destroy_workqueue(store->receive_wq);
}

int store_start(struct bus_link *bl)
{
	struct store *store = &bl->own_store;
	int err = -ENOMEM;

	bl->store = store;
	store->link = &bl->link;
	store->ring = link_frame_addr(&bl->link, bl->store_frame);
	store->port = bl->store_port;
	store->state = STORE_DOWN;
	store->down_since = jiffies;
	store->up_since = jiffies;
	store->pause = PAUSE_MIN;
	init_waitqueue_head(&store->wait);
	mutex_init(&store->lock);
	sema_init(&store->transactions, TRANSACTIONS);
	spin_lock_init(&store->reply_lock);
	mutex_init(&store->watch_lock);
	INIT_LIST_HEAD(&store->watches);
	INIT_WORK(&store->receive, store_receive);
	INIT_DELAYED_WORK(&store->reconnect, reconnect);

	store->receive_wq = alloc_ordered_workqueue("pvbus-store", 0);
	store->watch_wq = alloc_ordered_workqueue("pvbus-watch", 0);
	if (!store->receive_wq || !store->watch_wq)
		goto out_queues;
	err = link_evtchn_claim(&bl->link, store->port, store_event, store);
	if (err) {
		dev_err(bl->link.dev, "no event channel %u to XenStore: error %d\n",
			store->port, err);
		goto out_queues;
	}
	connect_first(store);
	xenbus_dev_start(store);
	return 0;

out_queues:
	free_queues(store);
	return err;
}

void store_stop(struct bus_link *bl)
{
	struct store *store = &bl->own_store;

	WRITE_ONCE(store->state, STORE_STOPPED);
	wake_up_all(&store->wait);
	xenbus_dev_stop(store);
	cancel_delayed_work_sync(&store->reconnect);
	link_evtchn_free(store->link, store->port);
	free_queues(store);
	store_free_message(store->incoming);
}
