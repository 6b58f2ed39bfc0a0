// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a request asks for: checked, and handed to the block device. Its data goes
 * straight between the device and the frontend's frames, unless the device cannot
 * reach them.
 */
#include <linux/bio.h>
#include <linux/slab.h>
#include "blkback.h"

/* ---- the end of a request ---------------------------------------------- */

static int status_of(blk_status_t status)
{
	switch (status) {
	case BLK_STS_OK:
		return BLKIF_RSP_OKAY;
	case BLK_STS_NOTSUPP:
		return BLKIF_RSP_EOPNOTSUPP;
	default:
		return BLKIF_RSP_ERROR;
	}
}

static void copy_sectors(const struct blkback_segment *seg, bool to_frame)
{
	u32 offset = seg->first << SECTOR_SHIFT, n = seg->nr << SECTOR_SHIFT;
	void *frame = seg->map.addr + offset;
	void *page = page_address(seg->bounce) + offset;

	if (to_frame)
		link_copy(frame, page, n);
	else
		link_copy(page, frame, n);
}

/* Let go of what a request has; @done: it has been read, if it reads. */
static void release(struct blkback_request *req, bool done)
{
	u32 i;

	for (i = 0; i < req->nr; i++) {
		struct blkback_segment *seg = &req->segs[i];

		if (seg->bounce) {
			if (done && req->reads)
				copy_sectors(seg, true);
			__free_page(seg->bounce);
		}
		blkback_unmap(req->ring, seg);
	}
}

/* Any context. The frontend may use its frames again once it has the answer. */
static void end_request(struct bio *bio)
{
	struct blkback_request *req = bio->bi_private;
	int status = status_of(bio->bi_status);

	bio_put(bio);
	release(req, status == BLKIF_RSP_OKAY);
	blkback_answer_late(req->ring, req->id, req->op, status);
	kfree(req);
}

static void submit(struct blkback_request *req, struct bio *bio)
{
	bio->bi_private = req;
	bio->bi_end_io = end_request;
	atomic_inc(&req->ring->under_way);
	submit_bio(bio);
}

/* ---- data -------------------------------------------------------------- */

static struct blkback_request *new_request(struct blkback_ring *ring,
					   const struct blkif_request *raw,
					   u32 nr)
{
	struct blkback_request *req;

	req = kmalloc(struct_size(req, segs, nr), GFP_NOIO);
	if (!req)
		return NULL;
	req->ring = ring;
	/* It is at the same place in all kinds of requests. */
	req->id = raw->u.other.id;
	req->op = raw->operation;
	req->reads = false;
	req->nr = 0;
	return req;
}

/* Map a segment and have a page for it that the device can reach. */
static int add_segment(struct blkback_request *req, grant_ref_t ref,
		       struct blkback_segment *seg)
{
	struct blkback_ring *ring = req->ring;
	int err;

	err = blkback_map(ring, ref, !req->reads, seg);
	if (err)
		return err;
	seg->bounce = NULL;
	if (ring->bb->bounce || !seg->map.page) {
		seg->bounce = alloc_page(GFP_NOIO);
		if (!seg->bounce) {
			blkback_unmap(ring, seg);
			return -ENOMEM;
		}
		if (!req->reads)
			copy_sectors(seg, false);
	}
	req->nr++;
	return 0;
}

/* Check and map all segments; how many sectors they have, or an errno. */
static int add_segments(struct blkback_request *req,
			const struct blkif_request_segment *list, u32 nr)
{
	u32 misaligned = (req->ring->bb->sector_size >> SECTOR_SHIFT) - 1;
	u32 i, sectors = 0;
	int err;

	for (i = 0; i < nr; i++) {
		struct blkback_segment *seg = &req->segs[i];
		u8 first = list[i].first_sect, last = list[i].last_sect;

		if (first > last || last >= SECTORS_PER_FRAME)
			return -EINVAL;
		seg->first = first;
		seg->nr = last - first + 1;
		if (seg->nr & misaligned)
			return -EINVAL;
		err = add_segment(req, list[i].gref, seg);
		if (err)
			return err;
		sectors += seg->nr;
	}
	return sectors;
}

/* May so many sectors be touched there? */
static bool within(struct blkback *bb, u64 sector, u64 nr)
{
	u64 sectors = READ_ONCE(bb->sectors);
	u32 misaligned = (bb->sector_size >> SECTOR_SHIFT) - 1;

	return nr && nr <= sectors && sector <= sectors - nr &&
	       !((sector | nr) & misaligned);
}

static struct bio *make_bio(struct blkback_request *req, u64 sector,
			    blk_opf_t opf)
{
	struct bio *bio = bio_alloc(req->ring->bb->bdev, req->nr, opf,
				    GFP_NOIO);
	u32 i;

	bio->bi_iter.bi_sector = sector;
	for (i = 0; i < req->nr; i++) {
		struct blkback_segment *seg = &req->segs[i];

		/* There is room: adjacent frames only take less of it. */
		__bio_add_page(bio, seg->bounce ?: seg->map.page,
			       seg->nr << SECTOR_SHIFT,
			       seg->first << SECTOR_SHIFT);
	}
	return bio;
}

