"""Python's ring and C's on the same bytes: Xen's macros, and those of the guest's drivers, against ours."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from harness.hypervisor.events import fence
from harness.ring.ring import HEADER_SIZE, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, U32, BackRing, FrontRing
from tests.unit.ring_peers import ENTRY, CEnd, Library, PythonEnd, python_back, python_front

SIZE = 8
MEMORY = HEADER_SIZE + SIZE * ENTRY
INDICES = st.one_of(st.integers(0, U32), st.integers(U32 - 20, U32))
NUMBERS = st.integers(0, (1 << 64) - 1)

pytestmark = pytest.mark.skipif(not Path("/usr/include/xen").is_dir(), reason="libxen-dev is missing: run ci/setup")

Front = PythonEnd | CEnd
Make = Callable[[memoryview, int], Front]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("ring"))


def used_ring(start: int) -> memoryview:
    """An empty ring that has been in use for a while."""
    memory = memoryview(bytearray(MEMORY))
    header = memory[:HEADER_SIZE].cast("I")
    header[REQ_PROD] = header[RSP_PROD] = start
    header[REQ_EVENT] = header[RSP_EVENT] = (start + 1) & U32
    return memory


class Exchange(RuleBasedStateMachine):
    """Two ends on one ring, against queues without end and positions without modulus."""

    make: ClassVar[tuple[Make, Make]]

    @initialize(start=INDICES)
    def start(self, start: int) -> None:
        memory = used_ring(start)
        self.front, self.back = (make(memory, start) for make in self.make)
        self.put: dict[str, list[int]] = {"request": [], "response": []}
        self.queue: dict[str, deque[int]] = {"request": deque(), "response": deque()}
        self.pushed = {"request": 0, "response": 0}
        self.taken = {"request": 0, "response": 0}
        self.event = {"request": 1, "response": 1}
        self.unanswered: list[int] = []

    def push(self, end: Front, kind: str) -> None:
        after = self.pushed[kind] + len(self.put[kind])
        assert end.push() is (self.pushed[kind] < self.event[kind] <= after)
        self.queue[kind] += self.put[kind]
        self.put[kind].clear()
        self.pushed[kind] = after

    def take(self, end: Front, kind: str) -> int:
        assert end.waiting() == len(self.queue[kind])
        entry = end.take()
        assert entry == self.queue[kind].popleft()
        self.taken[kind] += 1
        return entry

    def sleep(self, end: Front, kind: str, ahead: int) -> None:
        ahead = ahead if end.arms_always else 1
        assert end.arm(ahead) is bool(self.queue[kind])
        if end.arms_always or not self.queue[kind]:
            self.event[kind] = self.taken[kind] + ahead

    @precondition(lambda self: self.front.free)
    @rule(entry=NUMBERS)
    def put_request(self, entry: int) -> None:
        self.front.put(entry)
        self.put["request"].append(entry)

    @rule()
    def push_requests(self) -> None:
        self.push(self.front, "request")

    @precondition(lambda self: self.queue["request"])
    @rule()
    def take_request(self) -> None:
        self.unanswered.append(self.take(self.back, "request"))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def put_response(self, data: st.DataObject) -> None:
        # In any order, as a disk answers.
        entry = self.unanswered.pop(data.draw(st.integers(0, len(self.unanswered) - 1))) ^ U32
        self.back.put(entry)
        self.put["response"].append(entry)

    @rule()
    def push_responses(self) -> None:
        self.push(self.back, "response")

    @precondition(lambda self: self.queue["response"])
    @rule()
    def take_response(self) -> None:
        self.take(self.front, "response")

    @rule(ahead=st.integers(1, SIZE))
    def front_sleeps(self, ahead: int) -> None:
        self.sleep(self.front, "response", ahead)

    @rule(ahead=st.integers(1, SIZE))
    def back_sleeps(self, ahead: int) -> None:
        self.sleep(self.back, "request", ahead)

    @rule()
    def room(self) -> None:
        put = self.pushed["request"] + len(self.put["request"])
        assert self.front.free == SIZE - (put - self.taken["response"])
        assert not self.front.overflow()
        assert not self.back.overflow()


@pytest.mark.parametrize("front", ["python", "xen", "link"])
@pytest.mark.parametrize("back", ["python", "xen"])
def test_any_two_ends_understand_each_other(library: Library, front: str, back: str) -> None:
    make_front: Make = python_front if front == "python" else partial(library.front, link=front == "link")
    make_back: Make = python_back if back == "python" else library.back
    machine = type("Pair", (Exchange,), {"make": (make_front, make_back)})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=60))


@given(INDICES, st.integers(0, SIZE), st.integers(0, SIZE), INDICES)
def test_they_agree_on_which_indices_are_impossible(
    library: Library, start: int, asked: int, taken: int, claim: int
) -> None:
    for role, make in (
        ("back", (python_back, library.back)),
        ("front", (python_front, partial(library.front, link=True))),
    ):
        memory = used_ring(start)
        header = memory[:HEADER_SIZE].cast("I")
        ends: list[Front] = [one(memory, start) for one in make]
        for end in ends:
            if role == "front":
                for _ in range(asked):
                    end.put(0)
                end.push()
            else:
                header[REQ_PROD] = (start + asked) & U32
                for _ in range(min(asked, taken)):
                    end.take()
        header[RSP_PROD if role == "front" else REQ_PROD] = claim
        overflow = [end.overflow() for end in ends]
        # Xen's macros bound by the ring, ours also by what has been asked: whatever is too much for Xen is for us.
        assert overflow[0] >= overflow[1]
        if not overflow[0]:
            assert ends[0].waiting() == ends[1].waiting()


def test_a_fresh_ring_is_the_same_to_both(library: Library) -> None:
    ours, theirs = (memoryview(bytearray(b"\xaa" * 4096)) for _ in range(2))
    for memory in (ours, theirs):
        memory[:HEADER_SIZE] = bytes(HEADER_SIZE)
    python = FrontRing(ours, ENTRY, fence)
    c = library.front(theirs, 0, link=True, fresh=True)
    assert bytes(ours) == bytes(theirs)
    assert python.size == c.entries == 256


def serve(ring: BackRing, total: int, wait_fd: int, ring_fd: int) -> None:
    """Answer so many requests, asleep whenever there is none."""
    end = PythonEnd(ring)
    done = 0
    while done < total:
        for _ in range(end.waiting()):
            end.put(end.take() ^ (1 << 64) - 1)
            done += 1
            if end.push():
                os.eventfd_write(ring_fd, 1)
        if done < total and not end.arm(1):
            os.eventfd_read(wait_fd)


@pytest.mark.parametrize("link", [False, True], ids=["xen", "link"])
def test_no_wake_up_is_lost_between_two_processors(library: Library, link: bool) -> None:
    total = 20000
    memory = used_ring(U32 - 5)
    front = library.front(memory, U32 - 5, link=link)
    back = python_back(memory, U32 - 5).ring
    assert isinstance(back, BackRing)
    to_front, to_back = os.eventfd(0), os.eventfd(0)
    right: list[int] = []
    threads = [
        threading.Thread(target=lambda: right.append(front.run(total, to_front, to_back)), daemon=True),
        threading.Thread(target=serve, args=(back, total, to_back, to_front), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "one waits for the other"
    assert right == [total]
    os.close(to_front)
    os.close(to_back)
