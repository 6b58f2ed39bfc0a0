"""The grantee's view of a link's grant table: version 1 entries of grant_table.h, with the in-use bits kept apart.

The granter writes entries and the grantee status bytes; neither needs atomic operations. Who maps sets the status and
then looks at the entry again, who ends access clears the entry and then looks at the status: at least one of the two
sees the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from enum import IntEnum
from typing import NamedTuple

from harness.host.errors import GuestError
from harness.hypervisor.events import fence
from harness.hypervisor.layout import (
    CONSOLE_REF,
    FRAME_SIZE,
    GRANT_ENTRY_SIZE,
    GRANTS_PER_FRAME,
    MAX_GRANT_FRAMES,
    NR_GRANT_FRAMES,
    NR_GRANT_FRAMES_OFFSET,
    NR_GRANTS,
    STORE_REF,
    LinkLayout,
    is_grant_table_size,
)

GTF_TYPE_MASK = 3
GTF_INVALID = 0
GTF_PERMIT_ACCESS = 1
GTF_READONLY = 1 << 2
GTF_READING = 1 << 3
GTF_WRITING = 1 << 4

_DOMID = 1
"""Where in an entry, in pairs of bytes, the domain is that may map."""
_MAP_TRIES = 4
"""Of looking at an entry that the granter is changing."""


class GrantStatus(IntEnum):
    """``GNTST_*`` of grant_table.h."""

    OKAY = 0
    GENERAL_ERROR = -1
    BAD_DOMAIN = -2
    BAD_GNTREF = -3
    BAD_HANDLE = -4
    BAD_VIRT_ADDR = -5
    BAD_DEV_ADDR = -6
    NO_DEVICE_SPACE = -7
    PERMISSION_DENIED = -8
    BAD_PAGE = -9
    BAD_COPY_ARG = -10
    ADDRESS_TOO_BIG = -11
    EAGAIN = -12
    NO_SPACE = -13


class GrantError(GuestError):
    """A grant reference cannot be used as asked.

    :param status: Xen's reason.
    """

    def __init__(self, status: GrantStatus, what: str) -> None:
        super().__init__(what)
        self.status = status


class Grant(NamedTuple):
    """A frame that the other end has granted and that is mapped here, until ``GrantMap.unmap``."""

    ref: int
    frame: int
    write: bool
    memory: memoryview
    """The frame's bytes; read-only unless mapped for writing."""


def entries(memory: memoryview, layout: LinkLayout) -> memoryview:
    """The whole room for entries, as an array of u64."""
    start = layout.grant_frame * FRAME_SIZE
    return memory[start : start + NR_GRANTS * 8].cast("Q")


def statuses(memory: memoryview, layout: LinkLayout) -> memoryview:
    """The in-use bits, a byte for each reference."""
    start = layout.status_frame * FRAME_SIZE
    return memory[start : start + NR_GRANTS]


def size_word(memory: memoryview) -> memoryview:
    """The number of frames that the table has, which the granter writes, as an array of one u32."""
    return memory[NR_GRANT_FRAMES_OFFSET : NR_GRANT_FRAMES_OFFSET + 4].cast("I")


def pack_entry(flags: int, domid: int, frame: int) -> int:
    """A ``grant_entry_v1`` as one 8-byte number."""
    return flags | domid << 16 | frame << 32


