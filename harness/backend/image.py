"""The raw image, a file or a block device, that a virtual disk is kept in."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from harness.host.errors import HostError
from harness.ring.blkif import SECTOR_SIZE

Transfer = Callable[[int, Sequence[memoryview], int], int]


class Image:
    """An open image.

    :param path: the file or block device.
    :raise HostError: it cannot be opened, or its size is no multiple of a sector.

    :ivar sectors: its size, in units of 512 bytes.
    """

    def __init__(self, path: str, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        try:
            self._fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            how = "reading" if readonly else "reading and writing"
            raise HostError(f"cannot open the image {path} for {how}: {error.strerror}") from error
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size == 0 or size % SECTOR_SIZE:
            self.close()
            raise HostError(
                f"the image {path} has {size} bytes, which is no multiple of {SECTOR_SIZE}",
                hint=f"truncate --size=%{SECTOR_SIZE} {path}",
            )
        self.sectors = size // SECTOR_SIZE

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
