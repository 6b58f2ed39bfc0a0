// SPDX-License-Identifier: GPL-2.0-only
/*
 * The frames that packets are received in. Each ring entry offers one; the
 * others replace those that are handed to the stack with what is in them. A
 * frame has a reference of ours all the time, so it is free again when that is
 * the only one. When the stack sits on too many, received bytes are copied, and
 * the ring never runs short of frames.
 */

#include <linux/mm.h>
#include <linux/slab.h>
#include "pvnet.h"

/* Frames besides those in the ring; fewer when the link has no room. */
#define PVNET_SPARE	(3 * PVNET_SLOTS)

/* Frames that are looked at for one that the stack has finished with. */
#define PVNET_TRIES	4

static u16 *pvnet_waiting(struct pvnet_frames *frames, u32 index)
{
	return &frames->waiting[index % frames->nr_waiting];
}

int pvnet_frames_setup(struct pvnet *np, struct pvnet_frames *frames)
{
	u32 spare = np->trusted && link_frame_page(np->link, 0) ?
		    PVNET_SPARE : 0;
	u32 i;
	int err;

	while ((err = link_grant_alloc(np->link, PVNET_SLOTS + spare, 0,
				       &frames->pool)) == -ENOSPC && spare)
		spare = spare > PVNET_SLOTS ? spare - PVNET_SLOTS : 0;
	if (err)
		return err;
	frames->waiting = kvcalloc(spare, sizeof(*frames->waiting),
				   GFP_KERNEL);
	if (!frames->waiting)
		return -ENOMEM;
	frames->nr_waiting = spare;
	frames->head = 0;
	for (i = 0; i < PVNET_SLOTS; i++)
		frames->offered[i] = i;
	for (i = 0; i < spare; i++)
		frames->waiting[i] = PVNET_SLOTS + i;
	return 0;
}

void pvnet_frames_teardown(struct pvnet *np, struct pvnet_frames *frames)
{
	/* The link keeps what the stack still reads. */
	link_grant_free(np->link, &frames->pool);
	kvfree(frames->waiting);
	frames->waiting = NULL;
	frames->nr_waiting = 0;
}

struct page *pvnet_frame_lend(struct pvnet *np, struct pvnet_frames *frames,
			      u16 id)
{
	u32 first = frames->pool.ref; /* reference n grants frame n */
	u32 tries = min_t(u32, frames->nr_waiting, PVNET_TRIES);

	for (; tries; tries--, frames->head++) {
		u16 *oldest = pvnet_waiting(frames, frames->head);
		struct page *page = link_frame_page(np->link, first + *oldest);

		/* Whoever dropped its reference has read the frame before. */
		if (link_page_lent(page))
			continue;
		swap(*oldest, frames->offered[id]);
		page = link_frame_page(np->link, first + *oldest);
		get_page(page);
		frames->head++;
		return page;
	}
	return NULL;
}
