"""More consoles than one: a login on each, a backend that dies, and a backend that writes nonsense into the page."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from harness.bus.devices import Device
from harness.bus.xenbus import XenbusState, wait_for_state
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.hypervisor.layout import BACKEND_PORTS, BACKEND_VECTOR
from harness.hypervisor.link import LinkEnd
from harness.machine import loop
from harness.pytest_plugin.plugin import StartDomain
from harness.ring.console import IN_PROD, OUT_CONS
from harness.store.client import StoreClient
from tests.guest.conftest import named
from tests.guest.consoles import ANSWER, QUESTION, SECONDS, type_command

COUNT = 3


@pytest.fixture(scope="module")
def several(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(named("pv", request, consoles=COUNT))


@contextmanager
def stopped_backend(domain: Domain) -> Iterator[int]:
    """The backend process does nothing; whoever kills it finds another one in its place."""
    backend = domain.parts.record.pids["backend"]
    os.kill(backend, signal.SIGSTOP)
    try:
        yield backend
    finally:
        with suppress(ProcessLookupError):
            os.kill(backend, signal.SIGCONT)


def test_a_shell_listens_on_each_and_none_sees_what_the_others_do(several: Domain) -> None:
    for number, console in enumerate(several.pv_consoles):
        assert type_command(console, QUESTION, ANSWER).groups() == ("42", f"/dev/hvc{number}")
    logs = sorted(several.logs.glob("pv-console*.log"))
    assert len(logs) == COUNT
    for log in logs:
        assert log.read_text().count("terminal /dev/hvc") == 1


def test_all_but_the_first_have_connected_as_devices_do(several: Domain) -> None:
    with StoreClient.connect() as store:
        for number in range(1, COUNT):
            device = Device("console", several.domid, number)
            assert (store.read(f"{device.frontend}/state"), store.read(f"{device.backend}/state")) == (b"4", b"4")
            assert store.exists(f"{device.frontend}/ring-ref")
            assert store.exists(f"{device.frontend}/port")


def test_what_lies_in_the_pages_when_the_backend_dies_is_not_lost(several: Domain) -> None:
    consoles = several.pv_consoles
    starts = [console.position for console in consoles]
    with stopped_backend(several) as backend:
        for number, console in enumerate(consoles):
            # As much as the ring holds; nobody takes it.
            lines = f"for i in $(seq 50); do echo printed on {number}, $i; done >/dev/hvc{number}"
            several.execute(["sh", "-c", lines]).check()
            loop.run(console.write(f"echo typed on {number}, $((6 * 7)).\n".encode()))
        os.kill(backend, signal.SIGKILL)
        deadline = Deadline(SECONDS, "what was printed and typed before the backend died")
        for number, console in enumerate(consoles):
            loop.run(console.wait_for(f"^typed on {number}, 42\\.$", deadline, after=starts[number]))
            # The first of them stands behind the prompt.
            printed = re.findall(r"printed on (\d), (\d+)", "\n".join(console.last_lines(500)))
            assert printed == [(str(number), str(line)) for line in range(1, 51)]
    for number, console in enumerate(consoles):
        assert type_command(console, QUESTION, ANSWER)[2] == f"/dev/hvc{number}"


def test_a_backend_that_writes_impossible_indices_is_reported_and_not_believed(several: Domain) -> None:
    paravirtual = several.parts.paravirtual
    assert paravirtual is not None
    fds = [os.dup(descriptor) for descriptor in paravirtual.link.backend_fds()]
    with (
        stopped_backend(several),
        LinkEnd.from_fds(fds, vector=BACKEND_VECTOR, ports=BACKEND_PORTS) as end,
    ):
        words = end.frame(end.layout.console_frame).cast("I")
        before = [words[IN_PROD // 4], words[OUT_CONS // 4]]
        for index, distance in ((IN_PROD, 1025), (OUT_CONS, 5000), (IN_PROD, -1)):
            words[IN_PROD // 4], words[OUT_CONS // 4] = before
            words[index // 4] = (words[index // 4] + distance) % (1 << 32)
            end.events.send(BACKEND_PORTS[0])
            # Nobody waits for room that cannot be known, and the other consoles and the guest do not care.
            several.execute(["sh", "-c", "timeout 10 echo lost >/dev/hvc0; echo kept >/dev/hvc1"]).check()
        words[IN_PROD // 4], words[OUT_CONS // 4] = before
        end.events.send(BACKEND_PORTS[0])
    kernel = several.execute(["dmesg"]).check().text
    assert kernel.count("pvcon: the backend broke the ring of hvc0") == 1
    loop.run(several.pv_consoles[1].wait_for("^kept$", Deadline(SECONDS, "the other console")))
    assert type_command(several.pv_console, QUESTION, ANSWER)[2] == "/dev/hvc0"


def test_a_console_that_is_taken_away_leaves_no_login_behind(several: Domain) -> None:
    last = COUNT - 1
    device = Device("console", several.domid, last)
    with StoreClient.connect() as store:
        store.rm(device.frontend)
        wait_for_state(store, device.backend, {XenbusState.CLOSED}, Deadline(SECONDS, "the end of the backend"))
    there = f"[ -e /run/hvc{last} ] || [ -e /sys/bus/pvbus/devices/console-{several.domid}-{last} ]"
    several.execute(["timeout", str(SECONDS), "sh", "-c", f"while {there}; do sleep 0.1; done"]).check()
    assert type_command(several.pv_consoles[last - 1], QUESTION, ANSWER)[2] == f"/dev/hvc{last - 1}"
