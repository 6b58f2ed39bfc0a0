"""A block frontend in Python, for tests that play the guest. It is as rude as it is told to be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.bus import toolstack
from harness.bus.devices import Device
from harness.bus.xenbus import XenbusState
from harness.host.deadline import Deadline
from harness.hypervisor.events import PortState, fence
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.blkif import ENTRY_SIZE, RESPONSE, Operation, pack_indirect, pack_request
from harness.ring.ring import FrontRing
from tests.unit.backend_guest import DOMID, SECONDS, Guest

FRAMES = 40

_numbers = itertools.count()


@contextmanager
def attached(guest: Guest, image: Path, *, readonly: bool = False) -> Iterator[Device]:
    """A disk of the domain, under a name that no other has had; unplugged in the end."""
    first, second = divmod(next(_numbers), 26)
    target = f"xvd{chr(ord('a') + first)}{chr(ord('a') + second)}"
    device = toolstack.add_vbd(guest.store, DOMID, target, image, readonly=readonly)
    yield device
    guest.store.rm(device.backend)
    guest.store.rm(device.frontend)


@contextmanager
def connected(guest: Guest, image: Path, *, readonly: bool = False, persistent: bool = True) -> Iterator[BlockFront]:
    """A disk and a frontend that uses it; in the end the backend must let go of everything the frontend gave it."""
    with attached(guest, image, readonly=readonly) as device:
        front = BlockFront(guest, device, persistent=persistent).connect()
        yield front
        front.close()


class BlockFront:
    """A ring, and some frames that are granted for as long as the device is connected.

    :param persistent: whether they are persistent grants.
    """

    def __init__(self, guest: Guest, device: Device, *, persistent: bool = True) -> None:
        self.guest = guest
        self.device = device
        self.ring_frame = guest.frame()
        self.page = guest.memory(self.ring_frame)
        self.ring = FrontRing(self.page, ENTRY_SIZE, fence)
        self.ring_ref = guest.grant(self.ring_frame)
        self.port = guest.end.events.alloc_unbound()
        self.frames = [guest.frame() for _ in range(FRAMES)]
        self.refs = [guest.grant(frame) for frame in self.frames]
        self.persistent = persistent
        self._next_id = 0x1234_5678_9ABC_0000

    def publish(self, **instead: object) -> None:
        """Write the frontend's nodes, some of them as told (None: not at all), and go to Initialised."""
        nodes = {
            "ring-ref": self.ring_ref,
            "event-channel": self.port,
            "protocol": "x86_64-abi",
            "feature-persistent": int(self.persistent),
            **instead,
        }
        self.guest.write(self.device.frontend, {name: value for name, value in nodes.items() if value is not None})
        self.guest.switch(self.device, XenbusState.INITIALISED)

    def connect(self) -> BlockFront:
        """The whole handshake."""
        self.guest.wait_for_backend(self.device, XenbusState.INIT_WAIT)
        self.publish()
        self.guest.wait_for_backend(self.device, XenbusState.CONNECTED)
        self.guest.switch(self.device, XenbusState.CONNECTED)
        return self

    def close(self) -> None:
        """Close the device; the backend must let go of everything we gave it."""
        self.guest.switch(self.device, XenbusState.CLOSING)
        self.guest.switch(self.device, XenbusState.CLOSED)
        self.guest.wait_for_backend(self.device, XenbusState.CLOSED)
        for frame, ref in [(self.ring_frame, self.ring_ref), *zip(self.frames, self.refs, strict=True)]:
            self.guest.take_back(frame, ref)
        assert self.guest.end.events.status(self.port)[0] == PortState.UNBOUND
        self.guest.end.events.close(self.port)

    def data(self, index: int) -> memoryview:
        """The bytes of one of our frames."""
        return self.guest.memory(self.frames[index])

    def put(self, operation: int, sector: int, segments: Sequence[tuple[int, int, int]]) -> int:
        """Put a request with segments (grant reference, first, last sector) into the ring; returns its id."""
        self._next_id += 1
        pack_request(self.page, self.ring.put(), operation, request_id=self._next_id, sector=sector, segments=segments)
        return self._next_id

    def put_indirect(self, operation: int, sector: int, count: int, pages: Sequence[int]) -> int:
        self._next_id += 1
        pack_indirect(
            self.page,
            self.ring.put(),
            operation,
            request_id=self._next_id,
            sector=sector,
            segments=count,
            pages=pages,
        )
        return self._next_id

    def put_raw(self, entry: bytes) -> None:
        """Put 112 bytes of whatever into the ring."""
        offset = self.ring.put()
        self.page[offset : offset + ENTRY_SIZE] = entry

    def push(self) -> None:
        if self.ring.push():
            self.guest.end.events.send(self.port)

    def responses(self, count: int) -> Iterator[tuple[int, int, int]]:
        """The next responses (id, operation, status), as an event announces them."""
        deadline = Deadline(SECONDS, f"{count} responses of {self.device.backend}")
        while count:
            while not self.ring.unconsumed():
                if not self.ring.final_check():
                    deadline.check()
                    self.guest.wait_for_event(self.port)
            count -= 1
            yield RESPONSE.unpack_from(self.page, self.ring.take())

    def do(self, operation: int, sector: int, segments: Sequence[tuple[int, int, int]]) -> int:
        """One request and its status; its id and operation must come back."""
        request_id = self.put(operation, sector, segments)
        self.push()
        ((answered, echoed, status),) = self.responses(1)
        assert (answered, echoed) == (request_id, operation)
        return status

    def whole(self, count: int, start: int = 0) -> list[tuple[int, int, int]]:
        """Segments that are ``count`` of our frames."""
        return [(ref, 0, 7) for ref in self.refs[start : start + count]]

    def read(self, sector: int, frames: int) -> bytes:
        """Read through the first of our frames."""
        assert self.do(Operation.READ, sector, self.whole(frames)) == 0
        return b"".join(bytes(self.data(index)) for index in range(frames))

    def fill(self, data: bytes) -> None:
        """Put data into our frames."""
        for start in range(0, len(data), FRAME_SIZE):
            piece = data[start : start + FRAME_SIZE]
            self.data(start // FRAME_SIZE)[: len(piece)] = piece
