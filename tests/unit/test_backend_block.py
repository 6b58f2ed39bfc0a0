"""A real backend process serving disks to a frontend in Python: the handshake and the data."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bus.devices import Device
from harness.bus.features import MAX_INDIRECT_SEGMENTS
from harness.bus.xenbus import XenbusState
from harness.hypervisor.layout import NR_GRANTS
from harness.ring.blkif import SEGMENT, Operation, Status
from tests.unit.backend_guest import Guest, pattern, wait_until
from tests.unit.blockfront import SECTORS, BlockFront, attached, connected

SIZE = SECTORS * 512

READ, WRITE, BARRIER = Operation.READ, Operation.WRITE, Operation.WRITE_BARRIER
OKAY = Status.OKAY


@pytest.fixture
def device(guest: Guest, image: Path) -> Iterator[Device]:
    with attached(guest, image) as device:
        yield device


@pytest.fixture
def front(guest: Guest, image: Path) -> Iterator[BlockFront]:
    with connected(guest, image) as front:
        yield front


@pytest.fixture(params=[True, False], ids=["persistent", "transient"])
def either(request: pytest.FixtureRequest, guest: Guest, image: Path) -> Iterator[BlockFront]:
    """A frontend with persistent grants, and one without."""
    with connected(guest, image, persistent=request.param) as front:
        yield front


# ---- handshake -----------------------------------------------------------------------------------------------------


def test_what_the_backend_publishes(guest: Guest, front: BlockFront) -> None:
    published = {
        "sectors": str(SECTORS),
        "sector-size": "512",
        "physical-sector-size": "4096",
        "info": "0",
        "feature-flush-cache": "1",
        "feature-barrier": "1",
        "feature-discard": "1",
        "discard-granularity": "4096",
        "discard-alignment": "0",
        "discard-secure": "0",
        "feature-persistent": "1",
        "feature-max-indirect-segments": str(MAX_INDIRECT_SEGMENTS),
        "max-ring-page-order": "4",
        "multi-queue-max-queues": "8",
        "hotplug-status": "connected",
    }
    assert {name: guest.backend_node(front.device, name) for name in published} == published


def test_the_sectors_are_there_before_the_state_says_connected(guest: Guest, device: Device) -> None:
    guest.wait_for_backend(device, XenbusState.INIT_WAIT)
    assert not guest.store.exists(f"{device.backend}/sectors")
    BlockFront(guest, device).connect().close()
    assert guest.backend_node(device, "sectors") == str(SECTORS)


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ({"protocol": "arm-abi"}, "only x86_64-abi"),
        ({"protocol": "\0\xff" * 900}, "only x86_64-abi"),
        ({"ring-page-order": "1"}, "ring-ref0 is missing"),
        ({"ring-page-order": "5"}, "ring-page-order"),
        ({"ring-page-order": "99999999999999999999"}, "ring-page-order"),
        ({"multi-queue-num-queues": "0"}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": "2"}, "queue-0/ring-ref is missing"),
        ({"multi-queue-num-queues": "9"}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": "one"}, "multi-queue-num-queues"),
        ({"ring-ref": None}, "ring-ref is missing"),
        ({"ring-ref": "-1"}, "ring-ref"),
        ({"ring-ref": "4095"}, "4095 grants nothing"),
        ({"ring-ref": str(NR_GRANTS)}, "ring-ref"),
        ({"event-channel": None}, "event-channel is missing"),
        ({"event-channel": "0"}, "event-channel"),
        ({"event-channel": "1"}, "not unbound"),
        ({"event-channel": "4000"}, "not unbound"),
        ({"feature-persistent": "maybe"}, "feature-persistent"),
    ],
)
def test_a_frontend_that_writes_nonsense_is_told_so(
    guest: Guest, device: Device, nodes: dict[str, str], complaint: str
) -> None:
    front = BlockFront(guest, device)
    guest.wait_for_backend(front.device, XenbusState.INIT_WAIT)
    front.publish(**nodes)
    guest.wait_until_failed(front.device, complaint)
    # Nothing is left of the attempt, and the device can start over.
    front.close()
    for name in nodes:
        guest.store.rm(f"{front.device.frontend}/{name}")
    guest.switch(front.device, XenbusState.INITIALISING)
    again = BlockFront(guest, front.device).connect()
    assert again.read(0, 1) == pattern(4096, 1)
    again.close()


@pytest.mark.parametrize(("readonly", "domid", "complaint"), [(True, 0, "is read-only"), (False, 3, "is for domain 3")])
def test_a_ring_that_is_not_ours_to_write_is_refused(
    guest: Guest, device: Device, readonly: bool, domid: int, complaint: str
) -> None:
    front = BlockFront(guest, device)
    guest.wait_for_backend(front.device, XenbusState.INIT_WAIT)
    frame = guest.frame()
    ref = guest.grant(frame, readonly=readonly, domid=domid)
    front.publish(**{"ring-ref": ref})
    guest.wait_until_failed(front.device, complaint)
    guest.take_back(frame, ref)
    front.close()


def test_the_backend_follows_a_frontend_that_closes(guest: Guest, device: Device) -> None:
    front = BlockFront(guest, device).connect()
    guest.switch(device, XenbusState.CLOSING)
    guest.wait_for_backend(device, XenbusState.CLOSING)
    # Until the frontend is Closed it may still wait for answers.
    assert front.do(READ, 0, front.whole(1)) == OKAY
    front.close()


def test_toggling_the_state_faster_than_anybody_can_follow(guest: Guest, device: Device) -> None:
    front = BlockFront(guest, device).connect()
    dice = random.Random(11)
    for _ in range(300):
        guest.switch(front.device, dice.choice(list(XenbusState)))
    front.close()
    guest.switch(front.device, XenbusState.INITIALISING)
    again = BlockFront(guest, front.device).connect()
    assert again.read(0, 1) == pattern(4096, 1)
    again.close()


def test_a_frontend_may_come_again(guest: Guest, device: Device) -> None:
    for round_ in range(3):
        front = BlockFront(guest, device, persistent=round_ != 1).connect()
        assert front.read(8 * round_, 2) == pattern(SIZE, 1)[4096 * round_ :][:8192]
        front.close()
        guest.switch(device, XenbusState.INITIALISING)


def test_removing_a_disk_lets_go_of_everything(guest: Guest, device: Device, image: Path) -> None:
    front = BlockFront(guest, device).connect()
    front.read(0, 3)
    assert image in open_files(guest)
    guest.store.rm(front.device.backend)
    wait_until("the end of the device", lambda: image not in open_files(guest))
    assert guest.end.table.end_access(front.ring_ref)
    assert all(guest.end.table.end_access(ref) for ref in front.refs)
    assert not guest.store.exists(f"{front.device.backend}/state")


def open_files(guest: Guest) -> list[Path]:
    """What the backend process has open."""
    links = []
    for entry in Path(f"/proc/{guest.backend.pid}/fd").iterdir():
        try:
            links.append(entry.readlink())
        except FileNotFoundError:
            continue
    return links


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "no multiple of 512"),
        (lambda path: path.write_bytes(b"x" * 1000), "no multiple of 512"),
    ],
    ids=["missing", "empty", "odd"],
)
def test_an_image_that_cannot_be_used(
    guest: Guest, image: Path, make: Callable[[Path], object], complaint: str
) -> None:
    make(image)
    with attached(guest, image) as device:
        guest.wait_until_failed(device, complaint)


# ---- data ----------------------------------------------------------------------------------------------------------


def test_reading(either: BlockFront) -> None:
    everything = pattern(SIZE, 1)
    assert either.read(0, 1) == everything[:4096]
    assert either.read(SECTORS - 8 * 11, 11) == everything[-11 * 4096 :]
    assert either.read(13, 2) == everything[13 * 512 :][:8192]


def test_writing(either: BlockFront, image: Path) -> None:
    new = os.urandom(11 * 4096)
    either.fill(new)
    assert either.do(WRITE, 40, either.whole(11)) == OKAY
    expected = bytearray(pattern(SIZE, 1))
    expected[40 * 512 : 40 * 512 + len(new)] = new
    assert image.read_bytes() == expected


def test_a_barrier_with_and_without_data(front: BlockFront, image: Path) -> None:
    front.fill(b"b" * 4096)
    assert front.do(BARRIER, 8, front.whole(1)) == OKAY
    assert image.read_bytes()[4096:8192] == b"b" * 4096
    assert front.do(BARRIER, 8, []) == OKAY


def test_flushing(front: BlockFront) -> None:
    assert front.do(Operation.FLUSH_DISKCACHE, 0, []) == OKAY


@pytest.mark.parametrize("count", [1, 32, MAX_INDIRECT_SEGMENTS])
def test_indirect_requests(either: BlockFront, image: Path, count: int) -> None:
    front = either
    # One sector per segment, from frames in disorder: as little can be joined as possible.
    segments = [(front.refs[index * 7 % 32], index // 32 % 8, index // 32 % 8) for index in range(count)]
    for index, segment in enumerate(segments):
        SEGMENT.pack_into(front.data(39), index * SEGMENT.size, *segment)
    front.put_indirect(READ, 100, count, [front.refs[39]])
    front.push()
    ((_, operation, status),) = front.responses(1)
    assert (operation, status) == (Operation.INDIRECT, OKAY)
    read = b"".join(bytes(front.data(index * 7 % 32)[index // 32 % 8 * 512 :][:512]) for index in range(count))
    assert read == pattern(SIZE, 1)[100 * 512 :][: count * 512]
    front.put_indirect(WRITE, 1000, count, [front.refs[39]])
    front.push()
    assert next(front.responses(1))[2] == OKAY
    assert image.read_bytes()[1000 * 512 :][: count * 512] == read


def test_many_in_flight_through_the_wrap_of_the_ring(either: BlockFront) -> None:
    everything = pattern(SIZE, 1)
    dice = random.Random(5)
    expected: dict[int, tuple[int, int]] = {}
    free = list(range(32))
    for _ in range(200):
        for _ in range(dice.randint(1, min(len(free), either.ring.free))):
            index, sector = free.pop(), dice.randrange(SECTORS - 8)
            request_id = either.put(READ, sector, either.whole(1, index))
            expected[request_id] = index, sector
        either.push()
        for request_id, _, status in either.responses(dice.randint(1, len(expected))):
            index, sector = expected.pop(request_id)
            assert status == OKAY
            assert either.data(index) == everything[sector * 512 :][:4096]
            free.append(index)
