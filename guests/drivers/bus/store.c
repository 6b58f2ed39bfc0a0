// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ring page that leads to XenStore: requests out, one at a time, answers and
 * watch events in. Whatever the other end writes there, the worst that follows is
 * that the store counts as broken and every further request fails.
 */
#include <linux/sched.h>
#include <linux/slab.h>
#include "bus.h"

/* A notification may be lost: ask again; and some time it has been enough. */
#define ASK_AGAIN	HZ
#define GIVE_UP		(30 * HZ)

/*
 * So many at a time are of drivers, of the ten that the store allows a domain: the
 * drivers of many devices begin at once, and programs want some, too.
 */
#define TRANSACTIONS	4

static void break_store(struct store *store, const char *why)
{
	if (!store->broken)
		dev_err(store->link->dev, "XenStore is unusable: %s\n", why);
	WRITE_ONCE(store->broken, true);
	wake_up_all(&store->wait);
}

/* ---- receiving --------------------------------------------------------- */

static void free_message(struct store_message *msg)
{
	if (msg)
		kfree(msg->body);
	kfree(msg);
}

static bool answers(const struct store *store, const struct xsd_sockmsg *h)
{
	const struct xsd_sockmsg *request = &store->request;

	return store->waiting && h->req_id == request->req_id &&
	       h->tx_id == request->tx_id &&
	       (h->type == request->type || h->type == XS_ERROR);
}

static void dispatch(struct store *store, struct store_message *msg)
{
	if (msg->header.type == XS_WATCH_EVENT) {
		store_watch_event(store, msg->body, msg->header.len);
		free_message(msg);
		return;
	}
	spin_lock(&store->reply_lock);
	if (answers(store, &msg->header)) {
		store->waiting = false;
		store->reply = msg;
		msg = NULL;
	}
	spin_unlock(&store->reply_lock);
	if (!msg) {
		wake_up_all(&store->wait);
		return;
	}
	dev_warn_ratelimited(store->link->dev,
			     "XenStore: dropped an answer to request %u that nobody waits for\n",
			     msg->header.req_id);
	free_message(msg);
}

/* Where the next bytes of the incoming message go, and how many it lacks. */
static char *missing_bytes(struct store *store, u32 *len)
{
	struct store_message *msg = store->incoming;
	u32 got = store->received;

	if (got < sizeof(msg->header)) {
		*len = sizeof(msg->header) - got;
		return (char *)&msg->header + got;
	}
	got -= sizeof(msg->header);
	*len = msg->header.len - got;
	return msg->body + got;
}

/* Look at what has been received so far; false: nothing more will be. */
static bool advance_message(struct store *store)
{
	struct store_message *msg = store->incoming;

	if (store->received < sizeof(msg->header))
		return true;
	if (!msg->body) {
		if (msg->header.len > XENSTORE_PAYLOAD_MAX) {
			break_store(store, "it sent a message longer than 4096 bytes");
			return false;
		}
		msg->body = kzalloc(msg->header.len + 1, GFP_KERNEL);
		if (!msg->body) {
			break_store(store, "no memory for its message");
			return false;
		}
	}
	if (store->received - sizeof(msg->header) == msg->header.len) {
		store->incoming = NULL;
		dispatch(store, msg);
	}
	return true;
}

/* Take what is there, as far as one message and the ring's end allow. */
static bool receive_piece(struct store *store)
{
	struct xenstore_domain_interface *ring = store->ring;
	u32 available = READ_ONCE(ring->rsp_prod) - store->rsp_cons;
	u32 offset = MASK_XENSTORE_IDX(store->rsp_cons);
	u32 len;
	char *to;

	if (available > XENSTORE_RING_SIZE) {
		break_store(store, "its response index is impossible");
		return false;
	}
	if (!available)
		return false;
	if (!store->incoming) {
		store->incoming = kzalloc(sizeof(*store->incoming), GFP_KERNEL);
		if (!store->incoming) {
			break_store(store, "no memory for its message");
			return false;
		}
		store->received = 0;
	}
	to = missing_bytes(store, &len);
	len = min3(len, available, (u32)XENSTORE_RING_SIZE - offset);
	virt_rmb(); /* the bytes are there before the index says so */
	memcpy(to, ring->rsp + offset, len);
	virt_mb(); /* room only when they have been read */
	store->rsp_cons += len;
	WRITE_ONCE(ring->rsp_cons, store->rsp_cons);
	store->received += len;
	return advance_message(store);
}

