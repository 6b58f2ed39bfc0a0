"""The frontend's side of a network control ring, for tests that play the guest."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.hypervisor.events import fence
from harness.ring.netif import CTRL_ENTRY_SIZE, CTRL_REQUEST, CTRL_RESPONSE, CtrlStatus, CtrlType
from harness.ring.ring import FrontRing
from tests.unit.backend_guest import Guest
from tests.unit.netfront import DEFAULTS, OFFLOADS, NetFront, card


class Control:
    """A control ring, and one frame to pass keys and tables in."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._frames = [guest.frame(), guest.frame()]
        page, self.frame = (guest.memory(frame) for frame in self._frames)
        self.page_ref, self.frame_ref = guest.grant(self._frames[0]), guest.grant(self._frames[1], readonly=True)
        self.ring = FrontRing(page, CTRL_ENTRY_SIZE, fence)
        self.port = guest.end.events.alloc_unbound()
        self.nodes = {"ctrl-ring-ref": self.page_ref, "event-channel-ctrl": self.port}
        self._number = 0

    def put(self, kind: int, *numbers: int) -> int:
        """Put a request into the ring; returns its id."""
        self._number = (self._number + 1) & 0xFFFF
        padded = (*numbers, 0, 0, 0)[:3]
        CTRL_REQUEST.pack_into(self.ring.memory, self.ring.put(), self._number, kind, *padded)
        return self._number

    def push(self) -> None:
        if self.ring.push():
            self.guest.end.events.send(self.port)

    def answer(self) -> tuple[int, int, int, int]:
        """The next response: id, type, status, data."""
        while not self.ring.unconsumed() and not self.ring.final_check():
            self.guest.wait_for_event(self.port)
        return CTRL_RESPONSE.unpack_from(self.ring.memory, self.ring.take())

    def ask(self, kind: int, *numbers: int) -> tuple[CtrlStatus, int]:
        number = self.put(kind, *numbers)
        self.push()
        answered, answered_kind, status, data = self.answer()
        assert (answered, answered_kind) == (number, kind)
        return CtrlStatus(status), data

    def give_key(self, key: bytes) -> CtrlStatus:
        self.frame[: len(key)] = key
        return self.ask(CtrlType.SET_HASH_KEY, self.frame_ref, len(key))[0]

    def give_mapping(self, queues: Sequence[int], offset: int = 0) -> CtrlStatus:
        struct.pack_into(f"<{len(queues)}I", self.frame, 0, *queues)
        return self.ask(CtrlType.SET_HASH_MAPPING, self.frame_ref, len(queues), offset)[0]

    def take_back(self) -> None:
        for frame, ref in zip(self._frames, (self.page_ref, self.frame_ref), strict=True):
            self.guest.take_back(frame, ref)
        self.guest.end.events.close(self.port)


@contextmanager
def controlled(guest: Guest, *, queues: int = 1) -> Iterator[tuple[NetFront, Control]]:
    """A card and a frontend with a control ring; all that it gives has to be let go of."""
    with card(guest, features=DEFAULTS) as device:
        control = Control(guest)
        front = NetFront(guest, device, split=True, offers=OFFLOADS | control.nodes, queues=queues).connect()
        yield front, control
        front.close()
        control.take_back()
