"""How the processes of Domain 0 talk to the store: one connection, any number of threads."""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Condition, Lock
from typing import Self, TypeVar

from harness.host import service
from harness.host.closing import Closing
from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.store.errors import ProtocolError, StoreError
from harness.store.nodes import NodeClient
from harness.store.wire import PAYLOAD_MAX, Decoder, Message, Op, split, strings

SERVICE = "store"
MODULE = "harness.store.server"

ANSWER_SECONDS = 30.0
ATTEMPTS = 100
"""How often a transaction is done again before its writer gives up against others that change the same nodes."""

_RECEIVE_BYTES = 16 << 10

Result = TypeVar("Result")


class Transaction(NodeClient):
    """The nodes as one transaction sees them. Made by :meth:`StoreClient.transaction`."""

    def __init__(self, client: StoreClient, number: int) -> None:
        self._client = client
        self._number = number

    def _ask(self, operation: Op, path: str, payload: bytes) -> bytes:
        return self._client.request(operation, path, payload, transaction=self._number)


class StoreClient(Closing, NodeClient):
    """A connection to the store, privileged as all processes of Domain 0 are.

    There is no reader thread: whoever waits for an answer or an event reads the socket, also for the others.

    :param connection: a connected socket, which it owns from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = Lock()
        self._changed = Condition()
        self._reading = False
        self._gone = False
        self._closed = False
        self._decoder = Decoder()
        self._answers: dict[int, Message | None] = {}
        self._last_request = 0
        self._events: deque[tuple[str, str]] = deque()
        self._incoming = select.poll()
        self._incoming.register(connection, select.POLLIN)
        # Readable while an event waits in the socket or in the queue above: that is what callers may wait on.
        self._queued = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._readable = select.epoll()
        self._readable.register(self._queued, select.EPOLLIN)
        self._readable.register(connection, select.EPOLLIN)

    @classmethod
    def connect(cls) -> Self:
        """Connect to the store, starting it if it is not running."""
        return cls(service.connect(SERVICE, MODULE))

    @classmethod
    def connect_if_running(cls) -> Self | None:
        """Connect to the store, or return None when nobody has started it."""
        connection = service.connect_if_running(SERVICE)
        return None if connection is None else cls(connection)

    def fileno(self) -> int:
        """A descriptor that is readable when there may be an event: call :meth:`poll_event` until it gives None."""
        return self._readable.fileno()

    @property
    def connection(self) -> int:
        """The descriptor of the connection itself, which hangs up when the store ends."""
        return self._socket.fileno()

    def watch(self, path: str, token: str, *, depth: int | None = None) -> None:
        """Ask for an event whenever the node or one below it changes; one comes at once.

        :param token: comes back with each event.
        :param depth: how many levels below the node matter; None for all.
        """
        levels = [] if depth is None else [str(depth)]
        self.request(Op.WATCH, path, strings(path, token, *levels))

    def unwatch(self, path: str, token: str) -> None:
        """Events that are on their way already may still arrive.

        :raise StoreError: ENOENT, there is no such watch.
        """
        self.request(Op.UNWATCH, path, strings(path, token))

    def read_event(self, deadline: Deadline) -> tuple[str, str]:
        """Wait for a watch event and return its path and token.

        :raise DeadlineExpired: none came.
        """
        return self._wait(self._take_event, deadline)

    def poll_event(self) -> tuple[str, str] | None:
        """A watch event that has arrived, or None.

        :raise HostError: the store has gone; there will be no more events.
        """
        with self._changed:
            event = self._take_event()
            if event is None and not self._reading:
                self._receive(0.0)
                event = self._take_event()
            if event is None and self._gone:
                raise self._lost()
            return event

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Do everything inside at once or, when it ends with an error, not at all.

        :raise StoreError: EAGAIN at its end, others changed what it had read; see :meth:`transact`.
        """
        number = int(split(self.request(Op.TRANSACTION_START, "", b"\0"))[0])
        try:
            yield Transaction(self, number)
        except BaseException:
            with suppress(StoreError, HostError):
                self.request(Op.TRANSACTION_END, "", strings("F"), transaction=number)
            raise
        self.request(Op.TRANSACTION_END, "", strings("T"), transaction=number)

    def transact(self, body: Callable[[Transaction], Result]) -> Result:
        """Call ``body`` with a transaction, again and again until nobody interferes, and return its result."""
        for _ in range(ATTEMPTS - 1):
            try:
                with self.transaction() as nodes:
                    return body(nodes)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise
        with self.transaction() as nodes:
            return body(nodes)

    def introduce(self, domid: int, gfn: int, port: int, fds: Sequence[int]) -> None:
        """Connect a domain to the store. It is released when this connection closes, at the latest.

        :param gfn: the frame of the ring page in the domain's link.
        :param port: the domain's own port of the store's event channel.
        :param fds: Domain 0's end of the link: memory, own eventfd, the domain's eventfds.
        """
        self.request(Op.INTRODUCE, f"domain {domid}", strings(str(domid), str(gfn), str(port)), fds=fds)

    def release(self, domid: int) -> None:
        """Disconnect a domain and remove everything the store knows of it."""
        self.request(Op.RELEASE, f"domain {domid}", strings(str(domid)))

    def is_introduced(self, domid: int) -> bool:
        return self.request(Op.IS_DOMAIN_INTRODUCED, f"domain {domid}", strings(str(domid))) == b"T\0"

    def close(self) -> None:
        """Leave the store; whoever waits in another thread gets an error. May be called again."""
        with self._changed:
            if self._closed:
                return
            self._closed = self._gone = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            # Who reads now sees the end of the stream; only then the descriptors may go.
            self._changed.wait_for(lambda: not self._reading)
            self._changed.notify_all()
        self._readable.close()
        self._socket.close()
        os.close(self._queued)

    def request(
        self, operation: Op, path: str, payload: bytes, *, transaction: int = 0, fds: Sequence[int] = ()
    ) -> bytes:
        """Send any request and return the payload of its answer.

        :param path: what the request is about, for the text of an error.
        :raise StoreError: the store refuses it, or it does not fit into a message.
        :raise HostError: the store has gone.
        """
        if len(payload) > PAYLOAD_MAX:
            raise StoreError("E2BIG", operation.name, path)
        if "\0" in path:
            raise StoreError("EINVAL", operation.name, path)
        with self._changed:
            self._last_request = number = self._last_request % 0xFFFFFFFF + 1
            self._answers[number] = None
        try:
            self._send(Message(operation, number, transaction, payload).pack(), fds)
            deadline = Deadline(ANSWER_SECONDS, f"the store's answer to {operation.name} {path}".rstrip())
            answer = self._wait(lambda: self._answers[number], deadline)
        finally:
            with self._changed:
                del self._answers[number]
        if answer.type == Op.ERROR:
            raise StoreError(answer.payload.rstrip(b"\0").decode(errors="replace"), operation.name, path)
        return answer.payload

    def _ask(self, operation: Op, path: str, payload: bytes) -> bytes:
        return self.request(operation, path, payload)

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        with self._sending:
            try:
                sent = socket.send_fds(self._socket, [data], fds) if fds else 0
                self._socket.sendall(data[sent:])
            except OSError as error:
                raise self._lost() from error

    def _wait(self, look: Callable[[], Result | None], deadline: Deadline) -> Result:
        """Wait until ``look`` finds something, reading the socket unless another thread does."""
        with self._changed:
            while True:
                found = look()
                if found is not None:
                    return found
                if self._gone:
                    raise self._lost()
                left = deadline.left
                if self._reading:
                    self._changed.wait(left)
                else:
                    self._receive(left)
                if not left and look() is None:
                    raise deadline.error()

    def _receive(self, seconds: float) -> None:
        """Wait for bytes of the server, with the lock let go meanwhile, and hand out what they complete."""
        self._reading = True
        self._changed.release()
        data: bytes | None = None
        try:
            if self._incoming.poll(seconds * 1000):
                data = self._socket.recv(_RECEIVE_BYTES)
        except OSError:
            data = b""
        finally:
            self._changed.acquire()
            self._reading = False
            self._changed.notify_all()
        if data:
            self._hand_out(data)
        elif data is not None:
            self._gone = True

    def _hand_out(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while (message := self._decoder.next()) is not None:
                if message.type == Op.WATCH_EVENT:
                    path, token, *_ = split(message.payload)
                    self._events.append((path.decode(), token.decode(errors="surrogateescape")))
                    os.eventfd_write(self._queued, 1)
                elif message.request_id in self._answers:
                    self._answers[message.request_id] = message
        except (ProtocolError, StoreError):
            self._gone = True

    def _take_event(self) -> tuple[str, str] | None:
        if not self._events:
            return None
        event = self._events.popleft()
        if not self._events:
            os.eventfd_read(self._queued)
        return event

    def _lost(self) -> HostError:
        return HostError(
            "the connection to the XenStore service is gone",
            hint=f"its log, while it runs, is {service.socket_path(SERVICE).with_suffix('.log')}",
        )
