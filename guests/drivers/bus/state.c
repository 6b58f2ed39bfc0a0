// SPDX-License-Identifier: GPL-2.0-only
/* What drivers say about themselves on the bus, and are told: states, errors. */
#include <linux/export.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

#define CLOSE_TIMEOUT (5 * HZ)

static const char *state_name(enum xenbus_state state)
{
	static const char *const names[] = {
		"Unknown", "Initialising", "InitWait", "Initialised",
		"Connected", "Closing", "Closed", "Reconfiguring",
		"Reconfigured",
	};

	return state < ARRAY_SIZE(names) ? names[state] : "an unknown state";
}

/* One attempt to write our state; -ENOENT: the node has been removed. */
static int try_switch(struct pvbus_device *dev, enum xenbus_state state)
{
	struct pvbus_transaction t;
	unsigned int old;
	int err, end;

	err = pvbus_transaction_start(dev->link, &t);
	if (err)
		return err;
	err = pvbus_scanf(dev->link, t, dev->nodename, "state", "%u", &old);
	if (err == 1)
		err = pvbus_printf(dev->link, t, dev->nodename, "state", "%d",
				   state);
	end = pvbus_transaction_end(dev->link, t, err < 0);
	return err < 0 ? err : end;
}

int pvbus_switch_state(struct pvbus_device *dev, enum xenbus_state state)
{
	int err;

	if (state == dev->state)
		return 0;
	do {
		err = try_switch(dev, state);
	} while (err == -EAGAIN);
	if (err == -ENOENT) {
		/* The toolstack has removed the device: nothing to report to. */
		dev->state = state;
		return 0;
	}
	if (err) {
		dev_err(&dev->dev, "cannot switch to %s: error %d\n",
			state_name(state), err);
		return err;
	}
	dev->state = state;
	return 0;
}
EXPORT_SYMBOL_GPL(pvbus_switch_state);

enum xenbus_state pvbus_read_otherend_state(struct pvbus_device *dev)
{
	unsigned int state = pvbus_read_unsigned(dev->link, dev->otherend,
						 "state", XenbusStateUnknown);

	return state <= XenbusStateReconfigured ? state : XenbusStateUnknown;
}
EXPORT_SYMBOL_GPL(pvbus_read_otherend_state);

enum link_notification pvbus_read_notification(struct pvbus_device *dev)
{
	char *word = pvbus_read(dev->link, PVBUS_NIL, dev->nodename,
				"notification", NULL);
	enum link_notification notification = LINK_ADAPTIVE;

	if (IS_ERR(word))
		return notification;
	if (!strcmp(word, "event"))
		notification = LINK_EVENT;
	else if (!strcmp(word, "poll"))
		notification = LINK_POLL;
	kfree(word);
	return notification;
}
EXPORT_SYMBOL_GPL(pvbus_read_notification);

/*
 * The watch says when to look. Its callback is not needed for that, so this may
 * be called while the work that would run it is itself waiting for us.
 */
void pvbus_wait_closed(struct pvbus_device *dev)
{
	struct pvbus_watch *watch = &dev->otherend_watch;
	long left = CLOSE_TIMEOUT;
	enum xenbus_state state;
	u32 events;

	do {
		events = READ_ONCE(watch->events);
		state = pvbus_read_otherend_state(dev);
		if (state == XenbusStateClosed || state == XenbusStateUnknown ||
		    !pvbus_exists(dev->link, PVBUS_NIL, dev->nodename, "state"))
			return;
		left = wait_event_timeout(watch->arrival,
					  READ_ONCE(watch->events) != events,
					  left);
	} while (left);
	dev_warn(&dev->dev, "the other end stays in state %s\n",
		 state_name(state));
}
EXPORT_SYMBOL_GPL(pvbus_wait_closed);

static void report(struct pvbus_device *dev, int err, struct va_format *vaf)
{
	char *text = kasprintf(GFP_KERNEL, "%d %pV", -err, vaf);
	char *dir = kasprintf(GFP_KERNEL, "error/%s", dev->nodename);

	if (text && dir) {
		dev_err(&dev->dev, "%s\n", text);
		if (pvbus_write(dev->link, PVBUS_NIL, dir, "error", text))
			dev_err(&dev->dev, "... and XenStore was not told\n");
	}
	kfree(dir);
	kfree(text);
}

void pvbus_dev_error(struct pvbus_device *dev, int err, const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list ap;

	va_start(ap, fmt);
	vaf.va = &ap;
	report(dev, err, &vaf);
	va_end(ap);
}
EXPORT_SYMBOL_GPL(pvbus_dev_error);

void pvbus_dev_fatal(struct pvbus_device *dev, int err, const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list ap;

	va_start(ap, fmt);
	vaf.va = &ap;
	report(dev, err, &vaf);
	va_end(ap);
	pvbus_switch_state(dev, XenbusStateClosing);
}
EXPORT_SYMBOL_GPL(pvbus_dev_fatal);
