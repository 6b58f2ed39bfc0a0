"""Driver domains for tests of saving those that they serve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain.definition import Definition, Disk
from harness.domain.domain import Domain
from tests.guest.disks import MIB
from tests.guest.driven import driver_definition

SIZE = 40 * MIB
READ = ["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"]
BACKENDS = "cd /sys/bus/pvbus/devices && ls | grep backend- || true"


@contextmanager
def started(definition: Definition) -> Iterator[Domain]:
    with Domain(definition) as domain:
        domain.start()
        yield domain


def lasting_driver(request: pytest.FixtureRequest, directory: Path, *, disks: int = 1, **changes: object) -> Definition:
    """A driver domain with disks that outlive it: vda, vdb, and so on."""
    found = []
    for letter in "abcd"[:disks]:
        path = directory / f"vd{letter}.img"
        with path.open("xb") as image:
            image.truncate(SIZE)
        found.append(Disk(f"vd{letter}", "virtio", path, SIZE))
    return replace(driver_definition(request), disks=tuple(found), **changes)  # type: ignore[arg-type]


def served_disk(driver: Domain, path: str, target: str = "xvda") -> Disk:
    return Disk(target, "pv", Path(path), 0, backend=driver.name)


def make_file_system(driver: Domain, size: int) -> None:
    """Have a file system on the driver domain's first disk, and /mnt/disk.img in it."""
    driver.execute(["mke2fs", "-q", "-t", "ext4", "/dev/vda"]).check()
    mount(driver)
    driver.execute(["truncate", "-s", str(size), "/mnt/disk.img"]).check()


def mount(driver: Domain) -> None:
    driver.execute(["mount", "/dev/vda", "/mnt"]).check()


def backends(driver: Domain) -> list[str]:
    """The back ends in a driver domain, as its bus has them."""
    return driver.execute(["sh", "-c", BACKENDS]).check().text.split()


def loops(driver: Domain) -> str:
    """The loop devices that a driver domain has made."""
    return driver.execute(["losetup", "-a"]).check().text
