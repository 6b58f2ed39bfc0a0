"""A domain has a link with a driver domain for as long as it has a device of there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.domain.definition import Disk, Network
from harness.domain.domain import Domain
from harness.host.errors import GuestError
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.guest.driven import driver_definition, kill, linked_domains, until, wait_for_links

READ = ["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"]


def disk(driver: Domain, path: str = "/dev/vda") -> Disk:
    return Disk("xvda", "pv", Path(path), 0, backend=driver.name)


def test_it_goes_with_the_last_device_and_comes_with_the_next(
    request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    driver = start_domain(driver_definition(request))
    guest = start_domain(named("pv", request, disks=(), networks=()))
    for _ in range(2):
        guest.attach_disk(disk(driver))
        guest.execute(READ).check()
        card = guest.attach_network(Network("pv", backend=driver.name))
        guest.execute(["ping", "-c", "1", "-W", "5", driver.addresses[0]]).check()
        guest.detach_disk("xvda")
        assert linked_domains(guest) == {0, driver.domid}
        guest.execute(["ping", "-c", "1", "-W", "5", driver.addresses[0]]).check()
        guest.detach_network(str(card.number))
        wait_for_links(guest, {0})
        wait_for_links(driver, {0})
    # Nothing is left of a device that could not be attached, either.
    with pytest.raises(GuestError, match="there is no block device or file /dev/nothing"):
        guest.attach_disk(disk(driver, "/dev/nothing"))
    wait_for_links(guest, {0})
    wait_for_links(driver, {0})
    guest.attach_disk(disk(driver))
    kill(driver)
    until("its return", lambda: driver.parts.record.restarts == 1 and not guest.parts.record.waits_for)
    guest.execute(READ).check()


def test_it_goes_also_when_the_driver_domain_has_ended(
    request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    driver = start_domain(driver_definition(request))
    guest = start_domain(named("pv", request, disks=(), networks=()))
    guest.attach_disk(disk(driver))
    definition = driver.definition
    driver.destroy()
    until("the news", lambda: guest.parts.record.waits_for == [driver.name])
    guest.detach_disk("xvda", force=True)
    wait_for_links(guest, {0})
    another = start_domain(definition)
    guest.attach_disk(disk(another))
    guest.execute(READ).check()
    assert linked_domains(guest) == {0, another.domid}
