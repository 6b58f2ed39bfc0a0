// SPDX-License-Identifier: GPL-2.0-only
/*
 * Both ends of a ring as C has them, for the tests to call: Xen's macros, and the
 * guest drivers' own of link_ring.h in place of some of them.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

typedef uint32_t u32;

/* What link_ring.h takes from the kernel and from pvbus.h. */
#define _PVBUS_H
#define READ_ONCE(x)		(*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value)	(*(volatile typeof(x) *)&(x) = (value))
#define virt_rmb()		__asm__ __volatile__("" ::: "memory")
#define virt_wmb()		virt_rmb()
#define link_mb(link)		__sync_synchronize()
#define __XEN_INTERFACE_VERSION__ 0x00030208	/* the first to call them so: */
#define xen_rmb()		virt_rmb()
#define xen_wmb()		virt_wmb()
#define xen_mb()		__sync_synchronize()

#include "link_ring.h"

DEFINE_RING_TYPES(peer, uint64_t, uint64_t);

struct front {
	struct peer_front_ring ring;
	int link;		/* with the macros of link_ring.h */
};

void front_open(struct front *f, void *shared, u32 size, int fresh, u32 start,
		int link)
{
	if (fresh) {
		SHARED_RING_INIT((struct peer_sring *)shared);
		FRONT_RING_INIT(&f->ring, (struct peer_sring *)shared, size);
	} else {
		FRONT_RING_ATTACH(&f->ring, (struct peer_sring *)shared, start,
				  size);
	}
	f->link = link;
}

u32 front_free(struct front *f)
{
	return RING_FREE_REQUESTS(&f->ring);
}

void front_put(struct front *f, uint64_t request)
{
	*RING_GET_REQUEST(&f->ring, f->ring.req_prod_pvt++) = request;
}

int front_push(struct front *f)
{
	int notify;

	if (f->link)
		return link_ring_push_requests(NULL, &f->ring);
	RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&f->ring, notify);
	return notify;
}

u32 front_waiting(struct front *f)
{
	if (f->link)
		return link_ring_responses(&f->ring);
	return XEN_RING_NR_UNCONSUMED_RESPONSES(&f->ring);
}

uint64_t front_take(struct front *f)
{
	uint64_t response;

	RING_COPY_RESPONSE(&f->ring, f->ring.rsp_cons++, &response);
	return response;
}

int front_arm(struct front *f, u32 ahead)
{
	int work;

	if (f->link)
		return link_ring_arm_responses(NULL, &f->ring, ahead) != 0;
	RING_FINAL_CHECK_FOR_RESPONSES(&f->ring, work);
	return work;
}

int front_overflow(struct front *f)
{
	return RING_RESPONSE_PROD_OVERFLOW(&f->ring, f->ring.sring->rsp_prod);
}

void back_open(struct peer_back_ring *b, void *shared, u32 size, u32 start)
{
	BACK_RING_ATTACH(b, (struct peer_sring *)shared, start, size);
}

u32 back_waiting(struct peer_back_ring *b)
{
	return XEN_RING_NR_UNCONSUMED_REQUESTS(b);
}

uint64_t back_take(struct peer_back_ring *b)
{
	uint64_t request;

	RING_COPY_REQUEST(b, b->req_cons++, &request);
	return request;
}

void back_put(struct peer_back_ring *b, uint64_t response)
{
	*RING_GET_RESPONSE(b, b->rsp_prod_pvt++) = response;
}

int back_push(struct peer_back_ring *b)
{
	int notify;

	RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(b, notify);
	return notify;
}

int back_arm(struct peer_back_ring *b)
{
	int work;

	RING_FINAL_CHECK_FOR_REQUESTS(b, work);
	return work;
}

int back_overflow(struct peer_back_ring *b)
{
	return RING_REQUEST_PROD_OVERFLOW(b, b->sring->req_prod);
}

u32 ring_entries(struct front *f)
{
	return RING_SIZE(&f->ring);
}

/*
 * A whole frontend on a processor of its own: sends @total numbers and expects
 * each back, inverted and in order. Sleeps on eventfd @wait_fd, rings @ring_fd.
 * Returns how many came back right.
 */
uint64_t front_run(struct front *f, uint64_t total, int wait_fd, int ring_fd)
{
	uint64_t sent = 0, right = 0, one = 1, count;

	while (right < total) {
		while (sent < total && front_free(f))
			front_put(f, sent++);
		if (front_push(f) && write(ring_fd, &one, sizeof(one)) < 0)
			return right;
		while (front_waiting(f))
			if (front_take(f) != ~right++)
				return right - 1;
		if (right < total && sent - right && !front_arm(f, 1) &&
		    read(wait_fd, &count, sizeof(count)) < 0)
			return right;
	}
	return right;
}
