"""Several rings, of several pages, in another layout: what each carries arrives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.bus.features import BlockFeatures
from harness.bus.xenbus import XenbusState
from harness.ring.blkif import ABIS, SEGMENT, X86_32, Abi, Operation, Status
from harness.ring.ring import REQ_PROD
from tests.unit.backend_guest import Guest, pattern
from tests.unit.blockfront import SECTORS, BlockFront, attached, connected

READ, WRITE = Operation.READ, Operation.WRITE
OKAY, ERROR = Status.OKAY, Status.ERROR


@pytest.mark.parametrize("abi", ABIS.values(), ids=lambda abi: abi.name)
@pytest.mark.parametrize(("queues", "order"), [(1, 0), (1, 1), (1, 4), (2, 0), (3, 2), (8, 4)])
def test_every_ring_carries_data_through_its_wrap(guest: Guest, image: Path, queues: int, order: int, abi: Abi) -> None:
    """Two rounds through each ring, with as much in flight as fits into it."""
    everything = pattern(SECTORS * 512, 1)
    dice = random.Random(order)
    with connected(guest, image, queues=queues, order=order, abi=abi) as front:
        for number in range(queues):
            front.use(number)
            for _ in range(2):
                wanted = {}
                for place in range(front.ring.size):
                    sector = dice.randrange(SECTORS)
                    # All 320 sectors of our frames, and then over again.
                    index, within = place // 8 % 40, place % 8
                    request_id = front.put(READ, sector, [(front.refs[index], within, within)])
                    wanted[request_id] = (index, within, sector)
                assert front.ring.free == 0
                front.push()
                for request_id, operation, status in front.responses(front.ring.size):
                    assert (operation, status) == (READ, OKAY)
                    index, within, sector = wanted.pop(request_id)
                    if front.ring.size <= 320:
                        assert front.data(index)[within * 512 :][:512] == everything[sector * 512 :][:512]
                assert not wanted


def test_what_one_ring_writes_another_reads(guest: Guest, image: Path) -> None:
    with connected(guest, image, queues=2) as front:
        front.fill(b"n" * 8192)
        assert front.do(WRITE, 16, front.whole(2)) == OKAY
        front.use(1)
        assert front.do(READ, 16, front.whole(2, start=20)) == OKAY
        assert bytes(front.data(20)) == bytes(front.data(21)) == b"n" * 4096


def test_a_ring_that_breaks_takes_its_device_along_and_no_other(guest: Guest, image: Path) -> None:
    with connected(guest, image) as bystander:
        with connected(guest, image, queues=3) as victim:
            victim.queues[2].page.cast("I")[REQ_PROD] = 33
            guest.end.events.send(victim.queues[2].port)
            guest.wait_until_failed(victim.device, "request index is impossible")
        assert bystander.read(0, 1) == pattern(4096, 1)


@pytest.mark.parametrize(
    ("instead", "complaint"),
    [
        ({"multi-queue-num-queues": 3}, "queue-2/ring-ref0 is missing"),
        ({"multi-queue-num-queues": 0}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": 9}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": "+2"}, "multi-queue-num-queues"),
        ({"queue-1/event-channel": None}, "queue-1/event-channel is missing"),
        ({"queue-1/event-channel": "x"}, "queue-1/event-channel"),
        ({"queue-1/ring-ref1": None}, "queue-1/ring-ref1 is missing"),
        ({"queue-1/ring-ref1": 16000}, "16000"),
        ({"queue-1/ring-ref1": 2}, "2 grants nothing"),
        ({"ring-page-order": 2}, "queue-0/ring-ref2 is missing"),
        ({"ring-page-order": 5}, "ring-page-order"),
        ({"ring-page-order": -1}, "ring-page-order"),
    ],
)
def test_nonsense_about_queues_and_rings(guest: Guest, image: Path, instead: dict[str, object], complaint: str) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device, queues=2, order=1)
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        front.publish(**instead)
        guest.wait_until_failed(device, complaint)
        # Nothing is left of what had been mapped and bound by then.
        front.close()


def test_a_frame_is_in_a_ring_once(guest: Guest, image: Path) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device, order=1)
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        front.publish(**{"ring-ref1": front.ring_ref})
        guest.wait_until_failed(device, "more than once")
        front.close()


@pytest.mark.parametrize(
    ("limits", "queues", "order"),
    [
        (BlockFeatures(queues=2), 3, 0),
        (BlockFeatures(queues=1), 2, 0),
        (BlockFeatures(ring_page_order=1), 1, 2),
        (BlockFeatures(ring_page_order=0), 1, 1),
    ],
)
def test_more_than_the_definition_allows_is_refused(
    guest: Guest, image: Path, limits: BlockFeatures, queues: int, order: int
) -> None:
    with attached(guest, image, features=limits) as device:
        front = BlockFront(guest, device, queues=queues, order=order)
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        assert guest.backend_node(device, "multi-queue-max-queues") == str(limits.queues)
        assert guest.backend_node(device, "max-ring-page-order") == str(limits.ring_page_order)
        front.publish()
        guest.wait_until_failed(device, "multi-queue-num-queues" if queues > 1 else "ring-page-order")
        front.close()


def test_a_single_page_may_be_numbered(guest: Guest, image: Path) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device)
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        front.publish(**{"ring-ref": None, "ring-ref0": front.ring_ref, "ring-page-order": 0})
        guest.wait_for_backend(device, XenbusState.CONNECTED)
        assert front.read(0, 1) == pattern(4096, 1)
        front.close()


def test_a_32_bit_frontend(guest: Guest, image: Path) -> None:
    """Every kind of request in its layout, and garbage."""
    with connected(guest, image, abi=X86_32) as front:
        front.fill(b"3" * 4096)
        assert front.do(WRITE, 8, front.whole(1)) == OKAY
        assert front.do(Operation.WRITE_BARRIER, 8, front.whole(1)) == OKAY
        assert front.do(Operation.FLUSH_DISKCACHE, 0, []) == OKAY
        SEGMENT.pack_into(front.data(39), 0, front.refs[1], 0, 7)
        front.put_indirect(READ, 8, 1, [front.refs[39]])
        front.push()
        assert next(front.responses(1))[1:] == (Operation.INDIRECT, OKAY)
        assert bytes(front.data(1)) == b"3" * 4096
        assert front.discard(8, 8) == OKAY
        assert front.do(READ, SECTORS, front.whole(1)) == ERROR
        front.put_raw(b"\xff" * X86_32.entry_size)
        front.push()
        assert next(front.responses(1)) == ((1 << 64) - 1, 255, Status.EOPNOTSUPP)
    assert image.read_bytes()[4096:8192] == bytes(4096)
