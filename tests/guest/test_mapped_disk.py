"""Disks in a guest's memory: which is which, that their bytes are the image's, however it is started."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain.definition import Definition, Disk
from harness.domain.domain import Domain
from harness.host.errors import UsageError
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.guest.disks import MIB, VERIFIED
from tests.guest.driven import driver_definition, image
from tests.loop_devices import attach

SIZES = {"pmem0": 4 * MIB, "pmem1": 8 * MIB}


@pytest.fixture
def definition(request: pytest.FixtureRequest) -> Definition:
    """A driver domain with two such disks, in another order than theirs, another one, and a card."""
    mapped = tuple(Disk(target, "virtio-pmem", None, size) for target, size in reversed(SIZES.items()))
    return replace(driver_definition(request), disks=(*mapped, Disk("vda", "virtio", None, 4 * MIB)))


def check(domain: Domain) -> None:
    """Each disk has the size and the bytes of its image, and can be written to."""
    for target, size in SIZES.items():
        device = domain.device(target)
        assert domain.execute(["blockdev", "--getsize64", device]).check().text == str(size)
        argv = [*VERIFIED, "--rw=randwrite", "--bs=4k", "--iodepth=4", "--name=a", f"--filename={device}"]
        domain.execute(argv).check()
        script = f"echo {target} of {domain.name} | dd of={device} conv=fsync,notrunc status=none; sha256sum {device}"
        said = domain.execute(["sh", "-c", script]).check().text.split()[0]
        content = image(domain, target).read_bytes()
        assert content.startswith(f"{target} of {domain.name}\n".encode())
        assert hashlib.sha256(content).hexdigest() == said


@pytest.mark.parametrize("warm", [False, True])
def test_each_is_its_own_image(warm: bool, definition: Definition, tmp_path: Path) -> None:
    with Domain(definition) as domain:
        domain.start(warm=warm)
        check(domain)
        with pytest.raises(UsageError, match="QEMU does not save"):
            domain.save(tmp_path / "saved")
        check(domain)
    assert list(tmp_path.iterdir()) == []


def test_a_block_device_will_do(request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"before" + bytes(4 * MIB - 6))
    with attach(file) as device:
        domain = start_domain(named("virtio", request, disks=(Disk("pmem0", "virtio-pmem", device, 4 * MIB),)))
        assert domain.execute(["head", "-c", "6", "/dev/pmem0"]).check().text == "before"
        write = "echo after >/tmp/word && dd if=/tmp/word of=/dev/pmem0 conv=fsync,notrunc status=none"
        domain.execute(["sh", "-c", write]).check()
        with device.open("rb") as reader:
            assert reader.read(6) == b"after\n"
        domain.destroy()
