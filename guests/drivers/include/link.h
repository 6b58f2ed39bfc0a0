/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The layout of a link: one ivshmem region shared by exactly two ends.
 *
 * End 0 is the granter (a domain with frontends), end 1 the grantee (Domain 0
 * or a driver domain). What Xen's hypervisor would keep for them lies in the
 * region itself. Every byte of it has exactly one writer at a time, because
 * neither end can rely on atomic read-modify-write: with one vCPU, TCG turns
 * locked instructions into plain loads and stores, and Python has none. That is
 * why a pending or mask "bit" of an event channel fills a byte of its own, and
 * why the grantee notes that a grant is in use in a status byte (as grant table
 * version 2 does) and not in the flags of the entry.
 *
 * Frames are XEN_PAGE_SIZE (4096) bytes. All fields are little-endian.
 * harness/hypervisor/layout.py is the same in Python; a test compares the two.
 */
#ifndef _LINK_H
#define _LINK_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#endif

#define LINK_MAGIC		0x4b4e494c	/* "LINK" */
#define LINK_VERSION		2
#define LINK_INFO_OFFSET	2048	/* in frame 0, behind struct start_info */

#define LINK_END_GRANTER	0
#define LINK_END_GRANTEE	1

#define LINK_FIRST_SLOT		31	/* on the PCI bus: the link to Domain 0 */

#define LINK_PORTS		4096	/* per end; port 0 is never used */

struct link_info {
	u32 magic;
	u32 version;
	u32 nr_frames;		/* in the whole region */
	u16 domid[2];		/* of each end: a claim, see bus/identity.c */
	u16 peer[2];		/* ivshmem peer ID of each end */
	u16 vectors[2];		/* doorbell vectors each end listens on */
	u32 pending_frame[2];	/* u8[LINK_PORTS]: port of this end is pending */
	u32 mask_frame[2];	/* u8[LINK_PORTS]: port of this end is masked */
	u32 ports_frame[2];	/* struct link_port[LINK_PORTS], 8 frames */
	u32 grant_frame;	/* struct grant_entry_v1[], written by end 0 */
	u32 nr_grant_frames;	/* so far: grows, by end 0, entries zeroed first */
	u32 max_grant_frames;	/* room for so many */
	u32 status_frame;	/* u8[]: GTF_reading|GTF_writing, by end 1 */
	u32 nr_status_frames;
	u32 first_free_frame;	/* from here to nr_frames: may be granted */
};

/*
 * One port. Binding a port writes the entries of both ends, each with one
 * 8-byte store, as the hypervisor would: the binder's becomes interdomain, then
 * the unbound one of the other end. Closing a port makes the other unbound.
 */
struct link_port {
	u16 state;		/* EVTCHNSTAT_closed, _unbound, _interdomain */
	u16 vector;		/* of this end, rung when this port gets pending */
	u32 remote_port;	/* valid when interdomain */
};

#endif /* _LINK_H */
