"""When the event loop of a backend works, looks again, and sleeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from harness.backend.loop import Loop
from harness.bus.features import Notification
from harness.host.errors import GuestError, HarnessError
from tests.unit.linkends import Ends, ends_of_a_link


class Done(Exception):
    """Ends the loop."""


class Script:
    """A worker that does what it is told, call by call, and then ends the loop."""

    def __init__(
        self,
        *work: bool | Exception,
        arm: Callable[[], bool] = lambda: False,
        notification: Notification = Notification.ADAPTIVE,
    ) -> None:
        self.notification = notification
        self._work = iter(work)
        self._arm = arm
        self.calls: list[str] = []

    def work(self) -> bool:
        self.calls.append("work")
        result = next(self._work, Done())
        if isinstance(result, Exception):
            raise result
        return result

    def arm(self) -> bool:
        self.calls.append("arm")
        return self._arm()


def unexpected(error: HarnessError) -> None:
    raise error


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as ends:
        yield ends


def run(loop: Loop, *workers: Script) -> None:
    for worker in workers:
        loop.add(worker, unexpected)
    with pytest.raises(Done):
        loop.run()


def test_it_works_for_as_long_as_there_is_work_then_arms_then_sleeps(ends: Ends) -> None:
    worker = Script(True, True, True, False)
    run(Loop(ends.backend.events), worker)
    assert worker.calls == ["work"] * 4 + ["arm"] + ["work"]


def test_work_that_arming_finds_is_done_without_sleeping(ends: Ends) -> None:
    found = iter([True, True, False])
    worker = Script(False, False, False, arm=lambda: next(found))
    run(Loop(ends.backend.events), worker)
    assert worker.calls == ["work", "arm"] * 3 + ["work"]


def test_a_notification_that_got_lost_is_made_up_for(ends: Ends) -> None:
    """Nothing rings, but the rings are looked at again after going to sleep."""
    worker = Script(False, False, True, False)
    run(Loop(ends.backend.events), worker)
    assert worker.calls.count("work") == 5


def test_a_doorbell_ends_a_sleep(ends: Ends) -> None:
    port = ends.guest.events.alloc_unbound()
    ours = ends.backend.events.bind_interdomain(port)
    loop = Loop(ends.backend.events)

    def ring() -> bool:
        ends.guest.events.send(port)
        return False

    # Without the doorbells the third sleep would never end.
    worker = Script(*[False] * 10, arm=ring)
    run(loop, worker)
    assert ends.backend.events.pending() in ([], [ours])


def test_a_descriptor_that_is_readable_is_called_back(ends: Ends) -> None:
    loop = Loop(ends.backend.events)
    reader, writer = os.pipe()

    def read() -> None:
        raise Done(os.read(reader, 1))

    loop.watch(reader, read)
    os.write(writer, b"!")
    with pytest.raises(Done, match="!"):
        loop.run()
    loop.forget(reader)
    os.close(reader)
    os.close(writer)


def test_descriptors_are_looked_at_while_there_is_work(ends: Ends) -> None:
    loop = Loop(ends.backend.events)
    reader, writer = os.pipe()

    def read() -> None:
        raise Done

    loop.watch(reader, read)
    os.write(writer, b"!")
    worker = Script(*[True] * 1000)
    run(loop, worker)
    assert len(worker.calls) < 1000
    os.close(reader)
    os.close(writer)


def test_a_worker_that_fails_may_take_others_along(ends: Ends) -> None:
    loop = Loop(ends.backend.events)
    broken, companion, other = Script(GuestError("broken")), Script(), Script(True, False)
    failures: list[HarnessError] = []

    def failed(error: HarnessError) -> None:
        failures.append(error)
        loop.remove(broken)
        loop.remove(companion)

    loop.add(broken, failed)
    loop.add(companion, failed)
    run(loop, other)
    assert [str(error) for error in failures] == ["broken"]
    assert (len(broken.calls), companion.calls) == (1, [])
    assert other.calls.count("work") == 3
