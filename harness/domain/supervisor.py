"""The process that ``harness create`` leaves behind: it owns one domain until the domain ends.

Run as ``python -m harness.domain.supervisor``. Until the domain is ready, the creator holds the other end of a socket:
when that closes, nobody wants the domain any more. Over it the supervisor says ``{"ready": true}``, which the creator
confirms, or why there is no domain. Later, how the domain ended is noted among its logs; as with xl's
``on_crash=destroy``, nothing else of it is left.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.domain import logs, messages
from harness.domain.control import ControlServer
from harness.domain.definition import Definition
from harness.domain.definition_file import load
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestGone, HarnessError
from harness.host.process import Child, spawn

LEAVE_SECONDS = 20.0
"""What a supervisor gets to take apart a domain that nobody wants any more."""
ROLE = "supervisor"


def prepare(definition: Definition, accelerator: str, *, warm: bool = False) -> None:
    """Do now, and show it here, what takes its time only once on a machine; see :meth:`Domain.prepare`."""
    Domain(definition, accelerator=accelerator).prepare(warm=warm)


def create(definition: Definition, accelerator: str, *, restore: bool = False, warm: bool = False) -> None:
    """Start a domain that goes on when this process ends; returns when it is ready.

    When this is interrupted, or this process killed, before that, nothing is left.

    :param restore: the definition is of a saved domain, which is to go on from there.
    :param warm: as for :meth:`Domain.launch`.
    :raise HarnessError: as :meth:`Domain.start`.
    """
    flags = [flag for flag, wanted in (("--restore", restore), ("--warm", warm)) if wanted]
    ours, theirs = socket.socketpair()
    directory = logs.make(definition.name)
    with ours:
        with theirs:
            child = _spawn(definition, accelerator, directory, theirs.fileno(), flags)
        try:
            answer = messages.receive(ours, messages.MAX_ANSWER)
            if answer is None:
                raise child.error(f"the supervisor of domain {definition.name} ended unexpectedly")
            messages.raise_error(answer)
            messages.send(ours, {"confirmed": True})
        except BaseException:
            ours.shutdown(socket.SHUT_RDWR)
            with suppress(DeadlineExpired):
                child.wait(Deadline(LEAVE_SECONDS, f"the end of the supervisor of {definition.name}"))
            raise


def _spawn(definition: Definition, accelerator: str, directory: Path, channel: int, flags: Sequence[str]) -> Child:
    options = {
        "channel": channel,
        "file": definition.file.absolute(),
        "name": definition.name,
        "accel": accelerator,
        "logs": directory,
    }
    return spawn(
        f"the supervisor of domain {definition.name}",
        [
            sys.executable,
            *("-m", __name__),
            *(f"--{key}={value}" for key, value in options.items()),
            *flags,
        ],
        log=directory / "supervisor.log",
        pass_fds=[channel],
        die_with_parent=False,
    )


class Creator:
    """The process that waits for the domain to be ready, as the supervisor sees it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._confirmed = threading.Event()
        threading.Thread(target=self._listen, name="creator", daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError, HarnessError):
            if messages.receive(self._channel, messages.MAX_REQUEST) is not None:
                self._confirmed.set()
                return
        # The main thread unwinds as it does for any other signal, and takes the domain apart.
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(self) -> None:
        """Say that the domain is ready and wait until the creator has heard it."""
        messages.send(self._channel, {"ready": True})
        self._confirmed.wait()

    def refuse(self, error: HarnessError) -> None:
        """Say why there is no domain; nobody hears it once the creator has confirmed that there is one."""
        with suppress(OSError):
            messages.send(self._channel, messages.error_fields(error))


def _domain(arguments: argparse.Namespace) -> Domain:
    """The domain to be, which is not launched yet."""
    if arguments.restore:
        return Domain.restore(arguments.file, name=arguments.name, accelerator=arguments.accel, logs=arguments.logs)
    definition = load(arguments.file).renamed(arguments.name)
    return Domain(definition, accelerator=arguments.accel, logs=arguments.logs)


def _live(arguments: argparse.Namespace, creator: Creator) -> str:
    """Own the domain, from its start to its end; says how it ended."""
    with _domain(arguments) as domain:
        domain.launch(warm=arguments.warm)
        domain.parts.record.pids[ROLE] = os.getpid()
        domain.parts.record.write()
        control = ControlServer(domain)
        try:
            domain.wait_ready()
        except HarnessError:
            if control.end_requested:
                raise GuestGone(f"domain {domain.name} was destroyed while it started") from None
            raise
        creator.ready()
        return domain.wait_end()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a supervisor; returns its exit code, which nobody but its log is interested in."""
    parser = argparse.ArgumentParser(prog=__name__, description=__doc__)
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the creator")
    parser.add_argument("--file", type=Path, required=True, help="the domain's definition, or a saved domain")
    parser.add_argument("--restore", action="store_true", help="it is a saved domain")
    parser.add_argument("--warm", action="store_true", help="do not boot it")
    parser.add_argument("--name", required=True)
    parser.add_argument("--accel", required=True)
    parser.add_argument("--logs", type=Path, required=True, help="directory for the domain's logs")
    arguments = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    creator = Creator(socket.socket(fileno=arguments.channel))
    try:
        how = _live(arguments, creator)
    except HarnessError as error:
        logs.bury(arguments.logs, str(error))
        creator.refuse(error)
        return error.exit_code
    except KeyboardInterrupt:
        logs.bury(arguments.logs, "its supervisor was told to end")
        return 0
    logs.bury(arguments.logs, how)
    return 0


if __name__ == "__main__":
    sys.exit(main())
