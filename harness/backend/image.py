"""The raw image, a file or a block device, that a virtual disk is kept in."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Sequence

from harness.backend.block_discard import Discard, find_discard
from harness.host.errors import HostError
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.blkif import SECTOR_SIZE

BLKPBSZGET = 0x127B
"""From linux/fs.h; gives a u32: bytes of a physical sector."""

Transfer = Callable[[int, Sequence[memoryview], int], int]


class Image:
    """An open image.

    :param path: the file or block device.
    :param logical_size: bytes that the guest reads or writes at least, 512 or 4096.
    :raise HostError: it cannot be opened, or its size is no multiple of such a sector.

    :ivar sectors: its size, in units of 512 bytes.
    :ivar physical_size: bytes that what it is kept on reads or writes at least, as far as is known.
    :ivar discard: how to forget what some of its sectors hold; None when that cannot be done.
    """

    def __init__(self, path: str, *, readonly: bool, logical_size: int = SECTOR_SIZE) -> None:
        self.path = path
        self.readonly = readonly
        self.logical_size = logical_size
        try:
            self._fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            how = "reading" if readonly else "reading and writing"
            raise HostError(f"cannot open the image {path} for {how}: {error.strerror}") from error
        self._no_wait = os.RWF_NOWAIT
        try:
            self.sectors = self._measure()
            self.physical_size = self._physical_size()
            self.discard: Discard | None = None if readonly else find_discard(self._fd)
        except BaseException:
            self.close()
            raise

    def _measure(self) -> int:
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size == 0 or size % self.logical_size:
            raise HostError(
                f"the image {self.path} has {size} bytes, which is no multiple of {self.logical_size}",
                hint=f"truncate --size=%{self.logical_size} {self.path}",
            )
        return size // SECTOR_SIZE

    def _physical_size(self) -> int:
        status = os.fstat(self._fd)
        if stat.S_ISBLK(status.st_mode):
            (size,) = struct.unpack("=I", fcntl.ioctl(self._fd, BLKPBSZGET, bytes(4)))
        else:
            size = min(status.st_blksize, FRAME_SIZE)
        # blkif.h: a multiple of the logical size, and the disk is a multiple of it.
        fits = size >= self.logical_size and size & (size - 1) == 0 and self.sectors % (size // SECTOR_SIZE) == 0
        return size if fits else self.logical_size

    def measure_again(self) -> None:
        """Find out how large the image is now.

        :raise HostError: it cannot have that size; the old one stays.
        """
        self.sectors = self._measure()

    def try_read(self, pieces: list[memoryview], sector: int, size: int) -> bool:
        """As ``read``, when that needs no waiting for a disk; False when it does.

        :raise OSError: as ``read``.
        """
        try:
            return os.preadv(self._fd, pieces, sector * SECTOR_SIZE, self._no_wait) == size
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or not self._no_wait:
                raise
        # A file system that cannot tell; those that live in memory are among them.
        self._no_wait = 0
        return self.try_read(pieces, sector, size)

    def read(self, pieces: list[memoryview], sector: int, size: int) -> None:
        """Fill the pieces, ``size`` bytes in all, with what the image holds from a sector on.

        :raise OSError: the image did not give all of it.
        """
        done = os.preadv(self._fd, pieces, sector * SECTOR_SIZE)
        if done != size:
            self._finish(os.preadv, pieces, sector * SECTOR_SIZE, done, size)

    def write(self, pieces: list[memoryview], sector: int, size: int) -> None:
        """Write the pieces, ``size`` bytes in all, from a sector on.

        :raise OSError: the image did not take all of it.
        """
        done = os.pwritev(self._fd, pieces, sector * SECTOR_SIZE)
        if done != size:
            self._finish(os.pwritev, pieces, sector * SECTOR_SIZE, done, size)

    def _finish(self, transfer: Transfer, pieces: list[memoryview], position: int, done: int, size: int) -> None:
        while done < size:
            skip = done
            rest = []
            for piece in pieces:
                rest.append(piece[min(skip, len(piece)) :])
                skip -= min(skip, len(piece))
            more = transfer(self._fd, [piece for piece in rest if len(piece)], position + done)
            if more == 0:
                # Somebody has truncated it since it was opened.
                raise OSError(errno.EIO, f"{self.path} ends at byte {position + done}")
            done += more

    def flush(self) -> None:
        """Return when everything written so far is on the disk.

        :raise OSError: it is not.
        """
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
