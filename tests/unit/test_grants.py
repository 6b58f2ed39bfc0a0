"""Grants from both ends: who may map what, and when a frame is free again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.hypervisor.grants import (
    GTF_PERMIT_ACCESS,
    GTF_READING,
    GTF_READONLY,
    GTF_TYPE_MASK,
    GTF_WRITING,
    GrantError,
    GrantStatus,
    pack_entry,
)
from harness.hypervisor.layout import (
    FRAME_SIZE,
    GRANTS_PER_FRAME,
    LINK_PORTS,
    MAX_GRANT_FRAMES,
    NR_GRANT_FRAMES,
    NR_GRANT_FRAMES_OFFSET,
    NR_GRANTS,
    NR_RESERVED_REFS,
    LinkLayout,
)
from harness.hypervisor.link import LinkEnd
from tests.unit.linkends import FRAMES, Ends, duplicated, ends_of_a_link, status_of

FRAME = LinkLayout.first_free_frame


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as made:
        yield made


def write_entry(ends: Ends, ref: int, flags: int, domid: int, frame: int) -> None:
    table = ends.guest.frame(ends.guest.layout.grant_frame + ref // 512)
    table[ref % 512 * 8 :][:8] = pack_entry(flags, domid, frame).to_bytes(8, "little")


def refusal(ends: Ends, ref: int, *, write: bool = False) -> GrantStatus:
    with pytest.raises(GrantError) as caught:
        ends.backend.grants.map(ref, write=write)
    assert str(ref) in str(caught.value)
    assert ends.backend.grants.mapped == frozenset()
    if 0 <= ref < NR_GRANTS:
        assert status_of(ends, ref) == 0
    return caught.value.status


def test_a_granted_frame_is_shared(ends: Ends) -> None:
    ref = ends.guest.table.grant(FRAME, 0)
    assert ref >= NR_RESERVED_REFS
    grant = ends.backend.grants.map(ref, write=True)
    grant.memory[:5] = b"hello"
    assert (grant.frame, bytes(ends.guest.frame(FRAME)[:5])) == (FRAME, b"hello")


def test_a_mapping_for_reading_cannot_be_written_to(ends: Ends) -> None:
    grant = ends.backend.grants.map(ends.guest.table.grant(FRAME, 0), write=False)
    with pytest.raises(TypeError):
        grant.memory[0] = 1


def test_store_and_console_are_granted_from_the_start(ends: Ends) -> None:
    assert ends.store.grants.map(1, write=True).frame == ends.link.layout.store_frame
    assert ends.backend.grants.map(0, write=True).frame == ends.link.layout.console_frame


def test_the_in_use_bits_tell_reading_from_writing(ends: Ends) -> None:
    ref = ends.guest.table.grant(FRAME, 0)
    reader = ends.backend.grants.map(ref, write=False)
    assert status_of(ends, ref) == GTF_READING
    writer = ends.backend.grants.map(ref, write=True)
    assert status_of(ends, ref) == GTF_READING | GTF_WRITING
    ends.backend.grants.unmap(writer)
    assert status_of(ends, ref) == GTF_READING
    ends.backend.grants.unmap(reader)
    assert status_of(ends, ref) == 0
    with pytest.raises(GrantError) as caught:
        ends.backend.grants.unmap(reader)
    assert caught.value.status == GrantStatus.BAD_HANDLE


def test_ending_access_stops_new_mappings_but_does_not_revoke_old_ones(ends: Ends) -> None:
    ref = ends.guest.table.grant(FRAME, 0)
    first, second = (ends.backend.grants.map(ref, write=True) for _ in range(2))
    assert not ends.guest.table.end_access(ref)
    with pytest.raises(GrantError):
        ends.backend.grants.map(ref, write=False)
    ends.backend.grants.unmap(first)
    assert not ends.guest.table.end_access(ref)
    ends.backend.grants.unmap(second)
    assert ends.guest.table.end_access(ref)
    with pytest.raises(GrantError):
        ends.guest.table.end_access(ref)


def test_a_successor_lets_go_of_what_its_predecessor_had_mapped(ends: Ends) -> None:
    left, kept = (ends.guest.table.grant(FRAME + number, 0) for number in range(2))
    ends.store.grants.map(1, write=True)
    for ref in (0, left, kept):
        ends.backend.grants.map(ref, write=True)
    successor = LinkEnd.from_fds(duplicated(ends.link.backend_fds()), vector=1, ports=range(64, LINK_PORTS))
    with successor:
        held = successor.grants.map(kept, write=False)
        successor.grants.reset()
        assert [status_of(ends, ref) for ref in (0, 1, left, kept)] == [0, GTF_READING | GTF_WRITING, 0, GTF_READING]
        assert ends.guest.table.end_access(left)
        assert not ends.guest.table.end_access(kept)
        successor.grants.unmap(held)
        assert ends.guest.table.end_access(kept)


@pytest.mark.parametrize("ref", [-1, NR_GRANTS, 0xFFFFFFFF])
def test_references_outside_the_table(ends: Ends, ref: int) -> None:
    assert refusal(ends, ref) == GrantStatus.BAD_GNTREF


def test_a_reference_that_grants_nothing(ends: Ends) -> None:
    assert refusal(ends, 8) == GrantStatus.BAD_GNTREF
    for kind in (0, 2, 3):
        write_entry(ends, 8, kind, 0, FRAME)
        assert refusal(ends, 8) == GrantStatus.BAD_GNTREF


def test_a_grant_to_somebody_else(ends: Ends) -> None:
    assert refusal(ends, ends.guest.table.grant(FRAME, 5)) == GrantStatus.BAD_DOMAIN


def test_a_read_only_grant_is_not_mapped_for_writing(ends: Ends) -> None:
    ref = ends.guest.table.grant(FRAME, 0, readonly=True)
    assert refusal(ends, ref, write=True) == GrantStatus.PERMISSION_DENIED
    assert ends.backend.grants.map(ref, write=False).frame == FRAME


def test_frames_of_the_link_itself_cannot_be_granted(ends: Ends) -> None:
    for frame in (*range(LinkLayout.first_free_frame), FRAMES, 0xFFFFFFFF):
        write_entry(ends, 9, GTF_PERMIT_ACCESS, 0, frame)
        assert refusal(ends, 9) == GrantStatus.BAD_PAGE
        with pytest.raises(GrantError):
            ends.guest.table.grant(frame, 0)
    write_entry(ends, 0, GTF_PERMIT_ACCESS, 0, ends.link.layout.store_frame)
    assert refusal(ends, 0) == GrantStatus.BAD_PAGE


def test_writing_is_taken_back_only_when_nobody_writes(ends: Ends) -> None:
    ref = ends.guest.table.grant(FRAME, 0)
    writer, reader = ends.backend.grants.map(ref, write=True), ends.backend.grants.map(ref, write=False)
    assert not ends.guest.table.make_readonly(ref)
    ends.backend.grants.unmap(ends.backend.grants.map(ref, write=True))
    ends.backend.grants.unmap(writer)
    assert ends.guest.table.make_readonly(ref)
    ends.backend.grants.unmap(reader)
    assert refusal(ends, ref, write=True) == GrantStatus.PERMISSION_DENIED
    ends.backend.grants.unmap(ends.backend.grants.map(ref, write=False))
    ends.guest.table.make_writable(ref)
    ends.backend.grants.unmap(ends.backend.grants.map(ref, write=True))
    assert ends.guest.table.end_access(ref)
    for refused in (ends.guest.table.make_readonly, ends.guest.table.make_writable):
        with pytest.raises(GrantError):
            refused(ref)


def copy_refused(ends: Ends, *arguments: int | memoryview, **offsets: int) -> GrantStatus:
    with pytest.raises(GrantError) as caught:
        ends.backend.grants.copy(*arguments, **offsets)  # type: ignore[arg-type]
    assert ends.backend.grants.mapped == frozenset()
    return caught.value.status


OFFSETS = st.integers(-1, FRAME_SIZE + 1)


@given(OFFSETS, OFFSETS, OFFSETS, st.booleans(), st.booleans())
def test_a_copy_stays_in_its_pages(source: int, destination: int, length: int, into: bool, out_of: bool) -> None:
    pattern = bytes(index * 7 & 0xFF for index in range(FRAME_SIZE))
    with ends_of_a_link() as ends:
        ends.guest.frame(FRAME)[:] = pattern
        ends.guest.frame(FRAME + 1)[:] = bytes(FRAME_SIZE)
        reading, writing = ends.guest.table.grant(FRAME, 0, readonly=True), ends.guest.table.grant(FRAME + 1, 0)
        local = memoryview(bytearray(FRAME_SIZE))
        arguments = (reading if out_of else memoryview(pattern), writing if into else local, length)
        offsets = {"source_offset": source, "destination_offset": destination}
        target = ends.guest.frame(FRAME + 1) if into else local
        if min(source, destination, length) < 0 or max(source, destination) + length > FRAME_SIZE:
            assert copy_refused(ends, *arguments, **offsets) == GrantStatus.BAD_COPY_ARG
            assert not any(target)
            return
        ends.backend.grants.copy(*arguments, **offsets)
        assert bytes(target[destination : destination + length]) == pattern[source : source + length]
        assert not any(target[:destination])
        assert not any(target[destination + length :])
        assert (status_of(ends, reading), status_of(ends, writing)) == (0, 0)


def test_a_copy_needs_both_its_grants(ends: Ends) -> None:
    good, readonly = ends.guest.table.grant(FRAME, 0), ends.guest.table.grant(FRAME, 0, readonly=True)
    foreign, page = ends.guest.table.grant(FRAME, 5), memoryview(bytearray(FRAME_SIZE))
    assert copy_refused(ends, page, readonly, 1) == GrantStatus.PERMISSION_DENIED
    assert copy_refused(ends, good, readonly, 1) == GrantStatus.PERMISSION_DENIED
    assert copy_refused(ends, foreign, good, 1) == GrantStatus.BAD_DOMAIN
    assert copy_refused(ends, good, 4000, 1) == GrantStatus.BAD_GNTREF
    ends.backend.grants.copy(4000, 4001, 0)


def test_the_table_grows_when_it_is_full(ends: Ends) -> None:
    first = NR_GRANT_FRAMES * GRANTS_PER_FRAME
    assert ends.backend.grants.query_size() == (NR_GRANT_FRAMES, MAX_GRANT_FRAMES)
    for _ in range(first - NR_RESERVED_REFS):
        ends.guest.table.grant(FRAME, 0)
    assert refusal(ends, first) == GrantStatus.BAD_GNTREF
    assert ends.guest.table.grant(FRAME + 1, 0) == first
    grant = ends.backend.grants.map(first, write=True)
    assert grant.frame == FRAME + 1
    assert ends.backend.grants.query_size() == (NR_GRANT_FRAMES + 1, MAX_GRANT_FRAMES)
    assert not ends.guest.table.end_access(first)
    ends.backend.grants.unmap(grant)
    assert ends.guest.table.end_access(first)


@given(st.lists(st.integers(0, 0xFFFFFFFF), max_size=5), st.integers(0, MAX_GRANT_FRAMES + 8))
def test_whatever_the_guest_says_of_its_size_the_table_stays_within_its_room(claims: list[int], last: int) -> None:
    with ends_of_a_link() as ends:
        frames = NR_GRANT_FRAMES
        for claim in (*claims, last):
            ends.guest.memory[NR_GRANT_FRAMES_OFFSET:][:4] = claim.to_bytes(4, "little")
            if claim <= MAX_GRANT_FRAMES:
                frames = max(frames, claim)
            assert ends.backend.grants.query_size() == (frames, MAX_GRANT_FRAMES)
        assert refusal(ends, frames * GRANTS_PER_FRAME) == GrantStatus.BAD_GNTREF


def test_references_run_out(ends: Ends) -> None:
    refs = {ends.guest.table.grant(FRAME, 0) for _ in range(NR_GRANTS - NR_RESERVED_REFS)}
    assert len(refs) == NR_GRANTS - NR_RESERVED_REFS
    with pytest.raises(GrantError) as caught:
        ends.guest.table.grant(FRAME, 0)
    assert caught.value.status == GrantStatus.NO_SPACE
    assert ends.guest.table.end_access(100)
    assert ends.guest.table.grant(FRAME, 0) == 100


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.booleans())
def test_only_a_proper_entry_is_ever_mapped(flags: int, domid: int, frame: int, write: bool) -> None:
    with ends_of_a_link() as ends:
        write_entry(ends, 12, flags, domid, frame)
        try:
            grant = ends.backend.grants.map(12, write=write)
        except GrantError:
            assert status_of(ends, 12) == 0
        else:
            assert flags & GTF_TYPE_MASK == GTF_PERMIT_ACCESS
            assert not (write and flags & GTF_READONLY)
            assert domid == 0
            assert FRAME <= grant.frame == frame < FRAMES
