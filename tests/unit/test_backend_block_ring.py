"""A block ring and its requests, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.hypervisor.grants import Grant
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.blkif import (
    ENTRY_SIZE,
    REQUEST,
    SECTOR_SIZE,
    SEGMENT,
    Operation,
    Status,
    pack_indirect,
    pack_request,
)
from harness.ring.ring import RSP_PROD
from tests.unit.backend_guest import pattern
from tests.unit.blockbench import DATA_FRAMES, SECTORS, Bench
from tests.unit.linkends import ends_of_a_link


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(pattern(SECTORS * SECTOR_SIZE, 1))
    return path


@pytest.fixture(params=[True, False], ids=["persistent", "transient"])
def bench(request: pytest.FixtureRequest, disk: Path) -> Iterator[Bench]:
    with ends_of_a_link() as ends:
        bench = Bench(ends, disk, persistent=request.param)
        yield bench
        bench.close()
        assert not ends.backend.grants.mapped


def test_a_request_that_changes_while_it_is_served_is_served_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = bench.front.put()
    pack_request(bench.front.memory, offset, Operation.READ, request_id=5, sector=8, segments=[(bench.refs[0], 0, 7)])
    bench.front.push()
    original = bench.mappings.map

    def map_after_the_guest_has_changed_everything(ref: int, *, write: bool) -> Grant:
        bench.front.memory[offset : offset + ENTRY_SIZE] = b"\xff" * ENTRY_SIZE
        return original(ref, write=write)

    monkeypatch.setattr(bench.mappings, "map", map_after_the_guest_has_changed_everything)
    assert bench.back.work()
    assert bench.responses() == [(5, Operation.READ, Status.OKAY)]
    assert bench.frames[0] == pattern(SECTORS * SECTOR_SIZE, 1)[4096:8192]


def test_an_indirect_page_is_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    page = bench.frames[1]
    SEGMENT.pack_into(page, 0, bench.refs[0], 1, 2)
    pack_indirect(
        bench.front.memory,
        bench.front.put(),
        Operation.READ,
        request_id=6,
        sector=0,
        segments=1,
        pages=[bench.refs[1]],
    )
    bench.front.push()
    original = bench.mappings.map

    def map_and_let_the_guest_change_the_page(ref: int, *, write: bool) -> Grant:
        if ref == bench.refs[0]:
            page[:8] = b"\xff" * 8
        return original(ref, write=write)

    monkeypatch.setattr(bench.mappings, "map", map_and_let_the_guest_change_the_page)
    bench.back.work()
    assert bench.responses() == [(6, Operation.INDIRECT, Status.OKAY)]
    assert bench.frames[0] == bytes(512) + pattern(1024, 1) + bytes(4096 - 1536)


def test_a_flush_is_answered_after_what_was_written_is_on_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    rsp_prod = bench.front.memory.cast("I")

    def note(what: str) -> None:
        events.append(f"{what}, {rsp_prod[RSP_PROD]} answered")

    write, flush = bench.image.write, bench.image.flush

    def writing(pieces: list[memoryview], sector: int, size: int) -> None:
        write(pieces, sector, size)
        note("write")

    def flushing() -> None:
        flush()
        note("flush")

    monkeypatch.setattr(bench.image, "write", writing)
    monkeypatch.setattr(bench.image, "flush", flushing)
    segments = [(bench.refs[0], 0, 7)]
    for operation in (Operation.WRITE, Operation.FLUSH_DISKCACHE, Operation.WRITE_BARRIER):
        pack_request(
            bench.front.memory,
            bench.front.put(),
            operation,
            request_id=0,
            sector=0,
            segments=[] if operation == Operation.FLUSH_DISKCACHE else segments,
        )
    bench.front.push()
    answers = bench.answers(3)
    assert events == [
        "write, 0 answered",
        "flush, 1 answered",
        "flush, 2 answered",
        "write, 2 answered",
        "flush, 2 answered",
    ]
    assert [status for _, _, status in answers] == [Status.OKAY] * 3


def test_a_disk_that_fails_is_an_error_of_the_request(bench: Bench, disk: Path) -> None:
    # Truncated behind our back: half of what is asked for is there, then nothing.
    with disk.open("r+b") as file:
        file.truncate(4 * SECTOR_SIZE)
    for sector in (0, 8):
        pack_request(
            bench.front.memory,
            bench.front.put(),
            Operation.READ,
            request_id=sector,
            sector=sector,
            segments=[(bench.refs[0], 0, 7)],
        )
    bench.front.push()
    assert sorted(bench.answers(2)) == [(0, Operation.READ, Status.ERROR), (8, Operation.READ, Status.ERROR)]


segment = st.tuples(st.integers(0, DATA_FRAMES - 2), st.integers(0, 7), st.integers(0, 7)).map(
    lambda drawn: (drawn[0], min(drawn[1:]), max(drawn[1:]))
)


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(segment, min_size=1, max_size=40),
    sector=st.integers(0, SECTORS - 40 * 8),
    reading=st.booleans(),
)
def test_any_segments_carry_what_they_describe(
    tmp_path_factory: pytest.TempPathFactory, segments: list[tuple[int, int, int]], sector: int, reading: bool
) -> None:
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    contents = bytearray(pattern(SECTORS * SECTOR_SIZE, 1))
    path.write_bytes(contents)
    with ends_of_a_link() as ends:
        bench = Bench(ends, path)
        model = [bytearray(pattern(FRAME_SIZE, 1000 * (1 + index))) for index in range(DATA_FRAMES)]
        for frame, bytes_ in zip(bench.frames, model, strict=True):
            frame[:] = bytes_
        for index, (which, low, high) in enumerate(segments):
            SEGMENT.pack_into(bench.frames[-1], index * SEGMENT.size, bench.refs[which], low, high)
        position = sector * SECTOR_SIZE
        for which, low, high in segments:
            begin, end = low * SECTOR_SIZE, (high + 1) * SECTOR_SIZE
            if reading:
                model[which][begin:end] = contents[position : position + end - begin]
            else:
                contents[position : position + end - begin] = model[which][begin:end]
            position += end - begin
        operation = Operation.READ if reading else Operation.WRITE
        pack_indirect(
            bench.front.memory,
            bench.front.put(),
            operation,
            request_id=1,
            sector=sector,
            segments=len(segments),
            pages=[bench.refs[-1]],
        )
        bench.front.push()
        assert bench.answers(1) == [(1, Operation.INDIRECT, Status.OKAY)]
        bench.close()
        assert [bytes(frame) for frame in bench.frames[:-1]] == model[:-1]
    assert path.read_bytes() == contents


def test_a_response_overwrites_only_what_has_been_read(bench: Bench) -> None:
    """Requests that wait stay as they are while those before them are answered."""
    for index in range(3):
        pack_request(
            bench.front.memory,
            bench.front.put(),
            Operation.READ,
            request_id=index,
            sector=0,
            segments=[(bench.refs[0], 0, 0)],
        )
    bench.front.push()
    last = 64 + 2 * ENTRY_SIZE
    entry = bytes(bench.front.memory[last : last + ENTRY_SIZE])
    seen: list[bytes] = []
    read = bench.image.try_read

    def reading(pieces: list[memoryview], sector: int, size: int) -> bool:
        seen.append(bytes(bench.front.memory[last : last + ENTRY_SIZE]))
        return read(pieces, sector, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.image, "try_read", reading)
        bench.back.work()
    assert seen == [entry] * 3
    assert REQUEST.unpack_from(entry)[3] == 2
