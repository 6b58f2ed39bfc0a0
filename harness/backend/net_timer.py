"""A timer that is a descriptor (timerfd of Linux, which Python has only from 3.13 on)."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress

CLOCK_MONOTONIC = 1
ITIMERSPEC = struct.Struct("qqqq")
"""struct itimerspec: interval and first expiry, each in seconds and nanoseconds."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Timer:
    """Becomes readable once, some time after it was started.

    :ivar descriptor: to wait on.
    """

    def __init__(self) -> None:
        self.descriptor = _check(_libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))

    def start(self, seconds: float) -> None:
        """Begin to wait anew; 0 stops."""
        whole = int(seconds)
        value = ITIMERSPEC.pack(0, 0, whole, int((seconds - whole) * 1e9))
        _check(_libc.timerfd_settime(self.descriptor, 0, value, None))

    def acknowledge(self) -> None:
        """Make it unreadable."""
        with suppress(BlockingIOError):
            os.read(self.descriptor, 8)

    def close(self) -> None:
        os.close(self.descriptor)
