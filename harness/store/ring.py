"""The ring page a domain talks to the store through (struct xenstore_domain_interface, xenstore-ring.txt).

The page belongs to the domain as much as to us: indices are read once per use, and checked; bytes are copied before
anybody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

RING_SIZE = 1024

_REQUESTS = 0
_RESPONSES = 1024

# Indices of the 32-bit words behind the two queues.
_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD, _FEATURES, _CONNECTION, _ERROR, _PORT = range(512, 520)

_CONNECTED = 0
_RECONNECT = 1

FEATURE_RECONNECTION = 1
FEATURE_ERROR = 2
FEATURE_WATCH_DEPTH = 4
FEATURE_ANY_DOMAIN = 8
FEATURES = FEATURE_RECONNECTION | FEATURE_ERROR | FEATURE_WATCH_DEPTH | FEATURE_ANY_DOMAIN

_MODULUS = 1 << 32


class RingFault(IntEnum):
    """Why a ring was given up (XENSTORE_ERROR_*)."""

    COMMUNICATION = 1
    RING_INDEX = 2
    PROTOCOL = 3


class RingError(Exception):
    """The other end has made the ring unusable."""

    def __init__(self, fault: RingFault, what: str) -> None:
        self.fault = fault
        super().__init__(what)


def orphan(page: memoryview) -> None:
    """Leave word in a page that its server is gone: the domain is to connect to another one, anew."""
    page.cast("I")[_ERROR] = RingFault.COMMUNICATION


class RingPage:
    """The server's end of a ring page.

    :param page: the 4096 bytes.
    :param features: what the domain is offered, of ``FEATURES``.
    :param fence: orders all accesses to memory before it and after it.
    :param notify: raises the event channel.
    """

    def __init__(
        self, page: memoryview, features: int, *, fence: Callable[[], None], notify: Callable[[], None]
    ) -> None:
        self._page = page
        # One 4-byte access per word: byte by byte, the domain could see half of a new index.
        self._words = page.cast("I")
        self._features = features
        self._updated = False
        self._fence = fence
        self._notify = notify

    def announce(self, port: int) -> None:
        """Tell the domain what this server can do, and its port.

        A guest that was told to wait in the state of reconnecting before we came is let go by :meth:`reconnect`.
        """
        self._set(_PORT, port)
        self._set(_FEATURES, self._features)

    @property
    def given_up(self) -> bool:
        """Whether this server, or one before it, will not read or write any more until the domain reconnects."""
        return bool(self._features & FEATURE_ERROR) and self._get(_ERROR) != 0

    @property
    def wants_reconnect(self) -> bool:
        return bool(self._features & FEATURE_RECONNECTION) and self._get(_CONNECTION) == _RECONNECT

    @property
    def has_requests(self) -> bool:
        return self._get(_REQ_PROD) != self._get(_REQ_CONS)

    def reconnect(self) -> None:
        """Empty both queues and tell the domain that it may start anew."""
        for word in (_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD, _ERROR):
            self._set(word, 0)
        self._fence()
        self._set(_CONNECTION, _CONNECTED)

    def fail(self, fault: RingFault) -> None:
        """Leave the reason why nothing more will be read or written."""
        if self._features & FEATURE_ERROR:
            self._set(_ERROR, fault)

    def receive(self) -> bytes:
        """Take what the domain has written; empty if there is nothing.

        :raise RingError: more is announced than the queue can hold.
        """
        consumed = self._get(_REQ_CONS)
        available = (self._get(_REQ_PROD) - consumed) % _MODULUS
        if available > RING_SIZE:
            raise RingError(RingFault.RING_INDEX, f"{available} bytes of requests in a queue of {RING_SIZE}")
        if not available:
            return b""
        self._fence()
        data = self._copy_out(_REQUESTS, consumed, available)
        self._fence()
        self._set(_REQ_CONS, (consumed + available) % _MODULUS)
        return data

    def send(self, data: memoryview) -> int:
        """Write as much as there is room for, and say how much that was.

        :raise RingError: more lies in the queue than it can hold.
        """
        produced = self._get(_RSP_PROD)
        waiting = (produced - self._get(_RSP_CONS)) % _MODULUS
        if waiting > RING_SIZE:
            raise RingError(RingFault.RING_INDEX, f"{waiting} bytes of answers in a queue of {RING_SIZE}")
        count = min(len(data), RING_SIZE - waiting)
        if not count:
            return 0
        self._fence()
        self._copy_in(_RESPONSES, produced, data[:count])
        self._fence()
        self._set(_RSP_PROD, (produced + count) % _MODULUS)
        return count

    def _copy_out(self, queue: int, index: int, count: int) -> bytes:
        start = index % RING_SIZE
        first = min(count, RING_SIZE - start)
        head = bytes(self._page[queue + start : queue + start + first])
        return head + bytes(self._page[queue : queue + count - first])

    def _copy_in(self, queue: int, index: int, data: memoryview) -> None:
        start = index % RING_SIZE
        first = min(len(data), RING_SIZE - start)
        self._page[queue + start : queue + start + first] = data[:first]
        self._page[queue : queue + len(data) - first] = data[first:]

    def signal(self) -> None:
        """Raise the event channel if anything was updated since the last time: call it after each round of work."""
        if self._updated:
            self._updated = False
            self._notify()

    def _get(self, word: int) -> int:
        return int(self._words[word])

    def _set(self, word: int, value: int) -> None:
        self._words[word] = value
        self._updated = True
