"""Saving domains that driver domains serve, and driver domains: only when no link between two guests is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.host.errors import UsageError
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.driven import SECONDS, driver_definition, linked_domains, served_definition, wait_for_links

READ = ["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"]


def served_disk(driver: Domain, path: str) -> Disk:
    return Disk("xvda", "pv", Path(path), 0, backend=driver.name)


def test_both_ends_of_a_link_are_refused_and_go_on(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    driver = start_domain(driver_definition(request))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    with pytest.raises(
        UsageError, match=f"{guest.name} cannot be saved: it has devices of driver domain {driver.name}"
    ):
        guest.save(tmp_path / "saved")
    with pytest.raises(UsageError, match=f"{driver.name} cannot be saved while it serves {guest.name}"):
        driver.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
    guest.execute(READ).check()


def test_a_guest_is_saved_without_its_link_and_served_again_under_its_new_number(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    driver = start_domain(driver_definition(request))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    before = guest.domid
    guest.detach_disk("xvda")
    guest.save(tmp_path / "saved")
    wait_for_links(driver, {0})
    with Domain.restore(tmp_path / "saved") as restored:
        restored.start()
        assert restored.domid != before
        restored.attach_disk(served_disk(driver, "/dev/vdb"))
        restored.execute(READ).check()
        assert linked_domains(driver) == {0, restored.domid}


def test_a_driver_domain_that_serves_nobody_is_saved_with_its_devices(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    with Domain(driver_definition(request, on_crash="restart")) as driver:
        driver.start()
        driver.execute(["sh", "-c", "echo here >/dev/vda"]).check()
        driver.save(tmp_path / "saved")
    with Domain.restore(tmp_path / "saved") as restored:
        restored.start()
        assert (restored.definition.driver_domain, restored.definition.on_crash) == (True, "restart")
        guest = start_domain(served_definition(request, restored, ["/dev/vda"], cards=1))
        assert guest.execute(["head", "-c", "4", "/dev/xvda"]).check().text == "here"
        guest.execute(["ping", "-c", "3", "-W", "5", restored.addresses[0]], timeout=SECONDS).check()
        guest.destroy()
