// SPDX-License-Identifier: GPL-2.0-only
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "fault.h"

void fault(const char *format, ...)
{
	char text[512];
	va_list arguments;
	int fd;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);

	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	dprintf(fd < 0 ? STDERR_FILENO : fd, "<3>agent: %s\n", text);
	if (fd >= 0)
		close(fd);
}
