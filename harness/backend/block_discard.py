"""Forgetting what an image holds: a hole is punched into a file, and a block device is told to discard."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.ring.blkif import SECTOR_SIZE

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
"""From linux/falloc.h."""
BLKDISCARD = 0x1277
"""From linux/fs.h; takes two u64: first byte, number of bytes."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Discard:
    """How to discard parts of an image, and what it pays to discard.

    :param granularity: bytes; smaller or less aligned pieces may be discarded too, but to no avail.
    :param alignment: bytes from the beginning of the image to the first such piece.
    """

    granularity: int
    alignment: int
    _erase: Callable[[int, int], None]

    def __call__(self, sector: int, sectors: int) -> None:
        """Discard sectors of 512 bytes. What is read from them afterwards is undefined, though mostly zeros.

        :raise OSError: it cannot be done; with EOPNOTSUPP it never can.
        """
        self._erase(sector * SECTOR_SIZE, sectors * SECTOR_SIZE)


def find_discard(fd: int) -> Discard | None:
    """How to discard parts of a file or block device open for writing; None when it does not support that."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return _of_device(fd, Path(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"))
    try:
        # Behind the end there is nothing to lose, and the answer is the same.
        _punch_hole(fd, status.st_size, SECTOR_SIZE)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
            return None
        raise
    return Discard(os.fstatvfs(fd).f_frsize, 0, lambda start, length: _punch_hole(fd, start, length))


def _of_device(fd: int, device: Path) -> Discard | None:
    # A partition has its parent's queue.
    queue = next((queue for queue in (device / "queue", device / ".." / "queue") if queue.exists()), None)
    if queue is None or _number(queue / "discard_max_bytes") == 0:
        return None

    def erase(start: int, length: int) -> None:
        fcntl.ioctl(fd, BLKDISCARD, bytearray(struct.pack("=QQ", start, length)))

    granularity = max(_number(queue / "discard_granularity"), SECTOR_SIZE)
    return Discard(granularity, _number(device / "discard_alignment") % granularity, erase)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _punch_hole(fd: int, start: int, length: int) -> None:
    if _libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
