"""The outcome of a command in a guest, however it was run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from harness.guest.text import printable
from harness.host.errors import CheckFailed, GuestSilent

TAIL_BYTES = 2048


def _stream(name: str, data: bytes) -> str:
    """One stream of a command as part of an error: its end, harmless to a terminal."""
    if not data.strip():
        return ""
    cut = "… " if len(data) > TAIL_BYTES else ""
    lines = printable(data[-TAIL_BYTES:].decode(errors="replace").strip()).splitlines()
    return f"\n  {name}: {cut}" + "\n    ".join(lines)


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended.

    :param argv: what was run.
    :param status: its exit status, None if it was killed.
    :param signal: the signal that killed it, None if it exited or when nobody told which signal it was.
    :param truncated: it printed more than is kept; what is here is the beginning.
    """

    argv: tuple[str, ...]
    status: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def text(self) -> str:
        """Standard output as text, without the white space around it."""
        return self.stdout.decode(errors="replace").strip()

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.status is not None:
            return f"exited with status {self.status}"
        return f"was killed by signal {self.signal}" if self.signal is not None else "was killed by a signal"

    def check(self) -> Completed:
        """Return this if the command succeeded and all of its output is here.

        :raise CommandFailed: otherwise.
        """
        if not self.ok:
            raise CommandFailed(self, self.outcome)
        if self.truncated:
            raise CommandFailed(self, f"printed more than is kept ({len(self.stdout)} and {len(self.stderr)} bytes)")
        return self


class CommandFailed(CheckFailed):
    """A command in a guest did not exit with status 0."""

    def __init__(self, completed: Completed, outcome: str) -> None:
        self.completed = completed
        super().__init__(
            f"a command in the guest {outcome}\n  command: {printable(shlex.join(completed.argv))}"
            + _stream("stdout", completed.stdout)
            + _stream("stderr", completed.stderr)
        )


class CommandTimeout(GuestSilent):
    """A command in a guest did not end in time.

    :param limit: seconds it was given.
    :param stdout: what it had printed when it was killed, as far as that is known.
    """

    def __init__(
        self, argv: Sequence[str], limit: float, *, stdout: bytes = b"", stderr: bytes = b"", fate: str
    ) -> None:
        self.argv, self.limit, self.stdout, self.stderr = tuple(argv), limit, stdout, stderr
        super().__init__(
            f"a command in the guest did not end within {limit:g} s; {fate}\n"
            f"  command: {printable(shlex.join(argv))}" + _stream("stdout", stdout) + _stream("stderr", stderr)
        )
