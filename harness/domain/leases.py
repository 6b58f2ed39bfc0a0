"""Who may use a disk image: one writer, or any number of readers, at a time.

The lease is a set of locks, on everything through which the image's bytes can be reached: the file itself; for a block
device the device, whichever node names it; for a loop device also the file behind it. Children inherit the locks, so
they last until the last process that can still write to the image is gone, not just until its owner is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.host.errors import HostError, UsageError

SECTOR = 512
DEVICES = Path("/sys/dev/block")
"""A directory for each block device of the host, called after its major and minor number."""


class Lease:
    """The right to use an image, for as long as its :attr:`descriptors` are open anywhere.

    A writer of a block device has it to itself, so that it cannot be mounted meanwhile. A reader has not.

    :param path: a raw image file or a block device.
    :param readonly: share the image with other readers.
    :raise UsageError: the image does not exist, is of no use as a disk, or is in use by another domain or by the host.
    :raise HostError: it cannot be opened.

    :ivar block_device: whether it is one, and not a file.
    :ivar descriptors: what a process has to inherit to keep the lease.
    :ivar size: bytes.
    """

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self.descriptors: list[int] = []
        # Just looked up at first: to open a pipe is to wait for its other end.
        found = _open(path, path, os.O_PATH)
        try:
            status = os.fstat(found)
            self.block_device = stat.S_ISBLK(status.st_mode)
            if self.block_device:
                self._claim_device(found, status.st_rdev)
            elif stat.S_ISREG(status.st_mode):
                self._claim_file(found, status)
            else:
                raise UsageError(f"{path} is neither a file nor a block device")
            self.size = _size(self.descriptors[-1], path)
        except BaseException:
            self.release()
            raise
        finally:
            os.close(found)

    def _claim_file(self, found: int, status: os.stat_result) -> None:
        if not self.readonly:
            self._refuse_loop_devices(status)
        self._lock(self._keep(_reopen(found), os.O_RDONLY if self.readonly else os.O_RDWR))

    def _claim_device(self, found: int, number: int) -> None:
        device = _device(number)
        if not device.exists():
            raise UsageError(f"there is no block device {os.major(number)}:{os.minor(number)}, which {self.path} names")
        # A lock on a node of the device would not be seen through another one, and udev takes such locks, too.
        self._lock(self._keep(device / "dev", os.O_RDONLY))
        if backing := _backing_file(device):
            self._claim_backing_file(backing, device)
        # The kernel lets one opener at a time have a device exclusively; a mount is one.
        self._keep(_reopen(found), os.O_RDONLY if self.readonly else os.O_RDWR | os.O_EXCL)

    def _claim_backing_file(self, backing: Path, device: Path) -> None:
        # A file that has been removed cannot be reached but through this device.
        with suppress(FileNotFoundError):
            status = backing.stat()
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(
                    f"{self.path} is a loop device on {backing}, which is no file",
                    hint=f"use {backing} itself",
                )
            if not self.readonly:
                self._refuse_loop_devices(status, besides=_whole(device))
            self._lock(self._keep(backing, os.O_RDONLY))

    def _refuse_loop_devices(self, status: os.stat_result, besides: Path | None = None) -> None:
        """Check that no loop device gives access to a file, behind the back of the lock on the file."""
        for device in Path("/sys/block").glob("loop*"):
            backing = _backing_file(device)
            if backing is None or device.resolve() == besides:
                continue
            with suppress(OSError):  # A file removed, or out of our sight.
                if os.path.samestat(backing.stat(), status):
                    raise UsageError(
                        f"the disk image {self.path} is in use by the loop device /dev/{device.name}",
                        hint=f"detach it: losetup --detach /dev/{device.name}; or attach the image with readonly: true",
                    )

    def _keep(self, path: Path, flags: int) -> int:
        self.descriptors.append(_open(path, self.path, flags))
        return self.descriptors[-1]

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"the disk image {self.path} is in use by another domain, or by another disk of this one",
                hint="end that domain (harness list), use a copy, or attach the image with readonly: true in both",
            ) from None

    def measure(self) -> int:
        """The size in bytes that the image has now; :attr:`size` is what it was at first.

        :raise UsageError: it is none that a disk can have.
        """
        return _size(self.descriptors[-1], self.path)

    def grow(self, size: int) -> None:
        """Make the image at least so large.

        :param size: bytes.
        :raise UsageError: it cannot grow.
        :raise HostError: the host has no room for it.
        """
        if self.measure() >= size:
            return
        if self.block_device:
            raise UsageError(
                f"{self.path} is a block device of {self.measure()} bytes, which only its owner can make larger",
                hint="make it larger on the host, such as with lvextend, and then resize the disk without a size",
            )
        if self.readonly:
            raise UsageError(f"{self.path} cannot grow: it is attached read-only, and others may have it, too")
        try:
            os.ftruncate(self.descriptors[-1], size)
        except OSError as error:
            raise HostError(f"{self.path} cannot grow to {size} bytes: {error.strerror}") from error

    def release(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _reopen(descriptor: int) -> Path:
    """What to open to get exactly what a descriptor stands for, whatever its path leads to by now."""
    return Path(f"/proc/self/fd/{descriptor}")


def _open(path: Path, image: Path, flags: int) -> int:
    """Open something for the lease of an image, which is what errors name."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"the disk image {image} does not exist", hint=f"make one: truncate -s 1G {image}") from None
    except PermissionError:
        wanted = "written to" if flags & os.O_RDWR else "read"
        raise HostError(f"the disk image {image} cannot be {wanted} by this user") from None
    except OSError as error:
        if error.errno == errno.EBUSY and flags & os.O_EXCL:
            raise UsageError(
                f"the block device {image} is in use on the host: mounted, or part of another device",
                hint="find where: lsblk; then umount it, or attach it with readonly: true",
            ) from None
        hint = "attach it with readonly: true" if flags & os.O_RDWR else None
        raise HostError(f"the disk image {image} cannot be opened: {error.strerror}", hint=hint) from error


def _device(number: int) -> Path:
    """The directory in sysfs of a block device."""
    return DEVICES / f"{os.major(number)}:{os.minor(number)}"


def _whole(device: Path) -> Path:
    """The directory in sysfs of a whole device, given its own or that of a partition."""
    device = device.resolve()
    return device.parent if (device / "partition").exists() else device


def _backing_file(device: Path) -> Path | None:
    """The file behind a loop device or one of its partitions, given its directory in sysfs; None for other devices."""
    try:
        return Path((_whole(device) / "loop" / "backing_file").read_text(errors="surrogateescape").removesuffix("\n"))
    except OSError:  # No loop device, or one without a file: the attribute is gone, or says so when read.
        return None


def _size(descriptor: int, path: Path) -> int:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0 or size % SECTOR:
        raise UsageError(
            f"the disk image {path} has {size} bytes, which is not a positive multiple of {SECTOR}",
            hint=f"round it up: truncate -s %{SECTOR} {path}",
        )
    return size
