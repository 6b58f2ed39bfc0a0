"""Recognises a guest kernel in trouble by what it prints on the console.

Lines come in whole (the console assembles them from whatever chunks arrive), without carriage returns and escape
sequences. A header counts at the start of a line, and after printk's time stamp wherever that stands: a kernel does
not wait for a program's line to end. Text that a program might well print itself must have the stamp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

MAX_REPORT_LINES = 100


class Kind(Enum):
    """What is wrong with the kernel, in words for an error."""

    PANIC = "panicked"
    OOPS = "oopsed"
    STALL = "stalled"
    WARNING = "warned"
    REBOOT = "booted again, unexpectedly"

    @property
    def fatal(self) -> bool:
        return self is not Kind.WARNING


@dataclass(frozen=True, slots=True)
class Trouble:
    """A report by the guest's kernel.

    :param headline: the line that gave it away.
    :param lines: that line and what followed: registers, call trace.
    """

    kind: Kind
    headline: str
    lines: tuple[str, ...]


_PRINTK = r"(?:<\d+>)?\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? "

_UNMISTAKABLE = (
    (Kind.PANIC, r"Kernel panic - not syncing"),
    (Kind.OOPS, r"Oops(?: - [\w ]+)?: [0-9a-fA-F]{4,}"),
    (Kind.OOPS, r"BUG: (?:unable to handle|kernel NULL pointer|KASAN:|KFENCE:|KCSAN:|Bad page|Bad rss-counter)"),
    (
        Kind.OOPS,
        r"BUG: (?:scheduling while atomic|sleeping function called|spinlock|workqueue leaked|using __this_cpu)",
    ),
    (Kind.OOPS, r"Unable to handle kernel"),
    (Kind.OOPS, r"Internal error: (?:Oops|Attempting|Accessing|undefined instruction)"),
    (Kind.OOPS, r"kernel BUG at "),
    (Kind.OOPS, r"general protection fault(?:,|:)"),
    (Kind.OOPS, r"divide error: [0-9a-f]{4}"),
    (Kind.OOPS, r"invalid opcode: [0-9a-f]{4}"),
    (Kind.OOPS, r"stack segment: [0-9a-f]{4}"),
    (Kind.OOPS, r"double fault: [0-9a-f]{4}"),
    (Kind.STALL, r"watchdog: BUG: (?:soft|hard) lockup"),
    (Kind.STALL, r"(?:NMI watchdog: )?Watchdog detected hard LOCKUP"),
    (Kind.STALL, r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:expedited )?stall"),
    (Kind.STALL, r"INFO: task .{1,40} blocked for more than \d+ seconds"),
    (Kind.WARNING, r"WARNING: CPU: \d+ PID: \d+ at "),
)
_STAMPED_ONLY = (
    (Kind.OOPS, r"BUG: "),
    (Kind.OOPS, r"PANIC: "),
    (Kind.WARNING, r"WARNING: "),
    (Kind.WARNING, r"INFO: possible (?:circular|recursive) locking"),
)


def _table() -> list[tuple[Kind, re.Pattern[str]]]:
    anywhere = [(kind, re.compile(rf"(?:^|{_PRINTK})\s*(?:{header})")) for kind, header in _UNMISTAKABLE]
    stamped = [(kind, re.compile(rf"{_PRINTK}(?:{header})")) for kind, header in _STAMPED_ONLY]
    return anywhere + stamped


_HEADERS = _table()
_BOOT = re.compile(rf"(?:^|{_PRINTK})Linux version \d")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")


def classify(line: str) -> Kind | None:
    """What a console line says about the kernel, apart from its boots; None: nothing bad."""
    for kind, pattern in _HEADERS:
        if pattern.search(line):
            return kind
    return None


class OopsDetector:
    """Goes through console lines and puts reports together.

    :param boots: how many times the kernel may still say that it starts: 1 for a cold boot, 0 for a restored guest.
    """

    def __init__(self, boots: int = 1) -> None:
        self._boots = boots
        self._kind: Kind | None = None
        self._lines: list[str] = []

    @property
    def collecting(self) -> bool:
        """True from a report's first line to its end."""
        return self._kind is not None

    def expect_boot(self) -> None:
        """One more boot is all right."""
        self._boots += 1

    def feed(self, line: str) -> Trouble | None:
        """Look at a line; a report that is complete with it is returned."""
        if self._kind is None:
            self._kind = self._first_line(line)
            if self._kind is not None:
                self._lines = [line]
            return None
        self._lines.append(line)
        # A warning or an oops may turn into something worse while it is being printed.
        found = classify(line)
        if found is Kind.PANIC or (found is not None and self._kind is Kind.WARNING):
            self._kind = found
        if _END.search(line) or len(self._lines) >= MAX_REPORT_LINES:
            return self.finish()
        return None

    def finish(self) -> Trouble | None:
        """Nothing more will come: what has been collected so far is the report."""
        if self._kind is None:
            return None
        headline = next((line for line in self._lines if classify(line) is self._kind), self._lines[0])
        trouble = Trouble(self._kind, headline, tuple(self._lines))
        self._kind = None
        return trouble

    def _first_line(self, line: str) -> Kind | None:
        if _BOOT.search(line):
            self._boots -= 1
            return Kind.REBOOT if self._boots < 0 else None
        return classify(line)
