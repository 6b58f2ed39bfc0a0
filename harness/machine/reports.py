"""What a domain's monitor tells: the reports it collects, and the words for them."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host.errors import GuestCrashed, GuestGone, HostError
from harness.host.process import Child

FailureKind = type[GuestCrashed] | type[GuestGone] | type[HostError]


@dataclass(frozen=True)
class Report:
    """One thing that went wrong.

    :param kind: the class of the error it is on its own.
    """

    kind: FailureKind
    text: str


SHUTDOWN_TEXTS = {
    "guest-shutdown": "the guest powered itself off",
    "guest-reset": "the guest rebooted",
    "guest-panic": "the guest's kernel panicked",
    "host-qmp-quit": "QEMU was told to quit",
    "host-qmp-system-reset": "QEMU was told to reset",
    "host-signal": "QEMU was ended by a signal",
    "host-error": "QEMU met an error of the host",
}


GUEST_ENDS = ("guest-shutdown", "guest-reset")
"""Ends that a healthy guest may choose."""


def end_text(reason: str | None) -> str:
    """QEMU's end in words.

    :param reason: as its SHUTDOWN event says it; None when there was no such event.
    """
    if reason is None:
        return "QEMU ended without a word"
    return SHUTDOWN_TEXTS.get(reason, f"QEMU ended: {reason}")


def status_text(status: int) -> str:
    """QEMU's exit status in words; a negative one is a signal's number."""
    if status >= 0:
        return f"QEMU's exit status {status}"
    return f"signal {-status}, {signal.strsignal(-status)}"


def first_line(error: GuestCrashed) -> str:
    return error.what.partition("\n")[0]


def look_further(qemu: Child, console: Path) -> str:
    """Where somebody who has to find out more can look."""
    lines: Sequence[str] = (
        f"console log: {console}",
        f"QEMU's output: {qemu.log}",
        f"QEMU's command: {shlex.join(qemu.argv)}",
    )
    return "\n".join(lines)
