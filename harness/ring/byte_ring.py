"""A one-way queue of bytes between two indices in shared memory, as the console and XenStore pages have them.

Both indices run freely modulo 2**32, start anywhere, and are notified of on every change.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.ring.ring import U32, RingError


class ByteRing:
    """One direction of a page, seen from whichever end.

    :param page: the shared page.
    :param data: byte offset of the data.
    :param size: bytes of data, a power of two.
    :param cons: byte offset of the consumer index.
    :param prod: byte offset of the producer index.
    :param fence: orders the stores before it before the loads after it.
    """

    __slots__ = ("_cons", "_data", "_fence", "_prod", "_words", "size")

    def __init__(
        self, page: memoryview, *, data: int, size: int, cons: int, prod: int, fence: Callable[[], None]
    ) -> None:
        self.size = size
        self._data = page[data : data + size]
        self._words = page.cast("I")
        self._cons = cons // 4
        self._prod = prod // 4
        self._fence = fence

    def _state(self) -> tuple[int, int, int]:
        cons, prod = self._words[self._cons], self._words[self._prod]
        used = (prod - cons) & U32
        if used > self.size:
            raise RingError(f"the indices {cons} and {prod} are impossible in a ring of {self.size} bytes")
        return cons, prod, used

    @property
    def indices(self) -> tuple[int, int]:
        """A copy of the consumer and the producer index, as they are."""
        return self._words[self._cons], self._words[self._prod]

    @property
    def used(self) -> int:
        """Bytes that wait to be read.

        :raise RingError: the indices are further apart than the ring is long.
        """
        return self._state()[2]

    @property
    def room(self) -> int:
        """Bytes that can be put in.

        :raise RingError: as ``used``.
        """
        return self.size - self.used

    def peek(self, limit: int) -> bytes:
        """A copy of up to ``limit`` bytes, fewer when fewer are there; they stay where they are.

        :raise RingError: as ``used``.
        """
        cons, _, used = self._state()
        length = min(limit, used)
        start = cons & (self.size - 1)
        found = bytes(self._data[start : start + length])
        return found + bytes(self._data[: length - len(found)])

    def consume(self, length: int) -> None:
        """Give back the room of so many bytes: those that :meth:`peek` has copied."""
        self._fence()
        self._words[self._cons] = (self._words[self._cons] + length) & U32

    def read(self, limit: int) -> bytes:
        """Take up to ``limit`` bytes out, fewer when fewer are there.

        :raise RingError: as ``used``.
        """
        found = self.peek(limit)
        self.consume(len(found))
        return found

    def write(self, data: bytes | memoryview) -> int:
        """Put in as much of ``data`` as there is room for, and return how many bytes that is.

        :raise RingError: as ``used``.
        """
        _, prod, used = self._state()
        length = min(len(data), self.size - used)
        start = prod & (self.size - 1)
        first = min(length, self.size - start)
        self._data[start : start + first] = data[:first]
        self._data[: length - first] = data[first:length]
        self._fence()
        self._words[self._prod] = (prod + length) & U32
        return length
