/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of ring.h that need a fence against the other end, for the ring
 * types which the kernel's <xen/interface/io/ring.h> defines. Its own macros use
 * virt_mb(), which TCG drops for a guest with one vCPU: a push could then miss
 * that the other end went to sleep.
 *
 * Indices run freely through 2^32, so all comparisons are differences of u32.
 */
#ifndef _LINK_RING_H
#define _LINK_RING_H

#include <xen/interface/io/ring.h>
#include "pvbus.h"

/* Has an index that moved from @old to @new passed @event? */
static inline bool link_ring_passed(u32 old, u32 new, u32 event)
{
	return (u32)(new - event) < (u32)(new - old);
}

/* Publish the front's private requests; true: the back wants to be notified. */
#define link_ring_push_requests(_link, _ring) ({			\
	typeof(_ring) _r = (_ring);					\
	u32 _old = READ_ONCE(_r->sring->req_prod);			\
	u32 _new = _r->req_prod_pvt;					\
									\
	virt_wmb(); /* the back sees requests before the index */	\
	WRITE_ONCE(_r->sring->req_prod, _new);				\
	link_mb(_link); /* ... and the index before we read its event */ \
	link_ring_passed(_old, _new, READ_ONCE(_r->sring->req_event));	\
})

/*
 * How many responses wait, by one read of the other end's index. More than
 * RING_SIZE() means that the back has broken the ring.
 */
#define link_ring_responses(_ring) ({					\
	typeof(_ring) _r = (_ring);					\
	u32 _prod = READ_ONCE(_r->sring->rsp_prod);			\
									\
	virt_rmb(); /* read no response before its index */		\
	_prod - _r->rsp_cons;						\
})

/*
 * Ask to be notified when @_ahead more responses have come (1: the next one);
 * returns how many wait already, as above. @_ahead must not exceed the number of
 * requests in flight, or the notification never comes.
 */
#define link_ring_arm_responses(_link, _ring, _ahead) ({		\
	typeof(_ring) _armed = (_ring);					\
									\
	WRITE_ONCE(_armed->sring->rsp_event,				\
		   _armed->rsp_cons + (_ahead));			\
	link_mb(_link); /* the back sees this before we look again */	\
	link_ring_responses(_armed);					\
})

/* ---- the back's half ----------------------------------------------------- */

/* Publish the back's private responses; true: the front wants to be notified. */
#define link_ring_push_responses(_link, _ring) ({			\
	typeof(_ring) _r = (_ring);					\
	u32 _old = READ_ONCE(_r->sring->rsp_prod);			\
	u32 _new = _r->rsp_prod_pvt;					\
									\
	virt_wmb(); /* the front sees responses before the index */	\
	WRITE_ONCE(_r->sring->rsp_prod, _new);				\
	link_mb(_link); /* ... and the index before we read its event */ \
	link_ring_passed(_old, _new, READ_ONCE(_r->sring->rsp_event));	\
})

/*
 * How many requests wait, by one read of the other end's index. More than
 * link_ring_room() afterwards means that the front has broken the ring.
 */
#define link_ring_requests(_ring) ({					\
	typeof(_ring) _r = (_ring);					\
	u32 _prod = READ_ONCE(_r->sring->req_prod);			\
									\
	virt_rmb(); /* read no request before its index */		\
	_prod - READ_ONCE(_r->req_cons);				\
})

/* For how many more requests there are entries to answer them in. */
#define link_ring_room(_ring) ({					\
	typeof(_ring) _room = (_ring);					\
									\
	RING_SIZE(_room) - (READ_ONCE(_room->req_cons) -		\
			    READ_ONCE(_room->rsp_prod_pvt));		\
})

/* Ask to be notified of the next request; returns how many wait already. */
#define link_ring_arm_requests(_link, _ring) ({				\
	typeof(_ring) _armed = (_ring);					\
									\
	WRITE_ONCE(_armed->sring->req_event, _armed->req_cons + 1);	\
	link_mb(_link); /* the front sees this before we look again */	\
	link_ring_requests(_armed);					\
})

#endif /* _LINK_RING_H */
