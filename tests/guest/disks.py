"""Disks for tests of the block driver: definitions, and what the driver says about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.bus.devices import Device, disk_number
from harness.bus.features import BlockFeatures
from harness.bus.nodes import read_or_none
from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.store.client import StoreClient

MIB = 1 << 20

NOTHING = BlockFeatures(
    flush=False,
    barrier=False,
    discard=False,
    persistent=False,
    indirect_segments=0,
    ring_page_order=0,
    queues=1,
    poll_queues=0,
)
"""What the oldest backend offers: reads and writes of up to 11 segments."""

FIO = ["fio", "--direct=1", "--ioengine=libaio", "--size=4m"]
VERIFIED = [*FIO, "--verify=crc32c", "--verify_fatal=1"]
"""Reads again what it wrote."""


def disk(number: int, **changes: object) -> Disk:
    """The disk with that number, from 0: xvda, and so on."""
    plain = Disk(f"xvd{chr(ord('a') + number)}", "pv", None, 16 * MIB)
    return replace(plain, **changes)  # type: ignore[arg-type]


def device(domain: Domain, target: str) -> Device:
    """The disk on the bus."""
    return Device("vbd", domain.domid, disk_number(target))


def frontend(domain: Domain, target: str, node: str) -> str | None:
    """A node of the frontend's in XenStore."""
    with StoreClient.connect() as store:
        value = read_or_none(store, f"{device(domain, target).frontend}/{node}")
    return None if value is None else value.decode()


def queue(domain: Domain, target: str, name: str) -> str:
    """A file of the guest's, below ``/sys/block/*/queue``."""
    return domain.read_file(f"/sys/block/{target}/queue/{name}").decode().strip()


def image(domain: Domain, target: str) -> Path:
    """The image of a disk that has no path of its own."""
    return Path(domain.parts.record.scratch[0], f"{target}.img")


def statistics(domain: Domain, target: str) -> dict[str, int]:
    """What the driver has counted: ``queue-0/requests`` and the like."""
    path = f"/sys/bus/pvbus/devices/vbd-{domain.domid}-{disk_number(target)}/statistics"
    lines = domain.read_file(path).decode().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def requests(domain: Domain, target: str) -> int:
    """How many requests have gone into the rings of a disk."""
    return sum(value for name, value in statistics(domain, target).items() if name.endswith("/requests"))
