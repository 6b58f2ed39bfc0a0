// SPDX-License-Identifier: GPL-2.0-only
/*
 * The frontends of a domain that has been saved, and restored under another number:
 * their backends are elsewhere. Devices keep their names, with the number that the
 * domain had when it came up.
 */
#include <linux/slab.h>
#include <linux/string.h>
#include "devices.h"

static void free_path(void *path)
{
	kfree(path);
}

/* Drivers may be reading the old path just now: it stays as long as the link. */
static void replace_path(struct pvbus_device *dev, char **path, char *fresh)
{
	char *old = *path;

	WRITE_ONCE(*path, fresh);
	(void)devm_add_action_or_reset(dev->link->dev, free_path, old);
}

static void watch_elsewhere(struct pvbus_device *dev, char *otherend,
			    char *state_path)
{
	bool bound = dev->dev.driver;
	int err = 0;

	if (bound)
		pvbus_unregister_watch(&dev->otherend_watch);
	replace_path(dev, &dev->otherend, otherend);
	replace_path(dev, &dev->otherend_state_path, state_path);
	if (bound)
		err = watch_otherend(dev);
	if (err)
		dev_err(&dev->dev, "cannot watch %s: error %d\n", state_path,
			err);
}

/*
 * The path of a backend has our number in it, and that of its domain, which may be
 * another, too. The one that is there now knows nothing of us; to a driver it is
 * one that has taken the place of a dead one.
 */
void follow_backend(struct pvbus_device *dev)
{
	char *path, *state_path;

	if (is_first_console(dev))
		return;
	dev->otherend_id = dev->link->remote_domid;
	path = read_otherend_path(dev);
	if (IS_ERR(path))
		return;
	if (!strcmp(path, dev->otherend) ||
	    pvbus_read_unsigned(dev->link, dev->nodename, "backend-id",
				DOMID_INVALID) != dev->otherend_id)
		goto out_path;
	state_path = kasprintf(GFP_KERNEL, "%s/state", path);
	if (!state_path)
		goto out_path;
	device_lock(&dev->dev);
	watch_elsewhere(dev, path, state_path);
	device_unlock(&dev->dev);
	return;

out_path:
	kfree(path);
}
