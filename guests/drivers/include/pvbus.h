/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What pvbus.ko offers to frontends: a link with its event channels and grants,
 * XenStore, and a bus of devices that are found in XenStore. For backends there is
 * more in pvback.h; they do not grant.
 *
 * Types and constants of Xen's ABI come from the kernel's own headers under
 * <xen/interface/>; only what hypercalls would do is replaced.
 */
#ifndef _PVBUS_H
#define _PVBUS_H

#include <linux/device.h>
#include <linux/io.h>
#include <linux/irqreturn.h>
#include <linux/list.h>
#include <linux/page_ref.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <xen/interface/xen.h>
#include <xen/interface/grant_table.h>
#include <xen/interface/io/xenbus.h>
#include <xen/page.h>

#define LINK_REG_IVPOSITION	8
#define LINK_REG_DOORBELL	12

/*
 * One end of a link. The fields are for the inline functions below; the rest of
 * the link is private to the bus.
 */
struct link {
	struct device *dev;	/* the ivshmem PCI device, for messages */
	void __iomem *regs;
	u8 *base;		/* first byte of the region, write-back */
	u32 nr_frames;
	bool fence_by_mmio;
	u16 remote_domid;	/* the domain at the other end */
};

/* ---- memory ------------------------------------------------------------ */

/*
 * A full fence between this guest and a process on the host. With one vCPU, TCG
 * drops fence instructions and turns locked ones into plain loads and stores;
 * a device register read still leaves translated code and orders everything.
 */
static inline void link_mb(struct link *link)
{
	if (link->fence_by_mmio)
		(void)readl(link->regs + LINK_REG_IVPOSITION);
	mb(); /* also for a guest whose CPUID hides who runs it */
}

/* The first byte of frame @frame, which must be below link->nr_frames. */
static inline void *link_frame_addr(struct link *link, u32 frame)
{
	return link->base + (size_t)frame * XEN_PAGE_SIZE;
}

/*
 * Copy between private memory and the link: an unrolled loop of 8-byte moves,
 * because the kernel's memcpy may be "rep movsb", ten times slower under TCG.
 * Any alignment and length; the areas must not overlap.
 */
void link_copy(void *dst, const void *src, size_t n);

/* ---- event channels ---------------------------------------------------- */

/*
 * Runs in hard interrupt context with the port's pending byte already cleared,
 * so an event that arrives meanwhile runs it again. Return IRQ_NONE when there
 * was nothing to do: a storm of such events is slowed down.
 */
typedef irqreturn_t (*link_handler_t)(u32 port, void *data);

/*
 * Make an unbound port for the other end to bind to (its number goes into
 * XenStore as "event-channel"). Events may come in as soon as this returns.
 * Returns 0, -ENOSPC when all ports are taken or -ENODEV on a dead link.
 */
int link_evtchn_alloc(struct link *link, link_handler_t handler, void *data,
		      u32 *port);

/* Attach a handler to a port which the toolstack has made (the console's). */
int link_evtchn_claim(struct link *link, u32 port, link_handler_t handler,
		      void *data);

/*
 * Detach the handler, wait until it runs nowhere, and close the port unless it
 * was claimed. Sleeps.
 */
void link_evtchn_free(struct link *link, u32 port);

/* Make the other end's port pending and ring its doorbell unless it is masked. */
void link_notify(struct link *link, u32 port);

/* While masked, events stay pending; unmasking delivers them. Any context. */
void link_evtchn_mask(struct link *link, u32 port);
void link_evtchn_unmask(struct link *link, u32 port);

/* ---- grants ------------------------------------------------------------ */

/*
 * A run of adjacent frames, granted to the other end. Frame i of the run is at
 * addr + i * XEN_PAGE_SIZE and has the grant reference ref + i.
 */
struct link_grant {
	void *addr;
	grant_ref_t ref;
	u32 nr;			/* 0: nothing is allocated */
};

/*
 * Allocate @nr adjacent frames, zeroed, and grant them; @flags is 0 or
 * GTF_readonly. Returns 0 or -ENOSPC. Process context, as all grant functions.
 */
int link_grant_alloc(struct link *link, u32 nr, u16 flags,
		     struct link_grant *grant);

/*
 * End access and free the frames; clears @grant. A frame that the other end
 * still uses stays out of circulation until it lets go. Safe on nr == 0.
 */
void link_grant_free(struct link *link, struct link_grant *grant);

/* How many frames are free. Adjacent ones may be fewer. */
u32 link_grant_room(struct link *link);

/* Is any frame of the run mapped by the other end just now? */
bool link_grant_in_use(struct link *link, const struct link_grant *grant);

