"""The store as a process: one thread, one loop, every client on a socket or on a ring page of its own."""

from __future__ import annotations

import resource
import selectors
import socket
import sys
from contextlib import suppress

from harness.host.errors import HarnessError
from harness.host.service import leave
from harness.store.carriers import RingCarrier, SocketCarrier
from harness.store.connection import Connection
from harness.store.core import Store
from harness.store.errors import StoreError

RING_SECONDS = 0.05
"""How long an event of a domain may be overlooked: under TCG a guest has no memory fences that order its writes."""

LEAVING_SECONDS = 0.2
"""How often to try to leave, when somebody who holds the lock of the service may or may not connect."""


class Server:
    """Serves until the last client has gone.

    :param listener: the listening socket.
    :param first: the connection to the client that has started this process.
    :param name: the name of the service, which its files in the runtime directory have.
    """

    def __init__(self, listener: socket.socket, first: socket.socket, name: str) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._clients: list[SocketCarrier] = []
        self._rings: list[RingCarrier] = []
        self._store = Store(self._connect_domain)
        self._selector.register(listener, selectors.EVENT_READ)
        self._add(first)

    def run(self) -> None:
        """Serve, and return when no client is left and none can come any more."""
        while self._clients or not self._may_end():
            for key, _ in self._selector.select(self._patience()):
                if isinstance(key.data, SocketCarrier | RingCarrier):
                    key.data.receive()
                else:
                    self._accept()
            self._serve()

    def _serve(self) -> None:
        for client in self._clients:
            client.serve()
        for ring in self._rings:
            ring.serve()
        # What one of them did may have made watch events for those that had their turn before; so does the end of one.
        self._flush()
        while gone := [client for client in self._clients if client.closed]:
            for client in gone:
                self._disconnect(client)
            self._flush()
        self._forget_closed_rings()
        for client in self._clients:
            self._update_interest(client)

    def _update_interest(self, client: SocketCarrier) -> None:
        if self._selector.get_key(client.socket).events != client.interest:
            self._selector.modify(client.socket, client.interest, client)

    def _flush(self) -> None:
        for client in self._clients:
            client.flush()
        for ring in self._rings:
            ring.flush()

    def _patience(self) -> float | None:
        """Seconds that the loop may sleep."""
        if any(client.busy for client in self._clients) or any(ring.busy for ring in self._rings):
            return 0.0
        if self._rings:
            return RING_SECONDS
        return None if self._clients else LEAVING_SECONDS

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            print(f"a client was refused: {error.strerror}", file=sys.stderr)
            return
        self._add(client)

    def _add(self, client: socket.socket) -> None:
        carrier = SocketCarrier(self._store, client)
        self._clients.append(carrier)
        self._selector.register(client, carrier.interest, carrier)

    def _disconnect(self, client: SocketCarrier) -> None:
        self._clients.remove(client)
        self._selector.unregister(client.socket)
        client.close()
        self._store.disconnect(client.connection)

    def _connect_domain(self, connection: Connection, frame: int, port: int, fds: list[int]) -> RingCarrier:
        try:
            ring = RingCarrier.open(self._store, connection, frame, port, fds)
            self._selector.register(ring.link.wait_fd, selectors.EVENT_READ, ring)
        except (HarnessError, OSError, ValueError, IndexError) as error:
            print(f"domain {connection.who.domid} was not introduced: {error}", file=sys.stderr)
            raise StoreError("EINVAL") from error
        fds.clear()
        self._rings.append(ring)
        return ring

    def _forget_closed_rings(self) -> None:
        for ring in [ring for ring in self._rings if ring.closed]:
            self._rings.remove(ring)
            # Not left to closing the descriptor: other processes have the same eventfd open, so epoll would keep it.
            self._selector.unregister(ring.link.wait_fd)
            ring.link.close()

    def _may_end(self) -> bool:
        """Whether there is no client and will be none."""
        try:
            latecomer = leave(self._name, self._listener)
        except BlockingIOError:
            return False
        if latecomer is not None:
            self._add(latecomer)
        return latecomer is None


def serve(listener: socket.socket, first: socket.socket, name: str) -> None:
    """Run the service on a listening socket until its last client has gone. :mod:`harness.host.service` calls this."""
    # Each domain comes with a dozen descriptors.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(KeyboardInterrupt):
        Server(listener, first, name).run()
