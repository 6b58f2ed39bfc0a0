/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What drivers/tty/hvc/hvc_console.h of Linux 6.1 declares: the kernel exports
 * the functions to modules but does not ship the header with its own.
 */
#ifndef _PVCON_HVC_H
#define _PVCON_HVC_H

#include <linux/spinlock.h>
#include <linux/tty.h>
#include <linux/tty_port.h>
#include <linux/version.h>

/* Other versions may lay these structures out differently. */
#if (LINUX_VERSION_CODE >> 8) != (KERNEL_VERSION(6, 1, 0) >> 8)
#error "compare this file with drivers/tty/hvc/hvc_console.h of your kernel"
#endif

struct hv_ops;

/* The begin of it; only the hvc driver makes one. */
struct hvc_struct {
	struct tty_port port;
	spinlock_t lock;
	int index;
	int do_wakeup;
	char *outbuf;
	int outbuf_size;
	int n_outbuf;
	u32 vtermno;
	const struct hv_ops *ops;
	int irq_requested;	/* set: do not poll for input */
};

struct hv_ops {
	int (*get_chars)(u32 vtermno, char *buf, int count);
	int (*put_chars)(u32 vtermno, const char *buf, int count);
	int (*flush)(u32 vtermno, bool wait);
	int (*notifier_add)(struct hvc_struct *hp, int irq);
	void (*notifier_del)(struct hvc_struct *hp, int irq);
	void (*notifier_hangup)(struct hvc_struct *hp, int irq);
	int (*tiocmget)(struct hvc_struct *hp);
	int (*tiocmset)(struct hvc_struct *hp, unsigned int set,
			unsigned int clear);
	void (*dtr_rts)(struct hvc_struct *hp, int raise);
};

struct hvc_struct *hvc_alloc(u32 vtermno, int data, const struct hv_ops *ops,
			     int outbuf_size);
/* Reserve the terminal number @index for @vtermno, before hvc_alloc(). */
int hvc_instantiate(u32 vtermno, int index, const struct hv_ops *ops);
int hvc_remove(struct hvc_struct *hp);
int hvc_poll(struct hvc_struct *hp);
void hvc_kick(void);

#endif /* _PVCON_HVC_H */
