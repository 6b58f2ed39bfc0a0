"""What a hostile guest may do to the disks of a real backend process, and what must come of it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.bus.features import MAX_INDIRECT_SEGMENTS, Notification, Notifications
from harness.host.deadline import Deadline
from harness.hypervisor.events import PortState
from harness.hypervisor.layout import GRANTEE
from harness.ring.blkif import ENTRY_SIZE, REQUEST, RESPONSE, SEGMENT, Operation, Status
from harness.ring.ring import REQ_PROD
from tests.unit.backend_guest import Guest, pattern, repeating, wait_until
from tests.unit.blockfront import SECTORS, BlockFront, connected

READ, WRITE, BARRIER, INDIRECT_OP = Operation.READ, Operation.WRITE, Operation.WRITE_BARRIER, Operation.INDIRECT
OKAY, ERROR, EOPNOTSUPP = Status.OKAY, Status.ERROR, Status.EOPNOTSUPP

Segments = Sequence[tuple[int, int, int]]
LAST_REF = 4095
"""Never granted here."""


@pytest.fixture(params=[True, False], ids=["persistent", "transient"])
def front(request: pytest.FixtureRequest, guest: Guest, image: Path) -> Iterator[BlockFront]:
    """A disk whose contents must be what they were when the test ends, and which must still work then."""
    with connected(guest, image, persistent=request.param) as front:
        yield front
        assert image.read_bytes() == pattern(SECTORS * 512, 1)
        assert front.read(0, 1) == pattern(4096, 1)


def revoked(front: BlockFront) -> int:
    """A reference that granted something once."""
    frame = front.guest.frame()
    ref = front.guest.grant(frame)
    front.guest.take_back(frame, ref)
    return ref


def foreign(front: BlockFront) -> int:
    """A reference that grants something to another domain."""
    return front.guest.grant(front.guest.frame(), domid=4321)


BAD_SEGMENTS: dict[str, Callable[[BlockFront], Segments]] = {
    "none": lambda front: [],
    "sector 8": lambda front: [(front.refs[0], 0, 8)],
    "sector 255": lambda front: [(front.refs[0], 255, 255)],
    "backwards": lambda front: [(front.refs[0], 5, 4)],
    "revoked": lambda front: [(revoked(front), 0, 7)],
    "foreign": lambda front: [(foreign(front), 0, 7)],
    "never granted": lambda front: [(LAST_REF, 0, 7)],
    "out of range": lambda front: [(0xFFFFFFFF, 0, 7)],
    "bad after good": lambda front: [*front.whole(10, 1), (LAST_REF, 0, 7)],
}


@pytest.mark.parametrize("what", BAD_SEGMENTS)
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_bad_segments(front: BlockFront, operation: int, what: str) -> None:
    assert front.do(operation, 0, BAD_SEGMENTS[what](front)) == ERROR


@pytest.mark.parametrize("what", BAD_SEGMENTS)
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_bad_segments_in_an_indirect_page(front: BlockFront, operation: int, what: str) -> None:
    segments = BAD_SEGMENTS[what](front)
    for index, segment in enumerate(segments):
        SEGMENT.pack_into(front.data(39), index * SEGMENT.size, *segment)
    front.put_indirect(operation, 0, len(segments), [front.refs[39]])
    front.push()
    assert next(front.responses(1))[1:] == (INDIRECT_OP, ERROR)


@pytest.mark.parametrize("count", [12, 13, 255])
@pytest.mark.parametrize("operation", [READ, WRITE, BARRIER])
def test_more_segments_than_fit_into_a_request(front: BlockFront, operation: int, count: int) -> None:
    entry = REQUEST.pack(operation, count, 0, 99, 0) + SEGMENT.pack(front.refs[0], 0, 7) * 11
    front.put_raw(entry)
    front.push()
    assert next(front.responses(1)) == (99, operation, ERROR)


@pytest.mark.parametrize("count", [0, MAX_INDIRECT_SEGMENTS + 1, 512, 4096, 65535])
def test_more_indirect_segments_than_offered(front: BlockFront, count: int) -> None:
    front.put_indirect(READ, 0, count, front.refs[:8])
    front.push()
    assert next(front.responses(1))[1:] == (INDIRECT_OP, ERROR)


@pytest.mark.parametrize("operation", [2, 3, 4, 5, 6, 7, 255])
def test_only_reads_and_writes_can_be_indirect(front: BlockFront, operation: int) -> None:
    front.put_indirect(operation, 0, 1, [front.refs[0]])
    front.push()
    assert next(front.responses(1))[1:] == (INDIRECT_OP, ERROR)


def test_an_indirect_page_that_is_not_granted(front: BlockFront) -> None:
    front.put_indirect(READ, 0, 1, [LAST_REF])
    front.push()
    assert next(front.responses(1))[1:] == (INDIRECT_OP, ERROR)


@pytest.mark.parametrize("sector", [SECTORS, SECTORS - 7, 1 << 32, (1 << 63) - 1, (1 << 64) - 8, (1 << 64) - 1])
@pytest.mark.parametrize("operation", [READ, WRITE, BARRIER])
def test_sectors_beyond_the_end(front: BlockFront, operation: int, sector: int) -> None:
    assert front.do(operation, sector, front.whole(1)) == ERROR


@pytest.mark.parametrize("operation", [Operation.RESERVED_1, 7, 100, 255])
def test_unknown_operations(front: BlockFront, operation: int) -> None:
    assert front.do(operation, 0, front.whole(1)) == EOPNOTSUPP


def test_a_frame_that_may_only_be_read_is_not_written_to(front: BlockFront) -> None:
    frame = front.guest.frame()
    ref = front.guest.grant(frame, readonly=True)
    assert front.do(READ, 0, [(ref, 0, 7)]) == ERROR
    assert not any(front.guest.memory(frame))
    if not front.persistent:
        front.guest.memory(frame)[:] = pattern(4096, 1)
        assert front.do(WRITE, 0, [(ref, 0, 7)]) == OKAY
    front.guest.take_back(frame, ref)


def test_an_error_undoes_what_was_mapped(guest: Guest, image: Path) -> None:
    with connected(guest, image, persistent=False) as front:
        frame = guest.frame()
        ref = guest.grant(frame)
        assert front.do(READ, 0, [(ref, 0, 7), (LAST_REF, 0, 7)]) == ERROR
        guest.take_back(frame, ref)


def test_a_read_only_disk_is_not_written_to(guest: Guest, image: Path) -> None:
    with connected(guest, image, readonly=True) as front:
        assert guest.backend_node(front.device, "info") == "4"
        front.fill(b"!" * 4096)
        assert front.do(WRITE, 0, front.whole(1)) == ERROR
        assert front.do(BARRIER, 0, front.whole(1)) == ERROR
        SEGMENT.pack_into(front.data(39), 0, front.refs[0], 0, 7)
        front.put_indirect(WRITE, 0, 1, [front.refs[39]])
        front.push()
        assert next(front.responses(1))[2] == ERROR
        assert front.read(0, 1) == pattern(4096, 1)
    assert image.read_bytes() == pattern(SECTORS * 512, 1)


def test_the_padding_of_a_response_holds_nothing(front: BlockFront) -> None:
    front.put_raw(b"\xff" * ENTRY_SIZE)
    front.push()
    offset = front.ring.take()
    wait_until("a response", lambda: front.page[offset + 8] == 0xFF and front.page[offset + 9] == 0)
    assert bytes(front.page[offset : offset + RESPONSE.size]) == RESPONSE.pack((1 << 64) - 1, 255, EOPNOTSUPP)


def test_garbage_is_answered_entry_by_entry(front: BlockFront) -> None:
    dice = random.Random(3)
    for _ in range(100):
        entries = [dice.randbytes(ENTRY_SIZE) for _ in range(dice.randint(1, 32))]
        # A write that happens to be right would be done.
        entries = [bytes([dice.choice([0, 4, 5, 6, 200])]) + entry[1:] for entry in entries]
        for entry in entries:
            front.put_raw(entry)
        front.push()
        for entry, response in zip(entries, front.responses(len(entries)), strict=True):
            operation, _, _, request_id, _ = REQUEST.unpack_from(entry)
            assert response[:2] == (request_id, operation)
            assert response[2] in (ERROR, EOPNOTSUPP)


@pytest.mark.parametrize("ahead", [33, 1000, 1 << 31, (1 << 32) - 1])
def test_an_impossible_index_costs_that_disk_only(guest: Guest, image: Path, tmp_path: Path, ahead: int) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(pattern(8192, 77))
    with connected(guest, other) as bystander:
        with connected(guest, image) as victim:
            victim.page.cast("I")[REQ_PROD] = (victim.ring.prod_pvt + ahead) & 0xFFFFFFFF
            guest.end.events.send(victim.port)
            guest.wait_until_failed(victim.device, "request index is impossible")
            assert bystander.read(0, 2) == pattern(8192, 77)
        assert bystander.read(0, 1) == pattern(4096, 77)


def test_overwritten_event_channels_cost_that_disk_only(guest: Guest, image: Path) -> None:
    with connected(guest, image) as victim, connected(guest, image) as bystander:
        ports = guest.end.memory[guest.end.layout.ports_frame[GRANTEE] * 4096 :][: 8 * 4096].cast("Q")
        (ours,) = (
            port for port in range(64, 4096) if ports[port] == PortState.INTERDOMAIN | 1 << 16 | victim.port << 32
        )
        kept, ports[ours] = ports[ours], 0xFFFFFFFF_0000_0002
        victim.put(READ, 0, victim.whole(1))
        victim.push()
        guest.wait_until_failed(victim.device, "overwritten")
        ports[ours] = kept
        assert bystander.read(0, 1) == pattern(4096, 1)
        guest.end.events.close(victim.port)
        victim.queues[0].port = guest.end.events.alloc_unbound()


def processor_seconds(pid: int) -> float:
    """What a process has used of all processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("notification", [Notification.ADAPTIVE, Notification.EVENT])
