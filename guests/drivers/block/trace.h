/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A request of a ring at its three stations in the frontend. "index" is that of
 * the ring, where the backend meets the same request under the same number; the
 * time is in nanoseconds of CLOCK_MONOTONIC.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pvblk

#if !defined(_PVBLK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PVBLK_TRACE_H

#include <linux/ktime.h>
#include <linux/tracepoint.h>
#include "pvblk.h"

/* It has been written into the ring, where the backend does not see it yet. */
TRACE_EVENT(pvblk_queue,
	TP_PROTO(const struct pvblk_ring *ring, u32 index, u16 id, u8 op,
		 u64 sector, u32 bytes),
	TP_ARGS(ring, index, id, op, sector, bytes),
	TP_STRUCT__entry(
		__field(u64, ns)
		__field(u64, sector)
		__field(u32, dev)
		__field(u32, queue)
		__field(u32, index)
		__field(u32, bytes)
		__field(u16, id)
		__field(u8, op)
	),
	TP_fast_assign(
		__entry->ns = ktime_get_mono_fast_ns();
		__entry->sector = sector;
		__entry->dev = ring->info->vdevice;
		__entry->queue = ring->index;
		__entry->index = index;
		__entry->bytes = bytes;
		__entry->id = id;
		__entry->op = op;
	),
	TP_printk("ns=%llu dev=%u queue=%u index=%u id=%u op=%u sector=%llu bytes=%u",
		  __entry->ns, __entry->dev, __entry->queue, __entry->index,
		  __entry->id, __entry->op, __entry->sector, __entry->bytes)
);

/* All before an index have been published; does the backend want an event? */
TRACE_EVENT(pvblk_push,
	TP_PROTO(const struct pvblk_ring *ring, u32 index, bool notify),
	TP_ARGS(ring, index, notify),
	TP_STRUCT__entry(
		__field(u64, ns)
		__field(u32, dev)
		__field(u32, queue)
		__field(u32, index)
		__field(bool, notify)
	),
	TP_fast_assign(
		__entry->ns = ktime_get_mono_fast_ns();
		__entry->dev = ring->info->vdevice;
		__entry->queue = ring->index;
		__entry->index = index;
		__entry->notify = notify;
	),
	TP_printk("ns=%llu dev=%u queue=%u index=%u notify=%u", __entry->ns,
		  __entry->dev, __entry->queue, __entry->index,
		  __entry->notify)
);

/* Its response has been taken out of the ring; "index" is the response's. */
TRACE_EVENT(pvblk_complete,
	TP_PROTO(const struct pvblk_ring *ring, u32 index, u16 id, s16 status),
	TP_ARGS(ring, index, id, status),
	TP_STRUCT__entry(
		__field(u64, ns)
		__field(u32, dev)
		__field(u32, queue)
		__field(u32, index)
		__field(u16, id)
		__field(s16, status)
	),
	TP_fast_assign(
		__entry->ns = ktime_get_mono_fast_ns();
		__entry->dev = ring->info->vdevice;
		__entry->queue = ring->index;
		__entry->index = index;
		__entry->id = id;
		__entry->status = status;
	),
	TP_printk("ns=%llu dev=%u queue=%u index=%u id=%u status=%d",
		  __entry->ns, __entry->dev, __entry->queue, __entry->index,
		  __entry->id, __entry->status)
);

#endif /* _PVBLK_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH block
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
