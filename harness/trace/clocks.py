"""How far the guest's clock is from the host's, from requests alone.

A request is submitted before the backend takes it, and answered before the guest completes it. Each of these pairs is a
bound on ``host - guest``, one from above and one from below, as a round trip of NTP gives them; of many, the tightest
count. The clocks may also run at slightly different speeds, so the bounds are laid along a line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from harness.trace.events import GUEST, HOST, Event

SAMPLES = 4096
"""Of each kind of bound that are remembered."""
ROUNDS = 3
"""In which the difference of speed is found: without most of it, each time has more to say about the rest."""
BIN = 250_000_000
"""Nanoseconds in which the clocks do not drift apart by more than other things matter."""

Bound = tuple[int, float]
"""The guest's time of a sample, and what it says."""


@dataclass(frozen=True)
class Offset:
    """``host = guest + offset(guest)``.

    :param base: nanoseconds at the guest's time ``at``.
    :param slope: nanoseconds per nanosecond.
    :param uncertainty: nanoseconds that it may be wrong in either direction.
    """

    base: float = 0.0
    at: int = 0
    slope: float = 0.0
    uncertainty: float = float("inf")

    def host(self, guest: int) -> int:
        """The host's time at a guest's time."""
        return guest + round(self.base + self.slope * (guest - self.at))


class Clocks:
    """Takes events in, each clock's in their order, and finds the offset between the clocks."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, int], Event] = {}
        self._above: deque[Bound] = deque(maxlen=SAMPLES)
        self._below: deque[Bound] = deque(maxlen=SAMPLES)

    def add(self, event: Event) -> None:
        """Take in an event, which may be one end of a bound."""
        if event.index is None or event.what not in ("submitted", "taken", "answered", "completed"):
            return
        kind = "request" if event.what in ("submitted", "taken") else "response"
        key = (kind, event.ring, event.index)
        other = self._waiting.pop(key, None)
        if other is None or other.clock == event.clock:
            self._waiting[key] = event
            if len(self._waiting) > 2 * SAMPLES:
                del self._waiting[next(iter(self._waiting))]
            return
        host, guest = (event.time, other.time) if event.clock == HOST else (other.time, event.time)
        (self._above if kind == "request" else self._below).append((guest, host - guest))

    def arrived(self, guest: int, host: int) -> None:
        """Something that happened at a guest's time has become known here at a host's."""
        if not self._above:
            self._above.append((guest, host - guest))

    def offset(self) -> Offset | None:
        """The best that is known; None before anything is."""
        first = next(iter(self._above or self._below), None)
        if first is None:
            return None
        at, slope = first[0], 0.0
        for _ in range(ROUNDS):
            slope += _slope(_level(self._above, at, slope), _level(self._below, at, slope))
        high = min((bound for _, bound in _level(self._above, at, slope)), default=None)
        low = max((bound for _, bound in _level(self._below, at, slope)), default=None)
        if high is not None and low is not None:
            return Offset((high + low) / 2, at, slope, max(abs(high - low) / 2, 0.5))
        return Offset(high if high is not None else low or 0.0, at, slope)


def _level(bounds: Iterable[Bound], at: int, slope: float) -> list[tuple[int, float]]:
    """Bounds as they would be if the offset did not grow by that much."""
    return [(guest, bound - slope * (guest - at)) for guest, bound in bounds]


def _slope(above: Iterable[Bound], below: Iterable[Bound]) -> float:
    """By which the offset grows: least squares over the middles of what is known at different times."""
    bins: dict[int, tuple[list[Bound], list[Bound]]] = {}
    for which, bounds in enumerate((above, below)):
        for guest, bound in bounds:
            bins.setdefault(guest // BIN, ([], []))[which].append((guest, bound))
    points = []
    for highs, lows in bins.values():
        if highs and lows:
            (x, high), (y, low) = min(highs, key=_bound), max(lows, key=_bound)
            points.append(((x + y) / 2, (high + low) / 2))
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _bound(sample: Bound) -> float:
    return sample[1]


def aligned(events: Iterable[Event]) -> Offset:
    """The offset that the events of a whole trace tell."""
    clocks = Clocks()
    for event in events:
        clocks.add(event)
    return clocks.offset() or Offset()


def host_time(event: Event, offset: Offset) -> int:
    """When an event happened, by the host's clock."""
    return offset.host(event.time) if event.clock == GUEST else event.time
