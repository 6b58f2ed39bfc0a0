"""A trace of requests that never were, with a guest whose clock is wrong."""

from __future__ import annotations

from collections.abc import Callable

from harness.trace.events import GUEST, HOST, Event

RING = "vbd/51712/queue-0"
TAKES = 100_000
"""Nanoseconds from one request to the next."""
SUBMITTED, PUSHED, TAKEN, ASKED, DONE, ANSWERED, SENT, INTERRUPT, COMPLETED = (
    0, 1_000, 20_000, 22_000, 30_000, 33_000, 34_000, 50_000, 51_000,
)  # fmt: skip
"""When things happen within a request."""


def request(number: int, guest: Callable[[int], int], begin: int) -> list[Event]:
    """One read of 4096 bytes.

    :param guest: what the guest's clock shows at a time of the host's.
    :param begin: of the request, by the host's clock.
    """
    return [
        Event(guest(begin), GUEST, "submitted", RING, number, 7, "read", 8 * number, 4096),
        Event(guest(begin + PUSHED), GUEST, "pushed", RING, number + 1, notify=True),
        Event(begin + TAKEN - 2_000, HOST, "heard", port=65),
        Event(begin + TAKEN - 1_000, HOST, "wakes"),
        Event(begin + TAKEN, HOST, "taken", RING, number, 7, "read", 8 * number, segments=1),
        Event(begin + ASKED, HOST, "disk-begins", RING, id=7, operation="read", bytes=4096),
        Event(begin + DONE, HOST, "disk-ends", RING, id=7),
        Event(begin + ANSWERED, HOST, "answered", RING, number, 7, status=0),
        Event(begin + SENT, HOST, "sent", RING, port=65),
        Event(guest(begin + INTERRUPT), GUEST, "interrupt", port=3, domid=0),
        Event(guest(begin + COMPLETED), GUEST, "completed", RING, number, 7, status=0),
        Event(begin + COMPLETED, HOST, "sleeps"),
    ]


def requests(
    count: int, guest: Callable[[int], int] = lambda time: time, start: int = 10**12, *, apart: int = TAKES
) -> list[Event]:
    """Several, one after the other."""
    return [event for number in range(count) for event in request(number, guest, start + number * apart)]
