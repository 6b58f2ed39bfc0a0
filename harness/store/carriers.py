"""What carries the bytes of a connection: a UNIX socket, or the ring page of a domain. Nothing here ever blocks."""

from __future__ import annotations

import os
import selectors
import socket
import sys
from collections.abc import Callable

from harness.host.errors import GuestError
from harness.hypervisor.events import EventError, fence
from harness.hypervisor.layout import GRANTER, STORE_PORTS, STORE_VECTOR
from harness.hypervisor.link import LinkEnd
from harness.store.connection import Connection
from harness.store.core import Store
from harness.store.errors import ProtocolError
from harness.store.ring import RingError, RingFault, RingPage
from harness.store.wire import Message, Op

ROUND = 64
"""Requests of one client that are handled before the others have their turn."""

RECEIVE_BYTES = 16 << 10
MAX_FDS = 64


class SocketCarrier:
    """A privileged process of Domain 0 on the UNIX socket.

    :param client: an accepted connection, which it owns from now on.
    """

    def __init__(self, store: Store, client: socket.socket) -> None:
        client.setblocking(False)
        self.socket = client
        self.connection = store.connect_tool()
        self.closed = False
        self._store = store
        self._fds: list[int] = []
        self._ended = False

    @property
    def interest(self) -> int:
        """What to wait for: no more requests while there are some, or while answers are not being taken."""
        output = self.connection.output
        reading = 0 if self._ended or self._backlog else selectors.EVENT_READ
        return reading | (selectors.EVENT_WRITE if len(output) else 0)

    def receive(self) -> None:
        """Take in what has arrived."""
        if self._ended or self._backlog:
            return
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, RECEIVE_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self.closed = True
            return
        self._fds += fds
        self._ended = not data
        self.closed = self.closed or len(self._fds) > MAX_FDS
        self.connection.decoder.feed(data)

    @property
    def _backlog(self) -> bool:
        """Whether what has arrived is enough for now."""
        return self.connection.full or self.connection.decoder.ready

    def serve(self) -> None:
        """Handle requests, a round at most, and send what can be sent."""
        handled = 0
        try:
            while handled < ROUND and (message := self.connection.next_message()) is not None:
                self._store.handle(self.connection, message, self._fds)
                if message.type == Op.INTRODUCE:
                    self._close_fds()
                handled += 1
        except ProtocolError as error:
            print(f"a client was disconnected: {error}", file=sys.stderr)
            self.closed = True
        self.flush()

    @property
    def busy(self) -> bool:
        """Whether there is more to do without waiting for anything."""
        return self.connection.has_work

    def flush(self) -> None:
        """Send as much as the client takes; one that lets its watch events pile up is given up."""
        output = self.connection.output
        if output.overflowed:
            print("a client was disconnected: it does not take its watch events", file=sys.stderr)
            self.closed = True
        try:
            while len(output):
                output.sent(self.socket.send(output.head()))
        except BlockingIOError:
            return
        except OSError:
            self.closed = True
        self.closed = self.closed or (self._ended and not self.connection.has_work)

    def close(self) -> None:
        self._close_fds()
        self.socket.close()

    def _close_fds(self) -> None:
        """Close those that came and were not made use of: they were for the request just handled, if for any."""
        for descriptor in self._fds:
            os.close(descriptor)
        self._fds.clear()


class RingCarrier:
    """A domain on its ring page.

    :param link: Domain 0's end of the domain's link, which it owns from now on.
    :param page: the ring page in it.
    """

    def __init__(self, store: Store, connection: Connection, link: LinkEnd, page: RingPage) -> None:
        self.link = link
        self.closed = False
        self._store = store
        self._connection = connection
        self._page = page
        # What a predecessor has left half read or half written makes no sense to anybody else.
        self._failed = page.given_up

    @classmethod
    def open(cls, store: Store, connection: Connection, frame: int, port: int, fds: list[int]) -> RingCarrier:
        """Connect to the ring page in a frame of the link that the descriptors are an end of.

        :param port: the domain's own port of the event channel.
        :raise GuestError: the link is not this domain's, or has no such port.
        :raise OSError, ValueError, IndexError: the descriptors or the frame make no sense.
        """
        link = LinkEnd.from_fds(fds, vector=STORE_VECTOR, ports=STORE_PORTS)
        own_port = STORE_PORTS[0]
        domid = link.layout.domid[GRANTER]
        if domid != connection.who.domid:
            raise GuestError(f"the link of domain {domid} was given for domain {connection.who.domid}")
        if link.events.status(own_port)[1] != port:
            raise GuestError(f"port {port} of domain {domid} is not bound to port {own_port} of Domain 0")
        page = RingPage(link.frame(frame), connection.features, fence=fence, notify=lambda: link.events.send(own_port))
        page.announce(port)
        return cls(store, connection, link, page)

    def receive(self) -> None:
        """Put the event away: what it is about is found in the page."""
        self.link.events.acknowledge()

    def serve(self) -> None:
        """Handle requests, a round at most, and write what can be written."""
        if self.closed:
            return
        self.link.events.pending()
        if self._page.wants_reconnect:
            self._store.reset(self._connection)
            self._page.reconnect()
            self._failed = False
        self._guarded(self._exchange)

    def flush(self) -> None:
        """Write what the requests of others have caused meanwhile."""
        if not self.closed:
            self._guarded(self._write)

    def close(self) -> None:
        """Stop serving; whoever runs the loop takes it out of there and closes the link."""
        self.closed = True

    def reset(self) -> None:
        """Begin anew, as the domain itself can ask for, too."""
        self._page.reconnect()
        self._page.signal()
        self._failed = False

    @property
    def busy(self) -> bool:
        """Whether there is more to do without waiting for anything."""
        if self.closed or self._failed or self._connection.full:
            return False
        return self._connection.decoder.ready or self._page.has_requests

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            if not self._failed:
                work()
        except RingError as error:
            self._give_up(error.fault, str(error))
        except ProtocolError as error:
            self._give_up(RingFault.PROTOCOL, str(error))
        try:
            self._page.signal()
        except EventError as error:
            self._give_up(RingFault.COMMUNICATION, str(error))

    def _exchange(self) -> None:
        handled = 0
        while handled < ROUND and (message := self._next()) is not None:
            self._store.handle(self._connection, message, [])
            self._write()
            handled += 1
        self._write()

    def _next(self) -> Message | None:
        message = self._connection.next_message()
        while message is None and not self._connection.full:
            data = self._page.receive()
            if not data:
                return None
            self._connection.decoder.feed(data)
            message = self._connection.next_message()
        return message

    def _write(self) -> None:
        output = self._connection.output
        output.expire()
        while len(output) and (count := self._page.send(output.head())):
            output.sent(count)

    def _give_up(self, fault: RingFault, why: str) -> None:
        """Stop talking to this domain, until it asks to reconnect. It lives on, so nobody else is told."""
        print(f"the ring of domain {self._connection.who.domid} was given up: {why}", file=sys.stderr)
        self._failed = True
        self._store.reset(self._connection)
        self._page.fail(fault)
