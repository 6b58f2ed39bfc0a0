"""What of a file is not on its disk yet: the system call cachestat, which Linux has since 6.5."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
SYS_CACHESTAT = 451
"""The same number on every architecture."""


class _Range(ctypes.Structure):
    """struct cachestat_range of linux/mman.h; a length of 0 means up to the end."""

    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Answer(ctypes.Structure):
    """struct cachestat of linux/mman.h, in pages."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


@dataclass(frozen=True)
class Unwritten:
    """Pages of a file that have changed since they were last written, and pages that are being written."""

    dirty: int
    writeback: int


CLEAN = Unwritten(0, 0)


def unwritten(path: Path) -> Unwritten:
    """Ask the kernel about the whole of a file.

    :raise OSError: ENOSYS when the kernel cannot tell.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    answer = _Answer()
    with path.open("rb") as file:
        if libc.syscall(
            ctypes.c_long(SYS_CACHESTAT),
            ctypes.c_uint(file.fileno()),
            ctypes.byref(_Range(0, 0)),
            ctypes.byref(answer),
            ctypes.c_uint(0),
        ):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    return Unwritten(answer.dirty, answer.writeback)


def require_cachestat(path: Path) -> None:
    """Skip the test if a file is on no disk, or the host's kernel cannot tell what of it is."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip()
    if kind in MEMORY_FILE_SYSTEMS:
        pytest.skip(f"{path} is on {kind}, which has no disk: set HARNESS_CACHE to a directory on a disk")
    try:
        unwritten(path)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        pytest.skip("the host's kernel has no cachestat, which came with Linux 6.5")