static void receive_messages(struct work_struct *work)
{
	struct store *store = container_of(work, struct store, receive);
	XENSTORE_RING_IDX before = store->rsp_cons;

	while (!READ_ONCE(store->broken) && receive_piece(store))
		cond_resched();
	if (store->rsp_cons != before) {
		link_mb(store->link); /* room in the ring before the event */
		link_notify(store->link, store->port);
		/* The rest of a long message may already be there. */
		if (READ_ONCE(store->ring->rsp_prod) != store->rsp_cons &&
		    !store->broken)
			queue_work(store->receive_wq, &store->receive);
	}
}

static irqreturn_t store_event(u32 port, void *data)
{
	struct store *store = data;

	wake_up_all(&store->wait);
	queue_work(store->receive_wq, &store->receive);
	return IRQ_HANDLED;
}

/* ---- sending ----------------------------------------------------------- */

/*
 * Wait for something that the store does, reminding it each second.
 * Evaluates to false when it did not happen in time.
 */
#define store_wait(_store, _condition) ({				\
	struct store *_s = (_store);					\
	unsigned long _end = jiffies + GIVE_UP;				\
	bool _done;							\
									\
	while (!(_done = wait_event_timeout(_s->wait,			\
			(_condition) || READ_ONCE(_s->broken),		\
			ASK_AGAIN)) && time_before(jiffies, _end)) {	\
		link_notify(_s->link, _s->port);			\
		queue_work(_s->receive_wq, &_s->receive);		\
	}								\
	_done && !READ_ONCE(_s->broken);				\
})

static u32 room(struct store *store)
{
	u32 used = store->req_prod - READ_ONCE(store->ring->req_cons);

	if (used > XENSTORE_RING_SIZE) {
		break_store(store, "its request index is impossible");
		return 0;
	}
	return XENSTORE_RING_SIZE - used;
}

static int send_bytes(struct store *store, const void *data, u32 len)
{
	struct xenstore_domain_interface *ring = store->ring;

	while (len) {
		u32 offset = MASK_XENSTORE_IDX(store->req_prod);
		u32 n;

		if (!store_wait(store, room(store) > 0)) {
			break_store(store, "it takes no requests");
			return -ETIMEDOUT;
		}
		n = min3(len, room(store), (u32)XENSTORE_RING_SIZE - offset);
		virt_mb(); /* write only where the store has read */
		memcpy(ring->req + offset, data, n);
		virt_wmb(); /* the bytes before the index */
		store->req_prod += n;
		WRITE_ONCE(ring->req_prod, store->req_prod);
		data += n;
		len -= n;
	}
	return 0;
}

static int send_request(struct store *store, const struct store_part *parts,
			unsigned int nr_parts)
{
	unsigned int i;
	int err;

	err = send_bytes(store, &store->request, sizeof(store->request));
	for (i = 0; i < nr_parts && !err; i++)
		err = send_bytes(store, parts[i].data, parts[i].len);
	link_mb(store->link); /* all of it before the event */
	link_notify(store->link, store->port);
	return err;
}

static int error_by_name(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(xsd_errors); i++)
		if (!strcmp(name, xsd_errors[i].errstring))
			return -xsd_errors[i].errnum;
	return -EINVAL;
}

/* The answer's body, which becomes the caller's. */
static char *take_reply(struct store *store, u32 *len)
{
	struct store_message *msg;
	char *body;

	spin_lock(&store->reply_lock);
	store->waiting = false;
	msg = store->reply;
	store->reply = NULL;
	spin_unlock(&store->reply_lock);
	if (!msg)
		return ERR_PTR(-EIO);
	body = msg->body;
	*len = msg->header.len;
	if (msg->header.type == XS_ERROR) {
		body = ERR_PTR(error_by_name(msg->body));
		kfree(msg->body);
	}
	kfree(msg);
	return body;
}

