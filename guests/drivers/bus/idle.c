// SPDX-License-Identifier: GPL-2.0-only
/*
 * Looks at rings while the processor has nothing else to do.
 *
 * An interrupt and the waking of a halted virtual processor cost many times what
 * most requests take. So the idle state of the first processor is one of ours:
 * as long as a driver expects something from the other end, and such looking has
 * paid lately, it looks at the ring for a while before it halts. Meanwhile the
 * other end is not asked for events.
 *
 * A task that becomes ready ends that, with events still off: it will most
 * likely submit something, or be idle again, in a moment. A timer sees to it that
 * responses are found if it does neither, and turns events on again.
 *
 * Whatever changes a poller is on the first processor with interrupts off: its
 * idle task, the timer's interrupt, or a driver that sends in bulk. So they never
 * meet for one poller.
 */
#include <linux/cpuidle.h>
#include <linux/cpumask.h>
#include <linux/context_tracking.h>
#include <linux/hrtimer.h>
#include <linux/mutex.h>
#include <linux/rculist.h>
#include <linux/sched/idle.h>
#include <linux/stop_machine.h>
#include <linux/timex.h>
#include <asm/tsc.h>
#include "bus.h"
#include "trace.h"

#define POLLING_CPU	0

/*
 * Microseconds to look without finding anything, at most. In Domain 0 a process
 * answers. Another guest has to be awake for that, and to ask its own devices: who
 * gives up before that makes the other one give up, too, and then each waits for
 * the other's interrupts.
 */
#define WINDOW_PROCESS	200
#define WINDOW_GUEST	800
#define WINDOW_MIN	10

/* One visit takes no longer: the idle loop has things to do, too. */
#define VISIT_MAX	1000

/* Looking in vain is left out so many times at most before the next try. */
#define SKIP_MAX	64

/* Reading the clock costs more than a look at a ring. */
#define LOOKS_PER_CLOCK	16

/* How long responses may lie there unseen while events are off. */
#define WATCH_NS	NSEC_PER_MSEC

static LIST_HEAD(pollers);		/* read under RCU */
static DEFINE_MUTEX(pollers_lock);	/* changes of the list */
static struct hrtimer watch_timer;
static bool registered;

static u64 cycles_of(u32 us)
{
	return (u64)us * tsc_khz / 1000;
}

/* ---- asking for events or not ------------------------------------------ */

static void quieten(struct link_poller *p)
{
	if (p->is_quiet)
		return;
	p->is_quiet = true;
	p->quiet(p, true);
	if (!hrtimer_active(&watch_timer))
		hrtimer_start(&watch_timer, WATCH_NS, HRTIMER_MODE_REL_PINNED);
}

/* Have the other end ring again; true: something has come before that. */
static bool unquieten(struct link_poller *p)
{
	p->is_quiet = false;
	p->quiet(p, false);
	link_mb(p->link); /* it knows before the last look */
	return p->ready(p);
}

void link_poller_looks(struct link_poller *p)
{
	unsigned long flags;

	if (!registered || p->notification == LINK_EVENT)
		return;
	local_irq_save(flags);
	/* Elsewhere it would have to wait for the first processor. */
	if (smp_processor_id() == POLLING_CPU) {
		WRITE_ONCE(p->active, true);
		quieten(p);
	}
	local_irq_restore(flags);
}
EXPORT_SYMBOL_GPL(link_poller_looks);

static enum hrtimer_restart watch(struct hrtimer *timer)
{
	struct link_poller *p;
	bool again = false;

	rcu_read_lock();
	list_for_each_entry_rcu(p, &pollers, list) {
		if (!p->is_quiet)
			continue;
		if (READ_ONCE(p->active)) {
			WRITE_ONCE(p->active, false);
			again = true;
			if (p->ready(p))
				p->handler(p);
		} else if (unquieten(p)) {
			p->handler(p);
		}
	}
	rcu_read_unlock();
	if (!again)
		return HRTIMER_NORESTART;
	hrtimer_forward_now(timer, WATCH_NS);
	return HRTIMER_RESTART;
}

