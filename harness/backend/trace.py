"""What a backend process tells whoever traces it, as it happens: records of a fixed size, into a socket.

Nothing here waits. What the socket does not take is kept up to a bound; beyond that, records are dropped and counted.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol, runtime_checkable

from harness.ring.blkif import Operation
from harness.ring.ring import U32

BATCH = 512
"""Records after which they are sent, unless there has been time before."""
BACKLOG = 1 << 15
"""Records that wait for the reader, at most."""
DELAY = 0.05
"""Seconds that a record waits for others, at most."""
RECORD = struct.Struct("<QBBHIQQIi")
"""When (nanoseconds of CLOCK_MONOTONIC), what, operation, ring, index, id, sector, size, and a number."""
NAME = struct.Struct("<QBBH28s")
"""The record that gives a ring's number a name."""

INDIRECT = int(Operation.INDIRECT)


class What(IntEnum):
    """What a record is about, and what its number is."""

    NAME = 0
    TAKEN = 1
    """A request has been read from the ring; number of segments."""
    DISK_BEGINS = 2
    DISK_ENDS = 3
    ANSWERED = 4
    """A response is about to be published, at that index; status."""
    SENT = 5
    """The frontend is notified; port."""
    HELD_OFF = 6
    """The frontend does not want to be notified; port."""
    HEARD = 7
    """An event has come; port."""
    SLEEPS = 8
    WAKES = 9
    DROPPED = 10
    """So many records before this one are missing; size."""


class NetOperation(IntEnum):
    """Operations of a network card, which have no numbers of their own: beside those of a disk."""

    TRANSMIT = 0x80
    RECEIVE = 0x81


class Record(NamedTuple):
    """One record as it was sent; ``name`` is of the ring, empty when it is about none."""

    time: int
    what: What
    operation: int
    name: str
    position: int
    id: int
    sector: int
    size: int
    number: int


@runtime_checkable
class Traceable(Protocol):
    """A ring that tells what happens to it while ``trace`` is not None."""

    name: str
    trace: RingTrace | None


class Trace:
    """The writing end, of one thread except where it says otherwise.

    :param connection: to the reader, from now on non-blocking.
    :param later: called with the seconds after which :meth:`flush` is to be called, 0 when it no longer needs to be.
    """

    def __init__(self, connection: socket.socket, later: Callable[[float], None]) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._later = later
        self._records: deque[bytes] = deque()
        self._unsent = b""
        self._dropped = 0
        self._expected = False
        self._names: dict[str, int] = {}
        self._lock = threading.Lock()

    def follow(self, worker: object) -> None:
        """Have a worker tell us, if it is a ring."""
        if not isinstance(worker, Traceable):
            return
        name = worker.name
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = len(self._names) + 1
            self._records.append(NAME.pack(0, What.NAME, 0, number, name.encode()[:28]).ljust(RECORD.size, b"\0"))
        worker.trace = RingTrace(self, number)

    def put(self, what: int, *fields: int) -> None:
        """Tell something that happens now, see ``RECORD``."""
        self.keep(what, *fields)
        if len(self._records) >= BATCH:
            self.flush()
        elif not self._expected:
            self._expected = True
            self._later(DELAY)

    def keep(
        self,
        what: int,
        operation: int = 0,
        ring: int = 0,
        index: int = 0,
        request: int = 0,
        sector: int = 0,
        size: int = 0,
        number: int = 0,
    ) -> None:
        """As ``put``, from any thread, but to be sent only with the next."""
        with self._lock:
            if len(self._records) < BACKLOG:
                record = RECORD.pack(
                    time.monotonic_ns(), what, operation, ring, index & U32, request, sector, size, number
                )
                self._records.append(record)
            else:
                self._dropped += 1

    def heard(self, ports: list[int]) -> None:
        """Events have come."""
        for port in ports:
            self.put(What.HEARD, 0, 0, 0, 0, 0, 0, port)

    def sleeps(self) -> None:
        """The process is about to sleep: what there is, is sent."""
        self.keep(What.SLEEPS)
        self.flush()

    def wakes(self) -> None:
        self.put(What.WAKES)

    def flush(self) -> None:
        """Send what the reader takes, and try again later if that is not all.

        The reader may have gone: whoever watches the socket sees that.
        """
        while self._fill():
            try:
                done = self._connection.send(self._unsent)
            except OSError:
                break
            self._unsent = self._unsent[done:]
        behind = bool(self._unsent)
        if behind or self._expected:
            self._later(DELAY if behind else 0)
        self._expected = behind

    def _fill(self) -> bool:
        if not self._unsent:
            with self._lock:
                if self._dropped:
                    dropped = min(self._dropped, U32)
                    self._records.append(RECORD.pack(time.monotonic_ns(), What.DROPPED, 0, 0, 0, 0, 0, dropped, 0))
                    self._dropped = 0
                self._unsent = b"".join(self._records)
                self._records.clear()
        return bool(self._unsent)


