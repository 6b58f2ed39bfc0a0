"""What keeps a domain that changes nodes all the time from letting no transaction of others ever come to its end.

Each change that could conflict with an open transaction of somebody else costs a point. Points come back with time,
shared out among the domains; who has none left is not listened to until it has. What a domain does not need goes into
a reserve, which lends to those that are short: so a domain may be busy for a while, but not for ever. The numbers are
xenstored's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RATE = 200.0
"""Points per second, for all domains together."""

BURST = 10.0
"""Points that one domain can have."""

RESERVE = 1000.0
NEWCOMERS = 5
"""For so many new domains the reserve may go into debt."""


@dataclass
class _Purse:
    points: float
    counted: float


class ConflictCredit:
    """The points of all domains.

    :param clock: seconds, from anywhere.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._purses: dict[int, _Purse] = {}
        self._reserve = 0.0

    def join(self, domid: int) -> None:
        """A new domain, which starts with what the reserve can give."""
        given = max(0.0, min(BURST, self._reserve + BURST * NEWCOMERS))
        self._reserve -= given
        self._purses[domid] = _Purse(given, self._clock())

    def leave(self, domid: int) -> None:
        purse = self._purses.pop(domid)
        self._reserve = min(RESERVE, self._reserve + max(0.0, purse.points))

    def spend(self, domid: int) -> None:
        """A domain has made a change that may conflict."""
        self._count(domid).points -= 1

    def is_used_up(self, domid: int) -> bool:
        """Whether a domain has to wait."""
        purse = self._purses.get(domid)
        return purse is not None and purse.points < 0 and self._count(domid).points < 0

    def _count(self, domid: int) -> _Purse:
        """Add what has come in since the last time."""
        purse, now = self._purses[domid], self._clock()
        purse.points += (now - purse.counted) * RATE / len(self._purses)
        purse.counted = now
        if purse.points < 0 < self._reserve:
            lent = min(-purse.points, self._reserve)
            purse.points += lent
            self._reserve -= lent
        if purse.points > BURST:
            self._reserve = min(RESERVE, self._reserve + purse.points - BURST)
            purse.points = BURST
        return purse
