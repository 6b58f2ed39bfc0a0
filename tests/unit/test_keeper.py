"""A process that is replaced when it dies, and the locks that each of them holds."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from harness.backend import keeper
from harness.backend.keeper import Keeper
from harness.backend.locks import LockSender
from harness.host.errors import HostError
from harness.host.process import Child, spawn
from tests.unit.test_process import wait_for_end

SECONDS = 20.0


class Helper:
    """Starts processes that do nothing, and notes those that took another one's place."""

    def __init__(self, log: Path, script: str = "exec sleep 600") -> None:
        self.log = log
        self.script = script
        self.restarted: list[int] = []
        self.changed = threading.Semaphore(0)

    def start(self) -> Child:
        return spawn("the helper", ["sh", "-c", self.script], log=self.log)

    def note(self, child: Child) -> None:
        self.restarted.append(child.pid)
        self.changed.release()


@pytest.fixture
def helper(tmp_path: Path) -> Helper:
    return Helper(tmp_path / "log")


def test_a_process_that_dies_is_replaced(helper: Helper) -> None:
    with closing(Keeper(helper.start, helper.note)) as kept:
        pids = [kept.first.pid]
        for _ in range(3):
            os.kill(pids[-1], signal.SIGKILL)
            assert helper.changed.acquire(timeout=SECONDS)
            pids.append(helper.restarted[-1])
        assert len(set(pids)) == 4
        assert not kept.failure.done()
    for pid in pids:
        assert wait_for_end(pid)


def test_a_process_that_dies_at_once_is_given_up(helper: Helper) -> None:
    helper.script = "echo ouch; exit 3"
    with closing(Keeper(helper.start, helper.note)) as kept:
        error = kept.failure.result(SECONDS)
    assert len(helper.restarted) == keeper.DEATHS
    assert isinstance(error, HostError)
    for words in ("the helper ended unexpectedly", "exit status 3", "ouch", str(helper.log)):
        assert words in str(error)


def test_a_process_that_dies_now_and_then_is_not_given_up(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "WITHIN_SECONDS", 0.0)
    with closing(Keeper(helper.start, helper.note)) as kept:
        pid = kept.first.pid
        for _ in range(keeper.DEATHS + 3):
            os.kill(pid, signal.SIGKILL)
            assert helper.changed.acquire(timeout=SECONDS)
            pid = helper.restarted[-1]
        assert not kept.failure.done()


def test_a_process_that_cannot_be_started_is_its_makers_error(helper: Helper) -> None:
    def fail() -> Child:
        raise HostError("no room")

    with pytest.raises(HostError, match="no room"):
        Keeper(fail, helper.note)


def test_a_successor_that_cannot_be_started_is_a_failure(helper: Helper) -> None:
    children = iter([helper.start])

    def start() -> Child:
        for child in children:
            return child()
        raise HostError("no room")

    with closing(Keeper(start, helper.note)) as kept:
        os.kill(kept.first.pid, signal.SIGKILL)
        assert "no room" in str(kept.failure.result(SECONDS))


HOLDER = """
import sys
from harness.backend.locks import Locks
locks = Locks(int(sys.argv[1]), lambda word, descriptor: None)
import select
while True:
    select.select([locks], [], [])
    if not locks.receive():
        break
"""


@contextmanager
def holder(sender: LockSender, log: Path) -> Iterator[Child]:
    """A process that holds what it is sent."""
    child = spawn(
        "the holder",
        [sys.executable, "-c", HOLDER, str(sender.theirs.fileno())],
        log=log,
        pass_fds=[sender.theirs.fileno()],
    )
    sender.theirs.close()
    try:
        yield child
    finally:
        child.kill()


def locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_lock_lasts_as_long_as_the_process_and_no_longer_than_wanted(tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a", "b")]
    with closing(LockSender()) as sender:
        for image in images:
            image.touch()
            descriptor = os.open(image, os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Before there is a process, and as its owner does: it has the lock, and may die.
            sender.hold(str(image), [descriptor])
            os.close(descriptor)
            assert locked(image)
        with holder(sender, tmp_path / "log") as child:
            sender.release(str(images[0]))
            assert [locked(image) for image in images] == [False, True], child.output_tail()
            # What it does not hold, it releases as well.
            sender.release("nothing")
        assert not locked(images[1])
        # With nobody there is nothing to release.
        sender.release(str(images[1]))
