"""A link as its owner makes it, and what each end refuses to believe."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.host.errors import GuestError, HostError
from harness.hypervisor import ivshmem
from harness.hypervisor.layout import (
    BACKEND_PORTS,
    FRAME_SIZE,
    GRANTEE,
    GRANTS_PER_FRAME,
    GUEST_PORTS,
    LINK_INFO,
    LINK_INFO_OFFSET,
    MAX_GRANT_FRAMES,
    NR_GRANT_FRAMES,
    NR_GRANT_FRAMES_OFFSET,
    NR_STATUS_FRAMES,
    STORE_PORTS,
    LinkLayout,
)
from harness.hypervisor.link import SEALS, GuestEnd, Link, LinkEnd, vectors_for
from harness.hypervisor.startinfo import START_INFO
from tests.unit.linkends import DOMID, FRAMES, duplicated, ends_of_a_link


def open_descriptors() -> int:
    # Those of other tests' objects must not go in between.
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def receive_all(client: socket.socket) -> list[tuple[int, int | None]]:
    """Every message that waits for an ivshmem client: its number, and what its descriptor is."""
    client.setblocking(False)
    found: list[tuple[int, int | None]] = []
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(client, 8, 1)
        except BlockingIOError:
            return found
        number = int.from_bytes(data, "little", signed=True)
        found.append((number, identity(descriptors[0]) if descriptors else None))
        for descriptor in descriptors:
            os.close(descriptor)


def identity(descriptor: int) -> int:
    """Equal for two descriptors of the same file: all eventfds share one inode, but the kernel numbers them."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("eventfd-id:"):
            return int(line.split()[1])
    return os.fstat(descriptor).st_ino


def test_every_message_for_qemu_waits_in_order() -> None:
    with Link.create(DOMID, guest_vectors=3) as link, link.qemu_socket() as client:
        memory, own, *guest = link.store_fds()
        backend_own = link.backend_fds()[1]
        assert receive_all(client) == [
            (0, None),
            (0, None),
            (-1, identity(memory)),
            (1, identity(own)),
            (1, identity(backend_own)),
            *[(0, identity(descriptor)) for descriptor in guest],
        ]


@pytest.mark.parametrize(("vcpus", "vectors"), [(1, 2), (2, 2), (3, 3), (8, 8), (64, 8)])
def test_a_guest_has_a_vector_for_each_processor_within_limits(vcpus: int, vectors: int) -> None:
    assert vectors_for(vcpus) == vectors
    with Link.between(DOMID, 3, guest_vectors=vectors_for(vcpus)) as link, link.qemu_socket() as client:
        assert len(bells(receive_all(client), 0)) == vectors
        assert link.layout.vectors == (vectors, vectors)


def test_a_link_serves_one_qemu() -> None:
    with Link.create(DOMID) as link, link.qemu_socket(), pytest.raises(RuntimeError, match="one QEMU"):
        link.qemu_socket()


def bells(told: list[tuple[int, int | None]], peer: int) -> list[int]:
    """The doorbells of a peer, as a client was told of them."""
    return [entry for number, entry in told if number == peer and entry is not None]


def test_a_driver_domain_that_has_died_is_followed_by_another_peer_on_the_same_memory() -> None:
    with Link.between(DOMID, 3) as link, link.qemu_socket() as guest, link.qemu_socket(GRANTEE) as first:
        before, dead = receive_all(guest), receive_all(first)
        assert bells(before, 0) == bells(dead, 0)
        assert bells(before, 1) == bells(dead, 1)
        link.renew()
        assert first.recv(1) == b""
        with link.qemu_socket(GRANTEE) as second:
            told = receive_all(second)
        assert told[1] == (2, None)
        assert told[2] == before[2] == dead[2]
        assert bells(told, 0) == bells(before, 0)
        assert receive_all(guest) == [(2, bell) for bell in bells(told, 2)]
        assert not set(bells(told, 2)) & set(bells(before, 0))


def test_a_link_to_a_driver_domain_has_neither_store_nor_console() -> None:
    with (
        Link.between(DOMID, 3) as link,
        GuestEnd.from_fds(duplicated(link.guest_fds()), vector=0, ports=GUEST_PORTS) as end,
    ):
        start = START_INFO.unpack_from(end.memory)
        assert start[4:8] == (0, 0, 0, 0)
        assert end.layout.domid == (DOMID, 3)
        assert not end.events.open_ports


def test_a_socket_that_cannot_hold_the_messages_is_an_error() -> None:
    server, client = socket.socketpair()
    with server, client, Link.create(DOMID) as link, pytest.raises(HostError, match="peer 5"):
        ivshmem.queue_messages(server, 5, link.store_fds()[0], link.store_fds()[2:] * 10000, {})


