// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "commands.h"
#include "reply.h"

#define MAX_MOUNTS	256

static void detach(const char *directory)
{
	if (umount2(directory, UMOUNT_NOFOLLOW) < 0)
		mount(NULL, directory, NULL, MS_REMOUNT | MS_RDONLY, NULL);
}

/*
 * Unmount what is on a device, latest first; what is busy becomes read-only.
 * A minimal guest has no init system that would do so.
 */
static void unmount_disks(void)
{
	char *directories[MAX_MOUNTS];
	size_t count = 0;
	struct mntent *entry;
	FILE *mounts = setmntent("/proc/self/mounts", "re");

	if (!mounts)
		return;
	while (count < MAX_MOUNTS && (entry = getmntent(mounts)))
		if (entry->mnt_fsname[0] == '/')
			directories[count++] = strdup(entry->mnt_dir);
	endmntent(mounts);
	while (count--) {
		if (directories[count])
			detach(directories[count]);
		free(directories[count]);
	}
}

void guest_shutdown(const struct json *arguments)
{
	static const struct {
		const char *mode;
		int action;
	} modes[] = {
		{ "powerdown", RB_POWER_OFF },
		{ "reboot", RB_AUTOBOOT },
		{ "halt", RB_HALT_SYSTEM },
	};
	const char *mode = argument_string(arguments, "mode", "powerdown");

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i].mode, mode))
			continue;
		sync();
		unmount_disks();
		reboot(modes[i].action);
		reply_error("cannot shut down: %s", strerror(errno));
		return;
	}
	reply_error("guest-shutdown: mode is powerdown, reboot or halt");
}
