/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What it takes to move requests through a ring, as the block front and back count
 * it, and the lines "queue-N/name value" that their files "statistics" have of it.
 */
#ifndef _RING_COUNTS_H
#define _RING_COUNTS_H

#include <linux/kernel.h>
#include <linux/sysfs.h>

struct ring_counts {
	u64 requests;		/* put into the ring, or taken out of it */
	u64 doorbells;		/* we rang */
	u64 interrupts;		/* of the other end's event channel */
	u64 polls_found;	/* what was there before any event */
	u64 spins;		/* waits, instead of going to sleep, ... */
	u64 spins_in_vain;	/* ... in which nothing came */
};

/* As sysfs_emit_at(), but returns where to go on. */
static inline int ring_counts_emit(const struct ring_counts *c, u32 index,
				   char *buf, int at)
{
	const struct {
		const char *name;
		u64 value;
	} rows[] = {
		{ "requests", c->requests },
		{ "doorbells", c->doorbells },
		{ "interrupts", c->interrupts },
		{ "polls-found", c->polls_found },
		{ "spins", c->spins },
		{ "spins-in-vain", c->spins_in_vain },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		at += sysfs_emit_at(buf, at, "queue-%u/%s %llu\n", index,
				    rows[i].name, rows[i].value);
	return at;
}

#endif /* _RING_COUNTS_H */
