"""A block ring without a process around it, where the guest can be let in between any two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.backend.block_pool import Pool
from harness.backend.block_ring import BlockRing, Disk
from harness.backend.image import Image
from harness.backend.loop import Loop
from harness.backend.mappings import Mappings
from harness.bus.features import BlockFeatures, Notification
from harness.host.deadline import Deadline
from harness.host.errors import HarnessError
from harness.hypervisor.events import fence
from harness.ring.blkif import ENTRY_SIZE, RESPONSE, X86_64, pack_request
from harness.ring.ring import FrontRing
from tests.unit.linkends import Ends

SECTORS = 512
"""Of the disks on a bench."""
DATA_FRAMES = 16


class _Done(Exception):
    """Ends the loop."""


class _Watcher:
    """A worker that ends the loop when something has become true."""

    notification = Notification.POLL

    def __init__(self, deadline: Deadline, condition: Callable[[], bool]) -> None:
        self._deadline = deadline
        self._condition = condition

    def work(self) -> bool:
        self._deadline.check()
        if self._condition():
            raise _Done
        return False

    def arm(self) -> bool:
        return False


class Bench:
    """A ring with a frontend at one end and the code under test at the other.

    :param persistent: whether the frontend's grants are.
    """

    def __init__(self, ends: Ends, path: Path, *, persistent: bool = True) -> None:
        first = ends.guest.layout.first_free_frame
        numbers = range(first + 1, first + 1 + DATA_FRAMES)
        self.image = Image(str(path), readonly=False)
        self.mappings = Mappings(ends.backend.grants, persistent=persistent)
        self.front = FrontRing(ends.guest.frame(first), ENTRY_SIZE, fence)
        self.refs = [ends.guest.table.grant(number, 0) for number in numbers]
        self.frames = [ends.guest.frame(number) for number in numbers]
        self.loop = Loop(ends.backend.events)
        self.pool = Pool(self.loop, unexpected)
        port = ends.backend.events.bind_interdomain(ends.guest.events.alloc_unbound())
        disk = Disk(self.image, BlockFeatures(), self.pool, X86_64, Notification.ADAPTIVE)
        self.back = BlockRing("bench", ends.backend, disk, self.mappings, ends.backend.frame(first), port)

    def put(self, operation: int, *, request_id: int, sector: int = 0, frame: int = 0, frames: int = 1) -> None:
        """Put a request for some of our frames into the ring, and let it be seen."""
        segments = [(ref, 0, 7) for ref in self.refs[frame : frame + frames]]
        pack_request(
            self.front.memory, self.front.put(), operation, request_id=request_id, sector=sector, segments=segments
        )
        self.front.push()

    def responses(self) -> list[tuple[int, int, int]]:
        return [RESPONSE.unpack_from(self.front.memory, self.front.take()) for _ in range(self.front.unconsumed())]

    def answers(self, count: int) -> list[tuple[int, int, int]]:
        """The next responses, with the loop running until they are there."""
        found: list[tuple[int, int, int]] = []

        def enough() -> bool:
            found.extend(self.responses())
            return len(found) >= count

        self.run_until(f"{count} responses", enough)
        return found

    def run_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Let the backend work."""
        watcher = _Watcher(Deadline(20, what), condition)
        self.loop.add(self.back, unexpected)
        self.loop.add(watcher, unexpected)
        with pytest.raises(_Done):
            self.loop.run()
        self.loop.remove(watcher)
        self.loop.remove(self.back)

    def close(self) -> None:
        self.pool.close()
        self.mappings.close()
        self.image.close()


def unexpected(error: HarnessError) -> None:
    raise error
