// SPDX-License-Identifier: GPL-2.0-only
/*
 * Taking what a frontend shares: its ring pages and event channels, which it names
 * in XenStore. A name or number that makes no sense is reported, and ends it.
 */
#include <linux/slab.h>
#include "blkback.h"

static const struct blkback_abi abis[] = {
	{ "x86_64-abi", sizeof(struct blkif_request),
	  sizeof(struct blkif_response), 4 },
	/* There a u64 is aligned to 4 bytes, so there are no gaps. */
	{ "x86_32-abi", sizeof(struct blkif_request) - 4, 12, 0 },
};

/* ---- what the frontend has written ------------------------------------- */

/* One that must be there. */
static int require_number(struct blkback *bb, const char *dir,
			  const char *node, u32 *number)
{
	int err;

	*number = U32_MAX;
	err = blkback_read_number(bb, dir, node, 0, U32_MAX - 1, number);
	if (!err && *number == U32_MAX) {
		pvbus_dev_error(bb->xbdev, -ENOENT, "%s/%s is missing", dir,
				node);
		return -ENOENT;
	}
	return err;
}

static int read_protocol(struct blkback *bb)
{
	unsigned int i;
	char *name;

	bb->abi = &abis[0];
	name = pvbus_read(bb->link, PVBUS_NIL, bb->xbdev->otherend, "protocol",
			  NULL);
	if (IS_ERR(name))
		return PTR_ERR(name) == -ENOENT ? 0 : PTR_ERR(name);
	for (i = 0; i < ARRAY_SIZE(abis); i++)
		if (!strcmp(name, abis[i].name))
			break;
	kfree(name);
	if (i == ARRAY_SIZE(abis)) {
		pvbus_dev_error(bb->xbdev, -EPROTONOSUPPORT,
				"%s/protocol: only %s and %s are spoken here",
				bb->xbdev->otherend, abis[0].name,
				abis[1].name);
		return -EPROTONOSUPPORT;
	}
	bb->abi = &abis[i];
	return 0;
}

/* ---- a ring ------------------------------------------------------------ */

static const char *why(int status)
{
	switch (status) {
	case GNTST_bad_gntref:
		return "grants nothing";
	case GNTST_bad_domain:
		return "is for another domain";
	case GNTST_permission_denied:
		return "is read-only";
	default:
		return "cannot be used";
	}
}

static int map_page(struct blkback_ring *ring, const char *dir,
		    const char *node)
{
	struct blkback *bb = ring->bb;
	struct link_map *map = &ring->pages[ring->nr_pages];
	u32 i, ref;
	int err;

	err = require_number(bb, dir, node, &ref);
	if (err)
		return err;
	err = link_map_grant(bb->link, ref, false, map);
	if (err) {
		pvbus_dev_error(bb->xbdev, -EACCES,
				"%s/%s: grant reference %u %s", dir, node,
				ref, why(err));
		return -EACCES;
	}
	ring->nr_pages++;
	for (i = 0; i + 1 < ring->nr_pages; i++)
		if (ring->pages[i].addr == map->addr) {
			pvbus_dev_error(bb->xbdev, -EINVAL,
					"%s: the same frame is in the ring more than once",
					dir);
			return -EINVAL;
		}
	return 0;
}

/* One page may be called "ring-ref" or "ring-ref0". */
static int map_pages(struct blkback_ring *ring, const char *dir, u32 order)
{
	char node[16];
	int err = 0;
	u32 i;

	if (!order && !pvbus_exists(ring->bb->link, PVBUS_NIL, dir,
				    "ring-ref0"))
		return map_page(ring, dir, "ring-ref");
	for (i = 0; i < 1 << order && !err; i++) {
		snprintf(node, sizeof(node), "ring-ref%u", i);
		err = map_page(ring, dir, node);
	}
	return err;
}

