"""When a domain that driver domains serve cannot be saved or restored: it goes on, or nothing is left of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.domain import records
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.domain.saved import HEADER, Reader, Writer
from harness.host.errors import GuestError, HarnessError, HostError, UsageError
from harness.machine.qemu import QemuState
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.disks import MIB
from tests.guest.driven import (
    driver_definition,
    kill,
    linked_domains,
    make_file,
    served_definition,
    until,
    wait_for_links,
)
from tests.guest.saved_driven import (
    READ,
    backends,
    lasting_driver,
    loops,
    make_file_system,
    started,
)
from tests.guest.test_full_host_disk import small_directory
from tests.guest.test_save import crashes, require_done, require_working, restored, work_on

__all__ = ["small_directory"]


def test_who_serves_others_is_refused_with_their_names(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    driver = start_domain(driver_definition(request))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    with pytest.raises(UsageError, match=f"{driver.name} cannot be saved while it serves {guest.name}") as error:
        driver.save(tmp_path / "saved")
    assert f"harness shutdown {guest.name}" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    guest.execute(READ).check()


# -- saving ------------------------------------------------------------------------------------------------------------


def test_it_goes_on_when_there_is_no_room_for_it(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path, small_directory: Path
) -> None:
    driver = start_domain(lasting_driver(request, tmp_path))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1))
    work_on(guest, "xvda")
    for _ in range(2):
        require_working(guest)
        with pytest.raises(HostError, match=r"No space left|was not written"):
            guest.save(small_directory / "saved")
        assert list(small_directory.iterdir()) == []
        assert (guest.state, guest.parts.record.waits_for) == (DomainState.RUNNING, [])
    require_done(guest)
    assert not crashes(guest)
    guest.execute(["ping", "-c", "1", "-W", "5", driver.addresses[0]]).check()
    assert linked_domains(driver) == {0, guest.domid}


@contextmanager
def saving(guest: Domain, driver: Domain, file: Path) -> Iterator[Callable[[], object]]:
    """The guest is being saved, while the driver domain stands still that shall let go of it; gives what waits."""
    pid = driver.parts.record.pids["qemu"]
    with ThreadPoolExecutor(1) as pool:
        os.kill(pid, signal.SIGSTOP)
        done = pool.submit(guest.save, file)
        until("the pause of the guest", lambda: guest.parts.qemu.state == QemuState.PAUSED or done.done())
        assert not done.done(), done.result()
        yield done.result


def test_it_goes_on_when_its_driver_domain_dies_meanwhile(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    driver = start_domain(lasting_driver(request, tmp_path))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    work_on(guest, "xvda")
    with saving(guest, driver, tmp_path / "saved") as end:
        kill(driver)
        with pytest.raises(HarnessError):
            end()
    assert not (tmp_path / "saved.new").exists()
    until("the driver domain's return", lambda: driver.parts.record.restarts == 1 and driver.state == "running")
    require_done(guest)
    assert not crashes(guest)
    # It can be saved then as any other.
    until("being served", lambda: not guest.parts.record.waits_for)
    guest.save(tmp_path / "saved")
    with restored(tmp_path / "saved") as again:
        again.execute(READ).check()


def test_it_goes_on_when_whoever_saves_it_is_interrupted(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    driver = start_domain(lasting_driver(request, tmp_path))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    work_on(guest, "xvda")
    pid = driver.parts.record.pids["qemu"]

    def interrupt() -> None:
        try:
            until("the pause of the guest", lambda: guest.parts.qemu.state == QemuState.PAUSED)
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        interrupted = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            guest.save(tmp_path / "saved")
        interrupted.result()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("saved")]
    assert (guest.state, guest.parts.record.waits_for) == (DomainState.RUNNING, [])
    require_done(guest)
    assert not crashes(guest)
    assert linked_domains(driver) == {0, guest.domid}


def test_who_waits_for_a_driver_domain_is_not_saved(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    driver = start_domain(driver_definition(request, on_crash="destroy"))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    driver.destroy()
    until("the news", lambda: records.find(guest.name).waits_for == [driver.name])
    with pytest.raises(UsageError, match=f"since it waits: driver domain {driver.name} has ended"):
        guest.save(tmp_path / "saved")
    guest.detach_disk("xvda", force=True)
    guest.save(tmp_path / "saved")
    with restored(tmp_path / "saved") as again:
        assert linked_domains(again) == {0}


# -- restoring ---------------------------------------------------------------------------------------------------------


def require_nothing_left(driver: Domain, name: str) -> None:
    """Nothing is left of a domain of this name that could not be restored."""
    wait_for_links(driver, {0})
    assert (backends(driver), loops(driver)) == ([], "")
    assert name not in [record.name for record in records.records()]


def refused(file: Path, kind: type[HarnessError], reason: str) -> HarnessError:
    with pytest.raises(kind, match=reason) as error, restored(file):
        pass
    return error.value


def test_disks_that_are_not_as_they_were(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    file = tmp_path / "saved"
    driver = start_domain(lasting_driver(request, tmp_path, disks=2))
    make_file_system(driver, MIB)
    make_file(driver, "/mnt/other.img")
    plain = served_definition(request, driver, ["/mnt/other.img", "/mnt/disk.img", "/dev/vdb"])
    with Domain(plain) as guest:
        guest.start()
        guest.execute(["sh", "-c", "echo here | dd of=/dev/xvdc conv=fsync"]).check()
        guest.save(file)
    require_nothing_left(driver, plain.name)

    def change(script: str, reason: str, kind: type[HarnessError] = UsageError) -> None:
        keep = "mv /mnt/disk.img /mnt/kept && cp /mnt/kept /mnt/disk.img"
        driver.execute(["sh", "-c", f"{keep} && {script}"]).check()
        refused(file, kind, reason)
        require_nothing_left(driver, plain.name)
        driver.execute(["mv", "/mnt/kept", "/mnt/disk.img"]).check()

    where = f"of driver domain {driver.name}"
    change("true", rf"image /mnt/disk\.img {where} of disk xvdb has changed since the domain was saved")
    change("truncate -s 2M /mnt/disk.img", f"{where} of disk xvdb has changed from {MIB} to {2 * MIB} bytes since")
    change("rm /mnt/disk.img", r"there is no block device or file /mnt/disk\.img", GuestError)
    with started(served_definition(request, driver, ["/dev/vdb"], suffix="-other")) as other:
        refused(file, UsageError, f"/dev/vdb {where} is in use by domain {other.name}")
        wait_for_links(driver, {0, other.domid})
        other.execute(["sh", "-c", "echo gone | dd of=/dev/xvda conv=fsync"]).check()
    refused(file, UsageError, rf"image /dev/vdb {where} of disk xvdc has changed since")
    with started(served_definition(request, driver, ["/dev/vdb"], suffix="-other")) as other:
        other.execute(["sh", "-c", "echo here | dd of=/dev/xvda conv=fsync"]).check()
    # All of it is as it was.
    with restored(file) as guest:
        assert guest.execute(["head", "-c", "4", "/dev/xvdc"]).check().text == "here"


def test_without_its_driver_domain_it_is_not_restored(
    request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    file, definition = tmp_path / "saved", driver_definition(request)
    with started(definition) as driver, Domain(served_definition(request, driver, ["/dev/vda"], cards=1)) as guest:
        guest.start()
        guest.save(file)
    error = refused(file, UsageError, f"has {driver.name} as a back end, and no driver domain of that name runs")
    assert f"harness create {driver.name}.yaml; then: harness restore {file}" in str(error)
    # One that has no bridge: what it has given already it gets back.
    driver = start_domain(replace(definition, networks=()))
    refused(file, GuestError, "there is no bridge br0")
    require_nothing_left(driver, guest.name)


def rewritten(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what is said in the file of a saved domain."""
    with Reader(file) as reader, Writer(file) as writer:
        state, left = reader.state(), reader._text_offset - HEADER.size
        while left:
            left -= os.write(writer.descriptor, os.read(state, min(left, MIB)))
        change(reader.description)
        writer.finish(reader.description)


def test_a_file_that_lies(request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path) -> None:
    file = tmp_path / "saved"
    driver = start_domain(driver_definition(request))
    with Domain(served_definition(request, driver, ["/dev/vda"], cards=1)) as guest:
        guest.start()
        guest.save(file)
    with Reader(file) as reader:
        (link,) = reader.description["links"]
    for slot, reason in ((1, "slot 1 "), (link["slot"] + 1, "cannot go on from the saved state")):
        rewritten(file, lambda description, slot=slot: description["links"][0].update(slot=slot))  # type: ignore[misc]
        refused(file, HostError, reason)
        require_nothing_left(driver, guest.name)
    rewritten(file, lambda description: description["links"][0].update(slot=link["slot"]))
    with restored(file) as again:
        again.execute(READ).check()