def test_an_event_storm_costs_little_and_others_are_served(
    guest: Guest, image: Path, notification: Notification
) -> None:
    with (
        connected(guest, image) as bystander,
        connected(guest, image, notifications=Notifications(backend=notification)) as front,
    ):
        with repeating(lambda: guest.end.events.send(front.port)):
            started, before = time.monotonic(), processor_seconds(guest.backend.pid)
            time.sleep(1.0)
            used = processor_seconds(guest.backend.pid) - before
            assert used < 0.2 * (time.monotonic() - started)
            assert bystander.read(0, 1) == pattern(4096, 1)
        assert front.read(0, 1) == pattern(4096, 1)


def test_an_idle_backend_does_not_wake_up(guest: Guest, image: Path) -> None:
    with connected(guest, image) as front:
        front.read(0, 4)
        status = Path(f"/proc/{guest.backend.pid}/status")

        def sleeps() -> int:
            (line,) = (line for line in status.read_text().splitlines() if line.startswith("voluntary"))
            return int(line.split()[1])

        def rested() -> bool:
            """Whether it slept through a whole second: what is measured is that nothing happens in that time."""
            before = sleeps()
            time.sleep(1.0)
            return sleeps() == before

        # The safety checks that follow work come to an end, and nothing else has a reason to run.
        deadline = Deadline(30, "a second in which the idle backend does not wake up")
        while not rested():
            deadline.check()
        before = sleeps()
        front.read(0, 1)
        deadline = Deadline(30, "the backend to go back to sleep after a read")
        while sleeps() == before:
            deadline.check()
        assert sleeps() > before
