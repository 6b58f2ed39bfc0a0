/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the agent complains when it cannot tell its client. */
#ifndef FAULT_H
#define FAULT_H

/* One line into the kernel's log, or on standard error without /dev/kmsg. */
void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
