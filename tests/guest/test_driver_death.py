"""A driver domain dies: those that it serves see a pause and no error when it comes back, and wait when it does not."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.domain import records
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.host.errors import GuestCrashed, GuestError, GuestGone, UsageError
from harness.hypervisor.layout import LINK_INFO_OFFSET
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.disks import VERIFIED
from tests.guest.driven import (
    SECONDS,
    driver_definition,
    kill,
    linked_domains,
    make_file,
    panic,
    served_definition,
    until,
    wait_for_links,
)

DOMID = struct.Struct("<H")
DOMID_OFFSET = LINK_INFO_OFFSET + 12
"""Where the granter's number is in a link."""


@pytest.fixture
def driver(request: pytest.FixtureRequest, start_domain: StartDomain) -> Domain:
    return start_domain(driver_definition(request))


def wait_for_return(driver: Domain, guest: Domain, deaths: int) -> None:
    """Wait until a driver domain has started anew so often, and serves its guest again."""

    def served() -> bool:
        found = records.find(guest.name)
        return driver.parts.record.restarts == deaths and driver.state == DomainState.RUNNING and not found.waits_for

    until(f"return number {deaths} of {driver.name}", served)


AGAIN = 'rm -f /tmp/enough; until [ -e /tmp/enough ]; do "$@" || exit; done'


@contextmanager
def verifying(guest: Domain) -> Iterator[None]:
    """Have fio write and verify meanwhile, again and again; it must not meet an error."""
    jobs = ["--rw=randrw", "--bs=4k", "--iodepth=16", "--loops=4", "--name=x", "--filename=/dev/xvda"]
    with ThreadPoolExecutor(1) as pool:
        argv = ["sh", "-c", AGAIN, "sh", *VERIFIED, *jobs]
        fio = pool.submit(guest.execute, argv, timeout=2 * SECONDS)
        try:
            yield
            assert not fio.done(), fio.result()
        finally:
            guest.write_file("/tmp/enough", b"")
        fio.result().check()


def written(guest: Domain) -> int:
    return int(guest.read_file("/sys/block/xvda/stat").split()[4])


def wait_for_writes(guest: Domain) -> None:
    """Wait until so many more requests were answered that no ring can have held them all."""
    start = written(guest)
    until("writes", lambda: written(guest) > start + 300)


@pytest.mark.parametrize("die", [kill, panic])
def test_nothing_is_lost_when_it_dies_and_comes_back(
    die: Callable[[Domain], None], request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1))
    domid, before = driver.domid, driver.parts.record.pids["qemu"]
    with verifying(guest):
        wait_for_writes(guest)
        die(driver)
        wait_for_return(driver, guest, 1)
        wait_for_writes(guest)
    assert (driver.domid, driver.parts.record.pids["qemu"] != before) == (domid, True)
    assert linked_domains(driver) == {0, guest.domid}
    guest.execute(["ping", "-c", "3", "-W", "5", guest.network.host_address], timeout=SECONDS).check()


def test_it_may_die_more_than_once(request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain) -> None:
    guests = [
        start_domain(served_definition(request, driver, [f"/dev/{disk}"], suffix=f"-{disk}")) for disk in ("vda", "vdb")
    ]
    with verifying(guests[0]), verifying(guests[1]):
        for deaths in (1, 2):
            for guest in guests:
                wait_for_writes(guest)
            kill(driver)
            for guest in guests:
                wait_for_return(driver, guest, deaths)
        for guest in guests:
            wait_for_writes(guest)