def test_closing_gives_back_every_descriptor() -> None:
    before = open_descriptors()
    with ends_of_a_link() as ends:
        ends.link.qemu_socket().close()
        assert open_descriptors() > before
    del ends
    assert open_descriptors() == before


def test_a_failure_half_way_gives_back_every_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    real, made = os.eventfd, 0

    def eventfd(value: int, flags: int) -> int:
        nonlocal made
        made += 1
        if made > 4:
            raise OSError(24, "Too many open files")
        return real(value, flags)

    monkeypatch.setattr(os, "eventfd", eventfd)
    with pytest.raises(HostError, match="Too many open files"):
        Link.create(DOMID)
    assert open_descriptors() == before


def test_the_size_of_the_memory_is_final() -> None:
    with Link.create(DOMID) as link:
        memory = link.store_fds()[0]
        assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) & SEALS == SEALS
        with pytest.raises(PermissionError):
            os.ftruncate(memory, FRAME_SIZE)


def test_memory_that_could_shrink_is_refused() -> None:
    with Link.create(DOMID) as link:
        _, *doorbells = link.store_fds()
        memory = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, link.layout.size)
        try:
            with pytest.raises(GuestError, match="not sealed"):
                LinkEnd.from_fds([memory, *doorbells], vector=0, ports=STORE_PORTS)
        finally:
            os.close(memory)


def test_start_info_says_where_store_and_console_are() -> None:
    with ends_of_a_link() as ends:
        fields = START_INFO.unpack_from(ends.guest.memory)
        layout = ends.link.layout
        assert fields[0].rstrip(b"\0") == b"xen-3.0-x86_64"
        assert fields[1:8] == (FRAMES, 0, 0, layout.store_frame, 1, layout.console_frame, 2)


def test_the_ends_see_the_same_memory() -> None:
    with ends_of_a_link() as ends:
        ends.guest.frame(40)[:4] = b"here"
        assert bytes(ends.backend.frame(40)[:4]) == b"here"
        assert ends.guest.frame(40).nbytes == FRAME_SIZE
        with pytest.raises(IndexError):
            ends.backend.frame(FRAMES)


def test_areas_of_a_layout_do_not_overlap() -> None:
    layout = LinkLayout(FRAMES, (DOMID, 0))
    areas = [(0, 1), (layout.store_frame, 1), (layout.console_frame, 1), (layout.grant_frame, MAX_GRANT_FRAMES)]
    areas += [(layout.status_frame, NR_STATUS_FRAMES)]
    for end in (0, 1):
        areas += [(layout.pending_frame[end], 1), (layout.mask_frame[end], 1), (layout.ports_frame[end], 8)]
    used = [frame for first, count in areas for frame in range(first, first + count)]
    assert sorted(used) == list(range(layout.first_free_frame))


