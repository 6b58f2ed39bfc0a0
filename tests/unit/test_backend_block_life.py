"""Disks that come and go while requests are under way: a backend that dies, a frontend that closes in the middle."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.backend.block import KEPT_PER_SLOT
from harness.bus.xenbus import XenbusState
from harness.ring.blkif import Operation, Status
from tests.unit.backend_guest import Guest, pattern
from tests.unit.blockfront import SECTORS, BlockFront, RingFront, attached, connected

READ, WRITE, FLUSH, BARRIER = Operation.READ, Operation.WRITE, Operation.FLUSH_DISKCACHE, Operation.WRITE_BARRIER
OKAY = Status.OKAY


@pytest.mark.parametrize(("queues", "order", "persistent"), [(1, 0, True), (3, 1, True), (2, 0, False)])
def test_a_new_backend_begins_with_new_rings(
    guest: Guest, image: Path, queues: int, order: int, persistent: bool
) -> None:
    with connected(guest, image, queues=queues, order=order, persistent=persistent) as front:
        assert front.read(8, 2) == pattern(SECTORS * 512, 1)[4096:12288]
        before = guest.mapped()
        # What its predecessor left behind makes no sense at all.
        front.page[:64] = b"\xee" * 64
        guest.replace_backend()
        guest.wait_for_backend(front.device, XenbusState.INIT_WAIT)
        assert guest.mapped() < before
        # Everything can be taken back, and the ports wait for a new binding.
        for queue in front.queues:
            queue.close()
        guest.switch(front.device, XenbusState.INITIALISING)
        front.queues = [RingFront(guest, order, front.abi) for _ in range(queues)]
        front.publish()
        guest.wait_for_backend(front.device, XenbusState.CONNECTED)
        guest.switch(front.device, XenbusState.CONNECTED)
        for number in range(queues):
            front.use(number)
            assert front.read(16, 2) == pattern(SECTORS * 512, 1)[8192:16384]


def test_a_new_backend_does_not_touch_a_frontend_that_does_not_follow(guest: Guest, image: Path) -> None:
    """Requests in the old ring are for nobody."""
    with connected(guest, image) as front:
        guest.replace_backend()
        guest.wait_for_backend(front.device, XenbusState.INIT_WAIT)
        old = bytes(front.page)
        front.fill(b"!" * 4096)
        front.put(WRITE, 0, front.whole(1))
        front.push()
        guest.switch(front.device, XenbusState.CONNECTED)
        # It has read this once it has answered the other one.
        with connected(guest, image) as other:
            assert other.read(0, 1) == pattern(4096, 1)
        assert guest.state(front.device) == XenbusState.INIT_WAIT
        assert bytes(front.page[4:64]) == old[4:64]
    assert image.read_bytes() == pattern(SECTORS * 512, 1)


@pytest.mark.parametrize("persistent", [True, False])
def test_closing_with_requests_under_way(guest: Guest, image: Path, persistent: bool) -> None:
    dice = random.Random(2)
    with attached(guest, image) as device:
        for _ in range(20):
            front = BlockFront(guest, device, persistent=persistent, queues=2).connect()
            for queue in range(2):
                front.use(queue)
                for place in range(dice.randint(1, 32)):
                    operation = dice.choice([READ, READ, FLUSH, BARRIER])
                    front.put(operation, 8 * place, front.whole(1, place) if operation == READ else [])
                front.push()
            # All of it is taken back here.
            front.close()
            guest.switch(device, XenbusState.INITIALISING)
        front = BlockFront(guest, device, queues=2).connect()
        assert front.read(0, 1) == pattern(4096, 1)
        front.close()


def test_more_persistent_grants_than_are_kept(guest: Guest, image: Path) -> None:
    """The frontend uses one after the other: the backend keeps a bounded number, and any of them works at any time."""
    with connected(guest, image) as front:
        limit = front.ring.size * 2 * KEPT_PER_SLOT
        others = guest.mapped()
        frame = guest.frame()
        refs = [guest.grant(frame) for _ in range(limit + 1000)]
        for start in range(0, len(refs), 11):
            segments = [(ref, 0, 7) for ref in refs[start : start + 11]]
            assert front.do(READ, 8, segments) == OKAY
            assert guest.mapped() - others <= limit
        assert front.do(READ, 8, [(refs[0], 0, 7), (refs[-1], 0, 7), (refs[0], 0, 7)]) == OKAY
    assert all(guest.end.table.end_access(ref) for ref in refs)