def test_a_file_on_its_disk_is_served_again(
    request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    """What a driver domain has in its memory is lost with it: who has that for a disk waits, and the other does not."""
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    make_file(driver, "/tmp/lost.img")
    other = start_domain(served_definition(request, driver, ["/tmp/lost.img"], suffix="-lost"))
    kill(driver)
    wait_for_return(driver, guest, 1)
    guest.execute(["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1"]).check()
    assert records.find(other.name).waits_for == [driver.name]
    assert "there is no block device or file /tmp/lost.img" in (other.logs / "driver-domains.log").read_text()
    with pytest.raises(GuestError, match="serves us no more"):
        other.detach_disk("xvda")
    other.detach_disk("xvda", force=True)
    assert records.find(other.name).waits_for == []


def test_those_that_it_served_live_on_when_it_has_ended(
    request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    driver = start_domain(driver_definition(request, on_crash="destroy"))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1))
    domid = driver.domid
    kill(driver)
    with pytest.raises(GuestGone):
        driver.wait_end()
    driver.destroy()
    until("the news", lambda: records.find(guest.name).waits_for == [driver.name])
    with StoreClient.connect() as store:
        assert not store.exists(f"/local/domain/{domid}")
    assert guest.execute(["cat", "/sys/block/xvda/size"]).check().text == str((16 << 20) // 512)
    with pytest.raises(GuestError, match=f"driver domain {driver.name} has ended"):
        guest.detach_disk("xvda")
    guest.detach_disk("xvda", force=True)
    guest.detach_network("0", force=True)
    assert records.find(guest.name).waits_for == []


def test_what_crashed_can_be_kept_for_looking_at(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    driver = start_domain(driver_definition(request, on_crash="preserve"))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    panic(driver)
    until("the crash", lambda: records.find(driver.name).state == "crashed")
    until("the news", lambda: records.find(guest.name).waits_for == [driver.name])
    with pytest.raises(UsageError, match="is crashed"):
        driver.execute(["true"])
    with StoreClient.connect() as store:
        assert not store.exists(f"/local/domain/{driver.domid}")
    driver.end()
    with pytest.raises(GuestCrashed):
        driver.wait_end()


def test_a_guest_that_crashes_is_let_go_of(
    request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    guest = start_domain(served_definition(request, driver, ["/dev/vda"], cards=1, on_crash="restart"))
    domid = guest.domid
    panic(guest)
    until("its return", lambda: guest.parts.record.restarts == 1 and guest.state == DomainState.RUNNING)
    assert guest.domid == domid
    wait_for_links(driver, {0, domid})
    guest.execute(["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1"]).check()
    guest.execute(["ping", "-c", "3", "-W", "5", driver.addresses[0]], timeout=SECONDS).check()


def test_who_claims_to_be_another_domain_when_it_comes_back_is_not_served_as_that(
    request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    victim = start_domain(served_definition(request, driver, ["/dev/vda"]))
    hostile = start_domain(served_definition(request, driver, ["/dev/vdb"], suffix="-hostile"))
    # What the guest can write its QEMU has mapped.
    memory = link_memory(hostile.parts.record.pids["qemu"], f"harness-link-{hostile.domid}-{driver.domid}")
    with memory:
        DOMID.pack_into(memory, DOMID_OFFSET, victim.domid)
        kill(driver)
        wait_for_return(driver, victim, 1)
    refused = f'says we are "grantee {victim.domid}", the toolstack "grantee {hostile.domid}"'
    driver.execute(["sh", "-c", 'until dmesg | grep -q -F "$1"; do sleep 0.05; done', "sh", refused]).check()
    victim.execute(["dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"]).check()
    found = driver.execute(["sh", "-c", "cd /sys/bus/pvbus/devices && ls -d backend-*"]).check().text.split()
    assert found == [f"backend-vbd-{victim.domid}-51712"]
    assert linked_domains(driver) == {0, victim.domid}


def link_memory(pid: int, name: str) -> mmap.mmap:
    """The memory of a link that a QEMU is at."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if str(descriptor.readlink()).startswith(f"/memfd:{name} "):
            with descriptor.open("r+b") as file:
                return mmap.mmap(file.fileno(), 0)
    raise AssertionError(f"QEMU {pid} has no {name}")
