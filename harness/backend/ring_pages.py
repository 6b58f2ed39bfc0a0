"""Ring pages as one piece of memory, wherever in the link their frames lie."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence

from harness.hypervisor.grants import Grant
from harness.hypervisor.layout import FRAME_SIZE

MREMAP_MAYMOVE = 1
MREMAP_FIXED = 2
"""From sys/mman.h."""
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


def contiguous(memory: memoryview, pages: Sequence[Grant]) -> memoryview:
    """The frames of some grants, in this order, as one view.

    :param memory: the whole link.
    :raise OSError: no memory to map them.

    Frames that follow each other need nothing. Others are mapped a second time, side by side; that mapping goes away
    with the last view of it, and must not be used once the grants have been given back.
    """
    first = pages[0].frame
    if all(page.frame == first + index for index, page in enumerate(pages)):
        return memory[first * FRAME_SIZE : (first + len(pages)) * FRAME_SIZE]
    # This only reserves addresses: each page of it is replaced.
    area = mmap.mmap(-1, len(pages) * FRAME_SIZE)
    target, source = _address(memoryview(area)), _address(memory)
    for index, page in enumerate(pages):
        _map_again(source + page.frame * FRAME_SIZE, target + index * FRAME_SIZE)
    return memoryview(area)


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _map_again(source: int, target: int) -> None:
    """Map the shared frame at one address at another one, too: an old size of 0 leaves the first mapping alone."""
    if _libc.mremap(source, 0, FRAME_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, target) in {None, _MAP_FAILED}:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot map a ring page: {os.strerror(number)}")
