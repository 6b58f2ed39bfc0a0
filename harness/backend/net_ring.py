"""What the rings of a network interface have in common."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from harness.backend.mappings import Mappings
from harness.bus.features import Notification
from harness.hypervisor.link import LinkEnd
from harness.ring.ring import HEADER_SIZE, U32, BackRing


@dataclass(frozen=True)
class Attachment:
    """Where one ring of a frontend is.

    :ivar name: for those who watch, such as ``vif/0/tx-0``.
    :ivar link: where the guest's frames are.
    :ivar page: the ring's page.
    :ivar port: local port to notify the frontend by.
    :ivar mappings: of the frames that the ring's requests are about.
    :ivar notification: how we learn that there is something in it.
    """

    name: str
    link: LinkEnd
    page: memoryview
    port: int
    mappings: Mappings
    notification: Notification = Notification.ADAPTIVE


class Slots:
    """Requests or responses of one kind, many at once: one by one they would cost more than all else that is done.

    :param entry: the format of one entry (see ``struct``, little-endian), as long as an entry of the ring.
    """

    def __init__(self, entry: str) -> None:
        self._entry = entry
        self._entry_size = struct.calcsize(f"<{entry}")
        self._structs: dict[int, struct.Struct] = {}

    def take(self, ring: BackRing, count: int) -> tuple[int, ...]:
        """Take that many requests, no more than ``unconsumed``; all their fields in a row, each read exactly once."""
        at = ring.cons & ring.size - 1
        ring.cons = ring.cons + count & U32
        until_end = ring.size - at
        offset = HEADER_SIZE + at * self._entry_size
        if count <= until_end:
            return self._struct(count).unpack_from(ring.memory, offset)
        begin = self._struct(until_end).unpack_from(ring.memory, offset)
        return begin + self._struct(count - until_end).unpack_from(ring.memory, HEADER_SIZE)

    def put(self, ring: BackRing, values: Sequence[int]) -> None:
        """Put responses whose format has one field, to be published by ``push``."""
        count = len(values)
        at = ring.prod_pvt & ring.size - 1
        ring.prod_pvt = ring.prod_pvt + count & U32
        until_end = ring.size - at
        offset = HEADER_SIZE + at * self._entry_size
        if count <= until_end:
            self._struct(count).pack_into(ring.memory, offset, *values)
        else:
            self._struct(until_end).pack_into(ring.memory, offset, *values[:until_end])
            self._struct(count - until_end).pack_into(ring.memory, HEADER_SIZE, *values[until_end:])

    def _struct(self, count: int) -> struct.Struct:
        found = self._structs.get(count)
        if found is None:
            # As many as a ring has entries, at most.
            found = self._structs[count] = struct.Struct(f"<{self._entry * count}")
        return found
