"""One client of the store, whatever carries its bytes: what it has sent, has still to take, and has open."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from harness.store.credit import ConflictCredit
from harness.store.errors import StoreError
from harness.store.permissions import Requester
from harness.store.quotas import Accounts, exceeds
from harness.store.transactions import Transaction
from harness.store.wire import PAYLOAD_MAX, Decoder, Message, Op, strings

TOOL_REPLIES = 256
"""So many answers a process of Domain 0 may leave lying before no further request of it is looked at."""

TOOL_EVENT_BYTES = 4 << 20
"""So many bytes of watch events it may leave lying before it is given up."""

EVENT_SECONDS = 20.0
"""So long a watch event waits for a domain that does not take it."""


class Window:
    """How many requests of a client are outstanding."""

    def __init__(self) -> None:
        self.count = 0


class Outstanding:
    """One request, until its answer is taken; of a domain, until the watch events it has caused are taken, too.

    Those wait with others, whose memory a domain could fill otherwise, without ever waiting itself.
    """

    __slots__ = ("_holders", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._holders = 0

    def hold(self) -> None:
        """One more message waits that belongs to the request."""
        self._holders += 1
        if self._holders == 1:
            self._window.count += 1

    def release(self) -> None:
        """One of them waits no longer."""
        self._holders -= 1
        if self._holders == 0:
            self._window.count -= 1


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    request: Outstanding | None
    is_event: bool = False
    expires: float | None = None


class Output:
    """Packed messages on their way to a client; bounded, since a client may never take them."""

    def __init__(self, who: Requester, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._who = who
        self._accounts = accounts
        self._clock = clock
        self._queue: deque[_Outgoing] = deque()
        self._waiting_events: set[bytes] = set()
        self._event_bytes = 0
        self._sent = 0
        self.overflowed = False
        """A watch event had to be dropped for lack of room."""

    def __len__(self) -> int:
        return len(self._queue)

    def reply(self, message: Message, request: Outstanding | None = None) -> None:
        self._add(_Outgoing(message.pack(), request))

    def event(self, path: str, token: bytes, cause: Outstanding | None = None) -> None:
        """Queue a watch event, unless the same is waiting already or it cannot be sent.

        A token near the limit makes an event that fits into no message: there is nobody to tell, so it is dropped.
        Domains that come and go are each told of, even if nothing but their number would tell them apart.

        :param cause: the request of a domain that has caused it.
        """
        payload = strings(path, token)
        if len(payload) > PAYLOAD_MAX:
            return
        data = Message(Op.WATCH_EVENT, 0, 0, payload).pack()
        if data in self._waiting_events and not path.startswith("@"):
            return
        if self._has_no_room(len(data)):
            self.overflowed = True
            return
        expires = None if self._who.privileged else self._clock() + EVENT_SECONDS
        self._waiting_events.add(data)
        self._event_bytes += len(data)
        self._add(_Outgoing(data, cause, is_event=True, expires=expires))

    def _has_no_room(self, size: int) -> bool:
        if self._who.privileged:
            return self._event_bytes + size > TOOL_EVENT_BYTES
        return exceeds(self._accounts.of(self._who).memory, self._accounts.memory[self._who.domid] + size)

    def expire(self) -> None:
        """Drop the watch events that have waited too long; not one whose first bytes are on their way."""
        now = self._clock()
        oldest = next((out.expires for out in self._queue if out.expires is not None), None)
        if oldest is None or oldest > now:
            return
        waiting, self._queue = self._queue, deque()
        for out in waiting:
            begun = self._sent and out is waiting[0]
            if out.expires is not None and out.expires <= now and not begun:
                self._forget(out)
            else:
                self._queue.append(out)

    def head(self) -> memoryview:
        """The bytes to send next; empty when there are none."""
        return memoryview(self._queue[0].data)[self._sent :] if self._queue else memoryview(b"")

    def sent(self, count: int) -> None:
        """So many bytes of the head are on their way."""
        self._sent += count
        if self._queue and self._sent == len(self._queue[0].data):
            self._sent = 0
            self._forget(self._queue.popleft())

    def clear(self) -> None:
        """Drop everything."""
        while self._queue:
            self._forget(self._queue.popleft())
        self._sent = 0
        self.overflowed = False

    def _add(self, out: _Outgoing) -> None:
        if out.request is not None:
            out.request.hold()
        self._accounts.memory[self._who.domid] += len(out.data)
        self._queue.append(out)

    def _forget(self, out: _Outgoing) -> None:
        self._accounts.memory[self._who.domid] -= len(out.data)
        if out.request is not None:
            out.request.release()
        if out.is_event:
            self._waiting_events.discard(out.data)
            self._event_bytes -= len(out.data)


class Connection:
    """The state of one client.

    :param who: what it may do; changes when a target is set.
    :param credit: what a domain has for changes that conflict with the transactions of others.
    :param features: of those of the ring page, what this server does for this client.
    """

    def __init__(
        self, who: Requester, accounts: Accounts, credit: ConflictCredit, features: int, clock: Callable[[], float]
    ) -> None:
        self.who = who
        self.features = features
        self.decoder = Decoder()
        self.output = Output(who, accounts, clock)
        self.transactions: dict[int, Transaction] = {}
        self._accounts = accounts
        self._credit = credit
        self._window = Window()
        self._next_transaction = 1

    def reset(self) -> None:
        """Forget everything that is half done."""
        self.decoder = Decoder()
        self.output.clear()
        # Events that wait with others hold requests of the old window.
        self._window = Window()
        self.close_transactions()

    def close_transactions(self) -> None:
        """Abort all transactions."""
        for transaction in self.transactions.values():
            transaction.close()
        self.transactions.clear()

    def begin(self) -> Outstanding:
        """A request is being handled."""
        return Outstanding(self._window)

    @property
    def outstanding(self) -> int:
        """Requests whose answers, or the events they have caused, are not yet taken."""
        return self._window.count

    @property
    def full(self) -> bool:
        """No further request may be looked at for now."""
        if self.who.privileged:
            return self._window.count >= TOOL_REPLIES
        limit = self._accounts.of(self.who).outstanding
        return (
            0 < limit <= self._window.count
            or self._accounts.over_memory(self.who)
            or self._credit.is_used_up(self.who.domid)
        )

    def next_message(self) -> Message | None:
        """The next request to handle; None if none is complete or none may be looked at.

        :raise ProtocolError: the stream cannot be understood.
        """
        return None if self.full else self.decoder.next()

    @property
    def has_work(self) -> bool:
        """Whether :meth:`next_message` has something to give."""
        return self.decoder.ready and not self.full

    def open_transaction(self, transaction: Transaction) -> int:
        """Give it an ID that is unused here; never 0, which means none."""
        while self._next_transaction in self.transactions:
            self._next_transaction = self._next_transaction % 0xFFFFFFFF + 1
        number = self._next_transaction
        self._next_transaction = number % 0xFFFFFFFF + 1
        self.transactions[number] = transaction
        return number

    def close_transaction(self, number: int) -> Transaction:
        """Take it out: it is to be committed, or to be forgotten.

        :raise StoreError: ENOENT, there is none.
        """
        transaction = self.transaction(number)
        del self.transactions[number]
        transaction.close()
        return transaction

    def transaction(self, number: int) -> Transaction:
        """:raise StoreError: ENOENT, there is none."""
        try:
            return self.transactions[number]
        except KeyError:
            raise StoreError("ENOENT") from None
