"""A driver domain, as the owner of a domain that it serves sees it; see :mod:`harness.domain.serving`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from harness.bus.toolstack import Storage
from harness.domain import messages, records
from harness.domain.definition import Definition
from harness.domain.identity import Identity
from harness.domain.messages import Message
from harness.domain.ordering import unknown_backend
from harness.domain.records import Record
from harness.domain.serving import BACK, GONE
from harness.host.errors import HostError, UsageError
from harness.host.interruption import cut


def running() -> list[str]:
    """The names of the driver domains that there are."""
    return [record.name for record in records.records() if record.driver_domain]


def require(definition: Definition, saved: Path | None = None) -> None:
    """Check that every driver domain that is to serve a domain is there.

    :param saved: the file that the domain is to be restored from; None: it is to be created.
    :raise UsageError: one is not; says which.
    """
    for backend in definition.backends:
        _find(definition.name, backend, saved)


def _find(client: str, name: str, saved: Path | None = None) -> Record:
    found = next((record for record in records.records() if record.name == name), None)
    if found is None:
        raise unknown_backend(client, name, saved)
    if not found.driver_domain:
        raise UsageError(
            f"domain {client} has {name} as a back end, which runs but is no driver domain",
            hint=f"end it, and start it anew with driver-domain: true: harness destroy {name}",
        )
    return found


class DriverDomain:
    """A connection to a driver domain, which serves us until it closes. Any thread may call this.

    What is asked of the driver domain may fail at any time, because it has gone just now:

    :raise HarnessError: it cannot, or does not want to; says why.

    :ivar name: its name.
    :ivar domid: its number, which stays the same when it starts anew.
    """

    def __init__(self, record: Record, client: str) -> None:
        self.name = record.name
        self._record = record
        self._followed = False
        self._connection = self._connect()
        try:
            answer = self._exchange(self._connection, {"op": "serve", "name": client})
            self._number = answer.get("client", int)
            self.domid = answer.get("domid", int)
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def find(cls, name: str, client: str) -> Self:
        """Connect to the driver domain of this name.

        :param client: the name of the domain to be served.
        :raise UsageError: there is none, or it is not ready.
        """
        return cls(_find(client, name), client)

    def follow(self, gone: Callable[[], None], back: Callable[[], None], ended: Callable[[], None]) -> None:
        """Have it told, in a thread of its own, how the driver domain fares.

        :param gone: its QEMU has ended. What it had for us is no more.
        :param back: another one is in its place, and can be asked for the same again.
        :param ended: there will be none any more, or we have closed the connection.
        """

        def listen() -> None:
            # A connection that breaks has ended.
            with suppress(OSError):
                while (news := messages.receive(self._connection, messages.MAX_ANSWER)) is not None:
                    {GONE: gone, BACK: back}[news.get("event", str)]()
            self._connection.close()
            ended()

        self._followed = True
        threading.Thread(target=listen, name=f"news of {self.name}", daemon=True).start()

    def plug(self, link: socket.socket, vectors: int, domid: int) -> None:
        """Have a link plugged into its QEMU; it goes when this connection closes.

        :param link: the end that maps; still the caller's to close.
        :param vectors: interrupt vectors of that end.
        :param domid: of our domain, which is at the other end.
        """
        self._ask("plug", [link.fileno()], vectors=vectors, domid=domid)

    def unplug(self) -> None:
        """Have the link unplugged, if it is plugged in: its back ends let go of what was granted to them."""
        self._ask("unplug")

    def prepare_disk(self, devid: int, path: str, *, readonly: bool) -> Storage:
        """Have a block device or a file in it made ready to be served.

        :param devid: the number of the disk that it is to be.
        """
        answer = self._ask("prepare-disk", devid=devid, path=path, readonly=readonly)
        number = (answer.get("major", int), answer.get("minor", int))
        return Storage(self.domid, answer.get("device", str), number)

    def release_disk(self, devid: int) -> None:
        """Undo :meth:`prepare_disk`."""
        self._ask("release-disk", devid=devid)

    def identify_disk(self, devid: int) -> Identity:
        """What a disk that is prepared is known by just now; whatever was written to it is durable there then."""
        return Identity.read(self._ask("identify-disk", devid=devid))

    def join_bridge(self, interface: str) -> None:
        """Make a network interface a port of its bridge, when its backend has made the interface."""
        self._ask("join-bridge", interface=interface)

    def close(self) -> None:
        """Be served no more."""
        cut(self._connection)
        if not self._followed:
            self._connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._record.driver_socket))
        except OSError as error:
            connection.close()
            raise UsageError(
                f"driver domain {self.name} is not ready to serve anybody: {error.strerror}",
                hint="it is being started or taken apart; see: harness list",
            ) from None
        return connection

    def _ask(self, operation: str, descriptors: list[int] | None = None, **fields: object) -> Message:
        with self._connect() as connection:
            request = {"op": operation, "client": self._number, **fields}
            return self._exchange(connection, request, descriptors or [])

    def _exchange(
        self, connection: socket.socket, request: dict[str, object], descriptors: list[int] | None = None
    ) -> Message:
        try:
            messages.send(connection, request, descriptors or [])
            answer = messages.receive(connection, messages.MAX_ANSWER)
        except OSError as error:
            raise HostError(f"the owner of driver domain {self.name} has ended: {error}") from error
        if answer is None:
            raise HostError(f"the owner of driver domain {self.name} has ended")
        messages.raise_error(answer)
        return answer
