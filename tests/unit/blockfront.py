"""A block frontend in Python, for tests that play the guest. It is as rude as it is told to be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.backend.ring_pages import contiguous
from harness.bus.devices import Device
from harness.bus.xenbus import XenbusState
from harness.host.deadline import Deadline
from harness.hypervisor.events import PortState, fence
from harness.hypervisor.grants import Grant
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.blkif import X86_64, Abi, Operation, pack_discard, pack_indirect, pack_request
from harness.ring.ring import FrontRing
from tests.unit.backend_guest import SECONDS, GuestSide, pattern

FRAMES = 40
SECTORS = 4096
"""Of an image, unless somebody has made it larger."""

_numbers = itertools.count()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What a disk is kept on, full of the pattern 1."""
    path = tmp_path / "disk.img"
    path.write_bytes(pattern(SECTORS * 512, 1))
    return path


@contextmanager
def attached(guest: GuestSide, image: Path, **disk: Any) -> Iterator[Device]:  # noqa: ANN401 - add_vbd's
    """A disk of the domain, under a name that no other has had; unplugged in the end.

    :param disk: what else :func:`harness.bus.toolstack.add_vbd` is told.
    """
    first, second = divmod(next(_numbers), 26)
    target = f"xvd{chr(ord('a') + first)}{chr(ord('a') + second)}"
    device = guest.add_disk(target, image, **disk)
    yield device
    guest.remove_disk(device)


@contextmanager
def connected(
    guest: GuestSide,
    image: Path,
    *,
    persistent: bool = True,
    queues: int = 1,
    order: int = 0,
    abi: Abi = X86_64,
    **disk: Any,  # noqa: ANN401 - as above
) -> Iterator[BlockFront]:
    """A disk and a frontend that uses it; in the end the backend must let go of everything the frontend gave it."""
    with attached(guest, image, **disk) as device:
        front = BlockFront(guest, device, persistent=persistent, queues=queues, order=order, abi=abi).connect()
        yield front
        front.close()


class RingFront:
    """A ring and an event channel; the frames of the ring are in the wrong order in the link."""

    def __init__(self, guest: GuestSide, order: int, abi: Abi) -> None:
        self.guest = guest
        frames = [guest.frame() for _ in range(1 << order)][::-1]
        self.grants = [Grant(guest.grant(frame), frame, True, guest.memory(frame)) for frame in frames]
        self.page = contiguous(guest.end.memory, self.grants)
        self.ring = FrontRing(self.page, abi.entry_size, fence)
        self.port = guest.end.events.alloc_unbound()

    def nodes(self) -> dict[str, object]:
        refs = [grant.ref for grant in self.grants]
        names = ["ring-ref"] if len(refs) == 1 else [f"ring-ref{page}" for page in range(len(refs))]
        return {**dict(zip(names, refs, strict=True)), "event-channel": self.port}

    def close(self) -> None:
        """Take everything back, which the backend must have let go of."""
        for grant in self.grants:
            self.guest.take_back(grant.frame, grant.ref)
        assert self.guest.end.events.status(self.port)[0] == PortState.UNBOUND
        self.guest.end.events.close(self.port)


class BlockFront:
    """Rings, and some frames that are granted for as long as the device is connected.

    :param persistent: whether they are persistent grants.
    :param order: of each ring.
    :ivar ring: the first ring; so are ``page`` and ``port`` the first one's.
    """

    def __init__(
        self,
        guest: GuestSide,
        device: Device,
        *,
        persistent: bool = True,
        queues: int = 1,
        order: int = 0,
        abi: Abi = X86_64,
    ) -> None:
        self.guest = guest
        self.device = device
        self.abi = abi
        self.order = order
        self.queues = [RingFront(guest, order, abi) for _ in range(queues)]
        self.use(0)
        self.frames = [guest.frame() for _ in range(FRAMES)]
        self.refs = [guest.grant(frame) for frame in self.frames]
        self.persistent = persistent
        self._next_id = 0x1234_5678_9ABC_0000

    def use(self, queue: int) -> None:
        """Put requests into another ring, and take responses from there, from now on."""
        chosen = self.queues[queue]
        self.ring, self.page, self.port = chosen.ring, chosen.page, chosen.port

    @property
    def ring_ref(self) -> int:
        return self.queues[0].grants[0].ref

    def publish(self, **instead: object) -> None:
        """Write the frontend's nodes, some of them as told (None: not at all), and go to Initialised."""
        nodes: dict[str, object] = {"protocol": self.abi.name, "feature-persistent": int(self.persistent)}
        if self.order:
            nodes["ring-page-order"] = self.order
        if len(self.queues) == 1:
            nodes |= self.queues[0].nodes()
        else:
            nodes["multi-queue-num-queues"] = len(self.queues)
            for number, queue in enumerate(self.queues):
                nodes |= {f"queue-{number}/{name}": value for name, value in queue.nodes().items()}
        nodes |= instead
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
        self.take_back()

    def take_back(self) -> None:
        """End access to everything."""
        for queue in self.queues:
            queue.close()
        for frame, ref in zip(self.frames, self.refs, strict=True):
            self.guest.take_back(frame, ref)

    def data(self, index: int) -> memoryview:
        """The bytes of one of our frames."""
        return self.guest.memory(self.frames[index])

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def put(self, operation: int, sector: int, segments: Sequence[tuple[int, int, int]]) -> int:
        """Put a request with segments (grant reference, first, last sector) into the ring; returns its id."""
        number, offset = self._id(), self.ring.put()
        pack_request(self.page, offset, operation, request_id=number, sector=sector, segments=segments, abi=self.abi)
        return number

    def put_indirect(self, operation: int, sector: int, count: int, pages: Sequence[int]) -> int:
        number, offset = self._id(), self.ring.put()
        pack_indirect(
            self.page,
            offset,
            operation,
            request_id=number,
            sector=sector,
            segments=count,
            pages=pages,
            abi=self.abi,
        )
        return number

    def put_raw(self, entry: bytes) -> None:
        """Put an entry of whatever into the ring."""
        offset = self.ring.put()
        self.page[offset : offset + len(entry)] = entry

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
            yield self.abi.response.unpack_from(self.page, self.ring.take())

    def do(self, operation: int, sector: int, segments: Sequence[tuple[int, int, int]]) -> int:
        """One request and its status; its id and operation must come back."""
        return self._only(operation, self.put(operation, sector, segments))

    def discard(self, sector: int, sectors: int, *, flags: int = 0) -> int:
        """Discard sectors, and the status of that."""
        number, offset = self._id(), self.ring.put()
        pack_discard(self.page, offset, request_id=number, sector=sector, sectors=sectors, flags=flags, abi=self.abi)
        return self._only(Operation.DISCARD, number)

    def _only(self, operation: int, number: int) -> int:
        self.push()
        ((answered, echoed, status),) = self.responses(1)
        assert (answered, echoed) == (number, operation)
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
