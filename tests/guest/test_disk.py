"""Data on each kind of disk: what was written is read again at its place, in the guest and in the image on the host."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import GUESTS, named

SECTOR = 512
MIB = 1 << 20

ODD_SIZE = 4 * MIB + SECTOR
"""A multiple of a sector, but of no page."""

FIO = ["fio", "--direct=1", "--ioengine=libaio", "--verify=crc32c", "--verify_fatal=1", "--size=8m"]
FIO_JOBS = {
    "random sizes, 16 at a time": ["--rw=randwrite", "--bsrange=512-128k", "--iodepth=16"],
    "reads between writes": ["--rw=randrw", "--bsrange=512-64k", "--iodepth=16", "--verify_backlog=32"],
    "64 at a time": ["--rw=randwrite", "--bs=4k", "--iodepth=64"],
    "long ones": ["--rw=write", "--bs=1m", "--iodepth=4"],
}


@pytest.fixture(scope="module", params=GUESTS)
def domain(
    request: pytest.FixtureRequest, start_domain_for_module: StartDomain, tmp_path_factory: pytest.TempPathFactory
) -> Domain:
    """Each kind of guest with an empty disk, one of an odd size with random content, and one that is read-only.

    An IDE disk cannot be read-only.
    """
    definition = named(request.param, request)
    (empty,) = definition.disks
    directory = tmp_path_factory.mktemp("images")
    generator = random.Random(1)
    disks = [with_image(empty, directory / "empty", bytes(32 * MIB))]
    disks.append(with_image(following(disks[0]), directory / "odd", generator.randbytes(ODD_SIZE)))
    if empty.model != "ide":
        read_only = replace(following(disks[1]), readonly=True)
        disks.append(with_image(read_only, directory / "read-only", generator.randbytes(MIB)))
    return start_domain_for_module(replace(definition, disks=tuple(disks)))


def following(disk: Disk) -> Disk:
    """A disk at the next place: xvdb after xvda."""
    return replace(disk, target=disk.target[:-1] + chr(ord(disk.target[-1]) + 1))


def with_image(disk: Disk, path: Path, content: bytes) -> Disk:
    path.write_bytes(content)
    return replace(disk, path=path, size=len(content))


def image(disk: Disk) -> bytes:
    """What the host sees of a disk now."""
    assert disk.path is not None
    return disk.path.read_bytes()


def read(domain: Domain, disk: Disk) -> str:
    """SHA-256 of what the guest reads from a whole disk, not from its page cache."""
    device = domain.device(disk.target)
    script = 'blockdev --flushbufs "$1" && sha256sum "$1"'
    return domain.execute(["sh", "-c", script, "sh", device]).check().text.split()[0]


def write(domain: Domain, disk: Disk, sector: int, content: bytes) -> None:
    domain.write_file("/tmp/content", content)
    device = domain.device(disk.target)
    domain.execute(["dd", "if=/tmp/content", f"of={device}", f"seek={sector}", "bs=512", "conv=fsync"]).check()


@pytest.mark.parametrize("job", FIO_JOBS)
def test_what_was_written_is_read(domain: Domain, job: str) -> None:
    device = domain.device(domain.definition.disks[0].target)
    domain.execute([*FIO, "--name=job", f"--filename={device}", *FIO_JOBS[job]]).check()


def test_several_disks_are_used_at_once(domain: Domain) -> None:
    jobs = []
    for disk in domain.definition.disks[:2]:
        jobs += [f"--name={disk.target}", f"--filename={domain.device(disk.target)}", "--rw=randwrite", "--bs=4k"]
    domain.execute([*FIO, "--size=4m", "--iodepth=16", *jobs]).check()


def test_the_guest_reads_what_the_host_wrote(domain: Domain) -> None:
    for disk in domain.definition.disks:
        size = domain.execute(["blockdev", "--getsize64", domain.device(disk.target)]).check().text
        assert int(size) == disk.size
        assert read(domain, disk) == hashlib.sha256(image(disk)).hexdigest()


@pytest.mark.parametrize("sector", [0, 1, 7, 8, 8191, ODD_SIZE // SECTOR - 1])
def test_the_host_finds_what_the_guest_wrote_at_its_place_and_nothing_else_changed(domain: Domain, sector: int) -> None:
    odd = domain.definition.disks[1]
    before, content = image(odd), random.Random(sector).randbytes(SECTOR)
    start = sector * SECTOR
    write(domain, odd, sector, content)
    assert image(odd) == before[:start] + content + before[start + SECTOR :]
    assert read(domain, odd) == hashlib.sha256(image(odd)).hexdigest()


def test_there_is_nothing_beyond_the_end(domain: Domain) -> None:
    odd = domain.definition.disks[1]
    device, before = domain.device(odd.target), image(odd)
    beyond = ODD_SIZE // SECTOR
    across = ["dd", f"if={device}", "bs=512", f"skip={beyond - 1}", "iflag=direct", "count=3"]
    assert domain.execute(across).check().stdout == before[-SECTOR:]
    written = domain.execute(["dd", "if=/dev/zero", f"of={device}", f"seek={beyond}", "count=1", "conv=fsync"])
    assert not written.ok
    assert b"No space left" in written.stderr
    assert image(odd) == before


def test_a_read_only_disk_refuses_writes(domain: Domain) -> None:
    for disk in domain.definition.disks:
        device, before = domain.device(disk.target), image(disk)
        assert domain.execute(["blockdev", "--getro", device]).check().text == str(int(disk.readonly))
        if disk.readonly:
            assert not domain.execute(["dd", "if=/dev/zero", f"of={device}", "count=1", "conv=fsync"]).ok
            assert image(disk) == before
