// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ring page that leads to XenStore: bytes out, whole messages in. Whatever
 * the other end writes there, the worst that follows is that the connection
 * counts as broken and is made anew.
 */
#include <linux/sched.h>
#include <linux/slab.h>
#include "bus.h"

/* A notification may be lost: ask again; and some time it has been enough. */
#define ASK_AGAIN	HZ

void store_break(struct store *store, const char *why)
{
	if (cmpxchg(&store->state, STORE_UP, STORE_DOWN) != STORE_UP)
		return;
	store->down_since = jiffies;
	dev_err_ratelimited(store->link->dev,
			    "XenStore's connection is broken: %s\n", why);
	wake_up_all(&store->wait);
	mod_delayed_work(system_long_wq, &store->reconnect, store->pause);
}

/* ---- receiving --------------------------------------------------------- */

void store_free_message(struct store_message *msg)
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
		store_free_message(msg);
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
	store_free_message(msg);
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
			store_break(store, "it sent a message longer than 4096 bytes");
			return false;
		}
		msg->body = kzalloc(msg->header.len + 1, GFP_KERNEL);
		if (!msg->body) {
			store_break(store, "no memory for its message");
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
		store_break(store, "its response index is impossible");
		return false;
	}
	if (!available)
		return false;
	if (!store->incoming) {
		store->incoming = kzalloc(sizeof(*store->incoming), GFP_KERNEL);
		if (!store->incoming) {
			store_break(store, "no memory for its message");
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

static bool server_gave_up(struct store *store)
{
	return (READ_ONCE(store->ring->server_features) &
		XENSTORE_SERVER_FEATURE_ERROR) &&
	       READ_ONCE(store->ring->error) != XENSTORE_ERROR_NONE;
}

void store_receive(struct work_struct *work)
{
	struct store *store = container_of(work, struct store, receive);
	XENSTORE_RING_IDX before = store->rsp_cons;

	while (store_is_up(store) && receive_piece(store))
		cond_resched();
	if (!store_is_up(store))
		return;
	if (server_gave_up(store)) {
		store_break(store, "the store has given it up");
		return;
	}
	if (store->rsp_cons != before) {
		link_mb(store->link); /* room in the ring before the event */
		link_notify(store->link, store->port);
		/* The rest of a long message may already be there. */
		if (READ_ONCE(store->ring->rsp_prod) != store->rsp_cons)
			queue_work(store->receive_wq, &store->receive);
	}
}

irqreturn_t store_event(u32 port, void *data)
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
	unsigned long _end = jiffies + STORE_GIVE_UP;			\
	bool _done;							\
									\
	while (!(_done = wait_event_timeout(_s->wait,			\
			(_condition) || !store_is_up(_s),		\
			ASK_AGAIN)) && time_before(jiffies, _end)) {	\
		link_notify(_s->link, _s->port);			\
		queue_work(_s->receive_wq, &_s->receive);		\
	}								\
	_done && store_is_up(_s);					\
})

static u32 room(struct store *store)
{
	u32 used = store->req_prod - READ_ONCE(store->ring->req_cons);

	if (used > XENSTORE_RING_SIZE) {
		store_break(store, "its request index is impossible");
		return 0;
	}
	return XENSTORE_RING_SIZE - used;
}

static bool send_bytes(struct store *store, const void *data, u32 len)
{
	struct xenstore_domain_interface *ring = store->ring;

	while (len) {
		u32 offset = MASK_XENSTORE_IDX(store->req_prod);
		u32 n;

		if (!store_wait(store, room(store) > 0)) {
			store_break(store, "it takes no requests");
			return false;
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
	return true;
}

static bool send_request(struct store *store, const struct store_part *parts,
			 unsigned int nr_parts)
{
	unsigned int i;
	bool sent;

	sent = send_bytes(store, &store->request, sizeof(store->request));
	for (i = 0; i < nr_parts && sent; i++)
		sent = send_bytes(store, parts[i].data, parts[i].len);
	link_mb(store->link); /* all of it before the event */
	link_notify(store->link, store->port);
	return sent;
}

static struct store_message *take_reply(struct store *store)
{
	struct store_message *msg;

	spin_lock(&store->reply_lock);
	store->waiting = false;
	msg = store->reply;
	store->reply = NULL;
	spin_unlock(&store->reply_lock);
	return msg;
}

struct store_message *store_exchange_locked(struct store *store,
					    enum xsd_sockmsg_type type,
					    u32 tx_id,
					    const struct store_part *parts,
					    unsigned int nr_parts)
{
	struct xsd_sockmsg *request = &store->request;
	unsigned int i;
	u32 total = 0;

	lockdep_assert_held(&store->lock);
	for (i = 0; i < nr_parts; i++)
		total += parts[i].len;
	if (total > XENSTORE_PAYLOAD_MAX)
		return ERR_PTR(-E2BIG);

	spin_lock(&store->reply_lock);
	request->type = type;
	request->req_id++;
	request->tx_id = tx_id;
	request->len = total;
	store->waiting = true;
	spin_unlock(&store->reply_lock);

	if (send_request(store, parts, nr_parts) &&
	    !store_wait(store, READ_ONCE(store->reply)))
		store_break(store, "it does not answer");
	return take_reply(store);
}
