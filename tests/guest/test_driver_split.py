"""One disk of a driver domain is split among several domains, with what its kernel and LVM have for that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.domain import records
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.disks import VERIFIED
from tests.guest.driven import SECONDS, driver_definition, kill, served_definition, until

VOLUMES = ("one", "two")
SPLIT = """
vgcreate -q vg0 /dev/vda && for name in one two; do lvcreate -q --yes --size 4M --name $name vg0 || exit; done
"""
FILL = 'yes "$2" | head -c 4194304 | dd of="$1" bs=64k iflag=fullblock oflag=direct conv=fsync status=none'


@pytest.fixture
def driver(request: pytest.FixtureRequest, start_domain: StartDomain) -> Domain:
    driver = start_domain(driver_definition(request))
    driver.execute(["sh", "-c", SPLIT]).check()
    return driver


def fill(guest: Domain, word: str) -> None:
    guest.execute(["sh", "-c", FILL, "sh", "/dev/xvda", word]).check()


def content(domain: Domain, device: str) -> set[str]:
    """The different lines on a device."""
    read = 'dd if="$1" bs=64k iflag=direct status=none | sort -u'
    return set(domain.execute(["sh", "-c", read, "sh", device], timeout=SECONDS).check().text.split())


def write_and_verify(guest: Domain) -> None:
    jobs = ["--rw=randrw", "--bsrange=4k-256k", "--iodepth=16", "--loops=8", "--name=x", "--filename=/dev/xvda"]
    guest.execute([*VERIFIED, *jobs], timeout=SECONDS).check()


def test_logical_volumes_of_one_disk_are_disks_of_two_domains(
    request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    guests = [
        start_domain(served_definition(request, driver, [f"/dev/vg0/{name}"], suffix=f"-{name}")) for name in VOLUMES
    ]
    for guest in guests:
        assert guest.read_file("/sys/block/xvda/size").strip() == str((4 << 20) // 512).encode()
    with ThreadPoolExecutor() as pool:
        list(pool.map(write_and_verify, guests))
    for guest, name in zip(guests, VOLUMES, strict=True):
        fill(guest, name)
    assert {name: content(driver, f"/dev/vg0/{name}") for name in VOLUMES} == {name: {name} for name in VOLUMES}
    # They are found again by a driver domain that has started anew.
    kill(driver)
    until("its return", lambda: driver.parts.record.restarts == 1 and driver.state == DomainState.RUNNING)
    until("the guests' disks", lambda: not any(records.find(guest.name).waits_for for guest in guests))
    for guest, name in zip(guests, VOLUMES, strict=True):
        assert content(guest, "/dev/xvda") == {name}
    with ThreadPoolExecutor() as pool:
        list(pool.map(write_and_verify, guests))
