/* SPDX-License-Identifier: GPL-2.0-only */
/* Commands started by guest-exec. */
#ifndef EXEC_H
#define EXEC_H

/* Reap every child that has ended. */
void exec_reap(void);

#endif
