"""Looking into a backend process: the state of its rings, and a trace that never holds it up."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.backend import observe
from harness.backend.observe import Observers, rings_state
from harness.backend.trace import BACKLOG, RECORD, Reader, Record, Trace, What
from harness.ring.blkif import Operation
from tests.unit.blockbench import Bench, unexpected
from tests.unit.linkends import Ends, ends_of_a_link

SECONDS = 10.0


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as found:
        yield found


@pytest.fixture
def bench(ends: Ends, tmp_path: Path) -> Iterator[Bench]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512 * 512))
    with closing(Bench(ends, image)) as found:
        yield found


class Observer:
    """Who looks into a bench."""

    def __init__(self, ends: Ends, bench: Bench) -> None:
        self._bench = bench
        self._observers = Observers(bench.loop, ends.backend)
        self.stream = self.open(observe.TRACE)
        self._reader = Reader()

    def open(self, word: bytes) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS)
        self._observers.serve(word, theirs.detach())
        return ours

    def records(self, last: What) -> list[Record]:
        """What comes, up to the first record of a kind."""
        found: list[Record] = []
        while not any(record.what == last for record in found):
            found += self._reader.records(self.stream.recv(999))
        return found


def read_one(bench: Bench, number: int) -> None:
    bench.put(Operation.READ, request_id=number, sector=8 * number, frames=2)
    assert len(bench.answers(1)) == 1


def test_the_state_of_a_ring_is_that_of_the_ring(ends: Ends, bench: Bench) -> None:
    for number in range(3):
        read_one(bench, number)
    bench.put(Operation.READ, request_id=9, sector=0)
    bench.loop.add(bench.back, unexpected)
    [ring] = rings_state(bench.loop, ends.backend)["rings"]
    assert ring["name"] == "bench"
    assert (ring["req_prod"], ring["req_cons"], ring["rsp_prod"], ring["rsp_prod_pvt"]) == (4, 3, 3, 3)
    assert ring["outstanding"] == 1
    assert ring["notified"] + ring["held_off"] == 3
    assert ring["grants"] == {"persistent": 2, "transient": 0}
    assert ring["channel"]["sent"] == ring["notified"]
    assert ring["channel"]["state"] == "interdomain"


def test_impossible_indices_are_shown_as_they_are(ends: Ends, bench: Bench) -> None:
    bench.front.memory[:4] = b"\xff\xff\xff\xff"
    bench.loop.add(bench.back, unexpected)
    [ring] = rings_state(bench.loop, ends.backend)["rings"]
    assert ring["req_prod"] == ring["outstanding"] == 0xFFFFFFFF


def test_who_asks_for_rings_gets_one_object(ends: Ends, bench: Bench) -> None:
    with Observer(ends, bench).open(observe.RINGS) as stream:
        data = b""
        while piece := stream.recv(999):
            data += piece
    assert {page["name"] for page in json.loads(data)["pages"]} == {"store"}


def test_a_request_is_traced_from_ring_to_ring(ends: Ends, bench: Bench) -> None:
    observer = Observer(ends, bench)
    read_one(bench, 7)
    with observer.stream:
        bench.loop.trace.flush()  # type: ignore[union-attr]
        found = [record for record in observer.records(What.ANSWERED) if record.name == "bench"]
    whats = [record.what for record in found]
    assert whats[:4] == [What.TAKEN, What.DISK_BEGINS, What.DISK_ENDS, What.ANSWERED]
    assert whats[4] in (What.SENT, What.HELD_OFF)
    assert {record.id for record in found[:4]} == {7}
    taken, begins = found[:2]
    assert (taken.position, taken.sector, taken.number) == (0, 56, 2)
    assert begins.size == 2 * 4096
    times = [record.time for record in found]
    assert times == sorted(times)


def test_without_a_reader_nothing_is_traced(ends: Ends, bench: Bench) -> None:
    observer = Observer(ends, bench)
    observer.stream.close()
    read_one(bench, 1)
    bench.run_until("the end of the trace", lambda: bench.loop.trace is None)
    assert bench.back.trace is None
    # The next one is as good as the first.
    again = Observer(ends, bench)
    read_one(bench, 2)
    with again.stream:
        bench.loop.trace.flush()  # type: ignore[union-attr]
        assert again.records(What.ANSWERED)


def test_there_is_one_trace_at_a_time(ends: Ends, bench: Bench) -> None:
    observer = Observer(ends, bench)
    with observer.stream, observer.open(observe.TRACE) as second:
        assert second.recv(1) == b""


def test_a_reader_that_is_too_slow_loses_records_and_is_told_how_many() -> None:
    ours, theirs = socket.socketpair()
    count = 4 * BACKLOG
    with ours, theirs:
        trace = Trace(theirs, lambda seconds: None)
        for number in range(count):
            trace.put(What.HEARD, 0, 0, 0, 0, 0, 0, number)
        reader = Reader()
        found: list[Record] = []
        ours.settimeout(SECONDS)
        while not found or found[-1].number != count - 1:
            trace.put(What.HEARD, 0, 0, 0, 0, 0, 0, count - 1)
            trace.flush()
            found += reader.records(ours.recv(1 << 20))
            if found[-1].what == What.DROPPED:
                break
    heard = [record.number for record in found if record.what == What.HEARD]
    dropped = sum(record.size for record in found if record.what == What.DROPPED)
    assert heard == list(range(len(heard)))
    assert len(heard) >= BACKLOG
    assert dropped >= count - len(heard)


def test_pieces_of_any_size_make_the_same_records() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        trace = Trace(theirs, lambda seconds: None)
        for number in range(10):
            trace.put(What.HEARD, 0, 0, 0, 0, 0, 0, number)
        trace.flush()
        data = ours.recv(1 << 20)
    assert len(data) == 10 * RECORD.size
    for size in (1, 7, RECORD.size, 64, 1000):
        reader = Reader()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [one.number for piece in pieces for one in reader.records(piece)] == list(range(10))
