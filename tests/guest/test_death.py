"""Whatever dies, the caller hears why at once, and nothing of the domain is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.backend import network_client
from harness.backend.keeper import DEATHS
from harness.domain import records
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.domain.paravirtual import Paravirtual
from harness.guest.completed import CommandTimeout
from harness.host.deadline import Deadline
from harness.host.errors import GuestCrashed, GuestError, GuestGone, GuestSilent, HarnessError, HostError, UsageError
from harness.host.interruption import Guard
from harness.pytest_plugin.plugin import StartDomain
from harness.store import client
from tests.guest.conftest import named
from tests.leftovers import processes
from tests.unit.test_process import wait_for_end

GUEST_KINDS = pytest.mark.parametrize("kind", ["hvm", "pv"])


def error_of(work: Callable[[], object], started: threading.Event, kill: Callable[[], object]) -> HarnessError:
    """What a caller is told when something dies while it waits.

    :param started: set by ``work``.
    """
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            work()
        except HarnessError as error:
            errors.append(error)

    caller = threading.Thread(target=wait)
    caller.start()
    assert started.wait(timeout=180)
    kill()
    caller.join(timeout=60)
    assert not caller.is_alive()
    (error,) = errors
    assert isinstance(error, HarnessError)
    return error


def error_while_busy(domain: Domain, kill: Callable[[], object]) -> HarnessError:
    """What a caller who waits for a long command is told when something dies meanwhile."""
    started = threading.Event()

    def work() -> None:
        started.set()
        domain.execute(["sleep", "600"], timeout=600)

    return error_of(work, started, kill)


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


@GUEST_KINDS
def test_a_panic_during_a_command_over_ssh_is_what_its_caller_sees(
    kind: str, request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    domain = start_domain(named(kind, request))
    with domain.ssh() as client:
        deadline = Deadline(60, "the end of the guest")
        with pytest.raises(GuestCrashed, match="sysrq triggered crash") as caught:
            client.run("echo c > /proc/sysrq-trigger; sleep 600", deadline)
        # At once: nothing else ends the connection, since a dead guest sends no word.
        assert not deadline.expired
        assert any("Call Trace" in line for line in caught.value.console)
        with pytest.raises(GuestCrashed, match="sysrq triggered crash"):
            client.run("true", deadline)
    with pytest.raises(GuestCrashed, match="sysrq triggered crash"):
        domain.ssh()


def test_the_guest_powers_off_in_the_middle(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    domain = start_domain(named("hvm", request))
    with pytest.raises(GuestGone, match="powered itself off"):
        domain.execute(["sh", "-c", "poweroff -f; sleep 600"], timeout=60)


def test_backends_die_one_after_the_other(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    """One that dies is replaced, see test_restart.py; but not for ever."""
    domain = start_domain(named("pv", request))
    record, pids = domain.parts.record, domain.pids

    def kill() -> None:
        for restarts in range(DEATHS + 1):
            os.kill(record.pids["backend"], signal.SIGKILL)
            deadline = Deadline(30, "another backend process")
            while restarts < DEATHS and record.restarts == restarts:
                deadline.check()
            pids.append(record.pids["backend"])

    error = error_while_busy(domain, kill)
    # Not the guest's fault.
    assert isinstance(error, HostError)
    assert f"the backend of domain {record.domid} ended unexpectedly, as did {DEATHS} before it" in str(error)
    assert str(domain.logs / "backend.log") in str(error)
    assert_all_gone(domain, pids)


def test_death_while_the_devices_connect_is_noticed_at_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    wait_connected = Paravirtual.wait_connected

    def announced(self: Paravirtual, deadline: Deadline, guard: Guard) -> None:
        waiting.set()
        wait_connected(self, deadline, guard)

    def impatient(self: Paravirtual, _: Deadline, guard: Guard) -> None:
        wait_connected(self, Deadline(0.5, "the boot"), guard)

    with Domain(named("pv", request), accelerator=request.config.getoption("accel")) as domain:
        domain.launch()
        pids = domain.pids
        # No device will connect.
        os.kill(domain.parts.record.pids["backend"], signal.SIGSTOP)
        monkeypatch.setattr(Paravirtual, "wait_connected", impatient)
        expected = r"the vbd 51712 of domain \d+ did not connect: /local/.* is \w+; the boot .* within 0\.5 s"
        with pytest.raises(GuestSilent, match=expected) as caught:
            domain.wait_ready()
        assert_it_tells_where_to_look(caught.value, domain)
        # It is not ready, and nobody is told so.
        assert records.find(domain.name).state == DomainState.STARTING
        with pytest.raises(UsageError, match="is starting, not running"):
            domain.execute(["true"])

        monkeypatch.setattr(Paravirtual, "wait_connected", announced)
        error = error_of(domain.wait_ready, waiting, lambda: os.kill(domain.parts.qemu.child.pid, signal.SIGKILL))
        assert isinstance(error, GuestGone)
        assert_it_tells_where_to_look(error, domain)
        assert_all_gone(domain, pids)


MODULES = {network_client.SERVICE: network_client.MODULE, client.SERVICE: client.MODULE}


@pytest.mark.parametrize("service", MODULES)
def test_a_shared_service_is_killed(
    service: str,
    request: pytest.FixtureRequest,
    start_domain: StartDomain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other domains are not to lose theirs.
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    domain = start_domain(named("pv", request))
    pids = domain.pids
    error = error_while_busy(domain, lambda: os.kill(process_of(service, tmp_path), signal.SIGKILL))
    assert isinstance(error, HostError)
    assert f"the {service} service ended unexpectedly; its output: {tmp_path / service}.log" in str(error)
    assert_all_gone(domain, pids)


def process_of(service: str, runtime: Path) -> int:
    """The process ID of a shared service, which has its name among its arguments."""
    (found,) = (line for line in processes(runtime) if f" harness.host.service {MODULES[service]} {service} " in line)
    return int(found.split()[1].rstrip(":"))


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
    counter = "i=0; until [ -e /tmp/stop ]; do i=$((i+1)); echo $i > /tmp/next; mv /tmp/next /tmp/count; done"
    pv.start_service(["sh", "-c", counter])
    passed = 'until [ -e /tmp/count ] && [ "$(cat /tmp/count)" -gt "$1" ]; do :; done; cat /tmp/count'
    before = int(pv.execute(["sh", "-c", passed, "sh", "0"]).check().text)
    pv.pause()
    assert pv.state == DomainState.PAUSED
    with pytest.raises(UsageError, match="is paused, not running"):
        pv.execute(["true"])
    pv.unpause()
    assert int(pv.execute(["sh", "-c", passed, "sh", str(before)]).check().text) > before
    pv.execute(["touch", "/tmp/stop"]).check()


def test_a_name_is_taken_once(pv: Domain) -> None:
    with pytest.raises(UsageError, match="is running already"), Domain(pv.definition) as second:
        second.launch()
    pv.execute(["true"]).check()
