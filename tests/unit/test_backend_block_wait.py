"""Requests that have to wait for the disk: others overtake them, and a barrier does not let them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.ring.blkif import SECTOR_SIZE, Operation, Status
from tests.unit.backend_guest import pattern
from tests.unit.blockbench import SECTORS, Bench
from tests.unit.linkends import Ends, ends_of_a_link

READ, WRITE, BARRIER, FLUSH = Operation.READ, Operation.WRITE, Operation.WRITE_BARRIER, Operation.FLUSH_DISKCACHE
OKAY, ERROR, EOPNOTSUPP = Status.OKAY, Status.ERROR, Status.EOPNOTSUPP

PATIENCE = 20.0
CONTENTS = pattern(SECTORS * SECTOR_SIZE, 1)


class SlowDisk:
    """Makes reads of an image wait until they are let through, one by one or all.

    :ivar log: what was done to the image, in this order.
    """

    def __init__(self, bench: Bench, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.slow = set(range(SECTORS))
        self._turn = threading.Semaphore(0)
        self._waiting = threading.Semaphore(0)
        read, write, flush, try_read = bench.image.read, bench.image.write, bench.image.flush, bench.image.try_read

        def trying(pieces: list[memoryview], sector: int, size: int) -> bool:
            return sector not in self.slow and try_read(pieces, sector, size)

        def reading(pieces: list[memoryview], sector: int, size: int) -> None:
            self._waiting.release()
            assert self._turn.acquire(timeout=PATIENCE)
            read(pieces, sector, size)
            self.log.append(f"read {sector}")

        def writing(pieces: list[memoryview], sector: int, size: int) -> None:
            write(pieces, sector, size)
            self.log.append(f"write {sector}")

        def flushing() -> None:
            flush()
            self.log.append("flush")

        replacements = {"try_read": trying, "read": reading, "write": writing, "flush": flushing}
        for name, replacement in replacements.items():
            patch.setattr(bench.image, name, replacement)

    def wait_for_readers(self, count: int) -> None:
        """Return when so many more reads wait for the disk."""
        for _ in range(count):
            assert self._waiting.acquire(timeout=PATIENCE)

    def let_through(self, count: int) -> None:
        self._turn.release(count)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as ends:
        yield ends


@pytest.fixture(params=[True, False], ids=["persistent", "transient"])
def bench(request: pytest.FixtureRequest, ends: Ends, tmp_path: Path) -> Iterator[Bench]:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENTS)
    bench = Bench(ends, path, persistent=request.param)
    yield bench
    bench.close()
    assert not ends.backend.grants.mapped


@pytest.fixture
def disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(bench, monkeypatch)


def test_reads_of_a_slow_disk_wait_side_by_side_and_others_overtake_them(bench: Bench, disk: SlowDisk) -> None:
    disk.slow = {0, 8, 16}
    for sector in (0, 8, 16, 24):
        bench.put(READ, request_id=sector, sector=sector, frame=sector // 8)
    bench.put(WRITE, request_id=32, sector=32, frame=15)
    assert bench.answers(2) == [(24, READ, OKAY), (32, WRITE, OKAY)]
    # All three at the same time, with none let through yet.
    disk.wait_for_readers(3)
    disk.let_through(3)
    assert sorted(bench.answers(3)) == [(0, READ, OKAY), (8, READ, OKAY), (16, READ, OKAY)]
    for index in range(4):
        assert bench.frames[index] == CONTENTS[index * 4096 :][:4096]


def test_a_ring_full_of_slow_reads_goes_round(bench: Bench, disk: SlowDisk) -> None:
    """More than there are threads, through the wrap of the ring."""
    disk.let_through(1000)
    for round_ in range(5):
        for place in range(bench.front.size):
            bench.put(READ, request_id=place, sector=8 * (place + round_), frame=place % 16)
        assert bench.front.free == 0
        answers = bench.answers(bench.front.size)
        assert sorted(answers) == [(place, READ, OKAY) for place in range(bench.front.size)]


def test_a_slow_request_keeps_its_grants_until_it_is_answered(bench: Bench, disk: SlowDisk, ends: Ends) -> None:
    bench.put(READ, request_id=1, frame=3)
    bench.back.work()
    disk.wait_for_readers(1)
    # Nothing is left of it but the request itself.
    bench.mappings.close()
    assert ends.backend.grants.mapped == {bench.refs[3]}
    disk.let_through(1)
    assert bench.answers(1) == [(1, READ, OKAY)]
    assert not ends.backend.grants.mapped


def test_a_flush_does_not_wait_for_what_has_not_been_answered(bench: Bench, disk: SlowDisk) -> None:
    bench.put(READ, request_id=1)
    bench.put(WRITE, request_id=2, sector=8)
    bench.put(FLUSH, request_id=3, frames=0)
    assert bench.answers(2) == [(2, WRITE, OKAY), (3, FLUSH, OKAY)]
    assert disk.log == ["write 8", "flush"]
    disk.let_through(1)
    assert bench.answers(1) == [(1, READ, OKAY)]


@pytest.mark.parametrize("frames", [0, 1])
def test_nothing_overtakes_a_barrier(bench: Bench, disk: SlowDisk, frames: int) -> None:
    for number in (1, 2):
        bench.put(READ, request_id=number, sector=number)
    bench.put(BARRIER, request_id=3, sector=8, frames=frames)
    bench.put(WRITE, request_id=4, sector=16)
    bench.put(BARRIER, request_id=5, sector=24, frames=frames)
    bench.put(READ, request_id=6, sector=6)
    assert bench.back.work()
    disk.wait_for_readers(2)
    # Whoever looks at the ring again finds nothing to do, and does not ask for an event that would not help.
    assert not bench.back.work()
    assert not bench.back.arm()
    assert (bench.responses(), disk.log) == ([], [])
    disk.let_through(3)
    answers = bench.answers(6)
    assert [number for number, _, _ in answers[2:]] == [3, 4, 5, 6]
    assert {status for _, _, status in answers} == {OKAY}
    first, second = (["flush", f"write {sector}", "flush"] if frames else ["flush"] for sector in (8, 24))
    assert sorted(disk.log[:2]) == ["read 1", "read 2"]
    assert disk.log[2:] == [*first, "write 16", *second, "read 6"]


def test_the_end_of_a_connection_waits_for_the_disk(bench: Bench, disk: SlowDisk, ends: Ends) -> None:
    for number in range(10):
        bench.put(READ, request_id=number, sector=8 * number, frame=number)
    bench.back.work()
    disk.wait_for_readers(8)
    threading.Timer(0.05, disk.let_through, [10]).start()
    bench.pool.close()
    bench.mappings.close()
    # It was all done and answered before anything was given back.
    assert len(disk.log) == 10
    assert sorted(bench.responses()) == [(number, READ, OKAY) for number in range(10)]
    assert not ends.backend.grants.mapped


@pytest.mark.parametrize(("number", "status"), [(errno.EIO, ERROR), (errno.EOPNOTSUPP, EOPNOTSUPP)])
def test_what_fails_later_is_answered_with_that(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def failing() -> None:
        raise OSError(number, "out of order")

    monkeypatch.setattr(bench.image, "flush", failing)
    for operation, request_id in ((FLUSH, 1), (BARRIER, 2), (READ, 3)):
        bench.put(operation, request_id=request_id, frames=int(operation == READ))
    assert sorted(bench.answers(3)) == [(1, FLUSH, status), (2, BARRIER, status), (3, READ, OKAY)]


def dropped_from_the_cache(bench: Bench) -> None:
    with Path(bench.image.path).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("prepare", [dropped_from_the_cache, lambda bench: None], ids=["cold", "warm"])
def test_data_is_right_whether_it_is_in_the_page_cache_or_not(bench: Bench, prepare: Callable[[Bench], None]) -> None:
    prepare(bench)
    places = [number * 29 % 64 for number in range(16)]
    for index, place in enumerate(places):
        bench.put(READ, request_id=index, sector=place * 8, frame=index)
    assert sorted(bench.answers(16)) == [(index, READ, OKAY) for index in range(16)]
    for index, place in enumerate(places):
        assert bench.frames[index] == CONTENTS[place * 4096 :][:4096]


def test_a_file_system_that_cannot_tell_whether_it_has_to_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    calls = []

    def unsupported(fd: int, pieces: list[memoryview], position: int, flags: int = 0) -> int:
        calls.append(flags)
        if flags:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return preadv(fd, pieces, position)

    monkeypatch.setattr(os, "preadv", unsupported)
    for number in range(3):
        bench.put(READ, request_id=number, sector=8 * number)
    bench.back.work()
    assert [status for _, _, status in bench.responses()] == [OKAY] * 3
    assert calls == [os.RWF_NOWAIT, 0, 0, 0]
