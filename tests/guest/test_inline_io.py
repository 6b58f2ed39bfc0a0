"""Disks whose I/O a processor of the guest does itself: really so, and with the same data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness.domain.definition import Disk, DiskIo
from harness.domain.domain import Domain
from harness.machine.inline_io import inline_verdict
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.guest.driven import driver_definition
from tests.guest.load import verifying

MIB = 1 << 20


def uses_io_uring(domain: Domain) -> bool:
    descriptors = Path(f"/proc/{domain.parts.record.pids['qemu']}/fd")
    return any(str(one.readlink()) == "anon_inode:[io_uring]" for one in descriptors.iterdir())


@pytest.mark.parametrize("io", ["threads", "inline"])
def test_what_is_written_is_read_and_reaches_the_image(
    io: DiskIo, request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    with image.open("xb") as file:
        file.truncate(256 * MIB)
    domain = start_domain(named("virtio", request, disks=(Disk("vda", "virtio", image, 256 * MIB, io=io),)))
    assert uses_io_uring(domain) == (io == "inline")
    device = domain.device("vda")
    domain.execute(verifying(device, 4), timeout=200).check()
    said = domain.execute(["sh", "-c", f"head -c {8 * MIB} {device} | sha256sum"]).check().text.split()[0]
    with image.open("rb") as file:
        assert hashlib.sha256(file.read(8 * MIB)).hexdigest() == said


def test_a_driver_domain_has_inline_disks(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(driver_definition(request, disks=1))
    assert uses_io_uring(domain) == (domain.parts.held.accelerator.name == "tcg" and inline_verdict().works)
