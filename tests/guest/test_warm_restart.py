"""Driver domains that start, and start anew after a crash, from a guest that has booted before without any device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain import saving, warm
from harness.domain.domain import Domain
from harness.domain.life import CRASHES, DomainState
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.driven import driver_definition, kill, served_definition, until
from tests.guest.test_driver_death import wait_for_return

SECTOR = 512
BEGIN, LENGTH = 2048, 8192
"""Of the partition, in sectors."""
MARK = "in the first partition"
BOOTS = "dmesg | head -n 100"


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of our own for the guests that have booted."""
    directory = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "cache", lambda *_: directory)
        yield directory


def partition_disk(domain: Domain, disk: str) -> None:
    """Write a partition table, and a mark at the beginning of its partition."""
    # One entry, of type 83, in the table of a master boot record; and the two bytes by which that is known.
    entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + BEGIN.to_bytes(4, "little") + LENGTH.to_bytes(4, "little")
    domain.execute(["dd", f"of={disk}", "bs=1", "seek=446", "conv=notrunc"], stdin=entry).check()
    domain.execute(["dd", f"of={disk}", "bs=1", "seek=510", "conv=notrunc"], stdin=b"\x55\xaa").check()
    offset = [f"bs={SECTOR}", f"seek={BEGIN}"]
    domain.execute(["dd", f"of={disk}", *offset, "conv=notrunc,fsync"], stdin=MARK.encode()).check()


def test_a_driver_domain_comes_back_warm_with_its_own_devices(
    request: pytest.FixtureRequest, start_domain: StartDomain, cached: Path
) -> None:
    driver = start_domain(driver_definition(request))
    assert len(list(cached.glob(f"*{warm.SUFFIX}"))) == 1
    partition_disk(driver, "/dev/vdb")
    addresses = driver.execute(["cat", "/sys/class/net/br0/address"]).check().text
    guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1))
    guest.execute(["dd", "if=/dev/urandom", "of=/dev/xvda", "bs=1M", "count=1", "conv=fsync"]).check()
    checksum = guest.execute(["sha256sum", "/dev/xvda"]).check().text
    boots = {driver.execute(["sh", "-c", BOOTS]).check().text}
    for deaths in (1, 2):
        kill(driver)
        wait_for_return(driver, guest, deaths)
        boots.add(driver.execute(["sh", "-c", BOOTS]).check().text)
        # A guest that had booted with another disk in this place would not have read the table of this one.
        read = driver.execute(["head", "-c", str(len(MARK)), "/dev/vdb1"]).check()
        assert read.text == MARK
        assert driver.execute(["cat", "/sys/class/net/br0/address"]).check().text == addresses
        guest.execute(["sh", "-c", "echo 3 >/proc/sys/vm/drop_caches"]).check()
        assert guest.execute(["sha256sum", "/dev/xvda"]).check().text == checksum
        guest.execute(["ping", "-c", "3", "-W", "5", driver.addresses[0]]).check()
    # The first boot is its own; the others are one.
    assert len(boots) == 2


def test_a_driver_domain_starts_warm(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    definition = replace(driver_definition(request, disks=3), on_crash="destroy")
    with Domain(definition) as driver:
        driver.start(warm=True)
        disks = [driver.device(f"vd{letter}") for letter in "abc"]
        assert disks == ["/dev/vda", "/dev/vdb", "/dev/vdc"]
        guest = start_domain(served_definition(request, driver, ["/dev/vdc"], cards=1))
        guest.execute(["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M"]).check()
        guest.execute(["ping", "-c", "3", "-W", "5", driver.addresses[0]]).check()


def test_it_boots_when_what_it_would_start_from_does_not_fit_any_more(
    request: pytest.FixtureRequest, start_domain: StartDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = start_domain(driver_definition(request))
    present = saving.versions
    monkeypatch.setattr(saving, "versions", lambda parts: present(parts) | {"QEMU": "another"})
    kill(driver)
    until("its return", lambda: driver.parts.record.restarts == 1 and driver.state == DomainState.RUNNING)
    assert "and is another" in (driver.logs / CRASHES).read_text()
    guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1))
    guest.execute(["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1"]).check()
