"""Saving domains that driver domains serve: these let go of them, and serve them again when they are restored."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backend.network_client import NetworkClient
from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.disks import MIB
from tests.guest.driven import (
    SECONDS,
    driver_definition,
    kill,
    linked_domains,
    panic,
    served_definition,
    until,
)
from tests.guest.saved_driven import READ, backends, lasting_driver, make_file_system, mount, served_disk, started
from tests.guest.test_save import crashes, require_connection_survives, require_done, require_working, restored, work_on


def test_work_goes_on_where_it_was(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The driver domain is another one the second time, with another number; Domain 0 serves a disk, too."""
    definition = lasting_driver(request, tmp_path, disks=2)
    with ExitStack() as stack:
        driver = stack.enter_context(started(definition))
        plain = served_definition(request, driver, ["/dev/vda"], cards=1)
        domain = stack.enter_context(started(replace(plain, disks=(*plain.disks, Disk("xvdb", "pv", None, MIB)))))
        work_on(domain, "xvda")
        for another in (False, True):
            before, number = domain.domid, driver.domid
            require_working(domain)
            domain.save(tmp_path / "saved")
            assert domain.state == DomainState.ENDED
            assert backends(driver) == []
            if another:
                driver.destroy()
                driver = stack.enter_context(started(definition))
                assert driver.domid != number
            domain = stack.enter_context(restored(tmp_path / "saved"))
            assert domain.domid != before
            assert linked_domains(domain) == {0, driver.domid}
        require_done(domain)
        assert not crashes(domain)
        for address in (domain.network.host_address, driver.addresses[0]):
            domain.execute(["ping", "-c", "1", "-W", "5", address]).check()
        domain.attach_disk(served_disk(driver, "/dev/vdb", "xvdc"))
        domain.detach_disk("xvdc")


def test_a_connection_survives(request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path) -> None:
    driver = start_domain(driver_definition(request, disks=0))
    with NetworkClient.connect(), started(served_definition(request, driver, cards=1)) as domain:
        require_connection_survives(domain, tmp_path / "saved")


def test_what_is_in_a_saved_domains_file_outlives_a_driver_domain_that_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    definition = lasting_driver(request, tmp_path, on_crash="destroy")
    with ExitStack() as stack:
        driver = stack.enter_context(started(definition))
        make_file_system(driver, 4 * MIB)
        guest = stack.enter_context(started(served_definition(request, driver, ["/mnt/disk.img"])))
        # Into the driver domain's memory: nobody asks for more.
        write = (
            "head -c 1048576 /dev/urandom >/tmp/x && dd if=/tmp/x of=/dev/xvda oflag=direct bs=64k && sha256sum </tmp/x"
        )
        written = guest.execute(["sh", "-c", write]).check().text
        guest.save(tmp_path / "saved")
        kill(driver)
        driver.destroy()
        driver = stack.enter_context(started(definition))
        mount(driver)
        with restored(tmp_path / "saved") as again:
            read = "dd if=/dev/xvda iflag=direct bs=64k count=16 | sha256sum"
            assert again.execute(["sh", "-c", read]).check().text == written


def test_several_serve_it_and_have_died_before_and_die_again(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    plain = driver_definition(request)
    drivers = [start_domain(replace(plain, name=f"{plain.name}-{number}")) for number in range(2)]

    def die(driver: Domain, guest: Domain) -> None:
        deaths = driver.parts.record.restarts
        kill(driver)
        until("its return", lambda: driver.parts.record.restarts > deaths and not guest.parts.record.waits_for)

    with ExitStack() as stack:
        definition = served_definition(request, drivers[0], ["/dev/vda"])
        disks = (*definition.disks, served_disk(drivers[1], "/dev/vda", "xvdb"))
        guest = stack.enter_context(started(replace(definition, disks=disks, on_crash="restart")))
        for disk in ("xvda", "xvdb"):
            guest.execute(["sh", "-c", f"echo {disk} | dd of=/dev/{disk} conv=fsync"]).check()
        die(drivers[0], guest)
        guest.execute(READ).check()
        guest.save(tmp_path / "saved")
        guest = stack.enter_context(restored(tmp_path / "saved"))
        die(drivers[1], guest)
        for disk in ("xvda", "xvdb"):
            assert guest.execute(["head", "-c", "4", f"/dev/{disk}"]).check().text == disk
        panic(guest)
        until("its return", lambda: guest.parts.record.restarts == 1 and guest.state == DomainState.RUNNING)
        guest.execute(READ).check()
        assert linked_domains(guest) == {0, *(driver.domid for driver in drivers)}


def test_one_that_has_started_warm(request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path) -> None:
    driver = start_domain(driver_definition(request))
    with Domain(served_definition(request, driver, ["/dev/vda"], cards=1)) as guest:
        guest.start(warm=True)
        guest.save(tmp_path / "saved")
    with restored(tmp_path / "saved") as guest:
        guest.execute(READ).check()
        guest.execute(["ping", "-c", "1", "-W", "5", driver.addresses[0]]).check()


def test_a_driver_domain_that_serves_nobody_is_saved_with_its_devices(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    with Domain(driver_definition(request, on_crash="restart")) as driver:
        driver.start()
        driver.execute(["sh", "-c", "echo here >/dev/vda"]).check()
        driver.save(tmp_path / "saved")
    with restored(tmp_path / "saved") as driver:
        assert (driver.definition.driver_domain, driver.definition.on_crash) == (True, "restart")
        guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1))
        assert guest.execute(["head", "-c", "4", "/dev/xvda"]).check().text == "here"
        guest.execute(["ping", "-c", "3", "-W", "5", driver.addresses[0]], timeout=SECONDS).check()
        guest.destroy()
