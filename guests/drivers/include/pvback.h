/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What pvbus.ko offers to backends in a driver domain, besides what pvbus.h has
 * for both halves: mapping what the domain at the other end of a link has granted,
 * and binding to its event channels.
 *
 * A backend is a struct pvbus_driver with .backend set. Its devices are those
 * that XenStore announces below "backend/TYPE/DOMID" of this domain: nodename is
 * such as "backend/vbd/7/51712", otherend the frontend's path, otherend_id its
 * domain, and link the one on which that domain grants and we are the grantee.
 * store functions work on that link as on any other. Its module is asked for by
 * the alias "pvbus-backend-TYPE".
 */
#ifndef _PVBACK_H
#define _PVBACK_H

#include "pvbus.h"

/* One frame that the other end has granted, mapped here until it is unmapped. */
struct link_map {
	void *addr;
	struct page *page;	/* NULL when the link has no pages */
	grant_ref_t ref;
	bool readonly;
};

/*
 * Map a granted frame. The reference, and what the table says of it, are read
 * once and checked. Any context; a reference may be mapped several times. While it
 * is, the granter does not use the frame for anything else, but may write to it.
 *
 * Returns 0, or GNTST_bad_gntref (out of range, or grants nothing),
 * GNTST_bad_domain (for another domain), GNTST_permission_denied (read-only, and
 * @readonly is false), GNTST_bad_page (a frame that may not be granted), or
 * GNTST_eagain (it changes all the time). All of these are negative.
 */
int link_map_grant(struct link *link, grant_ref_t ref, bool readonly,
		   struct link_map *map);
void link_unmap_grant(struct link *link, struct link_map *map);

/*
 * Make a local port and bind it to a port of the other end that waits for that.
 * As in Xen it is pending at once. Returns 0, -EINVAL when the other end's port is
 * not unbound or does not exist, -ENOSPC or -ENOMEM. link_evtchn_free() undoes it,
 * and leaves the other end's port unbound. Sleeps.
 */
int link_evtchn_bind(struct link *link, u32 remote_port, link_handler_t handler,
		     void *data, u32 *port);

#endif /* _PVBACK_H */
