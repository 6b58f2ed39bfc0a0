"""A sparse image on a host file system that fills up: the guest gets an I/O error, as from a real disk, and goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain.definition import Disk, DiskIo, DiskModel
from harness.host.errors import HostError
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named

MIB = 1 << 20
HOST_MIB = 8
IMAGE_MIB = 64

DISKS: list[tuple[str, DiskModel, str, DiskIo | None]] = [
    ("hvm", "ide", "hdb", None),
    ("virtio", "virtio", "vdb", "threads"),
    ("virtio", "virtio", "vdb", "inline"),
    ("pv", "pv", "xvdb", None),
]


@pytest.fixture
def small_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for very little."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={HOST_MIB}m", "none", directory], check=True)
    try:
        yield directory
    finally:
        # Lazily: the fixture that ends the domain, whose image is in there, may come after this one.
        subprocess.run(["umount", "--lazy", directory], check=True)


def test_a_disk_in_memory_has_room_or_is_refused(
    small_directory: Path, request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    """A store into mapped memory for which the host has no room would be the end of QEMU."""
    image = small_directory / "image"
    with image.open("xb") as file:
        file.truncate(IMAGE_MIB * MIB)
    definition = named("virtio", request, disks=(Disk("pmem0", "virtio-pmem", image, IMAGE_MIB * MIB),))
    with pytest.raises(
        HostError, match=rf"no room for the {IMAGE_MIB * MIB} bytes of {image}: No space left"
    ) as caught:
        start_domain(definition)
    assert "model: virtio" in str(caught.value)
    with image.open("r+b") as file:
        file.truncate(HOST_MIB * MIB // 2)
    domain = start_domain(replace(definition, disks=(replace(definition.disks[0], size=HOST_MIB * MIB // 2),)))
    domain.execute(["dd", "if=/dev/zero", "of=/dev/pmem0", "bs=64k", "oflag=direct", f"count={HOST_MIB * 8}"]).check()


@pytest.mark.parametrize(("kind", "model", "target", "io"), DISKS)
def test_a_full_host_is_an_io_error_of_the_guests_disk(
    kind: str,
    model: DiskModel,
    target: str,
    io: DiskIo | None,
    small_directory: Path,
    request: pytest.FixtureRequest,
    start_domain: StartDomain,
) -> None:
    image = small_directory / "image"
    with image.open("xb") as file:
        file.truncate(IMAGE_MIB * MIB)
    domain = start_domain(named(kind, request, disks=(Disk(target, model, image, IMAGE_MIB * MIB, io=io),)))
    device = domain.device(target)
    write = ["dd", "if=/dev/zero", f"of={device}", "bs=64k", "oflag=direct", f"count={2 * HOST_MIB * MIB >> 16}"]
    completed = domain.execute(write, timeout=120)
    assert completed.status == 1
    assert b"Input/output error" in completed.stderr
    # What was written before is there, and the disk still works where the host has room.
    domain.execute(["dd", f"if={device}", "of=/dev/null", "bs=64k", "iflag=direct", "count=16"]).check()
    domain.execute(["dd", "if=/dev/urandom", f"of={device}", "bs=64k", "oflag=direct", "count=1"]).check()
