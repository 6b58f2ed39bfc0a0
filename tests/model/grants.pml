/*
 * Mapping a grant and ending access to it, at once: the granter writes the entry,
 * the grantee the status byte, and neither has an atomic operation
 * (harness/hypervisor/grants.py and guests/drivers/bus/grant.c).
 *
 * A frame must never be mapped, or mapped for writing, once the granter has been
 * told that nobody does; and what the grantee lets go of must come back.
 *
 * To be caught: NO_MAP_FENCE, NO_SECOND_LOOK, NO_END_FENCE, LOOKS_FIRST (at the
 * status, before the entry is cleared), NO_READONLY_FENCE, KEEPS_STATUS (of a
 * mapping that was refused at the second look).
 */
#define PROCESSORS	2
#define WORDS		2
#include "memory.h"

#define GRANTER		0
#define GRANTEE		1

#define ENTRY		0	/* word: one of the next three */
#define NONE		0
#define READONLY	1
#define WRITABLE	2

#define STATUS		1	/* word: 0, or one of the next two */
#define READING		1
#define WRITING		2

#define MAPPINGS	2

byte mapped;			/* READING or WRITING: what the grantee does now */
bool ended;			/* the granter believes that nobody maps it */
bool readonly;			/* the granter believes that nobody writes */

inline refuse()
{
#ifdef KEEPS_STATUS
	skip
#else
	store(GRANTEE, STATUS, 0)
#endif
}

inline map()
{
	load(GRANTEE, ENTRY, entry);
	if
	:: entry == NONE || (entry == READONLY && use == WRITING) -> skip
	:: else ->
		store(GRANTEE, STATUS, use);
#ifndef NO_MAP_FENCE
		fence(GRANTEE);
#endif
#ifndef NO_SECOND_LOOK
		load(GRANTEE, ENTRY, again);
#else
		again = entry;
#endif
		if
		:: again != entry -> refuse()
		:: else ->
			d_step {
				mapped = use;
				assert(!ended);
				assert(!(readonly && use == WRITING))
			};
			mapped = 0;
			store(GRANTEE, STATUS, 0)
		fi
	fi
}

proctype grantee()
{
	byte entry, again, use, mappings;

	do
	:: mappings < MAPPINGS ->
		mappings++;
		if
		:: use = READING
		:: use = WRITING
		fi;
		map()
	:: break
	od
}

/* Read and write becomes read only, or stays as it was while somebody writes. */
inline make_readonly()
{
	store(GRANTER, ENTRY, READONLY);
#ifndef NO_READONLY_FENCE
	fence(GRANTER);
#endif
	load(GRANTER, STATUS, status);
	if
	:: status == WRITING -> store(GRANTER, ENTRY, WRITABLE)
	:: else ->
		d_step {
			readonly = true;
			assert(mapped != WRITING)
		}
	fi
}

proctype granter()
{
	byte status;

	if
	:: make_readonly()
	:: skip
	fi;
#ifdef LOOKS_FIRST
	load(GRANTER, STATUS, status);
#endif
	store(GRANTER, ENTRY, NONE);
#ifndef NO_END_FENCE
	fence(GRANTER);
#endif
	/* Looks again each second until the other end has let go. */
	do
#ifdef LOOKS_FIRST
	:: status == 0 -> break
	:: else -> load(GRANTER, STATUS, status)
#else
	:: load(GRANTER, STATUS, status);
	   if
	   :: status == 0 -> break
	   :: else -> memory[STATUS] == 0
	   fi
#endif
	od;
	atomic {
		ended = true;
		assert(mapped == 0)
	}
}

init {
	atomic {
		memory[ENTRY] = WRITABLE;
		run drain(GRANTER);
		run drain(GRANTEE);
		run granter();
		run grantee()
	}
}
