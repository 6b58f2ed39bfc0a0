"""The way of each request, put together from the events of both ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from harness.trace.clocks import Offset, aligned
from harness.trace.events import GUEST, Event


class Lane(StrEnum):
    """Where something happens."""

    GUEST = "guest"
    LINK = "link"
    BACKEND = "backend"
    DISK = "disk"


@dataclass(frozen=True)
class Step:
    """One step of a request's way.

    :param time: nanoseconds of the host's clock.
    :param rank: of its kind among steps of the same time.
    """

    time: int
    rank: int
    lane: Lane
    what: str


@dataclass
class Journey:
    """A request from its submission to its completion; what was not seen is missing.

    :param events: that it is made of, by what they are.
    :param passing: events of the link and of the backend process on its way.
    """

    ring: str
    index: int
    id: int
    events: dict[str, Event] = field(default_factory=dict)
    passing: list[Event] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is, for people."""
        first = self.events.get("submitted") or self.events["taken"]
        size = next((one.bytes for one in self.events.values() if one.bytes is not None), 0)
        sector = f" at sector {first.sector}" if first.sector is not None and first.operation != "transmit" else ""
        return f"{first.operation} of {size} bytes{sector}"

    @property
    def complete(self) -> bool:
        """Whether all of its way was seen. Nobody takes note when the response to a packet that was sent is taken."""
        last = "answered" if "/tx-" in self.ring else "completed"
        return all(what in self.events for what in ("submitted", "taken", "answered", last))

    def offset(self, offset: Offset) -> int:
        """``host - guest`` for this request: what is known of the clocks, within what it says of them itself."""
        guest = [event.time for event in self.events.values() if event.clock == GUEST]
        shift = offset.host(guest[0]) - guest[0] if guest else 0
        seen = self.events
        high = seen["taken"].time - seen["submitted"].time if "submitted" in seen and "taken" in seen else None
        low = seen["answered"].time - seen["completed"].time if "answered" in seen and "completed" in seen else None
        if high is not None and low is not None and low > high:
            # Ids are used again: with events missing, these are not all of one request, and say nothing.
            return shift
        if high is not None:
            shift = min(shift, high)
        return shift if low is None else max(shift, low)

    def steps(self, offset: Offset) -> list[Step]:
        """Its steps in the order of time, which never has an effect before its cause."""
        shift = self.offset(offset)

        def at(event: Event) -> int:
            return event.time + shift if event.clock == GUEST else event.time

        found = [step for what, event in self.events.items() if (step := _step(what, event, at(event)))]
        found += [step for event in self.passing if (step := _step(event.what, event, at(event)))]
        return sorted(found, key=lambda step: (step.time, step.rank))

    def began(self, offset: Offset) -> int:
        """When the first end that was seen had it. What passed before may have been for another request."""
        shift = self.offset(offset)
        first = self.events.get("submitted") or self.events["taken"]
        return first.time + shift if first.clock == GUEST else first.time

    def duration(self, offset: Offset) -> int:
        """Nanoseconds from its first step to its last."""
        steps = self.steps(offset)
        return steps[-1].time - steps[0].time


LABELS = {
    "submitted": (Lane.GUEST, "written into the ring"),
    "pushed": (Lane.GUEST, "published"),
    "heard": (Lane.LINK, "event for the backend"),
    "wakes": (Lane.BACKEND, "wakes up"),
    "taken": (Lane.BACKEND, "taken from the ring"),
    "disk-begins": (Lane.DISK, "asked"),
    "disk-ends": (Lane.DISK, "done"),
    "answered": (Lane.BACKEND, "response written"),
    "sent": (Lane.LINK, "event for the guest"),
    "held-off": (Lane.LINK, "no event: not wanted"),
    "interrupt": (Lane.GUEST, "interrupt"),
    "poll": (Lane.GUEST, "found by looking"),
    "completed": (Lane.GUEST, "response taken"),
}
"""In the order in which they happen."""
ORDER = tuple(LABELS)


def _step(what: str, event: Event, time: int) -> Step | None:
    if what not in LABELS:
        return None
    lane, label = LABELS[what]
    if what == "pushed":
        label += ": doorbell" if event.notify else ": no doorbell"
    return Step(time, ORDER.index(what), lane, label)


class _Builder:
    """Follows the events of both ends, each end's in their order."""

    def __init__(self) -> None:
        self.journeys: list[Journey] = []
        self._halves: dict[tuple[str, int, int], Journey] = {}
        self._unpushed: dict[str, list[Journey]] = defaultdict(list)
        self._open: dict[tuple[str, str, int], Journey] = {}
        self._unnotified: dict[str, list[Journey]] = defaultdict(list)
        self._woken: list[Event] = []
        """What has ended the backend's last sleep, if it has done nothing since."""
        self._arrival: Event | None = None
        """By what the guest has found the responses that it is taking."""

    def add(self, event: Event) -> None:
        if event.clock == GUEST and event.what != "completed":
            found = event.what == "interrupt" or (event.what == "poll" and (event.text or "").endswith("something"))
            self._arrival = event if found else None
        if event.what in ("submitted", "taken"):
            self._begin(event)
        elif event.what == "pushed":
            for journey in self._unpushed.pop(event.ring, []):
                journey.events["pushed"] = event
        elif event.what in ("disk-begins", "disk-ends", "answered", "completed"):
            self._go_on(event)
        elif event.what in ("sent", "held-off"):
            for journey in self._unnotified.pop(event.ring, []):
                journey.passing.append(event)
        elif event.what == "sleeps":
            self._woken = []
        elif event.what in ("heard", "wakes"):
            self._woken.append(event)

    def _begin(self, event: Event) -> None:
        if event.index is None or event.id is None:
            return
        key = (event.ring, event.index, event.id)
        journey = self._halves.get(key)
        if journey is None or event.what in journey.events:
            journey = self._halves[key] = Journey(event.ring, event.index, event.id)
            self.journeys.append(journey)
        else:
            # Both ends have it: a later one of that index is another one.
            del self._halves[key]
        journey.events[event.what] = event
        self._open[(event.clock, event.ring, event.id)] = journey
        if event.what == "submitted":
            self._unpushed[event.ring].append(journey)
        else:
            # While it does not sleep, what it hears makes no difference.
            if any(one.what == "wakes" for one in self._woken):
                journey.passing += self._woken
            self._woken = []

    def _go_on(self, event: Event) -> None:
        if event.id is None:
            return
        key = (event.clock, event.ring, event.id)
        journey = self._open.get(key)
        if journey is None:
            return
        journey.events[event.what] = event
        if event.what == "answered":
            del self._open[key]
            self._unnotified[event.ring].append(journey)
        elif event.what == "completed":
            del self._open[key]
            if self._arrival is not None:
                journey.passing.append(self._arrival)


def journeys(events: Iterable[Event]) -> tuple[list[Journey], Offset]:
    """The requests of a trace in the order in which they began, and how the clocks are to each other."""
    events = list(events)
    offset = aligned(events)
    builder = _Builder()
    for event in events:
        builder.add(event)
    return sorted(builder.journeys, key=lambda journey: journey.began(offset)), offset


def slowest(found: Sequence[Journey], offset: Offset) -> int:
    """The position of the request that took longest, of those that were seen from beginning to end."""
    whole = [number for number, journey in enumerate(found) if journey.complete] or list(range(len(found)))
    return max(whole, key=lambda number: found[number].duration(offset))
