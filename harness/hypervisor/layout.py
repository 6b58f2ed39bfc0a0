"""Where everything lies in a link.

The constants and ``struct link_info`` are those of ``guests/drivers/include/link.h``; ``tests/unit/test_abi.py``
compares the two. A version has exactly one layout for a given number of frames, so a host process computes it from the
size of the memory file and never believes a frame number that the guest could have written. One number changes while
the link is in use: how much of the room for the grant table is table already.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.host.errors import GuestError

FRAME_SIZE = 4096
LINK_MAGIC = 0x4B4E494C
LINK_VERSION = 2
LINK_INFO_OFFSET = 2048
LINK_PORTS = 4096
FIRST_LINK_SLOT = 31
"""Where on the PCI bus a domain's link to Domain 0 is, and no other: QEMU gives it to nobody who does not ask."""
GRANTER = 0
GRANTEE = 1

PORT = struct.Struct("<HHI")
"""``struct link_port``: state, vector, remote port."""

LINK_INFO = struct.Struct("<3I 2H2H2H 2I2I2I 6I")
"""``struct link_info``: see the header for the fields."""
_INFO_NR_GRANT_FRAMES = 16
NR_GRANT_FRAMES_OFFSET = LINK_INFO_OFFSET + 52
"""Where in frame 0 the granter says how many frames its grant table has by now, a u32."""

PEER = struct.Struct("<2H")
PEER_OFFSET = LINK_INFO_OFFSET + 16
"""Where in frame 0 the ivshmem peer IDs of both ends are; the grantee's changes when another QEMU takes its place."""

GRANT_ENTRY_SIZE = 8
PENDING_FRAMES = LINK_PORTS // FRAME_SIZE
MASK_FRAMES = LINK_PORTS // FRAME_SIZE
PORTS_FRAMES = LINK_PORTS * PORT.size // FRAME_SIZE
GRANTS_PER_FRAME = FRAME_SIZE // GRANT_ENTRY_SIZE
NR_GRANT_FRAMES = 8
"""Frames of the grant table to begin with."""
MAX_GRANT_FRAMES = 32
"""Frames that it can grow to."""
NR_GRANTS = MAX_GRANT_FRAMES * GRANTS_PER_FRAME
"""References that there can be."""
NR_STATUS_FRAMES = NR_GRANTS // FRAME_SIZE

_END_FRAMES = PENDING_FRAMES + MASK_FRAMES + PORTS_FRAMES

DOMAIN_0 = 0
STORE_REF = 1
CONSOLE_REF = 0
NR_RESERVED_REFS = 8
"""Grant references below this are the toolstack's: ``GNTTAB_NR_RESERVED_ENTRIES``."""

GUEST_STORE_PORT = 1
GUEST_CONSOLE_PORT = 2
GUEST_PORTS = range(1, LINK_PORTS)
"""Ports of the guest: the two above, then those that it hands out itself."""
STORE_PORTS = range(1, 64)
"""Ports of Domain 0 on a link that belong to the store; the first is bound to the guest's store port."""
BACKEND_PORTS = range(64, LINK_PORTS)
"""Ports of Domain 0 on a link that belong to its backend process; the first is bound to the guest's console port."""
PREMADE_PORTS = (frozenset((GUEST_STORE_PORT, GUEST_CONSOLE_PORT)), frozenset((STORE_PORTS[0], BACKEND_PORTS[0])))
"""Ports of each end that the toolstack binds before either end runs."""
STORE_VECTOR = 0
BACKEND_VECTOR = 1
DOMAIN_0_VECTORS = 2


def is_grant_table_size(frames: int) -> bool:
    """Whether a grant table can have so many frames."""
    return NR_GRANT_FRAMES <= frames <= MAX_GRANT_FRAMES


@dataclass(frozen=True)
class LinkLayout:
    """Frame numbers of everything in a link, and who its two ends are.

    Pairs are indexed by end: ``GRANTER`` (the guest), ``GRANTEE`` (Domain 0 or a driver domain).

    :param nr_frames: frames of ``FRAME_SIZE`` bytes in the whole region.
    :param domid: domain at each end.
    :param peer: ivshmem peer ID of each end.
    :param vectors: number of doorbell vectors each end listens on.
    """

    nr_frames: int
    domid: tuple[int, int]
    peer: tuple[int, int] = (0, 1)
    vectors: tuple[int, int] = (8, DOMAIN_0_VECTORS)

    pending_frame = (1, 1 + _END_FRAMES)
    mask_frame = (1 + PENDING_FRAMES, 1 + _END_FRAMES + PENDING_FRAMES)
    ports_frame = (1 + PENDING_FRAMES + MASK_FRAMES, 1 + _END_FRAMES + PENDING_FRAMES + MASK_FRAMES)
    store_frame = 1 + 2 * _END_FRAMES
    console_frame = store_frame + 1
    grant_frame = console_frame + 1
    status_frame = grant_frame + MAX_GRANT_FRAMES
    first_free_frame = status_frame + NR_STATUS_FRAMES

    def __post_init__(self) -> None:
        if self.nr_frames <= self.first_free_frame or self.nr_frames & (self.nr_frames - 1):
            raise ValueError(
                f"a link of {self.nr_frames} frames: need a power of two above {self.first_free_frame} frames"
            )
        for name, values, top in (
            ("domid", self.domid, 0x7FF0),
            ("peer", self.peer, 1 << 16),
            ("vectors", self.vectors, 1 << 8),
        ):
            if not all(0 <= value < top for value in values):
                raise ValueError(f"{name} {values} of a link is out of range: must be below {top}")

    @property
    def size(self) -> int:
        """Bytes in the region."""
        return self.nr_frames * FRAME_SIZE

    def pack_info(self, nr_grant_frames: int = NR_GRANT_FRAMES) -> bytes:
        """The ``struct link_info`` that describes this layout, with a grant table of so many frames."""
        return LINK_INFO.pack(
            LINK_MAGIC,
            LINK_VERSION,
            self.nr_frames,
            *self.domid,
            *self.peer,
            *self.vectors,
            *self.pending_frame,
            *self.mask_frame,
            *self.ports_frame,
            self.grant_frame,
            nr_grant_frames,
            MAX_GRANT_FRAMES,
            self.status_frame,
            NR_STATUS_FRAMES,
            self.first_free_frame,
        )

    @classmethod
    def parse_info(cls, info: bytes, size: int) -> LinkLayout:
        """The layout that a ``struct link_info`` describes.

        :param info: a private copy of the structure; what follows it is ignored.
        :param size: bytes in the region, from a source that the guest cannot change.
        :raise GuestError: the structure is not exactly the one this version makes for a region of that size.
        """
        if len(info) < LINK_INFO.size:
            raise GuestError(f"link info has {len(info)} bytes, expected {LINK_INFO.size}")
        info = info[: LINK_INFO.size]
        fields = LINK_INFO.unpack(info)
        domid, peer, vectors = fields[3:5], fields[5:7], fields[7:9]
        try:
            layout = cls(size // FRAME_SIZE, domid, peer, vectors)
        except ValueError as error:
            raise GuestError(
                f"link info makes no sense: {error}", hint="destroy the domain and start it again"
            ) from None
        nr_grant_frames = fields[_INFO_NR_GRANT_FRAMES]
        if not is_grant_table_size(nr_grant_frames) or layout.pack_info(nr_grant_frames) != info:
            raise GuestError(
                f"this is not the link info of a version {LINK_VERSION} link of {size} bytes: {info.hex()}",
                hint="either the guest has overwritten frame 0, or another version of the harness made this link",
            )
        return layout
