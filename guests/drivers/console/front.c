// SPDX-License-Identifier: GPL-2.0-only
/*
 * The consoles of a domain on the bus. The first is in a page which the toolstack
 * has made and start info points to: it has no backend node and no states, and
 * works from the first byte on. The others are found in XenStore as
 * device/console/N; we make their pages, and their states are those of any device.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include "pvcon.h"

#define PVCON_FURTHER	"device/console/"

static int open_first(struct pvbus_device *dev)
{
	struct pvcon *con = pvcon_get(0);
	struct link *link = dev->link;
	int err;

	if (!link_console_page(link))
		return -ENODEV;
	err = pvcon_open(con, link, link_console_page(link));
	if (err)
		return err;
	dev_set_drvdata(&dev->dev, con);
	pvcon_set_port(con, link_console_port(link));
	err = link_evtchn_claim(link, con->port, pvcon_event, con);
	if (err)
		pvcon_close(con);
	return err;
}

static int try_publish(struct pvbus_device *dev, const struct pvcon *con,
		       u32 port)
{
	struct pvbus_transaction t;
	int err, end;

	err = pvbus_transaction_start(dev->link, &t);
	if (err)
		return err;
	err = pvbus_printf(dev->link, t, dev->nodename, "ring-ref", "%u",
			   con->page.ref);
	if (!err)
		err = pvbus_printf(dev->link, t, dev->nodename, "port", "%u",
				   port);
	end = pvbus_transaction_end(dev->link, t, err < 0);
	return err < 0 ? err : end;
}

/* Say where the page is and which event channel is its; the backend may come. */
static int publish(struct pvbus_device *dev, struct pvcon *con, u32 port)
{
	int err;

	do {
		err = try_publish(dev, con, port);
	} while (err == -EAGAIN);
	return err ? err : pvbus_switch_state(dev, XenbusStateInitialised);
}

static int open_further(struct pvbus_device *dev)
{
	struct pvcon *con;
	unsigned int number;
	u32 port;
	int err;

	if (kstrtouint(dev->nodename + strlen(PVCON_FURTHER), 10, &number))
		return -EINVAL;
	con = number ? pvcon_get(number) : NULL;
	if (!con)
		return -ENODEV;

	err = link_grant_alloc(dev->link, 1, 0, &con->page);
	if (err)
		return err;
	err = pvcon_open(con, dev->link, con->page.addr);
	if (err)
		goto free;
	dev_set_drvdata(&dev->dev, con);
	err = link_evtchn_alloc(dev->link, pvcon_event, con, &port);
	if (err)
		goto close;
	pvcon_set_port(con, port);
	err = publish(dev, con, port);
	if (!err)
		return 0;

	link_evtchn_free(dev->link, port);
close:
	pvcon_close(con);
free:
	link_grant_free(dev->link, &con->page);
	return err;
}

static bool is_first(const struct pvbus_device *dev)
{
	return !str_has_prefix(dev->nodename, PVCON_FURTHER);
}

static int pvcon_probe(struct pvbus_device *dev)
{
	int err = is_first(dev) ? open_first(dev) : open_further(dev);

	if (err)
		dev_err(&dev->dev, "no console: error %d\n", err);
	return err;
}

static void pvcon_remove(struct pvbus_device *dev)
{
	struct pvcon *con = dev_get_drvdata(&dev->dev);

	if (con->port)
		link_evtchn_free(dev->link, con->port);
	pvcon_close(con);
	if (is_first(dev))
		return;
	/* The backend lets go of the page before others get its frame. */
	pvbus_switch_state(dev, XenbusStateClosed);
	pvbus_wait_closed(dev);
	link_grant_free(dev->link, &con->page);
}

static void disconnect(struct pvbus_device *dev, struct pvcon *con)
{
	u32 port = con->port;

	if (port) {
		pvcon_detach(con);
		link_evtchn_free(dev->link, port);
	}
	pvbus_switch_state(dev, XenbusStateClosed);
}

/*
 * A backend that waits while we are connected is another one, after the death of
 * the one that we were connected to. The page has all that matters, and our port
 * waits to be bound again. What we have published still holds, but may be gone: the
 * nodes of a domain that has been saved and restored are new ones.
 */
static void connect_again(struct pvbus_device *dev, struct pvcon *con)
{
	int err;

	pvbus_switch_state(dev, XenbusStateInitialising);
	err = publish(dev, con, con->port);
	if (err)
		dev_err(&dev->dev, "cannot connect again: error %d\n", err);
}

static void pvcon_otherend_changed(struct pvbus_device *dev,
				   enum xenbus_state state)
{
	struct pvcon *con = dev_get_drvdata(&dev->dev);

	switch (state) {
	case XenbusStateInitWait:
		if (dev->state == XenbusStateConnected)
			connect_again(dev, con);
		break;
	case XenbusStateConnected:
		if (dev->state == XenbusStateInitialised)
			pvbus_switch_state(dev, XenbusStateConnected);
		break;
	case XenbusStateClosed:
		/* left from before: it has not seen yet that we are back */
		if (dev->state == XenbusStateInitialised)
			break;
		fallthrough;
	case XenbusStateClosing:
		disconnect(dev, con);
		break;
	default:
		break;
	}
}

static struct pvbus_driver pvcon_driver = {
	.name = "pvcon",
	.type = "console",
	.probe = pvcon_probe,
	.remove = pvcon_remove,
	.otherend_changed = pvcon_otherend_changed,
};

static int __init pvcon_init(void)
{
	pvcon_init_all();
	return pvbus_register_driver(&pvcon_driver);
}
module_init(pvcon_init);

static void __exit pvcon_exit(void)
{
	pvbus_unregister_driver(&pvcon_driver);
}
module_exit(pvcon_exit);

MODULE_DESCRIPTION("Paravirtual consoles over a link");
MODULE_LICENSE("GPL");
MODULE_ALIAS("pvbus-console");
