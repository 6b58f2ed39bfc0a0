/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets where they enter and leave the rings. "index" is that of the packet's
 * first entry in its ring, where the backend meets it under the same number; the
 * time is in nanoseconds of CLOCK_MONOTONIC.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pvnet

#if !defined(_PVNET_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PVNET_TRACE_H

#include <linux/string.h>
#include <linux/ktime.h>
#include <linux/tracepoint.h>
#include "pvnet.h"

DECLARE_EVENT_CLASS(pvnet_packet,
	TP_PROTO(const struct pvnet_queue *q, u32 index, u32 id, u32 bytes),
	TP_ARGS(q, index, id, bytes),
	TP_STRUCT__entry(
		__field(u64, ns)
		__field(u32, queue)
		__field(u32, index)
		__field(u32, id)
		__field(u32, bytes)
		__string(dev, kbasename(q->np->dev->nodename))
	),
	TP_fast_assign(
		__entry->ns = ktime_get_mono_fast_ns();
		__entry->queue = q->index;
		__entry->index = index;
		__entry->id = id;
		__entry->bytes = bytes;
		__assign_str(dev, kbasename(q->np->dev->nodename));
	),
	TP_printk("ns=%llu dev=%s queue=%u index=%u id=%u bytes=%u",
		  __entry->ns, __get_str(dev), __entry->queue, __entry->index,
		  __entry->id, __entry->bytes)
);

/* A packet has been written into the ring, where the backend may see it soon. */
DEFINE_EVENT(pvnet_packet, pvnet_xmit,
	TP_PROTO(const struct pvnet_queue *q, u32 index, u32 id, u32 bytes),
	TP_ARGS(q, index, id, bytes));

/* A packet has been read off the ring, and goes to the stack. */
DEFINE_EVENT(pvnet_packet, pvnet_rx,
	TP_PROTO(const struct pvnet_queue *q, u32 index, u32 id, u32 bytes),
	TP_ARGS(q, index, id, bytes));

#endif /* _PVNET_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH net
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
