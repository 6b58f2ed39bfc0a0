"""Whatever dies, the caller hears why at once, and nothing of the domain is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from harness.domain import records
from harness.domain.domain import Domain, DomainState
from harness.guest.completed import CommandTimeout
from harness.host.errors import GuestCrashed, GuestError, GuestGone, GuestSilent, HarnessError, HostError, UsageError
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.unit.test_process import wait_for_end

GUEST_KINDS = pytest.mark.parametrize("kind", ["hvm", "pv"])


def error_while_busy(domain: Domain, kill: Callable[[], object]) -> HarnessError:
    """What a caller who waits for a long command is told when something dies meanwhile."""
    started = threading.Event()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            started.set()
            domain.execute(["sleep", "600"], timeout=600)
        except HarnessError as error:
            errors.append(error)

    caller = threading.Thread(target=wait)
    caller.start()
    started.wait()
    kill()
    caller.join(timeout=60)
    assert not caller.is_alive()
    (error,) = errors
    assert isinstance(error, HarnessError)
    return error


def assert_it_tells_where_to_look(error: GuestError, domain: Domain) -> None:
    """The last console lines, QEMU's command line, and the logs."""
    assert len(error.console) > 5
    assert error.console[-1] in str(error)
    assert f"guest={domain.name}" in str(error)
    assert str(domain.logs / "console.log") in str(error)
    assert str(domain.logs / "qemu.log") in str(error)


def assert_all_gone(domain: Domain, pids: list[int]) -> None:
    domain.destroy()
    assert domain.state == DomainState.ENDED
    for pid in pids:
        assert wait_for_end(pid)
    assert domain.name not in [record.name for record in records.records()]


@GUEST_KINDS
def test_qemu_is_killed(kind: str, request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named(kind, request))
    pids, qemu = domain.pids, domain.parts.qemu.child.pid
    error = error_while_busy(domain, lambda: os.kill(qemu, signal.SIGKILL))
    assert isinstance(error, GuestGone)
    assert error.exit_code == 4
    assert_it_tells_where_to_look(error, domain)
    assert_all_gone(domain, pids)


@GUEST_KINDS
def test_the_guests_kernel_panics(kind: str, request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named(kind, request))
    pids = domain.pids
    with pytest.raises(GuestCrashed, match="sysrq triggered crash") as caught:
        domain.execute(["sh", "-c", "echo c > /proc/sysrq-trigger"])
    assert any("Call Trace" in line for line in caught.value.console)
    # Whoever asks later hears the same, not that some connection is broken.
    with pytest.raises(GuestCrashed, match="sysrq triggered crash"):
        domain.execute(["true"])
    assert_all_gone(domain, pids)


def test_the_guest_powers_off_in_the_middle(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("hvm", request))
    with pytest.raises(GuestGone, match="powered itself off"):
        domain.execute(["sh", "-c", "poweroff -f; sleep 600"], timeout=60)


def test_a_backend_is_killed(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("pv", request))
    pids, backend = domain.pids, domain.parts.record.pids["backend"]
    error = error_while_busy(domain, lambda: os.kill(backend, signal.SIGKILL))
    # Not the guest's fault.
    assert isinstance(error, HostError)
    assert "backend" in str(error)
    assert_all_gone(domain, pids)


def test_a_guest_that_hangs_is_silent(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("hvm", request))
    os.kill(domain.parts.qemu.child.pid, signal.SIGSTOP)
    with pytest.raises(GuestSilent, match="within 1 s") as caught:
        domain.execute(["true"], timeout=1)
    assert caught.value.exit_code == 4
    assert_it_tells_where_to_look(caught.value, domain)


def test_a_guest_that_hangs_during_a_command_is_silent(
    request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    domain = start_domain(named("hvm", request))
    stop = threading.Timer(1.0, os.kill, (domain.parts.qemu.child.pid, signal.SIGSTOP))
    stop.start()
    with pytest.raises(GuestSilent, match=r"did not end within 3 s; killing it failed.*\n.*sleep 600") as caught:
        domain.execute(["sleep", "600"], timeout=3)
    # Not the command is late, nothing in the guest answers.
    assert not isinstance(caught.value, CommandTimeout)
    assert_it_tells_where_to_look(caught.value, domain)


def test_a_guest_that_does_not_boot_in_time_is_silent(request: pytest.FixtureRequest) -> None:
    with Domain(named("hvm", request), accelerator=request.config.getoption("accel")) as domain:
        domain.launch()
        pids = domain.pids
        with pytest.raises(GuestSilent, match=r"boot of domain .* did not happen within 0\.1 s"):
            domain.wait_ready(timeout=0.1)
        assert_all_gone(domain, pids)


def test_a_paused_domain_goes_on_where_it_was(pv: Domain) -> None:
    counter = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done"
    pv.start_service(["sh", "-c", counter])
    pv.pause()
    assert pv.state == DomainState.PAUSED
    with pytest.raises(UsageError, match="is paused, not running"):
        pv.execute(["true"])
    pv.unpause()
    assert int(pv.execute(["cat", "/tmp/count"]).check().text) > 0


def test_a_name_is_taken_once(pv: Domain) -> None:
    with pytest.raises(UsageError, match="is running already"), Domain(pv.definition) as second:
        second.launch()
    pv.execute(["true"]).check()
