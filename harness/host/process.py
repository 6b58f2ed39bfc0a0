"""The one way in which this package starts another program.

A child never inherits descriptors 0-2 (a leaked pipe keeps a runner waiting for ever), dies with the thread that
started it (PR_SET_PDEATHSIG, set by setpriv between fork and exec, so that it also holds when we are SIGKILLed), and
leaves what it printed in a file whose end becomes part of the error.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, HostError, LaunchError

TAIL_BYTES = 4096


class Child:
    """A running child process and the file its output goes to."""

    def __init__(self, name: str, argv: Sequence[str], popen: subprocess.Popen[bytes], log: Path | None) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        """Exit status (negative: the signal), or None while it runs."""
        return self._popen.poll()

    def pidfd(self) -> int:
        """A new descriptor that becomes readable when the child has ended; the caller closes it."""
        return os.pidfd_open(self.pid)

    def output_tail(self) -> str:
        """The end of what the child has printed."""
        if self.log is None:
            return ""
        with self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - TAIL_BYTES))
            return log.read().decode(errors="replace")

    def wait(self, deadline: Deadline) -> int:
        """Wait for the end of the child and return its exit status.

        :raise DeadlineExpired: the child is still running.
        """
        try:
            return self._popen.wait(timeout=deadline.left)
        except subprocess.TimeoutExpired:
            raise deadline.error() from None

    def stop(self, *, grace: float = 2.0) -> int:
        """End the child: SIGTERM, then SIGKILL after ``grace`` seconds. Does nothing to a child that has ended."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                return self.wait(Deadline(grace, f"the end of {self.name}"))
            except DeadlineExpired:
                self._popen.kill()
        return self._popen.wait()

    def kill(self) -> int:
        """SIGKILL the child and reap it."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGKILL)
        return self._popen.wait()

    def error(self, what: str, *, hint: str | None = None) -> LaunchError:
        """An error about this child, with its command, exit status and last output."""
        return LaunchError(what, argv=self.argv, exit_status=self.poll(), output=self.output_tail(), hint=hint)


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    die_with_parent: bool = True,
) -> Child:
    """Start a program in its own session, its output appended to ``log``.

    The death signal is tied to the calling *thread*: call this from a thread that lives as long as the child may.

    :param name: what errors call it.
    :param argv: program and arguments; the program is looked up in PATH.
    :param log: receives both output streams.
    :param pass_fds: descriptors the child keeps, under the same numbers.
    :param env: added to this process's environment.
    :param die_with_parent: False only for shared services, which end with their last client instead.
    :raise HostError: the program is not installed.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise HostError(f"cannot start {name}: {argv[0]} is not installed", hint="run ci/setup, or see: harness doctor")
    command = [program, *argv[1:]]
    wrapper = ["setpriv", "--pdeathsig", "KILL", "--"] if die_with_parent else []
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [*wrapper, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    return Child(name, command, popen, log)


def run(
    name: str,
    argv: Sequence[str],
    deadline: Deadline,
    *,
    cwd: Path | None = None,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a short-lived program to its end and return what it printed on standard output.

    :raise LaunchError: it is missing or ended with a status other than 0; carries both of its streams.
    :raise DeadlineExpired: it was still running and has been killed.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            input=stdin,
            capture_output=True,
            timeout=deadline.check(),
            pass_fds=pass_fds,
            check=False,
        )
    except FileNotFoundError:
        raise LaunchError(
            f"{name}: {argv[0]} is not installed", argv=argv, exit_status=None, output="", hint="run ci/setup"
        ) from None
    except subprocess.TimeoutExpired:
        raise deadline.error() from None
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace")[-TAIL_BYTES:]
        raise LaunchError(f"{name} failed", argv=argv, exit_status=done.returncode, output=output)
    return done.stdout.decode(errors="replace")
