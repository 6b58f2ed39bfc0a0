"""The console page: ``struct xencons_interface`` of console.h. "In" and "out" are the guest's."""

from __future__ import annotations

from collections.abc import Callable

from harness.ring.byte_ring import ByteRing

IN_OFFSET, IN_SIZE = 0, 1024
OUT_OFFSET, OUT_SIZE = 1024, 2048
IN_CONS, IN_PROD, OUT_CONS, OUT_PROD = 3072, 3076, 3080, 3084


def input_ring(page: memoryview, fence: Callable[[], None]) -> ByteRing:
    """What is typed: the backend writes, the guest reads."""
    return ByteRing(page, data=IN_OFFSET, size=IN_SIZE, cons=IN_CONS, prod=IN_PROD, fence=fence)


def output_ring(page: memoryview, fence: Callable[[], None]) -> ByteRing:
    """What is printed: the guest writes, the backend reads."""
    return ByteRing(page, data=OUT_OFFSET, size=OUT_SIZE, cons=OUT_CONS, prod=OUT_PROD, fence=fence)
