"""A Domain 0 that does nothing but ring: the guest slows it down, and goes on with its work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.domain.domain import Domain
from harness.host.process import spawn

DISK_WORK = ["dd", "if=/dev/xvda", "of=/dev/null", "bs=4k", "count=500", "iflag=direct"]
SHELL_WORK = ["sh", "-c", "seq 50000 | wc -l"]

STORM = """
import os, sys
from harness.hypervisor.layout import BACKEND_PORTS, BACKEND_VECTOR, GRANTER, PORT
from harness.hypervisor.link import LinkEnd

fds = [int(number) for number in sys.argv[1].split(",")]
doorbells = fds[2:]
end = LinkEnd.from_fds(fds, vector=BACKEND_VECTOR, ports=BACKEND_PORTS)
port = max(end.events.open_ports)
remote = end.events.status(port)[1]
"""
POLITE = """
while True:
    end.events.send(port)
"""
"""An end that is broken, but does not ring a masked port."""

RUDE = """
ports = end.memory[end.layout.ports_frame[GRANTER] * 4096:]
vector = PORT.unpack_from(ports, remote * PORT.size)[1]
pending = end.frame(end.layout.pending_frame[GRANTER])
while True:
    pending[remote] = 1
    os.eventfd_write(doorbells[vector], 1)
"""
"""An end that rings, whether the port is masked or not."""

MOST_INTERRUPTS = 700
"""Per second of the guest's time: fewer than 64 in a tenth of a second are no storm yet, and the work needs some.
A storm that is not throttled brings thousands, as far as the host is free to send them."""


def interrupts(domain: Domain) -> tuple[float, int]:
    """Seconds that the guest has run, and how many interrupts the link has raised in it."""
    uptime, *lines = domain.execute(["cat", "/proc/uptime", "/proc/interrupts"]).check().text.splitlines()
    return float(uptime.split()[0]), sum(int(line.split()[1]) for line in lines if line.endswith("pvbus"))


@contextmanager
def storm(domain: Domain, log: Path, kind: str) -> Iterator[None]:
    paravirtual = domain.parts.paravirtual
    assert paravirtual is not None
    fds = paravirtual.link.backend_fds()
    child = spawn(
        "a storm", [sys.executable, "-c", STORM + kind, ",".join(map(str, fds))], log=log / "storm.log", pass_fds=fds
    )
    try:
        yield
        assert child.poll() is None, (log / "storm.log").read_text()
    finally:
        child.kill()


@pytest.mark.parametrize("kind", [POLITE, RUDE], ids=["polite", "rude"])
def test_a_storm_of_events_leaves_the_guest_responsive(pv: Domain, tmp_path: Path, kind: str) -> None:
    with storm(pv, tmp_path, kind):
        # The pauses grow to their longest meanwhile.
        for _ in range(3):
            pv.execute(DISK_WORK).check()
            pv.execute(SHELL_WORK).check()
        began, before = interrupts(pv)
        for _ in range(3):
            pv.execute(SHELL_WORK).check()
        ended, after = interrupts(pv)
        print((after - before) / (ended - began), ended - began)
    assert (after - before) / (ended - began) < MOST_INTERRUPTS
    # Nothing has been turned off for good.
    pv.execute(DISK_WORK).check()
