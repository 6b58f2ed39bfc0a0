"""The shared request/response queue of ring.h: producer and consumer indices, notification hold-off.

Both ends are here, over any contiguous writable memory; usually one page. Indices run freely modulo 2**32. An entry is
given out as its byte offset in the memory: the caller packs into or unpacks from it with a ``struct.Struct``, which
reads every field exactly once. That copy is what must be checked and used, never the entry.

``fence`` orders the stores before it before the loads after it, as the other end sees them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from harness.host.errors import GuestError

HEADER_SIZE = 64
"""Bytes of ``struct *_sring`` before its entries."""

U32 = 0xFFFFFFFF
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = range(4)
"""Indices into the header as an array of u32."""


class RingError(GuestError):
    """The other end has put an impossible index into a ring: nothing in it can be believed any more."""


def ring_size(memory_size: int, entry_size: int) -> int:
    """Entries of a ring: the largest power of two that fits behind the header.

    :raise ValueError: not even one fits.
    """
    entries = (memory_size - HEADER_SIZE) // entry_size
    if entries < 1:
        raise ValueError(f"no entry of {entry_size} bytes fits into a ring of {memory_size} bytes")
    return 1 << (entries.bit_length() - 1)


class _Ring(ABC):
    """What both ends have in common: one produces into the ring what the other consumes.

    :ivar notified: pushes of which the other end wanted to hear.
    :ivar held_off: pushes of which it did not.
    """

    __slots__ = (
        "_entry_size",
        "_fence",
        "_mask",
        "_published",
        "_words",
        "cons",
        "held_off",
        "memory",
        "notified",
        "prod_pvt",
        "size",
    )

    _prod: ClassVar[int]
    """Header word of our producer index."""
    _prod_event: ClassVar[int]
    """Header word in which the other end says at which of our indices it wants to be notified."""
    _cons_event: ClassVar[int]
    """Header word in which we say at which of the other end's indices we want to be notified."""

    def __init__(self, memory: memoryview, entry_size: int, fence: Callable[[], None], start: int) -> None:
        self.memory = memory
        self.size = ring_size(len(memory), entry_size)
        self.prod_pvt = start
        self.cons = start
        self.notified = 0
        self.held_off = 0
        self._published = start
        self._mask = self.size - 1
        self._entry_size = entry_size
        self._words = memory[:HEADER_SIZE].cast("I")
        self._fence = fence

    @abstractmethod
    def unconsumed(self) -> int:
        """Number of entries that may be taken now.

        :raise RingError: the other end's producer index is impossible.
        """

    def take(self) -> int:
        """Byte offset of the next entry from the other end, which is consumed; as often as ``unconsumed`` has said."""
        index = self.cons
        self.cons = (index + 1) & U32
        return HEADER_SIZE + (index & self._mask) * self._entry_size

    def put(self) -> int:
        """Byte offset of the next entry for the other end, to be filled in before ``push``."""
        index = self.prod_pvt
        self.prod_pvt = (index + 1) & U32
        return HEADER_SIZE + (index & self._mask) * self._entry_size

    @property
    def shared(self) -> tuple[int, int, int, int]:
        """A copy of the shared indices, as they are: ``req_prod``, ``req_event``, ``rsp_prod``, ``rsp_event``."""
        req_prod, req_event, rsp_prod, rsp_event = self._words[: RSP_EVENT + 1]
        return req_prod, req_event, rsp_prod, rsp_event

    def push(self) -> bool:
        """Publish the entries put so far; True when the other end has to be notified."""
        old, new = self._published, self.prod_pvt
        self._published = new
        self._words[self._prod] = new
        # The index must be out before we look whether the other end wants to hear of it: it says so first and looks at
        # the index then. One of us sees the other.
        self._fence()
        moved: int = (new - old) & U32
        if (new - self._words[self._prod_event]) & U32 < moved:
            self.notified += 1
            return True
        if moved:
            self.held_off += 1
        return False

    def final_check(self, ahead: int = 1) -> bool:
        """Ask to be notified, then look once more: True when there is something to take already.

        :param ahead: do not notify before this many more entries have come.
        :raise RingError: as ``unconsumed``.
        """
        self._words[self._cons_event] = (self.cons + ahead) & U32
        self._fence()
        return self.unconsumed() > 0


class BackRing(_Ring):
    """The end that consumes requests and produces exactly one response for each.

    :param memory: the shared memory, written by both ends.
    :param entry_size: bytes of the union of request and response.
    :param attach: index to continue from, for reconnecting to a ring that is in use.
    """

    __slots__ = ()
    _prod, _prod_event, _cons_event = RSP_PROD, RSP_EVENT, REQ_EVENT

    def __init__(self, memory: memoryview, entry_size: int, fence: Callable[[], None], *, attach: int = 0) -> None:
        super().__init__(memory, entry_size, fence, attach)

    def unconsumed(self) -> int:
        """Number of requests that may be taken now; there is always room for their responses.

        :raise RingError: the frontend claims more requests than the ring can hold.
        """
        waiting: int = (self._words[REQ_PROD] - self.cons) & U32
        if waiting:
            unanswered = (self.cons - self.prod_pvt) & U32
            if waiting + unanswered > self.size:
                raise RingError(
                    f"the frontend's request index is impossible: it claims {waiting} requests "
                    f"while {unanswered} are unanswered, in a ring of {self.size}"
                )
        return waiting


class FrontRing(_Ring):
    """The end that produces requests, as many as there are ``free`` entries, and consumes responses.

    :param memory: the shared memory, written by both ends.
    :param entry_size: bytes of the union of request and response.
    :param attach: index to continue from when the ring is in use; None initialises the shared part.
    """

    __slots__ = ()
    _prod, _prod_event, _cons_event = REQ_PROD, REQ_EVENT, RSP_EVENT

    def __init__(
        self, memory: memoryview, entry_size: int, fence: Callable[[], None], *, attach: int | None = None
    ) -> None:
        super().__init__(memory, entry_size, fence, attach or 0)
        if attach is None:
            memory[:HEADER_SIZE] = bytes(HEADER_SIZE)
            self._words[REQ_EVENT] = self._words[RSP_EVENT] = 1

    @property
    def free(self) -> int:
        """Number of requests that may be put now."""
        return self.size - ((self.prod_pvt - self.cons) & U32)

    def unconsumed(self) -> int:
        """Number of responses that may be taken now.

        :raise RingError: the backend claims more responses than there are requests.
        """
        waiting: int = (self._words[RSP_PROD] - self.cons) & U32
        outstanding = (self._published - self.cons) & U32
        if waiting > outstanding:
            raise RingError(
                f"the backend's response index is impossible: it claims {waiting} responses "
                f"to {outstanding} unanswered requests"
            )
        return waiting
