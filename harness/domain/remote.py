"""A domain that another process owns, used through its control socket."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.domain import logs, messages, records
from harness.domain.definition_settings import Settings
from harness.domain.domain import DETACH_SECONDS, SSH_SECONDS
from harness.domain.life import SHUTDOWN_SECONDS
from harness.domain.messages import Message
from harness.domain.records import Record
from harness.guest.completed import Completed
from harness.guest.ssh import SshClient
from harness.host.deadline import Deadline
from harness.host.errors import HostError, UsageError

NO_LIMIT = 7 * 86400.0
"""Seconds. A command that somebody waits for may take as long as it does: interrupting the wait ends it."""


def find(name: str) -> RemoteDomain:
    """The running domain with this name or domid.

    :raise UsageError: there is none; if there was one, says how it ended.
    """
    try:
        return RemoteDomain(records.find(name))
    except UsageError as error:
        epitaph = logs.epitaph(name)
        if epitaph is None:
            raise
        raise UsageError(error.what, hint=f"the last domain of that name has ended: {epitaph}") from None


class RemoteDomain:
    """The domain of a record. Its methods are those of :class:`harness.domain.domain.Domain`, and raise the same.

    Only what is to be attached comes as text: it is the owner who looks at the image.

    Every call makes a connection of its own, so that any number of threads may use it.

    :raise HostError: also raised by every call when the owner has gone.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def name(self) -> str:
        return self.record.name

    def execute(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = NO_LIMIT) -> Completed:
        """Run a command in the guest; when this is interrupted, the command is killed."""
        with self._connect() as connection:
            request = {"argv": list(argv), "stdin": messages.encoded(stdin), "timeout": timeout}
            answer = self._ask(connection, "execute", **request)
        status, signal = (
            None if answer.fields.get(key) is None else answer.get(key, int) for key in ("status", "signal")
        )
        return Completed(
            tuple(argv), status, signal, answer.data("stdout"), answer.data("stderr"), answer.get("truncated", bool)
        )

    def pause(self) -> None:
        with self._connect() as connection:
            self._ask(connection, "pause")

    def unpause(self) -> None:
        with self._connect() as connection:
            self._ask(connection, "unpause")

    def save(self, file: Path) -> None:
        """Write it to a file; returns when the owner has removed the domain.

        :param file: where that is for the owner, too: an absolute path.
        """
        with self._connect() as connection:
            self._ask(connection, "save", file=str(file))
            _wait_for_end(connection)

    def shutdown(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Have the guest shut itself down; returns when the owner has removed the domain."""
        with self._connect() as connection:
            self._ask(connection, "shutdown", timeout=timeout)
            _wait_for_end(connection)

    def destroy(self) -> None:
        """End it at once; returns when the owner has removed the domain."""
        with self._connect() as connection:
            self._ask(connection, "destroy")
            _wait_for_end(connection)

    def attach_disk(self, settings: Settings) -> None:
        """Plug a disk in.

        :param settings: what the disk shall be, see :mod:`harness.domain.definition_settings`; paths are absolute.
        """
        with self._connect() as connection:
            self._ask(connection, "attach-disk", settings=dict(settings))

    def detach_disk(self, target: str, *, force: bool = False, timeout: float = DETACH_SECONDS) -> None:
        with self._connect() as connection:
            self._ask(connection, "detach-disk", target=target, force=force, timeout=timeout)

    def resize_disk(self, target: str, size: int | None = None) -> int:
        with self._connect() as connection:
            return self._ask(connection, "resize-disk", target=target, size=size).get("size", int)

    def attach_network(self, settings: Settings) -> tuple[int, str, str]:
        """Plug a network card in; returns its number, its MAC address and its IPv4 address.

        :param settings: what the card shall be, as for :meth:`attach_disk`.
        """
        with self._connect() as connection:
            answer = self._ask(connection, "attach-network", settings=dict(settings))
        return answer.get("number", int), answer.get("mac", str), answer.get("address", str)

    def detach_network(self, which: str, *, force: bool = False, timeout: float = DETACH_SECONDS) -> None:
        with self._connect() as connection:
            self._ask(connection, "detach-network", which=which, force=force, timeout=timeout)

    def observe(self, word: bytes) -> socket.socket:
        """A stream that the backend process answers on, see :mod:`harness.backend.observe`.

        :raise UsageError: the domain has no backend process.
        """
        with self._connect() as connection:
            answer = self._ask(connection, "observe", word=word.decode())
        if not answer.descriptors:
            raise HostError(f"the owner of domain {self.name} gave no connection to its backend process")
        return socket.socket(fileno=answer.descriptors.pop())

    def open_guest_trace(self) -> socket.socket:
        """A stream of lines, see :mod:`harness.guest.tracefs`; the guest is traced until it is closed."""
        connection = self._connect()
        try:
            self._ask(connection, "trace-guest")
        except BaseException:
            connection.close()
            raise
        return connection

    def open_console(self, which: str, number: int = 0) -> socket.socket:
        """A stream that is the console.

        :param which: ``serial`` or ``pv``.
        :param number: of the paravirtual console.
        :raise UsageError: it has no such console.
        """
        connection = self._connect()
        try:
            self._ask(connection, "console", which=which, number=number)
        except BaseException:
            connection.close()
            raise
        return connection

    def ssh(self, *, timeout: float = SSH_SECONDS) -> SshClient:
        """Log in over the first network card."""
        deadline = Deadline(timeout, f"an SSH login on domain {self.name}")
        with self._connect() as connection:
            answer = self._ask(connection, "ssh", timeout=timeout)
        if not answer.descriptors:
            raise HostError(f"the owner of domain {self.name} gave no connection to its SSH server")
        guest = socket.socket(fileno=answer.descriptors.pop())
        # Its time limit at the other end has left it non-blocking.
        guest.setblocking(True)
        return SshClient.connect(
            guest,
            host_key=answer.get("host_key", str),
            client_key=Path(answer.get("client_key", str)),
            deadline=deadline,
        )

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self.record.control_socket))
        except FileNotFoundError:
            connection.close()
            raise UsageError(
                f"domain {self.name} takes no commands: it belongs to process {self.record.owner}, "
                "which is a test or a comparison, or is just starting it or taking it apart",
                hint="see: harness list",
            ) from None
        except OSError as error:
            connection.close()
            raise self._gone(error) from error
        return connection

    def _ask(self, connection: socket.socket, operation: str, **fields: object) -> Message:
        try:
            messages.send(connection, {"op": operation, **fields})
            answer = messages.receive(connection, messages.MAX_ANSWER)
        except OSError as error:
            raise self._gone(error) from error
        if answer is None:
            raise self._gone("it did not answer")
        messages.raise_error(answer)
        return answer

    def _gone(self, reason: object) -> HostError:
        return HostError(
            f"the owner of domain {self.name}, process {self.record.owner}, has ended: {reason}",
            hint=f"its logs are in {self.record.logs}; remove what may be left: harness gc",
        )


def _wait_for_end(connection: socket.socket) -> None:
    """Wait until the owner, which holds the other end, has ended."""
    with suppress(ConnectionError):
        connection.recv(1)
