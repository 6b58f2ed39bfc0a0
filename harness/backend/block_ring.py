"""Serves the requests of a block ring from an image.

Every request is copied out of the ring once, checked, and answered with a status: a bad one costs its sender an error
and nobody else anything. Data goes between the image and the guest's frames without a copy of ours.
"""

from __future__ import annotations

from harness.backend.image import Image
from harness.backend.mappings import Mappings
from harness.hypervisor.events import fence
from harness.hypervisor.grants import GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.hypervisor.link import LinkEnd
from harness.ring.blkif import (
    ENTRY_SIZE,
    INDIRECT,
    MAX_SEGMENTS,
    REQUEST,
    RESPONSE,
    SECTOR_SIZE,
    SECTORS_PER_FRAME,
    SEGMENT,
    TAIL,
    Operation,
    Status,
)
from harness.ring.ring import BackRing

MAX_INDIRECT_SEGMENTS = 256
"""More segments in one request than this are refused; they fit into one indirect page."""

READ, WRITE = int(Operation.READ), int(Operation.WRITE)


class BadRequest(Exception):
    """A request makes no sense; it is answered with an error."""


class BlockRing:
    """One ring, and what its requests need.

    :param link: where the guest's frames are.
    :param page: the ring's page.
    :param port: local port to notify the frontend by.
    """

    def __init__(self, link: LinkEnd, image: Image, mappings: Mappings, page: memoryview, port: int) -> None:
        self._link = link
        self._memory = link.memory
        self._image = image
        self._mappings = mappings
        self._page = page
        self._port = port
        self._ring = BackRing(page, ENTRY_SIZE, fence)

    def work(self) -> bool:
        """Answer the requests that wait.

        :raise GuestError: the ring is corrupt.
        """
        ring, page = self._ring, self._page
        waiting = ring.unconsumed()
        if not waiting:
            return False
        for _ in range(waiting):
            offset = ring.take()
            request = REQUEST.unpack_from(page, offset)
            try:
                status = self._perform(request, offset)
            except (BadRequest, GrantError, OSError):
                status = Status.ERROR
            RESPONSE.pack_into(page, ring.put(), request[3], request[0], status)
            # Each as soon as it is done: the guest goes on with it while we do the next.
            if ring.push():
                self._link.events.send(self._port)
        return True

    def arm(self) -> bool:
        """Have the frontend notify us of its next request; True when one waits already.

        :raise GuestError: the ring is corrupt.
        """
        return self._ring.final_check()

    def _perform(self, request: tuple[int, int, int, int, int], offset: int) -> Status:
        operation, count, halfword, _, sector = request
        if operation in (READ, WRITE):
            self._transfer(operation, self._direct(count, offset), sector)
        elif operation == Operation.INDIRECT:
            self._transfer(count, self._indirect(count, halfword, offset), sector)
        elif operation == Operation.FLUSH_DISKCACHE:
            if count:
                raise BadRequest("a flush with data")
            self._image.flush()
        elif operation == Operation.WRITE_BARRIER:
            self._image.flush()
            if count:
                self._transfer(WRITE, self._direct(count, offset), sector)
                self._image.flush()
        else:
            return Status.EOPNOTSUPP
        return Status.OKAY

    def _direct(self, count: int, offset: int) -> bytes:
        """A private copy of the segments in the request at ``offset``."""
        if not 0 < count <= MAX_SEGMENTS:
            raise BadRequest("number of segments")
        start = offset + TAIL
        return bytes(self._page[start : start + count * SEGMENT.size])

    def _indirect(self, operation: int, count: int, offset: int) -> bytes:
        """A private copy of the segments in the page that the request at ``offset`` refers to."""
        if operation not in (READ, WRITE):
            raise BadRequest("indirect operation")
        if not 0 < count <= MAX_INDIRECT_SEGMENTS:
            raise BadRequest("number of segments")
        ref = INDIRECT.unpack_from(self._page, offset + TAIL)[1]
        try:
            return bytes(self._mappings.map(ref, write=False).memory[: count * SEGMENT.size])
        finally:
            self._mappings.release()

    def _transfer(self, operation: int, segments: bytes, sector: int) -> None:
        if operation == WRITE and self._image.readonly:
            raise BadRequest("a write to a read-only disk")
        try:
            # Persistent grants are mapped for both directions, since the frontend will use them for both.
            pieces, size = self._gather(segments, write=operation == READ or self._mappings.persistent)
            if sector + size // SECTOR_SIZE > self._image.sectors:
                raise BadRequest("beyond the end of the disk")
            if operation == READ:
                self._image.read(pieces, sector, size)
            else:
                self._image.write(pieces, sector, size)
        finally:
            self._mappings.release()

    def _gather(self, segments: bytes, *, write: bool) -> tuple[list[memoryview], int]:
        """The guest's memory that the segments describe, adjacent ones joined, and its size in bytes."""
        memory, mappings = self._memory, self._mappings
        kept = mappings.kept
        pieces = []
        start = end = size = 0
        for ref, first, last in SEGMENT.iter_unpack(segments):
            if not first <= last < SECTORS_PER_FRAME:
                raise BadRequest("sectors of a segment")
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
        return pieces, size
