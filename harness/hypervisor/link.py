"""A link: one ivshmem region shared by exactly two domains, and the ends of it that host processes hold.

The owner of a domain makes the ``Link`` and hands descriptors on: to QEMU through the ivshmem protocol, to the store
and the backend as the list ``[memory, own eventfd, eventfds of the other end...]`` that a ``LinkEnd`` is made from.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Self

from harness.host.closing import Closing
from harness.host.errors import GuestError, HostError
from harness.hypervisor import ivshmem
from harness.hypervisor.events import EventChannels, PortState
from harness.hypervisor.grant_table import GrantTable
from harness.hypervisor.grants import GTF_PERMIT_ACCESS, GrantMap, pack_entry, regrant
from harness.hypervisor.layout import (
    BACKEND_PORTS,
    BACKEND_VECTOR,
    CONSOLE_REF,
    DOMAIN_0,
    DOMAIN_0_VECTORS,
    FRAME_SIZE,
    GRANT_ENTRY_SIZE,
    GRANTEE,
    GRANTER,
    GUEST_CONSOLE_PORT,
    GUEST_STORE_PORT,
    LINK_INFO,
    LINK_INFO_OFFSET,
    NR_GRANT_FRAMES_OFFSET,
    PEER,
    PEER_OFFSET,
    PORT,
    STORE_PORTS,
    STORE_REF,
    STORE_VECTOR,
    LinkLayout,
)
from harness.hypervisor.startinfo import pack_start_info

DEFAULT_SIZE = 64 << 20
"""Bytes; only those that have been written to take memory."""
DEFAULT_GUEST_VECTORS = 8
"""Also the most that :func:`vectors_for` gives."""
MIN_GUEST_VECTORS = 2
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def vectors_for(vcpus: int) -> int:
    """How many doorbell vectors a guest with so many processors has a use for.

    Each lets a processor have interrupts of its own, and two keep devices apart from the store. But each is also one
    more descriptor that the main loop of its QEMU polls, every time, unless KVM takes it: a driver domain's card goes
    through that loop for each packet, and has the vectors of all its links there.
    """
    return min(max(vcpus, MIN_GUEST_VECTORS), DEFAULT_GUEST_VECTORS)


class _Frames:
    """Views of single frames, each made once: backends ask for the same ones over and over."""

    def __init__(self, memory: memoryview, nr_frames: int) -> None:
        self._memory = memory
        self._views: list[memoryview | None] = [None] * nr_frames

    def view(self, number: int) -> memoryview:
        view = self._views[number]
        if view is None:
            view = self._memory[number * FRAME_SIZE : (number + 1) * FRAME_SIZE]
            self._views[number] = view
        return view


class LinkEnd(Closing):
    """What a process that serves the grantee's end (Domain 0) has of a link.

    :param memory_fd: the region.
    :param wait_fd: eventfd of ``vector``, to wait on.
    :param ring_fds: eventfd of each vector of the other end, to ring.
    :param vector: this process's own doorbell vector.
    :param ports: local ports that belong to this process.
    :raise GuestError: the region does not hold what the owner of the link has put there.

    It owns the descriptors once it exists; when this raises they are still the caller's. The mapping itself goes away
    with the last view of it.
    """

    end: ClassVar[int] = GRANTEE

    def __init__(self, memory_fd: int, wait_fd: int, ring_fds: Sequence[int], *, vector: int, ports: range) -> None:
        self._fds = [memory_fd, wait_fd, *ring_fds]
        self.wait_fd = wait_fd
        size = os.fstat(memory_fd).st_size
        if fcntl.fcntl(memory_fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
            # Unsealed it could shrink under us, and the next access would be a SIGBUS.
            raise GuestError("the memory of the link is not sealed against a change of its size")
        self.memory = memoryview(mmap.mmap(memory_fd, size))
        info = bytes(self.memory[LINK_INFO_OFFSET : LINK_INFO_OFFSET + LINK_INFO.size])
        self.layout = LinkLayout.parse_info(info, size)
        self._frames = _Frames(self.memory, self.layout.nr_frames)
        self.events = EventChannels(
            self.memory, self.layout, self.end, wait_fd=wait_fd, ring_fds=ring_fds, vector=vector, ports=ports
        )

    @classmethod
    def from_fds(cls, fds: Sequence[int], *, vector: int, ports: range) -> Self:
        """Make an end from ``[memory, own eventfd, eventfds of the other end...]``, which it owns from now on."""
        return cls(fds[0], fds[1], fds[2:], vector=vector, ports=ports)

    def frame(self, number: int) -> memoryview:
        """The 4096 bytes of one frame.

        :raise IndexError: the link has no such frame.
        """
        return self._frames.view(number)

    @cached_property
    def grants(self) -> GrantMap:
        """What the other end has granted to this one."""
        return GrantMap(self.memory, self.layout, self._frames.view, self.layout.domid[GRANTEE])

    def close(self) -> None:
        """Close the descriptors; may be called again."""
        for descriptor in self._fds:
            os.close(descriptor)
        self._fds = []


class GuestEnd(LinkEnd):
    """The granter's end of a link, for a process that plays the guest: a frontend in Python."""

    end: ClassVar[int] = GRANTER

    @cached_property
    def table(self) -> GrantTable:
        """The references that this end gives out."""
        return GrantTable(self.memory, self.layout)


