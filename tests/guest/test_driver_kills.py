"""A driver domain is killed again and again under everything that a guest can do with disks and cards."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from harness.domain import crashes, records
from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.guest.completed import Completed
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.driven import MIB, driver_definition, kill, served_definition
from tests.guest.load import living, quiet_kernel, transferring, verifying, wait_for, wait_under_load

KILLS = 20
LOAD_BEFORE_A_KILL = (0.2, 1.5)
"""Seconds, at random: requests are in every state when it dies."""
SECONDS = 600.0


def wait_for_return(driver: Domain, guest: Domain, deaths: int) -> None:
    """Wait until it has come back, and serves its guest."""

    def served() -> bool:
        back = driver.parts.record.restarts == deaths and driver.state == DomainState.RUNNING
        return back and not records.find(guest.name).waits_for

    wait_for(f"return number {deaths} of {driver.name}", served)


def reads(guest: Domain) -> int:
    return int(guest.read_file("/sys/block/xvda/stat").split()[0])


def test_neither_disks_nor_network_lose_anything(
    request: pytest.FixtureRequest, start_domain: StartDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many deaths in so short a time are otherwise taken for a fault that another start would not mend.
    monkeypatch.setattr(crashes, "DEATHS", KILLS)
    disks = (Disk("vda", "virtio", None, 256 * MIB), Disk("pmem0", "virtio-pmem", None, 64 * MIB))
    driver = start_domain(replace(driver_definition(request), disks=disks))
    guest = start_domain(served_definition(request, driver, ["/dev/vda", "/dev/pmem0"], cards=1))
    with quiet_kernel(guest), ThreadPoolExecutor() as pool, transferring(guest) as arrived:
        wait_for("the first data", lambda: arrived() > 0)
        with living(guest, "/dev/xvdb", SECONDS):
            fio: Future[Completed] = pool.submit(
                partial(guest.execute, verifying("/dev/xvda", SECONDS), timeout=2 * SECONDS)
            )
            for deaths in range(1, KILLS + 1):
                wait_under_load(fio, LOAD_BEFORE_A_KILL)
                kill(driver)
                wait_for_return(driver, guest, deaths)
            pieces = arrived()
            wait_for("more data", lambda: arrived() > pieces + 1)
            # What was under way at the last death has been read back, too: each 512 writes are.
            so_far = reads(guest)
            wait_for("more that is read back", lambda: reads(guest) > so_far + 4 * 512)
            # An error or wrong data would have ended it.
            assert not fio.done(), fio.result()
            # Asked to end while it reads back, it sometimes waits for itself, with nothing under way.
            guest.execute(["killall", "-KILL", "fio"]).check()