/*
 * The page of a frame, or NULL when the link has none; what follows is for frames
 * that the caller has allocated. The driver has one reference to each page and
 * never drops it. To lend a frame, say to an skb, take another with get_page(),
 * which whoever is last in the rest of the kernel drops. Nothing tells when that
 * happens: look with link_page_lent(), and copy when too many are away. A frame
 * that is freed while it is lent stays out of circulation until it comes back.
 */
struct page *link_frame_page(struct link *link, u32 frame);

static inline bool link_page_lent(struct page *page)
{
	return page_ref_count(page) > 1;
}

/* ---- looking at rings while idle ---------------------------------------- */

/* The values of the node "notification". */
enum link_notification {
	LINK_ADAPTIVE,		/* look as long as that has been paying */
	LINK_EVENT,		/* never look, wait for events */
	LINK_POLL,		/* never halt while something is expected */
};

/*
 * A ring that an idle processor looks at, instead of halting until there is an
 * event. All callbacks may take spinlocks but not sleep; they are not called
 * from within link_poller_...() and never two of one poller at a time.
 *
 * ready() says whether the other end has produced something: a plain read of the
 * shared index, as it is called very often.
 *
 * quiet(true) says that somebody will look, so the driver is not to ask for
 * events until quiet(false) is called, wherever else it would do so: it parks its
 * event index (rsp_event = rsp_cons) and remembers that, under its own lock.
 * After quiet(false), which asks for an event, the bus looks once more itself.
 *
 * handler() is called with interrupts and softirqs off when there is something,
 * like the handler of an event, also while events are off.
 */
struct link_poller {
	const char *name;	/* in statistics, such as "vbd-51712-0" */
	struct link *link;
	enum link_notification notification;
	bool (*ready)(struct link_poller *p);
	void (*quiet)(struct link_poller *p, bool quiet);
	irqreturn_t (*handler)(struct link_poller *p);
	/* statistics, see /sys/bus/pvbus/idle */
	u64 found, in_vain, cycles;
	/* private */
	struct list_head list;
	bool expecting, active, is_quiet, looking;
	u32 window, longest;	/* microseconds to look; 0: try now and then */
	u32 backoff, skip;
	u64 since, until;	/* cycles */
	u64 found_at, spent;	/* cycles of looking since then, in all visits */
};

/* Process context. After remove() has returned, no callback runs any more. */
void link_poller_add(struct link_poller *p);
void link_poller_remove(struct link_poller *p);

/*
 * Something will come soon (a request has been submitted, a packet sent), or
 * nothing will as nothing is in flight. Any context; cheap enough for each
 * request. A poller that expects nothing is not looked at, and looking in vain
 * ends the expectation, except with LINK_POLL.
 */
static inline void link_poller_expect(struct link_poller *p, bool something)
{
	WRITE_ONCE(p->expecting, something);
	if (something)
		WRITE_ONCE(p->active, true);
}

/*
 * The driver is sending in bulk, and looks at its ring each time: no events for
 * as long as it goes on like that, and a moment longer. Any context.
 */
void link_poller_looks(struct link_poller *p);

/* ---- start info -------------------------------------------------------- */

/* The first console's ring page (struct xencons_interface), or NULL; its port. */
void *link_console_page(struct link *link);
u32 link_console_port(struct link *link);

/* ---- XenStore ---------------------------------------------------------- */

/*
 * Paths are @dir "/" @node, or @dir alone when @node is "". A path that does
 * not begin with "/" is relative to this domain. All of these sleep, and return
 * the errno that the store gave, -ENODEV when the link goes away or -EIO for an
 * answer that makes no sense, or when the store has not answered for a minute.
 * Should the connection break, it is made anew, and they only take longer. A link
 * without a store of its own, to a domain other than 0, uses the first link's.
 */
struct pvbus_transaction {
	u32 id;
	u32 generation;		/* of the connection it was started in */
};

#define PVBUS_NIL ((struct pvbus_transaction) { 0, 0 })

/* NUL-terminated, kfree() it; @len without the NUL, may be NULL. Or ERR_PTR. */
char *pvbus_read(struct link *link, struct pvbus_transaction t,
		 const char *dir, const char *node, unsigned int *len);
int pvbus_write(struct link *link, struct pvbus_transaction t,
		const char *dir, const char *node, const char *value);
int pvbus_rm(struct link *link, struct pvbus_transaction t,
	     const char *dir, const char *node);
bool pvbus_exists(struct link *link, struct pvbus_transaction t,
		  const char *dir, const char *node);

/*
 * The names below a node: *@names is an array in the same allocation as the
 * strings, kfree() it once. Returns their number or an errno.
 */
