"""Clients of a store that lives in the test's own process: they speak the wire protocol, nothing carries it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.store.connection import Connection
from harness.store.core import DomainRing, Store
from harness.store.errors import StoreError
from harness.store.quotas import Quota
from harness.store.wire import PAYLOAD_MAX, Decoder, Message, Op, split, strings


class NoRing:
    """A domain that is reached by calling."""

    def __init__(self) -> None:
        self.closed = False
        self.resets = 0

    def close(self) -> None:
        self.closed = True

    def reset(self) -> None:
        self.resets += 1


@dataclass
class Clock:
    """Time that passes when the test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def small_store(quota: Quota | None = None, clock: Callable[[], float] = time.monotonic) -> Store:
    """A store whose domains need no ring page."""

    def connect(_connection: Connection, _frame: int, _port: int, _fds: list[int]) -> DomainRing:
        return NoRing()

    return Store(connect, quota, clock)


@dataclass
class Peer:
    """One client: asks, and keeps the watch events that come along."""

    store: Store
    connection: Connection
    transaction: int = 0
    events: list[tuple[str, str]] = field(default_factory=list)
    _decoder: Decoder = field(default_factory=Decoder)

    @classmethod
    def tool(cls, store: Store) -> Peer:
        return cls(store, store.connect_tool())

    @classmethod
    def domain(cls, store: Store, domid: int, by: Peer | None = None) -> Peer:
        """An introduced domain.

        :param by: whose it is; by default nobody else's.
        """
        (by or Peer.tool(store)).ask(Op.INTRODUCE, str(domid), "1", "1")
        return cls(store, store.domains[domid].connection)

    def ask(self, operation: int, *parts: str | bytes, raw: bytes = b"") -> bytes:
        """The payload of the answer.

        :param raw: stands behind the strings.
        :raise StoreError: the answer is an error.
        """
        self.store.handle(self.connection, Message(operation, 77, self.transaction, strings(*parts) + raw), [])
        answers = self.receive()
        assert len(answers) == 1
        answer = answers[0]
        assert (answer.request_id, answer.transaction_id) == (77, self.transaction)
        if answer.type == Op.ERROR:
            raise StoreError(split(answer.payload)[0].decode())
        assert answer.type == operation
        return answer.payload

    def take(self, limit: int) -> None:
        """Take some bytes of the next message."""
        head = bytes(self.connection.output.head()[:limit])
        self.connection.output.sent(len(head))
        self._decoder.feed(head)

    def receive(self) -> list[Message]:
        """Take what the store has for this client; events are put aside."""
        while len(self.connection.output):
            self.take(PAYLOAD_MAX)
        answers = []
        while (message := self._decoder.next()) is not None:
            if message.type == Op.WATCH_EVENT:
                assert (message.request_id, message.transaction_id) == (0, 0)
                path, token = split(message.payload)
                self.events.append((path.decode(), token.decode()))
            else:
                answers.append(message)
        return answers

    def serve(self) -> int:
        """Have the store handle what lies in the connection's decoder, as far as it will now; returns how much."""
        handled = 0
        while (message := self.connection.next_message()) is not None:
            self.store.handle(self.connection, message, [])
            handled += 1
        return handled

    def heard(self) -> list[tuple[str, str]]:
        """The watch events since the last call."""
        assert not self.receive()
        # The list itself is shared with the transactions of this client.
        events = list(self.events)
        self.events.clear()
        return events

    def refused(self, operation: int, *parts: str | bytes, raw: bytes = b"") -> str:
        """The name of the error that the store must answer with."""
        try:
            answer = self.ask(operation, *parts, raw=raw)
        except StoreError as error:
            return error.name
        raise AssertionError(f"{parts} was not refused but answered with {answer!r}")

    def read(self, path: str) -> bytes:
        return self.ask(Op.READ, path)

    def write(self, path: str, value: str = "") -> None:
        assert self.ask(Op.WRITE, path, raw=value.encode()) == b"OK\0"

    def rm(self, path: str) -> None:
        assert self.ask(Op.RM, path) == b"OK\0"

    def directory(self, path: str) -> list[str]:
        listing = self.ask(Op.DIRECTORY, path)
        return [name.decode() for name in split(listing)] if listing else []

    def set_perms(self, path: str, *entries: str) -> None:
        assert self.ask(Op.SET_PERMS, path, *entries) == b"OK\0"

    def perms(self, path: str) -> list[str]:
        return [entry.decode() for entry in split(self.ask(Op.GET_PERMS, path))]

    def watch(self, path: str, token: str, *depth: str) -> None:
        """Set a watch and take its first event."""
        assert self.ask(Op.WATCH, path, token, *depth) == b"OK\0"
        assert self.heard() == [(path, token)]

    def begin(self) -> Peer:
        """The same client inside a new transaction."""
        number = int(split(self.ask(Op.TRANSACTION_START, ""))[0])
        assert number > 0
        return Peer(self.store, self.connection, number, self.events, self._decoder)

    def end(self, *, commit: bool = True) -> None:
        """:raise StoreError: EAGAIN, ENOSPC."""
        assert self.ask(Op.TRANSACTION_END, "T" if commit else "F") == b"OK\0"
