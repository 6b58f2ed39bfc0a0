/*
 * A guest that looks at a ring while it is idle (guests/drivers/bus/idle.c).
 *
 * While it looks, events are off: the event index lies behind the consumer's. A
 * task that becomes ready leaves them off, and a timer turns them on when the
 * guest has not been idle again for a while. Before it halts it turns them on and
 * looks once more. A response that lies there while the guest is halted, or runs
 * a task that waits for it, and nobody will ever tell, is a state in which
 * nothing can go on: an "invalid end state".
 *
 * To be caught: NO_REARM, NO_REARM_FENCE, NO_LAST_LOOK, NO_TIMER.
 */
#define PROCESSORS	2
#define WORDS		2
#include "memory.h"

#define RESPONSES	3
#define LOOKS		2	/* at the ring, each time it is idle */
#define MODULUS		8	/* of the indices, which begin near its end */
#define START		6

#define BACKEND		0
#define GUEST		1

#define PROD		0	/* word: index of the backend */
#define EVENT		1	/* word: where the guest wants to hear of it */

#define distance(from, to)	((to + MODULUS - from) % MODULUS)

bool doorbell;

proctype backend()
{
	byte pushed, old, new, event;

	new = START;
	do
	:: pushed == RESPONSES -> break
	:: pushed < RESPONSES ->
		old = new;
		new = (new + 1) % MODULUS;
		pushed++;
		store(BACKEND, PROD, new);
		fence(BACKEND);
		load(BACKEND, EVENT, event);
		if
		:: distance(event, new) < distance(old, new) ->
			doorbell = true
		:: else
		fi
	od
}

inline take()
{
	taken = taken + distance(cons, prod);
	cons = prod
}

/* Ask for an event; whatever has come before that is in prod. */
inline rearm()
{
	quiet = false;
	store(GUEST, EVENT, (cons + 1) % MODULUS);
#ifndef NO_REARM_FENCE
	fence(GUEST);
#endif
#ifndef NO_LAST_LOOK
	load(GUEST, PROD, prod)
#endif
}

/* The driver's handler of an event. */
inline handle()
{
	load(GUEST, PROD, prod);
	take();
	do
	:: quiet -> break
	:: !quiet ->
		rearm();
		if
		:: prod == cons -> break
		:: else -> take()
		fi
	od
}

/* The idle task, with events off. */
inline look()
{
	if
	:: !quiet ->
		quiet = true;
		timer = true;
		store(GUEST, EVENT, cons)
	:: else
	fi;
	recent = true;
	looks = 0;
	do
	:: looks < LOOKS ->
		looks++;
		load(GUEST, PROD, prod);
		if
		:: prod != cons -> handle()
		:: else
		fi
	:: break
	od
}

proctype guest()
{
	byte taken, cons, prod, looks;
	bool quiet, timer, recent;

	cons = START;
	prod = START;
	do
	:: taken == RESPONSES -> break
	:: taken < RESPONSES ->
		/* A task runs, until there is a response. */
		if
		:: d_step { doorbell; doorbell = false };
		   handle()
#ifndef NO_TIMER
		:: timer && recent -> recent = false
		:: timer && !recent ->
			timer = false;
			rearm();
			if
			:: prod != cons -> handle()
			:: else
			fi
#endif
		fi
	:: taken < RESPONSES ->
		look();
		if
		:: skip			/* a task is ready */
		:: taken < RESPONSES ->	/* nobody is: halt */
#ifndef NO_REARM
			rearm();
#endif
			if
			:: prod != cons -> handle()
			:: else ->
				timer = false;
				d_step { doorbell; doorbell = false };
				handle()
			fi
		fi
	od
}

init {
	atomic {
		memory[PROD] = START;
		memory[EVENT] = (START + 1) % MODULUS;
		run drain(BACKEND);
		run drain(GUEST);
		run backend();
		run guest()
	}
}
