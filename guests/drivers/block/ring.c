// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a disk shares with its backend: the ring, and a pool of frames that stay
 * granted for as long as the disk is connected. Data is copied through the pool,
 * since the guest's own pages are not in the link, so a frame can be used again
 * at once, and the backend may keep it mapped (feature-persistent).
 */
#include "pvblk.h"

/* More segments than these make copying dominate: 128 KiB. */
#define WANTED_SEGS 32

/* How many segments may a request have, as far as the backend knows them? */
static u32 offered_segs(struct pvblk *info)
{
	u32 indirect = pvbus_read_unsigned(info->link, info->xbdev->otherend,
					   "feature-max-indirect-segments", 0);

	return clamp_t(u32, indirect, BLKIF_MAX_SEGMENTS_PER_REQUEST,
		       WANTED_SEGS);
}

/* The largest pool that the link still has room for. */
static int alloc_pool(struct pvblk *info)
{
	u32 segs = offered_segs(info);
	int err;

	do {
		err = link_grant_alloc(info->link, segs * PVBLK_SLOTS, 0,
				       &info->pool);
		if (!err)
			break;
		segs /= 2;
	} while (segs);
	if (err)
		return err;
	info->nr_segs = segs;
	if (segs <= BLKIF_MAX_SEGMENTS_PER_REQUEST)
		return 0;
	return link_grant_alloc(info->link, PVBLK_SLOTS, GTF_readonly,
				&info->indirect);
}

/* All in one transaction: the backend sees the whole of it or nothing. */
static int try_publish(struct pvblk *info)
{
	const char *node = info->xbdev->nodename;
	struct link *link = info->link;
	struct pvbus_transaction t;
	int err, end;

	err = pvbus_transaction_start(link, &t);
	if (err)
		return err;
	err = pvbus_printf(link, t, node, "ring-ref", "%u",
			   info->ring_page.ref);
	if (!err)
		err = pvbus_printf(link, t, node, "event-channel", "%u",
				   info->port);
	if (!err)
		err = pvbus_write(link, t, node, "protocol", "x86_64-abi");
	if (!err)
		err = pvbus_write(link, t, node, "feature-persistent", "1");
	end = pvbus_transaction_end(link, t, err);
	return err ? err : end;
}

int pvblk_share(struct pvblk *info)
{
	struct blkif_sring *sring;
	int err;

	err = link_grant_alloc(info->link, 1, 0, &info->ring_page);
	if (err)
		return err;
	sring = info->ring_page.addr;
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&info->ring, sring, XEN_PAGE_SIZE);
	err = alloc_pool(info);
	if (!err)
		err = link_evtchn_alloc(info->link, pvblk_event, info,
					&info->port);
	if (err)
		goto failed;
	do {
		err = try_publish(info);
	} while (err == -EAGAIN);
	if (!err)
		return 0;
failed:
	pvblk_unshare(info);
	return err;
}

void pvblk_unshare(struct pvblk *info)
{
	if (info->port)
		link_evtchn_free(info->link, info->port);
	info->port = 0;
	link_grant_free(info->link, &info->indirect);
	link_grant_free(info->link, &info->pool);
	link_grant_free(info->link, &info->ring_page);
}