int pvbus_directory(struct link *link, struct pvbus_transaction t,
		    const char *dir, const char *node, char ***names);

/* As sscanf(), but -ERANGE when nothing matched. */
__scanf(5, 6)
int pvbus_scanf(struct link *link, struct pvbus_transaction t,
		const char *dir, const char *node, const char *fmt, ...);
__printf(5, 6)
int pvbus_printf(struct link *link, struct pvbus_transaction t,
		 const char *dir, const char *node, const char *fmt, ...);

/* An unsigned number in a node, or @fallback when it is absent or no number. */
unsigned int pvbus_read_unsigned(struct link *link, const char *dir,
				 const char *node, unsigned int fallback);

/*
 * -EAGAIN, from the end or from a request in between: do the whole transaction
 * again. Also after an error there must be an end.
 */
int pvbus_transaction_start(struct link *link, struct pvbus_transaction *t);
int pvbus_transaction_end(struct link *link, struct pvbus_transaction t,
			  bool abort);

/*
 * The callback runs in a work item, never two of one link at a time, and may use
 * the store. It is called at least once after registering, and any number of
 * changes may make one call: it has to look for itself what is there now. (So a
 * flood of events costs neither memory nor order.) Unregistering waits for a
 * running callback, unless that is where it is called from.
 */
struct pvbus_watch {
	const char *node;	/* stays the caller's */
	void (*callback)(struct pvbus_watch *watch);
	/* private */
	struct link *link;
	struct work_struct work;
	struct list_head list;
	u32 token;
	u32 events;
	wait_queue_head_t arrival;
	char depth[11];		/* a number, or "" */
	/* For each event, in the work that receives, instead of queueing @work. */
	void (*event)(struct pvbus_watch *watch, const char *path);
};

int pvbus_register_watch(struct link *link, struct pvbus_watch *watch);
void pvbus_unregister_watch(struct pvbus_watch *watch);

/* ---- devices and drivers ----------------------------------------------- */

struct pvbus_device {
	struct device dev;
	const char *devicetype;	/* "vbd", "vif", "console" */
	const char *nodename;	/* "device/vbd/51712"; "console": the first one */
	char *otherend;		/* the other half's path, "" for the first console */
	u16 otherend_id;
	enum xenbus_state state; /* as we last wrote it */
	struct link *link;
	bool backend;		/* found below "backend", not "device" */
	/* private */
	struct pvbus_watch otherend_watch;
	char *otherend_state_path;
	struct list_head list;
	bool seen;
	bool removing;
};

/*
 * probe() and remove() may sleep; so may otherend_changed(), which never runs
 * before probe() has succeeded nor together with remove(). If remove() has not
 * written the state Closed, and waited for the other end, the bus does so; for a
 * backend it does not wait. The first console has no states: only probe() and
 * remove() are called for it.
 */
struct pvbus_driver {
	const char *name;
	const char *type;	/* the devicetype it serves */
	bool backend;		/* its devices are backends, see pvback.h */
	int (*probe)(struct pvbus_device *dev);
	void (*remove)(struct pvbus_device *dev);
	void (*otherend_changed)(struct pvbus_device *dev,
				 enum xenbus_state state);
	struct device_driver driver; /* private */
};

#define to_pvbus_device(d) container_of(d, struct pvbus_device, dev)
#define to_pvbus_driver(d) container_of(d, struct pvbus_driver, driver)

int __pvbus_register_driver(struct pvbus_driver *drv, struct module *owner);
#define pvbus_register_driver(drv) __pvbus_register_driver(drv, THIS_MODULE)
void pvbus_unregister_driver(struct pvbus_driver *drv);

/* Write our state, in a transaction which does not resurrect a removed node. */
int pvbus_switch_state(struct pvbus_device *dev, enum xenbus_state state);
enum xenbus_state pvbus_read_otherend_state(struct pvbus_device *dev);

/* The strategy in the device's own node; adaptive unless it says otherwise. */
enum link_notification pvbus_read_notification(struct pvbus_device *dev);

/*
 * Wait until the other end is Closed or gone, some seconds at most. For remove():
 * only then has it let go of our grants. Not for otherend_changed().
 */
void pvbus_wait_closed(struct pvbus_device *dev);

/* Log, and write "<errno> text" below error/ in XenStore; fatal also closes. */
__printf(3, 4)
void pvbus_dev_error(struct pvbus_device *dev, int err, const char *fmt, ...);
__printf(3, 4)
void pvbus_dev_fatal(struct pvbus_device *dev, int err, const char *fmt, ...);

#endif /* _PVBUS_H */
