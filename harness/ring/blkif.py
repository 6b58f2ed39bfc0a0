"""The block protocol (blkif.h): the native x86_64 layout, and what a 32-bit frontend has instead (``Abi``).

A request is read in two steps, without reading anything twice: ``REQUEST`` gives the first 24 bytes of any operation,
and what follows at ``TAIL`` depends on it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Operation(IntEnum):
    """``BLKIF_OP_*``."""

    READ = 0
    WRITE = 1
    WRITE_BARRIER = 2
    FLUSH_DISKCACHE = 3
    RESERVED_1 = 4
    DISCARD = 5
    INDIRECT = 6


class Status(IntEnum):
    """``BLKIF_RSP_*``."""

    OKAY = 0
    ERROR = -1
    EOPNOTSUPP = -2


SECTOR_SIZE = 512
"""The unit of every sector number and count on the ring, whatever the disk's own sector size."""
SECTORS_PER_FRAME = 8

MAX_SEGMENTS = 11
"""``BLKIF_MAX_SEGMENTS_PER_REQUEST``: segments that fit into a request itself."""
MAX_INDIRECT_PAGES = 8
"""``BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST``."""
SEGMENTS_PER_INDIRECT_PAGE = 512
DISCARD_SECURE = 1
"""``BLKIF_DISCARD_SECURE`` in the flags of a discard."""

VDISK_CDROM = 1
VDISK_REMOVABLE = 2
VDISK_READONLY = 4
"""Bits of the backend node ``info``."""

ENTRY_SIZE = 112
"""Bytes of the union of request and response."""

REQUEST = struct.Struct("<BBH4xQQ")
"""Of every request: operation, a byte, a half-word, id, sector number.

READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE: number of segments, handle. DISCARD: flags, handle. INDIRECT: indirect
operation, number of segments.
"""
TAIL = REQUEST.size

SEGMENT = struct.Struct("<IBB2x")
"""``struct blkif_request_segment``: grant reference, first and last sector within the frame (both included)."""

SEGMENTS = tuple(struct.Struct("<" + "IBB2x" * count) for count in range(MAX_SEGMENTS + 1))
"""At ``TAIL``: the segments of a request that has so many, as one flat tuple."""

DISCARD = struct.Struct("<Q")
"""At ``TAIL``: number of sectors."""

INDIRECT = struct.Struct("<H2x8I")
"""At ``TAIL``: handle, grant references of the pages that hold the segments."""

RESPONSE = struct.Struct("<QBxh4x")
"""id, operation, status; the padding is written as zeros, so that nothing of ours leaks."""


@dataclass(frozen=True)
class Abi:
    """How a frontend lays out ring entries. ``SEGMENT`` and ``DISCARD`` are the same for all.

    :param name: what such a frontend writes as its ``protocol`` (protocols.h).
    """

    name: str
    entry_size: int
    request: struct.Struct
    indirect: struct.Struct
    response: struct.Struct

    @property
    def tail(self) -> int:
        """Where in an entry that what depends on the operation begins."""
        return self.request.size


X86_64 = Abi("x86_64-abi", ENTRY_SIZE, REQUEST, INDIRECT, RESPONSE)
X86_32 = Abi("x86_32-abi", 108, struct.Struct("<BBHQQ"), struct.Struct("<H2x8I"), struct.Struct("<QBxh"))
"""On i386 a u64 is aligned to 4 bytes: there is no padding before the id, and none after a response."""
ABIS = {abi.name: abi for abi in (X86_64, X86_32)}


def pack_request(
    memory: memoryview,
    offset: int,
    operation: int,
    *,
    request_id: int,
    sector: int,
    segments: Sequence[tuple[int, int, int]],
    abi: Abi = X86_64,
) -> None:
    """Write a request with up to 11 direct segments ``(grant reference, first sector, last sector)``.

    :raise ValueError: there are more.
    """
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"{len(segments)} segments do not fit into a request: the limit is {MAX_SEGMENTS}")
    abi.request.pack_into(memory, offset, operation, len(segments), 0, request_id, sector)
    for index, segment in enumerate(segments):
        SEGMENT.pack_into(memory, offset + abi.tail + index * SEGMENT.size, *segment)


def pack_discard(
    memory: memoryview, offset: int, *, request_id: int, sector: int, sectors: int, flags: int = 0, abi: Abi = X86_64
) -> None:
    """Write a request to forget the contents of some sectors."""
    abi.request.pack_into(memory, offset, Operation.DISCARD, flags, 0, request_id, sector)
    DISCARD.pack_into(memory, offset + abi.tail, sectors)


def pack_indirect(
    memory: memoryview,
    offset: int,
    operation: int,
    *,
    request_id: int,
    sector: int,
    segments: int,
    pages: Sequence[int],
    abi: Abi = X86_64,
) -> None:
    """Write a request whose segments lie in up to 8 granted pages, 512 in each.

    :param operation: READ or WRITE.
    :param segments: how many there are.
    :param pages: grant references of the pages.
    :raise ValueError: there are more pages.
    """
    if len(pages) > MAX_INDIRECT_PAGES:
        raise ValueError(f"{len(pages)} indirect pages: the limit is {MAX_INDIRECT_PAGES}")
    abi.request.pack_into(memory, offset, Operation.INDIRECT, operation, segments, request_id, sector)
    abi.indirect.pack_into(memory, offset + abi.tail, 0, *pages, *[0] * (MAX_INDIRECT_PAGES - len(pages)))
