"""The request/response queue: wrap-around, hold-off of notifications, and ends that lie."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from harness.ring.byte_ring import ByteRing
from harness.ring.console import IN_SIZE, OUT_SIZE, input_ring, output_ring
from harness.ring.ring import (
    HEADER_SIZE,
    REQ_EVENT,
    REQ_PROD,
    RSP_EVENT,
    RSP_PROD,
    U32,
    BackRing,
    FrontRing,
    RingError,
    ring_size,
)
from tests.unit.interleave import Interleaver

PAGE = 4096
ENTRY = 8
SMALL = HEADER_SIZE + 8 * ENTRY
"""Memory of a ring of eight entries, so that full and empty happen often."""

INDICES = st.one_of(st.integers(0, U32), st.integers(U32 - 20, U32))


def no_fence() -> None:
    """One thread needs none."""


def words(memory: memoryview) -> memoryview:
    return memory[:HEADER_SIZE].cast("I")


def started_at(index: int, size: int = SMALL) -> tuple[memoryview, FrontRing, BackRing]:
    """An empty ring that has been in use for a while."""
    memory = memoryview(bytearray(size))
    header = words(memory)
    header[REQ_PROD] = header[RSP_PROD] = index
    header[REQ_EVENT] = header[RSP_EVENT] = (index + 1) & U32
    front = FrontRing(memory, ENTRY, no_fence, attach=index)
    return memory, front, BackRing(memory, ENTRY, no_fence, attach=index)


@pytest.mark.parametrize(("entry", "entries"), [(112, 32), (12, 256), (8, 256), (16, 128)])
def test_entries_of_a_page(entry: int, entries: int) -> None:
    assert ring_size(PAGE, entry) == entries


def test_memory_too_small_for_one_entry() -> None:
    with pytest.raises(ValueError, match="no entry"):
        ring_size(HEADER_SIZE + 7, 8)


def test_the_frontend_initialises_the_shared_part() -> None:
    memory = memoryview(bytearray(b"\xaa" * PAGE))
    FrontRing(memory, ENTRY, no_fence)
    assert list(words(memory)) == [0, 1, 0, 1, *[0] * 12]
    assert bytes(memory[HEADER_SIZE:]) == b"\xaa" * (PAGE - HEADER_SIZE)


class Queue(RuleBasedStateMachine):
    """A frontend and a backend on the same bytes, against unbounded queues."""

    @initialize(start=INDICES)
    def start(self, start: int) -> None:
        self.memory, self.front, self.back = started_at(start)
        self.put_requests: deque[bytes] = deque()
        self.requests: deque[bytes] = deque()
        self.taken: deque[bytes] = deque()
        self.put_responses: deque[bytes] = deque()
        self.responses: deque[bytes] = deque()
        # Positions since the beginning of time: no modulus, so no wrap-around to get wrong.
        self.request_event = self.response_event = 1
        self.requests_put = self.requests_pushed = self.requests_taken = 0
        self.responses_put = self.responses_pushed = self.responses_taken = 0
        self.wanted = self.unwanted = 0

    def pushed(self, count: int, wanted: bool) -> None:
        self.wanted += wanted
        self.unwanted += count > 0 and not wanted
        assert self.front.notified + self.back.notified == self.wanted
        assert self.front.held_off + self.back.held_off == self.unwanted

    @precondition(lambda self: self.front.free)
    @rule(data=st.binary(min_size=ENTRY, max_size=ENTRY))
    def put_request(self, data: bytes) -> None:
        offset = self.front.put()
        self.memory[offset : offset + ENTRY] = data
        self.put_requests.append(data)
        self.requests_put += 1

    @rule()
    def push_requests(self) -> None:
        wanted = self.requests_pushed < self.request_event <= self.requests_put
        assert self.front.push() is wanted
        self.pushed(len(self.put_requests), wanted)
        self.requests_pushed = self.requests_put
        self.requests += self.put_requests
        self.put_requests.clear()

    @precondition(lambda self: self.requests)
    @rule()
    def take_request(self) -> None:
        assert self.back.unconsumed() == len(self.requests)
        offset = self.back.take()
        data = bytes(self.memory[offset : offset + ENTRY])
        assert data == self.requests.popleft()
        self.requests_taken += 1
        self.taken.append(data)

    @precondition(lambda self: self.taken)
    @rule()
    def put_response(self) -> None:
        data = bytes(byte ^ 0xFF for byte in self.taken.popleft())
        offset = self.back.put()
        self.memory[offset : offset + ENTRY] = data
        self.put_responses.append(data)
        self.responses_put += 1

    @rule()
    def push_responses(self) -> None:
        wanted = self.responses_pushed < self.response_event <= self.responses_put
        assert self.back.push() is wanted
        self.pushed(len(self.put_responses), wanted)
        self.responses_pushed = self.responses_put
        self.responses += self.put_responses
        self.put_responses.clear()

    @precondition(lambda self: self.responses)
    @rule()
    def take_response(self) -> None:
        assert self.front.unconsumed() == len(self.responses)
        offset = self.front.take()
        assert bytes(self.memory[offset : offset + ENTRY]) == self.responses.popleft()
        self.responses_taken += 1

    @rule(ahead=st.integers(1, 8))
    def back_sleeps(self, ahead: int) -> None:
        assert self.back.final_check(ahead) is bool(self.requests)
        self.request_event = self.requests_taken + ahead

    @rule(ahead=st.integers(1, 8))
    def front_sleeps(self, ahead: int) -> None:
        assert self.front.final_check(ahead) is bool(self.responses)
        self.response_event = self.responses_taken + ahead

    @rule()
    def room(self) -> None:
        assert self.front.free == self.front.size - (self.requests_put - self.responses_taken)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=60)


@settings(max_examples=200)
@given(st.data(), st.integers(1, 3), st.sampled_from([0, U32 - 1]))
def test_no_wake_up_is_lost_however_pushing_and_sleeping_cross(data: st.DataObject, ahead: int, start: int) -> None:
    memory, _, _ = started_at(start)
    interleaver = Interleaver(lambda count: data.draw(st.integers(0, count - 1)))
    front = FrontRing(memory, ENTRY, interleaver.fence, attach=start)
    back = BackRing(memory, ENTRY, interleaver.fence, attach=start)
    batches = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda sizes: sum(sizes) <= 8))
    woken = True

    def frontend() -> None:
        nonlocal woken
        for size in batches:
            for _ in range(size):
                front.put()
            if front.push():
                woken = True

    def backend() -> None:
        nonlocal woken
        # It goes to sleep when there is nothing, and runs again only when somebody has woken it.
        for _ in range(2 * len(batches)):
            while woken:
                woken = False
                for _ in range(back.unconsumed()):
                    back.take()
                if back.final_check(ahead):
                    woken = True
            interleaver.fence()

    interleaver.run([frontend, backend])
    while woken:
        woken = False
        for _ in range(back.unconsumed()):
            back.take()
        woken = back.final_check(ahead)
    assert back.unconsumed() < ahead, "requests wait, the backend sleeps, and nobody will wake it"


@given(INDICES, st.integers(0, 8), st.integers(0, 8), st.integers(0, U32))
def test_a_frontend_cannot_claim_more_than_the_ring_holds(start: int, taken: int, answered: int, claim: int) -> None:
    memory, front, back = started_at(start)
    for _ in range(8):
        front.put()
    front.push()
    for _ in range(taken):
        back.take()
    for _ in range(min(answered, taken)):
        back.put()
    words(memory)[REQ_PROD] = claim
    unanswered = taken - min(answered, taken)
    waiting = (claim - start - taken) & U32
    if waiting == 0:
        assert back.unconsumed() == 0
    elif waiting > back.size - unanswered:
        with pytest.raises(RingError, match="frontend"):
            back.unconsumed()
        with pytest.raises(RingError):
            back.final_check()
    else:
        assert back.unconsumed() == waiting


@given(INDICES, st.integers(0, 8), st.integers(0, U32))
def test_a_backend_cannot_answer_what_was_not_asked(start: int, asked: int, claim: int) -> None:
    memory, front, _ = started_at(start)
    for _ in range(asked):
        front.put()
    front.push()
    words(memory)[RSP_PROD] = claim
    claimed = (claim - start) & U32
    if claimed > asked:
        with pytest.raises(RingError, match="backend"):
            front.unconsumed()
    else:
        assert front.unconsumed() == claimed


def test_what_is_not_published_yet_cannot_be_answered() -> None:
    memory, front, _ = started_at(0)
    front.put()
    words(memory)[RSP_PROD] = 1
    with pytest.raises(RingError):
        front.unconsumed()


@given(INDICES, INDICES, INDICES)
def test_the_other_ends_header_never_leads_outside_the_ring(prod: int, event: int, start: int) -> None:
    memory, _, back = started_at(start)
    header = words(memory)
    header[REQ_PROD], header[RSP_EVENT] = prod, event
    for offset in (back.take(), back.put()):
        assert HEADER_SIZE <= offset <= len(memory) - ENTRY
    assert back.push() in {True, False}


def byte_ring(memory: memoryview) -> ByteRing:
    return ByteRing(memory, data=0, size=16, cons=16, prod=20, fence=no_fence)


@given(INDICES, st.lists(st.one_of(st.binary(max_size=24), st.integers(0, 24)), max_size=40))
def test_bytes_come_out_as_they_went_in(start: int, actions: list[bytes | int]) -> None:
    memory = memoryview(bytearray(24))
    memory[16:20] = memory[20:24] = start.to_bytes(4, "little")
    writer, reader = byte_ring(memory), byte_ring(memory)
    queue = b""
    for action in actions:
        if isinstance(action, bytes):
            written = writer.write(action)
            assert written == min(len(action), 16 - len(queue))
            queue += action[:written]
        else:
            found = reader.read(action)
            assert found == queue[:action]
            queue = queue[len(found) :]
        assert reader.used == len(queue)


@given(INDICES, INDICES)
def test_indices_further_apart_than_the_ring_is_long(cons: int, prod: int) -> None:
    memory = memoryview(bytearray(24))
    memory[16:20], memory[20:24] = cons.to_bytes(4, "little"), prod.to_bytes(4, "little")
    ring = byte_ring(memory)
    if (prod - cons) & U32 <= 16:
        assert len(ring.read(16)) == (prod - cons) & U32
    else:
        with pytest.raises(RingError):
            ring.read(16)
        with pytest.raises(RingError):
            ring.write(b"x")
        assert bytes(memory[:16]) == bytes(16)


def test_the_two_directions_of_a_console_do_not_touch() -> None:
    page = memoryview(bytearray(PAGE))
    assert input_ring(page, no_fence).write(b"i" * PAGE) == IN_SIZE
    assert output_ring(page, no_fence).write(b"o" * PAGE) == OUT_SIZE
    assert input_ring(page, no_fence).read(PAGE) == b"i" * IN_SIZE
    assert output_ring(page, no_fence).read(PAGE) == b"o" * OUT_SIZE
