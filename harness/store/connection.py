"""One client of the store, whatever carries its bytes: what it has sent, has still to take, and has open."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from harness.store.errors import StoreError
from harness.store.permissions import Requester
from harness.store.transactions import Transaction
from harness.store.wire import PAYLOAD_MAX, Decoder, Message, Op, strings


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a client may leave lying with the server.

    :param replies: with so many answers not taken, no further request of it is looked at.
    :param event_bytes: watch events not taken.
    """

    replies: int
    event_bytes: int


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    is_event: bool


class Output:
    """Packed messages on their way to a client; bounded, since a client may never take them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: deque[_Outgoing] = deque()
        self._events: set[bytes] = set()
        self._event_bytes = 0
        self._sent = 0
        self.overflowed = False
        """A watch event had to be dropped for lack of room."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """No further request may be looked at."""
        return len(self._queue) - len(self._events) >= self._limits.replies

    def reply(self, message: Message) -> None:
        self._queue.append(_Outgoing(message.pack(), is_event=False))

    def event(self, path: str, token: bytes) -> None:
        """Queue a watch event, unless the same is waiting already or it cannot be sent.

        A token near the limit makes an event that fits into no message: there is nobody to tell, so it is dropped.
        """
        payload = strings(path, token)
        if len(payload) > PAYLOAD_MAX:
            return
        data = Message(Op.WATCH_EVENT, 0, 0, payload).pack()
        if data in self._events:
            return
        if self._event_bytes + len(data) > self._limits.event_bytes:
            self.overflowed = True
            return
        self._events.add(data)
        self._event_bytes += len(data)
        self._queue.append(_Outgoing(data, is_event=True))

    def head(self) -> memoryview:
        """The bytes to send next; empty when there are none."""
        return memoryview(self._queue[0].data)[self._sent :] if self._queue else memoryview(b"")

    def sent(self, count: int) -> None:
        """So many bytes of the head are on their way."""
        self._sent += count
        if self._queue and self._sent == len(self._queue[0].data):
            done = self._queue.popleft()
            self._sent = 0
            if done.is_event:
                self._events.discard(done.data)
                self._event_bytes -= len(done.data)


class Connection:
    """The state of one client.

    :param who: what it may do; changes when a target is set.
    """

    def __init__(self, who: Requester, limits: Limits) -> None:
        self.who = who
        self._limits = limits
        self._next_transaction = 1
        self.reset()

    def reset(self) -> None:
        """Forget everything that is half done."""
        self.decoder = Decoder()
        self.output = Output(self._limits)
        self.transactions: dict[int, Transaction] = {}

    def next_message(self) -> Message | None:
        """The next request to handle; None if none is complete or its answers are not being taken.

        :raise ProtocolError: the stream cannot be understood.
        """
        return None if self.output.full else self.decoder.next()

    @property
    def has_work(self) -> bool:
        """Whether :meth:`next_message` has something to give."""
        return self.decoder.ready and not self.output.full

    def open_transaction(self, transaction: Transaction) -> int:
        """Give it an ID that is unused here; never 0, which means none."""
        while self._next_transaction in self.transactions:
            self._next_transaction = self._next_transaction % 0xFFFFFFFF + 1
        number = self._next_transaction
        self._next_transaction = number % 0xFFFFFFFF + 1
        self.transactions[number] = transaction
        return number

    def transaction(self, number: int) -> Transaction:
        """:raise StoreError: ENOENT, there is none."""
        try:
            return self.transactions[number]
        except KeyError:
            raise StoreError("ENOENT") from None