/* ---- how long to look -------------------------------------------------- */

static void begin(struct link_poller *p, u64 now)
{
	p->looking = false;
	if (!READ_ONCE(p->expecting) || p->notification == LINK_EVENT)
		return;
	if (p->notification == LINK_POLL) {
		p->window = p->longest;
	} else if (!p->window) {
		if (p->skip) {
			p->skip--;
			return;
		}
		p->window = p->longest / 2;
	}
	p->looking = true;
	p->since = now;
	p->found_at = now;
	p->until = now + cycles_of(p->window) - p->spent;
	WRITE_ONCE(p->active, true);
	quieten(p);
}

static void found(struct link_poller *p, u64 now)
{
	trace_link_poll(p->name, true);
	p->found++;
	p->window = min(2 * p->window, p->longest);
	p->backoff = 0;
	p->spent = 0;
	p->found_at = now;
	p->until = now + cycles_of(p->window);
	WRITE_ONCE(p->active, true);
}

static void in_vain(struct link_poller *p)
{
	trace_link_poll(p->name, false);
	p->in_vain++;
	p->spent = 0;
	if (p->notification == LINK_POLL)
		return;
	WRITE_ONCE(p->expecting, false);
	p->window /= 2;
	if (p->window >= WINDOW_MIN && !p->backoff)
		return;
	p->window = 0;
	p->backoff = min(2 * p->backoff + 1, (u32)SKIP_MAX);
	p->skip = p->backoff;
}

static void stop_looking(struct link_poller *p, u64 now)
{
	p->looking = false;
	p->cycles += now - p->since;
	p->spent += now - p->found_at;
}

/* ---- looking ----------------------------------------------------------- */

/*
 * In the idle task, but like an interrupt: what softirqs the handler raises run
 * before this returns. Time stands as still here as it did for the last
 * interrupt; that is never long ago, since the timer runs while events are off.
 */
static void handle(struct link_poller *p)
{
	local_bh_disable();
	local_irq_disable();
	p->handler(p);
	local_irq_enable();
	local_bh_enable();
}

/* One round over all that look; true: at least one did. */
static bool look(u64 now, bool *worked)
{
	struct link_poller *p;
	bool looked = false;

	list_for_each_entry_rcu(p, &pollers, list) {
		if (!p->looking)
			continue;
		looked = true;
		if (p->ready(p)) {
			*worked = true;
			found(p, now);
			handle(p);
			if (!READ_ONCE(p->expecting))
				stop_looking(p, now);
		} else if ((s64)(now - p->until) > 0) {
			stop_looking(p, now);
			in_vain(p);
		}
	}
	return looked;
}

static bool begin_all(u64 now)
{
	struct link_poller *p;
	bool looking = false;

	list_for_each_entry_rcu(p, &pollers, list) {
		begin(p, now);
		looking |= p->looking;
	}
	return looking;
}

static void stop_all(u64 now)
{
	struct link_poller *p;

	list_for_each_entry_rcu(p, &pollers, list)
		if (p->looking)
			stop_looking(p, now);
}

/* Interrupts are off before and after. Returns whether a handler was run. */
static bool look_for_a_while(void)
{
	u64 start = get_cycles(), now = start;
	bool worked = false;
	unsigned int n;

	if (!begin_all(start))
		return false;
	local_irq_enable();
	if (!current_set_polling_and_test()) {
		for (n = 1; !need_resched() && look(now, &worked); n++) {
			cpu_relax();
			if (n % LOOKS_PER_CLOCK)
				continue;
			now = get_cycles();
			if (now - start > cycles_of(VISIT_MAX))
				break;
		}
	}
	current_clr_polling();
	local_irq_disable();
	stop_all(get_cycles());
	return worked;
}

/*
 * Turn events on before halting, with interrupts off; false: something has come
 * meanwhile and been handled, or a poller never wants to halt.
 */