static int transfer(struct blkback_ring *ring, const struct blkif_request *raw,
		    const struct blkif_request_segment *list, u32 nr,
		    u64 sector, blk_opf_t opf)
{
	struct blkback_request *req;
	int sectors;

	if (op_is_write(opf) && ring->bb->readonly)
		return -EROFS;
	req = new_request(ring, raw, nr);
	if (!req)
		return -ENOMEM;
	req->reads = !op_is_write(opf);
	sectors = add_segments(req, list, nr);
	if (sectors >= 0 && !within(ring->bb, sector, sectors))
		sectors = -EINVAL;
	if (sectors < 0) {
		release(req, false);
		kfree(req);
		return sectors;
	}
	submit(req, make_bio(req, sector, opf));
	return 0;
}

/* ---- each kind of request ---------------------------------------------- */

static blk_opf_t opf_of(u8 op)
{
	return op == BLKIF_OP_READ ? REQ_OP_READ :
				     REQ_OP_WRITE | REQ_SYNC | REQ_IDLE;
}

static int direct(struct blkback_ring *ring, const struct blkif_request *raw,
		  blk_opf_t opf)
{
	u32 nr = raw->u.rw.nr_segments;

	if (!nr || nr > BLKIF_MAX_SEGMENTS_PER_REQUEST)
		return -EINVAL;
	return transfer(ring, raw, raw->u.rw.seg, nr,
			raw->u.rw.sector_number, opf);
}

/* No more segments are offered than one page has room for. */
static int indirect(struct blkback_ring *ring, const struct blkif_request *raw)
{
	u8 op = raw->u.indirect.indirect_op;
	u32 nr = raw->u.indirect.nr_segments;
	struct link_map map;
	int err;

	if (op != BLKIF_OP_READ && op != BLKIF_OP_WRITE)
		return -EINVAL;
	if (!nr || nr > ring->bb->features.nr_segs)
		return -EINVAL;
	err = link_map_grant(ring->bb->link, raw->u.indirect.indirect_grefs[0],
			     true, &map);
	if (err)
		return -EACCES;
	link_copy(ring->list, map.addr, nr * sizeof(ring->list[0]));
	link_unmap_grant(ring->bb->link, &map);
	return transfer(ring, raw, ring->list, nr,
			raw->u.indirect.sector_number, opf_of(op));
}

/* For all that has been answered; what has not been may or may not be in it. */
static int flush(struct blkback_ring *ring, const struct blkif_request *raw)
{
	struct blkback_request *req;

	req = new_request(ring, raw, 0);
	if (!req)
		return -ENOMEM;
	submit(req, bio_alloc(ring->bb->bdev, 0,
			      REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH,
			      GFP_NOIO));
	return 0;
}

/* After all that came before it, and before all that comes after it. */
static int write_barrier(struct blkback_ring *ring,
			 const struct blkif_request *raw)
{
	int err;

	blkback_drain(ring);
	if (raw->u.rw.nr_segments)
		err = direct(ring, raw, REQ_OP_WRITE | REQ_SYNC |
					REQ_PREFLUSH | REQ_FUA);
	else
		err = flush(ring, raw);
	blkback_drain(ring);
	return err;
}

static int discard(struct blkback_ring *ring, const struct blkif_request *raw)
{
	u64 sector = raw->u.discard.sector_number;
	u64 nr = raw->u.discard.nr_sectors;
	struct blkback *bb = ring->bb;
	struct blkback_request *req;
	struct bio *bio = NULL;
	int err;

	if (raw->u.discard.flag & BLKIF_DISCARD_SECURE)
		return -EOPNOTSUPP;
	if (!within(bb, sector, nr))
		return -EINVAL;
	req = new_request(ring, raw, 0);
	if (!req)
		return -ENOMEM;
	/* A long one is several: the last ends when all have ended. */
	err = __blkdev_issue_discard(bb->bdev, sector, nr, GFP_NOIO, &bio);
	if (err || !bio) {
		kfree(req);
		return err ?: -EIO;
	}
	submit(req, bio);
	return 0;
}

int blkback_perform(struct blkback_ring *ring, const struct blkif_request *raw)
{
	const struct blkback_features *f = &ring->bb->features;

	switch (raw->operation) {
	case BLKIF_OP_READ:
	case BLKIF_OP_WRITE:
		return direct(ring, raw, opf_of(raw->operation));
	case BLKIF_OP_INDIRECT:
		return f->nr_segs ? indirect(ring, raw) : -EOPNOTSUPP;
	case BLKIF_OP_FLUSH_DISKCACHE:
		if (!f->flush)
			return -EOPNOTSUPP;
		return raw->u.rw.nr_segments ? -EINVAL : flush(ring, raw);
	case BLKIF_OP_WRITE_BARRIER:
		return f->barrier ? write_barrier(ring, raw) : -EOPNOTSUPP;
	case BLKIF_OP_DISCARD:
		return f->discard ? discard(ring, raw) : -EOPNOTSUPP;
	default:
		return -EOPNOTSUPP;
	}
}