def regrant(table: memoryview, before: int, now: int) -> None:
    """Have whatever a grant table grants to one domain granted to another, which has taken its place.

    :param table: bytes of the entries; their owner must not run.
    """
    with table.cast("H") as halves:
        for place in range(_DOMID, len(halves), GRANT_ENTRY_SIZE // 2):
            if halves[place] == before:
                halves[place] = now


class GrantMap:
    """The grantee's view: maps what the other end has granted to it.

    A reference may be mapped several times. Frames are handed out as views of the region, so mapping costs no system
    call; what it gives is the check that the granter really allows it, and the mark that keeps the granter from
    reusing the frame.

    :param memory: the whole region.
    :param frame: gives the view of one frame of it.
    :param domid: the domain that maps: entries for any other are refused.
    """

    def __init__(self, memory: memoryview, layout: LinkLayout, frame: Callable[[int], memoryview], domid: int) -> None:
        self._entries = entries(memory, layout)
        self._statuses = statuses(memory, layout)
        self._size = size_word(memory)
        self._nr_refs = NR_GRANT_FRAMES * GRANTS_PER_FRAME
        self._layout = layout
        self._frame = frame
        self._domid = domid
        self._premade = {STORE_REF: layout.store_frame, CONSOLE_REF: layout.console_frame}
        self._readers: dict[int, int] = {}
        self._writers: dict[int, int] = {}

    def map(self, ref: int, *, write: bool) -> Grant:
        """Map one granted frame.

        :raise GrantError: the reference is out of range or not granted, or granted to another domain, read-only, or for
            a frame that may not be granted.
        """
        if not 0 <= ref < self._nr_refs and not 0 <= ref < self.query_size()[0] * GRANTS_PER_FRAME:
            raise GrantError(GrantStatus.BAD_GNTREF, f"grant reference {ref} is outside 0..{self._nr_refs - 1}")
        entry: int = self._entries[ref]
        pins = self._writers if write else self._readers
        for _ in range(_MAP_TRIES):
            frame = self._check(ref, entry, write)
            pins[ref] = pins.get(ref, 0) + 1
            self._publish_status(ref)
            fence()
            seen: int = self._entries[ref]
            if seen == entry:
                memory = self._frame(frame)
                return Grant(ref, frame, write, memory if write else memory.toreadonly())
            # Taken back, or made read-only, before the granter could see the status: what does it allow now?
            self._unpin(pins, ref)
            entry = seen
        raise GrantError(GrantStatus.EAGAIN, f"grant reference {ref} changes while it is being mapped")

    def copy(
        self,
        source: int | memoryview,
        destination: int | memoryview,
        length: int,
        *,
        source_offset: int = 0,
        destination_offset: int = 0,
    ) -> None:
        """Copy within, into or out of granted frames, which are mapped for just as long.

        :param source: a grant reference, or a page of our own.
        :param destination: as ``source``.
        :param length: bytes; 0 copies nothing and looks at no grant.
        :raise GrantError: a reference cannot be used so, or either end of the copy leaves its page.
        """
        for offset in (source_offset, destination_offset):
            if not 0 <= offset <= offset + length <= FRAME_SIZE:
                raise GrantError(
                    GrantStatus.BAD_COPY_ARG, f"a copy of {length} bytes at offset {offset} crosses the page's end"
                )
        if not length:
            return
        with ExitStack() as mapped:
            views = []
            for buffer, write in ((source, False), (destination, True)):
                if isinstance(buffer, int):
                    grant = self.map(buffer, write=write)
                    mapped.callback(self.unmap, grant)
                    views.append(grant.memory)
                else:
                    views.append(buffer)
            views[1][destination_offset : destination_offset + length] = views[0][
                source_offset : source_offset + length
            ]

    def query_size(self) -> tuple[int, int]:
        """Frames that the grant table has now, and that it can have at most."""
        claimed: int = self._size[0]
        # It never shrinks, and a number that makes no sense changes nothing.
        if is_grant_table_size(claimed):
            self._nr_refs = max(self._nr_refs, claimed * GRANTS_PER_FRAME)
        return self._nr_refs // GRANTS_PER_FRAME, MAX_GRANT_FRAMES

    def _check(self, ref: int, entry: int, write: bool) -> int:
        flags, domid, frame = entry & 0xFFFF, entry >> 16 & 0xFFFF, entry >> 32
        if flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS:
            raise GrantError(GrantStatus.BAD_GNTREF, f"grant reference {ref} grants nothing (flags {flags:#x})")
        if domid != self._domid:
            raise GrantError(GrantStatus.BAD_DOMAIN, f"grant reference {ref} is for domain {domid}, not {self._domid}")
        if write and flags & GTF_READONLY:
            raise GrantError(GrantStatus.PERMISSION_DENIED, f"grant reference {ref} is read-only")
        if not self._layout.first_free_frame <= frame < self._layout.nr_frames and self._premade.get(ref) != frame:
            raise GrantError(
                GrantStatus.BAD_PAGE, f"grant reference {ref} is for frame {frame}, which may not be granted"
            )
        return frame

    def unmap(self, grant: Grant) -> None:
        """Give a mapping back. Its memory must not be touched any more.

        :raise GrantError: it has been given back already.
        """
        pins = self._writers if grant.write else self._readers
        if grant.ref not in pins:
            raise GrantError(GrantStatus.BAD_HANDLE, f"grant reference {grant.ref} is not mapped")
        self._unpin(pins, grant.ref)

    def _unpin(self, pins: dict[int, int], ref: int) -> None:
        if pins[ref] > 1:
            pins[ref] -= 1
        else:
            del pins[ref]
            self._publish_status(ref)

    def _publish_status(self, ref: int) -> None:
        # From what we know, not from what the byte holds: the granter can write there, and would harm only itself.
        self._statuses[ref] = self._status(ref)

    def _status(self, ref: int) -> int:
        if ref in self._writers:
            return GTF_READING | GTF_WRITING
        return GTF_READING if ref in self._readers else 0

    def reset(self) -> None:
        """Begin as if nobody had mapped anything here before: for the successor of a process that has died.

        The granter gets its frames back, except those that this object maps, and the store's, which another process of
        this end has.
        """
        fresh = bytearray(len(self._statuses))
        for ref in self.mapped:
            fresh[ref] = self._status(ref)
        self._statuses[:STORE_REF] = fresh[:STORE_REF]
        self._statuses[STORE_REF + 1 :] = fresh[STORE_REF + 1 :]

    @property
    def mapped(self) -> frozenset[int]:
        """The references that are mapped at least once."""
        return frozenset(self._readers) | frozenset(self._writers)
