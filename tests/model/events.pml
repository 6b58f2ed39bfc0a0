/*
 * An event channel: pending, mask and doorbell (harness/hypervisor/events.py and
 * guests/drivers/bus/evtchn.c).
 *
 * A sender has ITEMS pieces of work to announce. The receiver works on what it
 * finds when a doorbell rings, masks and unmasks its port in between as it likes,
 * and waits for the next doorbell. If it waits for good while there is work, that
 * is a state in which nothing can go on: an "invalid end state".
 *
 * To be caught: NO_SEND_FENCE, NO_UNMASK_FENCE, NO_UNMASK_CHECK, NO_CLEAR_FENCE,
 * CLEARS_LATE (the pending byte, after working).
 */
#define PROCESSORS	2
#define WORDS		3
#include "memory.h"

#define ITEMS		2
#define MASKINGS	2

#define SENDER		0
#define RECEIVER	1

#define WORK		0	/* word: what the events are about */
#define PENDING		1	/* word, as below */
#define MASK		2

bool doorbell;

proctype send()
{
	byte items, mask;

	do
	:: items == ITEMS -> break
	:: items < ITEMS ->
		items++;
		store(SENDER, WORK, items);
		store(SENDER, PENDING, 1);
#ifndef NO_SEND_FENCE
		fence(SENDER);
#endif
		load(SENDER, MASK, mask);
		if
		:: !mask ->
			fence(SENDER);	/* a system call, or an exit */
			doorbell = true
		:: else
		fi
	od
}

/* One look at the port, when the doorbell has rung. */
inline scan()
{
	load(RECEIVER, PENDING, pending);
	if
	:: pending && !masked ->
#ifndef CLEARS_LATE
		store(RECEIVER, PENDING, 0);
#ifndef NO_CLEAR_FENCE
		fence(RECEIVER);
#endif
#endif
		load(RECEIVER, WORK, done);
#ifdef CLEARS_LATE
		store(RECEIVER, PENDING, 0);
		fence(RECEIVER)
#endif
	:: else
	fi
}

proctype receive()
{
	byte pending, done, maskings;
	bool masked;

	do
	:: done == ITEMS && !masked -> break
	:: d_step { doorbell; doorbell = false };
	   scan()
	:: !masked && maskings < MASKINGS ->
		maskings++;
		masked = true;
		store(RECEIVER, MASK, 1)
	:: masked ->
		masked = false;
		store(RECEIVER, MASK, 0);
#ifndef NO_UNMASK_FENCE
		fence(RECEIVER);
#endif
#ifndef NO_UNMASK_CHECK
		load(RECEIVER, PENDING, pending);
		if
		:: pending -> doorbell = true
		:: else
		fi
#endif
	od
}

init {
	atomic {
		run drain(SENDER);
		run drain(RECEIVER);
		run send();
		run receive()
	}
}
