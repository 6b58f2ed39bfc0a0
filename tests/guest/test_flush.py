"""A flush that has been answered is on the host's disk, not in its page cache.

The pages of the image that the host's kernel still has to write are counted, after writes that were not flushed and
after each way in which a guest asks for a flush.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.cachestat import CLEAN, require_cachestat, unwritten
from tests.guest.conftest import GUESTS, named

ROUNDS = 5

WRITE = 'dd if=/dev/urandom of="$1" bs=64k count=8 seek=$2 oflag=direct status=none'
FLUSHES = {
    "fdatasync": 'sync -d "$1"',
    "fsync": 'dd if=/dev/urandom of="$1" bs=4k count=1 seek=$2 conv=fsync status=none',
}


@pytest.fixture(scope="module", params=(*GUESTS, "virtio-pmem"))
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    """Each of the ready-made guests in turn, and one with its disk in its memory."""
    if request.param == "virtio-pmem":
        disks = (Disk("pmem0", "virtio-pmem", None, 64 << 20),)
        definition = named("virtio", request, disks=disks)
        return start_domain_for_module(replace(definition, name=f"{definition.name}-mapped"))
    return start_domain_for_module(named(request.param, request))


@pytest.fixture
def image(domain: Domain) -> Path:
    """The file behind the guest's disk."""
    (disk,) = domain.definition.disks
    path = Path(domain.parts.record.scratch[0], f"{disk.target}.img")
    require_cachestat(path)
    return path


def test_the_guest_knows_that_there_is_a_cache_to_flush(domain: Domain) -> None:
    (disk,) = domain.definition.disks
    name = Path(domain.device(disk.target)).name
    assert domain.execute(["cat", f"/sys/block/{name}/queue/write_cache"]).check().text == "write back"


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_flush_that_was_answered_is_on_the_disk(domain: Domain, image: Path, flush: str) -> None:
    (disk,) = domain.definition.disks
    device = domain.device(disk.target)
    before = []
    for number in range(ROUNDS):
        place = str(8 * number)
        domain.execute(["sh", "-c", WRITE, "sh", device, place]).check()
        before.append(unwritten(image))
        domain.execute(["sh", "-c", FLUSHES[flush], "sh", device, place]).check()
        assert unwritten(image) == CLEAN
    # Or nothing is proven. Not in every round: the host may have reasons of its own to write at once.
    assert any(state != CLEAN for state in before)


def test_a_flush_waits_for_all_that_was_written_before_it(domain: Domain, image: Path) -> None:
    (disk,) = domain.definition.disks
    device = domain.device(disk.target)
    argv = ["fio", "--name=writes", f"--filename={device}", "--direct=1", "--ioengine=libaio", "--rw=randwrite"]
    domain.execute([*argv, "--bs=4k", "--iodepth=32", "--size=16m", "--fsync=64", "--end_fsync=1"]).check()
    assert unwritten(image) == CLEAN
