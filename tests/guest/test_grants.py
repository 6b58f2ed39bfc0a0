"""Frames that Domain 0 does not let go of: the guest uses them for nothing else until it does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.domain.definition_settings import disk_of
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.hypervisor.grants import GTF_PERMIT_ACCESS, GTF_READING, entries, statuses
from harness.hypervisor.layout import BACKEND_PORTS, BACKEND_VECTOR
from harness.hypervisor.link import LinkEnd
from tests.unit.backend_guest import repeating

EXTRA = disk_of({"target": "xvdb", "size": "4MiB"})


class Table:
    """The guest's grant table, and the status bytes, of which Domain 0 is the writer."""

    def __init__(self, end: LinkEnd) -> None:
        self._entries = entries(end.memory, end.layout)
        self.statuses = statuses(end.memory, end.layout)

    def granted(self) -> set[int]:
        return {ref for ref, entry in enumerate(self._entries) if entry & GTF_PERMIT_ACCESS}

    @contextmanager
    def held(self, ref: int) -> Iterator[None]:
        """Say that a frame is in use, whatever the backend says meanwhile."""

        def hold() -> None:
            self.statuses[ref] = GTF_READING

        with repeating(hold):
            yield


@pytest.fixture
def table(pv: Domain) -> Iterator[Table]:
    assert pv.parts.paravirtual is not None
    descriptors = [os.dup(descriptor) for descriptor in pv.parts.paravirtual.link.backend_fds()]
    with LinkEnd.from_fds(descriptors, vector=BACKEND_VECTOR, ports=BACKEND_PORTS) as end:
        yield Table(end)


def attached(pv: Domain, table: Table) -> set[int]:
    """The references that the extra disk takes while it is there."""
    before = table.granted()
    pv.attach_disk(EXTRA)
    taken = table.granted() - before
    pv.execute(["dd", "if=/dev/xvdb", "of=/dev/null", "bs=64k", "iflag=direct"]).check()
    return taken


def test_a_frame_in_use_is_not_given_to_anybody_else(pv: Domain, table: Table) -> None:
    first = attached(pv, table)
    ref = min(first)
    with table.held(ref):
        pv.detach_disk("xvdb")
    assert not first & table.granted(), "access has not ended"
    assert table.statuses[ref] == GTF_READING
    second = attached(pv, table)
    assert second
    assert ref not in second
    pv.detach_disk("xvdb")
    table.statuses[ref] = 0
    deadline = Deadline(20, "the guest to take its frame back")
    while ref not in attached(pv, table):
        deadline.check()
        pv.detach_disk("xvdb")
    pv.detach_disk("xvdb")
