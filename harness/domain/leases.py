"""Who may use a disk image: one writer, or any number of readers, at a time.

The lease is a lock on the image file itself. Children inherit it, so it lasts until the last process that can still
write to the image is gone, not just until its owner is.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.host.errors import HostError, UsageError

SECTOR = 512


class Lease:
    """The right to use an image, for as long as :attr:`descriptor` is open anywhere.

    :param path: a raw image file or a block device.
    :param readonly: share the image with other readers.
    :raise UsageError: the image does not exist, is of no use as a disk, or is in use by another domain.
    """

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self.descriptor = _open(path, readonly)
        try:
            self.size = _size(self.descriptor, path)
            fcntl.flock(self.descriptor, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.descriptor)
            raise UsageError(
                f"the disk image {path} is in use by another domain",
                hint="end that domain (harness list), use a copy, or attach the image with readonly: true in both",
            ) from None
        except BaseException:
            os.close(self.descriptor)
            raise

    def release(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _open(path: Path, readonly: bool) -> int:
    try:
        return os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"the disk image {path} does not exist", hint=f"make one: truncate -s 1G {path}") from None
    except PermissionError:
        wanted = "read" if readonly else "written to"
        raise HostError(f"the disk image {path} cannot be {wanted} by this user") from None
    except OSError as error:
        hint = "attach it with readonly: true" if not readonly else None
        raise HostError(f"the disk image {path} cannot be opened: {error.strerror}", hint=hint) from error


def _size(descriptor: int, path: Path) -> int:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UsageError(f"{path} is neither a file nor a block device")
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0 or size % SECTOR:
        raise UsageError(
            f"the disk image {path} has {size} bytes, which is not a positive multiple of {SECTOR}",
            hint=f"round it up: truncate -s %{SECTOR} {path}",
        )
    return size
