"""Counts: what a path costs in events, which no noise of the machine changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from harness.host.errors import GuestError

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
