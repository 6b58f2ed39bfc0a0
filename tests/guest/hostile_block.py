"""A backend process whose disks break the protocol when their image is named after a crime; the real one in all else.

A crime on a ring is committed when sector ``TRIGGER`` is read, so that a disk can be found and its partition table read
before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

from harness.backend import __main__ as process
from harness.backend import block, domain
from harness.backend.block import BlockDevice
from harness.backend.block_ring import BlockRing, Disk, Request
from harness.backend.mappings import Mappings
from harness.hypervisor.link import LinkEnd
from harness.ring.blkif import Operation, Status

MODULE = "tests.guest.hostile_block"
TRIGGER = 2048
ID = 3
"""Place of the id in a request."""

HUGE = "4294967295"
PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "no sectors": {"sectors": "0"},
    "more sectors than can be": {"sectors": "18446744073709551615"},
    "a negative number of sectors": {"sectors": "-1"},
    "sectors in words": {"sectors": "many"},
    "sectors of no bytes": {"sector-size": "0"},
    "sectors of odd size": {"sector-size": "513"},
    "sectors larger than a page": {"sector-size": "8192"},
    "half a sector too much": {"sector-size": "4096", "sectors": "32769"},
    "absurd features": {
        "feature-max-indirect-segments": HUGE,
        "max-ring-page-order": "31",
        "multi-queue-max-queues": HUGE,
        "feature-discard": "1",
        "discard-granularity": "-512",
        "discard-alignment": HUGE,
        "physical-sector-size": "3",
        "info": HUGE[:-1] + "0",
    },
    "no features": {
        "feature-max-indirect-segments": "-1",
        "max-ring-page-order": "four",
        "multi-queue-max-queues": "0",
        "feature-flush-cache": "",
        "feature-persistent": "yes",
        "discard-granularity": "1",
    },
}
"""What replaces the nodes that the backend would publish."""


class HostileDisk(BlockDevice):
    """Publishes what its image is named after."""

    def features(self) -> Mapping[str, str]:
        return self._replaced(super().features())

    def connect(self, frontend: str) -> Mapping[str, str]:
        return self._replaced(super().connect(frontend))

    def resized(self) -> Mapping[str, str]:
        return {"sectors": "0"}

    def _replaced(self, nodes: Mapping[str, str]) -> Mapping[str, str]:
        instead = PUBLISHED.get(Path(self._own("params")).name, {})
        return {name: instead.get(name, value) for name, value in nodes.items()}


class Greedy(Mappings):
    """Keeps everything mapped, for ever, though nothing is persistent."""

    def release(self) -> None:
        self._transient.clear()


class HostileRing(BlockRing):
    """Commits its crime instead of giving, or beside giving, the answer to a request for the trigger."""

    def __init__(self, name: str, link: LinkEnd, disk: Disk, mappings: Mappings, memory: memoryview, port: int) -> None:
        self._crime = Path(disk.image.path).name
        if self._crime == "greedy":
            mappings = Greedy(link.grants, persistent=False)
        super().__init__(name, link, disk, mappings, memory, port)

    def _answer(self, request: Request, status: int) -> None:
        operation, _, _, number, sector = request
        instead = list(request)
        if operation == Operation.FLUSH_DISKCACHE and self._crime == "a flush that is not supported":
            status = Status.EOPNOTSUPP
        if sector == TRIGGER:
            if self._crime == "no answer":
                return
            if self._crime == "two answers":
                super()._answer(request, status)
            elif self._crime == "answer to nobody":
                instead[ID] = 0xFFFF
            elif self._crime == "answer to an id of 64 bits":
                instead[ID] = number | 1 << 32
            elif self._crime == "answer to another operation":
                instead[0] = Operation.DISCARD
            elif self._crime == "more answers than the ring holds":
                self.ring.prod_pvt += self.ring.size + 1
            elif self._crime == "a status that does not exist":
                status = -77
        super()._answer((instead[0], instead[1], instead[2], instead[3], instead[4]), status)
        # Whoever waits for an event is to see this, whatever it asked for.
        self._link.events.send(self.port)


if __name__ == "__main__":
    with patch.object(domain, "BlockDevice", HostileDisk), patch.object(block, "BlockRing", HostileRing):
        sys.exit(process.main())
