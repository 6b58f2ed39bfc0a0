/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the bus lets itself be watched at: doorbells, events, and what an idle
 * processor finds. Each line says when, in nanoseconds of CLOCK_MONOTONIC: the
 * trace's own clock shows no more than microseconds. A port is one of this end,
 * on the link to the domain that is named with it.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pvbus

#if !defined(_PVBUS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PVBUS_TRACE_H

#include <linux/ktime.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(link_port,
	TP_PROTO(u32 domid, u32 port),
	TP_ARGS(domid, port),
	TP_STRUCT__entry(
		__field(u64, ns)
		__field(u32, domid)
		__field(u32, port)
	),
	TP_fast_assign(
		__entry->ns = ktime_get_mono_fast_ns();
		__entry->domid = domid;
		__entry->port = port;
	),
	TP_printk("ns=%llu domid=%u port=%u", __entry->ns, __entry->domid,
		  __entry->port)
);

/* The other end's doorbell is about to be rung, unless the port is masked. */
DEFINE_EVENT(link_port, link_notify, TP_PROTO(u32 domid, u32 port),
	     TP_ARGS(domid, port));

/* A pending port's handler is about to run. */
DEFINE_EVENT(link_port, link_event, TP_PROTO(u32 domid, u32 port),
	     TP_ARGS(domid, port));

/* An idle processor has found something in a ring, or has stopped looking. */
TRACE_EVENT(link_poll,
	TP_PROTO(const char *name, bool found),
	TP_ARGS(name, found),
	TP_STRUCT__entry(
		__field(u64, ns)
		__field(bool, found)
		__string(name, name)
	),
	TP_fast_assign(
		__entry->ns = ktime_get_mono_fast_ns();
		__entry->found = found;
		__assign_str(name, name);
	),
	TP_printk("ns=%llu name=%s found=%u", __entry->ns, __get_str(name),
		  __entry->found)
);

#endif /* _PVBUS_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH bus
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
