"""What becomes of an ordinary domain when its guest crashes: what its definition says, and no more than that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.domain import records
from harness.domain.definition import Disk, Network
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.host.errors import GuestCrashed, UsageError
from harness.machine.reports import SHUTDOWN_TEXTS
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.conftest import named
from tests.guest.driven import MIB, SECONDS, kill, panic, until
from tests.unit.test_process import wait_for_end

MARK = 'echo "$2" | dd of="$1" conv=fsync status=none && cat /proc/sys/kernel/random/boot_id'


@pytest.mark.parametrize("die", [kill, panic])
@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_it_starts_anew_with_what_it_had(
    kind: str, die: Callable[[Domain], None], request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    domain = start_domain(named(kind, request, on_crash="restart"))
    target = domain.targets[0]
    kept = (domain.domid, domain.addresses, domain.logs)
    boot = domain.execute(["sh", "-c", MARK, "sh", domain.device(target), "here"]).check().text
    pids = domain.pids
    die(domain)
    until("its return", lambda: domain.parts.record.restarts == 1 and domain.state == DomainState.RUNNING)
    for pid in pids:
        assert wait_for_end(pid)
    assert (domain.domid, domain.addresses, domain.logs) == kept
    assert domain.read_file("/proc/sys/kernel/random/boot_id").decode().strip() != boot
    assert domain.execute(["head", "-c", "4", domain.device(target)]).check().text == "here"
    domain.execute(["ping", "-c", "3", "-W", "5", domain.network.host_address], timeout=SECONDS).check()
    assert (domain.logs / "crashes.log").read_text().count("domain ") >= 1
    domain.shutdown()


def test_what_was_plugged_in_comes_back_too(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("pv", request, on_crash="restart"))
    domain.attach_disk(Disk("xvdb", "pv", None, MIB))
    card = domain.attach_network(Network("pv"))
    domain.execute(["sh", "-c", MARK, "sh", "/dev/xvdb", "here"]).check()
    kill(domain)
    until("its return", lambda: domain.parts.record.restarts == 1 and domain.state == DomainState.RUNNING)
    assert domain.execute(["head", "-c", "4", "/dev/xvdb"]).check().text == "here"
    domain.detach_disk("xvdb")
    domain.detach_network(card.lease.mac)


def test_a_guest_that_ends_by_itself_has_not_crashed(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("pv", request, on_crash="restart"))
    domain.start_service(["poweroff"])
    assert domain.wait_end() == SHUTDOWN_TEXTS["guest-shutdown"]
    assert domain.parts.record.restarts == 0


def test_it_can_be_destroyed_while_it_starts_anew(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("pv", request, on_crash="restart"))
    before = domain.parts.record.pids["qemu"]
    kill(domain)
    until("another QEMU", lambda: domain.parts.record.pids["qemu"] != before)
    pids = domain.pids
    domain.destroy()
    for pid in pids:
        assert wait_for_end(pid)
    assert domain.name not in [record.name for record in records.records()]


def test_what_crashed_can_be_kept_for_looking_at(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("pv", request, on_crash="preserve"))
    pids, domid = domain.pids, domain.domid
    panic(domain)
    until("the crash", lambda: records.find(domain.name).state == "crashed")
    for pid in pids:
        assert wait_for_end(pid)
    with pytest.raises(UsageError, match="is crashed"):
        domain.execute(["true"])
    with StoreClient.connect() as store:
        assert not store.exists(f"/local/domain/{domid}")
    domain.end()
    with pytest.raises(GuestCrashed):
        domain.wait_end()
