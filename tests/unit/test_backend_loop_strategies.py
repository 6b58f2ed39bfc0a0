"""How long the event loop of a backend polls, and for whom; and what it does about doorbells without work."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator

import pytest

from harness.backend.loop import DEAF, LOSS_MAX, LOSS_WINDOW, PAUSES, POLL_MAX, POLL_START, Loop, Patience
from harness.bus.features import Notification
from tests.unit.linkends import Ends, ends_of_a_link
from tests.unit.test_backend_loop import Done, Script, run, unexpected

EVENT, POLL = Notification.EVENT, Notification.POLL


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as ends:
        yield ends


# ---- strategies ----------------------------------------------------------------------------------------------------


def test_events_only_armed_after_each_work_and_never_polled(ends: Ends) -> None:
    """It works when it is new, when arming found something, and when something has happened."""
    port = ends.guest.events.alloc_unbound()
    found = iter([False, True, False])

    def arm() -> bool:
        more = next(found)
        ends.guest.events.send(port)
        return more

    ends.backend.events.bind_interdomain(port)
    worker = Script(True, True, True, arm=arm, notification=EVENT)
    run(Loop(ends.backend.events), worker)
    assert worker.calls == ["work", "arm", "work", "arm", "work", "arm", "work"]


def test_who_wants_events_is_left_alone_while_others_are_polled(ends: Ends) -> None:
    loop = Loop(ends.backend.events)
    quiet, busy = Script(*[False] * 10, notification=EVENT), Script(*[True] * 500)
    loop.add(quiet, unexpected)
    # The doorbell of its binding may be heard while the other one works.
    run(loop, busy)
    assert len(quiet.calls) <= 4
    assert len(busy.calls) == 501


def test_polling_never_arms_and_never_sleeps(ends: Ends) -> None:
    """Nothing ever rings here."""
    worker = Script(*[False] * 3000, notification=POLL)
    started = time.monotonic()
    run(Loop(ends.backend.events), worker)
    assert worker.calls == ["work"] * 3001
    assert time.monotonic() - started < 3000 * 1e-3


def test_without_the_worker_that_is_polled_the_others_sleep_again(ends: Ends) -> None:
    loop = Loop(ends.backend.events)
    greedy, modest = Script(notification=POLL), Script(*[False] * 50)
    loop.add(greedy, unexpected)
    loop.remove(greedy)
    port = ends.guest.events.alloc_unbound()
    ends.backend.events.bind_interdomain(port)
    run_until_asleep = threading.Timer(0.3, ends.guest.events.send, [port])
    run_until_asleep.start()
    loop.add(modest, unexpected)
    loop.watch(wake := os.eventfd(0), lambda: (_ for _ in ()).throw(Done))
    threading.Timer(0.4, os.eventfd_write, [wake, 1]).start()
    with pytest.raises(Done):
        loop.run()
    assert "arm" in modest.calls
    assert modest.calls.count("work") < 20
    os.close(wake)


# ---- patience ------------------------------------------------------------------------------------------------------


def test_patience_grows_while_polls_find_work_and_ends_when_they_do_not() -> None:
    patience = Patience()
    patience.polled(found=True)
    assert patience.time == 0
    patience.slept_shortly(1.0)
    assert patience.time == POLL_START
    for _ in range(5):
        patience.polled(found=True)
    assert patience.time == POLL_MAX
    for _ in range(10):
        patience.polled(found=False)
    assert patience.time == 0


def test_a_short_interruption_now_and_then_is_borne() -> None:
    patience = Patience()
    patience.slept_shortly(0.0)
    for tenth in range(100):
        patience.lost(tenth / 10, LOSS_MAX / 2)
    assert patience.time == POLL_START


def test_there_are_no_polls_for_a_while_after_the_processor_was_lost_and_then_they_are_tried_again() -> None:
    patience = Patience()
    patience.slept_shortly(9.0)
    patience.lost(10.0, LOSS_MAX * 2)
    assert patience.time == 0
    patience.slept_shortly(10.0 + PAUSES[0] * 0.9)
    assert patience.time == 0
    patience.slept_shortly(10.0 + PAUSES[0] * 1.1)
    assert patience.time == POLL_START


def test_many_small_losses_count_like_a_large_one() -> None:
    patience = Patience()
    patience.slept_shortly(1.0)
    for number in range(20):
        patience.lost(1.0 + number * LOSS_WINDOW / 25, LOSS_MAX / 15)
    assert patience.time == 0


def test_who_competes_for_long_is_tried_more_and_more_rarely() -> None:
    patience = Patience()
    now, tries = 100.0, []
    while now < 160.0:
        patience.slept_shortly(now)
        if patience.time:
            tries.append(now)
            patience.lost(now, LOSS_MAX * 2)
        now += 1e-3
    gaps = [round(later - earlier, 2) for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert (gaps[0], gaps[-1]) == PAUSES
    # After a quiet time it begins from the start.
    patience.lost(200.0, LOSS_MAX * 2)
    patience.slept_shortly(200.0 + PAUSES[0] * 1.1)
    assert patience.time == POLL_START


# ---- doorbells without work ----------------------------------------------------------------------------------------


class Idle:
    """A worker that has never anything to do."""

    notification = Notification.ADAPTIVE

    def __init__(self) -> None:
        self.calls = 0
        self.works = False

    def work(self) -> bool:
        self.calls += 1
        if self.works:
            raise Done
        return False

    def arm(self) -> bool:
        return False


@pytest.mark.parametrize("with_event", [True, False], ids=["events", "doorbells alone"])
def test_a_storm_costs_little_and_others_are_served(ends: Ends, with_event: bool) -> None:
    port = ends.guest.events.alloc_unbound()
    ends.backend.events.bind_interdomain(port)
    loop, worker = Loop(ends.backend.events), Idle()
    reader, writer = os.pipe()
    served = 0
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            if with_event:
                ends.guest.events.send(port)
            else:
                os.eventfd_write(ends.backend.wait_fd, 1)

    def type_something() -> None:
        for _ in range(20):
            time.sleep(0.02)
            os.write(writer, b"x")

    def typed() -> None:
        nonlocal served
        served += len(os.read(reader, 10))
        if served == 20:
            raise Done

    loop.watch(reader, typed)
    loop.add(worker, unexpected)
    threads = [threading.Thread(target=storm), threading.Thread(target=type_something)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    with pytest.raises(Done):
        loop.run()
    took = time.monotonic() - started
    over.set()
    for thread in threads:
        thread.join()
    # A few looks at the rings in each interval of deafness, and a few for each character.
    assert worker.calls < 5 * took / DEAF + 20 * 30
    os.close(reader)
    os.close(writer)


def test_after_a_storm_a_doorbell_is_heard_as_before(ends: Ends) -> None:
    port = ends.guest.events.alloc_unbound()
    ends.backend.events.bind_interdomain(port)
    loop, worker = Loop(ends.backend.events), Idle()
    calls_at_rest: list[int] = []

    def guest() -> None:
        for _ in range(2000):
            ends.guest.events.send(port)
        time.sleep(0.5)
        calls_at_rest.append(worker.calls)
        time.sleep(0.3)
        calls_at_rest.append(worker.calls)
        worker.works = True
        ends.guest.events.send(port)

    thread = threading.Thread(target=guest)
    loop.add(worker, unexpected)
    thread.start()
    with pytest.raises(Done):
        loop.run()
    thread.join()
    assert calls_at_rest[0] == calls_at_rest[1]