def _premade(layout: LinkLayout, write_at: memoryview) -> None:
    """Write what the toolstack makes before the guest runs: ports and grants of the store and the console."""

    def port(end: int, number: int, vector: int, remote: int) -> None:
        PORT.pack_into(
            write_at, layout.ports_frame[end] * FRAME_SIZE + number * PORT.size, PortState.INTERDOMAIN, vector, remote
        )

    def grant(ref: int, frame: int) -> None:
        entry = pack_entry(GTF_PERMIT_ACCESS, layout.domid[GRANTEE], frame)
        offset = layout.grant_frame * FRAME_SIZE + ref * GRANT_ENTRY_SIZE
        write_at[offset : offset + GRANT_ENTRY_SIZE] = entry.to_bytes(GRANT_ENTRY_SIZE, "little")

    # The guest's vectors for these two are 0; its driver moves them when it comes up.
    port(GRANTER, GUEST_STORE_PORT, 0, STORE_PORTS[0])
    port(GRANTER, GUEST_CONSOLE_PORT, 0, BACKEND_PORTS[0])
    port(GRANTEE, STORE_PORTS[0], STORE_VECTOR, GUEST_STORE_PORT)
    port(GRANTEE, BACKEND_PORTS[0], BACKEND_VECTOR, GUEST_CONSOLE_PORT)
    grant(STORE_REF, layout.store_frame)
    grant(CONSOLE_REF, layout.console_frame)