/* It goes on where the frontend sees it: a new one begins with zeros. */
static void attach_ring(struct blkback_ring *ring)
{
	struct blkif_sring *sring = ring->pages[0].addr;
	u32 size = ring->nr_pages * XEN_PAGE_SIZE;
	u32 head = offsetof(struct blkif_sring, ring);

	ring->back.sring = sring;
	ring->back.nr_ents = rounddown_pow_of_two((size - head) /
						  ring->bb->abi->entry_size);
	ring->back.rsp_prod_pvt = READ_ONCE(sring->rsp_prod);
	ring->back.req_cons = ring->back.rsp_prod_pvt;
	ring->active = false;
	ring->quiet = false;
	ring->broken = false;
	ring->idle_spins = 0;
	ring->skip_spins = 0;
	ring->max_kept = ring->back.nr_ents * BLKBACK_KEPT_PER_SLOT;
}

static int connect_ring(struct blkback_ring *ring, const char *dir, u32 order)
{
	struct blkback *bb = ring->bb;
	u32 port;
	int err;

	err = map_pages(ring, dir, order);
	if (err)
		return err;
	attach_ring(ring);
	err = require_number(bb, dir, "event-channel", &port);
	if (err)
		return err;
	err = link_evtchn_bind(bb->link, port, blkback_event, ring,
			       &ring->port);
	if (err) {
		ring->port = 0;
		pvbus_dev_error(bb->xbdev, err,
				err == -EINVAL ?
				"%s/event-channel: port %u is not unbound" :
				"%s/event-channel: port %u cannot be bound to",
				dir, port);
		return err;
	}
	return 0;
}

static void disconnect_ring(struct blkback_ring *ring)
{
	struct link *link = ring->bb->link;

	blkback_stop(ring);
	if (ring->port)
		link_evtchn_free(link, ring->port);
	ring->port = 0;
	blkback_unmap_kept(ring);
	while (ring->nr_pages)
		link_unmap_grant(link, &ring->pages[--ring->nr_pages]);
}

/* ---- all of them ------------------------------------------------------- */

static int connect_rings(struct blkback *bb, u32 order)
{
	const char *front = bb->xbdev->otherend;
	int err = 0;
	u32 i;

	if (bb->nr_rings == 1)
		return connect_ring(&bb->rings[0], front, order);
	for (i = 0; i < bb->nr_rings && !err; i++) {
		char *dir = kasprintf(GFP_KERNEL, "%s/queue-%u", front, i);

		err = dir ? connect_ring(&bb->rings[i], dir, order) : -ENOMEM;
		kfree(dir);
	}
	return err;
}

static int start_rings(struct blkback *bb)
{
	int err = 0;
	u32 i;

	for (i = 0; i < bb->nr_rings && !err; i++)
		err = blkback_start(&bb->rings[i]);
	if (err)
		pvbus_dev_error(bb->xbdev, err, "no task for a ring");
	return err;
}

int blkback_connect(struct blkback *bb)
{
	u32 order = 0, nr_rings = 1, persistent = 0;
	const char *front = bb->xbdev->otherend;
	int err;

	err = read_protocol(bb);
	if (!err)
		err = blkback_read_number(bb, front, "ring-page-order", 0,
				  bb->features.ring_order, &order);
	if (!err)
		err = blkback_read_number(bb, front, "multi-queue-num-queues", 1,
				  bb->features.nr_queues, &nr_rings);
	if (!err)
		err = blkback_read_number(bb, front, "feature-persistent", 0, 1,
				  &persistent);
	if (err)
		return err;
	bb->persistent = bb->features.persistent && persistent;
	bb->notification = pvbus_read_notification(bb->xbdev);
	WRITE_ONCE(bb->nr_rings, nr_rings);
	err = connect_rings(bb, order);
	return err ?: start_rings(bb);
}

void blkback_disconnect(struct blkback *bb)
{
	u32 i;

	for (i = 0; i < bb->nr_rings; i++)
		disconnect_ring(&bb->rings[i]);
	WRITE_ONCE(bb->nr_rings, 0);
}
