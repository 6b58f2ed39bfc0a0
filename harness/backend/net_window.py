"""The frames that a guest offers for packets, in the order in which it does."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from harness.backend.net_ring import Attachment, Slots
from harness.hypervisor.grants import Grant, GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.ring import BackRing

MAX_FRAMES = 17
"""What a packet of 64 KiB and its headers needs."""
AHEAD = 2 * MAX_FRAMES
"""How many frames are held ready; some slots go to extra info."""

REQUESTS = Slots("H2xI")
FIELDS = 2
"""Of a request: id, grant reference."""


class Window:
    """Requests taken from a receive ring and not answered yet; their frames are mapped.

    :ivar ids: of the requests.
    :ivar memory: of their frames; ``sink`` where the guest has granted none.
    :ivar sink: memory of our own, the content of which nobody sees.
    """

    def __init__(self, ring: BackRing, attachment: Attachment) -> None:
        self.ids: list[int] = []
        self.memory: list[memoryview] = []
        self.sink = memoryview(bytearray(FRAME_SIZE))
        self._ring = ring
        self._mappings = attachment.mappings
        self._grants = attachment.link.grants
        self._transient: deque[Grant | None] = deque()
        self._refused: set[int] = set()
        self._taken = 0

    def fill(self) -> bool:
        """Take what has been posted, as far as it may be needed soon; True when there was something.

        :raise GuestError: the ring is corrupt.
        """
        room = AHEAD - len(self.ids)
        count = min(room, self._ring.unconsumed()) if room else 0
        if not count:
            return False
        fields = REQUESTS.take(self._ring, count)
        refs = fields[1::FIELDS]
        self.ids += fields[::FIELDS]
        kept = self._mappings.kept
        try:
            self.memory += [kept[ref].memory for ref in refs]
        except KeyError:
            self.memory += [self._map(ref, self._taken + index) for index, ref in enumerate(refs)]
        self._taken += count
        return True

    def _map(self, ref: int, number: int) -> memoryview:
        """The memory of a frame; the requests are numbered from the first one on."""
        grant: Grant | None = None
        with suppress(GrantError):
            # Those that do not stay mapped are given back one by one, each with its answer.
            grant = (self._mappings if self._mappings.persistent else self._grants).map(ref, write=True)
        if not self._mappings.persistent:
            self._transient.append(grant)
        if grant is None:
            self._refused.add(number)
            return self.sink
        if not self._mappings.persistent:
            self._mappings.held += 1
        return grant.memory

    def refused(self, count: int) -> list[int]:
        """Which of the first ``count`` requests have no frame."""
        if not self._refused:
            return []
        first = self._taken - len(self.ids)
        return [index for index in range(count) if first + index in self._refused]

    def drop(self, count: int) -> None:
        """Give the frames of the first ``count`` requests back; they are about to be answered."""
        if self._refused:
            self._refused -= set(range(self._taken - len(self.ids), self._taken - len(self.ids) + count))
        del self.ids[:count]
        del self.memory[:count]
        for _ in range(min(count, len(self._transient))):
            grant = self._transient.popleft()
            if grant is not None:
                self._grants.unmap(grant)
                self._mappings.held -= 1

    def arm(self, count: int) -> bool:
        """Have the frontend notify us when there are ``count`` frames; True when there are that many already.

        :raise GuestError: the ring is corrupt.
        """
        missing = count - len(self.ids)
        return missing <= 0 or (self._ring.final_check(missing) and self._ring.unconsumed() >= missing)

    def close(self) -> None:
        """Give everything back."""
        self.drop(len(self.ids))
