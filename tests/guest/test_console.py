"""The consoles of each guest: the serial port that every guest has, and the split driver's of a paravirtual one."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from harness.bus.devices import Device, disk_number
from harness.bus.xenbus import XenbusState, wait_for_state
from harness.domain.domain import Domain
from harness.guest.console import ConsoleLog
from harness.host.deadline import Deadline
from harness.machine import loop
from harness.store.client import StoreClient
from tests.guest.conftest import named
from tests.guest.consoles import ANSWER, PROMPT, QUESTION, SECONDS, type_command
from tests.unit.live_store import store_pid

EPOLL_WAIT = ("232", "281")
"""epoll_wait and epoll_pwait, as x86_64 numbers its system calls."""

PARAVIRTUAL = pytest.mark.parametrize("domain", ["pv"], indirect=True)


def test_every_line_of_the_boot_is_logged_with_its_time(domain: Domain) -> None:
    log = (domain.logs / "console.log").read_text()
    lines = [re.fullmatch(r"\[ *(\d+\.\d{3})\] (.*)", line) for line in log.splitlines()]
    assert None not in lines
    times = [float(line[1]) for line in lines if line is not None]
    texts = [line[2] for line in lines if line is not None]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1]
    # From the kernel's first line to the last of init.
    version = domain.execute(["cat", "/proc/version"]).check().text
    first = next(number for number, text in enumerate(texts) if text.endswith(version))
    last = next(number for number, text in enumerate(texts) if "harness: guest ready" in text)
    assert first < last


def test_a_shell_listens_on_the_serial_port(domain: Domain) -> None:
    assert type_command(domain.console, QUESTION, ANSWER).groups() == ("42", "/dev/ttyS0")
    assert "sum 42, terminal /dev/ttyS0" in (domain.logs / "console.log").read_text()


@PARAVIRTUAL
def test_a_shell_listens_on_the_paravirtual_console(domain: Domain) -> None:
    assert type_command(domain.pv_console, QUESTION, ANSWER).groups() == ("42", "/dev/hvc0")
    # Each console has a log, and nothing of the one is in the other.
    assert "sum 42, terminal /dev/hvc0" in (domain.logs / "pv-console.log").read_text()
    assert "/dev/hvc0" not in (domain.logs / "console.log").read_text()


@PARAVIRTUAL
def test_the_paravirtual_console_loses_nothing_of_much_output(domain: Domain) -> None:
    # More than the ring has room for, in lines that each differ.
    count = 400
    start = domain.pv_console.position
    type_command(domain.pv_console, f"for i in $(seq {count}); do echo line $i of {count}; done; echo en''d", "end")
    printed = domain.pv_console.last_lines(domain.pv_console.position - start + 1)
    lines = [line for line in printed if line.startswith("line ")]
    assert lines == [f"line {number} of {count}" for number in range(1, count + 1)]


def interrupt_a_program(console: ConsoleLog) -> str:
    """Start something that would take long, type Ctrl-C, and return the exit status that the shell saw."""

    async def talk() -> str:
        deadline = Deadline(SECONDS, "the end of a program on a console")
        await console.wait_for(PROMPT, deadline)
        start = console.position
        await console.write(b"sh -c 'echo be\"\"gun; sleep 600'\n")
        await console.wait_for("^begun$", deadline, after=start)
        after = console.position
        await console.write(b"\x03")
        await console.wait_for(PROMPT, deadline, after=after)
        await console.write(b"echo status $?.\n")
        return (await console.wait_for(r"status (\d+)\.", deadline, after=after))[1]

    return loop.run(talk())


def test_control_c_interrupts_what_runs_on_the_serial_port(domain: Domain) -> None:
    assert interrupt_a_program(domain.console) == "130"


@PARAVIRTUAL
def test_control_c_interrupts_what_runs_on_the_paravirtual_console(domain: Domain) -> None:
    assert interrupt_a_program(domain.pv_console) == "130"


def at_rest(pid: int) -> bool:
    """Whether a process waits in epoll_wait, and so for nothing that it has asked the store (proc(5), syscall)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in EPOLL_WAIT


def test_the_paravirtual_console_works_before_the_store_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    with Domain(named("pv", request, networks=())) as domain, StoreClient.connect() as store:
        domain.launch()
        # Its backend is up, the guest's kernel has hardly begun.
        disk = Device("vbd", domain.domid, disk_number("xvda"))
        deadline = Deadline(SECONDS, "the backend process to be at rest")
        wait_for_state(store, disk.backend, {XenbusState.INIT_WAIT}, deadline)
        while not at_rest(domain.parts.record.pids["backend"]):
            deadline.check()
        os.kill(store_pid(tmp_path), signal.SIGSTOP)
        try:
            assert type_command(domain.pv_console, QUESTION, ANSWER)[2] == "/dev/hvc0"
            devices = type_command(domain.pv_console, "echo devices: $(ls /sys/bus/pvbus/devices).", r"devices: (.*)\.")
            assert devices[1] == f"console-{domain.domid}-first"
        finally:
            os.kill(store_pid(tmp_path), signal.SIGCONT)
        domain.wait_ready()
        assert domain.execute(["ls", "/sys/bus/pvbus/devices"]).check().text.split() != [devices[1]]
