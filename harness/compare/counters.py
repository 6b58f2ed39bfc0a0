"""Counts: what a path costs in events, which no noise of the machine changes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.host.errors import GuestError
from harness.machine import loop

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pids: Iterable[int]) -> float:
    """User and system time that some processes have used so far (proc(5): stat fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        # The command's name, field 2, may hold spaces and brackets: count from behind the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def interrupts(table: bytes, quiet: Iterable[str] = ("timer", "rtc0", "serial", "ttyS0", "ttyS1")) -> int:
    """Device interrupts that a guest has taken so far, read from its /proc/interrupts.

    :param quiet: names of devices that do not belong to the path: the clock and the serial ports.
    :raise GuestError: that is not such a table.
    """
    lines = table.decode(errors="replace").splitlines()
    try:
        processors = len(lines[0].split())
        total = 0
        for line in lines[1:]:
            source, _, rest = line.partition(":")
            fields = rest.split()
            numbered = source.strip().isdigit()
            if numbered and not set(quiet) & {name.strip(",") for name in fields[processors:]}:
                total += sum(int(count) for count in fields[:processors])
    except (IndexError, ValueError) as error:
        raise GuestError(f"the guest's /proc/interrupts makes no sense: {table[:200]!r}") from error
    return total


STATISTICS = "/sys/bus/pvbus/devices/*/statistics"
"""Where a guest's frontends count: a line ``queue-0/doorbells 12`` for each figure."""


def doorbells(statistics: bytes) -> int:
    """How often frontends have rung their backends' doorbells so far.

    :param statistics: what is in all of their statistics.
    :raise GuestError: it makes no sense.
    """
    total = 0
    for line in statistics.decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        if name.endswith("doorbells"):
            if not value.isdigit():
                raise GuestError(f"the guest's {STATISTICS} make no sense: {line[:80]!r}")
            total += int(value)
    return total


REGISTER_EVENTS = "memory_region_ops_*"
"""QEMU's trace events for an access to a device register that QEMU itself answers (trace-events of softmmu)."""
REGION = re.compile(rb"^memory_region_ops_.* name '([^']*)'$", re.MULTILINE)


def register_accesses(domain: Domain, regions: Iterable[str], work: Callable[[], object]) -> int:
    """Device register accesses a guest makes during some work.

    :param regions: names of the memory regions that count, as QEMU calls them.
    :param work: what the guest does meanwhile; it runs slower than usual, since each access is written to QEMU's log.
    """
    qemu, log = domain.parts.qemu, domain.logs / "qemu.log"

    def trace(enable: bool) -> None:
        arguments = {"name": REGISTER_EVENTS, "enable": enable}
        loop.run(qemu.execute("trace-event-set-state", arguments), Deadline(30.0, "QEMU's tracing to change"))

    trace(True)
    start = log.stat().st_size
    try:
        work()
    finally:
        trace(False)
    with log.open("rb") as lines:
        lines.seek(start)
        return count_regions(lines.read(), regions)


def count_regions(trace: bytes, regions: Iterable[str]) -> int:
    """How many register accesses in a trace are to the named regions."""
    wanted = {region.encode() for region in regions}
    return sum(name in wanted for name in REGION.findall(trace))