class Link(Closing):
    """A link as its owner holds it: the memory and every doorbell.

    A QEMU at either end is a peer of its own. When the grantee's has died, :meth:`renew` lets another one take its
    place, with the memory as it is: what was granted to the dead one the new one may map, and the granter's device
    stays. A granter that starts again gets a new link.
    """

    def __init__(self, layout: LinkLayout) -> None:
        self.layout = layout
        self._fds: list[int] = []
        self._memory_fd = -1
        self._doorbells: list[list[int]] = []
        self._servers: dict[int, socket.socket] = {}

    @classmethod
    def create(cls, domid: int, *, size: int = DEFAULT_SIZE, guest_vectors: int = DEFAULT_GUEST_VECTORS) -> Self:
        """Make the link between a domain and Domain 0, with start info, the store's and the console's ports and grants.

        :param size: bytes, a power of two.
        :raise HostError: no memory or no descriptors left.
        """
        layout = LinkLayout(size // FRAME_SIZE, (domid, DOMAIN_0), vectors=(guest_vectors, DOMAIN_0_VECTORS))
        return cls._made(layout, toolstack=True)

    @classmethod
    def between(
        cls, domid: int, driver_domid: int, *, size: int = DEFAULT_SIZE, guest_vectors: int = DEFAULT_GUEST_VECTORS
    ) -> Self:
        """Make the link between a domain and a driver domain: grants and event channels alone, none made yet.

        :param domid: of the domain that grants.
        :param driver_domid: of the one that may map.
        :param size: bytes, a power of two.
        :param guest_vectors: of each end, as many as the one that grants has a use for: it has no more queues than
            processors, and after the driver domain there may be another one.
        :raise HostError: no memory or no descriptors left.
        """
        vectors = (guest_vectors, guest_vectors)
        return cls._made(LinkLayout(size // FRAME_SIZE, (domid, driver_domid), vectors=vectors), toolstack=False)

    @classmethod
    def _made(cls, layout: LinkLayout, *, toolstack: bool) -> Self:
        link = cls(layout)
        try:
            link._open(toolstack=toolstack)
        except OSError as error:
            link.close()
            raise HostError(
                f"cannot make a link of {layout.size >> 20} MiB for domain {layout.domid[GRANTER]}: {error.strerror}",
                hint="free some memory, or raise the limit of open files (ulimit -n)",
            ) from error
        return link

    def _open(self, *, toolstack: bool) -> None:
        name = "harness-link-{}-{}".format(*self.layout.domid)
        self._memory_fd = self._own(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.ftruncate(self._memory_fd, self.layout.size)
        fcntl.fcntl(self._memory_fd, fcntl.F_ADD_SEALS, SEALS)
        with mmap.mmap(self._memory_fd, self.layout.size) as mapping, memoryview(mapping) as memory:
            start = pack_start_info(self.layout, toolstack=toolstack)
            memory[: len(start)] = start
            memory[LINK_INFO_OFFSET : LINK_INFO_OFFSET + LINK_INFO.size] = self.layout.pack_info()
            if toolstack:
                _premade(self.layout, memory)
        self._doorbells = [self._make_doorbells(end) for end in (GRANTER, GRANTEE)]

    def _make_doorbells(self, end: int) -> list[int]:
        return [self._own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)) for _ in range(self.layout.vectors[end])]

    def _own(self, descriptor: int) -> int:
        self._fds.append(descriptor)
        return descriptor

    def qemu_socket(self, end: int = GRANTER) -> socket.socket:
        """The socket to give to the QEMU at one end: every ivshmem server message waits in it already.

        The caller closes it once QEMU has it.

        :raise RuntimeError: this end has been given to a QEMU before.
        """
        if end in self._servers:
            raise RuntimeError("a peer of a link is one QEMU process: renew that end first")
        self._servers[end], client = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ivshmem.queue_messages(
            self._servers[end],
            self.layout.peer[end],
            self._memory_fd,
            self._doorbells[end],
            {self.layout.peer[1 - end]: self._doorbells[1 - end]},
        )
        return client

    def renew(self) -> None:
        """Prepare the grantee's end for another QEMU, after the one that had it has ended.

        What the dead one has mapped and bound, its successor's driver gives back when it comes up.

        :raise HostError: no descriptors left.
        """
        server = self._servers.pop(GRANTEE, None)
        if server is not None:
            server.close()
        peer = (self.layout.peer[GRANTER], self.layout.peer[GRANTEE] + 1)
        self.layout = replace(self.layout, peer=peer)
        for descriptor in self._doorbells[GRANTEE]:
            self._fds.remove(descriptor)
            os.close(descriptor)
        self._doorbells[GRANTEE] = []
        try:
            self._doorbells[GRANTEE] = self._make_doorbells(GRANTEE)
        except OSError as error:
            raise HostError(f"cannot renew a link: {error.strerror}", hint="raise ulimit -n") from error
        with mmap.mmap(self._memory_fd, FRAME_SIZE) as mapping:
            PEER.pack_into(mapping, PEER_OFFSET, *peer)
        if GRANTER in self._servers:
            ivshmem.announce(self._servers[GRANTER], peer[GRANTEE], self._doorbells[GRANTEE])

    def adopt(self) -> None:
        """Make this link of a memory that QEMU has just filled with that of a saved domain.

        The numbers of its ends were others then, perhaps both, and so may have been the grantee's peer. What was
        granted to that domain is granted to this one. What the other end had mapped or bound, its successors give back.
        All that has happened since, and the doorbells on their way, the guest is told of by :meth:`ring_granter`.

        :raise GuestError: it is not the memory of such a link.
        """
        with mmap.mmap(self._memory_fd, self.layout.size) as mapping, memoryview(mapping) as memory:
            info = bytes(memory[LINK_INFO_OFFSET : LINK_INFO_OFFSET + LINK_INFO.size])
            found = LinkLayout.parse_info(info, self.layout.size)
            granters = (found.peer[GRANTER], self.layout.peer[GRANTER])
            if granters[0] != granters[1] or found.vectors != self.layout.vectors:
                raise GuestError(f"the saved link has other ends: {found}; expected {self.layout}")
            number = struct.unpack_from("<I", info, NR_GRANT_FRAMES_OFFSET - LINK_INFO_OFFSET)[0]
            memory[LINK_INFO_OFFSET : LINK_INFO_OFFSET + LINK_INFO.size] = self.layout.pack_info(number)
            before, now = found.domid[GRANTEE], self.layout.domid[GRANTEE]
            if before != now:
                start = self.layout.grant_frame * FRAME_SIZE
                with memory[start : start + number * FRAME_SIZE] as table:
                    regrant(table, before, now)

    def ring_granter(self) -> None:
        """Ring all doorbells of the granter's end: it looks at all its ports."""
        for descriptor in self._doorbells[GRANTER]:
            os.eventfd_write(descriptor, 1)

    def frame(self, number: int) -> memoryview:
        """The 4096 bytes of one frame, mapped for as long as there is a view of them."""
        return memoryview(mmap.mmap(self._memory_fd, FRAME_SIZE, offset=number * FRAME_SIZE))

    def _fds_for(self, end: int, vector: int) -> list[int]:
        return [self._memory_fd, self._doorbells[end][vector], *self._doorbells[1 - end]]

    def store_fds(self) -> list[int]:
        """What the store needs for its ``LinkEnd``; the link keeps the descriptors, pass them on or duplicate them."""
        return self._fds_for(GRANTEE, STORE_VECTOR)

    def backend_fds(self) -> list[int]:
        """What the backend process needs for its ``LinkEnd``; the link keeps the descriptors."""
        return self._fds_for(GRANTEE, BACKEND_VECTOR)

    def guest_fds(self, vector: int = 0) -> list[int]:
        """What a process that plays the guest needs for its ``GuestEnd``; the link keeps the descriptors."""
        return self._fds_for(GRANTER, vector)

    def close(self) -> None:
        """Close everything; may be called again. Other processes keep what they have been given."""
        for descriptor in self._fds:
            os.close(descriptor)
        self._fds = []
        for server in self._servers.values():
            server.close()
