"""Serves the requests of a block ring from an image.

Every request is copied out of the ring once, checked, and answered with a status: a bad one costs its sender an error
and nobody else anything. Data goes between the image and the guest's frames without a copy of ours. What has to wait
for the disk is left to threads and answered later, out of order if need be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness.backend.block_pool import Pool
from harness.backend.image import Image
from harness.backend.mappings import Mappings
from harness.backend.trace import RingTrace
from harness.bus.features import BlockFeatures, Notification
from harness.hypervisor.events import fence
from harness.hypervisor.grants import Grant, GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.hypervisor.link import LinkEnd
from harness.ring.blkif import (
    DISCARD,
    DISCARD_SECURE,
    MAX_SEGMENTS,
    SECTOR_SIZE,
    SECTORS_PER_FRAME,
    SEGMENT,
    Abi,
    Operation,
    Status,
)
from harness.ring.ring import BackRing

READ, WRITE = int(Operation.READ), int(Operation.WRITE)
OKAY, ERROR = int(Status.OKAY), int(Status.ERROR)

Request = tuple[int, int, int, int, int]
"""Operation, a byte, a half-word, id, sector: see ``blkif.REQUEST``."""


class BadRequest(Exception):
    """A request makes no sense; it is answered with an error."""


class NotSupported(Exception):
    """A request is for something that has not been offered, or does not exist."""


@dataclass(frozen=True)
class Disk:
    """What all rings of a connected disk have in common.

    :param features: what has been offered to the frontend.
    """

    image: Image
    features: BlockFeatures
    pool: Pool
    abi: Abi
    notification: Notification


class BlockRing:
    """One ring, and what its requests need.

    :param name: for people: which ring of which device.
    :param link: where the guest's frames are.
    :param memory: the ring's pages.
    :param port: local port to notify the frontend by.
    :ivar trace: who is told of all that happens, while somebody wants to know.
    """

    def __init__(self, name: str, link: LinkEnd, disk: Disk, mappings: Mappings, memory: memoryview, port: int) -> None:
        self.name = name
        self.notification = disk.notification
        self.trace: RingTrace | None = None
        self.ring = BackRing(memory, disk.abi.entry_size, fence)
        self._link = link
        self._disk = disk
        self._image = disk.image
        self._abi = disk.abi
        self._tail = disk.abi.tail
        self._misaligned = disk.image.logical_size // SECTOR_SIZE - 1
        self.mappings = mappings
        self.port = port
        self._under_way = 0
        self._barrier: Callable[[], None] | None = None

    def work(self) -> bool:
        """Answer the requests that wait, or have them answered.

        :raise GuestError: the ring is corrupt.
        """
        ring = self.ring
        waiting = ring.unconsumed()
        if not waiting or self._behind_barrier():
            return False
        memory, unpack, trace = ring.memory, self._abi.request.unpack_from, self.trace
        for _ in range(waiting):
            offset = ring.take()
            request = unpack(memory, offset)
            if trace is not None:
                trace.taken(ring.cons - 1, *request)
            try:
                done = self._perform(request, offset)
            except (BadRequest, GrantError, OSError):
                self._answer(request, ERROR)
                continue
            except NotSupported:
                self._answer(request, Status.EOPNOTSUPP)
                continue
            if done:
                # Each as soon as it is done: the guest goes on with it while we do the next.
                self._answer(request, OKAY)
            elif self._behind_barrier():
                break
        return True

    def arm(self) -> bool:
        """Have the frontend notify us of its next request; True when one waits already.

        :raise GuestError: the ring is corrupt.
        """
        # What waits behind a barrier is not looked at before that is done; the pool rings then.
        return not self._behind_barrier() and self.ring.final_check()

    def _behind_barrier(self) -> bool:
        return self._barrier is not None

    def _answer(self, request: Request, status: int) -> None:
        ring = self.ring
        self._abi.response.pack_into(ring.memory, ring.put(), request[3], request[0], status)
        trace = self.trace
        if trace is None:
            notify = ring.push()
        else:
            # The guest may have it as soon as it is pushed, and must not seem to have had it before.
            trace.answered(ring.prod_pvt - 1, request[3], status)
            notify = ring.push()
            trace.pushed(self.port, notify)
        if notify:
            self._link.events.send(self.port)

    def _perform(self, request: Request, offset: int) -> bool:
        """Do what a request asks for; False when that will be answered later."""
        operation, count, halfword, _, sector = request
        if operation in (READ, WRITE):
            return self._transfer(request, operation, self._direct(count, offset), sector)
        features = self._disk.features
        if operation == Operation.INDIRECT and features.indirect_segments:
            return self._transfer(request, count, self._indirect(count, halfword, offset), sector)
        if operation == Operation.FLUSH_DISKCACHE and features.flush:
            if count:
                raise BadRequest("a flush with data")
            # It is for what has been answered: that is in the image by now.
            self._later(request, self._image.flush, [])
        elif operation == Operation.WRITE_BARRIER and features.barrier:
            self._put_barrier(request, self._direct(count, offset) if count else b"", sector)
        elif operation == Operation.DISCARD and features.discard:
            self._discard(request, DISCARD.unpack_from(self.ring.memory, offset + self._tail)[0])
        else:
            raise NotSupported
        return False

    def _direct(self, count: int, offset: int) -> bytes:
        """A private copy of the segments in the request at ``offset``."""
        if not 0 < count <= MAX_SEGMENTS:
            raise BadRequest("number of segments")
        start = offset + self._tail
        return bytes(self.ring.memory[start : start + count * SEGMENT.size])

    def _indirect(self, operation: int, count: int, offset: int) -> bytes:
        """A private copy of the segments in the page that the request at ``offset`` refers to."""
        if operation not in (READ, WRITE):
            raise BadRequest("indirect operation")
        if not 0 < count <= self._disk.features.indirect_segments:
            raise BadRequest("number of segments")
        # No more segments are offered than one page holds.
        ref = self._abi.indirect.unpack_from(self.ring.memory, offset + self._tail)[1]
        try:
            return bytes(self.mappings.map(ref, write=False).memory[: count * SEGMENT.size])
        finally:
            self.mappings.release()

    def _transfer(self, request: Request, operation: int, segments: bytes, sector: int) -> bool:
        image, mappings, trace = self._image, self.mappings, self.trace
        try:
            pieces, size = self._gather(operation, segments, sector)
            if trace is not None:
                trace.disk_begins(request[3], operation, size)
            if operation == WRITE:
                # The page cache takes it.
                image.write(pieces, sector, size)
            elif not image.try_read(pieces, sector, size):
                self._later(request, partial(image.read, pieces, sector, size), self._hold(segments))
                return False
            if trace is not None:
                trace.disk_ends(request[3])
        finally:
            mappings.release()
        return True

    def _gather(self, operation: int, segments: bytes, sector: int) -> tuple[list[memoryview], int]:
        """The guest's memory that the segments describe, adjacent ones joined, and its size in bytes."""
        if operation == WRITE and self._image.readonly:
            raise BadRequest("a write to a read-only disk")
        memory, mappings, kept = self._link.memory, self.mappings, self.mappings.kept
        # Persistent grants are mapped for both directions, since the frontend will use them for both.
        write = operation == READ or mappings.persistent
        misaligned = sector & self._misaligned
        pieces = []
        start = end = size = 0
        for ref, first, last in SEGMENT.iter_unpack(segments):
            if not first <= last < SECTORS_PER_FRAME:
                raise BadRequest("sectors of a segment")
            misaligned |= (last + 1 - first) & self._misaligned
            grant = kept.get(ref)
            if grant is None or not grant.write:
                grant = mappings.map(ref, write=write)
            base = grant.frame * FRAME_SIZE
            begin = base + first * SECTOR_SIZE
            if begin != end:
                if end:
                    pieces.append(memory[start:end])
                start = begin
            end = base + (last + 1) * SECTOR_SIZE
            size += end - begin
        pieces.append(memory[start:end])
        if misaligned:
            raise BadRequest("a part of a sector")
        if sector + size // SECTOR_SIZE > self._image.sectors:
            raise BadRequest("beyond the end of the disk")
        return pieces, size

    def _hold(self, segments: bytes) -> list[Grant]:
        return self.mappings.detach({ref for ref, _, _ in SEGMENT.iter_unpack(segments)})

    def _later(self, request: Request, action: Callable[[], None], held: list[Grant]) -> None:
        """Have a thread do something and answer the request after that; ``held`` is given back then."""
        self._under_way += 1
        if self.trace is not None:
            action = self.trace.on_disk(request[3], request[0], action)
        self._disk.pool.submit(action, partial(self._late_answer, request, held))

    def _late_answer(self, request: Request, held: list[Grant], status: Status) -> None:
        self._under_way -= 1
        self.mappings.give_back(held)
        if request[0] == Operation.WRITE_BARRIER:
            self._barrier = None
        elif self._barrier is not None and not self._under_way:
            self._barrier()
        self._answer(request, status)

    def _put_barrier(self, request: Request, segments: bytes, sector: int) -> None:
        """Write something after all that came before it, and before all that comes after it."""
        image = self._image
        try:
            pieces, size = self._gather(WRITE, segments, sector) if segments else ([], 0)
            held = self._hold(segments)
        finally:
            self.mappings.release()

        def between_flushes() -> None:
            image.flush()
            if size:
                image.write(pieces, sector, size)
                image.flush()

        self._barrier = partial(self._later, request, between_flushes, held)
        if not self._under_way:
            self._barrier()

    def _discard(self, request: Request, sectors: int) -> None:
        _, flags, _, _, sector = request
        image = self._image
        if flags & DISCARD_SECURE or image.discard is None:
            raise NotSupported
        if not sectors or (sector | sectors) & self._misaligned or sector + sectors > image.sectors:
            raise BadRequest("sectors to discard")
        self._later(request, partial(image.discard, sector, sectors), [])