static bool may_halt(void)
{
	struct link_poller *p;
	bool halt = true;

	list_for_each_entry_rcu(p, &pollers, list) {
		if (p->notification == LINK_POLL && READ_ONCE(p->expecting)) {
			halt = false;
		} else if (p->is_quiet && unquieten(p)) {
			handle(p);
			local_irq_disable();
			halt = false;
		}
	}
	if (halt)
		hrtimer_try_to_cancel(&watch_timer);
	return halt;
}

/*
 * The idle state. After a handler has run, the idle loop has to look at its
 * timers anew before it may halt.
 */
static int enter_idle(struct cpuidle_device *dev, struct cpuidle_driver *drv,
		      int index)
{
	bool halt = true;

	if (dev->cpu == POLLING_CPU && !list_empty(&pollers)) {
		rcu_read_lock();
		halt = !look_for_a_while() && !need_resched() && may_halt();
		rcu_read_unlock();
	}
	/* Also when it does not halt: this lets RCU's grace periods go on. */
	ct_idle_enter();
	if (halt) {
		raw_safe_halt();
		raw_local_irq_disable();
	}
	ct_idle_exit();
	return index;
}

/* ---- pollers ----------------------------------------------------------- */

void link_poller_add(struct link_poller *p)
{
	p->expecting = false;
	p->is_quiet = false;
	p->looking = false;
	p->longest = link_has_store(to_bus_link(p->link)) ? WINDOW_PROCESS :
							    WINDOW_GUEST;
	p->window = p->longest / 2;
	p->spent = 0;
	p->backoff = 0;
	p->skip = 0;
	mutex_lock(&pollers_lock);
	list_add_tail_rcu(&p->list, &pollers);
	mutex_unlock(&pollers_lock);
}
EXPORT_SYMBOL_GPL(link_poller_add);

void link_poller_remove(struct link_poller *p)
{
	mutex_lock(&pollers_lock);
	list_del_rcu(&p->list);
	mutex_unlock(&pollers_lock);
	synchronize_rcu();
}
EXPORT_SYMBOL_GPL(link_poller_remove);

/*
 * /sys/bus/pvbus/idle: one line for each poller with its name, how often it
 * found something and how often not, and the microseconds spent on that.
 */
static ssize_t idle_show(struct bus_type *bus, char *buf)
{
	struct link_poller *p;
	int n = 0;

	mutex_lock(&pollers_lock);
	list_for_each_entry(p, &pollers, list)
		n += sysfs_emit_at(buf, n, "%s found %llu in-vain %llu us %llu\n",
				   p->name, p->found, p->in_vain,
				   tsc_khz ? p->cycles / (tsc_khz / 1000) : 0);
	mutex_unlock(&pollers_lock);
	return n;
}
static BUS_ATTR_RO(idle);

static struct attribute *idle_attrs[] = {
	&bus_attr_idle.attr,
	NULL
};
ATTRIBUTE_GROUPS(idle);

/* ---- coming and going -------------------------------------------------- */

/* Without an owner: as one, the module could never be unloaded. */
static struct cpuidle_driver idle_driver = {
	.name = "pvbus",
	.states = { {
		.enter = enter_idle,
		.flags = CPUIDLE_FLAG_RCU_IDLE,
		.exit_latency = 1,
		.target_residency = 1,
		.name = "PVBUS",
		.desc = "look at rings, then halt",
	} },
	.state_count = 1,
};

/* Without our idle state there is no looking, and events do it all. */
void idle_start(void)
{
	int err;

	pvbus_bus_type.bus_groups = idle_groups;
	hrtimer_init(&watch_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED);
	watch_timer.function = watch;
	if (!tsc_khz)
		return;
	idle_driver.cpumask = (struct cpumask *)cpu_present_mask;
	err = cpuidle_register(&idle_driver, NULL);
	if (err)
		pr_info("pvbus: rings are not looked at by idle processors: error %d\n",
			err);
	registered = !err;
}

static int nothing(void *unused)
{
	return 0;
}

void idle_stop(void)
{
	if (!registered)
		return;
	cpuidle_unregister(&idle_driver);
	/* An idle task gives way to this only when it has left our code. */
	stop_machine(nothing, NULL, NULL);
	hrtimer_cancel(&watch_timer);
}
