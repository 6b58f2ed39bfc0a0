/*
 * A ring's notifications: push, hold-off, final check, sleep (ring.h, both
 * harness/ring/ring.py and guests/drivers/include/link_ring.h).
 *
 * A producer publishes ENTRIES entries, some at a time. A consumer takes what
 * there is, may look again, and sleeps once it has asked for a notification and
 * found nothing more. If it sleeps for good while entries wait, that is a state
 * in which nothing can go on: the verifier's "invalid end state".
 *
 * To be caught: NO_PUSH_FENCE, NO_ARM_FENCE, NO_FINAL_CHECK, MISSES_BATCHES
 * (a notification only when the event index is met exactly), NEVER_HOLDS_OFF.
 */
#define PROCESSORS	2
#define WORDS		2
#include "memory.h"

#define ENTRIES		5
#define MODULUS		8	/* of the indices, which begin near its end */
#define START		6

#define PRODUCER	0
#define CONSUMER	1

#define PROD		0	/* word: index of the producer */
#define EVENT		1	/* word: where the consumer wants to hear of it */

#define distance(from, to)	((to + MODULUS - from) % MODULUS)

bool doorbell;
byte asked = 1;			/* the ring begins with one request to notify */
byte notified;

proctype produce()
{
	byte pushed, old, new, event;

	new = START;
	do
	:: pushed == ENTRIES -> break
	:: pushed < ENTRIES ->
		old = new;
		do
		:: new = (new + 1) % MODULUS;
		   pushed++;
		   if
		   :: pushed == ENTRIES -> break
		   :: pushed < ENTRIES -> skip
		   :: pushed < ENTRIES -> break
		   fi
		od;
		store(PRODUCER, PROD, new);
#ifndef NO_PUSH_FENCE
		fence(PRODUCER);
#endif
		load(PRODUCER, EVENT, event);
		if
#if defined(NEVER_HOLDS_OFF)
		:: true ->
#elif defined(MISSES_BATCHES)
		:: event == new ->
#else
		:: distance(event, new) < distance(old, new) ->
#endif
			fence(PRODUCER);	/* a system call, or an exit */
			atomic {
				notified++;
				assert(notified <= asked);
				doorbell = true
			}
		:: else
		fi
	od
}

proctype consume()
{
	byte taken, cons, prod;

	cons = START;
	do
	:: taken == ENTRIES -> break
	:: taken < ENTRIES ->
		load(CONSUMER, PROD, prod);
		taken = taken + distance(cons, prod);
		cons = prod;
		if
		:: skip			/* looks again without asking */
		:: asked++;
		   store(CONSUMER, EVENT, (cons + 1) % MODULUS);
#ifndef NO_ARM_FENCE
		   fence(CONSUMER);
#endif
#ifndef NO_FINAL_CHECK
		   load(CONSUMER, PROD, prod);
#endif
		   if
		   :: prod != cons -> skip
		   :: prod == cons && taken < ENTRIES ->
			d_step { doorbell; doorbell = false }
		   :: prod == cons && taken == ENTRIES -> skip
		   fi
		fi
	od
}

init {
	atomic {
		memory[PROD] = START;
		memory[EVENT] = (START + 1) % MODULUS;
		run drain(PRODUCER);
		run drain(CONSUMER);
		run produce();
		run consume()
	}
}