char *store_request(struct store *store, enum xsd_sockmsg_type type, u32 tx_id,
		    const struct store_part *parts, unsigned int nr_parts,
		    u32 *len)
{
	struct xsd_sockmsg *request = &store->request;
	unsigned int i;
	u32 total = 0;
	char *body;

	for (i = 0; i < nr_parts; i++)
		total += parts[i].len;
	if (total > XENSTORE_PAYLOAD_MAX)
		return ERR_PTR(-E2BIG);

	mutex_lock(&store->lock);
	if (READ_ONCE(store->broken)) {
		mutex_unlock(&store->lock);
		return ERR_PTR(-EIO);
	}
	spin_lock(&store->reply_lock);
	request->type = type;
	request->req_id++;
	request->tx_id = tx_id;
	request->len = total;
	store->waiting = true;
	spin_unlock(&store->reply_lock);

	if (!send_request(store, parts, nr_parts) &&
	    !store_wait(store, READ_ONCE(store->reply)))
		break_store(store, "it does not answer");
	body = take_reply(store, len);
	mutex_unlock(&store->lock);
	return body;
}

/* ---- coming and going -------------------------------------------------- */

/*
 * If a driver before this one used the ring, it may have left half a message and
 * watches behind: ask the store to begin anew, if it can.
 */
static int begin_anew(struct store *store)
{
	struct xenstore_domain_interface *ring = store->ring;

	if (!READ_ONCE(ring->req_prod) && !READ_ONCE(ring->rsp_cons))
		return 0;
	if (!(READ_ONCE(ring->server_features) &
	      XENSTORE_SERVER_FEATURE_RECONNECTION))
		return 0;
	WRITE_ONCE(ring->connection, XENSTORE_RECONNECT);
	link_mb(store->link); /* what the store is to see when it wakes */
	link_notify(store->link, store->port);
	if (!wait_event_timeout(store->wait, READ_ONCE(ring->connection) ==
				XENSTORE_CONNECTED, GIVE_UP)) {
		dev_err(store->link->dev, "XenStore does not reconnect\n");
		return -ETIMEDOUT;
	}
	return 0;
}

static void stop_receiving(struct store *store)
{
	WRITE_ONCE(store->broken, true);
	link_evtchn_free(store->link, store->port);
	destroy_workqueue(store->watch_wq);
	destroy_workqueue(store->receive_wq);
	free_message(store->incoming);
}

int store_start(struct bus_link *bl)
{
	struct store *store = &bl->store;
	int err = -ENOMEM;

	store->link = &bl->link;
	store->ring = link_frame_addr(&bl->link, bl->store_frame);
	store->port = bl->store_port;
	init_waitqueue_head(&store->wait);
	mutex_init(&store->lock);
	sema_init(&store->transactions, TRANSACTIONS);
	spin_lock_init(&store->reply_lock);
	spin_lock_init(&store->watch_lock);
	INIT_LIST_HEAD(&store->watches);
	INIT_WORK(&store->receive, receive_messages);

	store->receive_wq = alloc_ordered_workqueue("pvbus-store", 0);
	store->watch_wq = alloc_ordered_workqueue("pvbus-watch", 0);
	if (!store->receive_wq || !store->watch_wq)
		goto out_queues;
	store->broken = true; /* no receiving before the indices are known */
	err = link_evtchn_claim(&bl->link, store->port, store_event, store);
	if (err) {
		dev_err(bl->link.dev, "no event channel %u to XenStore: error %d\n",
			store->port, err);
		goto out_queues;
	}
	err = begin_anew(store);
	if (err) {
		stop_receiving(store);
		return err;
	}
	store->req_prod = READ_ONCE(store->ring->req_prod);
	store->rsp_cons = READ_ONCE(store->ring->rsp_cons);
	smp_store_release(&store->broken, false); /* indices first */
	return 0;

out_queues:
	if (store->watch_wq)
		destroy_workqueue(store->watch_wq);
	if (store->receive_wq)
		destroy_workqueue(store->receive_wq);
	return err;
}

void store_stop(struct bus_link *bl)
{
	stop_receiving(&bl->store);
}