class RingTrace:
    """What is told about one ring. An index may be one less than 0: they run freely modulo 2**32."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace = trace
        self._number = number

    def taken(self, index: int, operation: int, count: int, halfword: int, request: int, sector: int) -> None:
        """A request of a disk has been read from the ring; the fields are those of ``blkif.REQUEST``."""
        if operation == INDIRECT:
            operation, count = count, halfword
        self._trace.put(What.TAKEN, operation, self._number, index, request, sector, 0, count)

    def sent(self, index: int, request: int, size: int) -> None:
        """A packet to transmit has been read from the ring."""
        self._trace.put(What.TAKEN, NetOperation.TRANSMIT, self._number, index, request, 0, size)

    def received(self, index: int, request: int, size: int) -> None:
        """A packet is about to be given to the guest."""
        self._trace.put(What.ANSWERED, NetOperation.RECEIVE, self._number, index, request, 0, size)

    def answered(self, index: int, request: int, status: int) -> None:
        """A response is about to be published."""
        self._trace.put(What.ANSWERED, 0, self._number, index, request, 0, 0, status)

    def pushed(self, port: int, notify: bool) -> None:
        """Responses have been published; does the frontend want to be notified of them?"""
        self._trace.put(What.SENT if notify else What.HELD_OFF, 0, self._number, 0, 0, 0, 0, port)

    def disk_begins(self, request: int, operation: int, size: int) -> None:
        """The operating system is asked to read or write for a request."""
        self._trace.put(What.DISK_BEGINS, operation, self._number, 0, request, 0, size)

    def disk_ends(self, request: int) -> None:
        self._trace.put(What.DISK_ENDS, 0, self._number, 0, request)

    def on_disk(self, request: int, operation: int, action: Callable[[], None]) -> Callable[[], None]:
        """An action that another thread does, with a record before and after it."""

        def told() -> None:
            self._trace.keep(What.DISK_BEGINS, operation, self._number, 0, request)
            try:
                action()
            finally:
                self._trace.keep(What.DISK_ENDS, 0, self._number, 0, request)

        return told


class Reader:
    """The reading end: makes records of bytes, in whatever pieces they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._names: dict[int, str] = {0: ""}

    def records(self, data: bytes) -> Iterator[Record]:
        """The records that are complete now.

        :raise ValueError: these are no records.
        """
        data = self._rest + data
        whole = len(data) - len(data) % RECORD.size
        self._rest = data[whole:]
        for at in range(0, whole, RECORD.size):
            moment, what, operation, ring, *fields = RECORD.unpack_from(data, at)
            if what == What.NAME:
                name = NAME.unpack_from(data, at)[4]
                self._names[ring] = name.rstrip(b"\0").decode("ascii", "replace")
            else:
                yield Record(moment, What(what), operation, self._names.get(ring, "?"), *fields)
