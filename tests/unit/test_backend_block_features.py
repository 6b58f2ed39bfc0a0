"""What a disk offers, what becomes of it when it is switched off, and what its properties mean for requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.bus.features import BlockFeatures
from harness.bus.xenbus import XenbusState
from harness.ring.blkif import DISCARD_SECURE, SEGMENT, VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE, Operation, Status
from tests.unit.backend_guest import Guest, pattern, wait_until
from tests.unit.blockfront import SECTORS, BlockFront, attached, connected

READ, WRITE, BARRIER, FLUSH = Operation.READ, Operation.WRITE, Operation.WRITE_BARRIER, Operation.FLUSH_DISKCACHE
OKAY, ERROR, EOPNOTSUPP = Status.OKAY, Status.ERROR, Status.EOPNOTSUPP


def indirect_read(front: BlockFront, count: int) -> int:
    for index in range(count):
        SEGMENT.pack_into(front.data(39), index * SEGMENT.size, front.refs[index], 0, 7)
    front.put_indirect(READ, 0, count, [front.refs[39]])
    front.push()
    ((_, operation, status),) = front.responses(1)
    assert operation == Operation.INDIRECT
    return status


# ---- switches ------------------------------------------------------------------------------------------------------

OFF: dict[str, tuple[BlockFeatures, dict[str, str]]] = {
    "flush": (BlockFeatures(flush=False), {"feature-flush-cache": "0"}),
    "barrier": (BlockFeatures(barrier=False), {"feature-barrier": "0"}),
    "discard": (BlockFeatures(discard=False), {"feature-discard": "0"}),
    "persistent": (BlockFeatures(persistent=False), {"feature-persistent": "0"}),
    "indirect": (BlockFeatures(indirect_segments=0), {"feature-max-indirect-segments": "0"}),
}


@pytest.mark.parametrize("what", OFF)
def test_what_is_switched_off_is_neither_offered_nor_served(guest: Guest, image: Path, what: str) -> None:
    features, nodes = OFF[what]
    with connected(guest, image, features=features) as front:
        offers = {node for _, offer in OFF.values() for node in offer}
        assert {name for name in offers if guest.backend_node(front.device, name) == "0"} == set(nodes)
        statuses = {
            "flush": front.do(FLUSH, 0, []),
            "barrier": front.do(BARRIER, 0, []),
            "discard": front.discard(0, 8),
            "indirect": indirect_read(front, 1),
        }
        assert {name for name, status in statuses.items() if status == EOPNOTSUPP} == {what} - {"persistent"}
        assert front.read(8, 1) == pattern(8192, 1)[4096:]
        if what == "persistent":
            # The frontend says that its grants are, and each can be taken back after use all the same.
            frame = guest.frame()
            ref = guest.grant(frame)
            assert front.do(READ, 0, [(ref, 0, 7)]) == OKAY
            guest.take_back(frame, ref)


def test_a_limit_on_segments(guest: Guest, image: Path) -> None:
    with connected(guest, image, features=BlockFeatures(indirect_segments=12)) as front:
        assert guest.backend_node(front.device, "feature-max-indirect-segments") == "12"
        assert indirect_read(front, 12) == OKAY
        assert indirect_read(front, 13) == ERROR


@pytest.mark.parametrize(("node", "value"), [("flush-cache-enable", "2"), ("queues-limit", "0"), ("sector-size", "x")])
def test_nonsense_of_the_toolstack_is_reported(guest: Guest, image: Path, node: str, value: str) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device)
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        guest.write(device.backend, {node: value})
        guest.switch(device, XenbusState.CLOSED)
        guest.wait_for_backend(device, XenbusState.CLOSED)
        guest.switch(device, XenbusState.INITIALISING)
        guest.wait_until_failed(device, node)
        front.close()


# ---- discard -------------------------------------------------------------------------------------------------------


def test_a_discard_gives_the_space_back(guest: Guest, image: Path) -> None:
    before = image.stat().st_blocks
    with connected(guest, image) as front:
        assert front.discard(0, 2048) == OKAY
        assert image.stat().st_blocks <= before - 2048
        assert front.read(8, 1) == bytes(4096)
    assert image.read_bytes() == bytes(2048 * 512) + pattern(SECTORS * 512, 1)[2048 * 512 :]


@pytest.mark.parametrize(
    ("sector", "sectors", "flags", "status"),
    [
        (SECTORS - 8, 8, 0, OKAY),
        (SECTORS - 8, 9, 0, ERROR),
        (SECTORS, 1, 0, ERROR),
        (0, 0, 0, ERROR),
        (0, SECTORS + 1, 0, ERROR),
        (8, (1 << 64) - 8, 0, ERROR),
        ((1 << 64) - 8, 16, 0, ERROR),
        ((1 << 64) - 1, (1 << 64) - 1, 0, ERROR),
        (1 << 55, 1 << 55, 0, ERROR),
        (0, 8, DISCARD_SECURE, EOPNOTSUPP),
    ],
)
def test_only_what_is_there_is_discarded(
    guest: Guest, image: Path, sector: int, sectors: int, flags: int, status: int
) -> None:
    with connected(guest, image) as front:
        assert front.discard(sector, sectors, flags=flags) == status
    assert image.stat().st_size == SECTORS * 512
    if status != OKAY:
        assert image.read_bytes() == pattern(SECTORS * 512, 1)


def test_a_read_only_disk_forgets_nothing(guest: Guest, image: Path) -> None:
    with connected(guest, image, readonly=True) as front:
        assert guest.backend_node(front.device, "feature-discard") == "0"
        assert front.discard(0, 8) == EOPNOTSUPP
    assert image.read_bytes() == pattern(SECTORS * 512, 1)


# ---- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sector", "segments"),
    [
        (1, [(0, 7)]),
        (4, [(0, 7)]),
        (0, [(0, 3)]),
        (0, [(0, 6)]),
        (0, [(0, 3), (4, 7)]),
        (0, [(0, 7), (7, 7)]),
    ],
)
@pytest.mark.parametrize("operation", [READ, WRITE, BARRIER])
def test_a_part_of_a_large_sector_is_refused(
    guest: Guest, image: Path, operation: int, sector: int, segments: list[tuple[int, int]]
) -> None:
    with connected(guest, image, sector_size=4096) as front:
        front.fill(b"!" * 8192)
        wanted = [(front.refs[index], *segment) for index, segment in enumerate(segments)]
        assert front.do(operation, sector, wanted) == ERROR
        assert front.discard(1, 8) == front.discard(8, 1) == ERROR
    assert image.read_bytes() == pattern(SECTORS * 512, 1)


def test_large_sectors(guest: Guest, image: Path) -> None:
    with connected(guest, image, sector_size=4096) as front:
        # Sectors are counted in 512 bytes all the same.
        nodes = ("sectors", "sector-size", "physical-sector-size")
        assert [guest.backend_node(front.device, name) for name in nodes] == [str(SECTORS), "4096", "4096"]
        assert front.read(SECTORS - 16, 2) == pattern(SECTORS * 512, 1)[-8192:]
        assert front.discard(8, 8) == OKAY


def test_an_image_that_is_no_multiple_of_a_large_sector(guest: Guest, image: Path) -> None:
    os.truncate(image, 8192 + 512)
    with attached(guest, image, sector_size=4096) as device:
        guest.wait_until_failed(device, "no multiple of 4096")
    with connected(guest, image) as front:
        assert guest.backend_node(front.device, "physical-sector-size") == "512"
        assert front.do(READ, 16, [(front.refs[0], 0, 0)]) == OKAY


@pytest.mark.parametrize(
    ("disk", "info"),
    [
        ({}, 0),
        ({"readonly": True}, VDISK_READONLY),
        ({"cdrom": True}, VDISK_READONLY | VDISK_REMOVABLE | VDISK_CDROM),
    ],
)
def test_what_kind_of_disk_it_is(guest: Guest, image: Path, disk: dict[str, Any], info: int) -> None:
    with connected(guest, image, **disk) as front:
        assert guest.backend_node(front.device, "info") == str(info)
        front.fill(b"w" * 4096)
        assert front.do(WRITE, 0, front.whole(1)) == (ERROR if info else OKAY)


# ---- resize --------------------------------------------------------------------------------------------------------


def resize(guest: Guest, front: BlockFront) -> None:
    """Ask the backend to look at the image again, and wait until it has."""
    guest.write(front.device.backend, {"resize": 1})
    wait_until("the new size", lambda: guest.backend_node(front.device, "resize") == "0")


@pytest.mark.parametrize("sectors", [SECTORS * 2, SECTORS // 2])
def test_an_image_that_changes_its_size(guest: Guest, image: Path, sectors: int) -> None:
    with connected(guest, image, queues=2) as front:
        os.truncate(image, sectors * 512)
        last = max(sectors, SECTORS) - 8
        assert front.do(READ, last, front.whole(1)) == ERROR
        resize(guest, front)
        assert guest.backend_node(front.device, "sectors") == str(sectors)
        assert guest.state(front.device) == XenbusState.CONNECTED
        for queue in range(2):
            front.use(queue)
            assert front.do(READ, sectors - 8, front.whole(1)) == OKAY
            assert front.do(READ, sectors - 7, front.whole(1)) == ERROR


def test_an_image_of_an_impossible_size_is_not_taken_over(guest: Guest, image: Path) -> None:
    with connected(guest, image) as front:
        os.truncate(image, SECTORS * 512 + 100)
        resize(guest, front)
        assert "no multiple of 512" in (guest.error(front.device) or "")
        assert guest.backend_node(front.device, "sectors") == str(SECTORS)
        assert front.read(0, 1) == pattern(4096, 1)
