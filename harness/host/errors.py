"""Every error a user can meet, told apart by whose fault it is.

The exit code of the command line is a property of the error's class: 1 a test or threshold failed, 2 bad usage
or definition, 3 this machine's fault, 4 the guest's fault.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


class HarnessError(Exception):
    """Root of all errors that are reported as one paragraph and not as a traceback.

    :param what: what was tried, on what, and what came of it.
    :param hint: what the user can type or look at next.
    """

    exit_code = 3

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


class CheckFailed(HarnessError):
    """A test or a stated threshold failed."""

    exit_code = 1


class UsageError(HarnessError):
    """The command, or what it was given, makes no sense."""

    exit_code = 2


class DefinitionError(UsageError):
    """A definition file says something that cannot be meant.

    :param file: the file at fault.
    :param line: 1-based line of the offending key or value, or None when the file itself is at fault.
    :param key: dotted path of the offending key, such as ``disks[0].size``.
    :param expected: what would have been accepted.
    """

    def __init__(
        self, file: Path, line: int | None, key: str | None, problem: str, *, expected: str | None = None
    ) -> None:
        self.file, self.line, self.key, self.problem, self.expected = file, line, key, problem, expected
        where = f"{file}:{line}" if line is not None else str(file)
        subject = f"{key}: " if key else ""
        tail = f"; expected {expected}" if expected else ""
        super().__init__(f"{where}: {subject}{problem}{tail}")


class HostError(HarnessError):
    """This machine lacks something or refused something."""


class LaunchError(HostError):
    """A child process did not start or ended too early.

    :param argv: the full command, printed so that it can be pasted into a shell.
    :param exit_status: as subprocess gives it (negative: the signal), None if it never ran.
    :param output: the end of what it printed.
    """

    def __init__(
        self, what: str, *, argv: Sequence[str], exit_status: int | None, output: str, hint: str | None = None
    ) -> None:
        self.argv, self.exit_status, self.output = list(argv), exit_status, output
        text = f"{what} (exit status {exit_status})\n  command: {shlex.join(argv)}"
        if output.strip():
            text += "\n  output: " + output.strip().replace("\n", "\n          ")
        super().__init__(text, hint=hint)


class GuestError(HarnessError):
    """The guest misbehaved: the harness and the machine are fine.

    :param console: its last console lines.
    """

    exit_code = 4

    def __init__(self, what: str, *, console: Sequence[str] = (), hint: str | None = None) -> None:
        self.console = list(console)
        text = what
        if self.console:
            text += "\n  last console lines:\n    " + "\n    ".join(self.console)
        super().__init__(text, hint=hint)


class GuestCrashed(GuestError):
    """The guest's kernel panicked or oopsed."""


class GuestGone(GuestError):
    """The guest's QEMU ended, or the guest powered off or reset, while something was expected of it."""


class GuestSilent(GuestError):
    """The guest did not answer within its deadline."""


class AgentError(GuestError):
    """The guest's agent refused a request or answered with nonsense."""


class DeadlineExpired(HarnessError):
    """Something took longer than it was given.

    :param waiting_for: what was waited for.
    :param limit: seconds that were given.
    """

    def __init__(self, waiting_for: str, limit: float) -> None:
        self.waiting_for, self.limit = waiting_for, limit
        super().__init__(f"{waiting_for} did not happen within {limit:g} s")