@pytest.mark.parametrize("frames", [0, 16, 32, 48, 96, 4095])
def test_sizes_that_no_link_can_have(frames: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        LinkLayout(frames, (1, 0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinkLayout(FRAMES, (0x7FF0, 0)),
        lambda: LinkLayout(FRAMES, (1, 0), peer=(0, 1 << 16)),
        lambda: LinkLayout(FRAMES, (1, 0), vectors=(256, 2)),
    ],
)
def test_numbers_that_no_link_can_have(make: Callable[[], LinkLayout]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        make()


@given(
    st.integers(6, 16),
    st.tuples(st.integers(0, 0x7FEF), st.integers(0, 0x7FEF)),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_link_info_there_and_back(
    order: int, domid: tuple[int, int], peer: tuple[int, int], vectors: tuple[int, int]
) -> None:
    layout = LinkLayout(1 << order, domid, peer, vectors)
    assert LinkLayout.parse_info(layout.pack_info() + b"rest of the frame", layout.size) == layout


@given(st.integers(0, 40))
def test_the_grant_table_may_have_grown_within_its_room(frames: int) -> None:
    layout = LinkLayout(FRAMES, (DOMID, 0))
    if NR_GRANT_FRAMES <= frames <= MAX_GRANT_FRAMES:
        assert LinkLayout.parse_info(layout.pack_info(frames), layout.size) == layout
    else:
        with pytest.raises(GuestError, match="not the link info"):
            LinkLayout.parse_info(layout.pack_info(frames), layout.size)


GROWING = NR_GRANT_FRAMES_OFFSET - LINK_INFO_OFFSET
FRAME_NUMBERS = sorted(set(range(24, LINK_INFO.size, 4)) - {GROWING})


@given(st.sampled_from([0, 4, 8, *FRAME_NUMBERS]), st.integers(0, 0xFFFFFFFF))
def test_link_info_with_any_other_number_is_refused(offset: int, value: int) -> None:
    layout = LinkLayout(FRAMES, (DOMID, 0))
    info = bytearray(layout.pack_info())
    if struct.unpack_from("<I", info, offset)[0] == value:
        return
    struct.pack_into("<I", info, offset, value)
    with pytest.raises(GuestError, match="not the link info"):
        LinkLayout.parse_info(bytes(info), layout.size)


def test_link_info_of_nobody_or_cut_short_is_refused() -> None:
    layout = LinkLayout(FRAMES, (DOMID, 0))
    info = bytearray(layout.pack_info())
    with pytest.raises(GuestError, match="bytes, expected"):
        LinkLayout.parse_info(bytes(info[:-1]), layout.size)
    struct.pack_into("<H", info, 12, 0x7FF0)
    with pytest.raises(GuestError, match="makes no sense"):
        LinkLayout.parse_info(bytes(info), layout.size)


def saved_memory(domid: int = DOMID + 1, *, grant_frames: int = NR_GRANT_FRAMES + 1, vectors: int = 8) -> bytes:
    """What is in the link of a domain that had another number, and whose grant table has grown."""
    layout = LinkLayout(FRAMES, (domid, 0), vectors=(vectors, 2))
    memory = bytearray(layout.size)
    memory[LINK_INFO_OFFSET : LINK_INFO_OFFSET + LINK_INFO.size] = layout.pack_info(grant_frames)
    memory[-4:] = b"here"
    return bytes(memory)


def test_the_memory_of_a_saved_domain_becomes_that_of_another() -> None:
    with ends_of_a_link() as ends:
        ends.guest.memory[:] = saved_memory()
        ends.link.adopt()
        assert bytes(ends.guest.memory[-4:]) == b"here"
        descriptors = duplicated(ends.link.backend_fds())
        with LinkEnd.from_fds(descriptors, vector=1, ports=BACKEND_PORTS) as backend:
            assert backend.layout == ends.link.layout
            assert backend.grants.query_size()[0] == NR_GRANT_FRAMES + 1
        ends.guest.events.acknowledge()
        ends.link.ring_granter()
        assert select.select([ends.guest.events.wait_fd], [], [], 0)[0]


def test_what_was_granted_to_a_driver_domain_is_granted_to_the_one_in_its_place() -> None:
    before = LinkLayout(FRAMES, (DOMID, 5), peer=(0, 3), vectors=(8, 8))
    with Link.between(DOMID + 1, 9, size=before.size) as link:
        table = before.grant_frame * FRAME_SIZE
        with mmap.mmap(link.guest_fds()[0], before.size) as memory:
            memory[LINK_INFO_OFFSET : LINK_INFO_OFFSET + LINK_INFO.size] = before.pack_info()
            # What is granted to somebody else stays so, and what only looks like a number of a domain, too.
            for ref, domid in ((8, 5), (9, 6), (NR_GRANT_FRAMES * GRANTS_PER_FRAME - 1, 5)):
                struct.pack_into("<HHI", memory, table + 8 * ref, 5, domid, 5)
            struct.pack_into("<HHI", memory, table + NR_GRANT_FRAMES * FRAME_SIZE, 1, 5, 5)
            link.adopt()
            assert LinkLayout.parse_info(memory[LINK_INFO_OFFSET:FRAME_SIZE], before.size) == link.layout
            assert link.layout.peer == (0, 1)
            for ref, domid in ((8, 9), (9, 6), (NR_GRANT_FRAMES * GRANTS_PER_FRAME - 1, 9)):
                assert struct.unpack_from("<HHI", memory, table + 8 * ref) == (5, domid, 5)
            assert struct.unpack_from("<HHI", memory, table + NR_GRANT_FRAMES * FRAME_SIZE) == (1, 5, 5)


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (bytes(FRAMES * FRAME_SIZE), r"makes no sense|not the link info"),
        (b"\xff" * (FRAMES * FRAME_SIZE), "makes no sense"),
        (saved_memory(grant_frames=MAX_GRANT_FRAMES + 1), "not the link info"),
        (saved_memory(vectors=4), "the saved link has other ends"),
    ],
)
def test_the_memory_of_a_saved_domain_that_is_none_is_refused(memory: bytes, reason: str) -> None:
    with ends_of_a_link() as ends:
        ends.guest.memory[:] = memory
        with pytest.raises(GuestError, match=reason):
            ends.link.adopt()


def test_an_end_does_not_start_on_overwritten_link_info() -> None:
    with ends_of_a_link() as ends:
        struct.pack_into("<I", ends.guest.memory, LINK_INFO_OFFSET + 64, 0)
        descriptors = duplicated(ends.link.store_fds())
        try:
            with pytest.raises(GuestError, match="overwritten frame 0"):
                LinkEnd.from_fds(descriptors, vector=0, ports=STORE_PORTS)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
